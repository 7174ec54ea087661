"""The published SNIPS files -> rows: a voice request and the JSON object of its intent and slots (CC0-1.0)."""

import json
from pathlib import Path

from hydratune.data.rows import Message, Row
from hydratune.errors import DataError


def read_snips(folder: Path, pattern: str) -> list[Row]:
    """Rows of every file that matches ``pattern`` (``train_*_full.json`` or ``validate_*.json``). Raises ``DataError``.

    A slot that occurs several times keeps its values joined by " and ". One published file is latin-1, not UTF-8.
    """
    rows = []
    for path in sorted(folder.glob(pattern)):
        raw = path.read_bytes()
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            text = raw.decode("latin-1")
        try:
            ((intent, requests),) = json.loads(text).items()
        except (ValueError, AttributeError) as error:
            raise DataError(f"{path}: not a SNIPS file, one object {{INTENT: [requests]}} is needed ({error})") from None
        for number, request in enumerate(requests):
            slots: dict[str, str] = {}
            for part in request["data"]:
                if "entity" in part:
                    value = part["text"].strip()
                    slots[part["entity"]] = f"{slots[part['entity']]} and {value}" if part["entity"] in slots else value
            question = "".join(part["text"] for part in request["data"]).strip()
            answer = json.dumps({"intent": intent, "slots": slots}, ensure_ascii=False)
            rows.append(
                Row(f"{path.stem}-{number}", (Message("user", question), Message("assistant", answer)), where=f"{path}[{number + 1}]")
            )
    if not rows:
        raise DataError(f"data.path = {folder}: no file matches {pattern}; give the folder of the published SNIPS files")
    return rows
