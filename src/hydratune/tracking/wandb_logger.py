"""Lightning's logger for W&B, which ends no run: the client's own process may have been killed."""

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from rich.markup import escape

from hydratune.console import console
from hydratune.settings.secrets import mask

if TYPE_CHECKING:
    from lightning.pytorch.loggers import WandbLogger

log = logging.getLogger(__name__)


def guard(logger: "WandbLogger", on_lost: Callable[[], None]) -> "WandbLogger":
    """Let ``logger`` log nothing more after metrics that could not be logged, instead of raising.

    ``on_lost`` is called once then.
    """
    log_metrics, is_lost = logger.log_metrics, False

    def guarded(metrics: Mapping[str, float], step: int | None = None) -> None:
        nonlocal is_lost
        if is_lost:
            return
        try:
            log_metrics(metrics, step)
        except Exception as error:  # the client raises errors of its own, of sockets and of Go
            is_lost = True
            reason = mask(str(error))
            log.warning("W&B: nothing more of this run is logged (%s)", reason)
            console.print(
                f"[yellow]W&B: nothing more of this run is logged ({escape(reason)}); the run"
                " directory has everything",
                soft_wrap=True,
            )
            on_lost()

    logger.log_metrics = guarded  # type: ignore[method-assign]
    return logger
