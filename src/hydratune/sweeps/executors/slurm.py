"""Packs as jobs of a Slurm cluster, submitted together as an array by submitit."""

import os
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.markup import escape

from hydratune import extras
from hydratune.console import console, relative_path, section
from hydratune.errors import SweepError
from hydratune.records.files import read_json
from hydratune.settings.secrets import without_secrets
from hydratune.sweeps.executor_options import SlurmOptions
from hydratune.sweeps.executors.executor import EndedPack
from hydratune.sweeps.executors.job_news import JobNews
from hydratune.sweeps.executors.slurm_job import PackJob, result_file
from hydratune.sweeps.executors.slurm_queue import (
    JobInfo,
    SlurmSilentError,
    cancel,
    has_slurm,
    job_infos,
)
from hydratune.sweeps.executors.submitted import (
    LOG_FOLDER,
    SubmittedPack,
    add_submitted,
    forget_submitted,
    read_submitted,
)
from hydratune.sweeps.options import PackOptions
from hydratune.sweeps.pack_arguments import PackArguments
from hydratune.sweeps.planning import PlannedJob, PlannedPack
from hydratune.tracking.typed_command import environment_with_command

_POLL = 3.0  # seconds between two questions to Slurm
_NO_RESULT = 20.0  # seconds a job that is over may lack its result, while files reach this machine
_SILENT = 900.0  # seconds for which Slurm may give no answer
_TIME_TO_SAVE = 120.0  # seconds after which cancelled jobs are no longer waited for


