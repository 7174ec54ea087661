"""Rules on one value: a least number, an interval, a list of options."""

import math
from collections.abc import Iterator, Sequence

from hydratune.errors import Problem


def at_least(key: str, value: float | None, least: float, unit: str = "") -> Iterator[Problem]:
    """Yield a problem if ``value`` is below ``least`` or not finite; None passes."""
    if value is not None and not (value >= least and math.isfinite(value)):
        why = f"must be at least {least:g}{unit}"
        yield Problem(key, value, why, f"set {key}={least:g} or more")


def between(
    key: str, value: float, low: float, high: float, *, open_high: bool = False
) -> Iterator[Problem]:
    """Yield a problem if ``value`` is not in [low, high], or with ``open_high`` in [low, high)."""
    if not (low <= value <= high) or (open_high and value == high):
        why = f"must be in [{low:g}, {high:g}{')' if open_high else ']'}"
        yield Problem(key, value, why, f"for example {key}={(low + high) / 4:g}")


def above_zero(key: str, value: float, fix: str) -> Iterator[Problem]:
    """Yield a problem if ``value`` is not above 0; ``fix`` says what is usual."""
    if not value > 0:
        yield Problem(key, value, "must be above 0", fix)


def one_of(
    key: str, value: str, options: Sequence[str], alternative: str = ""
) -> Iterator[Problem]:
    """Yield a problem if ``value`` is not one of ``options``.

    ``alternative``: what else is allowed, at the end of the message.
    """
    if value not in options:
        fix = f"one of: {', '.join(options)}{f',{alternative}' if alternative else ''}"
        yield Problem(key, value, "no such option", fix)
