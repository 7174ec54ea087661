"""What is said of a setting that has to be given and was not, or of a run that is not there."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from hydratune.errors import Problem
from hydratune.settings.overrides import as_typed
from hydratune.settings.paths import CONFIG_FILE, METRICS_FILE, PARITY_FILE

NOT_GIVEN = "(not given)"  # shown in place of a value
_EXAMPLES = {  # of the values of settings without a default, by the end of their keys
    "train": "rows.jsonl",
    "path": "FOLDER",
    "id": "OWNER/NAME",
    "input": "rows.jsonl",
    "output": "answers.jsonl",
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
    """Return the newest run below ``outputs``, a finished one if there is any; what its path looks
    like if there is no run.
    """
    newest = max(map(_rank, islice(_runs_below(Path("outputs")), _RUNS_LOOKED_AT)), default=None)
    return newest[-1] if newest is not None else "outputs/contracts/<timestamp>"


def no_run(path: Path) -> tuple[str, str]:
    """Return why ``path`` is not a run directory, and which run was probably meant."""
    why = f"this is not a run directory (no {CONFIG_FILE} in it)"
    if not path.exists():
        why = "this is not a run directory: there is no such folder"
    if any((place / PARITY_FILE).is_file() for place in (path, path.parent)):
        why = "this is an export, and not a run directory"
        own = f"hydratune serve {as_typed('export', path)}"
        return why, f"give the run that was exported; {own} answers with the export itself"
    around = next((p for p in path.parents if _is_run(p)), None)
    if around is not None:
        return why, f"{around} is one: {as_typed('run', around)}"
    within = list(islice(_runs_below(path), _RUNS_LOOKED_AT)) if path.is_dir() else []
    if within:
        run = max(map(_rank, within))[-1]
        return why, f"give one of the runs in it, such as {as_typed('run', run)}"
    return why, f"give a run directory such as {example_run()}"


def _runs_below(folder: Path) -> Iterator[Path]:
    """Yield the runs one and two levels below a folder: not the copies in their ``.hydra``."""
    for pattern in ("*", "*/*"):
        for file in folder.glob(f"{pattern}/{CONFIG_FILE}"):
            if not any(part.startswith(".") for part in file.relative_to(folder).parts):
                yield file.parent


def _is_run(folder: Path) -> bool:
    return (folder / CONFIG_FILE).is_file()


def _rank(run: Path) -> tuple[bool, float, str]:
    """Return what is largest for the run to be named as an example."""
    return (run / METRICS_FILE).is_file(), (run / CONFIG_FILE).stat().st_mtime, str(run)
