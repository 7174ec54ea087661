"""Says before a sweep or run starts if the test rows are too few to show which run is better."""

from collections.abc import Sequence

from hydratune.console import console
from hydratune.evaluation.power import least_difference, rows_needed
from hydratune.experiment.idle_settings import expected_rows
from hydratune.settings.commands import TrainConfig
from hydratune.wording import counted

_DISAGREEING = 0.3  # share of the rows on which one of two models is right, a usual one
_LARGEST = 0.25  # least difference of two rates above which nothing is said to be measurable
_WANTED = 0.1  # difference of two rates for which the number of rows is named


def say_if_too_few_test_rows(jobs: Sequence[TrainConfig]) -> None:
    """Print what the smallest test set of the jobs can show, if that is too little."""
    sizes = [(rows.test, job) for job in jobs if (rows := expected_rows(job.data)) is not None]
    if sizes:
        fewest, settings = min(sizes, key=lambda size: size[0])
        if text := too_few_test_rows(fewest, settings.evaluation.confidence):
            console.print(f"[yellow]{text}", soft_wrap=True)


def too_few_test_rows(rows: int, confidence: float) -> str:
    """Return what a test set of so many ``rows`` cannot show, or ""."""
    least = least_difference(rows, _DISAGREEING, confidence)
    if least <= _LARGEST:
        return ""
    shown = "no difference between two runs can be shown"
    if least < 1:
        shown = f"only differences of {100 * least:.0f} points or more can be shown"
    enough = rows_needed(_WANTED, _DISAGREEING, confidence)
    return (
        f"about {counted(rows, 'test row')}: {shown}, and most runs will be statistically"
        " indistinguishable;"
        f" {counted(enough, 'test row')} show {100 * _WANTED:.0f} points (if only one of two"
        " models is right"
        f" on {100 * _DISAGREEING:.0f} % of the rows)"
    )
