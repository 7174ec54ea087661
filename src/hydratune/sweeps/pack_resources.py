"""What the jobs of a pack share: computing threads, the frozen base model, locks, trackers."""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from torch import nn

from hydratune.errors import RunInterrupted
from hydratune.models.hardware import memory
from hydratune.models.loading import with_same_tensors
from hydratune.sweeps.watch import Heartbeat
from hydratune.sweeps.worker_pool import PoolTask, WorkerPool
from hydratune.tracking.tracker import Tracker
from hydratune.training.mergeable import MergeableBatch, MergingPool, Replica
from hydratune.training.merged import BaseReplica
from hydratune.training.products import reorder_weights

log = logging.getLogger(__name__)
_MERGE_TOKENS = 512  # of a merged pass, unless the user sets another number
Made = TypeVar("Made")
Model = TypeVar("Model", bound=nn.Module)
Result = TypeVar("Result")


class PackResources:
    """What the jobs of a pack share."""

    def __init__(
        self, workers: int, merge_tokens: int | None = None, memory_share: float = 0.0
    ) -> None:
        """``workers``: threads that compute. ``merge_tokens``: of a pass for several jobs; None: as
        many as pay on a CPU, and only where no bit of the results depends on it. ``memory_share``:
        of the machine's memory that copies of the base's weights, in a layout that is read faster,
        may take.
        """
        self.memory_share = memory_share
        self._only_if_equal = merge_tokens is None
        self.workers = WorkerPool(workers, _MERGE_TOKENS if merge_tokens is None else merge_tokens)
        self.random_generators = threading.RLock()  # of the process
        self.leave = threading.Event()  # set when the whole pack is to leave at once
        # set when it is to leave, but jobs in training after a step, with a checkpoint
        self.leave_after_step = threading.Event()
        # whether a cluster ends all processes of the pack by a signal, those of W&B as well
        self.signals_reach_all = False
        self.trackers: dict[str, Tracker] = {}  # by the name of the job
        self.begun: set[str] = set()  # names of jobs that were begun in this process
        # by the name of a job: set when this job alone is to leave
        self.leave_job: defaultdict[str, threading.Event] = defaultdict(threading.Event)
        self._shared: dict[str, Any] = {}  # of every type
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._locks_lock = threading.Lock()

    def is_leaving(self) -> bool:
        """Return whether no job is to begin any more."""
        return self.leave.is_set() or self.leave_after_step.is_set()

    def lock(self, name: str) -> threading.Lock:
        """Return the lock of this name."""
        with self._locks_lock:
            return self._locks[name]

    def shared(self, name: str, make: Callable[[], Made], heartbeat: Heartbeat) -> Made:
        """Return what ``make`` made for the first job that asked for ``name``."""
        with heartbeat.holding(self.lock(f"shared {name}")):
            if name not in self._shared:
                self._shared[name] = make()
            made: Made = self._shared[name]
            return made

    def own(self, model: Model, heartbeat: Heartbeat) -> Model:
        """Return a copy of the modules of ``model`` that holds the same tensors."""
        with heartbeat.holding(self.lock("own")):
            # once: it also tests whether they change any bit
            self.shared("layouts", lambda: self._reorder_weights(model), heartbeat)
            if self.workers.merge_tokens:
                self.workers.replica = self.shared(
                    "replica",
                    lambda: BaseReplica(
                        with_same_tensors(model), row_invariant=self._only_if_equal
                    ),
                    heartbeat,
                )
            return with_same_tensors(model)

    def _reorder_weights(self, model: nn.Module) -> int:
        """Copy the frozen weights into the layout that is read fastest; return the bytes used."""
        size = reorder_weights(model, self.memory_share * memory()) if self.memory_share else 0
        if size:
            log.info(
                "copies of the frozen weights as this processor reads them fastest take up to"
                " %.2f GiB",
                size / 2**30,
            )
        return size


class JobWorkers(MergingPool):
    """The worker pool of a pack as one job sees it: what is computed for the job is counted.

    Once the job or the whole pack is to leave, nothing more is computed: ``RunInterrupted`` is
    raised.
    """

    def __init__(
        self, resources: PackResources, heartbeat: Heartbeat, leave: threading.Event
    ) -> None:
        """``leave``: set when this job alone is to leave."""
        self._resources, self._heartbeat, self._leave = resources, heartbeat, leave
        self.seconds = 0.0  # of CPU time
        self._seconds_lock = threading.Lock()

    @property
    def replica(self) -> Replica | None:  # type: ignore[override]  # read-only here
        return self._resources.workers.replica

    def merges(self, tokens: int) -> bool:
        return self._resources.workers.is_small(tokens)

    def submit(
        self, function: Callable[..., Result], /, *args: object, **kwargs: object
    ) -> Future[Result]:
        self._heartbeat.beat()
        task = PoolTask(partial(self._counted, function, *args, **kwargs))
        self._resources.workers.submit([task])
        return task.future

    def map(
        self,
        fn: Callable[..., Result],
        *iterables: Iterable[object],
        timeout: float | None = None,
        chunksize: int = 1,
        **_: object,
    ) -> Iterator[Result]:
        """Compute in order; a call may wait for earlier ones of the same job."""
        jobs = list(zip(*iterables, strict=True))
        return self.map_mergeable(fn, jobs, [None] * len(jobs))

    def map_mergeable(
        self,
        work: Callable[..., Any],
        arguments: Sequence[tuple[Any, ...]],
        batches: Sequence[MergeableBatch | None],
    ) -> Iterator[Any]:
        self._heartbeat.beat()
        tasks = [
            PoolTask(partial(self._counted, work, *own), batch, self._begin, self._end)
            for own, batch in zip(arguments, batches, strict=True)
        ]
        self._resources.workers.submit(tasks)
        return self._results([task.future for task in tasks])

    def _results(self, futures: Sequence[Future[Any]]) -> Iterator[Any]:
        try:
            for future in futures:
                with self._heartbeat.waiting():
                    result = future.result()
                yield result
        finally:
            for future in futures:
                future.cancel()

    def _begin(self) -> None:
        leaving = self._resources.leave.is_set() or self._leave.is_set()
        after_step = self._resources.leave_after_step.is_set()
        if leaving or (after_step and not self._heartbeat.in_training):
            raise RunInterrupted
        self._heartbeat.task_begins()

    def _end(self, seconds: float) -> None:
        self._heartbeat.task_ends()
        with self._seconds_lock:
            self.seconds += seconds

    def _counted(self, function: Callable[..., Result], *args: object, **kwargs: object) -> Result:
        self._begin()
        start = time.thread_time()
        try:
            return function(*args, **kwargs)
        finally:
            self._end(time.thread_time() - start)
