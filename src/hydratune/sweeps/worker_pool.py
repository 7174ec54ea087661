"""The threads that compute for all jobs of a pack, and their queue.

Tasks begin in the order in which they were submitted. A thread that begins a small micro-pack of a
LoRA trial takes others that wait at that moment out of the queue and computes all of them in one
pass (``hydratune.training.merged``). No task waits for others: a micro-pack that is alone in the
queue is computed by its own model, as in a run alone.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch

from hydratune.training.mergeable import MergeableBatch, Replica

log = logging.getLogger(__name__)
_SMALL = 4  # a micro-pack of more than 1/4 of the limit gains too little from a merged pass


@dataclass(eq=False)
class PoolTask:
    """Something to compute for one job."""

    work: Callable[[], Any]
    batch: MergeableBatch | None = None  # what ``work`` computes, if it can be merged with others
    # raises if nothing more is to be computed for the job
    admit: Callable[[], None] = lambda: None
    # takes the CPU-seconds of a merged pass that are this task's
    count: Callable[[float], None] = lambda seconds: None
    future: Future[Any] = field(default_factory=Future)

    @property
    def tokens(self) -> int:
        return self.batch.tokens if self.batch is not None else 0

    def run(self) -> None:
        """Compute it by the job's own model."""
        try:
            result = self.work()
        except BaseException as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class WorkerPool:
    """``workers`` threads with one intra-op thread each."""

    def __init__(self, workers: int, merge_tokens: int = 0) -> None:
        """``merge_tokens``: most tokens of a pass over several micro-packs; 0: no such pass."""
        self.merge_tokens = merge_tokens
        self.replica: Replica | None = None  # computes merged passes
        self.micro_packs = 0  # mergeable ones that were computed
        self.merged = 0  # those of them that were computed together with others
        self._queue: deque[PoolTask] = deque()
        self._changed = threading.Condition()
        # thread -> tokens of the small micro-packs it computes; without threads that compute
        # something else
        self._tokens: dict[int, int] = {}
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"worker {number}", daemon=True)
            for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, tasks: Sequence[PoolTask]) -> None:
        """Append tasks to the queue; one of them may wait for those before it."""
        with self._changed:
            if self._closed:
                raise RuntimeError("this worker pool was closed")
            self._queue += tasks
            self._changed.notify(len(tasks))

    def close(self, *, wait: bool = True) -> None:
        """Wait until everything that was submitted is computed; without ``wait``, begin nothing
        more.
        """
        with self._changed:
            self._closed = True
            if not wait:
                for task in self._queue:
                    task.future.cancel()
                self._queue.clear()
            self._changed.notify_all()
        for thread in self._threads if wait else ():
            thread.join()
        if self.micro_packs:
            text = "%d of %d micro-packs were computed together with others"
            log.info(text, self.merged, self.micro_packs)
        elif self.merge_tokens:
            text = "no micro-packs were computed together: none was of plain LoRA and of at most %d"
            log.info(f"{text} tokens", self.merge_tokens // _SMALL)

    def is_small(self, tokens: int) -> bool:
        """Return whether a micro-pack of so many tokens may be computed together with others."""
        return _SMALL * tokens <= self.merge_tokens

    def _is_small(self, task: PoolTask) -> bool:
        return task.batch is not None and self.is_small(task.tokens)

    def _work(self) -> None:
        torch.set_num_threads(1)
        while tasks := self._take():
            tasks = [task for task in tasks if task.future.set_running_or_notify_cancel()]
            if len(tasks) > 1:
                self._run_merged(tasks)
            elif tasks:
                self._count(tasks, merged=False)
                tasks[0].run()
            del tasks  # while the thread waits, it keeps nothing of a finished task

    def _take(self) -> list[PoolTask]:
        """Take the first task out of the queue, and those that are to be computed with it.

        Waits for one. An empty list: there will be none.
        """
        with self._changed:
            ident = threading.get_ident()
            self._tokens[ident] = 0
            self._changed.wait_for(lambda: self._queue or self._closed)
            if not self._queue:
                return []
            first = self._queue.popleft()
            if not self._is_small(first):
                del self._tokens[ident]
                return [first]
            tasks = [first, *self._take_mergeable(first)]
            self._tokens[ident] = sum(task.tokens for task in tasks)
            return tasks

    def _take_mergeable(self, first: PoolTask) -> list[PoolTask]:
        """Take the tasks that are to be computed with ``first`` out of the queue.

        Not more than makes all threads that compute such tasks, or nothing, equally busy. If one
        thread took all, their jobs would all submit the next ones at the same time, which one
        thread would take again while the others find single ones only.
        """
        if self.replica is None or first.batch is None:
            return []
        kind = first.batch.kind
        candidates = [
            task
            for task in self._queue
            if self._is_small(task) and task.batch is not None and task.batch.kind == kind
        ]
        tokens = first.tokens
        all_tokens = tokens + sum(t.tokens for t in candidates) + sum(self._tokens.values())
        limit = all_tokens / len(self._tokens)
        taken = []
        for task in candidates:
            if tokens < limit and tokens + task.tokens <= self.merge_tokens:
                tokens += task.tokens
                taken.append(task)
        if taken:
            ids = set(map(id, taken))
            self._queue = deque(task for task in self._queue if id(task) not in ids)
        return taken

    def _count(self, tasks: Sequence[PoolTask], *, merged: bool) -> None:
        with self._changed:
            count = sum(task.batch is not None for task in tasks)
            self.micro_packs += count
            self.merged += count if merged else 0

    def _run_merged(self, tasks: Sequence[PoolTask]) -> None:
        """Compute tasks in one pass.

        If it fails, each is computed by its own model; if these succeed, no pass is merged again.
        """
        admitted = _admitted(tasks)
        if len(admitted) < 2:
            self._count(admitted, merged=False)
            for task in admitted:
                task.run()
            return
        results, why, start = [], None, time.thread_time()
        try:
            if self.replica is None:
                raise RuntimeError("another pass has failed")
            results = self.replica.run([task.batch for task in admitted if task.batch is not None])
        except BaseException as error:
            # as text: the error itself would keep what the pass had computed
            why = f"{type(error).__name__}: {error}"
        seconds = time.thread_time() - start
        tokens = sum(task.tokens for task in admitted)
        for task in admitted:
            task.count(seconds * task.tokens / tokens)
        self._count(admitted, merged=why is None)
        if why is None:
            for task, result in zip(admitted, results, strict=True):
                task.future.set_result(result)
            return
        for task in admitted:
            task.run()
        if all(task.future.exception() is None for task in admitted):  # no task itself was wrong
            self.merge_tokens, self.replica = 0, None
            log.warning("micro-packs are no longer computed together: %s", why)


def _admitted(tasks: Sequence[PoolTask]) -> list[PoolTask]:
    """Return the tasks that are still to be computed; the futures of the others have an error."""
    admitted = []
    for task in tasks:
        try:
            task.admit()
            admitted.append(task)
        except BaseException as error:
            task.future.set_exception(error)
    return admitted
