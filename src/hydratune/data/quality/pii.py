"""Personal data in texts: e-mail addresses, phone numbers, payment cards, IBANs, IP addresses, US
social security numbers.

Each finder takes a text and returns the first hit or None. Numbers are checked by their check
digits or number plans, so that an order number is not taken for a card. What is found is shown
masked: a report is passed around.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from hydratune.data.rows import Row

_VERSION = r"v?\d+\.(?:x\b|\d+\.\d+(?:-|\b(?!\.)))"  # of a package: name@1.2.3-rc.1
_EMAIL = re.compile(rf"(?<![\w.%+-])[\w.%+-]+@(?!{_VERSION})[\w-]+(?:\.[\w-]+)+")
_REMOTE = {"git", "hg", "svn"}  # users of git@github.com:owner/name
_DIGITS = re.compile(
    r"(?<!\d)(?<!\d\.)(?:\d{4}\.\d{4}\.\d{4}\.\d{4}|\d{4}\.\d{6}\.\d{5}|\d(?:["
    r" -]?\d){12,18})(?!\.?\d)"
)
# Visa, Mastercard, Amex, Diners, Discover, JCB
_CARD_STARTS = re.compile(r"4|5[1-5]|2[2-7]|3[47]|3[068]|6011|65|35")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}\b", re.IGNORECASE)
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]*\d)")
_IPV6 = re.compile(r"(?<![\w:])(?=[0-9a-f]*:[0-9a-f]*:)[0-9a-f:]{6,39}(?![\w:])", re.IGNORECASE)
_SSN = re.compile(r"(?<![\d-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])")
_SSN_NAMED = re.compile(
    r"(?:\bssn|\bsocial[ -]security)\b\D{0,30}(?<!\d)(?P<number>(?!000|666|9\d\d)\d{3}["
    r" .]?(?!00)\d{2}[ .]?(?!0000)\d{4})(?![\d-])",
    re.IGNORECASE,
)
_PHONE_LIKE = re.compile(r"(?:\d[ ().-]{0,3}){6,}\d")
_REGION = "US"  # of numbers without a country code


def email(text: str) -> str | None:
    """Also ``user@192.168.0.14``; not ``package@1.2.3`` or the remote
    ``git@github.com:owner/name``.
    """
    for found in _EMAIL.finditer(text) if "@" in text else ():
        if found[0].partition("@")[0] not in _REMOTE or text[found.end() : found.end() + 1] not in (
            ":",
            "/",
        ):
            return found[0]
    return None


def phone(text: str) -> str | None:
    """International numbers, and national ones of the US, written as people write them (not as bare
    digits).
    """
    if not _PHONE_LIKE.search(text):
        return None
    from phonenumbers import Leniency, PhoneNumberMatcher

    matches = PhoneNumberMatcher(text, _REGION, leniency=Leniency.STRICT_GROUPING)
    return next(
        (
            m.raw_string
            for m in matches
            if not m.raw_string.isdigit() and not _SSN.fullmatch(m.raw_string)
        ),
        None,
    )


def card(text: str) -> str | None:
    from stdnum import luhn

    for found in _DIGITS.finditer(text):
        number = re.sub(r"\D", "", found[0])
        if _CARD_STARTS.match(number) and len(set(number)) > 1 and luhn.is_valid(number):
            return found[0]
    return None


def iban(text: str) -> str | None:
    from stdnum import iban as iban_standard
    from stdnum.exceptions import ValidationError

    for found in _IBAN.finditer(text):
        words = found[0].split(" ")
        for end in range(len(words), 0, -1):  # the words after it may look like a part of it
            try:
                iban_standard.validate("".join(words[:end]))
            except ValidationError:
                continue
            return " ".join(words[:end])
    return None


def ip(text: str) -> str | None:
    """Public and private addresses; not loopback, not 0.0.0.0, not a network mask."""
    for pattern in (_IPV4, _IPV6):
        for found in pattern.finditer(text):
            try:
                address = ipaddress.ip_address(found[0])
            except ValueError:
                continue
            if not (address.is_loopback or address.is_unspecified or found[0].startswith("255.")):
                return found[0]
    return None


def ssn(text: str) -> str | None:
    """With hyphens anywhere; with blanks, points or as nine digits only after the words "SSN" or
    "social security".
    """
    found = _SSN.search(text)
    if found:
        return found[0]
    named = _SSN_NAMED.search(text)
    return named["number"] if named else None


def names(text: str) -> str | None:
    """Persons and places, by presidio's statistical model.

    Raises ``ImportError`` where the extra is not installed.
    """
    found = [
        hit
        for hit in _presidio().analyze(text, language="en", entities=["PERSON", "LOCATION"])
        if hit.score >= 0.6
    ]
    return text[found[0].start : found[0].end] if found else None


@lru_cache(maxsize=1)
def _presidio() -> Any:
    from presidio_analyzer import AnalyzerEngine

    return AnalyzerEngine()


def masked(found: str) -> str:
    """The first character, and which marks a hit has: enough to recognise it in its row, neither
    its content nor its lengths.
    """
    return found[:1] + re.sub(r"[^\W_]+|_+", "•••", found[1:])


FINDERS: dict[str, Callable[[str], str | None]] = {
    "pii_email": email,
    "pii_phone": phone,
    "pii_card": card,
    "pii_iban": iban,
    "pii_ip": ip,
    "pii_ssn": ssn,
    "pii_names": names,
}
_FAST = [find for name, find in FINDERS.items() if name != "pii_names"]


def hidden(text: str) -> str:
    """``text`` with everything that a finder sees in it masked; names of persons, which need a slow
    model, stay.
    """
    for find in _FAST:
        while found := find(text):  # a masked hit is none
            text = text.replace(found, masked(found))
    return text


def texts_of(row: Row) -> Iterator[str]:
    """All that a row says: turns of every role with their reasoning and tool calls, and what it
    tells of the tools.
    """
    for message in row.messages:
        yield message.content
        if message.reasoning:
            yield message.reasoning
        if message.name:
            yield message.name
        yield from _strings(message.tool_calls)
    yield from _strings(row.tools)


def _strings(value: Any) -> Iterator[str]:
    """Of nested tool calls and schemas.

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
