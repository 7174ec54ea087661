"""The files of a run directory, and their names.

Only the name of the file of settings stands in ``settings.paths``, because ``settings`` checks it.
"""

import csv
import io
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from filelock import FileLock, Timeout

from hydratune import digests
from hydratune.console import relative_path
from hydratune.errors import InputError, RunError
from hydratune.records.files import read_json, write_json, write_text
from hydratune.records.status import State, Status
from hydratune.settings.paths import CONFIG_FILE
from hydratune.settings.trainer import local_rank

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
HistoryRow = dict[str, float]  # a row of history.csv: column -> number; without empty ones


class RunFile(StrEnum):
    """The names of the files and folders of a run directory."""

    status = "status.json"
    config = CONFIG_FILE  # the settings, complete
    environment = "environment.json"  # versions, hardware, base model, git commit
    data = "data.json"  # what was trained on, by split
    data_page = "data.html"
    schema = "schema.json"  # JSON schema of the answers, where there is one
    metrics = "metrics.json"
    evaluation = "evaluation.json"  # hydratune evaluate
    evaluation_texts = "evaluation_texts.json"
    evaluation_constrained = "evaluation_constrained.json"
    evaluation_lm_eval = "evaluation_lm_eval.json"
    judge = "judge"  # folder of hydratune judge
    history = "history.csv"  # losses and learning rate by step
    validation = "validation.jsonl"  # answers to validation rows during training
    canaries = "canaries.jsonl"
    forgetting = "forgetting.jsonl"
    report = "report.html"
    adapter = "adapter"  # folder
    checkpoints = "checkpoints"  # folder
    predictions = "predictions.jsonl"
    evaluation_predictions = "evaluation_predictions.jsonl"  # hydratune evaluate
    log = "run.log"
    hydra = ".hydra"  # folder: the settings as Hydra composed them
    lock = ".lock"


LAST_CHECKPOINT = "last.ckpt"  # in the folder of the checkpoints
BEST_CHECKPOINT = "best.ckpt"
# What stays in the directory when a run starts anew.
KEPT_FILES = (
    RunFile.status,  # it is changed in place, and keeps the id of the run at W&B
    RunFile.log,  # it is open before the directory is cleared; a run appends to it
    RunFile.hydra,  # it is written again when a run starts
    RunFile.lock,  # this process holds it
)
_ALL_PREDICTIONS = "*predictions*.jsonl"  # those of the baselines have names of their own
# What moves away when a run starts anew, beside every file of predictions.
_OF_ONE_RUN = tuple(
    name for name in RunFile if name not in KEPT_FILES and not Path(name).match(_ALL_PREDICTIONS)
)


def is_main_process() -> bool:
    """Return whether this process keeps the record.

    The further processes of a data-parallel run do not.
    """
    return local_rank() == 0


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the lock of ``folder``. Raises ``InputError`` if another process holds it."""
    try:
        with FileLock(folder / RunFile.lock, timeout=0):
            yield
    except Timeout:
        fix = "wait for it, or choose another place with hydra.run.dir=DIR or hydra.sweep.dir=DIR"
        raise InputError(f"another process is working in {folder}; {fix}") from None


def require_writable(folder: Path, advice: str) -> None:
    """Raise ``InputError`` if nothing can be written into ``folder``, which may not exist yet."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(place, os.W_OK):
        raise InputError(
            f"cannot write into {place} (no permission, or a read-only disk); {advice}"
        )


