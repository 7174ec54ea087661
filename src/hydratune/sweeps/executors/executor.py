"""What a sweep needs of the place where its packs run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from hydratune.sweeps.planning import PlannedPack


@dataclass(frozen=True)
class EndedPack:
    """A pack that runs no longer."""

    pack: PlannedPack
    # exit code of its process, negative for a signal; 1 if only the place itself says that it ended
    code: int
    why: str = ""  # how it ended, in words, where the exit code does not say so
    is_cancelled: bool = False  # somebody ended it on purpose: it is not tried again


class Executor(Protocol):
    """Runs packs. Used by one thread of one driver at a time.

    The settings of the jobs are written before a pack is submitted, and removed after it ended.
    """

    def free(self) -> int:
        """Return how many more packs can be submitted now."""

    def submit(self, packs: Sequence[PlannedPack]) -> None:
        """Start packs, or queue them. Raises ``SweepError`` if that is impossible."""

    def running(self) -> Sequence[PlannedPack]:
        """Return the packs that were submitted and whose end ``ended`` did not report yet.

        If packs outlive their driver, those of earlier drivers of the same sweep are among them.
        """

    def ended(self) -> Sequence[EndedPack]:
        """Return the packs that have ended since the last call; does not wait.

        A pack that ended without a word is among them after a bounded time. Raises ``SweepError``
        if the place has not answered for long.
        """

    def cancel(self) -> None:
        """End all packs, so that their jobs save their work, and wait for that."""

    def close(self) -> None:
        """Release what the executor holds; packs that outlive the driver continue."""
