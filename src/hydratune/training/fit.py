"""Train a prepared model with Lightning and leave the best weights in it."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from hydratune.console import console, progress
from hydratune.cores import cpu_count
from hydratune.errors import ConfigError, DivergedError, Problem
from hydratune.metric_format import with_unit
from hydratune.models.memory_plan import CPU_MICRO_TOKENS, MemoryPlan
from hydratune.records.run_directory import HistoryRow
from hydratune.settings.commands import TrainConfig
from hydratune.training import ddp
from hydratune.training.checkpoints import best_weights
from hydratune.training.divergence import Divergence
from hydratune.training.elementwise import elementwise_for
from hydratune.training.history import best_row
from hydratune.training.interrupts import delay_signals
from hydratune.training.losses import LossOptions
from hydratune.training.memory import plan_memory
from hydratune.training.module import FineTuning
from hydratune.training.objective import Objective
from hydratune.training.randomness import draws_outside_lora
from hydratune.training.task import Resumption, TrainingServices, TrainingTask
from hydratune.training.trainer import LoopEnd, TrainingLoop
from hydratune.wording import counted


@dataclass(frozen=True)
class Fitted:
    """What training left behind; the model itself holds the best weights."""

    history: Sequence[HistoryRow]
    # row of the history at which the weights in the model were measured; None: interrupted before
    # the first validation
    best: HistoryRow | None
    tokens: int
    training_seconds: float  # without validation
    validation_seconds: float  # answers to validation rows included
    answering_seconds: float  # of these answers alone
    frozen_seconds: float  # computing the layers that training does not change, before it
    interrupted: bool
    paused: bool  # until the sweep decides whether the run continues
    plan: MemoryPlan  # as it was in the end
    # step after which early stopping ended training, of how many; None: it did not
    stopped_early: tuple[int, int] | None = None

    @property
    def best_loss(self) -> float | None:
        """The validation loss of the weights in the model."""
        return self.best["val/loss"] if self.best is not None else None


def fit(
    task: TrainingTask,
    resumption: Resumption | None = None,
    services: TrainingServices | None = None,
) -> Fitted:
    """Run the training loop and load the best weights.

    An interruption is reported in the result, not raised, so that what was learnt is kept. Raises
    ``ConfigError`` for settings that this model cannot take, ``DivergedError`` if the watchdog
    stopped training.
    """
    resumption, services = resumption or Resumption(), services or TrainingServices()
    objective = _make_objective(task, services)
    checkpoint, device = resumption.checkpoint, task.compute.device
    plan = plan_memory(objective, task.config, device, checkpoint, services.resources)
    services.on_plan(plan)
    module = FineTuning(task.model, objective, task.config.optimizer, task.total_steps)
    _quiet_lightning()
    frozen_seconds = _store_frozen_layers(task, objective)
    threads = torch.get_num_threads()
    with progress("training", task.total_steps, quiet=ddp.rank() > 0) as ticker:
        loop = TrainingLoop(task, module, ticker, resumption, services)
        with services.decisions.training():
            end = loop.run()
    torch.set_num_threads(threads)
    interrupted_late = _load_best(loop)
    _print_early_stop(loop)
    if end.stopped is not None:
        raise _diverged(loop, end)
    history = loop.history
    return Fitted(
        history.rows,
        best_row(history.rows, loop.monitor),
        history.tokens,
        history.last - history.started - history.validating,
        history.validating,
        history.answering,
        frozen_seconds,
        end.interrupted or interrupted_late,
        end.paused,
        replace(plan, micro_tokens=objective.micro_tokens),
        _stopped_early(loop),
    )


def _make_objective(task: TrainingTask, services: TrainingServices) -> Objective:
    settings = task.config.trainer
    objective = Objective(
        task.model,
        micro_tokens=settings.micro_tokens or CPU_MICRO_TOKENS,
        workers=_workers(task.model, task.config, task.compute.accelerator),
        loss_options=LossOptions(settings.label_smoothing, settings.z_loss),
        share=settings.share_prefix,
        neftune_alpha=settings.neftune_alpha,
        checkpointing=settings.gradient_checkpointing,
        elementwise=elementwise_for(settings.compile),
        pool=services.pool,
        seed=task.config.seed,
    )
    if objective.padding_reason:
        console.print(f"[yellow]rows are padded, not packed: {objective.padding_reason}")
        if settings.neftune_alpha:
            fix = "set trainer.neftune_alpha=0"
            alpha = settings.neftune_alpha
            raise ConfigError(
                [Problem("trainer.neftune_alpha", alpha, "it needs packed rows", fix)]
            )
    return objective


def _workers(model: torch.nn.Module, config: TrainConfig, accelerator: str) -> int:
    """Return how many threads share the rows of a batch.

    What is drawn at random must not depend on which of them is faster.
    """
    draws = config.adapter.draws_random() or config.trainer.neftune_alpha > 0
    if (
        accelerator != "cpu"
        or draws_outside_lora(model)
        or (draws and config.trainer.gradient_checkpointing)
    ):
        return 1
    return config.trainer.cpu_workers or max(1, cpu_count() // config.trainer.devices)


def _quiet_lightning() -> None:
    """Drop Lightning's lines about devices, and its tips: the opening lines say what is used."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _store_frozen_layers(task: TrainingTask, objective: Objective) -> float:
    """Compute once what the layers that are not trained compute; return the seconds that it took.

    0: all layers are computed in every step.
    """
    rows, quiet = [*task.train, *task.validation], ddp.rank() > 0
    start = time.perf_counter()
    identity = f"{task.base_identity} {task.compute.accelerator} {task.compute.precision}"
    limit = task.config.trainer.frozen_cache_gb * 1e9
    with progress("layers that stay as they are", len(rows), quiet=quiet) as ticker:
        layers = objective.store_frozen_layers(rows, identity, limit, ticker.advance)
    if not layers:
        return 0.0
    seconds = time.perf_counter() - start
    if not quiet:
        console.print(
            f"the lowest {counted(layers, 'layer is', 'layers are')} computed once and kept"
        )
    return seconds


