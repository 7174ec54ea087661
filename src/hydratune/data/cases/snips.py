"""The published SNIPS files -> rows: a voice request and the JSON object of its intent and slots
(CC0-1.0).
"""

import json
from pathlib import Path
from typing import Any

from hydratune.data.rows import Message, Row
from hydratune.errors import DataError
from hydratune.settings.data import SnipsData


def read_snips(data: SnipsData) -> tuple[list[Row], None, list[Row]]:
    """The published "validate" files are the test rows. Raises ``DataError``."""
    folder = Path(data.path)
    return _rows(folder, "train_*_full.json"), None, _rows(folder, "validate_*.json")


def _rows(folder: Path, pattern: str) -> list[Row]:
    rows = [row for path in sorted(folder.glob(pattern)) for row in _file_rows(path)]
    if not rows:
        raise DataError(
            f"data.path = {folder}: no file matches {pattern}; give the folder of the published"
            " SNIPS files"
        )
    return rows


def _file_rows(path: Path) -> list[Row]:
    """One published file is latin-1, not UTF-8: its rows carry ``meta["encoding"]``."""
    raw, encoding = path.read_bytes(), {}
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text, encoding = raw.decode("latin-1"), {"encoding": "latin-1"}
    rows = []
    try:
        ((intent, requests),) = json.loads(text).items()
        for number, request in enumerate(requests):
            question, slots = _request(request["data"])
            answer = json.dumps({"intent": intent, "slots": slots}, ensure_ascii=False)
            turns = Message("user", question), Message("assistant", answer)
            rows.append(
                Row(
                    f"{path.stem}-{number}",
                    turns,
                    meta={"intent": intent, **encoding},
                    where=f"{path}[{number + 1}]",
                )
            )
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        place = f"{path}[{len(rows) + 1}]" if rows else str(path)
        raise DataError(
            f"{place}: not a SNIPS file, one object {{INTENT: [requests]}} is needed ({error!r})"
        ) from None
    return rows


def _request(parts: list[dict[str, Any]]) -> tuple[str, dict[str, str]]:
    """(text, slots). A slot that occurs several times keeps its values joined by " and "."""
    slots: dict[str, str] = {}
    for part in parts:
        if "entity" in part:
            name, value = part["entity"], part["text"].strip()
            slots[name] = f"{slots[name]} and {value}" if name in slots else value
    return "".join(part["text"] for part in parts).strip(), slots
