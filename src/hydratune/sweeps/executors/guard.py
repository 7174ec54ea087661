"""Ends a process together with the one that asked for it, but gives it time to save its work.

    python guard.py DESCRIPTOR RESULT FOLDER COMMAND...

Ray kills a worker and the processes it started at once, whereas a pack has to save its jobs. So a
pack is started by a process that is no child of the worker, and that hears through a socket when
the worker is gone, however that happens. If this process dies, its own child is killed with it.
Needs no other module: it is run as a file.
"""

import ctypes
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

TIME_TO_SAVE = 90.0  # seconds from SIGTERM to SIGKILL
_POLL = 0.1
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


class GuardedProcess:
    """A process that gets SIGTERM when this object is closed or this process dies."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        result: Path,
        environment: Mapping[str, str],
        folder: Path | None = None,
        temporary: Path | None = None,
    ) -> None:
        """Start ``command`` in ``folder``; its output is appended to ``log``.

        Its exit code is written into ``result`` as well, for those who outlive this process.
        ``temporary``: a folder that is removed when it has ended.
        """
        self._socket, theirs = socket.socketpair()
        self._code: int | None = None
        guard = [sys.executable, "-I", "-S", __file__, str(theirs.fileno()), str(result)]
        guard.append("" if temporary is None else str(temporary))
        with theirs, log.open("ab") as output:
            subprocess.run(
                [*guard, *command],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=folder,
                check=True,
            )

    def poll(self, seconds: float = 0.0) -> int | None:
        """Return the exit code, negative for a signal; None if it still runs after ``seconds``."""
        if self._code is None and select.select([self._socket], [], [], seconds)[0]:
            # nothing: the guard was killed, and its child with it
            self._code = int(self._socket.recv(16) or -signal.SIGKILL)
            self._socket.close()
        return self._code

    def end(self) -> int:
        """End the process and return its exit code."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        while (code := self.poll(1.0)) is None:
            pass
        return code


def read_result(file: Path) -> int | None:
    """Return the exit code of a process that has ended; None if there is none yet."""
    return int(json.loads(file.read_text("utf-8"))["code"]) if file.is_file() else None


def main(arguments: Sequence[str]) -> None:
    """Run the command until it ends or the other end of the socket is closed."""
    if os.fork():
        os._exit(0)  # the process that waits for this one goes on; the child has another parent now
    os.setsid()
    descriptor, result, temporary, *command = arguments
    asker = socket.socket(fileno=int(descriptor))
    process = subprocess.Popen(command, preexec_fn=_die_with_parent, process_group=0)
    deadline = None
    while process.poll() is None:
        if deadline is not None:
            time.sleep(_POLL)
            if time.monotonic() > deadline:
                process.kill()
        elif select.select([asker], [], [], _POLL)[0]:  # closed: it never sends anything
            process.terminate()
            deadline = time.monotonic() + TIME_TO_SAVE
    code = process.wait()
    if code < 0:  # what it had started has no parent now
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
    if temporary:
        shutil.rmtree(temporary, ignore_errors=True)
    part = Path(f"{result}.part")
    with suppress(OSError):  # the folder was removed
        part.write_text(json.dumps({"code": code}), encoding="utf-8")
        part.replace(result)
    with suppress(OSError):
        asker.send(str(code).encode())


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
