"""Checkpoints: written whole or not at all, verified when they are read."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint

from hydratune import digests
from hydratune.errors import RunError
from hydratune.records.files import atomic
from hydratune.settings.monitor import Monitor
from hydratune.training.interrupts import delay_signals
from hydratune.training.task import Checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint under another name and renames it.

    Lightning's own writer copies from the system's temporary folder, so a full disk leaves half a
    checkpoint.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, object], path: str | Path, storage_options: object = None
    ) -> None:
        """Write ``checkpoint`` and its digest. Raises ``RunError`` if the disk is full."""
        try:
            with delay_signals(), atomic(Path(path), digest=True) as stream:
                torch.save(checkpoint, stream)
        except RuntimeError as error:  # how torch's zip writer reports a full disk
            raise RunError(
                f"cannot write the checkpoint {path} ({error}); free some space and start again"
            ) from error


class BestOfAnswers(ModelCheckpoint):
    """Keeps the best checkpoint by a metric of answers.

    A few answers often have the same value at several validations; then the validation loss
    decides.
    """

    def __init__(self, is_best: Callable[[int], bool], **options: Any) -> None:
        """``is_best`` says whether the validation after this step is the best so far."""
        super().__init__(**options)
        self._is_best = is_best

    def check_monitor_top_k(
        self, trainer: lightning.Trainer, current: torch.Tensor | None = None
    ) -> bool:
        return self._is_best(trainer.global_step)


def best_checkpoint(
    folder: Path, monitor: Monitor, is_best: Callable[[int], bool]
) -> ModelCheckpoint:
    """Return the callback that keeps ``best.ckpt``, the trained parameters at the best validation
    by ``monitor``.

    ``is_best`` says whether the validation after this step is the best so far.
    """
    # By default Lightning would look at the end of an epoch only, and miss a better validation
    # before it.
    options: dict[str, Any] = {
        "dirpath": folder,
        "filename": "best",
        "monitor": monitor.metric,
        "mode": monitor.mode,
        "save_on_train_epoch_end": False,
        "enable_version_counter": False,
    }
    return ModelCheckpoint(**options) if monitor.is_loss else BestOfAnswers(is_best, **options)


def read_checkpoint(file: Path) -> tuple[Checkpoint, bool]:
    """Return the content of a checkpoint, and whether it was verified by its digest.

    Raises ``RunError`` if it is not what was written, or cannot be read.
    """
    try:
        verified = digests.verify(file)
        return dict(torch.load(file, map_location="cpu", weights_only=True)), verified
    except RunError:
        raise
    except Exception as error:
        # torch, its zip reader and its unpickler each have their own errors, whose advice must not
        # be followed
        raise RunError(
            f"{file} cannot be read as a checkpoint ({type(error).__name__}): it was changed or cut"
        ) from error


def best_weights(checkpoint: Path) -> Mapping[str, torch.Tensor]:
    """Return the trained parameters of a checkpoint by the module's names.

    Raises ``RunError`` if it was damaged since.
    """
    try:
        state: Mapping[str, torch.Tensor] = read_checkpoint(checkpoint)[0]["state_dict"]
    except RunError as error:
        raise RunError(
            f"{error}. The same command again is resumed from what is whole, or begins anew"
        ) from error
    return state
