"""Jobs that are added to a sweep while its pack runs, and join it."""

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from conftest import SMALL
from hydratune.records.run_directory import RunDirectory, alone
from hydratune.records.status import Outcome
from hydratune.records.sweep import SweepJob
from hydratune.sweeps import joined_packs, joining
from hydratune.sweeps.executors.executor import EndedPack
from hydratune.sweeps.halving import HalvingScheduler, JobState
from hydratune.sweeps.joined_packs import JoinedPacks
from hydratune.sweeps.options import PackOptions
from hydratune.sweeps.pack_processes import PacksEnd, run_packs
from hydratune.sweeps.planning import PlannedJob, PlannedPack
from run_files import assert_same_run, offline_environment, states, status
from sweep_driver import Driver
from test_config import compose
from test_executors import finish, jobs_in, options

LONG = (
    *(s for s in SMALL if not s.startswith(("data.batch_size", "trainer.max_steps"))),
    *("data.max_train_rows=9", "data.batch_size=1", "trainer.max_steps=null"),
    *("trainer.max_epochs=60", "tracking=disabled"),
)


def offered(folder: Path, **jobs: str) -> None:
    (folder / ".join").mkdir()
    for name, shared in jobs.items():
        (folder / ".join" / name).write_text(shared)


def test_a_pack_takes_what_shares_its_model(tmp_path: Path) -> None:
    assert joining.take(tmp_path, "x") == []
    offered(tmp_path, a="x", b="y", c="x")
    assert joining.take(tmp_path, "x") == ["a", "c"] and joining.take(tmp_path, "x") == []
    assert joining.take(tmp_path, "y") == ["b"]


def test_an_added_job_is_run_by_a_thread_that_waits() -> None:
    scheduler = HalvingScheduler(["a"])
    assert scheduler.next_job() == "a"
    names: list[str | None] = []
    thread = threading.Thread(target=lambda: names.append(scheduler.next_job()))
    thread.start()
    scheduler.add("b")
    thread.join(60)
    for name in "ab":
        scheduler.end(name, JobState.finished)
    assert names == ["b"] and scheduler.next_job() is None


class Cluster:
    """An executor on which the jobs of the sweep end only after an added one has."""

    def __init__(self) -> None:
        self.packs: list[PlannedPack] = []
        self.deadline = time.monotonic() + 60
        self.seen: list[list[str]] = []

    def free(self) -> int:
        return 9

    def submit(self, packs: Sequence[PlannedPack]) -> None:
        self.packs += packs
        self.seen.append([job.name for pack in self.packs for job in pack.jobs])

    def running(self) -> Sequence[PlannedPack]:
        return self.packs

    def ended(self) -> Sequence[EndedPack]:
        added = [pack for pack in self.packs if pack.jobs[0].name.startswith("a")]
        assert time.monotonic() < self.deadline
        ended = added or (self.packs if len(self.seen) > 1 else [])
        self.packs = [pack for pack in self.packs if pack not in ended]
        for job in (job for pack in ended for job in pack.jobs):
            finish(job)
        return [EndedPack(pack, 0) for pack in ended]

    def cancel(self) -> None:
        self.packs = []

    def close(self) -> None:
        pass


