"""What submitit runs in a job of Slurm: the process of one pack, and what happens to it when Slurm
takes the machine away.

submitit pickles a ``PackJob``. It holds a command and the names of folders, nothing else.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from hydratune.records.run_directory import RunDirectory
from hydratune.sweeps.processes import INTERRUPTED
from hydratune.sweeps.stop_requests import is_to_interrupt, is_to_stop

_SAVED = (75, INTERRUPTED)  # exit codes of a pack and of a run that saved their work to be resumed
_POLL = 0.2  # seconds between two looks whether the process has ended


def result_file(folder: Path, job_id: str) -> Path:
    """Return the file that holds the exit code of a pack, in the folder of the logs."""
    return folder / f"{job_id}_result.json"


class PackJob:
    """Runs ``command`` and writes its exit code into ``folder``.

    ``alone_in``: the folder of a job whose own process this is, and which may be asked to stop; the
    process of a pack looks for such requests itself.

    Slurm sends SIGUSR2 before the time limit, and when another job needs the machine: the jobs of
    the pack then save a checkpoint after their optimizer step, and submitit queues the job again.
    Where a cluster sends SIGTERM to preempted jobs, this class does so.
    """

    def __init__(self, command: Sequence[str], folder: str, alone_in: str = "") -> None:
        self.command, self.folder, self.alone_in = tuple(command), folder, alone_in
        self._process_id: int | None = None
        self._is_terminated = False

    def __call__(self) -> None:
        alone = RunDirectory(Path(self.alone_in)) if self.alone_in else None
        if alone is not None and is_to_stop(alone):
            self._write_result(INTERRUPTED)
            return
        signal.signal(signal.SIGTERM, self._terminate)
        process = subprocess.Popen(self.command, preexec_fn=_ignore_user_signals)
        self._process_id = process.pid
        while (code := _exit_code(process.pid)) is None:
            time.sleep(_POLL)
            if alone is not None and is_to_interrupt(alone):
                os.kill(process.pid, signal.SIGUSR2)
                alone = None
        process.wait()
        if not self._is_terminated or code not in _SAVED:
            self._write_result(code)
        elif _slurm_state(_job_id()) == "RUNNING":  # of a cancelled job it is another one
            subprocess.run(["scontrol", "requeue", _job_id()], check=False, timeout=60)
            raise SystemExit(1)
        else:
            raise SystemExit(1)

    def checkpoint(self) -> Any:
        """Let the pack save its work; return what submitit runs when the job starts again.

        submitit calls it in its handler of SIGUSR2, while ``__call__`` waits.
        """
        from submitit.core.utils import DelayedSubmission

        code = None
        while self._process_id is not None and code is None:
            os.kill(self._process_id, signal.SIGUSR2)  # again: at first it is being loaded
            time.sleep(1)
            code = _exit_code(self._process_id)
        if code is not None and code not in _SAVED:
            self._write_result(code)
            raise SystemExit(0 if code == 0 else 1)
        return DelayedSubmission(PackJob(self.command, self.folder, self.alone_in))

    def _terminate(self, signum: int, frame: FrameType | None) -> None:
        self._is_terminated = True
        if self._process_id is not None and _exit_code(self._process_id) is None:
            os.kill(self._process_id, signal.SIGTERM)

    def _write_result(self, code: int) -> None:
        file = result_file(Path(self.folder), _job_id())
        part = file.with_suffix(".part")
        part.write_text(json.dumps({"code": code}), encoding="utf-8")
        part.replace(file)


def _ignore_user_signals() -> None:
    """Ignore what Slurm sends to all processes of a job, until the pack itself handles it."""
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def _exit_code(process_id: int) -> int | None:
    """Return the exit code of a child, negative for a signal; None while it runs.

    The child is not reaped, so that a signal handler may ask while the code it interrupts asks.
    """
    ended = os.waitid(os.P_PID, process_id, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    if ended is None:
        return None
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


def _job_id() -> str:
    """Return the id of this job as submitit and squeue write it."""
    import submitit

    return str(submitit.JobEnvironment().job_id)


def _slurm_state(job_id: str) -> str:
    """Return the state of a job, or "" if Slurm does not say."""
    command = ["squeue", "--noheader", "--format=%T", f"--jobs={job_id}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout.strip()
