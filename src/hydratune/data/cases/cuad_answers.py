"""CUAD's published answers in one form, as far as the marked passages support them.

Each function takes a published answer and the passages, and returns the value for the JSON object.
It raises ``Unusable`` if the passages say something else. No answer is null.
"""

import difflib
import re
from datetime import date, timedelta
from itertools import chain

from hydratune.data.contracts.values import in_words

PERPETUAL = "perpetual"
_LEAST_SIMILARITY = (
    0.85  # of a name in the answer and in the passages, both of which have misprints
)

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_NUMBER_OF_WORD = {in_words(n): n for n in range(1, 100)}
_ORDINALS = (
    *("first", "second", "third", "fourth", "fifth", "sixth"),
    *("seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth"),
)
_NUMBER_OF_ORDINAL = {word: number for number, word in enumerate(_ORDINALS, 1)}
_DAY = rf"(?P<day>\d{{1,2}}|{'|'.join(_ORDINALS)})\s*(?:s\s?t|n\s?d|r\s?d|t\s?h)?"
_MONTH = rf"(?P<month>{'|'.join(_MONTHS)})[a-z]*\.?"
_DATES = [
    re.compile(rf"\b{_MONTH}\s*{_DAY}\s*,?\s*(?P<year>\d{{4}})\b", re.I),
    re.compile(
        rf"\b{_DAY}\s*(?:day\s*)?(?:of\s*)?,?\s*{_MONTH}"
        r"\s*,?\s*(?:of\s*|in the year\s*)?(?P<year>\d{4})\b",
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
_COUNT = rf"\b(?P<count>\d+|{'|'.join(sorted(_NUMBER_OF_WORD, key=len, reverse=True))})"
_DURATIONS = [
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
# A defined term, not a name.
_DEFINED_TERM = re.compile(
    r"^\W*(each|both|formerly|d/b/a|the part(y|ies)|part(y|ies))\b|individually|collectively"
    r"|[\"“”]",
    re.I,
)
# one name per law, where CUAD has several
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
}
# for a place
_OTHER_WORDS = {"china": ("prc", "chinese"), "england": ("english",), "switzerland": ("swiss",)}


class Unusable(ValueError):
    """This contract gives no row, for the reason in the message."""


def letters_and_digits(text: str) -> str:
    """Return the letters and digits of ``text`` without case."""
    return re.sub(r"[\W_]+", "", text.casefold())


def document_name(published: str, passages: list[str]) -> str:
    """Return the title in the spelling of the passages. Raises ``Unusable``."""
    nearest = max(passages, key=lambda text: _similarity(published, text), default="")
    if _similarity(published, nearest) < _LEAST_SIMILARITY:
        raise Unusable("without a title that the passages name")
    return nearest


def parties(published: str, passages: list[str]) -> list[str]:
    """Return the passages that are full names, in their order, without defined terms ("Licensee").

    A passage is a name if the published answer has it outside quotation marks, or nearly so, and no
    longer name contains it. Raises ``Unusable``.
    """
    unquoted = re.sub(_QUOTED, " ", published)
    pieces = [re.sub(r"\([^()]*\)", "", piece) for piece in unquoted.split(";")]
    whole = {letters_and_digits(piece) for piece in pieces}
    terms = {letters_and_digits(term) for term in re.findall(_QUOTED, published)} - whole
    names: dict[str, str] = {}  # letters and digits -> name
    for text in passages:
        key = letters_and_digits(text)
        is_named = key in letters_and_digits(unquoted) or any(
            _similarity(text, piece) >= _LEAST_SIMILARITY for piece in pieces
        )
        if is_named and len(key) > 2 and key not in terms and not _DEFINED_TERM.search(text):
            names.setdefault(key, text)
    full_names = [
        text
        for key, text in names.items()
        if key in whole or not any(key in other for other in names if other != key)
    ]
    if not full_names:
        raise Unusable("without a party that the passages name")
    return full_names


def _similarity(a: str, b: str) -> float:
    a, b = letters_and_digits(a), letters_and_digits(b)
    return difflib.SequenceMatcher(None, a, b, autojunk=False).ratio()


def whole_date(published: str) -> date | None:
    """Return the day of a published date; CUAD writes m/d/yyyy, and [] for what is left open."""
    match = re.fullmatch(r"(\d{1,2})/(\d{1,2})/(\d{2}|\d{4})", published.replace(" ", ""))
    if not match:
        return None
    month, day = (match[2], match[1]) if int(match[1]) > 12 else (match[1], match[2])
    return _date(match[3], month, day)


def _date(year: str, month: str, day: str) -> date | None:
    century = 0 if len(year) == 4 else 1900 if int(year) > 50 else 2000
    name = month[:3].casefold()
    try:
        month_number = _MONTHS.index(name) + 1 if name in _MONTHS else int(month)
        day_number = _NUMBER_OF_ORDINAL.get(day.casefold()) or int(day)
        return date(int(year) + century, month_number, day_number)
    except ValueError:
        return None


def dates_in(text: str) -> set[date]:
    """Return every day that ``text`` names in a usual form; 3/4/2015 may be two days."""
    matches = chain.from_iterable(form.finditer(text) for form in _DATES)
    days = (_date(match["year"], match["month"], match["day"]) for match in matches)
    return {day for day in days if day is not None}


def stated_date(published: str, texts: list[str]) -> str | None:
    """Return a date in ISO 8601. Raises ``Unusable`` if no passage names that day."""
    day = whole_date(published)
    if day and not any(day in dates_in(text) for text in texts):
        raise Unusable("with a date that no passage names")
    return day.isoformat() if day else None


def expiration(published: str, texts: list[str]) -> str | None:
    """Return a date in ISO 8601, ``perpetual`` or null.

    Raises ``Unusable`` if the passages name neither the day nor a start and a duration.
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
    """Return (count, unit) of every duration in years, months, weeks or days.

    For example of "five (5) years", "18 months" or "third anniversary".
    """
    durations = set()
    for match in chain.from_iterable(form.finditer(text) for form in _DURATIONS):
        word, unit = match["count"].casefold(), match["unit"].casefold()
        count = _NUMBER_OF_WORD.get(word) or _NUMBER_OF_ORDINAL.get(word) or int(word)
        durations.add((count, "year" if unit == "anniversary" else unit))
    return durations


def _after(start: date, count: int, unit: str) -> date | None:
    try:
        if unit in ("day", "week"):
            return start + timedelta(count * (7 if unit == "week" else 1))
        months = start.year * 12 + start.month - 1 + count * (12 if unit == "year" else 1)
        year, month = divmod(months, 12)
        last_day = (date(year + month // 11, (month + 1) % 12 + 1, 1) - timedelta(1)).day
        return date(year, month + 1, min(start.day, last_day))
    except (ValueError, OverflowError):
        return None


def renewal(published: str) -> str | None:
    """Return ``[TIMES ][successive ]COUNT UNIT``, such as "successive 1 year"; null if not renewed.

    Raises ``Unusable``.
    """
    text = re.sub(r"suc\w*", "successive", published.casefold())
    text = text.replace("four", "4").replace("three (3)", "3").replace("0.5 year", "6 months")
    if text in ("", PERPETUAL):
        return text or None
    match = _RENEWAL.fullmatch(text)
    if not match or (match["times"] and not match["again"]):
        raise Unusable("whose renewal has no single length")
    times = f"{match['times']} " if match["times"] else ""
    return f"{times}{match['again'] or ''}{_count_with_unit(match)}"


def notice(published: str, texts: list[str]) -> str | None:
    """Return ``COUNT UNIT`` such as "30 days".

    Raises ``Unusable`` if there are several or no passage names it.
    """
    if published in ("", "[]"):
        return None
    match = _NOTICE.fullmatch(published.replace("60)", "60"))
    if not match:
        raise Unusable("with several notice periods")
    duration = int(match["count"]), match["unit"].casefold()
    if not any(duration in durations_in(text) for text in texts):
        raise Unusable("with a notice period that no passage names")
    return _count_with_unit(match)


def _count_with_unit(match: re.Match[str]) -> str:
    return f"{match['count']} {match['unit'].casefold()}{'s' if match['count'] != '1' else ''}"


def places_of_law(published: str, passages: list[str]) -> str | None:
    """Return the places joined by "; "; null where the answer is blacked out.

    Raises ``Unusable`` if the passages name none of them.
    """
    places = [place.strip() for place in published.split(";") if letters_and_digits(place)]
    if places and not any(_names(text, place) for place in places for text in passages):
        raise Unusable("with a law that no passage names")
    return "; ".join(dict.fromkeys(_LAWS.get(place.casefold(), place) for place in places)) or None


def _names(text: str, place: str) -> bool:
    """Return whether ``text`` names the place, by its own name or by another word for it."""
    full = place.split(",")[0].casefold()
    name = re.sub(r"^(people's |federal )?republic of |^province of ", "", full)
    if letters_and_digits(name) in letters_and_digits(text):
        return True
    return any(word in text.casefold() for word in _OTHER_WORDS.get(name, ()))
