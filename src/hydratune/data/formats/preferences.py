"""Read columns that say which answers are good, and refuse rows with bad ones.

Such columns are pairs of a chosen and a rejected answer (DPO) and marks of single answers (KTO,
ratings). Training on an answer that its own row calls bad would teach it; ``data.keep`` states
which rows are to be kept.
"""

import json
import re
from collections.abc import Collection, Mapping

from hydratune.data.formats.layouts import CONTEXT, is_turn, is_turn_list
from hydratune.data.formats.marks import MASK_KEYS, TRAIN_KEYS, is_missing, seems_to_decide
from hydratune.data.formats.verdicts import good_value, is_bad, is_mark, split_words, truth_of
from hydratune.data.rows import Record
from hydratune.errors import DataError
from hydratune.settings.overrides import as_typed, entry_as_typed

ANY = "any"  # data.keep.COLUMN=any: the column is no mark, rows with every value of it are read
_PREFERENCE_PAIRS = (
    ("chosen", "rejected"),
    ("accepted", "rejected"),
    ("preferred", "dispreferred"),
    ("preferred_output", "non_preferred_output"),  # OpenAI's
    ("chosen_response", "rejected_response"),
    ("response_chosen", "response_rejected"),
)
_PROMPTS = ("prompt", "question", "instruction", "query", "input", "conversations", "messages")
_MASKS = {*MASK_KEYS, "mask"}  # true: not trained
_NUMBER_LIST = re.compile(r"\[[\s\d.,\[\]-]*(true|false|[\s\d.,\[\]-])*\]", re.IGNORECASE)


def chosen_column(record: Record) -> str | None:
    """Return the column of chosen answers, if the row has rejected ones beside them."""
    for chosen, rejected in _PREFERENCE_PAIRS:
        if all(isinstance(record.get(name), str | list | dict) for name in (chosen, rejected)):
            return chosen
    return None


def refuse_preferences(record: Record, chosen: str, where: str) -> None:
    """Raise ``DataError`` with the settings that train on the chosen answers alone."""
    value = _parse_turns(record[chosen])
    prompt = next((name for name in _PROMPTS if record.get(name) not in (None, "")), None)
    if is_turn_list(value) and any(not _is_of_assistant(turn) for turn in value):
        settings = as_typed("data.columns.messages", chosen)
    elif prompt is not None:
        sides = {"prompt": prompt, "completion": chosen}
        settings = " ".join(as_typed(f"data.columns.{side}", sides[side]) for side in sides)
        settings += _context_setting(record, prompt)
    else:
        settings = (
            f"data.columns.prompt=YOURS {as_typed('data.columns.completion', chosen)}, or whole"
            f" texts as documents: {as_typed('data.columns.text', chosen)}"
        )
    raise DataError(
        f"{where}: {chosen} and the rejected answer beside it are a preference pair, and pairs are"
        f" not trained on (no DPO). To train on the chosen answers alone: {settings}"
    )


def _is_of_assistant(turn: Record) -> bool:
    return str(turn.get("role") or turn.get("from")).lower() in ("assistant", "gpt")


def _context_setting(record: Record, prompt: str) -> str:
    if prompt not in ("instruction", "question"):
        return ""
    names = (name for name in CONTEXT if name != prompt and record.get(name) not in (None, ""))
    context = next(names, None)
    return f" {as_typed('data.columns.context', context)}" if context else ""


def _parse_turns(value: object) -> object:
    """Return the turns of a cell, which a CSV file holds as JSON text; other values unchanged."""
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return [value] if is_turn(value) else value


def refuse_marked(
    record: Record, other_columns: Collection[str], where: str, *, is_document: bool = False
) -> None:
    """Raise ``DataError`` if the columns of a row say that its answer is bad.

    ``other_columns`` mean something else. A document is no answer, so only marks of training are
    looked at.
    """
    for column, value in record.items():
        if column in other_columns or is_missing(value) or value in ("", []):
            continue
        name = str(column)
        if (values := _as_list(value)) is not None:
            _refuse_list_of_marks(name, values, where, is_document)
        elif _is_mark_of_bad(name, value, where, is_document):
            shown = str(value).lower() if isinstance(value, bool) else value
            raise DataError(
                f"{where}: {name} = {shown} says that this answer is not to be learned (as in KTO's"
                " layout, a rating or a mask), and training would teach it. Only the rows with"
                f" good answers: {keep_setting(name, good_value(value))}; all rows, {name} being"
                f" something else: {keep_setting(name, ANY)}"
            )


def _is_training_mark(name: str) -> bool:
    plain = _plain_name(name)
    return plain in TRAIN_KEYS or plain in _MASKS


def _plain_name(name: str) -> str:
    return re.sub(r"^(is|was|answer|response|completion)_", "", "_".join(split_words(name)))


def _refuse_list_of_marks(name: str, values: list[object], where: str, is_document: bool) -> None:
    """Raise ``DataError`` if a list looks like marks of turns or tokens, which are not read."""
    if (
        _is_training_mark(name)
        or seems_to_decide(name, values)
        or (not is_document and is_bad(name, values))
    ):
        raise DataError(
            f"{where}: {name} looks like a mark of what is trained, of each turn or token, and"
            ' lists of marks are not read; write "train": false into the turns that are not to be'
            f" trained, and leave {name} out; all turns are to be trained:"
            f" {keep_setting(name, ANY)}"
        )


def _is_mark_of_bad(name: str, value: object, where: str, is_document: bool) -> bool:
    """Return whether a column says that the answer is bad.

    Raises ``DataError`` for true or false under a name that looks like a mark of unknown meaning.
    """
    if _is_training_mark(name):
        is_mask = _plain_name(name) in _MASKS
        return truth_of(value) is is_mask or (not is_mask and is_bad("good", value))
    if isinstance(value, bool) and not is_mark(name) and seems_to_decide(name, value):
        raise DataError(
            f"{where}: {name} looks like a mark of what is trained, and it is not known what it"
            f" means; rows where it is true: {keep_setting(name, 'true')}; where it is false:"
            f" {keep_setting(name, 'false')}; all rows: {keep_setting(name, ANY)}"
        )
    return not is_document and is_bad(name, value)


def keep_setting(name: str, value: str) -> str:
    """Return what to type; a name that no command line can have as a key must be changed first."""
    if (setting := entry_as_typed("data.keep", name, value)) is not None:
        return setting
    key = "_".join(split_words(name)) or "mark"
    return f"data.keep.{key}={value} (rename the column to {key} first)"


def _as_list(value: object) -> list[object] | None:
    """Return a list, also from the JSON text of a CSV file if it is one of numbers and truths."""
    if isinstance(value, str) and _NUMBER_LIST.fullmatch(value.strip()):
        try:
            value = json.loads(value.lower())
        except ValueError:
            return None
    return value if isinstance(value, list) else None


def is_kept(record: Record, keep: Mapping[str, object], where: str) -> bool:
    """Return whether a row has the values that data.keep requires.

    Raises ``DataError`` for a column that the row does not have.
    """
    for name, required in keep.items():
        if required == ANY:
            continue
        if name not in record:
            raise DataError(
                f"{where}: data.keep.{name}: no such column; this row has:"
                f" {', '.join(map(str, record))}"
            )
        if not _matches(record[name], required):
            return False
    return True


def _matches(value: object, required: object) -> bool:
    if isinstance(required, bool):
        return truth_of(value) is required
    return value == required or (value is not None and str(value).strip() == str(required))
