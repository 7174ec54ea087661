"""Which run directories a process works in at the moment.

A process holds the lock of its run directory. Linux lists the locks of the machine in /proc/locks,
so nothing is locked in order to ask; elsewhere the lock is tried for a moment.
"""

import os
import socket
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

from hydratune.records.run_directory import RunFile

_LOCKS = Path("/proc/locks")  # proc(5)


class HeldLocks:
    """The locks of this machine at one time."""

    def __init__(self) -> None:
        self._processes = _processes()

    def process(self, folder: Path) -> int | None:
        """Return the process that holds the lock of ``folder``; 0: one whose number is unknown.

        None: no process of this machine holds it.
        """
        lock = folder / RunFile.lock
        try:
            found = lock.stat()
        except OSError:
            return None
        if self._processes is not None:
            key = os.major(found.st_dev), os.minor(found.st_dev), found.st_ino
            return self._processes.get(key)
        try:
            with FileLock(lock, timeout=0):
                return None
        except (Timeout, OSError):
            return 0


def _processes() -> dict[tuple[int, int, int], int] | None:
    """Return (major, minor, inode) -> process for all locks; None if they are not listed."""
    try:
        lines = _LOCKS.read_text("ascii").splitlines()
    except OSError:
        return None
    held: dict[tuple[int, int, int], int] = {}
    for line in lines:  # 1: FLOCK  ADVISORY  WRITE 708 08:01:2097547 0 EOF
        words = line.split()
        if len(words) < 8 or words[1] == "->":  # a process that waits for the lock
            continue
        major, minor, inode = words[5].split(":")
        held[int(major, 16), int(minor, 16), int(inode)] = max(0, int(words[4]))
    return held


@cache
def this_host() -> str:
    """Return the name of this machine, as a run that starts here writes it into its status."""
    return socket.gethostname()
