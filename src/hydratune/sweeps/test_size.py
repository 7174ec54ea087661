"""Says before a sweep or run starts if the test rows are too few to show which run is better."""

import math
from collections.abc import Sequence
from dataclasses import replace

from hydratune.console import console
from hydratune.data.sources.files import FilesData
from hydratune.evaluation.power import least_difference, rows_needed
from hydratune.experiment.idle_settings import expected_rows
from hydratune.settings.commands import TrainConfig
from hydratune.settings.data import DataConfig
from hydratune.wording import counted

_DISAGREEING = 0.3  # share of the rows on which one of two models is right, a usual one
_LARGEST = 0.25  # least difference of two rates above which nothing is said to be measurable
_WANTED = 0.1  # difference of two rates for which the number of rows is named


def say_if_too_few_test_rows(jobs: Sequence[TrainConfig]) -> None:
    """Print what the smallest test set of the jobs can show, if that is too little."""
    sizes = [(rows.test, job) for job in jobs if (rows := expected_rows(job.data)) is not None]
    if sizes:
        fewest, settings = min(sizes, key=lambda size: size[0])
        spread = _spread(settings.data)
        if text := too_few_test_rows(fewest, settings.evaluation.confidence, spread):
            console.print(f"[yellow]{text}", soft_wrap=True)


def _spread(data: DataConfig) -> tuple[int, int] | None:
    """Return between which numbers of test rows a hash nearly always splits off.

    None where the number does not depend on a hash.
    """
    if not isinstance(data, FilesData) or data.test is not None or data.stratify is not None:
        return None
    every = expected_rows(
        replace(data, max_train_rows=None, max_validation_rows=None, max_test_rows=None)
    )
    if data.overfit_rows is not None or every is None:
        return None
    rows = every.train + every.test + (every.validation if data.validation is None else 0)
    deviation = math.sqrt(rows * data.test_fraction * (1 - data.test_fraction))
    mean = rows * data.test_fraction
    limit = rows if data.max_test_rows is None else data.max_test_rows
    least = min(limit, max(1, math.floor(mean - 2 * deviation)))
    most = min(limit, math.ceil(mean + 2 * deviation))
    return (least, most) if least < most else None


def too_few_test_rows(rows: int, confidence: float, spread: tuple[int, int] | None = None) -> str:
    """Return what a test set of so many ``rows`` cannot show, or "".

    ``spread``: the least and the largest number, if a hash decides how many there are.
    """
    if least_difference(rows, _DISAGREEING, confidence) <= _LARGEST:
        return ""
    size = f"about {counted(rows, 'test row')}"
    if spread is not None:
        rows = spread[1]
        size = f"about {spread[0]} to {rows} test rows (a hash decides how many); with {rows}"
    least = least_difference(rows, _DISAGREEING, confidence)
    shown = "no difference between two runs can be shown"
    if least < 1:
        shown = f"only differences of {100 * least:.0f} points or more can be shown"
    enough = rows_needed(_WANTED, _DISAGREEING, confidence)
    return (
        f"{size}: {shown}, and most runs will be statistically"
        " indistinguishable;"
        f" {counted(enough, 'test row')} show {100 * _WANTED:.0f} points (if only one of two"
        " models is right"
        f" on {100 * _DISAGREEING:.0f} % of the rows)"
    )
