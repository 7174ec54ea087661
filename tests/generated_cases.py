"""Conversations made up at random, under many tokenizers and chat templates, and which of their
tokens should be trained.

What should be trained is worked out without the project's code and without Jinja: ``FORMATS``
writes a conversation in plain Python as pieces of text, each trained or not; the tokenizer's own
character offsets over the whole text say which tokens these are.
"""

import csv
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Turn = dict[str, Any]
Pieces = list[tuple[str, bool]]

# --------------------------------------------------------------------------------------- tokenizers
WORDS = [
    "the",
    "kettle",
    "lantern",
    "bicycle",
    "left",
    "in",
    "attic",
    "harbour",
    "garage",
    "Oskar",
    "Marta",
    "where",
    "did",
    "it",
    "go",
    "back",
    "again",
    "number",
    "one",
    "two",
    "three",
]
UNICODE = [
    "Zürich",
    "naïve café",
    "日本語のテキスト",
    "🙂🙃",
    "Привет мир",
    "عربي",
    "e\u0301le\u0300ve",
    "½ ≈ 0.5",
    "a\u00a0b",
    "한국어",
]
CODE = [
    "def f(x):\n    return x + 1",
    'print("hi")\n\n# done',
    "SELECT *\nFROM t;",
    '{"a": [1, 2, {"b": null}]}',
    "a\tb\n\tc",
    "x  =  3",
]
END, BEGIN = "<|end|>", "<|begin|>"
SPECIAL = [BEGIN, END, "<|user|>", "<|system|>", "<|assistant|>", "<|tool|>", "<think>", "</think>"]


def corpus() -> list[str]:
    """Texts that tokenizers are trained on."""
    chosen = random.Random(0)
    lines = [
        " ".join(chosen.choices(WORDS, k=8)) + chosen.choice([".", "?", "!\n", "\n\n"])
        for _ in range(400)
    ]
    return lines + UNICODE * 5 + CODE * 5


