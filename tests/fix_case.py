"""A command that is refused, what its fix says to type, and words that such commands share."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from conftest import SMALL

RUNS = "it runs"
TOY = " ".join(("train", *SMALL))
MODEL = "model=local model.path"
ROWS = "data=files data.train=rows.jsonl"
LOOSE = "cp -r run/adapter loose && rm -f loose/digests.json"
FEW = "rows=1 evaluation.baselines=[]"
RUN = f"{TOY} adapter.r=4"
TEXTS = f"{TOY} data=files data.train=texts.jsonl"
_JOB = '{"overrides": [], "varying": {}}'
SWEEP_OF_TWO = f'echo \'{{"jobs": {{"0": {_JOB}, "1": {_JOB}}}}}\' > sweep/sweep.json'
LONGER = "trainer.max_epochs=2 trainer.max_steps=null"
JUDGE = "judge run=run local=base max_tokens=4 attempts=1 rows=1"
JUDGED = "was judged"
PREPARE = "prepare model=tiny data=files data.train=rows.jsonl"
PART = "data.parts.own"
FILES_PART = f"data=mixed {PART}.source=files {PART}.train=rows.jsonl"
SCHEMA = "echo '{}' > schema.json"
CHECK = "compare baseline=compared/a candidate=compared/b"
REPOSITORY = Path(__file__).parents[1]
AGAIN = "hydratune prepare model=tiny output=out"
ADALORA = f"{TOY} adapter=adalora adapter.tinit=0 adapter.tfinal=0"


@dataclass(frozen=True)
class Case:
    """A command that is refused, and what a reader of the fix types."""

    line: str  # after "hydratune", as in a shell
    # part of the fix -> the settings that are typed for it, as in a shell: -KEY leaves one out;
    # "hydratune ..." is a whole command; "! ..." is done in the folder, and the command repeated;
    # "printed" is the command that stands in the fix.
    # Empty: the settings in the fix are typed as they stand there.
    ways: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()  # functions of fix_places.py
    setup: str = "true"  # what is done in the folder before
    only_settings: bool = False  # the command ends once its settings are checked
    ends: str = RUNS  # what is printed in the end, if the command does not succeed


def rows_file(name: str, *rows: Mapping[str, object]) -> str:
    """Return the command that writes 40 rows, in turn like ``rows``, whose N is a number."""
    lines = (json.dumps(row).replace("N", str(n)) for n in range(40) for row in rows)
    text = "\n".join(lines)
    return f"cat > {name} <<'END'\n{text}\nEND"


def turns(*pairs: tuple[str, str]) -> dict[str, object]:
    """Return a row with a conversation of (role, text)."""
    return {"messages": [{"role": role, "content": text} for role, text in pairs]}
