"""Find what an answer states and its source does not contain: numbers, dates and names.

This is the mechanical part of factual accuracy, for answers that are drawn from their request
(summaries, notes, extracted fields). The source may write numbers in words and dates in any usual
form.
"""

import datetime
import re
from collections.abc import Iterator

# 1,500.00 and 1,00,000 are one number each; 1,2 are two.
_DIGITS = r"(?:\d{1,3}(?:,\d{2,3})*,\d{3}(?!\d)|\d+)(?:\.\d+)?"
_NUMBER = re.compile(rf"(?<![\w.]){_DIGITS}(?!\w|\.\d)|(?<=[$€£#]){_DIGITS}(?!\.?\d)")
_ANY_NUMBER = re.compile(_DIGITS)  # also "5mg", and the numbers of dates and versions
_DOTTED_THOUSANDS = re.compile(r"\d{1,3}(?:\.\d{3})+(?!\d)")  # 1.500 may be 1500
_ISO_DATE = re.compile(r"\b(\d{4})-(\d{1,2})-(\d{1,2})\b")
_NUMERIC_DATE = re.compile(r"\b(\d{1,2})\s?([/.-])\s?(\d{1,2})\s?\2\s?(\d{4}|\d{2})\b")
_MONTHS = [
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
]
_MONTH = (
    r"(?P<month>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?"
    r"|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\b\.?"
)
_UNITS = "first second third fourth fifth sixth seventh eighth ninth".split()  # noqa: SIM905
_TEENS = [
    *("tenth", "eleventh", "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth"),
    *("seventeenth", "eighteenth", "nineteenth"),
]
_TWENTIES = ["twentieth", *(f"twenty-{unit}" for unit in _UNITS)]
_ORDINALS = [*_UNITS, *_TEENS, *_TWENTIES, "thirtieth", "thirty-first"]
_ORDINAL = "|".join(sorted(_ORDINALS, key=len, reverse=True)).replace("-", "[- ]")
# PDF extraction may split the suffix: "15t h".
_DAY = rf"\b(?P<day>\d{{1,2}}(?=\D)|(?:{_ORDINAL})\b)(?:\s?(?:s\s?t|n\s?d|r\s?d|t\s?h)\b)?"
_DAY_FIRST = re.compile(
    rf"{_DAY}(?:\s+day)?(?:\s+of)?[\s,-]*{_MONTH}"
    r"\s*,?(?:\s*of\b|\s*in the year\b)?[\s-]*(?P<year>\d{4})\b",
    re.IGNORECASE,
)
_MONTH_FIRST = re.compile(
    rf"\b{_MONTH}\s*(?:the\s+)?{_DAY}\s*,?\s*(?P<year>\d{{4}})\b", re.IGNORECASE
)
_LIST_ITEM = re.compile(r"(?:^|\n|[.;] )\s*\(?\d{1,2}[.)](?=\s)")
# Capitalised in the middle of a sentence.
_NAME = re.compile(r"(?<=[\w,(&] )[A-Z][a-z]{2,}(?:[A-Z][a-z]+)*\b")
_WORD = re.compile(r"[^\W\d_]+")
_NUMBER_WORDS = "one two three four five six seven eight nine ten".split()  # noqa: SIM905
_VALUE_OF_WORD = {word: str(n) for n, word in enumerate(_NUMBER_WORDS, 1)}
_CALENDAR = {*_MONTHS, "monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"}


def ungrounded(source: str, answer: str) -> list[str]:
    """Return the dates, numbers and names of ``answer`` that ``source`` does not contain.

    They are returned as they are written, each at most once.
    """
    dates = list(_dates(answer))
    without_dates = answer
    for written, _ in dates:
        without_dates = without_dates.replace(written, " ")
    without_dates = _LIST_ITEM.sub(". ", without_dates)
    missing = [
        *_missing_dates(source, dates),
        *_missing_numbers(source, _NUMBER.findall(without_dates)),
        *_missing_names(source, _NAME.findall(without_dates)),
    ]
    return list(dict.fromkeys(missing))


def _missing_dates(source: str, dates: list[tuple[str, frozenset[datetime.date]]]) -> list[str]:
    days_of_source = {day for _, days in _dates(source) for day in days} if dates else set()
    return [written for written, days in dates if not days & days_of_source]


def _missing_numbers(source: str, numbers: list[str]) -> list[str]:
    """Return those of ``numbers`` that the source has neither in digits nor in words."""
    if numbers:
        values = {_value(n) for n in _ANY_NUMBER.findall(source)}
        values |= {n.replace(".", "") for n in _DOTTED_THOUSANDS.findall(source)}
        numbers = [n for n in numbers if _value(n) not in values]
    if numbers:
        values = {_value(n) for n in _ANY_NUMBER.findall(_words_to_digits(source))}
        # alpha2digit leaves "one or more" in words.
        words = _WORD.findall(source.casefold())
        values |= {_VALUE_OF_WORD[word] for word in words if word in _VALUE_OF_WORD}
        numbers = [n for n in numbers if _value(n) not in values]
    return numbers


def _missing_names(source: str, names: list[str]) -> list[str]:
    """Return those of ``names`` that are no word of the source; case and plural do not count."""
    if not names:
        return []
    words = {word.casefold() for word in _WORD.findall(source)}
    return [
        name
        for name in names
        if not {name.casefold(), name.casefold().removesuffix("s")} & words
        and name.casefold() not in _CALENDAR
    ]


def _words_to_digits(text: str) -> str:
    """Write English number words as digits: "seventy six" -> "76"."""
    from text_to_num import alpha2digit

    return str(alpha2digit(text.replace("-", " "), "en"))


def _value(number: str) -> str:
    """Return the same text for "1,500.00" and "1500"."""
    whole, _, fraction = number.replace(",", "").partition(".")
    return f"{whole.lstrip('0') or '0'}.{fraction.rstrip('0')}".rstrip(".")


def _dates(text: str) -> Iterator[tuple[str, frozenset[datetime.date]]]:
    """Return (as written, the days it may mean) of every date with day, month and year.

    3/4/2020 may mean two days.
    """
    for written, candidates in _date_candidates(text):
        days = _valid_days(candidates)
        if days:
            yield written, days


def _date_candidates(text: str) -> Iterator[tuple[str, list[tuple[int, int, int]]]]:
    """Yield (as written, its readings as (year, month, day)) of all that looks like a date."""
    for match in _ISO_DATE.finditer(text):
        yield match[0], [(int(match[1]), int(match[2]), int(match[3]))]
    for match in _NUMERIC_DATE.finditer(text):
        first, second = int(match[1]), int(match[3])
        century = 0 if len(match[4]) == 4 else 1900 if int(match[4]) > 50 else 2000
        year = int(match[4]) + century
        yield match[0], [(year, first, second), (year, second, first)]
    for pattern in (_DAY_FIRST, _MONTH_FIRST):
        for match in pattern.finditer(text):
            yield match[0], [(int(match["year"]), _month(match["month"]), _day(match["day"]))]


def _day(written: str) -> int:
    if written.isdecimal():
        return int(written)
    return _ORDINALS.index(written.casefold().replace(" ", "-")) + 1


def _month(name: str) -> int:
    return next(i for i, month in enumerate(_MONTHS, 1) if month.startswith(name[:3].casefold()))


def _valid_days(candidates: list[tuple[int, int, int]]) -> frozenset[datetime.date]:
    days = set()
    for year, month, day in candidates:
        if year >= 1 and 1 <= month <= 12 and 1 <= day <= 31:
            try:
                days.add(datetime.date(year, month, day))
            except ValueError:  # 31 April
                continue
    return frozenset(days)
