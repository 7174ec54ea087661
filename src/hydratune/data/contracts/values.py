"""Draw the values of a contract and write them as contracts do: dates, durations, money, names."""

import random
from datetime import date, timedelta
from typing import TypedDict

_ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen"),
    *("eighteen", "nineteen"),
)
_TENS = ("_", "_", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_CURRENCIES = {"USD": ("$", "US dollars"), "EUR": ("€", "euros"), "GBP": ("£", "pounds sterling")}
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_FIRST_DAY, _YEARS = date(2005, 1, 1), 20  # of all dates


class Money(TypedDict):
    """An amount of money, as the answer states it."""

    amount: int
    currency: str


def in_words(number: int) -> str:
    """Return the English words of 0 <= ``number`` < 1,000,000,000: 42 -> "forty-two"."""
    if number < 20:
        return _ONES[number]
    if number < 100:
        return _TENS[number // 10] + ("-" + _ONES[number % 10] if number % 10 else "")
    for unit, name in ((1_000_000, "million"), (1_000, "thousand"), (100, "hundred")):
        if number >= unit:
            rest = f" {in_words(number % unit)}" if number % unit else ""
            return f"{in_words(number // unit)} {name}{rest}"
    raise AssertionError(number)


def draw_day(rng: random.Random) -> date:
    """Draw a day."""
    return _FIRST_DAY + timedelta(days=rng.randrange(_YEARS * 365))


def write_date(rng: random.Random, day: date) -> str:
    """Write a day in one of six forms."""
    month = _MONTHS[day.month - 1]
    month_first = f"{month} {day.day}, {day.year}"
    abbreviated = f"{month[:3]}. {day.day}, {day.year}" if len(month) > 4 else month_first
    suffix = "th" if 11 <= day.day <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(day.day % 10, "th")
    forms = [
        month_first,
        f"{day.day} {month} {day.year}",
        f"the {day.day}{suffix} day of {month}, {day.year}",
        abbreviated,
        day.isoformat(),
        f"{day.day:02}.{day.month:02}.{day.year}",
    ]
    return rng.choice(forms)


def write_count(rng: random.Random, number: int, unit: str, words_only: float) -> str:
    """Write "ninety (90) days", "90 days" or "ninety days"; ``words_only`` is the probability of
    the last form.
    """
    units = unit if number == 1 else unit + "s"
    if rng.random() < words_only:
        return f"{in_words(number)} {units}"
    return rng.choice((f"{number} {units}", f"{in_words(number)} ({number}) {units}"))


def write_period(rng: random.Random, months: int, words_only: float) -> str:
    """Write a duration in months, or in years where that is possible."""
    if months % 12 == 0 and rng.random() < 0.6:
        return write_count(rng, months // 12, "year", words_only)
    return write_count(rng, months, "month", words_only)


def draw_money(rng: random.Random) -> Money:
    """Draw an amount of 5,000 to 9,400,000."""
    amounts = (
        rng.randrange(5, 100) * 1_000,
        rng.randrange(4, 40) * 25_000,
        rng.randrange(10, 95) * 100_000,
    )
    amount = rng.choice(amounts)
    return {"amount": amount, "currency": rng.choice(("USD", "USD", "EUR", "GBP"))}


def write_money(rng: random.Random, money: Money, words_only: float) -> str:
    """Write an amount of money; ``words_only`` is the probability that it is without digits."""
    amount, code = money["amount"], money["currency"]
    symbol, noun = _CURRENCIES[code]
    if rng.random() < words_only:
        return f"{in_words(amount)} {noun}"
    forms = [f"{code} {amount:,}", f"{symbol}{amount:,}", f"{amount:,} {noun}"]
    if amount >= 1_000_000 and amount % 100_000 == 0:
        forms.append(f"{symbol}{amount / 1_000_000:g} million")
    return rng.choice(forms)


def invent_name(rng: random.Random) -> str:
    """Invent a name that no text contains, so that it is copied and not recalled: "Tavorik"."""
    syllables = [
        rng.choice("bdfgklmnprstvz")
        + rng.choice("aeiou")
        + rng.choice(("", "", "l", "n", "r", "s"))
        for _ in range(rng.randint(2, 3))
    ]
    return ("".join(syllables) + rng.choice(("x", "k", "ra", "co", "nt", ""))).capitalize()
