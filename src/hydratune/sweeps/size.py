"""How many jobs a sweep may have."""

import itertools
from collections.abc import Sequence

from hydra.core.override_parser.types import Override

from hydratune.errors import InputError

_MOST_JOBS = 10_000  # each is composed and checked before the first one runs


def refuse_too_many(overrides: Sequence[Override]) -> None:
    """Raise ``InputError`` if the values of a grid give too many jobs; they are not all made."""
    jobs = 1
    for override in overrides:
        if override.is_discrete_sweep():
            values = override.sweep_iterator()
            jobs *= sum(1 for _ in itertools.islice(values, _MOST_JOBS + 1))
        if jobs > _MOST_JOBS:
            raise InputError(
                f"{override.input_line}: with it, this sweep has more than {_MOST_JOBS:,} jobs;"
                " give fewer values, or search among them: hydra/sweeper=optuna"
                " hydra.sweeper.n_trials=100"
            )
