"""The tree of errors. Every message says what is wrong, where, and what to do.

HydratuneError            exit 1: the work failed
├── SweepError            some jobs of a sweep failed; the others are kept
├── CannotSharePackError  a job cannot share a pack; it is run again, alone in its process
├── RunError              a run directory cannot be used as asked
├── DivergedError         training was stopped: a loss or gradient that is not finite, or too large
└── InputError            exit 2: what the user gave is wrong; no compute was spent
    ├── ConfigError       a setting; carries every problem found, not only the first
    └── DataError         a data file or row; carries file:line
        └── MaskError     a row whose loss mask would be wrong (in data)

They derive from Hydra's ``CompactHydraException``, so that a Hydra program that embeds hydratune
prints them without a traceback as well.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hydra.errors import CompactHydraException

from hydratune.wording import counted


class HydratuneError(CompactHydraException):
    """The work failed for a reason that is known and explained."""

    exit_code = 1


class RunInterrupted(Exception):
    """Ends a run in a thread of a pack, as ``KeyboardInterrupt`` does in the main thread.

    Its trained weights are saved.
    """


class Paused(Exception):
    """Ends a run that waits, with a checkpoint, until its sweep decides whether it continues."""


class SweepError(HydratuneError):
    """Some jobs of a sweep failed."""


class CannotSharePackError(HydratuneError):
    """A job cannot share a process with others, which only its loaded model shows."""


class RunError(HydratuneError):
    """A run directory is missing, broken or not what the command needs."""


class DivergedError(HydratuneError):
    """Training was stopped because the loss diverged.

    ``usable`` says whether the model still has finite weights.
    """

    def __init__(self, message: str, *, usable: bool) -> None:
        super().__init__(message)
        self.usable = usable


class InputError(HydratuneError):
    """What the user gave is wrong."""

    exit_code = 2


class DataError(InputError):
    """A data file or row cannot be used."""


@dataclass(frozen=True)
class Problem:
    """One wrong setting: ``key = value``, why it is wrong, what to do instead."""

    key: str
    value: object
    why: str
    fix: str

    def __str__(self) -> str:
        shown = "null" if self.value is None else self.value
        return f"{self.key} = {shown}\n    why: {self.why}\n    fix: {self.fix}"


class ConfigError(InputError):
    """All the settings that are wrong, at once."""

    def __init__(self, problems: Sequence[Problem], prefix: str = "") -> None:
        self.problems = tuple(problems)
        count = f"{counted(len(self.problems), 'problem')} in the configuration"
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        super().__init__(f"{prefix}{count}; nothing was run.\n{lines}")


def summarise(error: BaseException) -> str:
    """Return the type, the text and the notes of an unexpected error."""
    return "; ".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())])


def refuse(problems: Iterable[Problem]) -> None:
    """Raise ``ConfigError`` with all ``problems``, if there are any."""
    every = list(problems)
    if every:
        raise ConfigError(every)
