"""What is said of a setting that has to be given and was not, or of a run that is not there."""

from itertools import islice
from pathlib import Path

from hydratune.errors import Problem
from hydratune.settings.paths import CONFIG_FILE

NOT_GIVEN = "(not given)"  # shown in place of a value
_EXAMPLES = {  # of the values of settings without a default, by the end of their keys
    "train": "rows.jsonl",
    "path": "FOLDER",
    "id": "OWNER/NAME",
}
_RUNS_LOOKED_AT = 1_000


def not_given(key: str, why: str = "this setting has no default", before: str = "") -> Problem:
    """Return the problem of the setting ``key``, which has to be given.

    ``before``: what the advice names before the setting, such as the option of its group.
    """
    return Problem(key, NOT_GIVEN, why, f"give it, for example: {before}{key}={_example(key)}")


def _example(key: str) -> str:
    return example_run() if key == "run" else _EXAMPLES.get(key.rpartition(".")[2], "VALUE")


def example_run() -> str:
    """Return the newest run below ``outputs``; what its path looks like if there is none."""
    files = islice(Path("outputs").glob(f"*/*/{CONFIG_FILE}"), _RUNS_LOOKED_AT)
    newest = max(((file.stat().st_mtime, str(file.parent)) for file in files), default=None)
    return newest[1] if newest is not None else "outputs/contracts/<timestamp>"
