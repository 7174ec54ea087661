"""The case studies: readers that turn a folder of published files into rows, one module each."""

from collections.abc import Callable
from typing import Any

from hydratune.data.cases.cuad import read_cuad
from hydratune.data.cases.snips import read_snips
from hydratune.data.rows import Row

# Settings -> (train, validation, test); None: to be split off the training rows. The keys are ``CaseData.source``.
Reader = Callable[[Any], tuple[list[Row], list[Row] | None, list[Row] | None]]
CASES: dict[str, Reader] = {
    "snips": read_snips,
    "cuad": read_cuad,
}

__all__ = ["CASES", "Reader"]