class SlurmExecutor:
    """Runs each pack as a job of Slurm."""

    def __init__(
        self,
        folder: Path,
        options: PackOptions,
        settings: SlurmOptions,
        jobs: Mapping[str, PlannedJob],
    ) -> None:
        """``jobs``: all of the sweep, by name. Raises ``SweepError`` where there is no Slurm."""
        extras.require("submitit", "hydra/launcher/executor=slurm")
        if not has_slurm():
            raise SweepError(
                "hydra/launcher/executor=slurm: this machine has no sbatch; type the command on a"
                " machine of the cluster from which jobs are submitted, or leave the executor out"
            )
        self._folder, self._options, self._settings = folder, options, settings
        self._logs = folder / LOG_FOLDER
        self._submitted = {item.job_id: item.pack for item in read_submitted(folder, jobs)}
        self._over_since: dict[str, float] = {}  # job -> when it was first seen to be over
        self._infos: Mapping[str, JobInfo] = {}
        self._asked = self._answered = time.monotonic()
        self._news = JobNews(jobs.values())
        self._has_said_hidden = False  # which variables jobs do not get
        if self._submitted:
            console.print(f"submitted before: Slurm {_listed(self._submitted)}", soft_wrap=True)
            self._asked = -_POLL

    def free(self) -> int:
        return sys.maxsize

    def running(self) -> Sequence[PlannedPack]:
        return list(self._submitted.values())

    def close(self) -> None:
        """Do nothing: the jobs continue."""

    def submit(self, packs: Sequence[PlannedPack]) -> None:
        """Submit packs as one array, or a single one as a job."""
        import submitit

        self._logs.mkdir(parents=True, exist_ok=True)
        work = [PackJob(self._command(p), str(self._logs), p.alone_in) for p in packs]
        executor = submitit.SlurmExecutor(self._logs, max_num_timeout=self._settings.time_limits)
        executor.update_parameters(**self._parameters())
        try:
            self._say_hidden()
            with _environment_of_jobs():
                jobs = executor.submit_array(work)
        except (subprocess.CalledProcessError, submitit.core.utils.FailedJobError) as error:
            text = " ".join(str(error).split())
            raise SweepError(
                f"Slurm did not take the jobs: {text}; set hydra.launcher.executor to what this"
                " cluster has (sinfo lists its partitions), and type the command again"
            ) from error
        new = [SubmittedPack(job.job_id, pack) for job, pack in zip(jobs, packs, strict=True)]
        add_submitted(self._folder, new)
        for item in new:
            self._submitted[item.job_id] = item.pack
            self._news.add(item.pack.jobs)
            section(item.pack.title)
            log = escape(str(relative_path(self._log_file(item.job_id))))
            console.print(f"Slurm job {item.job_id}, log {log}", soft_wrap=True)

    def ended(self) -> Sequence[EndedPack]:
        if time.monotonic() - self._asked < _POLL:
            return []
        ended = self._ended_now()
        while self._over_since and not self._settings.wait:  # nobody asks again soon
            time.sleep(1)
            ended += self._ended_now()
        return ended

    def _ended_now(self) -> list[EndedPack]:
        self._asked = time.monotonic()
        self._ask_slurm()
        self._news.print_changes()
        ended = {job: end for job in self._submitted if (end := self._end_of(job)) is not None}
        for job in ended:
            del self._submitted[job]
            self._over_since.pop(job, None)
        if ended:
            forget_submitted(self._folder, ended)
        return list(ended.values())

    def cancel(self) -> None:
        console.print(f"cancelling Slurm {_listed(self._submitted)}", soft_wrap=True)
        left, why = set(self._submitted), ""
        try:
            cancel(left)
            left = self._wait_for_end(left)
        except SlurmSilentError as error:
            why = f" ({escape(str(error))})"
        forget_submitted(self._folder, self._submitted.keys() - left)
        self._submitted = {}
        if left:
            console.print(
                f"[red]Slurm has not ended {_listed(left)}{why}: type scancel"
                f" {' '.join(sorted(left))}, or the same command again, which waits for them",
                soft_wrap=True,
            )

    def _wait_for_end(self, jobs: Collection[str]) -> set[str]:
        """Wait for the end of cancelled jobs; return those that are still there after a while.

        Raises ``SlurmSilentError``.
        """
        deadline = time.monotonic() + _TIME_TO_SAVE
        while True:
            infos = job_infos(jobs)
            active = {job for job, info in infos.items() if info.is_active}
            if not active or time.monotonic() > deadline:
                return active
            time.sleep(1)

    def _command(self, pack: PlannedPack) -> Sequence[str]:
        threads = self._settings.cpus
        arguments = PackArguments.of(
            self._folder, pack, self._options, threads, parent=0, is_requeued=True
        )
        return pack.command or arguments.command()

    def _say_hidden(self) -> None:
        """Name once the variables that jobs do not get."""
        hidden = sorted(os.environ.keys() - without_secrets(os.environ).keys())
        if hidden and not self._has_said_hidden:
            console.print(
                f"[yellow]jobs do not get {', '.join(hidden)}: Slurm would store them; a line of"
                " hydra.launcher.executor.setup can read them from a file of yours",
                soft_wrap=True,
            )
        self._has_said_hidden = True

    def _parameters(self) -> dict[str, object]:
        """Return what submitit writes into the file for sbatch."""
        own = self._settings
        parameters: dict[str, object] = {
            "job_name": f"hydratune-{self._folder.name}",
            "time": own.minutes,
            "cpus_per_task": own.cpus,
            "signal_delay_s": own.seconds_to_save,
            "array_parallelism": own.at_once,
            "stderr_to_stdout": True,
            "wckey": None,  # submitit's own would be refused where such keys are counted
            "additional_parameters": {**own.parameters, "requeue": True},
        }
        if own.memory_gb is not None:
            parameters["mem"] = f"{int(own.memory_gb * 1024)}M"
        given = {"partition": own.partition, "account": own.account, "gres": own.gres}
        parameters |= {key: value for key, value in given.items() if value is not None}
        return parameters | ({"setup": own.setup} if own.setup else {})

    def _log_file(self, job_id: str) -> Path:
        return self._logs / f"{job_id}_0_log.out"

    def _ask_slurm(self) -> None:
        """Ask for the states of the jobs, and print those that changed."""
        try:
            infos = job_infos(self._submitted.keys())
        except SlurmSilentError as error:
            if time.monotonic() - self._answered > _SILENT:
                raise SweepError(
                    f"Slurm has not answered for {_SILENT / 60:.0f} minutes ({error}); its jobs"
                    " may still run, and the same command collects their results"
                ) from error
            return
        self._answered = time.monotonic()
        for job, info in infos.items():
            before = self._infos.get(job)
            is_new = before is None or before.state != info.state
            if is_new or (info.never_starts and info != before):
                why = f" ({info.why})" if info.why else ""
                text = f"Slurm job {job}: {info.state.lower()}{why}"
                console.print(f"[dim]{escape(text)}", soft_wrap=True)
            if info.never_starts and info != before:
                console.print(
                    "[yellow]for this reason it does not start: Ctrl-C ends it, and sinfo shows"
                    " what hydra.launcher.executor can ask for",
                    soft_wrap=True,
                )
        self._infos = infos

    def _end_of(self, job: str) -> EndedPack | None:
        """Return how a job has ended; None if it has not, or its result may still arrive."""
        pack, file, info = self._submitted[job], result_file(self._logs, job), self._infos.get(job)
        if file.is_file():
            return EndedPack(pack, int(read_json(file)["code"]))  # type: ignore[call-overload]
        if self._answered < self._asked or (info is not None and info.is_active):
            self._over_since.pop(job, None)
            return None
        now = time.monotonic()
        if now - self._over_since.setdefault(job, now) < _NO_RESULT:
            return None
        state = info.state if info is not None else "unknown to Slurm"
        names = ", ".join(planned.name for planned in pack.jobs)
        log = relative_path(self._log_file(job))
        why = f"Slurm job {job} ended without a result: {state}; jobs {names}; see {log}"
        return EndedPack(pack, 1, why, is_cancelled=state == "CANCELLED")


def _listed(jobs: Collection[str]) -> str:
    return f"{'job' if len(jobs) == 1 else 'jobs'} {', '.join(sorted(jobs))}"


@contextmanager
def _environment_of_jobs() -> Iterator[None]:
    """Let this process have the environment that its jobs get, inside the block.

    Slurm stores the environment of every job, so it holds no secret; and the variables of a job in
    which this process runs are not those of its own jobs.
    """
    before = dict(os.environ)
    kept = {
        name: value
        for name, value in environment_with_command(without_secrets(before)).items()
        if not name.startswith("SLURM_") or name == "SLURM_CONF"
    }
    os.environ.clear()
    os.environ.update(kept)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