def _load_best(loop: TrainingLoop) -> bool:
    """Record the last steps, and load the best weights into the model; return whether it was
    interrupted.

    Signals wait: what was trained is brought to where it is saved.
    """
    trainer, history = loop.trainer, loop.history
    try:
        with delay_signals():
            if trainer.world_size == 1:  # the other ranks may have ended
                history.record_pending(trainer)
            if history.rows and trainer.is_global_zero:
                history.write(trainer)
            best = loop.task.record.best_checkpoint
            # Lightning sets the path before it writes the file: an interrupt may come between
            if loop.best.best_model_path and best.is_file():
                weights = best_weights(best)
                loop.module.load_state_dict(weights, strict=False)
    except KeyboardInterrupt:
        return True
    return False


def _stopped_early(loop: TrainingLoop) -> tuple[int, int] | None:
    """Return the step after which early stopping ended training, and how many were planned."""
    if loop.patience.stopping_reason is EarlyStoppingReason.NOT_STOPPED:
        return None
    return loop.trainer.global_step, loop.task.total_steps


def _print_early_stop(loop: TrainingLoop) -> None:
    patience, stopped = loop.patience, _stopped_early(loop)
    if stopped is None or ddp.rank() > 0:
        return
    step, planned = stopped
    validations = counted(loop.task.config.trainer.early_stopping_patience or 0, "validation")
    loop.history.ticker.end_early(
        f"stopped early at step {step} (no better {loop.monitor.title} for {validations})"
    )
    best = with_unit(loop.monitor.metric, float(patience.best_score))
    console.print(
        f"[yellow]stopped early after step {step} of {planned}:"
        f" {validations} without a {loop.monitor.title}"
        f" {'below' if loop.monitor.lower else 'above'} {best}; the best"
        " weights are kept"
    )


def _diverged(loop: TrainingLoop, end: LoopEnd) -> DivergedError:
    assert end.stopped is not None
    task = loop.task
    at_best = best_row(loop.history.rows, loop.monitor)
    best = at_best["val/loss"] if at_best is not None else None
    trained = [p for p in loop.module.parameters() if p.requires_grad]
    divergence = Divergence(
        end.stopped,
        task.total_steps,
        best,
        usable=all(bool(p.isfinite().all()) for p in trained),
        row_names=task.row_names,
    )
    return divergence.error(task.config.optimizer, task.config.trainer)
