"""The mask under the chat templates of real families, and every way in which a template can spoil
it.
"""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from conftest import SMALL, write_rows
from hydratune.data.encoding.encoded import Encoded
from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.data.encoding.errors import Defect, MaskError
from hydratune.data.mask_check import check_masks, trained_spans
from hydratune.data.rows import Message, Row, stable_hash
from hydratune.settings.data import TrainOn

FOLDER = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Family:
    """What the tokenizer of a family has, and what its template is known to do."""

    specials: tuple[str, ...]
    ends: tuple[str, ...]  # as in the generation config; the first is the end of an ordinary answer
    bos: str | None = None
    eos: str | None = None  # where it is not the end of an answer
    preamble: str = ""  # before the last answer
    call: str = ""  # how the call of TOOLS_TALK is written, with the turn end
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
NO_TOOLS = [name for name in FAMILIES if name not in WITH_TOOLS]
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
ASKED = (
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
    "tools, last turn is a call": Row("call", (SYSTEM, *ASKED[:2]), tools=TOOLS),
    "tools": Row("tools", (*ASKED, Message("assistant", "Yes, take a coat.")), tools=TOOLS),
    "tools, another question": Row(
        "again", (*ASKED, Message("assistant", "Yes, take a coat."), *SECOND), tools=TOOLS
    ),
}
THINKING = Row("thinking", (FIRST[0], replace(FIRST[1], reasoning="They asked for France.")))
Build = Callable[..., ChatEncoder]


@pytest.fixture
def build(tiny: tuple[Any, Any, Any]) -> Build:
    """An encoder for a family: the toy vocabulary with the family's special tokens, template and
    turn ends.
    """

    def encoder(name: str, change: Callable[[str], str] = lambda text: text) -> ChatEncoder:
        from tokenizers import AddedToken

        family = FAMILIES[name]
        tokenizer = copy.deepcopy(tiny[2])
        tokenizer.add_tokens(
            [AddedToken(token, special=True, normalized=False) for token in family.specials]
        )
        tokenizer.bos_token, tokenizer.eos_token = family.bos, family.eos or family.ends[0]
        template = (FOLDER / f"{name}.jinja").read_text("utf-8")
        tokenizer.chat_template = change(template)
        assert change("x") == "x" or tokenizer.chat_template != template  # else nothing was planted
        return ChatEncoder(tokenizer, frozenset(tokenizer.convert_tokens_to_ids(list(family.ends))))

    return encoder


def trained_texts(encoder: ChatEncoder, example: Encoded) -> list[str]:
    return [
        encoder.decode(example.ids[start:end]) for start, end in trained_spans(example.loss_mask)
    ]


def prompts_are_those_of_inference(encoder: ChatEncoder, row: Row, example: Encoded) -> bool:
    spans = trained_spans(example.loss_mask)
    turns = [i for i, m in enumerate(row.messages) if m.role == "assistant"][-len(spans) :]
    return all(
        list(example.ids[:start]) == encoder.prompt_tokens(row.messages[:turn], row.tools)
        for (start, _), turn in zip(spans, turns, strict=True)
    )


@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize("name", FAMILIES)
def test_exactly_the_answers_and_their_turn_ends_are_trained(
    build: Build, name: str, talk: str
) -> None:
    encoder, family, row = build(name), FAMILIES[name], TALKS[talk]
    answers = [
        family.preamble + m.content + family.ends[0] for m in row.messages if m.role == "assistant"
    ]
    train_on = TrainOn.last if talk in family.moves else TrainOn.all
    example = encoder.encode(row, train_on)
    assert trained_texts(encoder, example) == (
        answers[-1:] if train_on is TrainOn.last else answers
    )
    assert prompts_are_those_of_inference(encoder, row, example)
    check_masks(encoder, [row], [example])


@pytest.mark.parametrize("name", WITH_TOOLS)
@pytest.mark.parametrize("talk", TOOL_TALKS)
def test_calls_are_trained_and_what_tools_return_is_not(build: Build, name: str, talk: str) -> None:
    encoder, family, row = build(name), FAMILIES[name], TOOL_TALKS[talk]
    written = [
        family.call if m.tool_calls else family.preamble + m.content + family.ends[0]
        for m in row.messages
        if m.role == "assistant"
    ]
    train_on = TrainOn.last if talk in family.moves else TrainOn.all
    example = encoder.encode(row, train_on)
    assert trained_texts(encoder, example) == (
        written[-1:] if train_on is TrainOn.last else written
    )
    assert prompts_are_those_of_inference(encoder, row, example)
    # the tools are shown
    assert '"weather"' in encoder.decode(example.ids[: example.loss_mask.index(True)])
    check_masks(encoder, [row], [example])


