"""Trains a prepared model with Lightning and leaves the best weights in it."""

import logging
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.trainer.states import TrainerStatus

from hydratune.console import console, progress
from hydratune.data.datamodule import ConversationData
from hydratune.data.encoding.encoded import Encoded
from hydratune.data.rows import stable_hash
from hydratune.errors import ConfigError, DivergedError, Leaving, Paused, Problem
from hydratune.models.compute import Compute
from hydratune.models.hardware import cpu_count, cpu_seconds
from hydratune.models.memory_plan import (
    CPU_MICRO_TOKENS,
    MemoryPlan,
    generation_tokens,
    loss_positions,
    training_plan,
)
from hydratune.records.run_directory import RunDirectory
from hydratune.settings.commands import TrainConfig
from hydratune.settings.registry import plain
from hydratune.training import ddp
from hydratune.training.adalora import rank_allocation
from hydratune.training.callbacks import (
    AtomicCheckpointIO,
    History,
    Patience,
    Rungs,
    Stopped,
    ValidationTimes,
    Watchdog,
    best_checkpoint,
    best_weights,
    signals_wait,
    validation_steps,
)
from hydratune.training.elementwise import EAGER, Elementwise, compiled
from hydratune.training.lora import draws_elsewhere
from hydratune.training.losses import LossShape
from hydratune.training.module import FineTuning
from hydratune.training.objective import Objective
from hydratune.training.resume import GoOn, TrainerPosition
from hydratune.training.sampling import Ask, Sampling
from hydratune.training.schedules import total_steps, updates_per_epoch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fitted:
    """What training left behind; the model itself holds the best weights."""

    history: list[dict[str, Any]]
    best_loss: float | None  # None: interrupted before the first validation
    tokens: int
    training_seconds: float  # without validation
    validation_seconds: float
    frozen_seconds: float  # computing the layers that training does not change, before it
    interrupted: bool
    paused: bool  # the sweep decides whether it goes on
    plan: MemoryPlan  # as it was in the end


