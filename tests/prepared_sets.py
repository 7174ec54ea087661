"""Rows that are prepared, and the report of a preparation."""

import json
from pathlib import Path
from typing import Any

WORDS = [
    "amber",
    "basil",
    "cedar",
    "dune",
    "ember",
    "fjord",
    "grove",
    "heron",
    "inlet",
    "jetty",
    "knoll",
    "larch",
    "maple",
    "north",
    "opal",
    "pine",
    "reef",
    "slate",
    "tarn",
    "vale",
]


def records(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Return rows none of which is nearly equal to another."""

    def prompt(i: int) -> str:
        return f"{WORDS[i % 20]} {WORDS[i * 7 % 19]} {i * 7919 % 100_003} {WORDS[i // 20 % 20]}?"

    return [
        {"id": f"r{i}", "prompt": prompt(i), "completion": f"It is {WORDS[i % 17]}."}
        for i in range(start, start + count)
    ]


def report_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text())
