"""CUAD v1 (Contract Understanding Atticus Dataset, CC BY 4.0) -> rows: marked clauses and the JSON
object of what they settle.

``master_clauses.csv`` has one line per contract: for each category the passages that lawyers
marked, and an answer derived from them. The prompt is the passages of the eight categories with
such answers, without their category: which passage says what is for the model to find out. Lawyers
also had the rest of the contract before them, so an answer counts only where the passages bear it
out: without a passage, or for a date left open ("[]/[]/2004"), it becomes null, which
``meta["nulled"]`` tells; where the passages say something else, the contract is left out.
"""

import ast
import difflib
import json
import logging
import re
from collections import Counter
from datetime import date, timedelta
from itertools import chain
from pathlib import Path
from typing import Any

from hydratune.data.cases.published import published_file, published_table
from hydratune.data.contracts.generate import in_words
from hydratune.data.rows import Message, Row
from hydratune.errors import DataError
from hydratune.settings.data import CuadData

log = logging.getLogger(__name__)

CATEGORIES = {
    "Document Name": "document_name",
    "Parties": "parties",
    "Agreement Date": "agreement_date",
    "Effective Date": "effective_date",
    "Expiration Date": "expiration_date",
    "Renewal Term": "renewal_term",
    "Notice Period to Terminate Renewal": "notice_to_terminate_renewal",
    "Governing Law": "governing_law",
}  # CUAD's name, in the order of its columns -> the key of our answer
PERPETUAL = "perpetual"

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_NUMBER_WORDS = {in_words(n): n for n in range(1, 100)}
_ORDINALS = (
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
)
_ORDINAL_WORDS = {word: number for number, word in enumerate(_ORDINALS, 1)}
_DAY = rf"(?P<day>\d{{1,2}}|{'|'.join(_ORDINALS)})\s*(?:s\s?t|n\s?d|r\s?d|t\s?h)?"
_MONTH = rf"(?P<month>{'|'.join(_MONTHS)})[a-z]*\.?"
_DATES = [
    re.compile(rf"\b{_MONTH}\s*{_DAY}\s*,?\s*(?P<year>\d{{4}})\b", re.I),
    re.compile(
        rf"\b{_DAY}\s*(?:day\s*)?(?:of\s*)?,?\s*{_MONTH}\s*,?\s*(?:of\s*|in the"
        r" year\s*)?(?P<year>\d{4})\b",
        re.I,
    ),
    re.compile(
        r"\b(?P<month>\d{1,2})\s?[/.-]\s?(?P<day>\d{1,2})\s?[/.-]\s?(?P<year>\d{4}|\d{2})\b"
    ),
    re.compile(
        r"\b(?P<day>\d{1,2})\s?[/.-]\s?(?P<month>\d{1,2})\s?[/.-]\s?(?P<year>\d{4}|\d{2})\b"
    ),
    re.compile(r"\b(?P<year>\d{4})\s?[/.-]\s?(?P<month>\d{1,2})\s?[/.-]\s?(?P<day>\d{1,2})\b"),
]
_COUNT = rf"\b(?P<count>\d+|{'|'.join(sorted(_NUMBER_WORDS, key=len, reverse=True))})"
_SPANS = [
    re.compile(rf"{_COUNT}[\s)(-]*(?:calendar |business )?(?P<unit>year|month|week|day)", re.I),
    re.compile(
        rf"\b(?P<count>\d+|{'|'.join(_ORDINALS)})[\s()\dstndrh]*(?P<unit>anniversary)", re.I
    ),
]
_RENEWAL = re.compile(
    r"(?:(?P<times>\d+) )?(?P<again>successive )?(?P<count>\d+) (?P<unit>year|month|day)s?"
)
_NOTICE = re.compile(r"\(?(?P<count>\d+)\)? (?P<unit>year|month|week|day)s?", re.I)
_QUOTED = r"[\"“][^\"”]*[\"”]"
# but a term
_NO_NAME = re.compile(
    r"^\W*(each|both|formerly|d/b/a|the"
    r" part(y|ies)|part(y|ies))\b|individually|collectively|[\"“”]",
    re.I,
)
_LAWS = {
    "england": "England and Wales",
    "wales": "England and Wales",
    "england and wales": "England and Wales",
    "england and wales, uk": "England and Wales",
    "england, united kingdom": "England and Wales",
    "wales, united kingdom": "England and Wales",
    "province of ontario, canada": "Ontario, Canada",
    "british columbia": "British Columbia, Canada",
    "british columbia,canada": "British Columbia, Canada",
    "china": "People's Republic of China",
    "federal republic of germany": "Germany",
    "massachussets": "Massachusetts",
}  # one name per law, where CUAD has several
_ALSO = {
    "china": ("prc", "chinese"),
    "england": ("english",),
    "switzerland": ("swiss",),
}  # other words for a place


