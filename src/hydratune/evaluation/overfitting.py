"""Did training go on for too long, or not long enough? A pure function of history.csv's rows."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

_NOISE = 0.01  # of the best validation loss; a smaller change between validations says nothing


class Verdict(StrEnum):
    """What the validation losses look like."""

    overfitted = "overfitted"  # the loss rose after its lowest
    settled = "settled"  # it hardly changed at the end
    learning = "still learning"  # the last validation is the lowest, by far
    unknown = "unknown"  # too few validations to say


@dataclass(frozen=True)
class Epoch:
    """``train`` is the mean over the epoch's steps, ``validation`` the last in it: training loss
    lags behind in the first epoch.
    """

    epoch: int
    train: float
    validation: float | None

    @property
    def gap(self) -> float | None:
        return None if self.validation is None else self.validation - self.train


@dataclass(frozen=True)
class Course:
    """How training went."""

    verdict: Verdict
    advice: str
    epochs: tuple[Epoch, ...]
    best_step: int | None = None
    best_epoch: float | None = None
    rise: float | None = None  # of the last validation loss over the lowest, as a share of it

    def flat(self) -> dict[str, float]:
        """For metrics.json and the trackers."""
        last = self.epochs[-1].gap if self.epochs else None
        values = {
            "fit/best_step": self.best_step,
            "fit/best_epoch": self.best_epoch,
            "fit/rise": self.rise,
            "fit/gap": last,
        }
        return {name: value for name, value in values.items() if value is not None}

    def stored(self) -> dict[str, Any]:
        epochs = [{**asdict(epoch), "gap": epoch.gap} for epoch in self.epochs]
        return {"verdict": self.verdict.value, "advice": self.advice, "epochs": epochs}


def course(history: Sequence[Mapping[str, Any]]) -> Course:
    """``history``: rows with step, epoch, train/loss and, where there was a validation, val/loss."""  # noqa: E501
    epochs = _epochs(history)
    seen = [
        (int(r["step"]), float(r["epoch"]), float(r["val/loss"]))
        for r in history
        if _number(r.get("val/loss")) is not None
    ]
    seen = [entry for entry in seen if math.isfinite(entry[2])]
    if not seen:
        return Course(Verdict.unknown, "no validation: nothing can be said", epochs)
    step, epoch, best = min(seen, key=lambda entry: entry[2])
    last = seen[-1][2]
    rise = last / best - 1 if best > 0 else 0.0
    known = step, epoch, rise
    if len(seen) < 2:
        return Course(
            Verdict.unknown,
            "one validation: set trainer.validations_per_epoch=2 or more to see the course",
            epochs,
            *known,
        )
    if rise > _NOISE:
        advice = (
            f"over-fitted after epoch {epoch:.3g}: the validation loss rose by {100 * rise:.1f} %"
            " from there; the weights of that point "
        )
        advice += f"are kept; stop there ({_stop(epoch)}), or give more rows, a lower rate or rank"
        return Course(Verdict.overfitted, advice, epochs, *known)
    before = min(loss for _, _, loss in seen[:-1])
    fall = before / last - 1 if last > 0 else 0.0
    if seen[-1][0] == step and fall > _NOISE:
        fell = f"the last validation is the lowest, {100 * fall:.1f} % below the others"
        return Course(
            Verdict.learning, f"still learning: {fell}; more epochs may pay", epochs, *known
        )
    return Course(
        Verdict.settled,
        f"settled: the lowest validation loss came at epoch {epoch:.3g}, and the last is no worse",
        epochs,
        *known,
    )


def _stop(epoch: float) -> str:
    return f"trainer.max_epochs={max(1, math.ceil(epoch - 1e-3))}"


def _epochs(history: Sequence[Mapping[str, Any]]) -> tuple[Epoch, ...]:
    found: dict[int, list[Mapping[str, Any]]] = {}
    for row in history:
        found.setdefault(max(1, math.ceil(float(row["epoch"]) - 1e-3)), []).append(row)
    return tuple(
        Epoch(
            number,
            statistics.fmean(float(row["train/loss"]) for row in rows),
            next(
                (
                    loss
                    for row in reversed(rows)
                    if (loss := _number(row.get("val/loss"))) is not None
                ),
                None,
            ),
        )
        for number, rows in sorted(found.items())
    )


def _number(value: Any) -> float | None:
    """Empty cells of a CSV are None."""
    return None if value is None or value == "" else float(value)
