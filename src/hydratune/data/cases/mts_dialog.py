"""MTS-Dialog (CC BY 4.0) -> rows: a doctor-patient dialogue and one section of the clinical note
written from it.
"""

import re
from dataclasses import dataclass
from typing import ClassVar

from hydratune.data.cases.base import CaseData, CaseRows
from hydratune.data.cases.published import published_file, published_table
from hydratune.data.rows import Message, Row
from hydratune.errors import DataError
from hydratune.settings.registry import variant

FILES = {
    "train": "MTS-Dialog-TrainingSet.csv",
    "validation": "MTS-Dialog-ValidationSet.csv",
    "test": "MTS-Dialog-TestSet-1-MEDIQA-Chat-2023.csv",
}
_COLUMNS = ("ID", "section_header", "section_text", "dialogue")
# the published header -> what it stands for
SECTIONS = {
    "ALLERGY": "allergies",
    "ASSESSMENT": "assessment",
    "CC": "chief complaint",
    "DIAGNOSIS": "diagnosis",
    "DISPOSITION": "disposition",
    "EDCOURSE": "emergency department course",
    "EXAM": "physical examination",
    "FAM/SOCHX": "family and social history",
    "GENHX": "history of present illness",
    "GYNHX": "gynecologic history",
    "IMAGING": "imaging",
    "IMMUNIZATIONS": "immunizations",
    "LABS": "laboratory results",
    "MEDICATIONS": "medications",
    "OTHER_HISTORY": "other history",
    "PASTMEDICALHX": "past medical history",
    "PASTSURGICAL": "past surgical history",
    "PLAN": "plan",
    "PROCEDURES": "procedures",
    "ROS": "review of systems",
}


@variant("data", "mts_dialog")
@dataclass
class MtsDialogData(CaseData):
    """MTS-Dialog: doctor-patient dialogue -> one section of the clinical note."""

    contents: ClassVar[str] = "{}, {} and {}".format(*FILES.values())

    source: str = "mts_dialog"

    def read(self) -> CaseRows:
        """Return the published splits. Raises ``DataError``."""
        train, validation, test = (_rows(self.path, name, file) for name, file in FILES.items())
        return train, validation, test


def _rows(folder: str, split: str, file: str) -> list[Row]:
    path = published_file(folder, file)
    rows = [_row(split, record, where) for where, record in published_table(path, _COLUMNS)]
    if not rows:
        raise DataError(f"{path}: no dialogue in it; take the file as it was published")
    return rows


def _row(split: str, record: dict[str, str], where: str) -> Row:
    header = record["section_header"].strip()
    if header not in SECTIONS:
        raise DataError(f"{where}: unknown section header {header!r}; known: {', '.join(SECTIONS)}")
    dialogue, section = tidy(record["dialogue"]), tidy(record["section_text"])
    if not dialogue or not section:
        raise DataError(
            f"{where}: the dialogue or the section text is empty; take the file as it was published"
        )
    question = f"Section: {SECTIONS[header]}\n\n{dialogue}"
    turns = Message("user", question), Message("assistant", section)
    return Row(f"{split}-{record['ID'].strip()}", turns, meta={"section": header}, where=where)


def tidy(text: str) -> str:
    """Remove runs of spaces, spaces at line ends and empty lines, which come from the transcription
    and not from what was said.
    """
    lines = (re.sub(r"[^\S\n]+", " ", line).strip() for line in text.split("\n"))
    return "\n".join(line for line in lines if line)
