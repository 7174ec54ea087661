"""Runs of which only W&B's files are there: of another machine, of another program, or whose
directories are gone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydratune.comparison.runs import UNREADABLE, Run
from hydratune.errors import RunError
from hydratune.records.run_directory import State
from hydratune.settings.registry import flat
from hydratune.tracking import wandb_file

# Lightning's, the Trainer's of transformers, the client's
_STEPS = (
    "trainer/global_step",
    "train/global_step",
    "_step",
)
# by the first of them a run is ranked
_VALIDATION = (
    "objective",
    "val/loss",
    "val_loss",
    "eval/loss",
    "eval_loss",
)
_NO_SETTINGS = ("facts", "_wandb", "tracking")


@dataclass(frozen=True)
class LoggedRun(Run):
    """A run as the client wrote it down. There are no answers in it."""

    title: str = ""
    rows: tuple[Mapping[str, float], ...] = ()

    @property
    def logged(self) -> bool:
        return True

    @property
    def name(self) -> str:
        return self.title

    def predictions(self, system: str = "eval") -> list[dict[str, Any]]:
        return []

    def history(self) -> list[dict[str, float]]:
        return [dict(row) for row in self.rows]


def collect(files: Sequence[Path]) -> list[Run]:
    """One run for each id; the processes of a resumed one together."""
    logs: dict[str, wandb_file.Log] = {}
    broken: list[Run] = []
    for file in files:
        try:
            log = wandb_file.read(file)
        except RunError as error:
            broken.append(
                LoggedRun(
                    file.parent,
                    UNREADABLE,
                    str(error),
                    {},
                    {},
                    title=file.stem.removeprefix("run-"),
                )
            )
            continue
        logs[log.id] = logs[log.id].gone_on(log) if log.id in logs else log
    return [
        _run(log) for log in sorted(logs.values(), key=lambda log: (log.started, log.name))
    ] + broken


def _run(log: wandb_file.Log) -> Run:
    metrics: dict[str, Any] = {
        key: value
        for key, value in wandb_file.numbers(log.summary).items()
        if not key.startswith("_")
    }
    known = next((key for key in _VALIDATION if key in metrics), None)
    if known is not None:
        metrics["objective"] = metrics[known]
    state = {None: "without an end", 0: State.finished.value}.get(log.exit_code, State.failed.value)
    error = None if log.exit_code in (None, 0) else f"exit code {log.exit_code}"
    went_on = "objective" in log.summary  # it was taken up again, and came to its end
    early = "halved_at_step" in metrics and not went_on
    halved = (
        {"step": metrics["halved_at_step"], "value": metrics.get("val/loss")} if early else None
    )
    facts = log.config.get("facts")
    facts = facts if isinstance(facts, dict) else {}
    settings = flat({key: value for key, value in log.config.items() if key not in _NO_SETTINGS})
    environment = {key: facts[key] for key in ("precision", "code") if key in facts}
    environment |= {"model": {"identity": facts["base"]}} if "base" in facts else {}
    title = log.name or log.id
    rows = tuple(_row(row) for row in log.history)
    return LoggedRun(
        log.file.parent,
        State.stopped.value if halved else state,
        error,
        settings,
        metrics,
        str(facts.get("validation", "")),
        halved,
        environment,
        wandb_id=log.id,
        title=title,
        rows=rows,
    )


def _row(row: Mapping[str, Any]) -> dict[str, float]:
    found = {
        key: float(value)
        for key, value in wandb_file.numbers(row).items()
        if not isinstance(value, bool)
    }
    step = next((found[key] for key in _STEPS if key in found), None)
    loss = next((found[key] for key in _VALIDATION[1:] if key in found), None)
    return (
        found
        | ({"step": step} if step is not None else {})
        | ({"val/loss": loss} if loss is not None else {})
    )
