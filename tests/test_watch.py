"""A job of a pack that hangs is given up, its log shows where, and no other job waits for it."""

import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from hydratune.console import progress
from hydratune.errors import HydratuneError, RunInterrupted
from hydratune.experiment.context import RunContext
from hydratune.records.files import write_text
from hydratune.records.run_directory import RunDirectory
from hydratune.records.status import State
from hydratune.sweeps import pack, pack_job, watch
from hydratune.sweeps.options import HalvingOptions, PackOptions
from hydratune.sweeps.pack_arguments import NEEDS_NEW_PACK, PackArguments
from hydratune.sweeps.pack_logging import LogByThread
from test_config import compose

PATIENCE = 1.0
JobBody = Callable[[RunContext], None]


@pytest.fixture(scope="module")
def settings() -> str:
    return OmegaConf.to_yaml(OmegaConf.structured(compose()))


@pytest.fixture
def awake() -> Iterator[threading.Event]:
    """An event that is set at the end, so that no thread hangs for longer than its test."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def run_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: str) -> Callable[..., int]:
    """Return a function that runs a pack in this process whose jobs call functions instead of
    training, and returns its exit code.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # restored at the end
    monkeypatch.setattr(pack.lightning_trainer, "isolate_rng", pack.lightning_trainer.isolate_rng)
    monkeypatch.setattr(watch, "_TIME_TO_LEAVE", 3.0)

    def run(patience: float | None, halving: HalvingOptions | None = None, **tasks: JobBody) -> int:
        def work(config: Any, record: RunDirectory, context: RunContext) -> None:
            tasks[record.path.name](context)

        monkeypatch.setattr("hydratune.experiment.run.run_experiment", work)
        options = PackOptions(patience=patience, halving=halving)
        arguments = PackArguments(tmp_path, tuple(tasks), together=2, threads=2, options=options)
        for name in tasks:
            (tmp_path / name).mkdir(exist_ok=True)
            write_text(arguments.settings_file(name), settings)
        try:
            return pack.main(arguments.command()[3:])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    return run


def status(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "status.json").read_text()))


def quick(context: RunContext) -> None:
    with progress("training", 2) as ticker:
        ticker.advance(1)
        assert context.compute.pool is not None and list(
            context.compute.pool.map(abs, [-1, -2])
        ) == [1, 2]


