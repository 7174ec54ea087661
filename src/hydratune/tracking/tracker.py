"""What every tracker does, and the tracker that does nothing.

The run directory is the record of a run. A tracker mirrors it in another place: on W&B
(``wandb``), or in TensorBoard's event files (``tensorboard``).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Protocol

from hydratune.records.predictions import Prediction
from hydratune.records.run_directory import HistoryRow

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

WANDB_PAGE = "W&B"  # the label of the page of the run itself


class Tracker(Protocol):
    """Mirrors one run."""

    id: str | None  # of the run on W&B
    hint: str  # the command, or the address, that shows the run
    pages: Mapping[str, str]  # addresses of the run, its group and its sweep, by a label

    @property
    def logger(self) -> "Logger | Literal[False]":
        """The logger for Lightning's Trainer."""
        ...

    def log_facts(self, facts: Mapping[str, object]) -> None:
        """Add facts about the run, such as its number of parameters, to its settings."""
        ...

    def write_log(self, text: str) -> None:
        """Add what the run printed to its console log."""
        ...

    def log_summary(self, metrics: Mapping[str, float]) -> None:
        """Log the final metrics."""
        ...

    def log_predictions(self, rows: Sequence[Prediction]) -> None:
        """Log the answers to the test rows."""
        ...

    def log_data_reports(self, files: Sequence[Path]) -> None:
        """Log the reports on the data."""
        ...

    def log_adapter(self, folder: Path) -> None:
        """Log the trained weights."""
        ...

    def restore_history(self, rows: Sequence[HistoryRow]) -> None:
        """Log what was logged before an interruption, if it did not reach the server."""
        ...

    def finish(self, exit_code: int) -> None:
        """End the run; ``exit_code`` 0 means success."""
        ...


class NoTracker:
    """A tracker that does nothing: no request, no folder, no import.

    Trackers that cannot log everything derive from it.
    """

    logger: "Logger | Literal[False]" = False
    id: str | None = None
    hint: str = ""
    pages: Mapping[str, str] = MappingProxyType({})

    def log_facts(self, facts: Mapping[str, object]) -> None:
        pass

    def write_log(self, text: str) -> None:
        pass

    def log_summary(self, metrics: Mapping[str, float]) -> None:
        pass

    def log_predictions(self, rows: Sequence[Prediction]) -> None:
        pass

    def log_data_reports(self, files: Sequence[Path]) -> None:
        pass

    def log_adapter(self, folder: Path) -> None:
        pass

    def restore_history(self, rows: Sequence[HistoryRow]) -> None:
        pass

    def finish(self, exit_code: int) -> None:
        pass