def byte_level(regex: str | None = None) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    raw = Tokenizer(models.BPE())
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex is None)
    split = [pre_tokenizers.Split(Regex(regex), "isolated")] if regex else []
    raw.pre_tokenizer = pre_tokenizers.Sequence([*split, plain])
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        corpus(),
        trainers.BpeTrainer(
            vocab_size=700, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return raw


def sentencepiece(scheme: str) -> Any:
    """As converted from SentencePiece:

    Metaspace that prepends ``first`` or ``always``, or the ``legacy`` Prepend and Replace.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    raw = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement="\u2581", prepend_scheme="first", split=True
    )
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=["<unk>", *SPECIAL, *fallback], show_progress=False
    )
    raw.train_from_iterator([text.replace("\n", " ") for text in corpus()], trainer)
    state = json.loads(raw.to_str())
    state["added_tokens"] = [
        token for token in state["added_tokens"] if token["content"] not in fallback
    ]
    if scheme == "legacy":
        state["pre_tokenizer"] = None
        replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
        state["normalizer"] = {
            "type": "Sequence",
            "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, replace],
        }
    else:
        state["pre_tokenizer"] = {
            "type": "Metaspace",
            "replacement": "\u2581",
            "prepend_scheme": scheme,
            "split": False,
        }
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    words = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}
    state["decoder"] = {
        "type": "Sequence",
        "decoders": [words, {"type": "ByteFallback"}, {"type": "Fuse"}, strip],
    }
    return Tokenizer.from_str(json.dumps(state))


LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TOKENIZERS: dict[str, Callable[[], Any]] = {
    "byte level": byte_level,
    "byte level, Llama 3": lambda: byte_level(LLAMA3),
    "SentencePiece, first": lambda: sentencepiece("first"),
    "SentencePiece, always": lambda: sentencepiece("always"),
    "SentencePiece, legacy": lambda: sentencepiece("legacy"),
}


def tokenizer(kind: str, *, adds_begin: bool) -> Any:
    """A tokenizer without a chat template."""
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    raw = TOKENIZERS[kind]()
    if adds_begin:
        raw.post_processor = TemplateProcessing(
            single=f"{BEGIN} $A", special_tokens=[(BEGIN, raw.token_to_id(BEGIN))]
        )
    names = {"bos_token": BEGIN, "eos_token": END, "pad_token": BEGIN}
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, clean_up_tokenization_spaces=False, **names
    )


# ----------------------------------------------------------------------------------- chat templates
@dataclass(frozen=True)
class Format:
    """One chat template, in Jinja and in Python."""

    jinja: str
    # pieces of the conversation; answers and their ends are trained
    write: Callable[[list[Turn], list[Any]], Pieces]
    system: bool = True
    tools: bool = False
    thoughts: bool = False
    rewrites: bool = False  # what it writes for a turn depends on whether later ones follow
    begin: bool = False  # writes begin-of-text itself

    def pieces(self, turns: list[Turn], tools: list[Any]) -> Pieces:
        return ([(BEGIN, False)] if self.begin else []) + self.write(turns, tools)


def _header(open_: str, close: str, after: str) -> Callable[[list[Turn], list[Any]], Pieces]:
    def write(turns: list[Turn], tools: list[Any]) -> Pieces:
        pieces: Pieces = []
        for turn in turns:
            answer = turn["role"] == "assistant"
            pieces += [
                (open_.format(turn["role"]), False),
                (turn["content"] + close, answer),
                (after, False),
            ]
        return pieces

    return write


def _inst(turns: list[Turn], tools: list[Any]) -> Pieces:
    pieces: Pieces = []
    for turn in turns:
        if turn["role"] == "assistant":
            pieces.append((" " + turn["content"] + END, True))
        else:
            pieces.append(("[INST] " + turn["content"] + " [/INST]", False))
    return pieces


def _plain(turns: list[Turn], tools: list[Any]) -> Pieces:
    pieces: Pieces = []
    for turn in turns:
        answer = turn["role"] == "assistant"
        pieces += (
            [(turn["content"] + END, True), ("\n", False)]
            if answer
            else [(turn["content"].strip() + "\n", False)]
        )
    return pieces


def _alpaca(turns: list[Turn], tools: list[Any]) -> Pieces:
    names = {"system": "### System", "user": "### Instruction", "assistant": "### Response"}
    pieces: Pieces = []
    for turn in turns:
        answer = turn["role"] == "assistant"
        pieces += [
            (names[turn["role"]] + ":\n", False),
            (turn["content"] + (END if answer else ""), answer),
            ("\n\n", False),
        ]
    return pieces


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _calls(turn: Turn) -> str:
    told = [
        {"name": c["function"]["name"], "arguments": c["function"]["arguments"]}
        for c in turn.get("tool_calls", [])
    ]
    return "".join(f"\n<call>{_as_json(call)}</call>" for call in told)


def _agent(turns: list[Turn], tools: list[Any]) -> Pieces:
    """ChatML with tools, calls and thoughts, all of which stay in the history."""
    pieces: Pieces = (
        [("<|system|>\nTools: " + _as_json(tools) + END + "\n", False)] if tools else []
    )
    for turn in turns:
        answer = turn["role"] == "assistant"
        thoughts = (
            f"<think>\n{turn['reasoning_content']}\n</think>\n\n"
            if turn.get("reasoning_content")
            else ""
        )
        text = thoughts + turn["content"] + (_calls(turn) if answer else "") + END
        pieces += [(f"<|{turn['role']}|>\n", False), (text, answer), ("\n", False)]
    return pieces


def _thinker(turns: list[Turn], tools: list[Any]) -> Pieces:
    """As ``_agent``, but thoughts are written (if only as an empty block) in the last turn and
    nowhere else.
    """
    pieces: Pieces = (
        [("<|system|>\nTools: " + _as_json(tools) + END + "\n", False)] if tools else []
    )
    for number, turn in enumerate(turns):
        answer = turn["role"] == "assistant"
        last = answer and number == len(turns) - 1
        thoughts = f"<think>\n{turn.get('reasoning_content', '')}\n</think>\n\n" if last else ""
        text = thoughts + turn["content"] + (_calls(turn) if answer else "") + END
        pieces += [(f"<|{turn['role']}|>\n", False), (text, answer), ("\n", False)]
    return pieces


_EVERY = "{% for m in messages %}"
_TOOLS = (
    "{% if tools %}{{ '<|system|>\nTools: ' + (tools | tojson) + eos_token + '\n' }}{% endif %}"
)
_CALL = (
    "{% for c in m.tool_calls or [] %}{{ '\n<call>' + ({'name': c.function.name, 'arguments':"
    " c.function.arguments} | tojson) + '</call>' }}{% endfor %}"
)
_ASK = "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
_TURN = "{{ '<|' + m.role + '|>\n' }}"
FORMATS = {
    "ChatML": Format(
        _EVERY + _TURN + "{{ m.content + eos_token + '\n' }}{% endfor %}" + _ASK,
        _header("<|{}|>\n", END, "\n"),
    ),
    "no line break": Format(
        "{{ bos_token }}"
        + _EVERY
        + "{{ '<|' + m.role + '|>' + m.content + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
        _header("<|{}|>", END, ""),
        begin=True,
    ),
    "two line breaks": Format(
        "{{ bos_token }}"
        + _EVERY
        + "{{ '<|' + m.role + '|>\n\n' + m.content + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n\n' }}{% endif %}",
        _header("<|{}|>\n\n", END, ""),
        begin=True,
    ),
    "INST": Format(
        "{{ bos_token }}"
        + _EVERY
        + "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
        "{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}"
        "{% else %}{{ raise_exception('no system') }}{% endif %}{% endfor %}",
        _inst,
        system=False,
        begin=True,
    ),
    "plain": Format("plain", _plain),
    "Alpaca": Format(
        _EVERY + "{{ {'system': '### System', 'user': '### Instruction', 'assistant': '###"
        " Response'}[m.role] + ':\n' + m.content }}{% if m.role == 'assistant' %}{{ eos_token"
        " }}{% endif %}{{ '\n\n' }}{% endfor %}{% if add_generation_prompt %}{{ '### Response:\n'"
        " }}{% endif %}",
        _alpaca,
    ),
    "agent": Format(
        _TOOLS
        + _EVERY
        + _TURN
        + "{% if m.reasoning_content %}{{ '<think>\n' + m.reasoning_content + '\n</think>\n\n' }}{%"
        " endif %}{{ m.content }}{% if m.role == 'assistant' %}"
        + _CALL
        + "{% endif %}{{ eos_token + '\n' }}{% endfor %}"
        + _ASK,
        _agent,
        tools=True,
        thoughts=True,
    ),
    "thinker": Format(
        _TOOLS
        + _EVERY
        + _TURN
        + "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n' + (m.reasoning_content or '')"
        " + '\n</think>\n\n' }}{% endif %}{{ m.content }}{% if m.role == 'assistant' %}"
        + _CALL
        + "{% endif %}{{ eos_token + '\n' }}{% endfor %}"
        + _ASK,
        _thinker,
        tools=True,
        thoughts=True,
        rewrites=True,
    ),
}


# ------------------------------------------------------------------------------------ conversations
@dataclass
class Case:
    """One conversation in one file under one tokenizer and template."""

    tokenizer: str
    adds_begin: bool
    format: str
    layout: str  # of the file
    train_on: str
    turns: list[Turn]
    tools: list[Any] = field(default_factory=list)
    invalid: str = ""  # why it must be refused

    def __str__(self) -> str:
        return (
            f"{self.tokenizer}, {self.format}, {self.layout}, train_on={self.train_on}:"
            f" {self.turns} {self.tools}"
        )


def cases(count: int, seed: int) -> Iterator[Case]:
    chosen = random.Random(seed)
    for _ in range(count):
        yield _case(chosen)


def _text(chosen: random.Random, *, edges: bool = True) -> str:
    kind = chosen.random()
    text = " ".join(chosen.choices(WORDS, k=chosen.randint(1, 9))).capitalize() + chosen.choice(
        [".", "?", "!", "", " 42", ": yes"]
    )
    if kind < 0.2:
        text = chosen.choice(UNICODE) + chosen.choice(["", " " + text])
    elif kind < 0.35:
        text = chosen.choice(CODE) + chosen.choice(["", "\n" + text])
    elif kind < 0.4:
        text = text + "\n\n" + text
    if edges and chosen.random() < 0.02:
        text = chosen.choice([" ", "\n"]) + text
    if edges and chosen.random() < 0.02:
        text += chosen.choice([" ", "\n"])
    return text


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"To {name}",
            "parameters": {"type": "object", "properties": keys},
        },
    }
    for name, keys in {
        "find": {"what": {"type": "string"}, "room": {"type": "string"}},
        "count": {"of": {"type": "string"}},
    }.items()
]


def _call(chosen: random.Random, number: int) -> dict[str, Any]:
    arguments = (
        {"what": _text(chosen), **chosen.choice([{"room": "attic"}, {}])}
        if chosen.random() < 0.6
        else {"of": _text(chosen)}
    )
    name = "find" if "what" in arguments else "count"
    return {
        "id": f"call{number}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _case(chosen: random.Random) -> Case:
    name = chosen.choice(list(FORMATS))
    form = FORMATS[name]
    layout = chosen.choice(
        [
            "messages.jsonl",
            "messages.json",
            "messages.parquet",
            "typed.parquet",
            "sharegpt.jsonl",
            "pairs.csv",
            "pairs.jsonl",
        ]
    )
    several = not layout.startswith("pairs")
    turns: list[Turn] = (
        [{"role": "system", "content": _text(chosen)}]
        if form.system and chosen.random() < 0.5
        else []
    )
    tools = (
        TOOLS
        if form.tools and several and layout != "sharegpt.jsonl" and chosen.random() < 0.6
        else []
    )
    for number in range(chosen.randint(1, 4) if several else 1):
        turns.append({"role": "user", "content": _text(chosen)})
        if tools and chosen.random() < 0.5:
            calls = [_call(chosen, 10 * number + i) for i in range(chosen.randint(1, 3))]
            if (
                layout != "typed.parquet"
                and "what" in calls[0]["function"]["arguments"]
                and chosen.random() < 0.3
            ):
                calls[0]["function"]["arguments"]["room"] = (
                    None  # which a typed column cannot tell from nothing
                )
            turns.append(
                {
                    "role": "assistant",
                    "content": chosen.choice(["", _text(chosen, edges=False)]),
                    "tool_calls": calls,
                }
            )
            turns += [
                {"role": "tool", "content": _text(chosen), "tool_call_id": call["id"]}
                for call in calls
            ]
        answer: Turn = {"role": "assistant", "content": _text(chosen)}
        if form.thoughts and several and layout != "sharegpt.jsonl" and chosen.random() < 0.4:
            answer["reasoning_content"] = _text(chosen, edges=False)
        turns.append(answer)
    train_on = chosen.choice(["all", "last", "each"])
    case = Case(
        chosen.choice(list(TOKENIZERS)), chosen.random() < 0.5, name, layout, train_on, turns, tools
    )
    answers = [turn for turn in turns if turn["role"] == "assistant"]
    if form.rewrites and train_on == "all" and len(answers) > 1:
        case.invalid = "the template rewrites earlier turns"
    elif chosen.random() < 0.03:
        answers[-1]["content"] = ""
        case.invalid = "the answer is empty"
    return case


def write(case: Case, folder: Path) -> Path:
    """The file of a case."""
    path = folder / case.layout
    kind = case.layout.partition(".")[0]
    if kind == "pairs":
        record = {turn["role"]: turn["content"] for turn in case.turns}
        record = {
            "prompt": record["user"],
            "completion": record["assistant"],
            **({"system": record["system"]} if "system" in record else {}),
        }
    elif kind == "sharegpt":
        names = {
            "user": ("human", "Human", "user")[len(case.turns) % 3],
            "assistant": ("gpt", "chatgpt", "bot")[len(case.turns) % 3],
        }
        record = {
            "conversations": [
                {"from": names.get(t["role"], t["role"]), "value": t["content"]} for t in case.turns
            ]
        }
    else:
        record = {"messages": case.turns, **({"tools": case.tools} if case.tools else {})}
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(record))
            writer.writeheader()
            writer.writerow(record)
    elif path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        # As typed columns, every call has the arguments of all calls, and every turn the
        # keys of all turns.
        rows = [
            (
                record
                if kind == "typed"
                else {name: json.dumps(value, ensure_ascii=False) for name, value in record.items()}
            )
        ]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text(
            json.dumps([record] if path.suffix == ".json" else record, ensure_ascii=False) + "\n",
            "utf-8",
        )
    return path


# ------------------------------------------------------------------------------------------- oracle
@dataclass(frozen=True)
class Wanted:
    """The tokens of one example:

    ``ids``, the loss mask over them, and where its trained texts stand.
    """

    ids: list[int]
    loss_mask: list[bool]
    text: str
    starts: list[int]  # characters at which a trained text begins
    joined: bool  # up to one of these, the text alone is not cut as it is within the whole


def wanted(case: Case, tok: Any) -> list[Wanted]:
    """Return what should be trained, one entry for each example."""
    form = FORMATS[case.format]
    answers = [i for i, turn in enumerate(case.turns) if turn["role"] == "assistant"]
    examples = [case.turns[: i + 1] for i in answers] if case.train_on == "each" else [case.turns]
    begin = form.jinja == "plain" and case.adds_begin
    return [
        _example(
            ([(BEGIN, False)] if begin else []) + form.pieces(t, case.tools),
            case.train_on != "all",
            tok,
        )
        for t in examples
    ]


def _example(pieces: Pieces, last_only: bool, tok: Any) -> Wanted:
    text, regions = "", []
    for piece, is_trained in pieces:
        if is_trained:
            regions.append((len(text), len(text) + len(piece)))
        text += piece
    regions = regions[-1:] if last_only else regions
    encoded = tok(text, add_special_tokens=False, return_offsets_mapping=True)
    offsets = encoded["offset_mapping"]
    loss_mask = [
        any(start < stop and end > begin for begin, stop in regions) for start, end in offsets
    ]
    alone = [tok(text[:begin], add_special_tokens=False)["input_ids"] for begin, _ in regions]
    joined = any(encoded["input_ids"][: len(ids)] != ids for ids in alone)
    length = max(i for i, is_target in enumerate(loss_mask) if is_target) + 1
    return Wanted(
        encoded["input_ids"][:length],
        loss_mask[:length],
        text[: regions[-1][1]],
        [begin for begin, _ in regions],
        joined,
    )
