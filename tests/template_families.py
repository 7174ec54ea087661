"""Chat templates of real families, and conversations with and without tools."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.data.encoding.errors import Defect
from hydratune.data.rows import Message, Row

FOLDER = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Family:
    """The special tokens of a family's tokenizer, and what its template does."""

    specials: tuple[str, ...]
    ends: tuple[str, ...]  # as in the generation config; the first is the end of an ordinary answer
    bos: str | None = None
    eos: str | None = None  # where it is not the end of an answer
    preamble: str = ""  # before the last answer
    call: str = ""  # how the call of TOOL_TALKS is written, with the turn end
    # conversations whose earlier turns are rewritten, so only the last can be trained
    moves: frozenset[str] = frozenset()
    refuses: dict[str, Defect] = field(default_factory=dict)


QWEN_CALL = (
    '<think>\n\n</think>\n\n<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich",'
    ' "days": 2}}\n</tool_call><|im_end|>'
)
MISTRAL_CALL = (
    '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Zürich", "days": 2}, "id":'
    ' "call00001"}]</s>'
)
FAMILIES = {
    "chatml": Family(("<|im_start|>", "<|im_end|>"), ("<|im_end|>",)),
    "llama3": Family(
        (
            "<|begin_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eot_id|>",
            "<|eom_id|>",
            "<|python_tag|>",
        ),
        ("<|eot_id|>", "<|eom_id|>"),
        bos="<|begin_of_text|>",
        call='{"name": "weather", "parameters": {"city": "Zürich", "days": 2}}<|eot_id|>',
    ),
    "mistral": Family(
        (
            "<s>",
            "</s>",
            "[INST]",
            "[/INST]",
            "[AVAILABLE_TOOLS]",
            "[/AVAILABLE_TOOLS]",
            "[TOOL_CALLS]",
            "[TOOL_RESULTS]",
            "[/TOOL_RESULTS]",
        ),
        ("</s>",),
        bos="<s>",
        preamble=" ",
        call=MISTRAL_CALL,
        moves=frozenset({"system, several turns", "tools, another question"}),
    ),
    "gemma": Family(
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        ("<end_of_turn>", "<eos>"),
        bos="<bos>",
        eos="<eos>",
    ),
    "qwen3": Family(
        (
            "<|im_start|>",
            "<|im_end|>",
            "<think>",
            "</think>",
            "<tool_call>",
            "</tool_call>",
            "<tool_response>",
            "</tool_response>",
        ),
        ("<|im_end|>",),
        preamble="<think>\n\n</think>\n\n",
        call=QWEN_CALL,
        moves=frozenset(
            {"several turns", "system, several turns", "tools", "tools, another question"}
        ),
    ),
    "phi3": Family(
        ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"),
        ("<|end|>", "<|assistant|>", "<|endoftext|>"),
        eos="<|endoftext|>",
    ),
    "phi4": Family(("<|im_start|>", "<|im_sep|>", "<|im_end|>"), ("<|im_end|>",)),
}
WITH_TOOLS = [name for name, family in FAMILIES.items() if family.call]
TOOLS = (
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of the coming days",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            },
        },
    },
)
CALL = {
    "id": "call00001",
    "type": "function",
    "function": {"name": "weather", "arguments": {"city": "Zürich", "days": 2}},
}
SYSTEM = Message("system", "You are terse.")
FIRST = (
    Message("user", "What is the capital of France?"),
    Message("assistant", "Paris, since 987."),
)
SECOND = (Message("user", "And of the Kingdom of Spain?"), Message("assistant", "Madrid"))
TOOL_TURNS = (
    Message("user", "Will it rain in Zürich?"),
    Message("assistant", "", tool_calls=(CALL,)),
    Message("tool", '{"rain": true}', tool_call_id="call00001", name="weather"),
)
TALKS = {
    "one turn": Row("one", FIRST),
    "several turns": Row("several", (*FIRST, *SECOND)),
    "system": Row("system", (SYSTEM, *FIRST)),
    "system, several turns": Row("system-several", (SYSTEM, *FIRST, *SECOND)),
}
TOOL_TALKS = {
    "tools, last turn is a call": Row("call", (SYSTEM, *TOOL_TURNS[:2]), tools=TOOLS),
    "tools": Row("tools", (*TOOL_TURNS, Message("assistant", "Yes, take a coat.")), tools=TOOLS),
    "tools, another question": Row(
        "again", (*TOOL_TURNS, Message("assistant", "Yes, take a coat."), *SECOND), tools=TOOLS
    ),
}
THINKING = Row("thinking", (FIRST[0], replace(FIRST[1], reasoning="They asked for France.")))
Build = Callable[..., ChatEncoder]


def family_encoder(
    toy_tokenizer: Any, name: str, change: Callable[[str], str] = lambda text: text
) -> ChatEncoder:
    """Return an encoder with the toy vocabulary and a family's special tokens, template and turn
    ends.
    """
    from tokenizers import AddedToken

    family = FAMILIES[name]
    tokenizer = copy.deepcopy(toy_tokenizer)
    tokenizer.add_tokens(
        [AddedToken(token, special=True, normalized=False) for token in family.specials]
    )
    tokenizer.bos_token, tokenizer.eos_token = family.bos, family.eos or family.ends[0]
    template = (FOLDER / f"{name}.jinja").read_text("utf-8")
    tokenizer.chat_template = change(template)
    # otherwise no defect was planted
    assert change("x") == "x" or tokenizer.chat_template != template
    return ChatEncoder(tokenizer, frozenset(tokenizer.convert_tokens_to_ids(list(family.ends))))
