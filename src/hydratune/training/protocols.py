"""What training needs of its caller, as small protocols; ``experiment/context.py`` extends them.

A run on its own uses the defaults (``NeverHalved``, ``OwnResources``). A sweep that computes
several runs in one process implements the same protocols for each of them.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol, TypeVar

Made = TypeVar("Made")


@dataclass(frozen=True)
class RungScore:
    """What a run is judged by after some steps."""

    loss: float  # validation loss; infinite or NaN: the run is worse than any other
    value: float | None = None  # of ``trainer.monitor``, where that is another metric
    interval: tuple[float, float] | None = None  # confidence interval of ``value``


class HalvingDecisions(Protocol):
    """Decides after some steps of a run whether it is worth to be continued."""

    def rungs(self, total: int) -> Sequence[int]:
        """Return the steps, of a run of ``total`` optimizer steps, after which it is judged."""

    def judged(self, step: int) -> bool:
        """Return whether the run from which this one is resumed was judged after ``step``."""

    def may_continue(self, step: int, score: RungScore) -> bool:
        """Return whether the run continues after ``step`` with this score."""

    def training(self) -> AbstractContextManager[None]:
        """Mark the block as the training loop, which asks ``is_to_leave`` after every step."""

    def is_to_leave(self) -> bool:
        """Return whether the run is to save a checkpoint after this optimizer step, and to end."""


class NeverHalved:
    """The decisions for a run that is never judged, and never asked to leave."""

    def rungs(self, total: int) -> Sequence[int]:
        return ()

    def judged(self, step: int) -> bool:
        return True

    def may_continue(self, step: int, score: RungScore) -> bool:
        return True

    def training(self) -> AbstractContextManager[None]:
        return nullcontext()

    def is_to_leave(self) -> bool:
        return False


class SharedResources(Protocol):
    """Makes things once for all runs of a process."""

    def shared(self, name: str, make: Callable[[], Made]) -> Made:
        """Return what ``make`` makes.

        Runs that share resources get the same object for the same name; nobody may change it.
        """


class OwnResources:
    """The resources of a run that shares nothing."""

    def shared(self, name: str, make: Callable[[], Made]) -> Made:
        return make()
