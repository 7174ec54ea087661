"""Resume an interrupted run where its last checkpoint was written, to the last bit.

``last.ckpt`` is written after an optimizer step and holds everything that changes: trained weights,
optimizer, schedule, random numbers, history, and the position in the data (epoch, micro-batches
done). Lightning's own restart is not used: it knows epochs, but no position within one. Here a new
fit begins with the counters that the old one had.
"""

import shutil
import time
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Checkpoint as CheckpointCallback
from rich.markup import escape

from hydratune.console import console
from hydratune.data.datamodule import ConversationData
from hydratune.errors import RunError, RunInterrupted
from hydratune.models.hardware import cpu_seconds
from hydratune.records.files import atomic
from hydratune.records.run_directory import (
    BEST_CHECKPOINT,
    LAST_CHECKPOINT,
    HistoryRow,
    is_main_process,
)
from hydratune.settings.monitor import LOSS, Monitor
from hydratune.training.checkpoints import read_checkpoint
from hydratune.training.ddp import gathered
from hydratune.training.history import STEPS_UNREAD, best_row
from hydratune.training.module import FineTuning
from hydratune.training.task import Checkpoint, Resumption


def load(folder: Path) -> tuple[Path, Checkpoint] | None:
    """Return the newest checkpoint in ``folder`` from which a run can be resumed, and its content;
    None if there is none.

    That is ``last.ckpt``, or where it is damaged ``best.ckpt``, which was written at an earlier
    validation and holds as much. A run cannot be resumed from ``last.ckpt`` where the best weights
    before it are damaged: they would be missing in the end.
    """
    last, best = folder / LAST_CHECKPOINT, folder / BEST_CHECKPOINT
    if not last.is_file():
        return None
    newest, older = _readable(last), _readable(best)
    if newest is not None:
        best_step = _best_step(newest)
        if older is not None or best_step is None:
            return last, newest
        if best_step == newest["place"]["step"]:
            _restore_best(last, best)
            return last, newest
        _warn(
            f"{escape(str(last))} alone is not enough: the best weights were written before it, at"
            f" step {best_step}: the run begins anew"
        )
        return None
    if older is not None:
        _warn(
            f"the run is resumed from {escape(str(best))} instead, which was written at the best"
            " validation"
        )
        return best, older
    _warn(f"no checkpoint in {escape(str(folder))} is left whole: the run begins anew")
    return None


def _warn(text: str) -> None:
    console.print(f"[yellow]{text}", soft_wrap=True)


def _restore_best(last: Path, best: Path) -> None:
    """Copy ``last``, which holds the best weights, to the damaged ``best``."""
    _warn(f"{escape(str(last))} holds the same weights as {best.name} did: restored from it")
    if is_main_process():
        with atomic(best, digest=True) as target, last.open("rb") as source:
            shutil.copyfileobj(source, target)


def _readable(file: Path) -> Checkpoint | None:
    """Return the content of a checkpoint; None if it does not exist or cannot be resumed from.

    A damaged or unverified one is reported on the console.
    """
    if not file.is_file():
        return None
    try:
        checkpoint, verified = read_checkpoint(file)
    except RunError as error:
        _warn(f"a checkpoint cannot be read: {escape(str(error))}")
        return None
    if "place" not in checkpoint:
        return None
    if not verified:
        _warn(f"{escape(str(file))} is used unverified: no digest of it was stored with it")
    return checkpoint


def _best_step(checkpoint: Checkpoint) -> int | None:
    """Return the step whose weights are in ``best.ckpt`` beside ``checkpoint``; None before the
    first validation.
    """
    monitor = checkpoint["made_of"].get("settings", {}).get("trainer.monitor", LOSS)
    best = best_row(history(checkpoint), Monitor.read(monitor))
    return int(best["step"]) if best is not None else None


def history(checkpoint: Checkpoint | None) -> list[HistoryRow]:
    """Return the steps before the checkpoint, as ``History`` kept them."""
    return list(checkpoint["callbacks"]["History"]["rows"]) if checkpoint is not None else []


