"""Jobs that are added to a sweep while its pack runs, and join it."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from conftest import SMALL
from hydratune.sweeps import joining
from hydratune.sweeps.halving import HalvingScheduler, JobState
from run_files import assert_same_run, offline_environment, states, status
from sweep_driver import Driver

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
