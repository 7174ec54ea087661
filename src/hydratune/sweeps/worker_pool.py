"""The threads that compute for all jobs of a pack, and the queue before them.

What is submitted is begun in the order of submission. A thread that begins a small micro-pack of a
LoRA trial takes others that wait at that moment along, and computes them in one pass
(``hydratune.training.merged``). Nobody waits for company: where nothing else is in the queue, a
micro-pack is computed by its own model, as in a run alone.
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

from hydratune.training.merged import BaseReplica, MergeableBatch

log = logging.getLogger(__name__)
_SHARE = 4  # a micro-pack of more than this part of the limit gains too little from company


@dataclass(eq=False)
class Task:
    """Something to compute for one job."""

    work: Callable[[], Any]
    guest: MergeableBatch | None = (
        None  # what ``work`` computes, where it can be done together with others
    )
    # raises if the job is to have nothing computed any more
    admit: Callable[[], None] = lambda: None
    # is told the CPU-seconds of a pass with others that are this task's
    count: Callable[[float], None] = lambda seconds: None
    future: Future[Any] = field(default_factory=Future)

    def run(self) -> None:
        """By its own model."""
        try:
            result = self.work()
        except BaseException as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class WorkerPool:
    """``workers`` threads with one intra-op thread each."""

    def __init__(self, workers: int, merge_tokens: int = 0) -> None:
        """``merge_tokens``: how many tokens a pass may have that serves several micro-packs; 0:
        there is no such pass.
        """
        self.merge_tokens = merge_tokens
        self.host: BaseReplica | None = None  # computes such passes
        self.merged = self.micro_packs = (
            0  # how many micro-packs were computed with others; of how many of LoRA trials
        )
        self._waiting: deque[Task] = deque()
        self._news = threading.Condition()
        self._shares: dict[
            int, int
        ] = {}  # thread -> tokens of small micro-packs it computes; without those that compute other things  # noqa: E501
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"crew {n}", daemon=True)
            for n in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, tasks: Sequence[Task]) -> None:
        """They follow each other: a task may wait for those before it that it was submitted with."""  # noqa: E501
        with self._news:
            if self._closed:
                raise RuntimeError("this crew was dismissed")
            self._waiting += tasks
            self._news.notify(len(tasks))

    def dismiss(self, *, wait: bool = True) -> None:
        """Waits until everything that was submitted is computed, or lets nobody begin anything
        more.
        """
        with self._news:
            self._closed = True
            if not wait:
                for task in self._waiting:
                    task.future.cancel()
                self._waiting.clear()
            self._news.notify_all()
        for thread in self._threads if wait else ():
            thread.join()
        if self.micro_packs:
            log.info(
                "%d of %d micro-packs were computed together with others",
                self.merged,
                self.micro_packs,
            )
        elif self.merge_tokens:
            log.info(
                "no micro-packs were computed together: none was of plain LoRA and of at most %d"
                " tokens",
                self.merge_tokens // _SHARE,
            )

    def _work(self) -> None:
        torch.set_num_threads(1)
        while tasks := self._take():
            tasks = [task for task in tasks if task.future.set_running_or_notify_cancel()]
            if len(tasks) > 1:
                self._together(tasks)
            elif tasks:
                self._note(tasks, together=False)
                tasks[0].run()
            del tasks  # nothing of a finished task is kept while there is nothing to do

    def _take(self) -> list[Task]:
        """The longest waiting task, and what is to be computed with it; nothing: there will be no
        more.
        """
        with self._news:
            me = threading.get_ident()
            self._shares[me] = 0
            self._news.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return []
            first = self._waiting.popleft()
            if not self._is_small(first):
                del self._shares[me]
                return [first]
            tasks = [first, *self._company(first)]
            self._shares[me] = sum(map(_tokens, tasks))
            return tasks

    def _note(self, tasks: Sequence[Task], *, together: bool) -> None:
        with self._news:
            count = sum(task.guest is not None for task in tasks)
            self.micro_packs += count
            self.merged += count if together else 0

    def _company(self, first: Task) -> list[Task]:
        """What is computed with ``first``, taken out of the queue.

        No more than makes the threads that compute such things, or nothing, equally busy: one that
        takes all would have them all come back at once, to be taken all by the next, while the
        others find nothing but single ones.
        """
        if self.host is None or first.guest is None:
            return []
        kind = first.guest.kind
        alike = [
            task
            for task in self._waiting
            if self._is_small(task) and task.guest is not None and task.guest.kind == kind
        ]
        tokens = first.guest.tokens
        everything = sum(map(_tokens, [first, *alike])) + sum(self._shares.values())
        limit = everything / len(self._shares)
        company = []
        for task in alike:
            if tokens < limit and tokens + _tokens(task) <= self.merge_tokens:
                tokens += _tokens(task)
                company.append(task)
        if company:
            taken = set(map(id, company))
            self._waiting = deque(task for task in self._waiting if id(task) not in taken)
        return company

    def is_small(self, tokens: int) -> bool:
        """Whether a micro-pack of so many tokens may have company."""
        return _SHARE * tokens <= self.merge_tokens

    def _is_small(self, task: Task) -> bool:
        return task.guest is not None and self.is_small(task.guest.tokens)

    def _together(self, tasks: Sequence[Task]) -> None:
        """One pass for all.

        If it fails, each by its own model; if that goes well, there are no such passes any more.
        """
        welcome = []
        for task in tasks:
            try:
                task.admit()
                welcome.append(task)
            except BaseException as error:
                task.future.set_exception(error)
        if len(welcome) < 2:
            self._note(welcome, together=False)
            for task in welcome:
                task.run()
            return
        host, start, why = self.host, time.thread_time(), None
        try:
            if host is None:
                raise RuntimeError("another pass has failed")
            results = host.run([task.guest for task in welcome if task.guest is not None])
        except BaseException as error:
            # with the error itself, what it had computed would stay
            why = f"{type(error).__name__}: {error}"
        spent, tokens = time.thread_time() - start, sum(map(_tokens, welcome))
        for task in welcome:
            task.count(spent * _tokens(task) / tokens)
        self._note(welcome, together=why is None)
        if why is None:
            for task, result in zip(welcome, results, strict=True):
                task.future.set_result(result)
            return
        for task in welcome:
            task.run()
        if all(task.future.exception() is None for task in welcome):  # it was nobody's own fault
            self.merge_tokens, self.host = 0, None
            log.warning("micro-packs are no longer computed together: %s", why)


def _tokens(task: Task) -> int:
    return task.guest.tokens if task.guest is not None else 0
