"""A resumed run continues from its checkpoint and equals a run without an interruption."""

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
from lightning.pytorch.callbacks import ModelCheckpoint

from conftest import SMALL
from hydratune.experiment.lifecycle import recorded
from hydratune.records.files import write_json
from hydratune.records.run_directory import RunDirectory
from hydratune.training.history import History
from hydratune.training.module import FineTuning
from hydratune.training.resume import _moved
from run_files import assert_same_run, history
from test_config import compose

Command = Callable[..., tuple[int, str]]
RUN = (
    *(s for s in SMALL if not s.startswith(("data.batch_size", "trainer.max_steps"))),
    "data.max_train_rows=9",
    "data.batch_size=2",
    "trainer.max_steps=null",
    "trainer.max_epochs=3",
    "trainer.validations_per_epoch=1",
)
ODD = (
    "adapter.lora_dropout=0.2",
    "trainer.accumulate_grad_batches=2",
    "trainer.gradient_clip_val=0.1",
    "optimizer.schedule=wsd",
)


def interrupt_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise Ctrl-C once, in the middle of the step after ``step``."""
    done: list[int] = []
    before = History.on_before_optimizer_step

    def stopping(self: History, trainer: Any, *args: Any) -> None:
        if trainer.global_step == step and not done:
            done.append(step)
            raise KeyboardInterrupt
        before(self, trainer, *args)

    monkeypatch.setattr(History, "on_before_optimizer_step", stopping)


@pytest.mark.parametrize(
    ("step", "minutes", "resumed_from", "options"),
    [
        pytest.param(3, 1e-9, 3, (), marks=pytest.mark.slow),  # within the first epoch
        pytest.param(7, 1e-9, 7, ODD[:1], marks=pytest.mark.slow),  # within the second
        (5, 1e-9, 5, ODD),  # accumulation: 3 steps in an epoch, the last with one row
        pytest.param(6, 1e-9, 6, ODD, marks=pytest.mark.slow),  # at the end of an epoch
        # only validations write: at the end of the first epoch
        pytest.param(8, None, 5, ("optimizer=lion", "optimizer.lr=1e-4"), marks=pytest.mark.slow),
        pytest.param(
            5,
            1e-9,
            5,
            ("trainer.max_steps=8", "trainer.max_epochs=9", "adapter.layers_to_transform=[1]"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_an_interrupted_run_equals_an_uninterrupted_run(
    hydratune: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    minutes: float,
    resumed_from: int,
    options: tuple[str, ...],
) -> None:
    words = (
        "train",
        *RUN,
        *options,
        f"trainer.checkpoint_minutes={minutes if minutes else 'null'}",
    )
    code, text = hydratune(*words, f"hydra.run.dir={tmp_path}/whole")
    assert code == 0, text
    interrupt_after(step, monkeypatch)
    code, text = hydratune(*words, f"hydra.run.dir={tmp_path}/broken")
    assert code == 130, text
    assert len(history(tmp_path / "broken")) == step
    code, text = hydratune(*words, f"hydra.run.dir={tmp_path}/broken")
    assert code == 0, text
    assert f"resumed after step {resumed_from} of" in text
    assert_same_run(tmp_path / "broken", tmp_path / "whole")
    code, text = hydratune(*words, f"hydra.run.dir={tmp_path}/broken")
    assert code == 2 and "already holds a finished run" in text


@pytest.mark.fault(
    "a cluster takes the machine away (SIGUSR2)",
    seen="the run leaves after its optimizer step",
    kept="everything until that step",
)
@pytest.mark.parametrize("step", [7, 9])
@pytest.mark.slow  # three runs
def test_a_run_whose_machine_is_taken_away_leaves_after_the_step(
    hydratune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """SIGUSR2 in the middle of a step: the step is finished, and a checkpoint written. After step
    10 a validation follows, which belongs to it.
    """
    words = ("train", *RUN, "trainer.checkpoint_minutes=null")
    assert hydratune(*words, f"hydra.run.dir={tmp_path}/whole")[0] == 0
    before, done = History.on_before_optimizer_step, list[int]()

    def asked(self: History, trainer: Any, *args: Any) -> None:
        if trainer.global_step == step and not done:
            done.append(step)
            signal.raise_signal(signal.SIGUSR2)
        before(self, trainer, *args)

    monkeypatch.setattr(History, "on_before_optimizer_step", asked)
    assert hydratune(*words, f"hydra.run.dir={tmp_path}/left")[0] == 130
    assert len(history(tmp_path / "left")) == step + 1
    code, text = hydratune(*words, f"hydra.run.dir={tmp_path}/left")
    assert code == 0 and f"resumed after step {step + 1} of 15" in text, text
    assert_same_run(tmp_path / "left", tmp_path / "whole")


def test_a_run_whose_machine_is_taken_away_before_training_ends_at_once(
    hydratune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydratune.experiment import run

    def asked(*args: Any) -> None:
        signal.raise_signal(signal.SIGUSR2)
        raise AssertionError("it is not prepared any more")

    monkeypatch.setattr(run, "prepare", asked)
    code, text = hydratune("train", *RUN, f"hydra.run.dir={tmp_path}/run")
    assert code == 130 and json.loads((tmp_path / "run" / "status.json").read_text())["state"] == (
        "stopped"
    ), text


@pytest.mark.slow
def test_an_interrupted_validation_is_repeated(
    hydratune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("train", *RUN, "trainer.checkpoint_minutes=1e-9")
    assert hydratune(*words, f"hydra.run.dir={tmp_path}/whole")[0] == 0
    validate, done = FineTuning.validation_step, list[int]()

    def stopping(self: FineTuning, *args: Any) -> None:
        if self.trainer.global_step == 10 and not done:
            done.append(10)
            raise KeyboardInterrupt
        validate(self, *args)

    monkeypatch.setattr(FineTuning, "validation_step", stopping)
    assert hydratune(*words, f"hydra.run.dir={tmp_path}/broken")[0] == 130
    (tmp_path / "broken" / "checkpoints" / ".last.ckpt.1.tmp").write_text("half of it")
    code, text = hydratune(*words, f"hydra.run.dir={tmp_path}/broken")
    assert code == 0 and "resumed after step 9 of 15" in text, text
    assert_same_run(tmp_path / "broken", tmp_path / "whole")
    assert not list((tmp_path / "broken" / "checkpoints").glob(".*"))


def test_a_run_that_was_moved_remembers_its_best(tmp_path: Path) -> None:
    before, now = (
        ModelCheckpoint(dirpath=tmp_path / name, monitor="val/loss", save_top_k=1)
        for name in ("before", "now")
    )
    best = str(tmp_path / "before" / "best.ckpt")
    before.best_model_path, before.best_model_score, before.kth_best_model_path = (
        best,
        torch.tensor(0.25),
        best,
    )
    before.best_k_models = {best: torch.tensor(0.25)}
    now.load_state_dict(_moved(before.state_dict(), now))
    there = str(tmp_path / "now" / "best.ckpt")
    assert (
        now.best_model_score == 0.25
        and now.best_model_path == now.kth_best_model_path == there
        and set(now.best_k_models) == {there}
    )


def test_ctrl_c_while_the_report_is_written_leaves_a_finished_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(record: RunDirectory) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hydratune.experiment.lifecycle.write_page", interrupted)
    record = RunDirectory(tmp_path)
    record.start()
    with pytest.raises(KeyboardInterrupt), recorded(compose(), record):
        write_json(record.metrics_file, {"objective": 0.5})
    assert record.is_finished()


def test_changed_settings_or_data_are_reported_and_refused(
    hydratune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("train", *RUN, "trainer.checkpoint_minutes=1e-9", f"hydra.run.dir={tmp_path}/run")
    interrupt_after(4, monkeypatch)
    assert hydratune(*words)[0] == 130
    code, text = hydratune(*words, "optimizer.lr=0.5")
    assert (
        code == 2
        and "optimizer.lr was 0.0" in text
        and "is 0.5" in text
        and "resume=never begins anew" in text
    )
    code, text = hydratune(*words, "resume=force", "optimizer.lr=0.5")
    assert code == 2 and "resume=force" not in text.split("fix:")[1]
    monkeypatch.setattr("hydratune.tracking.environment.code_hash", lambda: "other")
    code, text = hydratune(*words)
    assert code == 2 and "the code of hydratune changed" in text
    assert "resume=force resumes it" in text
    file = tmp_path / "run" / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(file, weights_only=True)
    assert checkpoint["place"]["step"] == 4  # the checkpoint is unchanged
    (file.parent / "digests.json").unlink()  # an older version wrote none
    torch.save({key: value for key, value in checkpoint.items() if key != "ranks"}, file)
    code, text = hydratune(*words, "resume=force")
    assert (
        code == 2
        and "was written by an older hydratune" in text
        and "resume=never begins anew" in text
    )
    del checkpoint["made_of"]["settings"]["data.train_share"]  # nor had it this setting
    torch.save(checkpoint, file)
    code, text = hydratune(*words, "resume=force", "data.train_share=0.5")
    assert code == 2 and "data.train_share was 1.0 and is 0.5" in text
    code, text = hydratune(*words, "resume=force")
    assert (
        code == 0
        and "resumed after step 4" in text
        and f"{file} is used unverified" in "".join(text.splitlines())
    )


def test_resume_never_starts_again_and_so_does_a_broken_checkpoint(
    hydratune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("train", *RUN, "trainer.checkpoint_minutes=1e-9", f"hydra.run.dir={tmp_path}/run")
    for change in ("resume=never", "seed=0"):
        with pytest.MonkeyPatch.context() as patch:
            interrupt_after(4, patch)
            assert hydratune(*words, change)[0] == 130
        file = tmp_path / "run" / "checkpoints" / "last.ckpt"
        if change == "seed=0":
            file.write_bytes(file.read_bytes()[:2000])
    code, text = hydratune(*words)
    assert code == 0, text
    assert "cannot be read" in text and "resumed after step" not in text
    assert (tmp_path / "run" / "previous" / "history.csv").is_file()


@pytest.mark.fault(
    "kill -9 of a run",
    seen="the same command resumes it",
    kept="the training until its last checkpoint, and the W&B run",
)
@pytest.mark.slow  # three processes
def test_a_killed_run_is_resumed_and_keeps_its_w_and_b_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [
        *RUN,
        "trainer.max_epochs=30",
        "trainer.checkpoint_minutes=1e-9",
        "tracking=offline",
        f"hydra.run.dir={run}",
    ]
    command = [sys.executable, "-m", "hydratune", "train", *words]
    options: dict[str, Any] = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
        "cwd": tmp_path,
    }
    options["env"] = {**os.environ, "WANDB_MODE": "offline"}
    with subprocess.Popen(command, **options) as process:
        deadline = time.monotonic() + 100
        while (
            not (run / "checkpoints" / "last.ckpt").is_file()
            and time.monotonic() < deadline
            and process.poll() is None
        ):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    before = json.loads((run / "status.json").read_text())
    assert before["state"] == "running" and before["wandb_id"]
    done = subprocess.run(command, check=False, **options)
    assert done.returncode == 0, done.stdout
    assert "resumed after step" in done.stdout
    after = json.loads((run / "status.json").read_text())
    assert after["state"] == "finished" and (after["wandb_id"], after["started"]) == (
        before["wandb_id"],
        before["started"],
    )
    assert len(list((run / "wandb").glob("offline-run-*"))) == 1
    assert [int(row["step"]) for row in history(run)] == list(range(1, 151))
