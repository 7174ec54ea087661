"""Packs as tasks of a Ray cluster.

A task ends with the driver: Ray kills its worker, the pack saves its jobs, and the same command
continues them. What a pack prints comes to the driver through Ray, as what its task yields.
"""

import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.text import Text

from hydratune import extras
from hydratune.console import console, relative_path, section
from hydratune.errors import SweepError
from hydratune.records.status import Outcome, State, Status
from hydratune.settings.monitor import Monitor
from hydratune.settings.secrets import without_secrets
from hydratune.sweeps.executor_options import RayOptions
from hydratune.sweeps.executors.executor import EndedPack
from hydratune.sweeps.executors.guard import TIME_TO_SAVE, read_result
from hydratune.sweeps.executors.ray_cluster import RayCluster
from hydratune.sweeps.executors.ray_worker import PackNews, PackWork, run_pack, versions
from hydratune.sweeps.options import PackOptions
from hydratune.sweeps.pack_arguments import NEEDS_NEW_PACK, PackArguments
from hydratune.sweeps.planning import PlannedJob, PlannedPack
from hydratune.sweeps.progress_table import ProgressTable
from hydratune.sweeps.stop_requests import stop_requests
from hydratune.tracking.typed_command import environment_with_command

LOG_FOLDER = "ray"  # in that of the sweep
_TIME_TO_LEAVE = TIME_TO_SAVE + 15.0  # seconds in which a pack ends whose worker has died
_TIME_TO_BEGIN = 5.0  # the same for one of which nothing was heard
# variables of the driver that packs get: what changes their results, and where they store them
_PASSED = ("HYDRATUNE_", "HF_", "WANDB_", "TRANSFORMERS_", "TOKENIZERS_", "PYTHONHASHSEED")


@dataclass
class _Task:
    pack: PlannedPack
    news: Any  # the generator of what its task yields
    log: Path
    result: Path
    progress: Path
    has_begun: bool = False
    died: str = ""  # how its worker has died
    is_node_lost: bool = False
    is_cancelled: bool = False  # by somebody else
    deadline: float = 0.0  # by which a pack whose worker has died must have ended

    def forget(self) -> None:
        """Remove the files of its end and of its progress."""
        for file in (self.result, self.progress):
            file.unlink(missing_ok=True)

    @property
    def title(self) -> str:
        return self.pack.title.partition(":")[0]


