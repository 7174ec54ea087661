"""Trains a prepared model with Lightning and leaves the best weights in it."""

import logging
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.trainer.states import TrainerStatus

from hydratune.config import TrainConfig
from hydratune.console import console, progress
from hydratune.data.datamodule import ConversationData
from hydratune.data.masking import Encoded
from hydratune.errors import HydratuneError
from hydratune.models.hardware import cpu_count
from hydratune.records import RunDirectory
from hydratune.training.adalora import rank_allocation
from hydratune.training.callbacks import AtomicCheckpointIO, History, Patience, ValidationTimes, best_weights, checkpoints, validation_steps
from hydratune.training.module import FineTuning
from hydratune.training.objective import Objective

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fitted:
    """What training left behind; the model itself holds the best weights."""

    history: list[dict[str, Any]]
    best_loss: float | None  # None: interrupted before the first validation
    tokens: int
    training_seconds: float  # without validation
    validation_seconds: float
    interrupted: bool


def optimizer_steps(config: TrainConfig, rows: int) -> int:
    """Of a whole run over ``rows`` training rows."""
    trainer = config.trainer
    per_epoch = -(-rows // (config.data.batch_size * trainer.accumulate_grad_batches * trainer.devices))
    total = trainer.max_epochs * per_epoch
    return min(total, trainer.max_steps) if trainer.max_steps else total


def fit(
    model: Any,
    train: Sequence[Encoded],
    validation: Sequence[Encoded],
    config: TrainConfig,
    record: RunDirectory,
    *,
    accelerator: str,
    precision: str,
    logger: Any,
) -> Fitted:
    """Runs the training loop. An interruption is reported in the result, not raised, so that what was learnt is kept."""
    settings = config.trainer
    data = ConversationData(
        train, validation, batch_size=config.data.batch_size, accumulate=settings.accumulate_grad_batches, seed=config.seed
    )
    total = optimizer_steps(config, len(train))
    epochs = max(1, round(total / data.updates_per_epoch(settings.devices)))
    objective = Objective(model, micro_tokens=settings.micro_tokens, workers=_workers(config, accelerator))
    if objective.unpackable:
        console.print(f"[yellow]rows are padded, not packed: {objective.unpackable}")
    module = FineTuning(model, objective, config.optimizer, total)
    for name in ("lightning.pytorch", "lightning.fabric"):  # devices and tips: the opening lines say what is used
        logging.getLogger(name).setLevel(logging.WARNING)
    quiet = int(os.environ.get("LOCAL_RANK", "0")) > 0
    threads = torch.get_num_threads()
    with progress("training", total, quiet=quiet) as ticker:
        history = History(record, ticker)
        times = ValidationTimes(validation_steps(total, settings.validations_per_epoch * epochs))
        (best, last), patience = checkpoints(record.checkpoints), Patience(settings)
        with warnings.catch_warnings(), objective:
            warnings.filterwarnings("ignore", module="lightning")
            trainer = lightning.Trainer(
                accelerator=accelerator,
                devices=settings.devices,
                strategy=settings.strategy,
                precision=precision,  # type: ignore[arg-type]
                max_epochs=settings.max_epochs,
                max_steps=settings.max_steps or -1,
                accumulate_grad_batches=settings.accumulate_grad_batches,
                gradient_clip_val=settings.gradient_clip_val,
                callbacks=[*rank_allocation(model), times, history, best, last, patience],
                plugins=[AtomicCheckpointIO()],
                logger=logger,
                default_root_dir=record.path,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                use_distributed_sampler=False,
                log_every_n_steps=1,
            )
            try:
                trainer.fit(module, data)
            except SystemExit:  # what Lightning makes of Ctrl-C
                if trainer.state.status != TrainerStatus.INTERRUPTED:
                    raise
    torch.set_num_threads(threads)
    interrupted = trainer.state.status == TrainerStatus.INTERRUPTED
    if patience.stopping_reason is not EarlyStoppingReason.NOT_STOPPED and not quiet:
        diverged = patience.stopping_reason is EarlyStoppingReason.NON_FINITE_METRIC
        waited = f"{settings.early_stopping_patience} validations without a loss below {patience.best_score:.4f}"
        why = "the validation loss is no longer a number" if diverged else waited
        console.print(f"[yellow]stopped early after step {trainer.global_step} of {total}: {why}; the best weights are kept")
    if history.rows and trainer.is_global_zero:
        history.write(trainer)
    if not interrupted and (best.best_model_score is None or not math.isfinite(best.best_model_score)):
        raise HydratuneError("training ended without a finite validation loss; lower optimizer.lr or check the data")
    if best.best_model_path:
        module.load_state_dict(best_weights(record.checkpoints / "best.ckpt"), strict=False)
    elapsed = history.last - history.started
    return Fitted(
        history.rows,
        float(best.best_model_score) if best.best_model_score is not None else None,
        history.tokens,
        elapsed - history.validating,
        history.validating,
        interrupted,
    )


def _workers(config: TrainConfig, accelerator: str) -> int:
    """Threads that share the rows of a batch. Dropout draws from one generator, so its order must not depend on threads."""
    dropout = [value for name, value in vars(config.adapter).items() if name.endswith("dropout")]
    if accelerator != "cpu" or any(dropout):
        return 1
    return config.trainer.cpu_workers or max(1, cpu_count() // config.trainer.devices)
