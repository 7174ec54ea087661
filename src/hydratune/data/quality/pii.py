"""Find personal data in texts: e-mail addresses, phone numbers, payment cards, IBANs, IP addresses,
US social security numbers.

Each finder takes a text and returns the first hit or None. Numbers are verified by their check
digits or number plans, so that an order number is not taken for a card. Hits are shown masked,
because reports are passed on.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from hydratune import extras
from hydratune.data.rows import Row
from hydratune.settings.data import PACKAGES_OF_CHECKS

if TYPE_CHECKING:
    from presidio_analyzer import AnalyzerEngine

_VERSION = r"v?\d+\.(?:x\b|\d+\.\d+(?:-|\b(?!\.)))"  # of a package: name@1.2.3-rc.1
_EMAIL = re.compile(rf"(?<![\w.%+-])[\w.%+-]+@(?!{_VERSION})[\w-]+(?:\.[\w-]+)+")
_VERSION_CONTROL_USERS = {"git", "hg", "svn"}  # git@github.com:owner/name
_DIGITS = re.compile(
    r"(?<!\d)(?<!\d\.)"
    r"(?:\d{4}\.\d{4}\.\d{4}\.\d{4}|\d{4}\.\d{6}\.\d{5}|\d(?:[ -]?\d){12,18})(?!\.?\d)"
)
# Visa, Mastercard, Amex, Diners, Discover, JCB
_CARD_STARTS = re.compile(r"4|5[1-5]|2[2-7]|3[47]|3[068]|6011|65|35")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}\b", re.IGNORECASE)
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]*\d)")
_IPV6 = re.compile(r"(?<![\w:])(?=[0-9a-f]*:[0-9a-f]*:)[0-9a-f:]{6,39}(?![\w:])", re.IGNORECASE)
_SSN = re.compile(r"(?<![\d-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])")
_SSN_NAMED = re.compile(
    r"(?:\bssn|\bsocial[ -]security)\b\D{0,30}(?<!\d)(?P<number>"
    r"(?!000|666|9\d\d)\d{3}[ .]?(?!00)\d{2}[ .]?(?!0000)\d{4})(?![\d-])",
    re.IGNORECASE,
)
_PHONE_LIKE = re.compile(r"(?:\d[ ().-]{0,3}){6,}\d")
_REGION = "US"  # of phone numbers without a country code
_LEAST_SCORE = 0.6  # of a name


def email(text: str) -> str | None:
    """Return an e-mail address, also ``user@192.168.0.14``.

    ``package@1.2.3`` and the remote ``git@github.com:owner/name`` are none.
    """
    for match in _EMAIL.finditer(text) if "@" in text else ():
        user, following = match[0].partition("@")[0], text[match.end() : match.end() + 1]
        if user not in _VERSION_CONTROL_USERS or following not in (":", "/"):
            return match[0]
    return None


def phone(text: str) -> str | None:
    """Return an international number, or a national one of the US, as people write them (not as
    bare digits).
    """
    if not _PHONE_LIKE.search(text):
        return None
    from phonenumbers import Leniency, PhoneNumberMatcher

    matches = PhoneNumberMatcher(text, _REGION, leniency=Leniency.STRICT_GROUPING)
    for match in matches:
        number = str(match.raw_string)
        if not number.isdigit() and not _SSN.fullmatch(number):
            return number
    return None


def card(text: str) -> str | None:
    """Return a payment card number with a valid check digit."""
    from stdnum import luhn

    for match in _DIGITS.finditer(text):
        number = re.sub(r"\D", "", match[0])
        if _CARD_STARTS.match(number) and len(set(number)) > 1 and luhn.is_valid(number):
            return match[0]
    return None


def iban(text: str) -> str | None:
    """Return a valid international bank account number."""
    from stdnum import iban as iban_standard
    from stdnum.exceptions import ValidationError

    for match in _IBAN.finditer(text):
        words = match[0].split(" ")
        for end in range(len(words), 0, -1):  # the words after it may look like a part of it
            try:
                iban_standard.validate("".join(words[:end]))
            except ValidationError:
                continue
            return " ".join(words[:end])
    return None


def ip(text: str) -> str | None:
    """Return a public or private IP address; not loopback, not 0.0.0.0, not a network mask."""
    for pattern in (_IPV4, _IPV6):
        for match in pattern.finditer(text):
            try:
                address = ipaddress.ip_address(match[0])
            except ValueError:
                continue
            if not (address.is_loopback or address.is_unspecified or match[0].startswith("255.")):
                return match[0]
    return None


def ssn(text: str) -> str | None:
    """Return a US social security number.

    With hyphens it may stand anywhere; with blanks, points or as nine digits only after the words
    "SSN" or "social security".
    """
    match = _SSN.search(text)
    if match:
        return match[0]
    named = _SSN_NAMED.search(text)
    return named["number"] if named else None


def names(text: str) -> str | None:
    """Return the name of a person or place, by presidio's statistical model.

    Raises ``ImportError`` if the extra ``hydratune[pii]`` is not installed.
    """
    hits = _presidio().analyze(text, language="en", entities=["PERSON", "LOCATION"])
    likely = [hit for hit in hits if hit.score >= _LEAST_SCORE]
    return text[likely[0].start : likely[0].end] if likely else None


@lru_cache(maxsize=1)
def _presidio() -> "AnalyzerEngine":
    from presidio_analyzer import AnalyzerEngine

    return AnalyzerEngine()


Finder = Callable[[str], str | None]
_FAST_FINDERS: dict[str, Finder] = {
    "pii_email": email,
    "pii_phone": phone,
    "pii_card": card,
    "pii_iban": iban,
    "pii_ip": ip,
    "pii_ssn": ssn,
}
FINDERS: dict[str, Finder] = {**_FAST_FINDERS, "pii_names": names}


def mask(hit: str) -> str:
    """Keep the first character and the punctuation of a hit, which is enough to recognise it in its
    row.
    """
    return hit[:1] + re.sub(r"[^\W_]+|_+", "•••", hit[1:])


def _matches(pattern: re.Pattern[str]) -> Finder:
    """Return a finder of whatever looks like ``pattern``, without any verification."""

    def find(text: str) -> str | None:
        match = pattern.search(text)
        return match[0] if match else None

    return find


@lru_cache(maxsize=1)
def _masking_finders() -> tuple[Finder, ...]:
    """Return the finders for masking.

    Where a package that verifies a number is not installed, all that looks like one is masked.
    """
    unverified = {
        "pii_phone": _matches(_PHONE_LIKE),
        "pii_card": _matches(_DIGITS),
        "pii_iban": _matches(_IBAN),
    }
    absent = {name for name in unverified if not extras.is_installed(PACKAGES_OF_CHECKS[name])}
    return tuple(
        unverified[name] if name in absent else find for name, find in _FAST_FINDERS.items()
    )


def mask_all(text: str) -> str:
    """Mask everything in ``text`` that a finder finds.

    Names of persons, which need a slow model, stay.
    """
    for find in _masking_finders():
        while hit := find(text):  # a masked hit is no longer found
            text = text.replace(hit, mask(hit))
    return text


def texts_of(row: Row) -> Iterator[str]:
    """Yield every text of a row: its turns with their reasoning, names and tool calls, and the
    descriptions of its tools.
    """
    for message in row.messages:
        yield message.content
        if message.reasoning:
            yield message.reasoning
        if message.name:
            yield message.name
        yield from _strings(message.tool_calls)
    yield from _strings(row.tools)


def _strings(value: object) -> Iterator[str]:
    """Yield the texts of nested tool calls and schemas.

    Arguments may be JSON in a string; a number may be a card.
    """
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _strings(key)
            yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield str(value)
