"""The command of a sweep in a process of its own, and what it starts."""

import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from run_files import assert_same_run, history, offline_environment, states, status

SECONDS = 1800.0
# as in /proc/net/tcp and tcp6
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "0" * 31 + "1"}
_LISTENS = "0A"  # state of a socket in /proc/net/tcp
_MARK = "TEST_DRIVER"  # variable that everything has which a driver starts


class Driver:
    """The command of a sweep."""

    def __init__(self, folder: Path, *words: str, **variables: str) -> None:
        self.folder, self.log, self._mark = folder, folder.with_suffix(".log"), uuid.uuid4().hex
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "hydratune", "train", "-m"),
                    *(*words, f"hydra.sweep.dir={folder}"),
                ],
                env=offline_environment(**variables, **{_MARK: self._mark}),
                cwd=folder.parent,
                stdout=log,
                stderr=log,
            )

    def end(self, code: int = 0) -> str:
        """Wait; return what was printed."""
        assert self.process.wait(SECONDS) == code, self.log.read_text()
        return self.log.read_text()

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + SECONDS
        while not condition() and time.monotonic() < deadline and self.process.poll() is None:
            time.sleep(0.1)
        assert condition(), self.log.read_text()

    def steps(self, job: int) -> int:
        """Return how many optimizer steps a job has recorded."""
        file = self.folder / str(job) / "history.csv"
        return max(0, len(file.read_text().splitlines()) - 1) if file.is_file() else 0

    def processes(self) -> dict[int, list[bytes]]:
        """Return the command of every process that was started from here, directly or not."""
        mark = f"{_MARK}={self._mark}".encode()
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if mark in (folder / "environ").read_bytes():
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().split(b"\0")
        return found

    def processes_with(self, word: bytes) -> list[int]:
        """Return the processes with an argument that begins like that."""
        return [
            number
            for number, words in self.processes().items()
            if any(one.startswith(word) for one in words)
        ]

    def packs(self) -> list[int]:
        """Return the processes of packs."""
        return [
            number
            for number, words in self.processes().items()
            if b"hydratune.sweeps.pack" in words and b"-I" not in words
        ]

    def addresses(self) -> set[str]:
        """Return the addresses on which any of the processes listens, as in /proc/net/tcp; Slurm's
        own ones talk to its nodes.
        """
        sockets = set()
        for number, words in self.processes().items():
            if words[0].endswith(b"srun"):
                continue
            with suppress(OSError):
                for file in Path(f"/proc/{number}/fd").iterdir():
                    with suppress(OSError):
                        sockets.add(str(file.readlink()))
        return {address for address, inode in _listeners() if f"socket:[{inode}]" in sockets}


def _listeners() -> Iterator[tuple[str, str]]:
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENS:
                yield fields[1].partition(":")[0], fields[9]


def assert_same_sweep(ours: Path, theirs: Path) -> None:
    """Compare survivors, what they were judged by, and the runs of those that finished."""
    assert states(ours) == states(theirs)
    for name, state in states(theirs).items():
        a, b = status(ours / name), status(theirs / name)
        assert (a.get("rungs"), a.get("halved")) == (b.get("rungs"), b.get("halved"))
        if state == "finished":
            assert_same_run(ours / name, theirs / name)


def assert_same_curves(ours: Path, theirs: Path) -> None:
    """Compare the losses of the jobs of two sweeps as far as both have trained them."""
    assert states(ours).keys() == states(theirs).keys()
    for name in states(ours):
        curves = [[row["train/loss"] for row in history(p / name)] for p in (ours, theirs)]
        common = min(map(len, curves))
        assert common and curves[0][:common] == curves[1][:common]
