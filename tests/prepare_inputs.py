"""Rows and the command that prepares them, for inputs that ask too much."""

import json
from collections.abc import Callable

Run = Callable[..., tuple[int, str]]
ROWS = [
    {"prompt": f"What is {n * 7919 % 10007}?", "completion": json.dumps({"n": n})}
    for n in range(40)
]


def run_prepare(hydratune: Run, *settings: str) -> tuple[int, str]:
    return hydratune("prepare", "model=tiny", "data=files", *settings, "output=out")
