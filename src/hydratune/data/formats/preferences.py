"""Columns that say which answers are good: pairs of a chosen and a rejected answer (DPO), and marks
of single answers (KTO, ratings).

Training on an answer that its own row calls bad teaches it, so such rows are refused; ``data.keep``
says which are wanted.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from hydratune.data.formats.layouts import CONTEXT, is_turn, is_turn_list
from hydratune.data.formats.marks import CONTEXT as MASKED
from hydratune.data.formats.marks import TRAINED, seems_to_decide
from hydratune.data.formats.verdicts import good_value, is_bad, is_mark, truth_of, words
from hydratune.errors import DataError

ANY = "any"  # data.keep.COLUMN=any: the column is no mark, rows with every value of it are read
_CHOSEN = (
    ("chosen", "rejected"),
    ("accepted", "rejected"),
    ("preferred", "dispreferred"),
    ("preferred_output", "non_preferred_output"),  # OpenAI's
    ("chosen_response", "rejected_response"),
    ("response_chosen", "response_rejected"),
)
_PROMPTS = ("prompt", "question", "instruction", "query", "input", "conversations", "messages")
_MASKS = {*MASKED, "mask"}  # true: not trained


def chosen_column(record: Mapping[str, Any]) -> str | None:
    """The column of chosen answers, where the row has rejected ones beside them."""
    return next(
        (
            good
            for good, bad in _CHOSEN
            if all(isinstance(record.get(n), str | list | dict) for n in (good, bad))
        ),
        None,
    )


def refuse_preferences(record: Mapping[str, Any], chosen: str, where: str) -> None:
    """Says how to train on the chosen answers alone. Raises ``DataError``."""
    value = _value(record[chosen])
    prompt = next((name for name in _PROMPTS if record.get(name) not in (None, "")), None)
    if is_turn_list(value) and any(
        str(turn.get("role") or turn.get("from")).lower() not in ("assistant", "gpt")
        for turn in value
    ):
        fix = f"+data.columns.messages={chosen}"
    elif prompt is not None:
        context = next(
            (
                n
                for n in CONTEXT
                if record.get(n) not in (None, "")
                and n != prompt
                and prompt in ("instruction", "question")
            ),
            None,
        )
        about = f" +data.columns.context={context}" if context else ""
        fix = f"+data.columns.prompt={prompt} +data.columns.completion={chosen}{about}"
    else:
        fix = (
            f"+data.columns.prompt=YOURS +data.columns.completion={chosen}, or whole texts as"
            f" documents: +data.columns.text={chosen}"
        )
    raise DataError(
        f"{where}: {chosen} and the rejected answer beside it are a preference pair, and pairs are"
        f" not trained on (no DPO). To train on the chosen answers alone: {fix}"
    )


def _value(value: Any) -> Any:
    """A cell of a CSV file may hold a list as JSON text."""
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return [value] if is_turn(value) else value


def refuse_marked(
    raw: Mapping[str, Any], other: set[str], where: str, *, document: bool = False
) -> None:
    """A row whose own columns say that its answer is bad; columns in ``other`` mean something else.
    Raises ``DataError``.

    Of a ``document`` only marks of training are looked at: it is no answer.
    """
    for name, value in raw.items():
        if name in other or value is None or value != value or value in ("", []):
            continue
        plain = re.sub(r"^(is|was|answer|response|completion)_", "", "_".join(words(str(name))))
        mark = plain in TRAINED or plain in _MASKS
        if (listed := _listed(value)) is not None:
            refuse_list = (
                mark
                or seems_to_decide(str(name), listed)
                or (not document and is_bad(str(name), listed))
            )
            if refuse_list:
                raise DataError(
                    f"{where}: {name} looks like a mark of what is trained, of each turn or token,"
                    " and lists of marks are not read; write "
                    f'"train": false into the turns that are not to be trained, and leave {name}'
                    " out; all turns are to be trained: "
                    f"{_keep(name, ANY)}"
                )
            continue
        if mark:
            bad = truth_of(value) is (plain in _MASKS) or (
                plain not in _MASKS and is_bad("good", value)
            )
        elif (
            isinstance(value, bool) and not is_mark(str(name)) and seems_to_decide(str(name), value)
        ):
            raise DataError(
                f"{where}: {name} looks like a mark of what is trained, and it is not known what it"
                f" means; rows where it is true: {_keep(name, 'true')}; where it is false:"
                f" {_keep(name, 'false')}; all rows: {_keep(name, ANY)}"
            )
        else:
            bad = not document and is_bad(str(name), value)
        if bad:
            said = str(value).lower() if isinstance(value, bool) else value
            raise DataError(
                f"{where}: {name} = {said} says that this answer is not to be learned (as in KTO's"
                " layout, a rating or a mask), and training would teach it. Only the rows with"
                f" good answers: {_keep(name, good_value(value))}; all rows, {name} being something"
                f" else: {_keep(name, ANY)}"
            )


def _keep(name: str, value: str) -> str:
    """What to type; a name that a command line cannot have as a key is to be changed first."""
    if re.fullmatch(r"[A-Za-z_][\w-]*", name, re.ASCII):
        return f"+data.keep.{name}={value}"
    key = "_".join(words(name)) or "mark"
    return f"+data.keep.{key}={value} (rename the column to {key} first)"


def _listed(value: Any) -> list[Any] | None:
    """A list, also as the JSON text that CSV files have, if it is one of numbers."""
    if isinstance(value, str) and re.fullmatch(
        r"\[[\s\d.,\[\]-]*(true|false|[\s\d.,\[\]-])*\]", value.strip(), re.IGNORECASE
    ):
        try:
            value = json.loads(value.lower())
        except ValueError:
            return None
    return value if isinstance(value, list) else None


def is_kept(raw: Mapping[str, Any], keep: Mapping[str, Any], where: str) -> bool:
    """Whether a row has the values that data.keep wants.

    Raises ``DataError`` for a column that is not there.
    """
    for name, wanted in keep.items():
        if wanted == ANY:
            continue
        if name not in raw:
            raise DataError(
                f"{where}: data.keep.{name}: no such column; this row has:"
                f" {', '.join(map(str, raw))}"
            )
        if not _matches(raw[name], wanted):
            return False
    return True


def _matches(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, bool):
        return truth_of(value) is wanted
    return bool(value == wanted) or (value is not None and str(value).strip() == str(wanted))
