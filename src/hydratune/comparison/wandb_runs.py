"""Runs of which only W&B's files are at hand.

They come from another machine or another program, or their run directories are gone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydratune.comparison.runs import UNREADABLE, Run
from hydratune.errors import RunError
from hydratune.records.predictions import Prediction
from hydratune.records.run_directory import HistoryRow
from hydratune.records.status import Halved, State
from hydratune.settings.registry import flat
from hydratune.tracking import wandb_file
from hydratune.tracking.wandb_baselines import JOB_TYPE as BASELINE

# names of the optimizer step: by Lightning, by the Trainer of transformers, by W&B's client
_STEPS = ("trainer/global_step", "train/global_step", "_step")
# names of the validation loss; a run is ranked by the first one that it has
_LOSSES = ("objective", "val/loss", "val_loss", "eval/loss", "eval_loss")
_FINAL = frozenset(("objective", "cost/wall_seconds"))  # in the summary of a finished run only
_NO_SETTINGS = ("facts", "_wandb", "tracking")  # keys of a W&B config
_UNFINISHED = "without an end"  # the state of a run whose file does not say how it ended


@dataclass(frozen=True)
class LoggedRun(Run):
    """A run as W&B's client logged it. The log holds no answers."""

    title: str = ""
    rows: tuple[HistoryRow, ...] = ()  # its history

    @property
    def only_logged(self) -> bool:
        return True

    @property
    def name(self) -> str:
        return self.label or self.title

    def predictions(self, system: str = "eval") -> list[Prediction]:
        return []

    def history(self) -> list[HistoryRow]:
        return [dict(row) for row in self.rows]


def collect_logged_runs(files: Sequence[Path]) -> list[Run]:
    """Return one run for each W&B id: the processes of a resumed run are merged.

    Runs that hold the results of the base model are no part of a comparison.
    """
    logs: dict[str, wandb_file.Log] = {}
    unreadable: list[Run] = []
    for file in files:
        try:
            log = wandb_file.read_log(file)
        except RunError as error:
            title = file.stem.removeprefix("run-")
            unreadable.append(LoggedRun(file.parent, UNREADABLE, str(error), {}, {}, title=title))
            continue
        if log.job_type == BASELINE:
            continue
        logs[log.id] = logs[log.id].resumed_by(log) if log.id in logs else log
    in_order = sorted(logs.values(), key=lambda log: (log.started, log.name))
    return [_run(log) for log in in_order] + unreadable


def _run(log: wandb_file.Log) -> Run:
    metrics = _metrics(log)
    halved = None
    # a finished run has costs; one with both was halved once, and resumed later
    if "halved_at_step" in metrics and not _FINAL.intersection(log.summary):
        value = metrics.get("val/loss")
        halved = Halved(int(metrics["halved_at_step"]), None if value is None else float(value))
    facts = log.config.get("facts")
    facts = facts if isinstance(facts, dict) else {}
    settings = {key: value for key, value in log.config.items() if key not in _NO_SETTINGS}
    environment = {key: facts[key] for key in ("precision", "code") if key in facts}
    environment |= {"model": {"identity": facts["base"]}} if "base" in facts else {}
    return LoggedRun(
        log.file.parent,
        State.stopped.value if halved else _state(log.exit_code),
        None if log.exit_code in (None, 0) else f"exit code {log.exit_code}",
        flat(settings),
        metrics,
        validation_hash=str(facts.get("validation", "")),
        halved=halved,
        environment=environment,
        wandb_id=log.id,
        title=log.name or log.id,
        rows=tuple(_history_row(row) for row in log.history),
    )


def _state(exit_code: int | None) -> str:
    if exit_code is None:
        return _UNFINISHED
    return (State.failed if exit_code else State.finished).value


def _metrics(log: wandb_file.Log) -> dict[str, float | bool]:
    """Return the numbers of a run's summary, with the validation loss under "objective" as well."""
    numbers = wandb_file.numbers(log.summary).items()
    metrics = {key: value for key, value in numbers if not key.startswith("_")}
    loss = next((key for key in _LOSSES if key in metrics), None)
    if loss is not None:
        metrics["objective"] = metrics[loss]
    return metrics


def _history_row(row: Mapping[str, object]) -> HistoryRow:
    """Return the numbers of a logged step, with "step" and "val/loss" under these names as well."""
    numbers = wandb_file.numbers(row).items()
    values = {key: float(value) for key, value in numbers if not isinstance(value, bool)}
    step = next((values[key] for key in _STEPS if key in values), None)
    loss = next((values[key] for key in _LOSSES[1:] if key in values), None)
    if step is not None:
        values["step"] = step
    if loss is not None:
        values["val/loss"] = loss
    return values
