"""The published files of the case studies, and the rows that a case reads."""

from pathlib import Path

import pytest

from conftest import SHARED_DATA
from hydratune.data.cases.base import CaseData
from hydratune.data.rows import Row

FOLDERS = {
    "snips": "snips",
    "cuad": "cuad",
    "mts_dialog": "mts-dialog",
    "tech_support": "nl2bash",
    "brand_style": "tldr",
}
SOURCE = Path(__file__).parents[1] / "src"


def published_folder(name: str) -> str:
    """Return the folder of the published files; skip the test where they are absent."""
    folder = SHARED_DATA / FOLDERS[name]
    if not folder.is_dir():
        pytest.skip(f"the published files of {name} are not beside this repository")
    return str(folder)


def rows_of(data: CaseData) -> list[Row]:
    return [row for rows in data.read() for row in rows or ()]


def question(row: Row) -> str:
    return row.messages[0].content
