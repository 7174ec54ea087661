"""Which layout the columns of a file make, and what to name where they make none."""

from collections.abc import Iterable, Mapping
from typing import Any

from hydratune.errors import DataError

PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "response"),
    ("question", "answer"),
    ("question", "response"),  # OpenOrca
    ("input", "output"),
    ("source", "target"),
)
EXTRA = {"id", "group", "system", "tools"}
# what an instruction or a question is about: alpaca's name and Dolly's
CONTEXT = (
    "input",
    "context",
)
HISTORY = "history"  # earlier turns of a pair
REASONING = "reasoning"  # the thoughts before a pair's answer
BESIDE = {*CONTEXT, HISTORY, REASONING}  # what a pair may have beside its two sides
ALIASES = {
    "system": ("system_prompt", "system_message"),
    HISTORY: ("chat_history", "conversation_history", "dialogue_history", "dialog_history"),
    REASONING: ("reasoning_content", "thinking", "thoughts", "chain_of_thought", "cot"),
}  # canonical name -> other names that are read alike
_ANSWERS = {
    "label",
    "labels",
    "label_text",
    "target",
    "targets",
    "category",
    "class",
    "answer",
    "answers",
    "output",
    "completion",
}
_ANSWERS |= {
    "response",
    "summary",
    "sentiment",
    "intent",
}  # beside a text column: what is to be learned, not a document's origin
COLUMNS = (
    "messages",
    "conversations",
    "instruction",
    "output",
    *CONTEXT,
    *dict.fromkeys(
        n for pair in PAIRS for n in pair if n not in (*CONTEXT, "instruction", "output")
    ),
    "text",
    HISTORY,
    REASONING,
    *sorted(EXTRA),
)
ROLE_KEYS, CONTENT_KEYS = ("role", "from"), ("content", "value", "parts")
_CHATS = {"messages": "messages", "conversations": "sharegpt"}  # column -> layout


def is_turn(value: Any) -> bool:
    """Whether an object is a turn of a conversation: it says who speaks, and what."""
    if not isinstance(value, dict) or not any(isinstance(value.get(key), str) for key in ROLE_KEYS):
        return False
    return any(key in value for key in (*CONTENT_KEYS, "tool_calls", "function_call"))


def is_turn_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(is_turn, value))


def is_row(value: Mapping[str, Any]) -> bool:
    """Whether an object that is a whole file is one row, and not a wrapper around rows."""
    if any(is_turn_list(value.get(column)) for column in _CHATS):
        return True
    pairs = (("instruction", "output"), *PAIRS)
    return any(all(isinstance(value.get(name), str) for name in pair) for pair in pairs)


def known_layout(record: Mapping[str, Any], names: Iterable[str]) -> str | None:
    """The layout whose columns are in ``names``."""
    names = set(names)
    for column, layout in _CHATS.items():
        if column in names and record[column] is not None:
            return layout
    if {
        "instruction",
        "output",
    } <= names:  # "input" is optional, and may be missing in some rows only
        return "alpaca"
    for prompt, completion in PAIRS:
        if prompt in names and completion in names:
            return f"{prompt}/{completion}"
    # many documents state their source
    half = names & (set(COLUMNS) - EXTRA - {"text", "source", "context", HISTORY, REASONING})
    return "text" if "text" in names and not half else None


def named_layout(columns: Mapping[str, str], where: str) -> str:
    """The layout of the columns that the user named."""
    if (layout := known_layout(dict.fromkeys(columns, ""), columns)) is not None:
        return layout
    halves = sorted(columns.keys() - EXTRA - {HISTORY, REASONING})
    pairs = [("instruction", "output"), *PAIRS]
    partners = dict(reversed(pairs)) | {b: a for a, b in reversed(pairs)}
    named = next((name for name in halves if name in partners and name not in CONTEXT), halves[0])
    missing = partners.get(named, "prompt")
    raise DataError(
        f"{where}: data.columns names {', '.join(halves)} but not {missing}, and it takes both; add"
        f" +data.columns.{missing}=YOURS"
    )


def found_layout(record: Mapping[str, Any], where: str) -> str:
    """The layout that the columns of a row make.

    Raises ``DataError`` with what to name where they make none.
    """
    layout = known_layout(record, record)
    answers = [name for name in record if str(name).lower() in _ANSWERS]
    if "text" in record and answers and layout in ("text", None):
        raise DataError(
            f"{where}: is the column {answers[0]} beside text to be learned? Then name both:"
            f" +data.columns.prompt=text +data.columns.completion={answers[0]}; if the texts alone"
            " are, as documents: +data.columns.text=text"
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
            f" +data.columns.messages={turns}"
        )
    raise DataError(
        f"{where}: no known layout in the columns {', '.join(map(str, record))}; needed: messages,"
        " conversations, instruction/input/output, prompt/completion or text. Name yours:"
        " +data.columns.prompt=YOURS +data.columns.completion=YOURS, or +data.columns.text=YOURS"
    )
