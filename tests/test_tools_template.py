"""model.chat_template=tools: the answer to rows with calls where the model's own has none."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import SMALL, write_rows
from generated_tokenizers import END, TOKENIZERS, tokenizer
from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.data.encoding.examples import encode_split
from hydratune.data.mask_check import check_masks
from hydratune.data.rows import Message, Row
from hydratune.models.tools_template import tools_template
from hydratune.settings.data import DataConfig, TrainOn
from tool_records import PRICE, WEATHER, call

Command = Callable[..., tuple[int, str]]
CALLS = (call("weather", town='Ulm "old"'), call("price", ticker="ABC", count=3))
TURNS = (
    Message("system", "You help."),
    Message("user", "Weather and price?"),
    Message("assistant", "I look.", reasoning="Two calls.", tool_calls=CALLS),
    Message("tool", "grey"),
    Message("tool", "12.5"),
    Message("assistant", "Grey, and 12.5."),
    Message("user", "Again?"),
    Message("assistant", "", tool_calls=CALLS[:1]),
)
ROWS = [
    Row("tools", TURNS, tools=(WEATHER, PRICE)),
    Row("no tools", TURNS[1:6]),
    Row("no system", TURNS[1:], tools=(WEATHER, PRICE)),
]


@pytest.mark.parametrize("train_on", list(TrainOn))
@pytest.mark.parametrize("adds_begin", [False, True])
@pytest.mark.parametrize("kind", list(TOKENIZERS))
def test_rows_with_tools_are_trained_in_any_tokenizer(
    kind: str, adds_begin: bool, train_on: TrainOn
) -> None:
    """The trained texts are those of the assistant's turns, and the loss masks are right."""
    its = tokenizer(kind, adds_begin=adds_begin)
    its.chat_template = tools_template(its)
    encoder = ChatEncoder(its, frozenset({its.convert_tokens_to_ids(END)}))
    settings = DataConfig(train_on=train_on, max_length=100_000)
    kept, examples, _ = encode_split(encoder, ROWS, settings, "train")
    assert len(kept) == (8 if train_on is TrainOn.each else len(ROWS))
    check_masks(encoder, kept, examples)
    last = encoder.decode(
        [token for token, one in zip(examples[-1].ids, examples[-1].loss_mask, strict=True) if one]
    )
    expected = '<tool_call>\n{"name": "weather", "arguments": {"town": "Ulm \\"old\\""}}\n'
    assert last.replace(" ", "").endswith((expected + "</tool_call>" + END).replace(" ", ""))


def records(with_tools: bool) -> list[dict[str, object]]:
    """Rows in sharegpt's form with calls, as LLaMA-Factory writes them."""
    rows: list[dict[str, object]] = []
    for n in range(16):
        named = json.dumps({"name": "weather", "arguments": {"town": f"town {n * 37 % 101}"}})
        turns = [
            ("human", f"Weather in town {n * 37 % 101}?"),
            ("function_call", named),
            ("observation", '{"sky": "grey"}'),
            ("gpt", f"It is grey in town {n * 37 % 101}."),
        ]
        row: dict[str, object] = {
            "conversations": [{"from": who, "value": text} for who, text in turns]
        }
        rows.append({**row, "tools": json.dumps([WEATHER["function"]])} if with_tools else row)
    return rows


@pytest.mark.parametrize("with_tools", [False, True])
def test_the_advice_for_function_calls_works_as_it_is_given(
    hydratune: Command, tmp_path: Path, with_tools: bool
) -> None:
    write_rows(tmp_path / "calls.jsonl", records(with_tools))
    command = ("train", *SMALL, "data=files", "data.train=calls.jsonl", "preview=1")
    code, text = hydratune(*command)
    advice = "model.chat_template=tools"
    assert code == 2 and f"use a template that shows tool calls: {advice} (built in" in text
    code, text = hydratune(*command, advice)
    assert code == 0 and re.search(r'⟦<tool_call>\n{"name": "weather", "arguments"', text)


def test_how_a_file_was_read_is_on_the_terminal(hydratune: Command, tmp_path: Path) -> None:
    rows = [
        {
            "question": f"What is {n} times {n + 3}?",
            "answer": f"It is {n * (n + 3)}.",
            "customer": f"c{n % 4}",
            "note": "x" * 300,
        }
        for n in range(40)
    ]
    write_rows(tmp_path / "a.csv", rows)
    code, text = hydratune("train", *SMALL, "data=files", "data.train=a.csv", "preview=1")
    assert code == 0
    assert "a.csv: read as question/answer; kept as meta data: customer; ignored: note" in text


def test_chatml_is_used_where_the_tokenizer_has_it(tiny: tuple[Any, Any, Any]) -> None:
    assert "<|im_start|>assistant" in tools_template(tiny[2])
    assert "### assistant" in tools_template(tokenizer("byte level", adds_begin=False))
