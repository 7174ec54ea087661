"""What a check found: a line, how serious it is, and the remedy."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Level(StrEnum):
    """How serious a finding is."""

    ok = "ok"
    note = "note"  # something that is missing, or worth knowing; nothing fails without it
    warning = "warning"  # something that will probably be in the way
    problem = "problem"  # no run can be trained


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    ``remedy`` is what to type, or to do; ``facts`` are further plain values for programs.
    """

    name: str
    text: str
    level: Level = Level.ok
    remedy: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)


Check = Callable[[], Iterator[Finding]]


def guarded(check: Check) -> list[Finding]:
    """Return what a check finds; its own failure is a finding as well."""
    found: list[Finding] = []
    try:
        found.extend(check())
    except Exception as error:  # a doctor must not die of what it examines
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        name = getattr(check, "__name__", "check").replace("_", " ")
        missing = isinstance(error, ImportError)
        why = f"cannot be checked without a package that is missing ({what})" if missing else what
        remedy = "" if missing else "report it, with the output of hydratune doctor"
        found.append(Finding(name, why, Level.warning, remedy))
    return found


def size(count: float) -> str:
    """Return a number of bytes as text."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:,.1f} GiB"