class TrainerPosition(CheckpointCallback):
    """Writes ``last.ckpt``: after every validation, and every so many minutes in between.

    In the list of callbacks it comes after those that learn something from a validation, so that
    this is in the checkpoint.
    """

    def __init__(
        self,
        file: Path,
        data: ConversationData,
        resumption: Resumption,
        minutes: float | None,
        *,
        before: Callable[[lightning.Trainer], None] = lambda trainer: None,
        validated: Container[int] = (),
    ) -> None:
        """``resumption``: what the checkpoints hold for a later resumption. ``before`` is called
        before anything is written, and raises if it must not be.

        ``validated``: steps that are followed by a validation, after which a checkpoint is written.
        With a checkpoint before it, the validation would be missing for good if the run was killed
        meanwhile.
        """
        self.before, self.validated = before, validated
        self.file, self.data, self.resumption = file, data, resumption
        self.seconds = 60 * minutes if minutes else None
        self.written = time.monotonic()

    def write(self, trainer: lightning.Trainer) -> None:
        """Write the checkpoint."""
        self.before(trainer)
        trainer.save_checkpoint(self.file)
        self.written = time.monotonic()

    def on_validation_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule
    ) -> None:
        self.write(trainer)

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: object) -> None:
        if (
            self.seconds is None
            or trainer.global_step in self.validated
            or trainer.fit_loop.epoch_loop._should_accumulate()
        ):
            return
        if (
            trainer.world_size > 1
            and trainer.strategy.root_device.type != "cpu"
            and trainer.global_step % STEPS_UNREAD
        ):
            return  # asking the other ranks makes the CPU wait for the GPU
        due = time.monotonic() - self.written >= self.seconds
        if trainer.strategy.broadcast(due):  # rank 0 decides: a checkpoint takes all ranks
            self.write(trainer)

    def on_save_checkpoint(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        checkpoint: dict[str, object],
    ) -> None:
        loop = trainer.fit_loop
        epoch, batches = self.data.position(
            trainer.current_epoch, loop.epoch_loop.batch_progress.current.ready
        )
        checkpoint["place"] = {"epoch": epoch, "batches": batches, "step": trainer.global_step}
        checkpoint["made_of"] = dict(self.resumption.identity)
        other_ranks = sum(gathered(cpu_seconds())[1:])
        checkpoint["cpu_seconds"] = self.resumption.cpu_seconds() + other_ranks


class LeaveAfterStep(lightning.Callback):
    """Ends the run between two optimizer steps, with a checkpoint, when it is asked to.

    The last of the callbacks, so that everything that belongs to the step is in the checkpoint.
    """

    def __init__(self, is_to_leave: Callable[[], bool], position: TrainerPosition) -> None:
        self._is_to_leave, self._position = is_to_leave, position

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: object) -> None:
        """Leave after a step that is not followed by a validation."""
        if (
            trainer.global_step in self._position.validated
            or trainer.fit_loop.epoch_loop._should_accumulate()
        ):
            return
        if self._leaves(trainer):
            self._position.write(trainer)
            raise RunInterrupted

    def on_validation_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule
    ) -> None:
        """Leave after a validation, after which the checkpoint has been written."""
        if self._leaves(trainer):
            raise RunInterrupted

    def _leaves(self, trainer: lightning.Trainer) -> bool:
        if trainer.world_size == 1:
            return self._is_to_leave()
        if trainer.global_step % STEPS_UNREAD:
            return False  # asking the other ranks takes time
        return bool(trainer.strategy.broadcast(self._is_to_leave()))  # rank 0 decides for all


def _moved(state: Mapping[str, Any], callback: Any) -> dict[str, object]:
    """Return the state of a ModelCheckpoint with the paths of its present folder.

    With those of another folder Lightning would forget which checkpoint was the best.
    """
    if "best_k_models" not in state or state.get("dirpath") == callback.dirpath:
        return dict(state)

    def here(path: str) -> str:
        return str(Path(callback.dirpath) / Path(path).name) if path else path

    paths = {
        key: here(state[key])
        for key in ("best_model_path", "kth_best_model_path", "last_model_path")
        if key in state
    }
    return {
        **state,
        **paths,
        "dirpath": callback.dirpath,
        "best_k_models": {here(k): v for k, v in state["best_k_models"].items()},
    }


class RestoreCheckpoint(lightning.Callback):
    """Sets a new Trainer to the position at which ``checkpoint`` was written."""

    def __init__(self, checkpoint: Checkpoint, *, shares_process: bool) -> None:
        """``shares_process``: the process's own generators belong to other runs as well, and this
        one does not use them.
        """
        self.checkpoint, self.shares_process = checkpoint, shares_process

    def before_fit(
        self, trainer: lightning.Trainer, module: FineTuning, data: ConversationData
    ) -> None:
        """Restore what has to be right before Lightning's loop begins."""
        place = self.checkpoint["place"]
        data.resume_at(place["epoch"], place["batches"])
        epochs = trainer.fit_loop.epoch_progress.current
        epochs.processed = place["epoch"]  # type: ignore[attr-defined]
        loop = trainer.fit_loop.epoch_loop
        loop.automatic_optimization.optim_progress.optimizer.step.total.completed = place["step"]
        loop._batches_that_stepped = place["step"]
        module.load_state_dict(self.checkpoint["state_dict"], strict=False)
        module.restore_random_state(self.checkpoint, of_process=not self.shares_process)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            state = self.checkpoint["callbacks"].get(callback.state_key)
            if state:
                callback.load_state_dict(_moved(state, callback))

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        assert isinstance(module, FineTuning)
        trainer.optimizers[0].load_state_dict(self.checkpoint["optimizer_states"][0])
        schedule = trainer.lr_scheduler_configs[0].scheduler
        assert isinstance(schedule, torch.optim.lr_scheduler.LambdaLR)
        schedule.load_state_dict(self.checkpoint["lr_schedulers"][0])
        for group, lr, factor in zip(
            trainer.optimizers[0].param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True
        ):
            # as it was; where the run has become longer, as it is now
            group["lr"] = lr * factor(schedule.last_epoch)
        module.restore_random_state(self.checkpoint, of_process=not self.shares_process)
        stopping = trainer.early_stopping_callback
        if stopping is not None and stopping.wait_count >= stopping.patience:  # it was about to end
            trainer.should_stop = True
