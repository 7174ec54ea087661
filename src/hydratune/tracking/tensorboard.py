"""TensorBoard instead of W&B: event files in the run's directory, without account or server."""

import math
from collections.abc import Mapping
from pathlib import Path

from hydratune.settings.registry import flat
from hydratune.tracking.tracker import NoTracker


class TensorBoardTracker(NoTracker):
    """Writes one run's event files. Predictions, data reports and adapters are not logged.

    Nothing is lost by an interruption: the event files written before it are still there.
    """

    def __init__(self, folder: Path, settings: Mapping[str, object]) -> None:
        """Create the event files in ``folder``/tensorboard."""
        from lightning.pytorch.loggers import TensorBoardLogger

        logger = TensorBoardLogger(folder, name="tensorboard", version="")
        self._writer = logger
        self.logger = logger
        self.hint = f"tensorboard --logdir {folder}"
        self.settings: dict[str, int | float | str] = {
            key: value if isinstance(value, int | float) else str(value)
            for key, value in flat(dict(settings)).items()
        }

    def log_facts(self, facts: Mapping[str, object]) -> None:
        named = flat(dict(facts)).items()
        self.settings |= {f"facts.{key}": str(value) for key, value in named}

    def log_summary(self, metrics: Mapping[str, float]) -> None:
        """Log metrics beside the settings, where TensorBoard's table of runs shows them."""
        numbers = {key: float(value) for key, value in metrics.items() if math.isfinite(value)}
        self._writer.log_hyperparams(self.settings, numbers)

    def finish(self, exit_code: int) -> None:
        self._writer.finalize("success" if exit_code == 0 else "failed")
