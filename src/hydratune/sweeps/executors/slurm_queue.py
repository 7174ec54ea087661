"""The queue of Slurm: the states of jobs, and their end.

submitit asks sacct, which small clusters do not have; squeue knows every job that is not over, and
for some minutes those that are.
"""

import re
import shutil
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass

_SECONDS = 60.0  # for which a command of Slurm may take
_NO_SUCH_JOB = "Invalid job id"
# in which a job runs, or will run
_ACTIVE = (
    *("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "SIGNALING"),
    *("REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD", "RESIZING"),
    *("STAGE_OUT", "PREEMPTED"),
)
# reasons for which a job waits until somebody changes it or the cluster
_NEVER = (
    *("PartitionConfig", "PartitionNodeLimit", "PartitionTimeLimit", "BadConstraints"),
    *("AccountNotAllowed", "InvalidAccount", "InvalidQOS", "QOSNotAllowed"),
)


@dataclass(frozen=True)
class JobInfo:
    """What squeue says of a job."""

    state: str
    why: str  # why it waits, or the node on which it runs

    @property
    def is_active(self) -> bool:
        return self.state in _ACTIVE

    @property
    def never_starts(self) -> bool:
        """Whether it waits for what its partition, account or quality of service does not have."""
        return self.state == "PENDING" and self.why.strip("()") in _NEVER


class SlurmSilentError(Exception):
    """Slurm does not answer."""


def has_slurm() -> bool:
    """Return whether jobs can be submitted from this machine."""
    return all(shutil.which(name) for name in ("sbatch", "squeue", "scancel"))


def job_infos(ids: Collection[str]) -> Mapping[str, JobInfo]:
    """Return what squeue says of jobs; those that it does not know any more are missing.

    ``ids``: as 12, or 12_0 for a job of an array. Raises ``SlurmSilentError``.
    """
    arrays = sorted({job.partition("_")[0] for job in ids})
    if not arrays:
        return {}
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%R"]
    try:
        done = subprocess.run(
            [*command, f"--jobs={','.join(arrays)}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
            start_new_session=True,  # see ``cancel``
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmSilentError(str(error)) from error
    if done.returncode != 0 and _NO_SUCH_JOB not in done.stderr:
        raise SlurmSilentError(done.stderr.strip() or f"squeue ended with {done.returncode}")
    infos = {}
    for line in done.stdout.splitlines():
        job, state, why = (*line.split("|", 2), "", "")[:3]
        if job in ids:
            infos[job] = JobInfo(state, re.sub(r"^\((.*)\)$", r"\1", why))
    return infos


def cancel(ids: Collection[str]) -> None:
    """End jobs: Slurm sends them SIGTERM, and kills them after a while.

    Raises ``SlurmSilentError``. The Ctrl-C, or kill, of a whole group of processes does not reach
    the command, which would leave the jobs as they are.
    """
    if not ids:
        return
    try:
        done = subprocess.run(
            ["scancel", *sorted(ids)],
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmSilentError(str(error)) from error
    if done.returncode != 0 and _NO_SUCH_JOB not in done.stderr:
        raise SlurmSilentError(done.stderr.strip() or f"scancel ended with {done.returncode}")