def test_a_job_that_cannot_begin_is_not_started_for_ever(
    run_pack: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[str] = []

    def begin(settings: Any, record: RunDirectory) -> None:
        began.append(record.path.name)
        if record.path.name == "a":
            raise HydratuneError("no space left on device")
        record.start()

    monkeypatch.setattr(pack_job, "begin", begin)
    for name, value in (
        ("a", 0.1),
        ("b", 0.5),
    ):  # both reached the first rung; a is trained further
        record = RunDirectory(tmp_path / name)
        record.start()
        record.update(state="waiting", paused=True, rungs=[[1, value]])
        write_text(record.checkpoints / "last.ckpt", "")
    assert run_pack(None, HalvingOptions(1, 2), a=quick, b=quick) == 0
    # b runs in place of a
    assert began == ["a", "b"] and status(tmp_path / "b")["state"] == "finished"


@pytest.mark.fault(
    "the disk is full while a pack writes its log",
    seen="a line of the log is missing",
    kept="all jobs",
)
def test_a_full_disk_drops_lines_of_the_log_and_ends_no_job(
    run_pack: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, record: Any) -> str:
        raise OSError("no space left on device")

    monkeypatch.setattr(LogByThread, "format", full)
    monkeypatch.setattr(LogByThread, "handleError", lambda self, record: None)

    def speaks(context: RunContext) -> None:
        logging.getLogger("hydratune").warning("something")
        quick(context)

    assert run_pack(None, a=speaks, b=speaks) == 0
    assert {status(tmp_path / name)["state"] for name in "ab"} == {"finished"}


@pytest.mark.fault(
    "a job of a pack hangs",
    seen="it is given up after `hydra.launcher.patience`, with the stacks of its threads",
    kept="the other jobs",
)
def test_a_job_that_hangs_is_given_up_and_the_others_finish(
    run_pack: Callable[..., int],
    tmp_path: Path,
    awake: threading.Event,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """With two jobs at a time, both hang and other jobs replace them. What a hanging job does later
    changes nothing.
    """
    woke = threading.Event()

    def hang(context: RunContext) -> None:
        with progress("training", 10) as ticker:
            ticker.advance(4)
            try:
                awake.wait()
                ticker.advance(1)
            finally:
                woke.set()

    assert run_pack(PATIENCE, hang=hang, too=hang, a=quick, b=quick) == 0
    states = {name: status(tmp_path / name)["state"] for name in ("hang", "too", "a", "b")}
    assert states == {"hang": "failed", "too": "failed", "a": "finished", "b": "finished"}
    why = status(tmp_path / "hang")["error"]
    assert (
        why.startswith("job hang gave no sign of life for 1 s; last seen: training 40 %")
        and "hydra.launcher.patience=1 seconds" in why
    )
    assert "awake.wait()" in (tmp_path / "hang" / "run.log").read_text()
    assert "job hang failed after" in capfd.readouterr().out
    awake.set()
    assert woke.wait(5)
    time.sleep(0.2)
    assert status(tmp_path / "hang")["state"] == "failed"


def test_a_hanging_task_ends_the_pack_and_the_other_jobs_are_requeued(
    run_pack: Callable[..., int], tmp_path: Path, awake: threading.Event
) -> None:
    """The worker pool has lost a thread. Running jobs leave, and jobs that wait for the hanging
    task are not counted as failed.
    """
    inside = threading.Event()

    def hang(context: RunContext) -> None:
        assert context.compute.pool is not None
        with context.resources.one_at_a_time("key"):
            inside.set()
            list(context.compute.pool.map(lambda n: awake.wait(), [1]))

    def behind(context: RunContext) -> None:
        inside.wait()
        with context.resources.one_at_a_time("key"):
            pass

    assert run_pack(PATIENCE, hang=hang, behind=behind, later=quick) == NEEDS_NEW_PACK
    assert "gave no sign of life" in status(tmp_path / "hang")["error"]
    assert "awake.wait()" in (tmp_path / "hang" / "run.log").read_text().split("thread worker")[1]
    assert (
        status(tmp_path / "behind")["state"] == "waiting"
        and status(tmp_path / "behind")["error"] is None
    )
    assert not (tmp_path / "later" / "status.json").exists()


def test_a_job_that_waits_for_others_does_not_hang(
    run_pack: Callable[..., int], tmp_path: Path
) -> None:
    def slow(context: RunContext) -> None:
        with context.resources.one_at_a_time("key"), progress("training", 14) as ticker:
            for _ in range(14):
                time.sleep(0.1)
                ticker.advance(1)

    assert run_pack(PATIENCE, a=slow, b=slow) == 0
    assert {status(tmp_path / name)["state"] for name in "ab"} == {"finished"}


def test_a_circle_of_jobs_that_wait_for_each_other_ends(
    run_pack: Callable[..., int], tmp_path: Path
) -> None:
    both = threading.Barrier(2)

    def crossing(first: str, second: str) -> JobBody:
        def task(context: RunContext) -> None:
            with context.resources.one_at_a_time(first):
                both.wait()
                with context.resources.one_at_a_time(second):
                    pass

        return task

    assert run_pack(PATIENCE, a=crossing("x", "y"), b=crossing("y", "x")) == NEEDS_NEW_PACK
    failed, other = sorted(status(tmp_path / name)["state"] for name in "ab")
    # it may get the lock that the other job releases
    assert failed == "failed" and other in ("finished", "waiting")


def test_without_patience_no_job_is_given_up(run_pack: Callable[..., int], tmp_path: Path) -> None:
    assert run_pack(None, a=lambda context: time.sleep(1.0), b=quick) == 0
    assert status(tmp_path / "a")["state"] == "finished"


def test_a_job_that_was_given_up_does_not_continue(tmp_path: Path) -> None:
    heartbeat = watch.Heartbeat(RunDirectory(tmp_path), threading.Event())
    heartbeat.record.start()
    heartbeat.given_up = True
    for sign in (
        heartbeat.beat,
        heartbeat.task_begins,
        lambda: heartbeat.listener(lambda stage: None)(None),
    ):  # type: ignore[arg-type]
        with pytest.raises(RunInterrupted):
            sign()
    heartbeat.record.end(State.finished)
    assert status(tmp_path)["state"] == "running"
