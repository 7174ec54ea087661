"""By which metric runs are ranked, and what to say of a metric that no run has."""

import difflib
from collections.abc import Collection
from dataclasses import dataclass

from hydratune.errors import InputError
from hydratune.metric_table import OBJECTIVE, lower_is_better, split_system


@dataclass(frozen=True)
class Criterion:
    """By what runs are ranked."""

    metric: str = OBJECTIVE
    lower: bool = True  # is better

    @property
    def on_test(self) -> bool:
        """Whether the test rows take part in the choice, which makes the winner look better than it
        is.
        """
        return split_system(self.metric)[0] is not None


def unknown(name: str, metric: str, there: Collection[str]) -> InputError:
    """What to say of a metric that no run has, as the value of an option ``name``."""
    near = [one for one in there if one.rpartition("/")[2] == metric] or difflib.get_close_matches(
        metric, sorted(there), n=3
    )
    some = sorted(there)
    hint = (
        f"did you mean {' or '.join(near[:3])}?"
        if near
        else f"there are: {', '.join(some[:12])}{' ...' if len(some) > 12 else ''}"
    )
    return InputError(f"{name} = {metric}: no finished run has it; {hint}")


def criterion(
    metric: str | None, mode: str | None, there: Collection[str] | None = None
) -> Criterion:
    """``there``: metrics that runs have.

    Raises ``InputError`` where nobody knows which way is better, and it was not said.
    """
    if mode not in (None, "min", "max"):
        raise InputError(f"mode = {mode}: give min (the lowest is best) or max")
    if metric is None:
        if mode == "max":
            raise InputError(
                "mode = max: the validation loss is better when it is lower; name another"
                " metric=... for this"
            )
        return Criterion()
    if there is not None and metric not in there:
        raise unknown("metric", metric, there)
    known = lower_is_better(metric)
    if mode is None and known is None:
        raise InputError(
            f"metric = {metric}: whether more or less of it is better is not known; add mode=min or"
            " mode=max"
        )
    return Criterion(metric, mode == "min" if mode else bool(known))