def fit(
    model: Any,
    train: Sequence[Encoded],
    validation: Sequence[Encoded],
    config: TrainConfig,
    record: RunDirectory,
    *,
    compute: Compute,
    logger: Any,
    names: Sequence[str] = (),
    base: str = "",
    pool: Executor | None = None,
    made_of: Mapping[str, Any] | None = None,
    checkpoint: Mapping[str, Any] | None = None,
    spent: Callable[[], float] = cpu_seconds,
    rungs: Sequence[int] = (),
    ask: Callable[[int, float], bool] = lambda step, loss: True,
    judged: Callable[[int], bool] = lambda step: True,
    sample: Ask | None = None,
    shared: Callable[[str, Callable[[], MemoryPlan]], MemoryPlan] = lambda name, make: make(),
    planned: Callable[[MemoryPlan], None] = lambda plan: None,
) -> Fitted:
    """Runs the training loop. An interruption is reported in the result, not raised, so that what
    was learnt is kept.

    ``names`` are what the training rows are called in messages, ``base`` identifies the frozen
    weights. ``pool`` are threads that are shared with other runs. ``made_of`` goes into the
    checkpoints, to be compared before one is gone on from; ``checkpoint`` is such a one. ``spent``
    are the CPU-seconds of the run so far. After ``rungs`` steps, ``ask(step, validation loss)``
    says whether training goes on, and ``judged(step)`` whether that was asked before. After every
    ``evaluation.every_steps``, ``sample(step)`` has the model answer. ``shared(name, make)`` makes
    the plan of memory once for all runs on the device; ``planned`` is told of it. Raises
    ``DivergedError`` if the watchdog stopped it.
    """
    settings = config.trainer
    data = ConversationData(
        train,
        validation,
        batch_size=config.data.batch_size,
        accumulate=settings.accumulate_grad_batches,
        seed=config.seed,
    )
    total = total_steps(config, len(train))
    epochs = max(1, round(total / updates_per_epoch(config, len(train))))
    objective = Objective(
        model,
        micro_tokens=settings.micro_tokens or CPU_MICRO_TOKENS,
        workers=_workers(model, config, compute.accelerator),
        shape=LossShape(settings.label_smoothing, settings.z_loss),
        share=settings.share_prefix,
        neftune_alpha=settings.neftune_alpha,
        checkpointing=settings.gradient_checkpointing,
        pieces=elementwise_pieces(settings.compile),
        pool=pool,
        seed=config.seed,
    )
    if objective.unpackable:
        console.print(f"[yellow]rows are padded, not packed: {objective.unpackable}")
        if settings.neftune_alpha:
            raise ConfigError(
                [
                    Problem(
                        "trainer.neftune_alpha",
                        settings.neftune_alpha,
                        "it needs packed rows",
                        "set trainer.neftune_alpha=0",
                    )
                ]
            )
    plan = _memory_plan(objective, config, compute, checkpoint, shared)
    planned(plan)
    module = FineTuning(model, objective, config.optimizer, total)
    # devices and tips: the opening lines say what is used
    for name in (
        "lightning.pytorch",
        "lightning.fabric",
    ):
        logging.getLogger(name).setLevel(logging.WARNING)
    quiet = ddp.rank() > 0
    began = time.perf_counter()
    with progress(
        "layers that stay as they are", len(train) + len(validation), quiet=quiet
    ) as ticker:
        identity = f"{base} {compute.accelerator} {compute.precision}"
        frozen = objective.keep_bottom(
            [*train, *validation], identity, settings.frozen_cache_gb * 1e9, ticker.advance
        )
    frozen_seconds = time.perf_counter() - began if frozen else 0.0
    if frozen and not quiet:
        console.print(f"the lowest {frozen} layers are computed once and kept")
    threads = torch.get_num_threads()
    with progress("training", total, quiet=quiet) as ticker:
        history = History(
            record,
            ticker,
            updates_per_epoch(config, len(train)),
            at_once=compute.device.type == "cpu",
        )
        times = ValidationTimes(validation_steps(total, settings.validations_per_epoch * epochs))
        watchdog = Watchdog(history, settings.max_loss_ratio)
        best, patience = best_checkpoint(record.checkpoints), Patience(settings)
        file = record.checkpoints / "last.ckpt"
        place = TrainerPosition(
            file,
            data,
            made_of or {},
            settings.checkpoint_minutes,
            spent,
            watchdog.before_checkpoint,
            times.steps,
        )
        halts = Rungs(rungs, times, history, ask, judged)
        halts.write = place.write
        going_on = (
            GoOn(checkpoint, shares_process=pool is not None) if checkpoint is not None else None
        )
        with warnings.catch_warnings(), objective:
            warnings.filterwarnings("ignore", module="lightning")
            every = config.evaluation.every_steps
            sampling = (
                [Sampling(every, sample, history)]
                if sample is not None and every is not None
                else []
            )
            # before whoever asks for a loss as it was then
            resumed = [going_on] if going_on is not None else []
            ranks = [ddp.RankSetup()] if settings.strategy == "ddp" else []
            callbacks = [
                *ranks,
                *rank_allocation(model),
                times,
                history,
                *sampling,
                watchdog,
                patience,
                best,
                place,
                *resumed,
                halts,
            ]
            trainer = lightning.Trainer(
                accelerator=compute.accelerator,
                devices=settings.devices,
                strategy=settings.strategy,
                precision=compute.precision,  # type: ignore[arg-type]
                max_epochs=settings.max_epochs,
                max_steps=settings.max_steps or -1,
                accumulate_grad_batches=settings.accumulate_grad_batches,
                gradient_clip_val=settings.gradient_clip_val,
                callbacks=callbacks,
                plugins=[AtomicCheckpointIO(), *ddp.plugins()],
                logger=logger,
                default_root_dir=record.path,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                use_distributed_sampler=False,
                reload_dataloaders_every_n_epochs=(
                    1 if going_on else 0
                ),  # the first epoch is shorter than the others
                log_every_n_steps=1,
            )
            stopped = None
            left = paused = False
            try:
                if going_on is not None:
                    data.trainer = trainer
                    going_on.before_fit(trainer, module, data)
                trainer.fit(module, data)
            except Stopped as error:
                stopped = error
            except Leaving:
                left = True
            except Paused:
                paused = True
            except SystemExit:  # what Lightning makes of Ctrl-C
                if trainer.state.status != TrainerStatus.INTERRUPTED:
                    raise
    torch.set_num_threads(threads)
    try:
        # whatever arrives now, what was trained is brought to where it is saved
        with signals_wait():
            if trainer.world_size == 1:  # the others may be gone
                history.record_pending(trainer)
            if history.rows and trainer.is_global_zero:
                history.write(trainer)
            if best.best_model_path:
                module.load_state_dict(best_weights(record.checkpoints / "best.ckpt"), strict=False)
    except KeyboardInterrupt:
        left = True
    interrupted = left or (
        trainer.state.status == TrainerStatus.INTERRUPTED and stopped is None and not paused
    )
    if patience.stopping_reason is not EarlyStoppingReason.NOT_STOPPED and not quiet:
        why = (
            f"{settings.early_stopping_patience} validations without a loss below"
            f" {patience.best_score:.4f}"
        )
        console.print(
            f"[yellow]stopped early after step {trainer.global_step} of {total}: {why}; the best"
            " weights are kept"
        )
    if stopped is not None:
        raise _diverged(stopped, module, config, total, best, names)
    elapsed = history.last - history.started
    return Fitted(
        history.rows,
        float(best.best_model_score) if best.best_model_score is not None else None,
        history.tokens,
        elapsed - history.validating,
        history.validating,
        frozen_seconds,
        interrupted,
        paused,
        replace(plan, micro_tokens=objective.micro_tokens),
    )


