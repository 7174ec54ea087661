"""Conversations generated at random, under many tokenizers and chat templates, and which of their
tokens should be trained.

The expected tokens are computed without the project's code and without Jinja:
``generated_formats`` writes a conversation in plain Python as pieces of text, each trained or not;
the tokenizer's own character offsets over the whole text say which tokens these are.
"""

import csv
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from generated_formats import FORMATS, Pieces, Turn
from generated_tokenizers import BEGIN, CODE, TOKENIZERS, UNICODE, WORDS


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
    rng = random.Random(seed)
    for _ in range(count):
        yield _case(rng)


def _text(rng: random.Random, *, edges: bool = True) -> str:
    kind = rng.random()
    text = " ".join(rng.choices(WORDS, k=rng.randint(1, 9))).capitalize() + rng.choice(
        [".", "?", "!", "", " 42", ": yes"]
    )
    if kind < 0.2:
        text = rng.choice(UNICODE) + rng.choice(["", " " + text])
    elif kind < 0.35:
        text = rng.choice(CODE) + rng.choice(["", "\n" + text])
    elif kind < 0.4:
        text = text + "\n\n" + text
    if edges and rng.random() < 0.02:
        text = rng.choice([" ", "\n"]) + text
    if edges and rng.random() < 0.02:
        text += rng.choice([" ", "\n"])
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


def _call(rng: random.Random, number: int) -> dict[str, Any]:
    arguments = (
        {"what": _text(rng), **rng.choice([{"room": "attic"}, {}])}
        if rng.random() < 0.6
        else {"of": _text(rng)}
    )
    name = "find" if "what" in arguments else "count"
    return {
        "id": f"call{number}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _calls_and_results(rng: random.Random, number: int, layout: str) -> list[Turn]:
    """Return an assistant turn with calls, and the turns of the tool with their results."""
    calls = [_call(rng, 10 * number + i) for i in range(rng.randint(1, 3))]
    arguments = calls[0]["function"]["arguments"]
    # a typed column cannot distinguish null from a missing argument
    if layout != "typed.parquet" and "what" in arguments and rng.random() < 0.3:
        arguments["room"] = None
    content = rng.choice(["", _text(rng, edges=False)])
    return [
        {"role": "assistant", "content": content, "tool_calls": calls},
        *({"role": "tool", "content": _text(rng), "tool_call_id": call["id"]} for call in calls),
    ]


LAYOUTS = [
    "messages.jsonl",
    "messages.json",
    "messages.parquet",
    "typed.parquet",
    "sharegpt.jsonl",
    "pairs.csv",
    "pairs.jsonl",
]


def _case(rng: random.Random) -> Case:
    name = rng.choice(list(FORMATS))
    chat_format = FORMATS[name]
    layout = rng.choice(LAYOUTS)
    several = not layout.startswith("pairs")
    turns: list[Turn] = (
        [{"role": "system", "content": _text(rng)}]
        if chat_format.system and rng.random() < 0.5
        else []
    )
    tools = (
        TOOLS
        if chat_format.tools and several and layout != "sharegpt.jsonl" and rng.random() < 0.6
        else []
    )
    for number in range(rng.randint(1, 4) if several else 1):
        turns.append({"role": "user", "content": _text(rng)})
        if tools and rng.random() < 0.5:
            turns += _calls_and_results(rng, number, layout)
        answer: Turn = {"role": "assistant", "content": _text(rng)}
        if chat_format.thoughts and several and layout != "sharegpt.jsonl" and rng.random() < 0.4:
            answer["reasoning_content"] = _text(rng, edges=False)
        turns.append(answer)
    train_on = rng.choice(["all", "last", "each"])
    case = Case(
        rng.choice(list(TOKENIZERS)), rng.random() < 0.5, name, layout, train_on, turns, tools
    )
    answers = [turn for turn in turns if turn["role"] == "assistant"]
    if chat_format.rewrites and train_on == "all" and len(answers) > 1:
        case.invalid = "the template rewrites earlier turns"
    elif rng.random() < 0.03:
        answers[-1]["content"] = ""
        case.invalid = "the answer is empty"
    return case


def _record(case: Case) -> dict[str, Any]:
    """Return the row of a case in its layout."""
    kind = case.layout.partition(".")[0]
    if kind == "pairs":
        record = {turn["role"]: turn["content"] for turn in case.turns}
        return {
            "prompt": record["user"],
            "completion": record["assistant"],
            **({"system": record["system"]} if "system" in record else {}),
        }
    if kind == "sharegpt":
        names = {
            "user": ("human", "Human", "user")[len(case.turns) % 3],
            "assistant": ("gpt", "chatgpt", "bot")[len(case.turns) % 3],
        }
        return {
            "conversations": [
                {"from": names.get(t["role"], t["role"]), "value": t["content"]} for t in case.turns
            ]
        }
    return {"messages": case.turns, **({"tools": case.tools} if case.tools else {})}


def write(case: Case, folder: Path) -> Path:
    """Write the file of a case and return its path."""
    path, record = folder / case.layout, _record(case)
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
                if case.layout == "typed.parquet"
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


# ---------------------------------------------------------------------------------- expected tokens
@dataclass(frozen=True)
class ExpectedTokens:
    """The expected tokens of one example, their loss mask, and where its trained texts begin."""

    ids: list[int]
    loss_mask: list[bool]
    text: str
    starts: list[int]  # characters at which a trained text begins
    joined: bool  # the text before a start has other tokens alone than within the whole text


def expected_tokens(case: Case, tokenizer: Any) -> list[ExpectedTokens]:
    """Return what should be trained, one entry for each example."""
    chat_format = FORMATS[case.format]
    answers = [i for i, turn in enumerate(case.turns) if turn["role"] == "assistant"]
    examples = [case.turns[: i + 1] for i in answers] if case.train_on == "each" else [case.turns]
    begin = chat_format.jinja == "plain" and case.adds_begin
    return [
        _example(
            ([(BEGIN, False)] if begin else []) + chat_format.pieces(t, case.tools),
            case.train_on != "all",
            tokenizer,
        )
        for t in examples
    ]


def _example(pieces: Pieces, last_only: bool, tokenizer: Any) -> ExpectedTokens:
    text, regions = "", []
    for piece, is_trained in pieces:
        if is_trained:
            regions.append((len(text), len(text) + len(piece)))
        text += piece
    regions = regions[-1:] if last_only else regions
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    offsets = encoded["offset_mapping"]
    loss_mask = [
        any(start < stop and end > begin for begin, stop in regions) for start, end in offsets
    ]
    alone = [tokenizer(text[:begin], add_special_tokens=False)["input_ids"] for begin, _ in regions]
    joined = any(encoded["input_ids"][: len(ids)] != ids for ids in alone)
    length = max(i for i, is_target in enumerate(loss_mask) if is_target) + 1
    return ExpectedTokens(
        encoded["input_ids"][:length],
        loss_mask[:length],
        text[: regions[-1][1]],
        [begin for begin, _ in regions],
        joined,
    )
