"""Where one run is done: what it has to itself, or shares with the other runs of its process.

A run asks its workshop for whatever belongs to the whole process: the base model, the rows, seeds,
threads, the clock. ``RunContext`` is that of a run alone; in a pack every run has one that shares
(``hydratune.sweeps.pack``).
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any, TypeVar

from hydratune.experiment.frame import STARTED, closing

Made = TypeVar("Made")


class RunContext:
    """Everything is the run's own."""

    pool: Executor | None = None  # threads that compute; None: the run makes its own
    stop: Callable[[], None] | None = None  # ends this run alone, its work kept; None: Ctrl-C does

    @property
    def began(self) -> float:
        """When the run began, by ``time.perf_counter``."""
        return STARTED

    def shared(self, name: str, make: Callable[[], Made]) -> Made:
        """What ``make`` makes.

        Runs that share it see one thing of each name, which nobody may change.
        """
        return make()

    def own(self, model: Any) -> Any:
        """``model`` to put an adapter on."""
        return model

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        """What is drawn from the process's generators inside is drawn as ``seed`` has it."""
        import lightning

        lightning.seed_everything(seed, verbose=False)
        yield

    @contextmanager
    def one_at_a_time(self, name: str) -> Iterator[None]:
        """No two runs are inside with the same ``name``."""
        yield

    def accept(self, model: Any) -> None:
        """Raises where a run with this ``model`` cannot be done here."""

    def tracker(self, start: Callable[[], Made]) -> tuple[Made, bool]:
        """The W&B run, and whether it is new: one that was paused finds its own again."""
        return start(), True

    def rungs(self, total: int) -> Sequence[int]:
        """Steps, of a run of ``total``, after which ``may_go_on`` is to be asked."""
        return ()

    def judged(self, step: int) -> bool:
        """Whether ``may_go_on`` was asked at ``step`` before, by what this run goes on from."""
        return True

    def may_go_on(self, step: int, loss: float) -> bool:
        """Whether the run goes on after ``step`` with this validation loss; otherwise it is to
        raise ``Paused``.
        """
        return True

    def cpu_seconds(self) -> float:
        """That this run has taken so far."""
        from hydratune.models import hardware

        return hardware.cpu_seconds()

    def ignore_interrupts(self) -> None:
        """From here on the run only writes down what it has: it is not to be interrupted."""
        closing()
