"""Signals, closed pipes and closed terminals during a run."""

import collections
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import SMALL
from hydratune import digests
from run_files import history, offline_environment

Command = Callable[..., tuple[int, str]]


@pytest.mark.fault(
    "Ctrl-C while a run trains",
    seen="exit code 130, the place of the adapter, and the command that resumes",
    kept="the adapter so far, and a checkpoint",
)
def test_ctrl_c_keeps_the_adapter_and_says_stopped(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "hydratune",
        "train",
        *SMALL,
        "trainer.max_steps=null",
        "trainer.max_epochs=5000",
        f"hydra.run.dir={tmp_path}/run",
    ]
    with subprocess.Popen(
        command,
        env=offline_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        history_file, deadline = tmp_path / "run" / "history.csv", time.monotonic() + 90
        while not history_file.exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.2)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        text = process.communicate(timeout=60)[0]
    assert process.returncode == 130, text
    run = tmp_path / "run"
    assert json.loads((run / "status.json").read_text())["state"] == "stopped"
    assert (run / "adapter" / "adapter_model.safetensors").is_file()
    assert history(run)
    assert list(run.glob("wandb/offline-run-*/*.wandb"))
    assert "Traceback" not in text


@pytest.mark.fault(
    "two Ctrl-C, or SIGTERM after Ctrl-C",
    seen="a line that says that weights are being saved",
    kept="the adapter so far",
)
@pytest.mark.slow  # a process each
@pytest.mark.parametrize(
    "delay",
    [0.0, 0.02, 0.05, 0.1, 0.15, 0.3, 0.5, 1.0],
)
def test_signals_after_the_first_do_not_cost_the_adapter(tmp_path: Path, delay: float) -> None:
    with start(tmp_path, "trainer.max_steps=null", "trainer.max_epochs=5000") as process:
        deadline = time.monotonic() + 90
        while (
            not (tmp_path / "run" / "history.csv").exists()
            and time.monotonic() < deadline
            and process.poll() is None
        ):
            time.sleep(0.05)
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            process.send_signal(number)
            time.sleep(delay)
        text = process.communicate(timeout=60)[0]
    late = (-signal.SIGINT, -signal.SIGTERM)  # when Python itself was ending
    assert process.returncode in (130, *late), text
    assert "Traceback" not in text and "the adapter so far is in" in text
    run = tmp_path / "run"
    assert json.loads((run / "status.json").read_text())["state"] == "stopped"
    assert (run / "adapter" / "adapter_model.safetensors").is_file() and digests.damaged(
        run / "adapter"
    ) is None


@pytest.mark.fault(
    "a signal while the final adapter is saved",
    seen="the end of the run is delayed until it is saved",
    kept="the whole adapter",
)
def test_a_signal_while_the_final_adapter_is_saved_waits_for_it(
    hydratune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydratune.adapters import attach
    from hydratune.training import fit

    save, load = attach.save, fit.best_weights

    def saving(*args: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        save(*args)

    def loading(*args: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return load(*args)

    for module, name, arriving in ((attach, "save", saving), (fit, "best_weights", loading)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, name, arriving)
            code, text = hydratune("train", *SMALL, f"hydra.run.dir={tmp_path}/{name}")
        assert code == 130, text
        assert (tmp_path / name / "adapter" / "adapter_model.safetensors").is_file()
        assert json.loads((tmp_path / name / "status.json").read_text())["state"] == "stopped"


def test_a_signal_between_the_choice_of_the_best_weights_and_their_file_keeps_the_adapter(
    hydratune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning remembers the path of the best checkpoint before it writes the file."""
    from hydratune.training.checkpoints import AtomicCheckpointIO

    save = AtomicCheckpointIO.save_checkpoint

    def interrupted(self: Any, checkpoint: Any, path: Any, **options: Any) -> None:
        if Path(path).name == "best.ckpt":
            signal.raise_signal(signal.SIGINT)
        save(self, checkpoint, path, **options)

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", interrupted)
    code, text = hydratune("train", *SMALL, f"hydra.run.dir={tmp_path}/run")
    assert code == 130 and "the adapter so far is in" in text
    assert not (tmp_path / "run" / "checkpoints" / "best.ckpt").exists()
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()


def test_a_signal_after_a_lost_one_still_interrupts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from hydratune.experiment import interrupts

    monkeypatch.setattr(interrupts, "_ending", interrupts._Ending())
    with pytest.raises(KeyboardInterrupt):
        interrupts.interrupt(signal.SIGINT, None)
    interrupts.interrupt(signal.SIGINT, None)
    assert interrupts._ending.asked_at is not None
    interrupts._ending.asked_at -= 31  # dropped by Python, in a destructor say
    with pytest.raises(KeyboardInterrupt):
        interrupts.interrupt(signal.SIGTERM, None)
    interrupts._ending.saving = True
    interrupts._ending.asked_at -= 1000
    interrupts.interrupt(signal.SIGINT, None)  # however long it takes to save


@pytest.mark.fault(
    "Ctrl-C while a checkpoint is written",
    seen="the end waits for the checkpoint",
    kept="the checkpoint",
)
def test_ctrl_c_during_a_checkpoint_waits_for_it(tmp_path: Path) -> None:
    """When interrupted while it writes, torch's zip writer raises the same error as for a full
    disk.
    """
    from hydratune.training.checkpoints import AtomicCheckpointIO

    class Interrupting:
        def __reduce__(self) -> tuple[type, tuple[()]]:
            signal.raise_signal(signal.SIGINT)  # while it is pickled
            return (collections.OrderedDict, ())

    with pytest.raises(KeyboardInterrupt):
        AtomicCheckpointIO().save_checkpoint(
            {"x": Interrupting(), "y": torch.ones(3)}, tmp_path / "last.ckpt"
        )
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["y"].tolist() == [1, 1, 1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def start(tmp_path: Path, *overrides: str) -> "subprocess.Popen[str]":
    command = [
        sys.executable,
        "-m",
        "hydratune",
        "train",
        *SMALL,
        *overrides,
        f"hydra.run.dir={tmp_path}/run",
    ]
    return subprocess.Popen(
        command,
        env=offline_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.fault(
    "the reader of the output ends (`| head`)",
    seen="nothing more is printed",
    kept="the run, which continues",
)
@pytest.mark.slow
def test_closed_pipe_does_not_end_the_run(tmp_path: Path) -> None:
    with start(tmp_path) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(90) == 0
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "finished"


@pytest.mark.fault(
    "the terminal is closed (SIGHUP)",
    seen="the status says stopped",
    kept="the adapter so far",
)
@pytest.mark.slow
def test_closed_terminal_keeps_the_adapter(tmp_path: Path) -> None:
    with start(tmp_path, "trainer.max_steps=null", "trainer.max_epochs=5000") as process:
        deadline = time.monotonic() + 90
        while not (tmp_path / "run" / "history.csv").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "stopped"
    assert list((tmp_path / "run" / "adapter").glob("*.safetensors"))
