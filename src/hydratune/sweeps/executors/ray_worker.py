"""What a Ray worker does with a pack: it starts the process of the pack and says how it is doing.

Ray pickles a ``PackWork``. It holds a command, the names of folders and variables that are no
secrets, nothing else.
"""

import os
import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from hydratune.records.run_directory import RunDirectory
from hydratune.sweeps.executors.guard import GuardedProcess
from hydratune.sweeps.processes import INTERRUPTED
from hydratune.sweeps.progress_table import PROGRESS_VARIABLE
from hydratune.sweeps.stop_requests import is_to_interrupt, is_to_stop

_POLL = 0.5  # seconds between two looks at what the pack has printed


class PackWork(NamedTuple):
    """A pack as a worker gets it."""

    command: tuple[str, ...]  # the interpreter of the driver, and its arguments
    folder: str  # in which the command of the sweep was typed
    log: str  # file for what the pack prints
    result: str  # file for its exit code
    variables: dict[str, str]  # of the environment
    versions: str  # of the driver
    alone_in: str = ""  # folder of the job whose own process this is; empty: it is a pack's
    progress: str = ""  # file for what the terminal of the driver shows; empty: it has none


class PackNews(NamedTuple):
    """What a worker says of its pack."""

    lines: tuple[str, ...] = ()  # printed since the last time
    code: int | None = None  # exit code, once it has ended
    host: str = ""  # where it runs, once
    progress: str = ""  # how far the jobs are, for the terminal of the driver
    problem: str = ""  # why it cannot be run there


def versions() -> str:
    """Return the versions that a worker and the driver must have in common."""
    return f"Python {platform.python_version()}, hydratune {metadata.version('hydratune')}"


def run_pack(work: PackWork) -> Iterator[PackNews]:
    """Run a pack in a process of its own that ends, with its work saved, if this worker does."""
    host = platform.node()
    if problem := _problem(work):
        yield PackNews(problem=f"{host} {problem}")
        return
    log = Path(work.log)
    alone = RunDirectory(Path(work.alone_in)) if work.alone_in else None
    if alone is not None and is_to_stop(alone):
        yield PackNews(host=host, code=INTERRUPTED)
        return
    # the interpreter of the worker: its node may have it in another place
    command = (sys.executable, *work.command[1:])
    process = GuardedProcess(command, log, Path(work.result), _environment(work), Path(work.folder))
    yield PackNews(host=host)
    with log.open("rb") as stream:
        rest, shown = b"", ""
        while True:
            if alone is not None and is_to_interrupt(alone):
                process.end()
            code = process.poll(_POLL)
            *lines, rest = (rest + stream.read()).split(b"\n")
            if code is not None and rest:
                lines, rest = [*lines, rest], b""
            progress = _read(work.progress)
            if lines or code is not None or progress != shown:
                texts = tuple(line.decode(errors="replace") for line in lines)
                yield PackNews(texts, code, progress="" if progress == shown else progress)
                shown = progress
            if code is not None:
                return


def _read(file: str) -> str:
    return Path(file).read_text("utf-8") if file and Path(file).is_file() else ""


def _problem(work: PackWork) -> str:
    """Return why this worker cannot run the pack, or ""."""
    if versions() != work.versions:
        return (
            f"has {versions()}, and the driver {work.versions}; start Ray on all nodes from equal"
            " environments (docs/howto/cluster.md)"
        )
    for folder in (work.folder, str(Path(work.log).parent)):
        if not Path(folder).is_dir():
            return f"has no folder {folder}; the nodes have to share the file system of the driver"
    return ""


def _environment(work: PackWork) -> dict[str, str]:
    """Return the environment of the pack: that of the worker, without what belongs to Ray."""
    import ray

    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    hidden = {} if ray.get_gpu_ids() else {"CUDA_VISIBLE_DEVICES": ""}
    stored = {PROGRESS_VARIABLE: work.progress} if work.progress else {}
    return {**own, **work.variables, **hidden, **stored}
