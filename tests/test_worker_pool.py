"""The queue of a worker pool: which micro-packs are merged into one pass."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hydratune.data.encoding.encoded import Encoded
from hydratune.errors import RunInterrupted
from hydratune.sweeps.worker_pool import PoolTask, WorkerPool
from hydratune.training.elementwise import EAGER
from hydratune.training.losses import PLAIN
from hydratune.training.mergeable import MergeableBatch


class RecordingReplica:
    """Replaces a replica: records how many tokens each micro-pack of each pass had."""

    def __init__(self, error: Exception | None = None, seconds: float = 0.0) -> None:
        self.passes, self.error, self.seconds = list[list[int]](), error, seconds

    def run(self, batches: Sequence[MergeableBatch]) -> list[Any]:
        self.passes.append([batch.tokens for batch in batches])
        time.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return [("merged", batch.tokens) for batch in batches]


OUTPUT_WEIGHTS = torch.zeros(1)


def task(
    tokens: int,
    done: list[Any],
    *,
    small: bool = True,
    error: Exception | None = None,
    **options: Any,
) -> PoolTask:
    batch = MergeableBatch(
        SimpleNamespace(first=""),
        [Encoded((1,) * (tokens + 1), (True,) * (tokens + 1))],
        PLAIN,
        OUTPUT_WEIGHTS,
        EAGER,
        None,
        True,
        None,
    )  # type: ignore[arg-type]

    def work() -> tuple[str, int]:
        done.append(tokens)
        if error is not None:
            raise error
        return "alone", tokens

    return PoolTask(work, batch if small else None, **options)


@contextmanager
def busy_pool(
    replica: Any, merge_tokens: int = 80, workers: int = 1
) -> Iterator[tuple[WorkerPool, threading.Event]]:
    """Yield a worker pool whose threads are all busy until the event is set, and the event."""
    pool, start = WorkerPool(workers, merge_tokens), threading.Event()
    pool.replica = replica
    for _ in range(workers):
        pool.submit([PoolTask(start.wait)])
    while pool._queue:
        time.sleep(0.001)
    yield pool, start
    start.set()
    pool.close()


def test_small_micro_packs_that_wait_are_merged_and_the_rest_stays_in_order() -> None:
    replica, done = RecordingReplica(), list[Any]()
    with busy_pool(replica) as (pool, start):
        first = [
            task(20, done),
            task(300, done),
            task(19, done),
            task(21, done),
            task(5, done, small=False),
            task(18, done),
        ]
        second = [task(17, done), task(16, done), task(400, done)]
        pool.submit(first)
        pool.submit(second)
        start.set()
        results = [t.future.result(10) for t in (*first, *second)]
    # 20 is a quarter of 80; the pass has 74 tokens, and 16 more would exceed 80
    assert replica.passes == [[20, 19, 18, 17]] and done == [300, 21, 5, 16, 400]
    assert [how for how, _ in results] == [
        "merged",
        "alone",
        "merged",
        "alone",
        "alone",
        "merged",
        "merged",
        "alone",
        "alone",
    ]
    assert [tokens for _, tokens in results] == [20, 300, 19, 21, 5, 18, 17, 16, 400]
    assert (pool.merged, pool.micro_packs) == (4, 8)


def test_nothing_is_merged_when_nothing_waits_or_merging_is_off() -> None:
    for replica, limit in ((RecordingReplica(), 80), (RecordingReplica(), 0), (None, 80)):
        done = list[Any]()
        with busy_pool(replica, limit) as (pool, start):
            tasks = [task(5, done) for _ in range(3 if limit == 0 or replica is None else 1)]
            pool.submit(tasks)
            start.set()
            assert {t.future.result(10)[0] for t in tasks} == {"alone"}
        assert pool.merged == 0


def test_micro_packs_of_two_kinds_are_not_in_one_pass() -> None:
    replica, done = RecordingReplica(), list[Any]()
    with busy_pool(replica) as (pool, start):
        tasks = [task(number, done) for number in range(3, 9)]
        for chosen in tasks[::2]:
            assert chosen.batch is not None
            chosen.batch = replace(chosen.batch, gradients=False)
        pool.submit(tasks)
        start.set()
    assert replica.passes == [[3, 5, 7], [4, 6, 8]] and not done


def test_threads_compute_equal_shares() -> None:
    replica, done = RecordingReplica(seconds=0.2), list[Any]()
    pool = WorkerPool(2, 80)
    pool.replica = replica  # type: ignore[assignment]
    while len(pool._tokens) < 2:
        time.sleep(0.001)
    tasks = [task(10, done) for _ in range(6)]
    pool.submit(tasks)
    pool.close()
    assert replica.passes == [[10] * 3] * 2


def test_after_a_failed_pass_each_micro_pack_is_computed_alone_and_only_the_faulty_one_fails(
    caplog: pytest.LogCaptureFixture,
) -> None:
    replica, done = RecordingReplica(ValueError("a bad row")), list[Any]()
    with busy_pool(replica) as (pool, start):
        tasks = [task(5, done), task(6, done, error=ValueError("a bad row")), task(7, done)]
        pool.submit(tasks)
        start.set()
        assert tasks[0].future.result(10) == ("alone", 5) and tasks[2].future.result(10) == (
            "alone",
            7,
        )
        assert isinstance(tasks[1].future.exception(10), ValueError)
        assert pool.merge_tokens and not caplog.records
    done.clear()
    with busy_pool(replica) as (pool, start):  # no task alone fails: merging is not tried again
        tasks = [task(5, done), task(7, done)]
        pool.submit(tasks)
        start.set()
        assert [t.future.result(10) for t in tasks] == [("alone", 5), ("alone", 7)]
    assert (
        not pool.merge_tokens
        and "no longer computed together: ValueError: a bad row" in caplog.text
    )


def test_a_job_that_leaves_is_not_computed_and_time_is_divided_by_tokens() -> None:
    def leave() -> None:
        raise RunInterrupted

    spent: dict[int, float] = {}
    done: list[Any] = []
    with busy_pool(RecordingReplica()) as (pool, start):
        tasks = [task(n, done, count=partial(spent.__setitem__, n)) for n in (5, 15)]
        leaving, cancelled = task(9, done, admit=leave), task(8, done)
        pool.submit([*tasks, leaving, cancelled])
        cancelled.future.cancel()
        start.set()
        assert [t.future.result(10)[0] for t in tasks] == ["merged", "merged"]
        assert isinstance(leaving.future.exception(10), RunInterrupted)
    assert pool.merged == 2 and not done
    assert spent[15] == pytest.approx(3 * spent[5])
