"""CUAD v1 (Contract Understanding Atticus Dataset, CC BY 4.0) -> rows: marked clauses and the JSON
object of what they settle.

``master_clauses.csv`` has one line per contract: for each category the passages that lawyers
marked, and an answer derived from them. The prompt is the passages of the eight categories with
such answers, without their category: the model has to find out which passage says what. Lawyers
also had the rest of the contract before them, so an answer counts only if the passages support it.
Without a passage, or for a date left open ("[]/[]/2004"), it becomes null, and ``meta["nulled"]``
lists its key; if the passages say something else, the contract is dropped.
"""

import ast
import json
import logging
import re
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import ClassVar

from hydratune.data.cases.base import CaseData, CaseRows
from hydratune.data.cases.cuad_answers import (
    Unusable,
    document_name,
    expiration,
    letters_and_digits,
    notice,
    parties,
    places_of_law,
    renewal,
    stated_date,
)
from hydratune.data.cases.published import published_file, published_table
from hydratune.data.rows import Message, Row
from hydratune.errors import DataError
from hydratune.settings.registry import variant

log = logging.getLogger(__name__)

_FILE = "master_clauses.csv"
# CUAD's name, in the order of its columns -> the key of the answer
CATEGORIES = {
    "Document Name": "document_name",
    "Parties": "parties",
    "Agreement Date": "agreement_date",
    "Effective Date": "effective_date",
    "Expiration Date": "expiration_date",
    "Renewal Term": "renewal_term",
    "Notice Period to Terminate Renewal": "notice_to_terminate_renewal",
    "Governing Law": "governing_law",
}


@variant("data", "cuad")
@dataclass
class CuadData(CaseData):
    """CUAD's marked contract clauses -> JSON object of what they settle."""

    contents: ClassVar[str] = _FILE

    source: str = "cuad"

    def read(self) -> CaseRows:
        """Return one row per usable contract; the log counts the others. Raises ``DataError``."""
        path = published_file(self.path, _FILE)
        answers = ((name, f"{name}-Answer") for name in CATEGORIES)
        rows, dropped = [], Counter[str]()
        for where, record in published_table(path, ["Filename", *chain.from_iterable(answers)]):
            try:
                rows.append(_row(record, where))
            except Unusable as reason:
                dropped[str(reason)] += 1
        reasons = "; ".join(f"{count} {reason}" for reason, count in dropped.most_common())
        contracts = len(rows) + dropped.total()
        message = "%s: %d of %d contracts used; dropped: %s"
        log.info(message, path, len(rows), contracts, reasons or "none")
        if not rows:
            raise DataError(f"{path}: no usable contract in it ({reasons or 'none'})")
        return rows, None, None


def _row(record: dict[str, str], where: str) -> Row:
    """Return the row of one contract. Raises ``Unusable`` and ``DataError``."""
    passages = {
        key: _passages(record[name], f"{where}: {name}") for name, key in CATEGORIES.items()
    }
    texts = list(dict.fromkeys(chain.from_iterable(passages.values())))
    published = {
        key: " ".join(record[f"{name}-Answer"].split()) for name, key in CATEGORIES.items()
    }
    supported = {key: value if passages[key] else "" for key, value in published.items()}
    answer: dict[str, object] = {
        "document_name": document_name(supported["document_name"], passages["document_name"]),
        "parties": parties(supported["parties"], passages["parties"]),
        "agreement_date": stated_date(supported["agreement_date"], texts),
        "effective_date": stated_date(supported["effective_date"], texts),
        "expiration_date": expiration(supported["expiration_date"], texts),
        "renewal_term": renewal(supported["renewal_term"]),
        "notice_to_terminate_renewal": notice(supported["notice_to_terminate_renewal"], texts),
        "governing_law": places_of_law(supported["governing_law"], passages["governing_law"]),
    }
    turns = (
        Message("user", "\n".join(texts)),
        Message("assistant", json.dumps(answer, ensure_ascii=False)),
    )
    nulled = [key for key, value in answer.items() if value is None and published[key]]
    file = record["Filename"]
    return Row(Path(file).stem, turns, group=company(file), meta={"nulled": nulled}, where=where)


def company(filename: str) -> str:
    """Return whose filing the contract was in: the file name up to the date or the title, letters
    and digits alone.
    """
    return letters_and_digits(re.split(r"_| - ", Path(filename).stem)[0])


def _passages(cell: str, where: str) -> list[str]:
    """Parse a cell, which has a list as Python writes it. Raises ``DataError``."""
    try:
        value = ast.literal_eval(cell)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = None
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise DataError(f"{where}: a Python list of texts is needed, got {cell[:60]!r}")
    texts = (" ".join(text.replace("<omitted>", " ... ").split()) for text in value)
    return [text for text in texts if text]
