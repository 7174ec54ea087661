"""The loss mask under the chat templates of real families."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
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
from template_families import (
    FAMILIES,
    FIRST,
    FOLDER,
    QWEN_CALL,
    SECOND,
    SYSTEM,
    TALKS,
    THINKING,
    TOOL_TALKS,
    TOOL_TURNS,
    TOOLS,
    WITH_TOOLS,
    Build,
    family_encoder,
)


@pytest.fixture
def build(tiny: tuple[Any, Any, Any]) -> Build:
    """Build the encoder of a family, with its template changed or not."""
    return partial(family_encoder, tiny[2])


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
    expected = family.call.removeprefix(family.preamble).removesuffix(family.ends[0])
    assert encoder.reference_answer(TOOL_TALKS["tools, last turn is a call"]) == expected
    assert encoder.reference_answer(TALKS["one turn"]) == "Paris, since 987."


def test_builtin_tools_of_llama_end_with_their_own_token(build: Build) -> None:
    call = {
        "type": "function",
        "function": {"name": "brave_search", "arguments": {"query": "rain"}},
    }
    row = Row("search", (TOOL_TURNS[0], Message("assistant", "", tool_calls=(call,))), tools=TOOLS)
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


def test_thinking_before_a_call_stays_until_the_next_question(build: Build) -> None:
    first = replace(TOOL_TURNS[1], reasoning="Ask the service.")
    last = Message("assistant", "Yes, take a coat.", reasoning="It will rain.")
    row = Row("agent", (TOOL_TURNS[0], first, TOOL_TURNS[2], last), tools=TOOLS)
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


def test_thoughts_are_no_part_of_the_scored_answer(build: Build) -> None:
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


def test_template_file_of_a_family_trains_calls_and_skips_the_few_shot_baseline(
    hydratune: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    # no question nearly equals another
    questions = [
        Message("user", f"Will it rain in {stable_hash(i)}, {stable_hash(-i)}?") for i in range(12)
    ]
    rows = [
        {"messages": [m.turn() for m in (SYSTEM, question, TOOL_TURNS[1])], "tools": TOOLS}
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