@dataclass(frozen=True)
class RunDirectory:
    """One run's record."""

    path: Path

    def file(self, name: RunFile) -> Path:
        return self.path / name

    def links(self) -> list[Path]:
        """Return the files and folders of a run that are symbolic links here."""
        inside = self.path.iterdir() if self.path.is_dir() else ()
        return [path for path in inside if path.is_symlink() and path.name in set(RunFile)]

    @property
    def status_file(self) -> Path:
        return self.file(RunFile.status)

    @property
    def config_file(self) -> Path:
        return self.file(RunFile.config)

    @property
    def environment_file(self) -> Path:
        return self.file(RunFile.environment)

    @property
    def data_file(self) -> Path:
        return self.file(RunFile.data)

    @property
    def metrics_file(self) -> Path:
        return self.file(RunFile.metrics)

    @property
    def schema_file(self) -> Path:
        return self.file(RunFile.schema)

    @property
    def history_file(self) -> Path:
        return self.file(RunFile.history)

    @property
    def log_file(self) -> Path:
        return self.file(RunFile.log)

    @property
    def adapter(self) -> Path:
        """PEFT folder of the best checkpoint; after full fine-tuning a whole Hugging Face model."""
        return self.file(RunFile.adapter)

    @property
    def checkpoints(self) -> Path:
        return self.file(RunFile.checkpoints)

    @property
    def last_checkpoint(self) -> Path:
        """The state of training after the last step, from which a run is resumed."""
        return self.checkpoints / LAST_CHECKPOINT

    @property
    def best_checkpoint(self) -> Path:
        """The state of training at the lowest validation loss."""
        return self.checkpoints / BEST_CHECKPOINT

    def predictions_file(self, system: str = "eval") -> Path:
        """Return the file of a system's answers: eval (the fine-tuned model), base or fewshot."""
        return self.path / (
            RunFile.predictions if system == "eval" else f"predictions_{system}.jsonl"
        )

    @property
    def shown(self) -> Path:
        """The directory as it can be typed from the current one."""
        return relative_path(self.path)

    def read_status(self) -> Status:
        """Return the status; it is empty if the directory holds no run. Raises ``RunError``."""
        if not self.status_file.is_file():
            return Status()
        try:
            return Status(dict(read_json(self.status_file)))
        except (RunError, TypeError, ValueError) as error:
            why = f"{self.status_file} holds no object"
            if isinstance(error, RunError):
                why = str(error)
            raise RunError(
                f"{why}. Nothing was touched; with {self.path} moved elsewhere, the same command"
                " runs it anew"
            ) from error

    def change_status(self, change: Callable[[Status], Status]) -> None:
        """Replace the status by what ``change`` makes of it."""
        write_json(self.status_file, dict(change(self.read_status()).content))

    def update(self, **values: object) -> None:
        """Set keys of the status."""
        self.change_status(lambda status: status.changed(**values))

    def start(self, *, resumed: bool = False) -> None:
        """Set the status of a run that starts in this process; ``resumed``: from a checkpoint."""
        process = {"host": socket.gethostname(), "pid": os.getpid()}
        self.change_status(lambda status: status.start(resumed=resumed).changed(**process))

    def end(self, state: State, error: str | None = None) -> None:
        """Set the status of a run that ended; secrets in ``error`` are masked."""
        self.change_status(lambda status: status.end(state, error))

    def is_finished(self) -> bool:
        return self.read_status().state is State.finished and self.metrics_file.is_file()

    def checkpoint_to_resume(self) -> Path | None:
        """Return the checkpoint that an unfinished run left behind, or None."""
        file = self.last_checkpoint
        has_run = bool(self.read_status().content)
        return file if has_run and not self.is_finished() and file.is_file() else None

    def contents(self) -> list[Path]:
        """Return the files and folders that the run has written so far."""
        named = [self.path / name for name in _OF_ONE_RUN]
        predictions = sorted(self.path.glob(_ALL_PREDICTIONS))
        return [path for path in named if path.exists()] + predictions

    def next_finished_folder(self) -> Path:
        """Return where the record of a finished run is kept when the run is trained further.

        There may be several of them.
        """
        number = 1
        while (
            folder := self.path / ("finished" if number == 1 else f"finished-{number}")
        ).exists():
            number += 1
        return folder

    def clear(self, *, keep_checkpoints: bool = False, into: Path | None = None) -> None:
        """Move what an unfinished run left here into ``into``, by default ``previous``.

        ``keep_checkpoints``: the run is to be resumed from them.
        """
        # of a process that was killed while it wrote: no other process is working here
        for file in self.checkpoints.glob(".*.tmp"):
            file.unlink(missing_ok=True)
        kept = (self.checkpoints, self.file(RunFile.validation)) if keep_checkpoints else ()
        old = [path for path in self.contents() if path not in kept]
        if not old:
            return
        previous = into or self.path / "previous"
        shutil.rmtree(previous, ignore_errors=True)
        previous.mkdir()
        if (index := self.path / digests.INDEX).is_file():
            shutil.copy2(index, previous)
        for path in old:
            path.rename(previous / path.name)

    def restore_finished(self, status: Status) -> None:
        """Restore a finished run, with its ``status``, that was to be trained further."""
        kept = max(self.path.glob("finished*"), key=lambda folder: (len(folder.name), folder.name))
        for path in self.contents():
            if path not in (self.checkpoints, self.file(RunFile.validation)):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in kept.iterdir():
            path.rename(self.path / path.name)
        kept.rmdir()
        write_json(self.status_file, dict(status.content))

    def write_history(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Write history.csv: the usual columns, then those of this run."""
        stream = io.StringIO()
        more = dict.fromkeys(key for row in rows for key in row if key not in HISTORY_COLUMNS)
        writer = csv.DictWriter(stream, [*HISTORY_COLUMNS, *more], restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.history_file, stream.getvalue(), digest=True)
