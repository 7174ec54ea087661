"""Adapt the model and train it, on every device, and save what was learnt however it ends."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from rich.markup import escape

from hydratune.adapters import attach, trained
from hydratune.adapters.base import LayerAdapter
from hydratune.adapters.targets import without_effect
from hydratune.console import console
from hydratune.data.rows import stable_hash
from hydratune.errors import DivergedError, Paused, RunError
from hydratune.experiment import model_card
from hydratune.experiment.job import Job
from hydratune.experiment.resuming import find_checkpoint, identity
from hydratune.experiment.validation_answers import answer_function
from hydratune.models import hardware
from hydratune.models.memory_plan import MemoryPlan
from hydratune.records.environment import Environment
from hydratune.records.run_directory import RunDirectory, is_main_process
from hydratune.records.sweep import read_sweep
from hydratune.settings.overrides import as_typed
from hydratune.tracking.tracker import Tracker
from hydratune.training import ddp
from hydratune.training.fit import Fitted, fit
from hydratune.training.interrupts import delay_signals
from hydratune.training.parameter_groups import refuse_unused_rates
from hydratune.training.patches import with_lean_layers
from hydratune.training.schedules import total_steps
from hydratune.training.task import Resumption, TrainingServices, TrainingTask

ANSWERING = "validation by answers"  # stage of the wall seconds

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger


def adapt(job: Job, tracker: Tracker, facts: Mapping[str, object]) -> None:
    """Attach the adapter, check the optimizer against it, and say what is trained.

    ``facts`` are those that W&B has so far; it gets the numbers of parameters beside them.
    """
    without = _excluded_without_effect(job)
    attach_adapter(job)
    job.context.compute.accept(job.model)
    refuse_unused_rates(job.model, job.config.optimizer)
    trainable, total = attach.count_parameters(job.model)
    tracker.log_facts({**facts, "trainable_parameters": trainable, "parameters": total})
    for line in trained.lines(job.model):
        console.print(escape(line), soft_wrap=True)
    for name in without:
        console.print(
            f"[yellow]adapter.exclude_modules: {escape(name)} is no target anyway, so it excludes"
            " nothing",
            soft_wrap=True,
        )
    console.print(
        f"training {trainable:,} of {total:,} parameters ({100 * trainable / total:.2f} %)"
    )


def attach_adapter(job: Job) -> None:
    """Attach the adapter, with the same initial weights whatever was drawn before."""
    config = job.config
    with job.context.resources.seeded(config.seed):
        job.model = with_lean_layers(
            attach.add_adapter(
                job.model, config.adapter, total_steps(config, len(job.train)), job.start
            )
        )


def _excluded_without_effect(job: Job) -> list[str]:
    """Return the names in ``adapter.exclude_modules`` that exclude nothing."""
    adapter = job.config.adapter
    if isinstance(adapter, LayerAdapter) and job.start is None:
        return without_effect(job.model, adapter)
    return []


def train(job: Job, record: RunDirectory, tracker: Tracker) -> Fitted:
    """Train the model and save the best weights.

    Raises ``Paused`` if the sweep pauses the run, ``KeyboardInterrupt`` if it was interrupted,
    ``DivergedError`` or ``RunError`` if training had to stop; what was learnt is saved first.
    """
    try:
        fitted = train_on_all_devices(job, record, tracker.logger)
    except DivergedError as error:
        if error.usable:
            save(job, record)
        raise
    except RunError:  # no space for a checkpoint: the adapter is smaller, and may still fit
        save(job, record)
        console.print(f"[yellow]the adapter so far is in {escape(str(record.adapter))}")
        raise
    if fitted.paused:
        save(job, record)
        raise Paused
    if fitted.interrupted:
        job.context.schedule.ignore_interrupts()
    save(job, record)
    if fitted.interrupted:
        _print_interrupted(record)
        raise KeyboardInterrupt
    return fitted


def save(job: Job, record: RunDirectory) -> None:
    """Save the trained weights, with the tokens that end an answer; signals wait for that."""
    with delay_signals():
        attach.save(
            job.model,
            job.tokenizer,
            record.adapter,
            job.answer_ends,
            model_card.base_model(job),
            model_card.model_card(job),
        )


def _print_interrupted(record: RunDirectory) -> None:
    console.print(
        f"[yellow]interrupted; the adapter so far is in {escape(str(record.adapter))}",
        soft_wrap=True,
    )
    if record.last_checkpoint.is_file() and not read_sweep(record.path.parent):
        folder = escape(as_typed("hydra.run.dir", record.shown))
        console.print(
            f"the same command with {folder} resumes from the last checkpoint",
            soft_wrap=True,
        )


def train_as_other_process(job: Job, record: RunDirectory) -> None:
    """Train as one of the further processes of a data-parallel run, which keep no record."""
    job.checkpoint = find_checkpoint(job, record)
    attach_adapter(job)
    train_on_all_devices(job, record, logger=False)


def train_on_all_devices(
    job: Job, record: RunDirectory, logger: "Logger | Literal[False]"
) -> Fitted:
    """Train in this process, and in one more for each further device."""
    with ddp.other_processes(job.config.trainer, record, stable_hash(identity(job))) as others:
        fitted = _fit(job, record, logger)
    job.other_cpu_seconds = others.cpu_seconds
    if others.starting_seconds:
        job.seconds["start of the other processes"] = others.starting_seconds
    return fitted


def _fit(job: Job, record: RunDirectory, logger: "Logger | Literal[False]") -> Fitted:
    """Train in this process."""
    context = job.context
    with context.resources.seeded(job.config.seed):
        pass  # training draws the same numbers whatever was drawn before
    task = TrainingTask(
        job.model,
        job.train,
        job.validation,
        job.config,
        record,
        job.compute,
        logger,
        row_names=[row.where or row.id for row in job.sets.train],
        base_identity=job.source.identity,
    )
    services = TrainingServices(
        context.compute.pool,
        context.resources,
        context.schedule,
        answer=answer_function(job, record),
        on_plan=lambda plan: _print_plan(job, record, plan),
    )
    fitted = fit(task, Resumption(job.checkpoint, identity(job), job.cpu_seconds), services)
    _record_plan(record, fitted.plan)  # it differs from the first one if memory ran out
    if fitted.frozen_seconds:
        job.seconds["layers that stay as they are"] = fitted.frozen_seconds
    job.seconds["training"] = fitted.training_seconds
    job.seconds["validation"] = fitted.validation_seconds - fitted.answering_seconds
    if fitted.answering_seconds:
        job.seconds[ANSWERING] = fitted.answering_seconds
    return fitted


def _print_plan(job: Job, record: RunDirectory, plan: MemoryPlan) -> None:
    """Record how much is computed at once, and print it on a GPU; a CPU's sizes never change."""
    _record_plan(record, plan)
    if job.compute.accelerator == "gpu" and is_main_process():
        device = job.compute.device
        console.print(f"{hardware.name_of(device)} ({device}): {plan.describe()}", soft_wrap=True)


def _record_plan(record: RunDirectory, plan: MemoryPlan) -> None:
    if is_main_process():
        environment = Environment.read(record.environment_file)
        environment.memory_plan = plan.stored()
        environment.write(record.environment_file)