@pytest.mark.parametrize(
    ("name", "talk"),
    [(name, talk) for name, family in FAMILIES.items() for talk in sorted(family.moves)],
)
def test_template_that_moves_or_drops_earlier_text_needs_train_on_last(
    build: Build, name: str, talk: str
) -> None:
    row = {**TALKS, **TOOL_TALKS}[talk]
    with pytest.raises(MaskError, match=r"data\.train_on=last") as caught:
        build(name).encode(row)
    assert caught.value.defect is (
        Defect.thinking_dropped if name == "qwen3" else Defect.history_rewritten
    )


@pytest.mark.parametrize("name", WITH_TOOLS)
def test_reference_of_a_call_is_the_call_as_written(build: Build, name: str) -> None:
    encoder, family = build(name), FAMILIES[name]
    wanted = family.call.removeprefix(family.preamble).removesuffix(family.ends[0])
    assert encoder.reference_answer(TOOL_TALKS["tools, last turn is a call"]) == wanted
    assert encoder.reference_answer(TALKS["one turn"]) == "Paris, since 987."


def test_builtin_tools_of_llama_end_with_their_own_token(build: Build) -> None:
    call = {
        "type": "function",
        "function": {"name": "brave_search", "arguments": {"query": "rain"}},
    }
    row = Row("search", (ASKED[0], Message("assistant", "", tool_calls=(call,))), tools=TOOLS)
    encoder = build("llama3")
    assert trained_texts(encoder, encoder.encode(row)) == [
        '<|python_tag|>brave_search.call(query="rain")<|eom_id|>'
    ]


def test_thinking_of_the_last_turn_is_trained(build: Build) -> None:
    encoder = build("qwen3")
    example = encoder.encode(THINKING)
    assert trained_texts(encoder, example) == [
        "<think>\nThey asked for France.\n</think>\n\nParis, since 987.<|im_end|>"
    ]
    assert encoder.decode(example.ids[: example.loss_mask.index(True)]).endswith(
        "<|im_start|>assistant\n"
    )
    check_masks(encoder, [THINKING], [example])


def test_thinking_before_a_call_stays_while_the_question_is_the_same(build: Build) -> None:
    first = replace(ASKED[1], reasoning="Ask the service.")
    last = Message("assistant", "Yes, take a coat.", reasoning="It will rain.")
    row = Row("agent", (ASKED[0], first, ASKED[2], last), tools=TOOLS)
    encoder = build("qwen3")
    example = encoder.encode(row)
    assert [
        ("Ask the service." in text, "It will rain." in text)
        for text in trained_texts(encoder, example)
    ] == [
        (True, False),
        (False, True),
    ]
    check_masks(encoder, [row], [example])


def test_earlier_thinking_is_dropped_so_only_the_last_turn_can_be_trained(build: Build) -> None:
    encoder, row = build("qwen3"), Row("chat", (*THINKING.messages, *SECOND))
    with pytest.raises(MaskError, match="drops the thinking of earlier turns") as caught:
        encoder.encode(row)
    assert caught.value.defect is Defect.thinking_dropped
    example = encoder.encode(row, TrainOn.last)
    assert "They asked" not in encoder.decode(example.ids)
    check_masks(encoder, [row], [example])


def test_first_turn_alone_can_be_trained_with_its_thinking(build: Build) -> None:
    """The second turn is context, so nothing is trained after the thinking was dropped."""
    encoder, row = (
        build("qwen3"),
        Row("chat", (*THINKING.messages, SECOND[0], replace(SECOND[1], train=False))),
    )
    example = encoder.encode(row)
    assert trained_texts(encoder, example) == trained_texts(encoder, encoder.encode(THINKING))
    check_masks(encoder, [row], [example])


def test_switched_off_thinking_leaves_the_empty_block_to_the_prompt(build: Build) -> None:
    encoder = build("qwen3", lambda text: "{%- set enable_thinking = false -%}" + text)
    example = encoder.encode(TALKS["one turn"])
    assert trained_texts(encoder, example) == ["Paris, since 987.<|im_end|>"]
    check_masks(encoder, [TALKS["one turn"]], [example])


def test_what_was_thought_is_no_part_of_the_answer_that_is_scored(build: Build) -> None:
    encoder = build("qwen3")
    for row in (THINKING, TALKS["one turn"]):
        assert encoder.extract_answer(row, "<think>\nOther thoughts.\n</think>\n\nLyon") == "Lyon"
        assert encoder.extract_answer(row, "<think>\n\n</think>\n\nLyon") == "Lyon"
        assert (
            encoder.extract_answer(row, "<think>\nendless thoughts") == "<think>\nendless thoughts"
        )
    assert build("mistral").extract_answer(TALKS["one turn"], " Lyon") == "Lyon"
    assert build("chatml").extract_answer(TALKS["one turn"], "Lyon") == "Lyon"


