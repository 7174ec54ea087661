"""The ``RunContext`` of a job of a pack: resources, compute and schedule that the jobs share."""

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TypeVar

from torch import nn

from hydratune.errors import CannotSharePackError
from hydratune.experiment.context import RunContext, SingleRunResources
from hydratune.records.run_directory import RunDirectory
from hydratune.records.status import Rung
from hydratune.signals import kept_from_children
from hydratune.sweeps.halving import HalvingScheduler
from hydratune.sweeps.pack_resources import JobWorkers, PackResources
from hydratune.sweeps.stop_requests import request_stop
from hydratune.sweeps.watch import Heartbeat
from hydratune.training.protocols import RungScore

Made = TypeVar("Made")
Model = TypeVar("Model", bound=nn.Module)


def pack_context(
    resources: PackResources, heartbeat: Heartbeat, scheduler: HalvingScheduler
) -> RunContext:
    """Return the context of the job of ``heartbeat``, which is run by the calling thread."""
    leave = resources.leave_job[heartbeat.name]
    job_resources = JobResources(resources, heartbeat)
    workers = JobWorkers(resources, heartbeat, leave)
    schedule = JobSchedule(scheduler, heartbeat, leave, resources.leave_after_step)
    return RunContext(job_resources, JobCompute(workers, job_resources), schedule)


class JobResources(SingleRunResources):
    """The resources of a pack as one job sees them."""

    def __init__(self, resources: PackResources, heartbeat: Heartbeat) -> None:
        self._resources, self._heartbeat = resources, heartbeat
        self.base_weights: set[int] = set()  # ``id`` of each weight that all jobs share

    def shared(self, name: str, make: Callable[[], Made]) -> Made:
        return self._resources.shared(name, make, self._heartbeat)

    def own(self, model: Model) -> Model:
        self.base_weights = {id(tensor) for tensor in model.parameters()}
        return self._resources.own(model, self._heartbeat)

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        with self._heartbeat.holding(self._resources.random_generators), super().seeded(seed):
            yield

    @contextmanager
    def one_at_a_time(self, name: str) -> Iterator[None]:
        with self._heartbeat.holding(self._resources.lock(name)):
            yield

    def tracker(self, start: Callable[[], Made]) -> tuple[Made, bool]:
        trackers: dict[str, Made] = self._resources.trackers  # type: ignore[assignment]  # one type
        is_new = self._heartbeat.name not in trackers
        if is_new:
            # a run that its cluster tells to leave still needs its client
            shield = kept_from_children("SIGTERM", "SIGUSR2")
            with shield if self._resources.signals_reach_all else nullcontext():
                trackers[self._heartbeat.name] = start()
        return trackers[self._heartbeat.name], is_new


class JobCompute:
    """The worker pool of a pack, with the CPU time of one job.

    What a trial owns (modules with their hooks, optimizer, logger) stays in its run; the pool only
    executes its passes, and merges those of several trials where no bit depends on it.
    """

    def __init__(self, workers: JobWorkers, resources: JobResources) -> None:
        self.pool, self._resources = workers, resources
        self._thread_began = time.thread_time()

    def cpu_seconds(self) -> float:
        return self.pool.seconds + time.thread_time() - self._thread_began

    def accept(self, model: nn.Module) -> None:
        from hydratune.training.randomness import draws_outside_lora

        shared = self._resources.base_weights
        trained = [p for p in model.parameters() if p.requires_grad and id(p) in shared]
        for parameter in trained:  # so that no other job takes it for a trained one of its own
            parameter.requires_grad_(False)
        if trained:
            raise CannotSharePackError(
                "its adapter trains weights of the base model, which all jobs share"
            )
        if draws_outside_lora(model):
            raise CannotSharePackError(
                "its dropout draws from the process's generator, whose order would depend on the"
                " other jobs"
            )


class JobSchedule:
    """When a job of a pack is paused, and when it leaves."""

    def __init__(
        self,
        scheduler: HalvingScheduler,
        heartbeat: Heartbeat,
        leave: threading.Event,
        after_step: threading.Event,
    ) -> None:
        """``leave``: set when this job alone is to leave. ``after_step``: set when all jobs are to
        leave, after an optimizer step.
        """
        self.began = time.perf_counter()
        self._leave, self._after_step = leave, after_step
        self._scheduler, self._heartbeat = scheduler, heartbeat
        self._rungs: list[int] = []

    def stop(self) -> None:
        """Stop this job alone, as the user asks for in W&B."""
        path = self._record.path
        request_stop(path.parent, path.name)
        self._leave.set()

    @property
    def _record(self) -> RunDirectory:
        return self._heartbeat.record

    def rungs(self, total: int) -> Sequence[int]:
        self._rungs = self._scheduler.halving.rungs(total)
        return self._rungs

    def judged(self, step: int) -> bool:
        return any(rung.step == step for rung in self._record.read_status().rungs)

    def may_continue(self, step: int, score: RungScore) -> bool:
        """Report the score at a rung; return whether the job continues at once."""
        self._heartbeat.beat()
        rung = Rung(step, _finite(score.loss), _finite(score.value), score.interval)
        self._record.change_status(lambda status: status.report(rung))
        return self._scheduler.report_rung(self._heartbeat.name, self._rungs.index(step), score)

    @contextmanager
    def training(self) -> Iterator[None]:
        self._heartbeat.in_training = True
        try:
            yield
        finally:
            self._heartbeat.in_training = False

    def is_to_leave(self) -> bool:
        return self._after_step.is_set()

    def ignore_interrupts(self) -> None:
        """Do nothing: signals reach the main thread only, which waits for all jobs."""


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
