"""The published SNIPS files (CC0-1.0) -> rows: a voice request and the JSON object of its intent
and slots.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hydratune.data.cases.base import CaseData, CaseRows
from hydratune.data.rows import Message, Row
from hydratune.errors import DataError
from hydratune.settings.registry import variant

_TRAIN, _VALIDATE = "train_*_full.json", "validate_*.json"


@variant("data", "snips")
@dataclass
class SnipsData(CaseData):
    """SNIPS voice requests -> {"intent", "slots"}."""

    contents: ClassVar[str] = f"{_TRAIN} and {_VALIDATE}"

    source: str = "snips"

    def read(self) -> CaseRows:
        """Return the rows; the published "validate" files are the test rows.

        Raises ``DataError``.
        """
        folder = Path(self.path)
        return _rows(folder, _TRAIN), None, _rows(folder, _VALIDATE)


def _rows(folder: Path, pattern: str) -> list[Row]:
    rows = [row for path in sorted(folder.glob(pattern)) for row in _file_rows(path)]
    if not rows:
        raise DataError(
            f"data.path = {folder}: no file matches {pattern}; give the folder of the published"
            " SNIPS files"
        )
    return rows


def _file_rows(path: Path) -> list[Row]:
    """Return the rows of one file, which has one intent.

    One published file is latin-1, not UTF-8: its rows carry ``meta["encoding"]``.
    """
    raw, encoding = path.read_bytes(), {}
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text, encoding = raw.decode("latin-1"), {"encoding": "latin-1"}
    rows: list[Row] = []
    try:
        ((intent, requests),) = json.loads(text).items()
        for number, request in enumerate(requests):
            question, slots = _request(request["data"])
            answer = json.dumps({"intent": intent, "slots": slots}, ensure_ascii=False)
            turns = Message("user", question), Message("assistant", answer)
            meta, where = {"intent": intent, **encoding}, f"{path}[{number + 1}]"
            rows.append(Row(f"{path.stem}-{number}", turns, meta=meta, where=where))
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        where = f"{path}[{len(rows) + 1}]" if rows else str(path)
        raise DataError(
            f"{where}: not a SNIPS file, one object {{INTENT: [requests]}} is needed ({error!r})"
        ) from None
    return rows


def _request(parts: Sequence[dict[str, str]]) -> tuple[str, dict[str, str]]:
    """Return (text, slots); several values of one slot are joined by " and "."""
    slots: dict[str, str] = {}
    for part in parts:
        if "entity" in part:
            name, value = part["entity"], part["text"].strip()
            slots[name] = f"{slots[name]} and {value}" if name in slots else value
    return "".join(part["text"] for part in parts).strip(), slots
