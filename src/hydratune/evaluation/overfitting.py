"""Whether training went on for too long, or not for long enough.

A pure function of the rows of history.csv.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from hydratune.records.run_directory import HistoryRow
from hydratune.wording import counted

_NOISE = 0.01  # of the best validation loss; a smaller change between validations says nothing
_ROUNDING = 1e-3  # of an epoch


class Verdict(StrEnum):
    """What the validation losses look like."""

    overfitted = "overfitted"  # the loss rose after its lowest, with rows seen again
    unstable = "unstable"  # the loss rose in the first epoch, in which every row is new
    settled = "settled"  # it hardly changed over the last whole epoch
    learning = "still learning"  # it was still falling at the end
    unknown = "unknown"  # too few validations, or too short a training, to say


@dataclass(frozen=True)
class Epoch:
    """The losses of one epoch.

    ``train`` is the mean over its steps, ``validation`` the last one in it: in the first epoch, the
    training loss lags behind.
    """

    epoch: int
    train: float
    validation: float | None

    @property
    def gap(self) -> float | None:
        """The validation loss less the training loss."""
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
        """Return the numbers for metrics.json and the trackers."""
        values = {
            "fit/best_step": self.best_step,
            "fit/best_epoch": self.best_epoch,
            "fit/rise": self.rise,
            "fit/gap": self.epochs[-1].gap if self.epochs else None,
        }
        return {name: value for name, value in values.items() if value is not None}

    def stored(self) -> dict[str, object]:
        """Return the rest for metrics.json."""
        epochs = [{**asdict(epoch), "gap": epoch.gap} for epoch in self.epochs]
        return {"verdict": self.verdict.value, "advice": self.advice, "epochs": epochs}


def course(history: Sequence[HistoryRow], kept_step: int | None = None) -> Course:
    """Return how training went, from the rows of history.csv.

    ``kept_step``: the step whose weights are kept; None: that of the lowest validation loss.
    """
    epochs = _epochs(history)
    validations = [
        (int(row["step"]), float(row["epoch"]), loss)
        for row in history
        if (loss := _number(row.get("val/loss"))) is not None and math.isfinite(loss)
    ]
    if not validations:
        return Course(Verdict.unknown, "no validation: nothing can be said", epochs)
    step, epoch, best = min(validations, key=lambda entry: entry[2])
    last = validations[-1][2]
    rise = last / best - 1 if best > 0 else 0.0
    kept = "that point" if kept_step in (None, step) else f"step {kept_step}"
    verdict, advice = _judge(validations, step, epoch, rise, kept)
    return Course(verdict, advice, epochs, step, epoch, rise)


def _judge(
    validations: Sequence[tuple[int, float, float]],
    step: int,
    epoch: float,
    rise: float,
    kept: str,
) -> tuple[Verdict, str]:
    """Return (verdict, advice) for validations (step, epoch, loss), best at ``step``.

    ``kept`` says in words whose weights are kept.
    """
    if len(validations) < 2:
        return Verdict.unknown, (
            "one validation: set trainer.validations_per_epoch=2 or more to see the course"
        )
    end = validations[-1][1]
    if rise > _NOISE and end <= 1 + _ROUNDING:
        return Verdict.unstable, (
            f"the validation loss rose by {100 * rise:.1f} % after epoch {epoch:.3g}, within the"
            " first epoch, in which every row is new: this is rather a learning rate that is too"
            " high than over-fitting; the weights of that point are kept; try a lower optimizer.lr"
        )
    if rise > _NOISE:
        return Verdict.overfitted, (
            f"over-fitted after epoch {epoch:.3g}: the validation loss rose by {100 * rise:.1f} %"
            f" from there; the weights of {kept} are kept; stop there"
            f" ({_stop(epoch)}), or give more rows, a lower rate or rank"
        )
    last = validations[-1][2]
    fall = min(loss for _, _, loss in validations[:-1]) / last - 1 if last > 0 else 0.0
    if validations[-1][0] == step and fall > _NOISE:
        return Verdict.learning, (
            f"still learning: the last validation is the lowest, {100 * fall:.1f} % below the"
            " others; more epochs may help"
        )
    return _judge_last_epoch(validations, epoch)


def _judge_last_epoch(
    validations: Sequence[tuple[int, float, float]], epoch: float
) -> tuple[Verdict, str]:
    """Return (verdict, advice) where the last two validations hardly differ.

    Several that are close together may hide a slow fall, so the best loss is compared with that of
    a whole epoch before the end. Training that is shorter has no such loss.
    """
    end, best = validations[-1][1], min(loss for _, _, loss in validations)
    before = [loss for _, at, loss in validations if at <= end - 1 + _ROUNDING]
    if not before:
        is_whole = abs(end - round(end)) < _ROUNDING
        longer = f"; compare with trainer.max_epochs={round(end) + 1}" if is_whole else ""
        return Verdict.unknown, (
            f"{counted(len(validations), 'validation')} until epoch {end:.3g}, the lowest loss"
            " at epoch"
            f" {epoch:.3g}: too short a training to say whether more would help{longer}"
        )
    fall = min(before) / best - 1 if best > 0 else 0.0
    if fall > _NOISE:
        return Verdict.learning, (
            f"still learning: the validation loss fell by {100 * (1 - best / min(before)):.1f} %"
            " over the last epoch; more epochs may help"
        )
    return Verdict.settled, (
        f"settled: the lowest validation loss came at epoch {epoch:.3g}, and over the last epoch it"
        f" improved by no more than {100 * _NOISE:g} %"
    )


def _stop(epoch: float) -> str:
    return f"trainer.max_epochs={_epoch_number(epoch)}"


def _epoch_number(epoch: float) -> int:
    """Return the number of the epoch that is running after ``epoch`` epochs, from 1 on."""
    return max(1, math.ceil(epoch - 1e-3))


def _epochs(history: Sequence[HistoryRow]) -> tuple[Epoch, ...]:
    by_number: dict[int, list[HistoryRow]] = {}
    for row in history:
        by_number.setdefault(_epoch_number(float(row["epoch"])), []).append(row)
    return tuple(
        Epoch(
            number,
            statistics.fmean(float(row["train/loss"]) for row in rows),
            _last_validation(rows),
        )
        for number, rows in sorted(by_number.items())
    )


def _last_validation(rows: Sequence[HistoryRow]) -> float | None:
    losses = (_number(row.get("val/loss")) for row in reversed(rows))
    return next((loss for loss in losses if loss is not None), None)


def _number(value: object) -> float | None:
    """Return the number in a cell of a CSV; None where it is empty."""
    return None if value is None or value == "" else float(str(value))
