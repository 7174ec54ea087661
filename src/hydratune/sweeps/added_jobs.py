"""Jobs that are added to a sweep later: added.json in its folder.

``hydratune add`` writes there what was typed, so that the same words are the same jobs. While a
process runs the sweep they wait, and it starts them when its own jobs have ended.
"""

import re
import subprocess
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from filelock import FileLock

from hydratune.console import console
from hydratune.records.files import Json, read_json, write_json
from hydratune.records.run_directory import RunDirectory
from hydratune.records.sweep import read_sweep
from hydratune.sweeps.processes import wait
from hydratune.sweeps.stop_requests import stop_requests
from hydratune.wording import counted

ADDED_FILE = "added.json"  # in the folder of a sweep
_NAME = re.compile(r"a\d+-\d+")  # of a job that was added


def number_of(folder: Path, words: Sequence[str], first: Sequence[str], *, is_waiting: bool) -> int:
    """Return the number, from 1, of what was typed to add jobs to the sweep; it is kept.

    ``first``: what was typed to start the sweep. ``is_waiting``: the jobs are to be started by the
    process that runs the sweep.
    """
    with FileLock(folder / f".{ADDED_FILE}.lock"):
        entries, first = _entries(folder), words_of_sweep(folder) or first
        known = [sorted(entry["words"]) for entry in entries]
        if sorted(words) not in known:
            entries.append({"words": list(words), "waits": False})
            known.append(sorted(words))
        number = known.index(sorted(words))
        entries[number] = {"words": entries[number]["words"], "waits": is_waiting}
        write_json(folder / ADDED_FILE, {"sweep": list(first), "added": entries})
    return number + 1


def forget_refused(folder: Path, number: int) -> None:
    """Forget what was typed under ``number``, because it was refused; others keep their numbers."""
    with FileLock(folder / f".{ADDED_FILE}.lock"):
        entries, first = _entries(folder), words_of_sweep(folder)
        entries[number - 1] |= {"waits": False, "refused": True}
        while entries and entries[-1].get("refused"):
            entries.pop()
        write_json(folder / ADDED_FILE, {"sweep": first, "added": entries})


def is_added(name: str) -> bool:
    """Return whether a job of this name was added to its sweep."""
    return _NAME.fullmatch(name) is not None


def has_added_jobs(folder: Path) -> bool:
    """Return whether jobs were added to the sweep in ``folder``."""
    return bool(added_words(folder))


def words_of_sweep(folder: Path) -> list[str]:
    """Return what was typed to start a sweep to which jobs were added; empty for others."""
    file = folder / ADDED_FILE
    return [str(word) for word in read_json(file)["sweep"]] if file.is_file() else []


def added_words(folder: Path) -> list[list[str]]:
    """Return what was typed after ``hydratune add SWEEP``, each time."""
    entries = [entry for entry in _entries(folder) if not entry.get("refused")]
    return [[str(word) for word in entry["words"]] for entry in entries]


def run_waiting(folder: Path) -> list[int]:
    """Start the jobs that were added while the sweep ran; return the exit status of each command.

    The ranking at their end is that of the whole sweep. Those that were asked to stop meanwhile do
    not start.
    """
    if not has_added_jobs(folder):
        return []
    asked, names = stop_requests(folder), list(read_sweep(folder))
    stopped = {name.partition("-")[0] for name in names if name in asked}
    stopped -= {name.partition("-")[0] for name in names if name not in asked}
    with FileLock(folder / f".{ADDED_FILE}.lock"):
        entries, first = _entries(folder), words_of_sweep(folder)
        waiting = [
            entry["words"]
            for number, entry in enumerate(entries, 1)
            if entry["waits"]
            and f"a{number}" not in stopped
            and not _has_run(folder, number, names, asked)
        ]
        if any(entry["waits"] for entry in entries):  # the commands that run them start no others
            none = [{**entry, "waits": False} for entry in entries]
            write_json(folder / ADDED_FILE, {"sweep": first, "added": none})
    if waiting:
        console.print(f"added jobs that have waited start now: {counted(len(waiting), 'command')}")
    add = [sys.executable, "-m", "hydratune", "add", str(folder)]
    return [wait(subprocess.Popen([*add, *words])) for words in waiting]


def _has_run(folder: Path, number: int, names: Iterable[str], asked: Collection[str]) -> bool:
    """Return whether what was typed under ``number`` has been run beside the sweep's own jobs.

    ``asked``: names of the jobs that were asked to stop.
    """
    own = [name for name in names if name.startswith(f"a{number}-")]
    return bool(own) and all(
        name in asked or RunDirectory(folder / name).is_finished() for name in own
    )


def _entries(folder: Path) -> list[dict[str, Json]]:
    file = folder / ADDED_FILE
    entries: Json = read_json(file)["added"] if file.is_file() else []
    return list(entries)