def test_generation_stops_at_the_first_turn_end_so_nothing_after_it_is_trained(
    build: Build,
) -> None:
    """Phi-3 writes a second end after the last turn."""
    encoder = build("phi3")
    assert encoder.render(FIRST, generation_prompt=False).endswith("<|end|>\n<|endoftext|>")
    example = encoder.encode(TALKS["one turn"])
    assert encoder.decode(example.ids).endswith("Paris, since 987.<|end|>")


@pytest.mark.parametrize("name", FAMILIES)
def test_answer_that_quotes_the_turn_end_is_trained_whole(build: Build, name: str) -> None:
    encoder, family = build(name), FAMILIES[name]
    row = Row("quotes", (FIRST[0], Message("assistant", f"With {family.ends[0]} of course")))
    example = encoder.encode(row)
    assert trained_texts(encoder, example) == [
        f"{family.preamble}With {family.ends[0]} of course{family.ends[0]}"
    ]
    check_masks(encoder, [row], [example])


# ---------------------------------------------------------------------------------- planted defects
def ends_removed(name: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        for end in set(FAMILIES[name].ends) - {"<|assistant|>"}:
            text = text.replace(end, "")
        return text.replace("eos_token", "''")

    return change


def before(prefix: str) -> Callable[[str], Callable[[str], str]]:
    return lambda name: lambda text: prefix + text


def instead(old: str, new: str) -> Callable[[str], Callable[[str], str]]:
    return lambda name: lambda text: text.replace(old, new)


OTHERS = (
    "(message.content if message.role != 'assistant' else messages[0].content + message.content)"
)
COUNTED = "{{- messages | selectattr('role', 'equalto', 'user') | list | length -}}"
PLANTED: dict[Defect, tuple[Callable[[str], Callable[[str], str]], Row, str]] = {
    Defect.turn_end_missing: (
        ends_removed,
        TALKS["one turn"],
        "does not end the assistant's turn with a turn-end token",
    ),
    Defect.prompt_differs: (
        lambda name: (
            lambda text: text + "{%- if add_generation_prompt -%}{{- 'Sure: ' -}}{%- endif -%}"
        ),
        TALKS["one turn"],
        "renders an answer differently from the prompt",
    ),
    Defect.answer_changed: (
        instead("message.content", "(message.content | upper)"),
        TALKS["one turn"],
        "changes the assistant's text",
    ),
    Defect.history_rewritten: (before(COUNTED), TALKS["several turns"], "rewrites earlier turns"),
    Defect.others_trained: (
        instead("message.content", OTHERS),
        TALKS["one turn"],
        "text of a user, system or tool turn is trained",
    ),
    Defect.template_refuses: (
        before("{{- raise_exception('no') -}}"),
        TALKS["one turn"],
        "the chat template refuses this conversation",
    ),
}


@pytest.mark.parametrize(
    ("name", "defect"),
    # which drops thinking first
    [(n, d) for n in FAMILIES for d in PLANTED if (n, d) != ("qwen3", Defect.history_rewritten)],
)
def test_planted_defect_is_caught_by_its_own_message(
    build: Build, name: str, defect: Defect
) -> None:
    plant, row, words = PLANTED[defect]
    row = replace(row, where="f.jsonl:7")
    encoder = build(name, plant(name))
    with pytest.raises(MaskError, match=words) as caught:
        check_masks(encoder, [row], [encoder.encode(row)])
    assert caught.value.defect is defect
    assert str(caught.value).startswith("f.jsonl:7: ")


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.bos])
def test_doubled_begin_of_text_is_caught(build: Build, name: str) -> None:
    encoder, row = build(name, lambda text: "{{- bos_token -}}" + text), TALKS["one turn"]
    with pytest.raises(MaskError, match="begins with two begin-of-text tokens") as caught:
        check_masks(encoder, [row], [encoder.encode(row)])
    assert caught.value.defect is Defect.double_bos


@pytest.mark.parametrize("name", WITH_TOOLS)
@pytest.mark.parametrize(
    ("change", "defect", "words"),
    [
        (before("{%- set tools = none -%}"), Defect.tools_ignored, "ignores the tools of this row"),
        (
            instead("message.tool_calls", "message.nothing"),
            Defect.calls_ignored,
            "leaves out the call to weather",
        ),
    ],
)
def test_template_that_ignores_tools_is_caught(
    build: Build, name: str, change: Any, defect: Defect, words: str
) -> None:
    encoder = build(name, change(name))
    with pytest.raises(MaskError, match=words) as caught:
        encoder.encode(TOOL_TALKS["tools, last turn is a call"])
    assert caught.value.defect is defect


