"""Runs on two devices: two processes that communicate over gloo, and one record."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from conftest import SMALL
from hydratune.tracking import wandb_file
from hydratune.training import ddp
from hydratune.training.history import History
from hydratune.training.resume import TrainerPosition
from run_files import assert_same_run, status
from test_resume import interrupt_after

Command = Callable[..., tuple[int, str]]
TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
UNEVEN = (
    *(
        setting
        for setting in SMALL
        if not setting.startswith(("data.batch_size", "trainer.max_steps"))
    ),
    "data.max_train_rows=9",  # the last step of an epoch has one row: rank 1 has none
    "data.max_validation_rows=5",
    "trainer.max_steps=null",
    "trainer.max_epochs=3",
    "trainer.validations_per_epoch=1",
    "trainer.gradient_clip_val=0.1",
)


def history(run: Path) -> list[dict[str, float]]:
    with (run / "history.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    return [
        {key: float(value) for key, value in row.items() if value and key != "tokens_per_second"}
        for row in rows
    ]


def assert_equal(run: Path, other: Path, weights_within: float) -> None:
    """Check that losses and weights differ by no more than another order of the same fp32 sums."""
    for ours, theirs in zip(history(run), history(other), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)
    weights, expected = (
        load_file(path / "adapter" / "adapter_model.safetensors") for path in (run, other)
    )
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        assert (weight - expected[name]).abs().max() < weights_within, name


@pytest.fixture(scope="module")
def two_device_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return (run directory, printed text) of a run on two devices with accumulation, samples and
    W&B, started as a user starts it.
    """
    folder = tmp_path_factory.mktemp("two")
    words = (
        *UNEVEN,
        *TWO,
        "data.batch_size=2",
        "trainer.accumulate_grad_batches=2",
        "evaluation.validate_every=1",
        "tracking=offline",
    )
    command = [sys.executable, "-m", "hydratune", "train", *words, f"hydra.run.dir={folder}/run"]
    environment = {**os.environ, "WANDB_MODE": "offline"}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return folder / "run", done.stdout


def test_two_devices_train_like_one(
    hydratune: Command, tmp_path: Path, two_device_run: tuple[Path, str]
) -> None:
    words = (
        *UNEVEN,
        "data.batch_size=4",
        "trainer.accumulate_grad_batches=2",
        "evaluation.validate_every=1",
    )
    code, text = hydratune("train", *words, f"hydra.run.dir={tmp_path}/one")
    assert code == 0, text
    assert len(history(two_device_run[0])) == 6
    # AdamW divides by the root of squared gradients, which may be close to zero
    assert_equal(two_device_run[0], tmp_path / "one", 1e-5)
    assert (two_device_run[0] / "validation.jsonl").read_text().count("\n") == (
        tmp_path / "one" / "validation.jsonl"
    ).read_text().count("\n")


@pytest.mark.slow
def test_two_devices_train_like_one_without_accumulation(
    hydratune: Command, tmp_path: Path
) -> None:
    steps = (*UNEVEN, "optimizer=sgd", "optimizer.lr=1")
    for name, words in (("two", (*TWO, "data.batch_size=2")), ("one", ("data.batch_size=4",))):
        code, text = hydratune("train", *steps, *words, f"hydra.run.dir={tmp_path}/{name}")
        assert code == 0, text
    assert len(history(tmp_path / "two")) == 9
    assert_equal(tmp_path / "two", tmp_path / "one", 1e-6)


def test_one_record_is_written_by_the_main_process(two_device_run: tuple[Path, str]) -> None:
    run, text = two_device_run
    names = {path.name for path in run.iterdir()}
    assert names >= {
        "status.json",
        "metrics.json",
        "history.csv",
        "predictions.jsonl",
        "adapter",
        "report.html",
        "data.html",
        "run.log",
    }
    assert status(run)["state"] == "finished"
    assert not list(run.rglob(".*.tmp")) and not list(run.glob("*ddp*"))
    assert len((run / "predictions.jsonl").read_text().splitlines()) == 2
    assert (run / "run.log").read_text().count("rows: train 9") == 1
    for once in ("set-up ──", "rows: train 9", "training: 6/6", "results ──"):
        assert text.count(once) == 1, text
    values = json.loads((run / "metrics.json").read_text())
    assert values["seconds"]["start of the other processes"] > 0
    assert values["cost/wall_seconds"] == pytest.approx(sum(values["seconds"].values()), abs=0.1)


def test_w_and_b_has_one_run(two_device_run: tuple[Path, str]) -> None:
    (log,) = two_device_run[0].parent.rglob("*.wandb")
    assert log.stem == f"run-{status(two_device_run[0])['wandb_id']}"
    assert wandb_file.read_log(log).exit_code == 0


