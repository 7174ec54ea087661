"""A finished run opened again: its settings, its metrics and its fine-tuned model."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from hydratune import digests
from hydratune.bounds import load_yaml
from hydratune.errors import ConfigError, Problem, RunError
from hydratune.records.environment import Environment
from hydratune.records.files import Json, read_json
from hydratune.records.metrics import RunMetrics
from hydratune.records.run_directory import RunDirectory, RunFile
from hydratune.records.status import State
from hydratune.settings.commands import EvaluateConfig, TrainConfig, load
from hydratune.settings.overrides import as_typed
from hydratune.training.optimizers.adamw import AdamWOptimizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hydratune.experiment.job import Job


@dataclass(frozen=True)
class FinishedRun:
    """A run directory with metrics."""

    record: RunDirectory
    settings: TrainConfig
    metrics: RunMetrics

    @property
    def measured_with(self) -> dict[str, Json]:
        """How the metrics of the fine-tuned model were taken: task, rows, token limit ..."""
        return self.metrics.settings["eval"]

    @property
    def schema(self) -> dict[str, Json] | None:
        """The JSON schema of the answers; None if there is none."""
        file = self.record.schema_file
        return read_json(file) if file.is_file() else None


def open_run(folder: str) -> FinishedRun:
    """Open the run in ``folder``. Raises ``RunError`` if it has no metrics."""
    record = RunDirectory(Path(folder).resolve())
    state = record.read_status().state
    if not record.metrics_file.is_file() and state not in (None, State.finished):
        raise RunError(
            f"{record.shown} has no model yet: its state is {state.value}; wait for it if it runs"
            " (hydratune status), else continue it: hydratune doctor"
            f" {as_typed('outputs', record.shown.parent)} has the command"
        )
    metrics = RunMetrics.read(record.metrics_file)
    if "eval" not in metrics.settings:
        raise RunError(f"{record.metrics_file} holds no metrics of a finished run; train it again")
    return FinishedRun(record, load_settings(record), metrics)


def load_settings(record: RunDirectory) -> TrainConfig:
    """Return the settings of a run. Raises ``RunError`` if they cannot be read."""
    if record.config_file.is_file():
        digests.content(record.config_file)
    try:
        return load(record.config_file)
    except ConfigError as error:
        problems = "; ".join(f"{p.key} = {p.value}: {p.why}" for p in error.problems)
        raise RunError(
            f"{record.config_file}: {problems}; use the version of hydratune that made this run, or"
            " install the package that brought what is missing"
        ) from error
    except (OmegaConfBaseException, YAMLError, KeyError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(
            f"{record.config_file} is not the settings of a run ({reason}); it was changed or cut"
        ) from error


def require_files(
    settings: TrainConfig, record: RunDirectory, found: Iterable[Problem] | None = None
) -> None:
    """Raise ``RunError`` if settings of a run are refused now, such as files that are missing.

    Their paths are relative to the folder in which the run was started. ``found``: the problems
    that matter; None: those of all settings.
    """
    if problems := list(settings.problems() if found is None else found):
        origin = record.file(RunFile.hydra) / "hydra.yaml"
        started = load_yaml(origin).hydra.runtime.cwd if origin.is_file() else "another folder"
        place = ""
        if started != str(Path.cwd()):
            place = f" here; it was started in {started}, and relative paths count from there"
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise RunError(f"the run cannot be repeated with its settings{place}\n{lines}")


def has_adapter(record: RunDirectory) -> bool:
    """Return whether the run has trained weights."""
    return any(record.adapter.glob("*.safetensors"))


def require_adapter(record: RunDirectory, purpose: str) -> None:
    """Raise ``RunError`` if the run has no trained weights."""
    if not has_adapter(record):
        raise RunError(
            f"{record.adapter} holds no weights (*.safetensors); this run has no adapter to"
            f" {purpose}"
        )


def load_model(run: FinishedRun, config: EvaluateConfig) -> "tuple[Job, PreTrainedModel]":
    """Prepare the run again and return it with its fine-tuned model.

    Raises ``RunError`` if the data or the base model has changed.
    """
    from hydratune.adapters import attach
    from hydratune.experiment.prepare import prepare

    require_adapter(run.record, "evaluate")
    settings = adapted_settings(run, config.batch_size, config.accelerator)
    require_files(settings, run.record)
    job = prepare(settings)
    recorded = Environment.read(run.record.environment_file)
    if recorded.base != job.source.identity:
        raise RunError(
            f"the base model has changed since this run: {recorded.base} then,"
            f" {job.source.identity} now"
        )
    if recorded.data_fingerprint != job.data_facts["fingerprint"]:
        raise RunError(
            "the data has changed since this run: its fingerprint differs; its stored predictions"
            f" can still be scored:\n  hydratune evaluate {as_typed('run', config.run)}"
            " source=predictions"
        )
    model = attach.load_tuned(
        settings.model, settings.adapter, job.source, run.record.adapter, job.compute
    )
    return job, model


def adapted_settings(
    run: FinishedRun, batch_size: int | None = None, accelerator: str | None = None
) -> TrainConfig:
    """Return the settings of the run, adapted to this machine; None leaves the run's own."""
    settings = run.settings
    if batch_size is not None:
        settings.evaluation.batch_size = batch_size
    # the recorded limit is 0 for documents
    settings.evaluation.max_new_tokens = run.measured_with["max_new_tokens"] or None
    if accelerator is not None:
        settings.trainer.accelerator = accelerator
        settings.trainer.devices, settings.trainer.strategy = 1, "auto"
    if settings.model.adapter is not None:  # the one it began with: what became of it is its own
        settings.model.adapter = str(run.record.adapter)
    # nothing is trained, so the requirements of the run's own optimizer do not matter, nor whether
    # its callbacks are installed
    settings.optimizer = AdamWOptimizer()
    settings.trainer.callbacks, settings.trainer.callback_settings = None, {}
    return settings
