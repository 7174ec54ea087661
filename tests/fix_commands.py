"""Commands that are refused, by the function that says why.

What is in their folder: ``fix_places.py``.
"""

from fix_case import Case
from fix_cases_adapters import OF_ADAPTERS
from fix_cases_answering import OF_ANSWERING
from fix_cases_exports import OF_EXPORTS
from fix_cases_files import OF_FILES
from fix_cases_models import OF_MODELS, OF_SAVED_ADAPTERS
from fix_cases_rows import OF_ROWS
from fix_cases_runs import OF_OTHER_COMMANDS, OF_RUN_FOLDERS
from fix_cases_settings import OF_COMPARISONS, OF_COMPOSITION, OF_SETTINGS, OF_SWEEPS

GROUPS = (
    OF_ADAPTERS,
    OF_MODELS,
    OF_SAVED_ADAPTERS,
    OF_RUN_FOLDERS,
    OF_OTHER_COMMANDS,
    OF_EXPORTS,
    OF_ANSWERING,
    OF_FILES,
    OF_ROWS,
    OF_SETTINGS,
    OF_SWEEPS,
    OF_COMPARISONS,
    OF_COMPOSITION,
)
COMMANDS: dict[str, list[Case]] = {
    maker: cases for group in GROUPS for maker, cases in group.items()
}


def is_fast(case: Case) -> bool:
    """Return whether a case needs no model, so that it is among the fast tests."""
    return case.only_settings or case.line.startswith(("compare", "configs", "help"))
