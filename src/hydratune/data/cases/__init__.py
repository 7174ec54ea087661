"""The case studies: readers that turn a folder of published files into rows, one module each."""

from collections.abc import Callable
from typing import Any

from hydratune.data.cases.brand_style import read_brand_style
from hydratune.data.cases.cuad import read_cuad
from hydratune.data.cases.mts_dialog import read_mts_dialog
from hydratune.data.cases.repository import read_repository
from hydratune.data.cases.snips import read_snips
from hydratune.data.cases.tech_support import read_tech_support
from hydratune.data.rows import Row

# Settings -> (train, validation, test); None: to be split off the training rows. The keys are
# ``CaseData.source``.
Reader = Callable[[Any], tuple[list[Row], list[Row] | None, list[Row] | None]]
CASES: dict[str, Reader] = {
    "snips": read_snips,
    "cuad": read_cuad,
    "mts_dialog": read_mts_dialog,
    "tech_support": read_tech_support,
    "brand_style": read_brand_style,
    "repository": read_repository,
}

__all__ = ["CASES", "Reader"]