@pytest.mark.parametrize("name", NO_TOOLS)
def test_family_without_tools_refuses_rows_with_them(build: Build, name: str) -> None:
    answered = Row("answered", FIRST, tools=TOOLS)
    with pytest.raises(MaskError) as caught:
        build(name).encode(answered)
    assert caught.value.defect is Defect.tools_ignored
    with pytest.raises(MaskError) as caught:
        build(name).encode(replace(TOOL_TALKS["tools, last turn is a call"], tools=()))
    assert caught.value.defect is Defect.calls_ignored


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "qwen3"])
def test_family_without_thinking_refuses_rows_with_it(build: Build, name: str) -> None:
    with pytest.raises(MaskError, match="leaves out the thinking") as caught:
        build(name).encode(THINKING)
    assert caught.value.defect is Defect.thinking_ignored


def test_gemma_refuses_turns_that_do_not_alternate(build: Build) -> None:
    with pytest.raises(MaskError, match="must alternate") as caught:
        build("gemma").encode(Row("twice", (FIRST[0], *FIRST)))
    assert caught.value.defect is Defect.template_refuses


def test_arguments_that_quote_the_user_are_no_leak(build: Build) -> None:
    """The user's words belong into the call; only a template that repeats the turn is wrong."""
    words = "Will it rain in the old town of Zürich this weekend?"
    call = {
        "type": "function",
        "id": "call00002",
        "function": {"name": "weather", "arguments": {"city": words}},
    }
    row = Row(
        "quoting",
        (Message("user", words), Message("assistant", "", tool_calls=(call,))),
        tools=TOOLS,
    )
    for name in WITH_TOOLS:
        encoder = build(name)
        check_masks(encoder, [row], [encoder.encode(row)])


def test_template_file_of_a_family_trains_calls_and_leaves_few_shot_out(
    hydratune: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    # none nearly like another
    questions = [
        Message("user", f"Will it rain in {stable_hash(i)}, {stable_hash(-i)}?") for i in range(12)
    ]
    rows = [
        {"messages": [m.turn() for m in (SYSTEM, question, ASKED[1])], "tools": TOOLS}
        for question in questions
    ]
    train, run = write_rows(tmp_path / "rows.jsonl", rows), tmp_path / "run"
    options = [
        f"model.chat_template={FOLDER}/qwen3.jinja",
        f"hydra.run.dir={run}",
        "evaluation.baselines=[base,fewshot]",
    ]
    small = [option for option in SMALL if "baselines" not in option]
    code, text = hydratune("train", *small, "data=files", f"data.train={train}", *options)
    assert code == 0, text
    assert "few-shot baseline is skipped: the test rows are documents or use tools" in " ".join(
        text.split()
    )
    prediction, *_ = [
        json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()
    ]
    assert prediction["reference"] == QWEN_CALL.removeprefix(
        "<think>\n\n</think>\n\n"
    ).removesuffix("<|im_end|>")
    assert "eval/exact_match" in json.loads((run / "metrics.json").read_text())


def test_documents_train_and_are_measured_by_their_likelihood_alone(
    hydratune: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    rows = [
        {"text": " ".join(stable_hash([i, word]) for word in range(3 + i % 5))} for i in range(16)
    ]
    train, run = write_rows(tmp_path / "rows.jsonl", rows), tmp_path / "run"
    small = [option for option in SMALL if "baselines" not in option]
    options = [
        f"hydra.run.dir={run}",
        "evaluation.baselines=[base,fewshot]",
        "model.chat_template=plain",
    ]
    code, text = hydratune("train", *small, "data=files", f"data.train={train}", *options)
    assert code == 0, text
    assert "few-shot baseline is skipped" in text
    values = json.loads((run / "metrics.json").read_text())
    assert {"eval/nll", "eval/perplexity", "base/perplexity"} <= values.keys()
    assert not {"eval/exact_match", "eval/finished", "eval/generated_tokens"} & values.keys()
    predictions = [
        json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()
    ]
    assert {(p["finish_reason"], p["prediction"], p["generated_tokens"]) for p in predictions} == {
        ("not asked", "", 0)
    }
    assert values["eval/nll"] == pytest.approx(
        sum(p["nll"] for p in predictions) / sum(p["answer_tokens"] for p in predictions)
    )
    for source in ("predictions", "adapter"):
        code, text = hydratune("evaluate", f"run={run}", f"source={source}")
        assert code == 0, text
