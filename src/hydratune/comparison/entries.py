"""The order of runs.

Those that differ in ``seed`` alone are one entry, ranked by the mean of its finished runs.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydratune.comparison.names import Criterion
from hydratune.comparison.runs import Run

# settings nobody compares, and a group of them
_IGNORED = (
    "name",
    "preview",
    "resume",
    "tracking",
)
_LIKELY = ("optimizer", "adapter", "trainer")  # groups whose settings are shown first
_LEAST_P = 1e-4  # that is written out
_LONGEST = 24  # letters of a setting


@dataclass(frozen=True)
class Entry:
    """Runs whose settings differ in the seed alone, the best first."""

    runs: tuple[Run, ...]
    by: Criterion = field(default_factory=Criterion)

    @property
    def finished(self) -> list[Run]:
        return [run for run in self.runs if score(run, self.by) is not None]

    @property
    def scores(self) -> list[float]:
        """Of the finished runs, by the criterion."""
        return [value for run in self.runs if (value := score(run, self.by)) is not None]

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.scores) if self.scores else None

    @property
    def settings(self) -> Mapping[str, Any]:
        return next((run.settings for run in self.runs if run.settings), {})


def score(run: Run, by: Criterion) -> float | None:
    """What a run is ranked by; None: it takes no part in the choice."""
    return run.value(by.metric) if run.objective is not None else None


def entries(runs: Sequence[Run], by: Criterion | None = None) -> list[Entry]:
    """``runs`` by their settings, the best mean first; what has no finished run comes last.

    The same settings with the same seed twice are two entries: a repetition says nothing about the
    spread.
    """
    by = by or Criterion()
    seeds = seed_keys(runs)
    groups: dict[tuple[object, ...], list[Run]] = {}
    times: dict[tuple[object, ...], int] = {}
    for run in runs:
        same = tuple(
            sorted(
                (key, canonical(value))
                for key, value in run.settings.items()
                if _compared(key) and key not in seeds
            )
        )
        whole = (same or run.path, str(run.settings.get("seed")))
        times[whole] = times.get(whole, 0) + 1
        groups.setdefault((same or run.path, times[whole]), []).append(run)
    found = [
        Entry(tuple(sorted(group, key=lambda run: _place(run, by))), by)
        for group in groups.values()
    ]
    return sorted(found, key=lambda entry: (_cost(entry.mean, by), _place(entry.runs[0], by)))


def seed_keys(runs: Sequence[Run]) -> set[str]:
    """``seed``, and the settings that follow it:

    ``data.seed=${seed}``. They are no setting that a user compares.
    """
    known = [run.settings for run in runs if run.settings.get("seed") is not None]
    if len({str(settings["seed"]) for settings in known}) < 2:
        return {"seed"}
    keys = {key for settings in known for key in settings if key.endswith(".seed")}
    return {"seed"} | {key for key in keys if all(str(s.get(key)) == str(s["seed"]) for s in known)}


def varying(runs: Sequence[Run]) -> list[str]:
    """Settings that are not the same in all runs, those that are usually compared first; the seed
    is one where it varies.
    """
    keys = [k for k in dict.fromkeys(k for r in runs for k in r.settings) if _compared(k)]
    differing = [
        k for k in keys if len({canonical(r.settings.get(k)) for r in runs if r.settings}) > 1
    ]
    return sorted(differing, key=lambda k: k.rpartition(".")[0] not in _LIKELY)


def _compared(key: str) -> bool:
    return key.split(".")[0] not in _IGNORED


def canonical(value: Any) -> str:
    """The same text for the same value, however it was written: 8 and 8.0."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Settings by the last parts of their names, as few as tell them apart."""
    found = {}
    for key in keys:
        parts = key.split(".")
        ends = (".".join(parts[-n:]) for n in range(1, len(parts) + 1))
        found[key] = next(
            (end for end in ends if sum(f".{other}".endswith(f".{end}") for other in keys) == 1),
            key,
        )
    return found


def named(entry: Entry, keys: Sequence[str]) -> str:
    """An entry by its settings that are not those of all."""
    return (
        ", ".join(f"{key}={cell(entry.settings[key])}" for key in keys if key in entry.settings)
        or "these settings"
    )


def cell(value: Any) -> str:
    """A setting or a number as people write it; a text by its beginning."""
    text = (
        f"{value:.4g}"
        if isinstance(value, float)
        else "-"
        if value is None
        else " ".join(str(value).split())
    )
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST].rstrip()} ..."


def cells(values: Sequence[Any]) -> dict[str, str]:
    """Each different value (by ``canonical``) as ``cell`` writes it; those whose beginnings are the
    same are numbered.
    """
    found: dict[str, str] = {}
    for value in values:
        text, key = cell(value), canonical(value)
        if key not in found:
            same = sum(other.partition(" (")[0] == text for other in found.values())
            found[key] = f"{text} ({same + 1})" if same else text
    return found


def decimals(value: float) -> str:
    """A loss or a score with four decimals, or with what it takes to see it."""
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.4g}"


def chance(p: float) -> str:
    """How likely, after the letter p."""
    return f"< {_LEAST_P:g}" if p < _LEAST_P else f"= {p:.2g}"


def spread(values: Sequence[float], write: Callable[[float], str] = cell) -> str:
    if not values:
        return "-"
    mean = write(statistics.fmean(values))
    return f"{mean} ± {statistics.stdev(values):.2g}" if len(values) > 1 else mean


def _cost(value: float | None, by: Criterion) -> float:
    """Less is better; infinite without any."""
    return math.inf if value is None else value if by.lower else -value


def _place(run: Run, by: Criterion) -> tuple[bool, float, bool, int, float, str]:
    """Finished runs by score, then halved ones by how far they came, then the others by name."""
    halved = run.halved or {}
    value = score(run, by)
    cost = _cost(value, by) if value is not None else 0.0
    early = float(halved.get("value") or 0.0)
    return (
        value is None,
        cost,
        not halved,
        -int(halved.get("step", 0)),
        early if math.isfinite(early) else math.inf,
        str(run.path),
    )