def test_a_driver_on_a_cluster_submits_added_jobs_beside_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setattr(joining, "_PATIENCE_ELSEWHERE", 60.0)
    jobs, context = jobs_in(tmp_path, compose(), 2), cast(Any, None)
    added = [
        PlannedJob(
            SweepJob(name, (), {}), RunDirectory(tmp_path / name), job.settings, job.composed
        )
        for job, name in zip(jobs, ("a1-0", "a1-1"), strict=True)
    ]
    packing, cluster, taken = options(at_once=2), Cluster(), []
    thread = threading.Thread(target=lambda: taken.extend(joining.offer(tmp_path, added, packing)))
    thread.start()
    source = JoinedPacks(context, tmp_path, packing)
    pack = PlannedPack("pack 1", tuple(jobs), 2)
    assert run_packs(tmp_path, [pack], packing, cluster, source) is PacksEnd.over
    thread.join(60)
    assert taken == ["a1-0", "a1-1"] and cluster.seen[-1] == ["0", "1", "a1-0", "a1-1"]
    assert "a1-0, a1-1 was added, and is run beside the others" in capsys.readouterr().out
    assert set(states(tmp_path).values()) == {"finished"} and len(states(tmp_path)) == 4
    assert (tmp_path / "a1-0" / ".hydra" / "overrides.yaml").is_file()
    # what is finished is not offered, and nothing with other settings of the cluster is taken
    monkeypatch.setattr(joining, "_PATIENCE_ELSEWHERE", 0.0)
    assert joining.offer(tmp_path, added, packing) == []
    (tmp_path / ".join" / "a1-0").write_text(joining.key_of_driver(packing))
    assert joining.take(tmp_path, joining.key_of_driver(options(at_once=3))) == []
    monkeypatch.setattr(joined_packs, "_MOMENT", 0.0)
    assert source.meanwhile(()) == ()  # its settings are not there
    assert "a1-0 was added, and cannot be read" in " ".join(capsys.readouterr().out.split())


def test_a_job_that_runs_is_not_offered_again(tmp_path: Path) -> None:
    (job,) = jobs_in(tmp_path, compose(), 1)
    job.record.path.mkdir()
    job.record.start()
    assert not joining.is_running(job)  # its process was killed
    with alone(job.record.path):
        assert joining.is_running(job) and joining.offer(tmp_path, [job], PackOptions()) == []
    assert job.status.outcome is Outcome.running


def add(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "hydratune", "add", str(folder), *words],
        env=offline_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_an_added_job_joins_the_running_pack_and_equals_its_run_alone(tmp_path: Path) -> None:
    driver = Driver(tmp_path / "sweep", *LONG, "optimizer.lr=1e-3,1e-2")
    driver.until(lambda: driver.steps(0) > 3)
    assert "job a1-0 (lr=0.003) joined the running pack" in add(
        driver.folder, "optimizer.lr=3e-3", "like=0"
    )
    other = add(driver.folder, "optimizer.lr=3e-3", "seed=5", "data.max_train_rows=8", "like=0")
    assert "job a2-0 (lr=0.003) is kept" in other
    assert driver.process.poll() is None and driver.steps(0) != 540
    text = driver.end()
    assert "job a1-0 was added, and joins this pack" in text
    assert text.count("added jobs that have waited start now") == 1
    assert states(driver.folder) == dict.fromkeys(("0", "1", "a1-0", "a2-0"), "finished")
    pid = status(driver.folder / "0")["pid"]
    assert status(driver.folder / "a1-0")["pid"] == pid != status(driver.folder / "a2-0")["pid"]
    alone = Driver(tmp_path / "alone", *LONG, "optimizer.lr=3e-3,1e-3")
    alone.end()
    assert_same_run(driver.folder / "a1-0", alone.folder / "0")


@pytest.mark.fault(
    "kill -9 of a pack that an added job has joined",
    seen="the jobs of the sweep are tried again, and then the added one",
    kept="everything until the last checkpoint",
)
@pytest.mark.slow
def test_a_job_that_joined_a_killed_pack_is_resumed(tmp_path: Path) -> None:
    words = (*LONG, "optimizer.lr=1e-3,1e-2", "trainer.checkpoint_minutes=1e-3")
    driver = Driver(tmp_path / "sweep", *words)
    driver.until(lambda: driver.steps(0) > 3)
    add(driver.folder, "optimizer.lr=3e-3", "like=0")
    file = driver.folder / "a1-0" / "history.csv"
    driver.until(lambda: file.is_file() and len(file.read_text().splitlines()) > 3)
    for number in driver.packs():
        subprocess.run(["kill", "-9", str(number)], check=True)
    text = driver.end()
    assert "resumed after step" in text.partition("added jobs that have waited start now")[2]
    assert set(states(driver.folder).values()) == {"finished"} and len(states(driver.folder)) == 3
    time.sleep(1)
    assert not driver.processes()