class Unusable(ValueError):
    """This contract gives no row, for the reason in the message."""


def read_cuad(data: CuadData) -> tuple[list[Row], None, None]:
    """One row per usable contract; the others are counted in the log. Raises ``DataError``."""
    path = published_file(data.path, "master_clauses.csv")
    columns = ["Filename", *chain.from_iterable((name, f"{name}-Answer") for name in CATEGORIES)]
    rows, left_out = [], Counter[str]()
    for where, record in published_table(path, columns):
        try:
            rows.append(_row(record, where))
        except Unusable as reason:
            left_out[str(reason)] += 1
    reasons = "; ".join(f"{count} {reason}" for reason, count in left_out.most_common()) or "none"
    log.info(
        "%s: %d of %d contracts used; left out: %s",
        path,
        len(rows),
        len(rows) + left_out.total(),
        reasons,
    )
    if not rows:
        raise DataError(f"{path}: no usable contract in it ({reasons})")
    return rows, None, None


def _row(record: dict[str, str], where: str) -> Row:
    passages = {
        key: _passages(record[name], f"{where}: {name}") for name, key in CATEGORIES.items()
    }
    texts = list(dict.fromkeys(chain.from_iterable(passages.values())))
    published = {
        key: " ".join(record[f"{name}-Answer"].split()) for name, key in CATEGORIES.items()
    }
    borne = {key: value if passages[key] else "" for key, value in published.items()}
    answer: dict[str, Any] = {
        "document_name": document_name(borne["document_name"], passages["document_name"]),
        "parties": parties(borne["parties"], passages["parties"]),
        "agreement_date": stated_date(borne["agreement_date"], texts),
        "effective_date": stated_date(borne["effective_date"], texts),
        "expiration_date": expiration(borne["expiration_date"], texts),
        "renewal_term": renewal(borne["renewal_term"]),
        "notice_to_terminate_renewal": notice(borne["notice_to_terminate_renewal"], texts),
        "governing_law": law(borne["governing_law"], passages["governing_law"]),
    }
    return Row(
        id=Path(record["Filename"]).stem,
        messages=(
            Message("user", "\n".join(texts)),
            Message("assistant", json.dumps(answer, ensure_ascii=False)),
        ),
        group=company(record["Filename"]),
        meta={"nulled": [key for key, value in answer.items() if value is None and published[key]]},
        where=where,
    )


def company(filename: str) -> str:
    """Whose filing the contract was in: the file name up to the date or the title, letters and
    digits alone.
    """
    return _plain(re.split(r"_| - ", Path(filename).stem)[0])


def _passages(cell: str, where: str) -> list[str]:
    """A cell holds a list as Python writes it."""
    try:
        value = ast.literal_eval(cell)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise DataError(f"{where}: a Python list of texts is needed, got {cell[:60]!r}") from None
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise DataError(f"{where}: a Python list of texts is needed, got {cell[:60]!r}")
    return [
        text
        for text in (" ".join(text.replace("<omitted>", " ... ").split()) for text in value)
        if text
    ]


def _plain(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.casefold())


def document_name(published: str, passages: list[str]) -> str:
    """In the spelling of the passages. Raises ``Unusable``."""
    near = max(passages, key=lambda text: _likeness(published, text), default="")
    if _likeness(published, near) < 0.85:
        raise Unusable("without a title that the passages name")
    return near


def parties(published: str, passages: list[str]) -> list[str]:
    """The passages that are full names, in their order; defined terms ("Licensee") are left off.
    Raises ``Unusable``.

    A passage is a name if the published answer holds it outside quotation marks, or nearly so (both
    have misprints), and no longer name holds it.
    """
    unquoted = re.sub(_QUOTED, " ", published)
    pieces = [re.sub(r"\([^()]*\)", "", piece) for piece in unquoted.split(";")]
    whole = {_plain(piece) for piece in pieces}
    terms = {_plain(term) for term in re.findall(_QUOTED, published)} - whole
    found: dict[str, str] = {}
    for text in passages:
        key = _plain(text)
        named = key in _plain(unquoted) or any(_likeness(text, piece) >= 0.85 for piece in pieces)
        if named and len(key) > 2 and key not in terms and not _NO_NAME.search(text):
            found.setdefault(key, text)
    names = [
        text
        for key, text in found.items()
        if key in whole or not any(key in other for other in found if other != key)
    ]
    if not names:
        raise Unusable("without a party that the passages name")
    return names


def _likeness(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, _plain(a), _plain(b), autojunk=False).ratio()


def whole_date(published: str) -> date | None:
    """CUAD writes m/d/yyyy, and [] for what a contract leaves open."""
    match = re.fullmatch(r"(\d{1,2})/(\d{1,2})/(\d{2}|\d{4})", published.replace(" ", ""))
    if not match:
        return None
    month, day = (match[2], match[1]) if int(match[1]) > 12 else (match[1], match[2])
    return _date(match[3], month, day)