def started_processes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that will hold the process number of rank 1."""
    started: list[int] = []
    start = ddp.OtherProcesses.start

    def starting(self: ddp.OtherProcesses, *args: Any) -> None:
        start(self, *args)
        started.append(self._processes[0].pid)

    monkeypatch.setattr(ddp.OtherProcesses, "start", starting)
    return started


def assert_alone(started: list[int]) -> None:
    """Check that this process is again the only one, on one device."""
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)
    assert "LOCAL_RANK" not in os.environ and not torch.distributed.is_initialized()


def at_step(step: int, monkeypatch: pytest.MonkeyPatch, act: Callable[[int], None]) -> list[int]:
    """Call ``act(process number of rank 1)`` in the main process after ``step``; return a list that
    will hold that number.
    """
    started, before = started_processes(monkeypatch), History.on_train_batch_end

    def acting(self: History, trainer: Any, *args: Any) -> None:
        before(self, trainer, *args)
        if trainer.global_step == step:
            act(started[0])

    monkeypatch.setattr(History, "on_train_batch_end", acting)
    return started


@pytest.fixture(scope="module")
def interrupted_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[str, ...], Path]:
    """Return (settings, run directory) of a run on two devices that Ctrl-C ended after five of six
    steps. Its checkpoint is of the fifth step, because a checkpoint was due in the main process; it
    was not due in the other rank.
    """
    from hydratune.cli import main

    words = (
        "train",
        *UNEVEN,
        *TWO,
        "data.batch_size=2",
        "trainer.accumulate_grad_batches=2",
        "adapter.lora_dropout=0.2",
    )
    run = tmp_path_factory.mktemp("broken") / "run"
    before, is_due = signal.getsignal(signal.SIGINT), TrainerPosition.on_train_batch_end

    def due(self: TrainerPosition, *args: Any) -> None:
        self.seconds = 1e-9
        is_due(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(run.parent)
        patch.setattr(TrainerPosition, "on_train_batch_end", due)
        interrupt_after(5, patch)
        started = started_processes(patch)
        assert main([*words, f"hydra.run.dir={run}"]) == 130
    signal.signal(signal.SIGINT, before)
    assert_alone(started)
    return words, run


@pytest.mark.slow
def test_every_rank_has_random_numbers_of_its_own(
    interrupted_run: tuple[tuple[str, ...], Path],
) -> None:
    ranks = torch.load(interrupted_run[1] / "checkpoints" / "last.ckpt", weights_only=True)["ranks"]
    assert len(ranks) == 2
    for name in ("objective", "torch"):
        assert not ranks[0]["rng"][name].equal(ranks[1]["rng"][name])
    assert ranks[0]["tokens_seen"] != ranks[1]["tokens_seen"]


@pytest.mark.slow
def test_another_number_of_devices_is_refused(
    hydratune: Command, interrupted_run: tuple[tuple[str, ...], Path]
) -> None:
    words, run = interrupted_run
    code, text = hydratune(*words, "trainer.devices=3", f"hydra.run.dir={run}")
    assert code == 2
    assert "trainer.devices was 2 and is 3" in text and text.count("resume=never begins anew") == 1
    assert (run / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.slow
def test_an_interrupted_run_equals_an_uninterrupted_run(
    hydratune: Command, tmp_path: Path, interrupted_run: tuple[tuple[str, ...], Path]
) -> None:
    """Equal to the last bit: sums of two ranks have only one order."""
    words, run = interrupted_run
    code, text = hydratune(*words, f"hydra.run.dir={tmp_path}/whole")
    assert code == 0, text
    code, text = hydratune(*words, f"hydra.run.dir={run}")
    assert code == 0, text
    assert "resumed after step 5 of 6" in text
    assert_same_run(run, tmp_path / "whole")


def test_wrong_settings_are_reported_once(hydratune: Command, tmp_path: Path) -> None:
    code, text = hydratune("train", *SMALL, *TWO, "adapter.r=500", f"hydra.run.dir={tmp_path}/run")
    assert code == 2 and text.count("no target layer is wider than") == 1
    assert "LOCAL_RANK" not in os.environ


@pytest.mark.fault(
    "kill -9 of the main process of a data-parallel run",
    seen="no process is left; the same command resumes",
    kept="the training until its last checkpoint",
)
@pytest.mark.slow  # four processes
def test_a_killed_run_is_resumed(hydratune: Command, tmp_path: Path) -> None:
    words = (
        *UNEVEN,
        *TWO,
        "data.batch_size=2",
        "trainer.max_epochs=20",
        "trainer.checkpoint_minutes=1e-9",
        "adapter.lora_dropout=0.2",
    )
    code, text = hydratune("train", *words, f"hydra.run.dir={tmp_path}/whole")
    assert code == 0, text
    run = tmp_path / "run"
    command = [sys.executable, "-m", "hydratune", "train", *words, f"hydra.run.dir={run}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        deadline = time.monotonic() + 100
        while (
            not (run / "checkpoints" / "last.ckpt").is_file()
            and time.monotonic() < deadline
            and process.poll() is None
        ):
            time.sleep(0.02)
        process.kill()
        process.communicate(timeout=20)
    code, text = hydratune("train", *words, f"hydra.run.dir={run}")
    assert code == 0, text
    assert "resumed after step" in text
    assert_same_run(run, tmp_path / "whole")


@pytest.mark.slow
def test_divergence_is_one_message(hydratune: Command, tmp_path: Path) -> None:
    words = (
        *SMALL,
        *TWO,
        "data.batch_size=2",
        "optimizer.lr=1e30",
        "trainer.gradient_clip_val=null",
    )
    code, text = hydratune("train", *words, f"hydra.run.dir={tmp_path}/run")
    assert code == 1
    assert text.count("the validation loss is nan") == 1, text
    assert status(tmp_path / "run")["state"] == "failed"


@pytest.mark.slow
def test_an_error_of_the_main_process_leaves_nothing_behind(
    hydratune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(number: int) -> None:
        raise RuntimeError("the main process is broken")

    started = at_step(1, monkeypatch, fails)
    code, text = hydratune(
        "train", *SMALL, *TWO, "data.batch_size=2", f"hydra.run.dir={tmp_path}/run"
    )
    assert code == 1 and "the main process is broken" in text and "rank 1" not in text
    assert_alone(started)


@pytest.mark.fault(
    "kill -9 of one process of a data-parallel run",
    seen="all processes end, with the reason",
    kept="the training until its last checkpoint",
)
@pytest.mark.slow
def test_a_killed_rank_ends_the_run_with_its_reason(
    hydratune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_step(4, monkeypatch, lambda number: os.kill(number, signal.SIGKILL))
    code, text = hydratune(
        "train", *UNEVEN, *TWO, "data.batch_size=2", f"hydra.run.dir={tmp_path}/run"
    )
    assert code == 1, text
    assert (
        "the process of rank 1, of a run on 2 devices, was killed by signal 9" in text
        and "Traceback" not in text
    )
    assert "resumes from the last checkpoint" in text
    assert (
        status(tmp_path / "run")["state"] == "failed"
        and "killed by signal 9" in status(tmp_path / "run")["error"]
    )
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("when", ["prepare", "training"])
def test_an_error_of_another_rank_is_reported(
    hydratune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    (tmp_path / "site").mkdir()
    where = (
        "hydratune.models.hardware, 'keep_memory'"
        if when == "prepare"
        else "hydratune.training.module.FineTuning, 'training_step'"
    )
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import os\nif os.environ.get('LOCAL_RANK') == '1':\n    import hydratune.models.hardware,"
        " hydratune.training.module\n    def broken(*args):\n        raise RuntimeError('this rank"
        f" is broken')\n    setattr({where}, broken)\n"
    )
    monkeypatch.setenv(
        "PYTHONPATH",
        os.pathsep.join([str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]),
    )
    code, text = hydratune(
        "train", *SMALL, *TWO, "data.batch_size=2", f"hydra.run.dir={tmp_path}/run"
    )
    assert code == 1, text
    assert (
        text.count("this rank is broken") == 1
        and "rank 1, of a run on 2 devices, ended with exit code 1" in text
    )
    assert "Traceback" in (tmp_path / "run" / "run.log").read_text()


@pytest.mark.slow
def test_a_main_process_that_waits_for_ever_is_ended(tmp_path: Path) -> None:
    """NCCL waits forever for a process that has ended."""
    program = """
import subprocess, sys, threading, time
from pathlib import Path
from hydratune.records.run_directory import RunDirectory
from hydratune.training import ddp
ddp._LEAVE = 0.5
record = RunDirectory(Path(sys.argv[1]))
record.start()
others = ddp.OtherProcesses(record)
others._processes.append(subprocess.Popen([sys.executable, "-c", "import sys; sys.exit(3)"]))
threading.Thread(target=others._watch, daemon=True).start()
time.sleep(300)
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    assert done.stdout.count("rank 1, of a run on 2 devices, ended with exit code 3") == 1
    assert status(tmp_path)["state"] == "failed" and "exit code 3" in status(tmp_path)["error"]
