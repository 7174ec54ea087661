"""TensorBoard instead of W&B: event files in the run's directory, no account and no server."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydratune.errors import ConfigError, Problem
from hydratune.settings.registry import flat


class TensorBoardTracker:
    """One run's event files. Texts and adapters stay in the run directory."""

    id: str | None = None

    def __init__(self, folder: Path, values: Mapping[str, Any]) -> None:
        """Raises ``ConfigError`` where no writer is installed."""
        from lightning.pytorch.loggers import TensorBoardLogger

        try:
            self.logger: Any = TensorBoardLogger(folder, name="tensorboard", version="")
        except ModuleNotFoundError:
            fix = "pip install 'hydratune[tensorboard]'"
            raise ConfigError(
                [
                    Problem(
                        "tracking.mode", "tensorboard", "TensorBoard's writer is not installed", fix
                    )
                ]
            ) from None
        self.hint = f"tensorboard --logdir {folder}"
        self.values = {
            key: value if isinstance(value, (int, float, bool)) else str(value)
            for key, value in flat(dict(values)).items()
        }

    def facts(self, facts: Mapping[str, Any]) -> None:
        self.values |= {f"facts.{key}": str(value) for key, value in flat(dict(facts)).items()}

    def summary(self, metrics: Mapping[str, float]) -> None:
        """Beside the settings, where TensorBoard's table of runs shows them."""
        numbers = {key: float(value) for key, value in metrics.items() if math.isfinite(value)}
        self.logger.log_hyperparams(self.values, numbers)

    def predictions(self, rows: Sequence[Mapping[str, Any]]) -> None:
        pass

    def data(self, files: Sequence[Path]) -> None:
        pass

    def adapter(self, folder: Path) -> None:
        pass

    def again(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """What was written before an interruption is still there."""

    def finish(self, exit_code: int) -> None:
        self.logger.finalize("success" if exit_code == 0 else "failed")
