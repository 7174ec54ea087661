"""Asynchronous halving judges the jobs of several packs together."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from omegaconf import OmegaConf

from hydratune.errors import RunError
from hydratune.records.files import write_json
from hydratune.records.run_directory import RunDirectory
from hydratune.records.status import Outcome, Rung, State, Status
from hydratune.records.sweep import SweepJob
from hydratune.sweeps import asynchronous, asynchronous_scheduler, pack_processes
from hydratune.sweeps.asynchronous import run_asynchronously
from hydratune.sweeps.executors.executor import EndedPack
from hydratune.sweeps.halving import HalvingScheduler, JobState
from hydratune.sweeps.halving_records import JudgedRecords
from hydratune.sweeps.options import HalvingOptions, PackOptions
from hydratune.sweeps.pack_arguments import PackArguments
from hydratune.sweeps.pack_job import create_scheduler
from hydratune.sweeps.pack_processes import PacksEnd
from hydratune.sweeps.planning import PlannedJob, PlannedPack
from hydratune.sweeps.stop_requests import request_stop
from hydratune.training.protocols import RungScore
from test_config import compose

ASHA = HalvingOptions(1, kind="asha")
TOTAL = 9
RUNGS = ASHA.rungs(TOTAL)
SETTINGS = compose()


@pytest.fixture(autouse=True)
def no_waits_and_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_processes, "_POLL", 0.0)
    for name in ("write_hydra_files", "write_text", "OmegaConf"):  # what their processes read
        monkeypatch.setattr(pack_processes, name, MagicMock())
    for module in (asynchronous, asynchronous_scheduler):
        monkeypatch.setattr(module, "_INTERVAL", 0.0)
        monkeypatch.setattr(module, "_SHARE", 0)


def jobs_in(folder: Path, names: Sequence[str]) -> list[PlannedJob]:
    composed = OmegaConf.create({"hydra": {}})
    records = [RunDirectory(folder / name) for name in names]
    return [
        PlannedJob(SweepJob(record.path.name, (), {}), record, SETTINGS, composed)
        for record in records
    ]


def reach(record: RunDirectory, loss: float, number: int) -> None:
    """Set the record to that of a job that has reached rung ``number``."""
    record.checkpoints.mkdir(parents=True, exist_ok=True)
    record.last_checkpoint.touch()
    record.start(resumed=True)
    for step in RUNGS[: number + 1]:
        record.change_status(lambda status, step=step: status.report(Rung(step, loss)))


class FakePack:
    """The process of a pack, which trains one job at a time from rung to rung."""

    def __init__(self, pack: PlannedPack, folder: Path, options: PackOptions) -> None:
        arguments = PackArguments.of(folder, pack, options, 1, parent=None)
        arguments = PackArguments.parse(arguments.command()[3:])  # as its process reads them
        self.pack, self.records = pack, {job.name: job.record for job in pack.jobs}
        nobody: Any = SimpleNamespace(is_leaving=lambda: False, trackers={}, ended=print)
        self.scheduler = create_scheduler(arguments, self.records, nobody, nobody)
        self.name: str | None = None  # of the job that it trains

    def advance(self, cluster: "Cluster") -> bool:
        """Train a job until its next rung, or begin one; return whether the pack goes on."""
        if self.name is None:
            self.name = self.scheduler.next_job()
            if self.name is not None:
                record = self.records[self.name]
                record.start(resumed=record.checkpoint_to_resume() is not None)
            return self.name is not None
        name, record = self.name, self.records[self.name]
        score, reached = cluster.quality[name], len(record.read_status().rungs)
        cluster.steps[name] = RUNGS[reached] if reached < len(RUNGS) else TOTAL
        if name == cluster.fails and reached == len(RUNGS):
            record.end(State.failed, "it cannot")
            self.scheduler.end(name, JobState.failed)
        elif reached == len(RUNGS):
            write_json(record.metrics_file, {"val/loss": score})
            record.end(State.finished)
            self.scheduler.end(name, JobState.finished)
        else:
            reach(record, score, reached)
            cluster.log.append((name, reached))
            if self.scheduler.report_rung(name, reached, RungScore(score)):
                return True
            record.change_status(Status.pause)
            self.scheduler.end(name, JobState.paused)
        self.name = None
        return True


@dataclass
class Cluster:
    """Where packs run: ``slots`` at a time, each a step further whenever their ends are asked for.

    It is an executor, and what happens to its packs.
    """

    folder: Path
    quality: dict[str, float]  # name of a job -> its loss at all rungs
    slots: int = 2
    fails: str = ""  # the job that fails after the last rung
    kills: dict[int, int] = field(
        default_factory=dict
    )  # step of the cluster -> exit code of a pack
    dies_at: int = -1  # the step at which the driver dies
    on_step: Callable[[int], None] = lambda step: None
    pack_size: int | None = None
    steps: dict[str, int] = field(default_factory=dict)
    log: list[tuple[str, int]] = field(default_factory=list)  # (name, rung) as they were reported
    packs: list[list[str]] = field(default_factory=list)  # the names in each that was submitted
    most: int = 0
    _running: list[FakePack] = field(default_factory=list)
    _step: int = 0

    @property
    def options(self) -> PackOptions:
        return PackOptions(halving=ASHA, pack_size=self.pack_size, retries=2)

    def run(self) -> PacksEnd:
        jobs = jobs_in(self.folder, list(self.quality))
        self._running.clear()
        return run_asynchronously(self.folder, [jobs], self.options, self, [], self.slots)

    def outcomes(self) -> dict[str, Outcome]:
        return {n: RunDirectory(self.folder / n).read_status().outcome for n in self.quality}

    def free(self) -> int:
        return self.slots - len(self._running)

    def submit(self, packs: Sequence[PlannedPack]) -> None:
        self._running += [FakePack(pack, self.folder, self.options) for pack in packs]
        self.packs += [[job.name for job in pack.jobs] for pack in packs]
        self.most = max(self.most, len(self._running))
        assert len(self.packs) < 100

    def running(self) -> Sequence[PlannedPack]:
        return [running.pack for running in self._running]

    def ended(self) -> Sequence[EndedPack]:
        self._step += 1
        if self._step == self.dies_at:
            raise RuntimeError("the driver is killed")
        self.on_step(self._step)
        running = self._running[self._step % len(self._running)]
        code = self.kills.get(self._step)
        if code is None and running.advance(self):
            return []
        self._running.remove(running)
        is_cancelled = code == 1
        return [EndedPack(running.pack, code or 0, "it ended", is_cancelled=is_cancelled)]

    def cancel(self) -> None:
        self._running.clear()

    def close(self) -> None:
        pass


def assert_is_asha(cluster: Cluster) -> None:
    """Check that all jobs have ended, that those have passed a rung that are among the best third
    of all that have reached it, and otherwise only those that once were.
    """
    outcomes = cluster.outcomes()
    assert set(outcomes.values()) <= {Outcome.finished, Outcome.halved, Outcome.failed}
    assert Outcome.finished in outcomes.values()
    order = list(cluster.quality)
    failed = [name for name, outcome in outcomes.items() if outcome is Outcome.failed]
    reached: list[list[str]] = [[] for _ in RUNGS]
    once: set[tuple[str, int]] = set()

    def best(rung: int, gone: Sequence[str]) -> set[tuple[str, int]]:
        def place(name: str) -> tuple[bool, float, int]:
            return name in gone, cluster.quality[name], order.index(name)

        ranked = sorted(reached[rung], key=place)
        return {(name, rung) for name in ranked[: len(ranked) // 3]}

    for name, rung in cluster.log:
        reached[rung] += [name] if name not in reached[rung] else []
        once |= best(rung, ())
    at_end = {entry for rung in range(len(RUNGS)) for entry in best(rung, failed)}
    passed = {
        (name, rung)
        for name in order
        for rung, step in enumerate(RUNGS)
        if cluster.steps[name] > step
    }
    assert at_end - {(name, rung) for name in failed for rung in range(9)} <= passed
    # of the others, those that no job finished without
    assert all([name] in cluster.packs for name, _ in passed - at_end - once)


@pytest.mark.parametrize("slots", [1, 2, 5])
@pytest.mark.parametrize("pack_size", [None, 1, 4])
def test_a_job_is_trained_further_while_it_is_among_the_best_of_all_packs(
    tmp_path: Path, slots: int, pack_size: int | None
) -> None:
    values = [n % 13 / 10 for n in range(17)]  # some are equal
    random.Random(f"{slots}, {pack_size}").shuffle(values)
    quality = {str(n): value for n, value in enumerate(values)}
    cluster = Cluster(tmp_path, quality, slots, pack_size=pack_size)
    assert cluster.run() is PacksEnd.over
    assert_is_asha(cluster)
    assert cluster.most == slots
    first = cluster.packs[: -(-17 // (pack_size or -(-17 // slots)))]
    assert [name for pack in first for name in pack] == list(quality)
    steps = dict(cluster.steps)
    assert cluster.run() is PacksEnd.over and cluster.steps == steps  # nothing is left to do


def test_a_job_whose_pack_has_ended_is_resumed_while_others_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quality = {"a": 0.2, "b": 0.1, "c": 0.4, "d": 0.3, "e": 0.5, "f": 0.6}
    for job in jobs_in(tmp_path, "ab"):  # of two, none is among the best third
        reach(job.record, quality[job.name], 0)
        job.record.change_status(Status.pause)
    cluster = Cluster(tmp_path, quality, pack_size=4)
    seen: list[list[str]] = []
    cluster.on_step = lambda step: seen.append([p.title for p in cluster.running()])
    assert cluster.run() is PacksEnd.over
    text = " ".join(capsys.readouterr().out.split())
    assert "asynchronous halving: 4 of 6 jobs in 1 pack, judged together" in text
    assert "stopped early by halving: 5 jobs, a, c, d, e, f" in text
    both = ["pack 1 of 1: 4 jobs on one base model", "pack 2: 1 job trained further: b"]
    assert cluster.packs[:2] == [list("cdef"), ["b"]] and both in seen


def test_the_best_job_is_trained_on_if_none_would_finish(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, {"a": 0.2, "b": 0.1}, pack_size=1)
    cluster.run()
    assert cluster.steps == {"a": 1, "b": 9}
    assert cluster.outcomes() == {"a": Outcome.halved, "b": Outcome.finished}
    assert cluster.packs == [["a"], ["b"], ["b"]]


def test_a_job_that_fails_leaves_its_place_to_the_next_best_of_all_packs(tmp_path: Path) -> None:
    quality = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4}
    cluster = Cluster(tmp_path, quality, pack_size=2, fails="a")
    cluster.run()
    assert cluster.outcomes()["a"] is Outcome.failed and cluster.outcomes()["b"] is Outcome.finished
    assert_is_asha(cluster)
    cluster.fails = ""  # the same command tries it again
    cluster.run()
    assert cluster.outcomes()["a"] is Outcome.finished


@pytest.mark.parametrize("step", range(2, 26, 3))
def test_a_pack_and_a_driver_may_be_killed(tmp_path: Path, step: int) -> None:
    quality = {str(n): (n * 7 % 9) / 10 for n in range(9)}
    cluster = Cluster(tmp_path, quality, pack_size=3, kills={step: -9, step + 3: 75})
    cluster.dies_at = step + 9
    try:
        cluster.run()
    except RuntimeError:
        cluster.run()
    assert set(cluster.outcomes().values()) == {Outcome.finished, Outcome.halved}
    best = min(quality, key=lambda name: quality[name])
    assert cluster.outcomes()[best] is Outcome.finished


@pytest.mark.parametrize("step", [1, 5])
def test_a_cancelled_pack_is_not_run_again_by_this_command(tmp_path: Path, step: int) -> None:
    """Those of its jobs that never began have no status that says so."""
    quality = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4, "e": 0.5, "f": 0.6}
    cluster = Cluster(tmp_path, quality, pack_size=2, kills={step: 1})
    assert cluster.run() is PacksEnd.cancelled
    assert [sorted(pack) for pack in cluster.packs].count(sorted(cluster.packs[step % 2])) == 1
    ends = {Outcome.finished, Outcome.halved, Outcome.stopped, Outcome.no_run}
    assert set(cluster.outcomes().values()) - {Outcome.waiting} <= ends
    assert cluster.run() is PacksEnd.over
    assert set(cluster.outcomes().values()) == {Outcome.finished, Outcome.halved}


@pytest.mark.parametrize("step", [0, 3])
def test_a_job_that_waits_in_no_pack_is_stopped(tmp_path: Path, step: int) -> None:
    quality = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4, "e": 0.5, "f": 0.6}
    for job in jobs_in(tmp_path, "ab"):
        reach(job.record, quality[job.name], 0)
        job.record.change_status(Status.pause)
    cluster = Cluster(tmp_path, quality, slots=1)
    seen: list[Outcome] = []

    def stop(at: int) -> None:
        seen.append(cluster.outcomes()["a"])
        if at == step:
            request_stop(tmp_path, "a")

    stop(0)
    cluster.on_step = stop
    cluster.run()
    assert cluster.outcomes()["a"] is Outcome.stopped and cluster.packs[:2] == [list("cdef"), ["b"]]
    assert seen[: step + 2] == [Outcome.paused] * (step + 1) + [Outcome.stopped]


def test_records_are_read_again_once_they_have_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = jobs_in(tmp_path, "abc")
    records = JudgedRecords({job.name: job.record for job in jobs})
    assert not records.read()
    reach(jobs[0].record, math.inf, 0)
    reach(jobs[2].record, 0.5, 1)
    assert records.read() and not records.read()
    assert list(records.jobs) == ["a", "b", "c"]
    assert records.jobs["c"].scores == {0: RungScore(0.5), 1: RungScore(0.5)}
    jobs[2].record.end(State.failed, "it cannot")
    assert records.read() and records.jobs["c"].score_at(0) == RungScore(math.inf)
    jobs[2].record.status_file.write_text("{")  # as another machine may see it for a moment
    assert not records.read() and records.jobs["c"].state is JobState.failed
    with pytest.raises(RunError):
        jobs[2].status  # noqa: B018


def test_decisions_of_many_jobs_are_quick() -> None:
    """The best of a rung are found once, not for each of the paused jobs."""
    names = [str(n) for n in range(3000)]
    scheduler = HalvingScheduler(names, ASHA)
    calls = 0

    def count(rung: int) -> RungScore:
        nonlocal calls
        calls += 1
        return RungScore(0.0)

    for name in names:
        scheduler.restore(name, [RungScore(float(name))], JobState.paused)
        scheduler._jobs[name].score_at = count  # type: ignore[method-assign]
    assert len(scheduler.ready_jobs()) == 1000
    assert calls == len(names)
