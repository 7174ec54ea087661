"""What training needs of its caller, as small protocols; ``experiment/context.py`` extends them.

A run on its own uses the defaults (``NeverHalved``, ``OwnResources``). A sweep that computes
several runs in one process implements the same protocols for each of them.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

Made = TypeVar("Made")


class HalvingDecisions(Protocol):
    """Decides after some steps of a run whether it is worth to be continued."""

    def rungs(self, total: int) -> Sequence[int]:
        """Return the steps, of a run of ``total`` optimizer steps, after which it is judged."""

    def judged(self, step: int) -> bool:
        """Return whether the run from which this one is resumed was judged after ``step``."""

    def may_continue(self, step: int, loss: float) -> bool:
        """Return whether the run continues after ``step`` with this validation loss."""


class NeverHalved:
    """The decisions for a run that is never judged."""

    def rungs(self, total: int) -> Sequence[int]:
        return ()

    def judged(self, step: int) -> bool:
        return True

    def may_continue(self, step: int, loss: float) -> bool:
        return True


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
