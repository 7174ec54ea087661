"""Recognise which layout the columns of a source make, and say what to name where they make none.

A layout is ``messages``, ``sharegpt``, ``alpaca``, a pair such as ``prompt/completion``, or
``text`` (documents).
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeGuard

from hydratune.data.rows import Record
from hydratune.errors import DataError
from hydratune.settings.overrides import as_typed

PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "response"),
    ("question", "answer"),
    ("question", "response"),  # OpenOrca
    ("input", "output"),
    ("source", "target"),
)
EXTRA = {"id", "group", "system", "tools"}  # columns that a row of any layout may have
# what an instruction or a question is about: alpaca's name and Dolly's
CONTEXT = ("input", "context")
HISTORY = "history"  # earlier turns of a pair
REASONING = "reasoning"  # the thoughts before a pair's answer
OPTIONAL_OF_PAIRS = {*CONTEXT, HISTORY, REASONING}
# canonical name -> other names that mean the same
ALIASES = {
    "system": ("system_prompt", "system_message"),
    HISTORY: ("chat_history", "conversation_history", "dialogue_history", "dialog_history"),
    REASONING: ("reasoning_content", "thinking", "thoughts", "chain_of_thought", "cot"),
}
# beside a column "text", one of these is what is to be learned, not a property of a document
_ANSWERS = {"label", "labels", "label_text", "target", "targets", "category", "class"}
_ANSWERS |= {"answer", "answers", "output", "completion", "response", "summary", "sentiment"}
_ANSWERS |= {"intent"}
_SIDES = dict.fromkeys(side for pair in PAIRS for side in pair)  # without duplicates, in order
_FIRST = ("messages", "conversations", "instruction", "output", *CONTEXT)
COLUMNS = (
    *_FIRST,
    *(side for side in _SIDES if side not in _FIRST),
    "text",
    HISTORY,
    REASONING,
    *sorted(EXTRA),
)
ROLE_KEYS, CONTENT_KEYS = ("role", "from"), ("content", "value", "parts")
_NEAR = 0.75  # least likeness of a column's name to that of a side
_CHATS = {"messages": "messages", "conversations": "sharegpt"}  # column -> layout
_NO_SIDE_OF_A_PAIR = EXTRA | {"text", "source", "context", HISTORY, REASONING}


def is_turn(value: object) -> TypeGuard[Record]:
    """Return whether an object is a turn of a conversation: it says who speaks, and what."""
    if not isinstance(value, dict) or not any(isinstance(value.get(key), str) for key in ROLE_KEYS):
        return False
    return any(key in value for key in (*CONTENT_KEYS, "tool_calls", "function_call"))


def is_turn_list(value: object) -> TypeGuard[list[Record]]:
    """Return whether a value is a list of turns with at least one of them."""
    return isinstance(value, list) and bool(value) and all(map(is_turn, value))


def is_row(value: Record) -> bool:
    """Return whether an object that is a whole file is one row, and not a wrapper around rows."""
    if any(is_turn_list(value.get(column)) for column in _CHATS):
        return True
    pairs = (("instruction", "output"), *PAIRS)
    return any(all(isinstance(value.get(name), str) for name in pair) for pair in pairs)


def layout_of_columns(record: Record, names: Iterable[str]) -> str | None:
    """Return the layout whose columns are in ``names``; a conversation must not be null.

    ``text`` is a layout only without a half of a pair beside it; many documents state their source,
    which is none.
    """
    names = set(names)
    for column, layout in _CHATS.items():
        if column in names and record[column] is not None:
            return layout
    if {"instruction", "output"} <= names:  # "input" is optional, and may be missing in some rows
        return "alpaca"
    for prompt, completion in PAIRS:
        if prompt in names and completion in names:
            return f"{prompt}/{completion}"
    half_of_a_pair = names & (set(COLUMNS) - _NO_SIDE_OF_A_PAIR)
    return "text" if "text" in names and not half_of_a_pair else None


def layout_of_named_columns(columns: Mapping[str, str], where: str) -> str:
    """Return the layout of the columns that the user named.

    Raises ``DataError`` if only one side of a pair is named.
    """
    if (layout := layout_of_columns(dict.fromkeys(columns, ""), columns)) is not None:
        return layout
    halves = sorted(columns.keys() - EXTRA - {HISTORY, REASONING})
    pairs = [("instruction", "output"), *PAIRS]
    partners = dict(reversed(pairs)) | {b: a for a, b in reversed(pairs)}
    named = next((name for name in halves if name in partners and name not in CONTEXT), halves[0])
    missing = partners.get(named, "prompt")
    raise DataError(
        f"{where}: data.columns names {', '.join(halves)} but not {missing}, and it takes both; add"
        f" data.columns.{missing}=YOURS"
    )


def layout_of_record(record: Record, where: str) -> str:
    """Return the layout that the columns of a record make.

    Raises ``DataError`` with the settings that name the columns where they make none.
    """
    layout = layout_of_columns(record, record)
    answers = [name for name in record if str(name).lower() in _ANSWERS]
    if "text" in record and answers and layout in ("text", None):
        raise DataError(
            f"{where}: is the column {answers[0]} beside text to be learned? Then name both:"
            f" data.columns.prompt=text {as_typed('data.columns.completion', answers[0])}; if the"
            " texts alone are, as documents: data.columns.text=text"
        )
    if layout is not None:
        return layout
    if is_turn(record):
        raise DataError(
            f'{where}: this row is one turn, and a row must be a whole conversation: {{"messages":'
            ' [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}'
        )
    turns = next((name for name, value in record.items() if is_turn_list(value)), None)
    if turns is not None:
        raise DataError(
            f"{where}: the column {turns} holds conversations; name it:"
            f" {as_typed('data.columns.messages', turns)}"
        )
    advice = _nearest_pair(record) or (
        "Name yours: data.columns.prompt=YOURS data.columns.completion=YOURS, or"
        f" data.columns.text=YOURS{_example_with_quotes(record)}"
    )
    raise DataError(
        f"{where}: no known layout in the columns {', '.join(map(str, record))}; needed: messages,"
        " conversations, instruction/input/output, prompt/completion, question/answer, input/output"
        f" or text. {advice}"
    )


def _nearest_pair(record: Record) -> str:
    """Return what to type where the names of columns are nearly those of a pair; "" elsewhere."""
    own: dict[str, str] = {}  # name of a side -> column
    for column in map(str, record):
        names = [name for name in _SIDES if name not in record]
        near = difflib.get_close_matches(column.lower(), names, n=1, cutoff=_NEAR)
        for name in [column] if column in _SIDES else near:
            own.setdefault(name, column)
    for pair in (("instruction", "output"), *PAIRS):
        if pair[0] in own and pair[1] in own:
            meant = [f"{own[name]} meant as {name}" for name in pair if own[name] != name]
            settings = [as_typed(f"data.columns.{name}", own[name]) for name in pair]
            return f"Is {' and '.join(meant)}? Then type {' '.join(settings)}"
    return ""


def _example_with_quotes(record: Record) -> str:
    """Return how a column is named whose name needs quotes; "" if there is none."""
    typed = [as_typed("data.columns.prompt", str(name)) for name in record]
    example = next((setting for setting in typed if setting[:1] == "'"), None)
    return f" (with quotes: {example})" if example is not None else ""
