"""What an answer states that its source does not contain: numbers, dates and names.

The mechanical part of factual accuracy, for answers that are drawn from their request (summaries, notes, extracted
fields). Numbers may be written in words in the source, dates in any usual form.
"""

import datetime
import re
from collections.abc import Iterator

from text_to_num import alpha2digit

_NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?!\w)|(?<=[$€£#])\d[\d,]*(?:\.\d+)?")
_ISO = re.compile(r"\b(\d{4})-(\d{1,2})-(\d{1,2})\b")
_SLASHED = re.compile(r"\b(\d{1,2})[/.](\d{1,2})[/.](\d{2}|\d{4})\b")
_MONTHS = ["january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december"]
_MONTH = (
    r"(jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?"
    r"|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)"
)
_DAY_FIRST = re.compile(rf"\b(\d{{1,2}})(?:st|nd|rd|th)?(?: day)?(?: of)?[ -]{_MONTH}\.?,?[ -](\d{{4}})\b", re.IGNORECASE)
_MONTH_FIRST = re.compile(rf"\b{_MONTH}\.? (\d{{1,2}})(?:st|nd|rd|th)?,? (\d{{4}})\b", re.IGNORECASE)
_LIST_ITEM = re.compile(r"(?:^|\n|[.;] )\s*\(?\d{1,2}[.)](?=\s)")
_NAME = re.compile(r"(?<=[\w,(&] )[A-Z][a-z]{2,}(?:[A-Z][a-z]+)*\b")  # capitalised, and not because a sentence begins
_WORD = re.compile(r"[^\W\d_]+")
_CALENDAR = {*_MONTHS, "monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"}


def ungrounded(source: str, answer: str) -> list[str]:
    """The numbers, dates and names of ``answer`` that ``source`` does not contain, as written, at most once each."""
    dates = list(_dates(answer))
    known_dates = {day for _, days in _dates(source) for day in days} if dates else set()
    missing = [written for written, days in dates if not days & known_dates]
    rest = answer
    for written, _ in dates:
        rest = rest.replace(written, " ")
    rest = _LIST_ITEM.sub(". ", rest)
    numbers = [n for n in _NUMBER.findall(rest) if n not in source]
    if numbers:
        known = {_value(n) for n in _NUMBER.findall(_digits(source)) + _NUMBER.findall(source)}
        missing += [n for n in numbers if _value(n) not in known]
    names = _NAME.findall(rest)
    if names:
        words = {w.casefold() for w in _WORD.findall(source)}
        missing += [n for n in names if not {n.casefold(), n.casefold().removesuffix("s")} & words and n.casefold() not in _CALENDAR]
    return list(dict.fromkeys(missing))


def _digits(text: str) -> str:
    """English number words as digits: "seventy six" -> "76"."""
    return str(alpha2digit(text.replace("-", " "), "en"))


def _value(number: str) -> float:
    return float(number.replace(",", "").rstrip(".") or "nan")


def _dates(text: str) -> Iterator[tuple[str, frozenset[datetime.date]]]:
    """(as written, what it may mean) of every date with day, month and year; 3/4/2020 may mean two days."""
    for found in _ISO.finditer(text):
        yield found[0], _days([(int(found[1]), int(found[2]), int(found[3]))])
    for found in _SLASHED.finditer(text):
        year = int(found[3]) + (0 if len(found[3]) == 4 else 1900 if int(found[3]) > 50 else 2000)
        yield found[0], _days([(year, int(found[1]), int(found[2])), (year, int(found[2]), int(found[1]))])
    for found in _DAY_FIRST.finditer(text):
        yield found[0], _days([(int(found[3]), _month(found[2]), int(found[1]))])
    for found in _MONTH_FIRST.finditer(text):
        yield found[0], _days([(int(found[3]), _month(found[1]), int(found[2]))])


def _month(name: str) -> int:
    return next(i for i, month in enumerate(_MONTHS, 1) if month.startswith(name[:3].casefold()))


def _days(candidates: list[tuple[int, int, int]]) -> frozenset[datetime.date]:
    days = set()
    for year, month, day in candidates:
        if year >= 1 and 1 <= month <= 12 and 1 <= day <= 31:
            try:
                days.add(datetime.date(year, month, day))
            except ValueError:  # 31 April
                continue
    return frozenset(days)
