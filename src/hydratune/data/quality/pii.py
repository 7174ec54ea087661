"""Personal data in texts: e-mail addresses, phone numbers, payment cards, IBANs, IP addresses, US social security numbers.

Each finder takes a text and returns the first hit or None. Numbers are checked by their check digits or number plans, so that an
order number is not taken for a card. What is found is shown masked: a report is passed around.
"""

import ipaddress
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from phonenumbers import Leniency, PhoneNumberMatcher
from stdnum import iban as iban_standard
from stdnum import luhn
from stdnum.exceptions import ValidationError

_EMAIL = re.compile(r"[\w.%+-]+@[\w-]+(?:\.[\w-]+)+")
_DIGITS = re.compile(r"\d(?:[ -]?\d){12,18}(?!\d)")
_CARD_STARTS = re.compile(r"4|5[1-5]|2[2-7]|3[47]|3[068]|6011|65|35")  # Visa, Mastercard, Amex, Diners, Discover, JCB
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}\b")
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]*\d)")
_IPV6 = re.compile(r"(?<![\w:])(?=[0-9a-f]*:[0-9a-f]*:)[0-9a-f:]{6,39}(?![\w:])", re.IGNORECASE)
_SSN = re.compile(r"(?<![\d-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])")
_PHONE_LIKE = re.compile(r"(?:\d[ ().-]{0,3}){6,}\d")
_REGION = "US"  # of numbers without a country code


def email(text: str) -> str | None:
    found = _EMAIL.search(text) if "@" in text else None
    return found[0] if found else None


def phone(text: str) -> str | None:
    """International numbers, and national ones of the US, written as people write them (not as bare digits)."""
    if not _PHONE_LIKE.search(text):
        return None
    matches = PhoneNumberMatcher(text, _REGION, leniency=Leniency.STRICT_GROUPING)
    return next((m.raw_string for m in matches if not m.raw_string.isdigit() and not _SSN.fullmatch(m.raw_string)), None)


def card(text: str) -> str | None:
    for found in _DIGITS.finditer(text):
        number = re.sub(r"\D", "", found[0])
        if _CARD_STARTS.match(number) and len(set(number)) > 1 and luhn.is_valid(number):
            return found[0]
    return None


def iban(text: str) -> str | None:
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
    found = _SSN.search(text)
    return found[0] if found else None


def names(text: str) -> str | None:
    """Persons and places, by presidio's statistical model. Raises ``ImportError`` where the extra is not installed."""
    found = [hit for hit in _presidio().analyze(text, language="en", entities=["PERSON", "LOCATION"]) if hit.score >= 0.6]
    return text[found[0].start : found[0].end] if found else None


@lru_cache(maxsize=1)
def _presidio() -> Any:
    from presidio_analyzer import AnalyzerEngine

    return AnalyzerEngine()


def masked(found: str) -> str:
    """Enough of a hit to recognise it in its row, not enough to use it."""
    return found[:2] + re.sub(r"\w", "•", found[2:-1]) + found[-1:]


FINDERS: dict[str, Callable[[str], str | None]] = {
    "pii_email": email,
    "pii_phone": phone,
    "pii_card": card,
    "pii_iban": iban,
    "pii_ip": ip,
    "pii_ssn": ssn,
    "pii_names": names,
}
