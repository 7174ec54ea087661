"""The files of a run directory, and its status."""

import csv
import io
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hydratune import digests
from hydratune.errors import InputError, RunError
from hydratune.records.files import (
    read_json,
    write_json,
    write_text,
)
from hydratune.settings.secrets import mask

HISTORY_COLUMNS = (
    "step",
    "epoch",
    "train/loss",
    "val/loss",
    "lr",
    "tokens",
    "tokens_per_second",
    "grad_norm",
)


class State(StrEnum):
    """Of a run, as in its status.json."""

    waiting = "waiting"
    running = "running"
    finished = "finished"
    failed = "failed"
    stopped = "stopped"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Nobody else writes into ``folder`` during the block.

    Raises ``InputError`` if somebody does.
    """
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        fix = "wait for it, or choose another place with hydra.run.dir=DIR or hydra.sweep.dir=DIR"
        raise InputError(f"another process is working in {folder}; {fix}") from None


_OF_ONE_RUN = (
    "config.yaml",
    "environment.json",
    "data.json",
    "data.html",
    "schema.json",
    "metrics.json",
    "evaluation.json",
    "evaluation_texts.json",
    "evaluation_constrained.json",
    "evaluation_lm_eval.json",
    "judge",
    "history.csv",
    "sample.jsonl",
    "canaries.jsonl",
    "report.html",
    "adapter",
    "checkpoints",
)


_KEPT = ("tries",)  # of a status, when a run begins anew


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class RunDirectory:
    """One run's record. Paths are names here and nowhere else."""

    path: Path

    @property
    def status_file(self) -> Path:
        return self.path / "status.json"

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.json"

    @property
    def schema_file(self) -> Path:
        """JSON schema of the answers, where there is one."""
        return self.path / "schema.json"

    @property
    def shown(self) -> Path:
        """The directory as it can be typed from the current one."""
        return (
            self.path.relative_to(Path.cwd()) if self.path.is_relative_to(Path.cwd()) else self.path
        )

    @property
    def history_file(self) -> Path:
        return self.path / "history.csv"

    @property
    def adapter(self) -> Path:
        """PEFT folder of the best checkpoint; after full fine-tuning a whole Hugging Face model."""
        return self.path / "adapter"

    @property
    def sample_file(self) -> Path:
        """What the model said to a few validation rows during training, where that was asked for."""  # noqa: E501
        return self.path / "sample.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def predictions_file(self, system: str = "eval") -> Path:
        """``system``: eval (the fine-tuned model), base or fewshot."""
        return self.path / (
            "predictions.jsonl" if system == "eval" else f"predictions_{system}.jsonl"
        )

    def status(self) -> dict[str, Any]:
        """Empty if the directory holds no run. Raises ``RunError``."""
        if not self.status_file.is_file():
            return {}
        try:
            return dict(read_json(self.status_file))
        except (RunError, TypeError, ValueError) as error:
            why = (
                str(error) if isinstance(error, RunError) else f"{self.status_file} holds no object"
            )
            raise RunError(
                f"{why}. Nothing was touched; with {self.path} moved elsewhere, the same command"
                " runs it anew"
            ) from error

    def is_finished(self) -> bool:
        return self.status().get("state") == State.finished.value and self.metrics_file.is_file()

    def contents(self) -> list[Path]:
        """The files that a run writes, so far."""
        named = [self.path / name for name in _OF_ONE_RUN]
        return [path for path in named if path.exists()] + sorted(
            self.path.glob("*predictions*.jsonl")
        )

    @property
    def finished(self) -> Path:
        """Where a finished run's record goes when it is trained further; there may be several of
        them.
        """
        number = 1
        while (
            folder := self.path / ("finished" if number == 1 else f"finished-{number}")
        ).exists():
            number += 1
        return folder

    def clear(self, *, keep_checkpoints: bool = False, into: Path | None = None) -> None:
        """Moves what an unfinished run left here into ``previous``, so that no file of it is taken
        for one of this run.

        ``keep_checkpoints``: the run is to go on from them. ``into``: another folder than
        ``previous``.
        """
        # of a process that was killed while it wrote: nobody else is here
        for file in self.checkpoints.glob(".*.tmp"):
            file.unlink(missing_ok=True)
        old = [
            path
            for path in self.contents()
            if not (keep_checkpoints and path in (self.checkpoints, self.sample_file))
        ]
        if old:
            previous = into or self.path / "previous"
            shutil.rmtree(previous, ignore_errors=True)
            previous.mkdir()
            if (index := self.path / digests.INDEX).is_file():
                shutil.copy2(index, previous)
            for path in old:
                path.rename(previous / path.name)

    def put_back(self, status: Mapping[str, Any]) -> None:
        """A finished run as it was, with its ``status``, before it was to be trained further."""
        kept = max(self.path.glob("finished*"), key=lambda folder: (len(folder.name), folder.name))
        for path in self.contents():
            if path not in (self.checkpoints, self.sample_file):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in kept.iterdir():
            path.rename(self.path / path.name)
        kept.rmdir()
        write_json(self.status_file, dict(status))

    def start(self, *, going_on: bool = False) -> None:
        """``going_on``: with what an interrupted run left, its W&B run included."""
        before = self.status()
        kept = before if going_on else {key: before[key] for key in _KEPT if key in before}
        started = before.get("started") if going_on else None
        state = {
            "state": State.running.value,
            "started": started or _now(),
            "ended": None,
            "error": None,
        }
        kept = {key: value for key, value in kept.items() if key not in ("halved", "paused")}
        write_json(self.status_file, {"wandb_id": None, **kept, **state})

    def left(self) -> Path | None:
        """The checkpoint that an unfinished run left, to go on from."""
        file = self.checkpoints / "last.ckpt"
        return file if self.status() and not self.is_finished() and file.is_file() else None

    def update(self, **values: Any) -> None:
        write_json(self.status_file, {**self.status(), **values})

    def end(self, state: State, error: str | None = None) -> None:
        self.update(state=state.value, ended=_now(), error=mask(error) if error else None)

    def write_history(self, rows: Sequence[Mapping[str, Any]]) -> None:
        stream = io.StringIO()
        more = dict.fromkeys(key for row in rows for key in row if key not in HISTORY_COLUMNS)
        writer = csv.DictWriter(stream, [*HISTORY_COLUMNS, *more], restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.history_file, stream.getvalue(), digest=True)