def _memory_plan(
    objective: Objective,
    config: TrainConfig,
    compute: Compute,
    checkpoint: Mapping[str, Any] | None,
    shared: Callable[[str, Callable[[], MemoryPlan]], MemoryPlan],
) -> MemoryPlan:
    """How much is computed at once, from now on by ``objective`` as well; a run that goes on keeps
    the size it had.
    """
    known = checkpoint["ranks"][ddp.rank()]["micro_tokens"] if checkpoint is not None else None
    wanted = config.trainer.micro_tokens or known

    def measure(tokens: int) -> int:
        with objective:
            return objective.peak_of_a_step(tokens)

    def make() -> MemoryPlan:
        vocabulary = objective.model.config.get_text_config().vocab_size
        objective.loss_positions = loss_positions(compute.device, vocabulary)
        trained = sum(p.numel() for p in objective.parameters())
        answers = config.evaluation.batch_tokens or generation_tokens(objective.model)
        return training_plan(compute.device, vocabulary, trained, answers, wanted, measure)

    key = stable_hash(
        [
            wanted,
            plain(config.adapter),
            config.trainer.gradient_checkpointing,
            config.evaluation.batch_tokens,
        ]
    )
    plan = shared(f"memory plan {key}", make)
    objective.micro_tokens, objective.loss_positions = plan.micro_tokens, plan.loss_positions
    return plan


def elementwise_pieces(compile: bool) -> Elementwise:
    """Raises ``ConfigError`` if they are to be compiled, and cannot be."""
    if not compile:
        return EAGER
    try:
        return compiled()
    except Exception as error:  # no compiler, a broken one, no Triton: each has its own exception
        why = (
            "torch.compile does not work here:"
            f" {(str(error).splitlines() or [type(error).__name__])[0]}"
        )
        fix = "install a C++ compiler (on a GPU, Triton), or leave it at false"
        raise ConfigError([Problem("trainer.compile", True, why, fix)]) from error


def _diverged(
    stopped: Stopped,
    module: FineTuning,
    config: TrainConfig,
    total: int,
    best: ModelCheckpoint,
    names: Sequence[str],
) -> DivergedError:
    """What happened, what is kept, what to do."""
    usable = all(bool(p.isfinite().all()) for p in module.parameters() if p.requires_grad)
    if best.best_model_score is not None:
        kept = (
            f"the weights with the best validation loss so far, {best.best_model_score:.4f}, and"
            " the last checkpoint before it"
        )
    else:
        point = "before" if stopped.steps_since is None else "after"
        kept = (
            f"the weights as they were {point} that step"
            if usable
            else "nothing: the weights are no longer finite"
        )
    rows = ", ".join(names[number] if names else f"number {number}" for number in stopped.rows[:8])
    rows += f" and {len(stopped.rows) - 8} more" if len(stopped.rows) > 8 else ""
    clip = config.trainer.gradient_clip_val
    fixes = [
        f"lower optimizer.lr (now {config.optimizer.lr:g})",
        (
            "set trainer.gradient_clip_val=1"
            if clip is None
            else f"lower trainer.gradient_clip_val (now {clip:g})"
        ),
        *(["look at these rows"] if rows else []),
        *(
            ["raise trainer.max_loss_ratio if such a loss is right for them"]
            if "max_loss_ratio" in stopped.what
            else []
        ),
    ]
    when = f"before the update of step {stopped.step}" if rows else f"after step {stopped.step}"
    what = stopped.what
    # on a GPU, steps are judged some time after they were taken
    if stopped.steps_since is not None:
        when, what = (
            f"after step {stopped.step + stopped.steps_since}",
            f"at step {stopped.step}, {stopped.what}",
        )
    lines = [
        f"training was stopped {when} of {total}: {what}",
        *([f"rows of this step: {rows}"] if rows else []),
    ]
    return DivergedError(
        "\n  ".join([*lines, f"kept: {kept}", f"fix: {'; '.join(fixes)}"]), usable=usable
    )


def _workers(model: Any, config: TrainConfig, accelerator: str) -> int:
    """Threads that share the rows of a batch.

    What is drawn at random must not depend on which of them is faster.
    """
    drawn = getattr(config.adapter, "lora_dropout", 0.0) > 0 or config.trainer.neftune_alpha > 0
    if (
        accelerator != "cpu"
        or draws_elsewhere(model)
        or (drawn and config.trainer.gradient_checkpointing)
    ):
        return 1
    return config.trainer.cpu_workers or max(1, cpu_count() // config.trainer.devices)