class RayExecutor:
    """Runs each pack in a task of Ray."""

    def __init__(
        self,
        folder: Path,
        options: PackOptions,
        settings: RayOptions,
        jobs: Mapping[str, PlannedJob],
    ) -> None:
        """``jobs``: all of the sweep, by name. Raises ``SweepError`` where there is no Ray."""
        extras.require("ray", "hydra/launcher/executor=ray")
        self._folder, self._options, self._settings = folder, options, settings
        self._tasks: list[_Task] = []
        self._lost: Counter[str] = Counter()  # job -> how often its node was lost
        self._board: ProgressTable | None = None
        self._jobs = jobs
        with ExitStack() as stack:
            stack.callback(RayCluster(settings).close)
            self._resources = self._resources_of_pack(jobs)
            self._variables = self._passed_variables()
            if console.is_terminal:
                first = next(iter(jobs.values()), None)  # none before the first trial of a search
                monitor = Monitor.read(first.settings.trainer.monitor) if first else Monitor()
                self._board = stack.enter_context(ProgressTable(folder, list(jobs), monitor))
            self._closing = stack.pop_all()

    def free(self) -> int:
        return self._settings.at_once - len(self._tasks)

    def running(self) -> Sequence[PlannedPack]:
        return [task.pack for task in self._tasks]

    def close(self) -> None:
        """End the tasks that are left, and the connection."""
        with self._closing:
            if self._tasks:
                self.cancel()
            self._show_ends(self._jobs.values(), after="paused")  # those halved after their pack

    def submit(self, packs: Sequence[PlannedPack]) -> None:
        import ray

        logs = self._folder / LOG_FOLDER
        logs.mkdir(parents=True, exist_ok=True)
        for pack in packs:
            section(pack.title)
            number = 1 + max(
                (int(p.stem) for p in logs.glob("*.log") if p.stem.isdigit()), default=0
            )
            log, result = logs / f"{number}.log", logs / f"{number}.json"
            progress = logs / f"{number}.progress.json"
            log.touch()
            work = PackWork(
                tuple(self._command(pack)),
                str(Path.cwd()),
                str(log),
                str(result),
                self._variables,
                versions(),
                pack.alone_in,
                "" if self._board is None else str(progress),
            )
            # Ray itself never starts a pack again: its jobs are counted here
            task = ray.remote(max_retries=0, num_returns="streaming")(run_pack)
            news = task.options(
                name=f"{self._folder.name}: {pack.title}", **self._resources
            ).remote(work)
            self._tasks.append(_Task(pack, news, log, result, progress))
            self._show_added(pack.jobs)
            console.print(f"Ray task, log {escape(str(relative_path(log)))}", soft_wrap=True)

    def ended(self) -> Sequence[EndedPack]:
        ended = []
        for task in list(self._tasks):
            end = self._end_of(task)
            if end is not None:
                self._tasks.remove(task)
                task.forget()
                self._show_ends(task.pack.jobs)
                ended.append(end)
        return ended

    def cancel(self) -> None:
        """Kill the workers, whose packs then save their jobs, and wait for these."""
        import ray

        console.print("ending the tasks of Ray; their jobs are saved", soft_wrap=True)
        for task in self._tasks:
            with suppress(Exception):
                ray.cancel(task.news, force=True)
        now = time.monotonic()
        for task in self._tasks:
            deadline = now + (_TIME_TO_LEAVE if self._has_begun(task) else _TIME_TO_BEGIN)
            while read_result(task.result) is None and time.monotonic() < deadline:
                time.sleep(0.1)
            task.forget()
        self._tasks = []

    def _show_added(self, jobs: Iterable[PlannedJob]) -> None:
        """Show further jobs on the terminal: trials of a search, and jobs that were added."""
        for job in jobs:
            if self._board is not None and job.name not in self._board.lines:
                self._board.add(job.name)

    def _show_ends(self, jobs: Iterable[PlannedJob], after: str = "") -> None:
        """Show on the terminal what became of jobs, also of those that were halved since.

        ``after``: only of those that are shown in this state.
        """
        if self._board is None:
            return
        for job in jobs:
            if after and self._board.lines[job.name].state != after:
                continue
            if job.status.state in (State.finished, State.failed, State.stopped):
                self._board.ended(job.name, job.status)

    def _command(self, pack: PlannedPack) -> Sequence[str]:
        threads = self._settings.cores or 1
        arguments = PackArguments.of(
            self._folder, pack, self._options, threads, parent=None, is_requeued=True
        )
        return pack.command or arguments.command()

    # ------------------------------------------------------------------------------ the cluster
    def _resources_of_pack(self, jobs: Mapping[str, PlannedJob]) -> dict[str, Any]:
        """Return what Ray reserves for a pack. Raises ``SweepError`` if no node has it."""
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = self._settings.num_gpus
        if gpus is None:
            has_gpu = any(node.get("GPU", 0) >= 1 for node in nodes)
            on_cpu = bool(jobs) and all(
                job.settings.trainer.accelerator == "cpu" for job in jobs.values()
            )
            gpus = 1.0 if has_gpu and not on_cpu else 0.0
        wanted = {"CPU": self._settings.num_cpus, "GPU": gpus, **self._settings.resources}
        if not any(all(node.get(k, 0) >= v for k, v in wanted.items()) for node in nodes):
            text = ", ".join(f"{name} {amount:g}" for name, amount in wanted.items() if amount)
            most = ", ".join(
                f"{name} {max(node.get(name, 0) for node in nodes):g}" for name in wanted
            )
            raise SweepError(
                f"no node of the Ray cluster has what a pack needs: {text} (most: {most}); set"
                " hydra.launcher.executor.num_cpus, num_gpus and resources to what a node has"
            )
        return {
            "num_cpus": self._settings.num_cpus,
            "num_gpus": gpus,
            "resources": dict(self._settings.resources),
        }

    def _passed_variables(self) -> dict[str, str]:
        """Return the variables that are sent to the packs: those of the field, without secrets."""
        own = {name: v for name, v in os.environ.items() if name.startswith(_PASSED)}
        passed = environment_with_command(without_secrets(own))
        hidden = sorted(own.keys() - passed.keys())
        if hidden and self._settings.address is not None:
            console.print(
                f"[yellow]packs do not get {', '.join(hidden)} of this machine; set them where Ray"
                " is started, or log in on its nodes",
                soft_wrap=True,
            )
        return passed

    # ----------------------------------------------------------------------------- ends of packs
    def _end_of(self, task: _Task) -> EndedPack | None:
        """Return how a pack has ended; None if it has not."""
        if task.died:
            return self._end_of_dead(task)
        code = self._read_news(task)
        return None if code is None else EndedPack(task.pack, code)

    def _read_news(self, task: _Task) -> int | None:
        """Print what a pack has printed; return its exit code if it has ended."""
        import ray

        while ray.wait([task.news], timeout=0)[0]:
            try:
                news: PackNews = ray.get(next(task.news))
            except ray.exceptions.RayTaskError as error:
                text = str(error).strip().splitlines()[-1]
                raise SweepError(
                    f"the Ray task of {task.title} failed: {text}; the nodes need hydratune, its"
                    " extras and the folder of the sweep in the same places as this machine"
                ) from error
            except (ray.exceptions.RayError, StopIteration) as error:
                self._set_dead(task, error)
                return None
            if news.problem:
                raise SweepError(f"{task.title} cannot run: the node {news.problem}")
            if news.host:
                task.has_begun = True
                console.print(f"[dim]{escape(task.title)} runs on {escape(news.host)}")
            if news.progress and self._board is not None:
                self._board.take(news.progress)
            for line in news.lines:
                console.print(Text(f"{task.title} | {line.rstrip()}"), soft_wrap=True)
            if news.code is not None:
                return news.code
        return None

    def _has_begun(self, task: _Task) -> bool:
        return task.has_begun or task.log.stat().st_size > 0

    def _set_dead(self, task: _Task, error: BaseException) -> None:
        """Note that the worker of a task has died; its pack may still be saving its jobs."""
        import ray

        lines = str(error).strip().splitlines()
        kind = type(error).__name__
        task.died = f"{kind}: {lines[0]}" if lines else kind
        task.is_cancelled = isinstance(error, ray.exceptions.TaskCancelledError)
        task.is_node_lost = isinstance(error, ray.exceptions.NodeDiedError)
        seconds = _TIME_TO_LEAVE if self._has_begun(task) else _TIME_TO_BEGIN
        task.deadline = time.monotonic() + seconds
        what = "the node of" if task.is_node_lost else "the Ray worker of"
        console.print(
            f"[yellow]{what} {escape(task.title)} is gone; waiting until its jobs are saved",
            soft_wrap=True,
        )

    def _end_of_dead(self, task: _Task) -> EndedPack | None:
        """Return the end of a pack whose worker has died; None while its jobs may be saved."""
        code = read_result(task.result)
        if code is None and time.monotonic() < task.deadline:
            return None
        if code == 0:
            return EndedPack(task.pack, 0)
        if task.is_cancelled:
            return EndedPack(task.pack, 1, "its Ray task was cancelled", is_cancelled=True)
        self._continue_stopped(task.pack)
        if not task.is_node_lost:
            return EndedPack(task.pack, 1, f"its Ray worker died ({task.died})")
        names = [job.name for job in task.pack.jobs if not job.record.is_finished()]
        self._lost.update(names)
        most, limit = (
            max((self._lost[name] for name in names), default=0),
            self._settings.lost_nodes,
        )
        if most > limit:
            why = f"its node was lost, {most} times by now"
            return EndedPack(task.pack, 1, f"{why} (hydra.launcher.executor.lost_nodes={limit})")
        console.print(
            f"[yellow]{escape(task.title)} lost its node ({most} of {limit}); begun again",
            soft_wrap=True,
        )
        return EndedPack(task.pack, NEEDS_NEW_PACK)

    def _continue_stopped(self, pack: PlannedPack) -> None:
        """Set the jobs to waiting that left because their worker died."""
        asked = stop_requests(self._folder)
        for job in pack.jobs:
            if job.name not in asked and job.status.outcome is Outcome.stopped:
                job.record.change_status(Status.wait)