def _date(year: str, month: str, day: str) -> date | None:
    number = int(year) + (0 if len(year) == 4 else 1900 if int(year) > 50 else 2000)
    name = month[:3].casefold()
    try:
        return date(
            number,
            _MONTHS.index(name) + 1 if name in _MONTHS else int(month),
            _ORDINAL_WORDS.get(day.casefold()) or int(day),
        )
    except ValueError:
        return None


def dates_in(text: str) -> set[date]:
    """Every day that ``text`` names in one of the usual forms; 3/4/2015 may be two."""
    found = (_date(m["year"], m["month"], m["day"]) for form in _DATES for m in form.finditer(text))
    return {day for day in found if day is not None}


def stated_date(published: str, texts: list[str]) -> str | None:
    """ISO 8601. Raises ``Unusable`` if no passage names that day."""
    day = whole_date(published)
    if day and not any(day in dates_in(text) for text in texts):
        raise Unusable("with a date that no passage names")
    return day.isoformat() if day else None


def expiration(published: str, texts: list[str]) -> str | None:
    """ISO 8601, ``perpetual`` or null.

    Raises ``Unusable`` if the passages neither name the day nor a start and a duration.
    """
    if published.casefold() == PERPETUAL:
        return PERPETUAL
    day = whole_date(published)
    if day is None:
        return None
    starts = set(chain.from_iterable(map(dates_in, texts)))
    ends = {
        _after(start, count, unit)
        for text in texts
        for count, unit in durations_in(text)
        for start in starts
    }
    if not {day, day + timedelta(1), day - timedelta(1)} & (starts | ends):
        raise Unusable("with an expiration date that the passages do not lead to")
    return day.isoformat()


def durations_in(text: str) -> set[tuple[int, str]]:
    """(count, unit) of "five (5) years", "18 months" or "third anniversary", in years, months,
    weeks or days.
    """
    found = set()
    for form in _SPANS:
        for match in form.finditer(text):
            word, unit = match["count"].casefold(), match["unit"].casefold()
            count = _NUMBER_WORDS.get(word) or _ORDINAL_WORDS.get(word) or int(word)
            found.add((count, "year" if unit == "anniversary" else unit))
    return found


def _after(start: date, count: int, unit: str) -> date | None:
    try:
        if unit in ("day", "week"):
            return start + timedelta(count * (7 if unit == "week" else 1))
        months = start.year * 12 + start.month - 1 + count * (12 if unit == "year" else 1)
        year, month = divmod(months, 12)
        last = (date(year + month // 11, (month + 1) % 12 + 1, 1) - timedelta(1)).day
        return date(year, month + 1, min(start.day, last))
    except (ValueError, OverflowError):
        return None


def renewal(published: str) -> str | None:
    """``[TIMES ][successive ]COUNT UNIT``, such as "successive 1 year"; null if not renewed.

    Raises ``Unusable``.
    """
    text = re.sub(r"suc\w*", "successive", published.casefold())
    text = text.replace("four", "4").replace("three (3)", "3").replace("0.5 year", "6 months")
    match = _RENEWAL.fullmatch(text)
    if text in ("", PERPETUAL):
        return text or None
    if not match or (match["times"] and not match["again"]):
        raise Unusable("whose renewal has no single length")
    times = f"{match['times']} " if match["times"] else ""
    return f"{times}{match['again'] or ''}{_count(match)}"


def notice(published: str, texts: list[str]) -> str | None:
    """``COUNT UNIT`` such as "30 days".

    Raises ``Unusable`` if there are several or no passage names it.
    """
    if published in ("", "[]"):
        return None
    match = _NOTICE.fullmatch(published.replace("60)", "60"))
    if not match:
        raise Unusable("with several notice periods")
    wanted = int(match["count"]), match["unit"].casefold()
    if not any(wanted in durations_in(text) for text in texts):
        raise Unusable("with a notice period that no passage names")
    return _count(match)


def _count(match: re.Match[str]) -> str:
    return f"{match['count']} {match['unit'].casefold()}{'s' if match['count'] != '1' else ''}"


def law(published: str, passages: list[str]) -> str | None:
    """Places joined by "; "; null where it is blacked out.

    Raises ``Unusable`` if the passages name none of them.
    """
    places = [place.strip() for place in published.split(";") if _plain(place)]
    if places and not any(_names(text, place) for place in places for text in passages):
        raise Unusable("with a law that no passage names")
    return "; ".join(dict.fromkeys(_LAWS.get(place.casefold(), place) for place in places)) or None


def _names(text: str, place: str) -> bool:
    head = re.sub(
        r"^(people's |federal )?republic of |^province of ", "", place.split(",")[0].casefold()
    )
    return _plain(head) in _plain(text) or any(
        word in text.casefold() for word in _ALSO.get(head, ())
    )
