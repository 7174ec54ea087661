"""What an answer states that its source does not contain: numbers, dates and names.

The mechanical part of factual accuracy, for answers that are drawn from their request (summaries,
notes, extracted fields). Numbers may be written in words in the source, dates in any usual form.
"""

import datetime
import re
from collections.abc import Iterator

# 1,500.00 and 1,00,000 are one number, 1,2 are two
_DIGITS = r"(?:\d{1,3}(?:,\d{2,3})*,\d{3}(?!\d)|\d+)(?:\.\d+)?"
_NUMBER = re.compile(rf"(?<![\w.]){_DIGITS}(?!\w|\.\d)|(?<=[$€£#]){_DIGITS}(?!\.?\d)")
_ANY_NUMBER = re.compile(_DIGITS)  # also "5mg" and those of dates and versions
_POINTS = re.compile(r"\d{1,3}(?:\.\d{3})+(?!\d)")  # 1.500 may be 1500
_ISO = re.compile(r"\b(\d{4})-(\d{1,2})-(\d{1,2})\b")
_NUMERIC = re.compile(r"\b(\d{1,2})\s?([/.-])\s?(\d{1,2})\s?\2\s?(\d{4}|\d{2})\b")
_MONTHS = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
]
_MONTH = (
    r"(?P<month>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?"
    r"|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\b\.?"
)
_ORDINALS = [
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
]
_ORDINALS += [
    "thirteenth",
    "fourteenth",
    "fifteenth",
    "sixteenth",
    "seventeenth",
    "eighteenth",
    "nineteenth",
    "twentieth",
]
_ORDINALS += [*(f"twenty-{unit}" for unit in _ORDINALS[:9]), "thirtieth", "thirty-first"]
_IN_WORDS = "|".join(sorted(_ORDINALS, key=len, reverse=True)).replace("-", "[- ]")
# "15t h" is what PDFs make of it
_DAY = rf"\b(?P<day>\d{{1,2}}(?=\D)|(?:{_IN_WORDS})\b)(?:\s?(?:s\s?t|n\s?d|r\s?d|t\s?h)\b)?"
_DAY_FIRST = re.compile(
    rf"{_DAY}(?:\s+day)?(?:\s+of)?[\s,-]*{_MONTH}\s*,?(?:\s*of\b|\s*in the"
    r" year\b)?[\s-]*(?P<year>\d{4})\b",
    re.IGNORECASE,
)
_MONTH_FIRST = re.compile(
    rf"\b{_MONTH}\s*(?:the\s+)?{_DAY}\s*,?\s*(?P<year>\d{{4}})\b", re.IGNORECASE
)
_LIST_ITEM = re.compile(r"(?:^|\n|[.;] )\s*\(?\d{1,2}[.)](?=\s)")
# capitalised, and not because a sentence begins
_NAME = re.compile(r"(?<=[\w,(&] )[A-Z][a-z]{2,}(?:[A-Z][a-z]+)*\b")
_WORD = re.compile(r"[^\W\d_]+")
_UNITS = {
    word: str(n)
    for n, word in enumerate(
        ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"], 1
    )
}
_CALENDAR = {*_MONTHS, "monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"}


def ungrounded(source: str, answer: str) -> list[str]:
    """The numbers, dates and names of ``answer`` that ``source`` does not contain, as written, at
    most once each.
    """
    dates = list(_dates(answer))
    known_dates = {day for _, days in _dates(source) for day in days} if dates else set()
    missing = [written for written, days in dates if not days & known_dates]
    rest = answer
    for written, _ in dates:
        rest = rest.replace(written, " ")
    rest = _LIST_ITEM.sub(". ", rest)
    numbers = _NUMBER.findall(rest)
    if numbers:
        known = {_value(n) for n in _ANY_NUMBER.findall(source)} | {
            n.replace(".", "") for n in _POINTS.findall(source)
        }
        numbers = [n for n in numbers if _value(n) not in known]
    if numbers:
        in_words = {_value(n) for n in _ANY_NUMBER.findall(_digits(source))}
        in_words |= {
            _UNITS[word] for word in _WORD.findall(source.casefold()) if word in _UNITS
        }  # it leaves "one or more"
        missing += [n for n in numbers if _value(n) not in in_words]
    names = _NAME.findall(rest)
    if names:
        words = {w.casefold() for w in _WORD.findall(source)}
        missing += [
            n
            for n in names
            if not {n.casefold(), n.casefold().removesuffix("s")} & words
            and n.casefold() not in _CALENDAR
        ]
    return list(dict.fromkeys(missing))


def _digits(text: str) -> str:
    """English number words as digits: "seventy six" -> "76"."""
    from text_to_num import alpha2digit

    return str(alpha2digit(text.replace("-", " "), "en"))


def _value(number: str) -> str:
    """The same for "1,500.00" and "1500"."""
    whole, _, part = number.replace(",", "").partition(".")
    return f"{whole.lstrip('0') or '0'}.{part.rstrip('0')}".rstrip(".")


def _dates(text: str) -> Iterator[tuple[str, frozenset[datetime.date]]]:
    """(as written, what it may mean) of every date with day, month and year; 3/4/2020 may mean two
    days.
    """
    for written, candidates in _readings(text):
        days = _days(candidates)
        if days:
            yield written, days


def _readings(text: str) -> Iterator[tuple[str, list[tuple[int, int, int]]]]:
    """What looks like a date, as (year, month, day)."""
    for found in _ISO.finditer(text):
        yield found[0], [(int(found[1]), int(found[2]), int(found[3]))]
    for found in _NUMERIC.finditer(text):
        year = int(found[4]) + (0 if len(found[4]) == 4 else 1900 if int(found[4]) > 50 else 2000)
        yield found[0], [(year, int(found[1]), int(found[3])), (year, int(found[3]), int(found[1]))]
    for pattern in (_DAY_FIRST, _MONTH_FIRST):
        for found in pattern.finditer(text):
            yield found[0], [(int(found["year"]), _month(found["month"]), _day(found["day"]))]


def _day(written: str) -> int:
    return (
        int(written)
        if written.isdecimal()
        else _ORDINALS.index(written.casefold().replace(" ", "-")) + 1
    )


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
