"""Writes contracts whose terms are known, so that an extraction can be scored without a human.

A contract is drawn in two steps: first its *facts* (the answer), then prose that states them in one
drafting style, in some order, with distractors that look like facts and amendments that overrule
them.
"""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from hydratune.data.contracts.wordings import TEST, TRAIN, World
from hydratune.data.rows import Message, Row, stable_hash
from hydratune.settings.data import Difficulty

# of the answer, in order; their types are the JSON schema in conf/data/contracts.yaml
KEYS = (
    "parties",
    "signed",
    "effective",
    "term_months",
    "renewal",
    "notice_days",
    "law",
    "liability_cap",
    "payment_days",
)

_ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["_", "_", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_CURRENCIES = {"USD": ("$", "US dollars"), "EUR": ("€", "euros"), "GBP": ("£", "pounds sterling")}
_TERM_MONTHS = (6, 9, 12, 15, 18, 24, 30, 36, 42, 48, 54, 60, 72, 84, 96, 120)
_DAYS = (5, 7, 10, 14, 15, 20, 21, 25, 28, 30, 35, 40, 45, 50, 60, 75, 90, 100, 120, 150, 180)
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December",  # noqa: E501
)  # fmt: skip


@dataclass(frozen=True)
class Level:
    """How hard a contract is to read; probabilities are per clause."""

    absent: float
    amended: float
    distractors: tuple[int, int]
    words_only: float


LEVELS = {
    Difficulty.easy: Level(absent=0.20, amended=0.0, distractors=(0, 0), words_only=0.0),
    Difficulty.standard: Level(absent=0.42, amended=0.08, distractors=(0, 2), words_only=0.15),
    Difficulty.hard: Level(absent=0.30, amended=0.25, distractors=(1, 4), words_only=0.4),
}


def in_words(number: int) -> str:
    """English words of 0 <= ``number`` < 1,000,000,000: 42 -> "forty-two"."""
    if number < 20:
        return _ONES[number]
    if number < 100:
        return _TENS[number // 10] + ("-" + _ONES[number % 10] if number % 10 else "")
    for unit, name in ((1_000_000, "million"), (1_000, "thousand"), (100, "hundred")):
        if number >= unit:
            rest = f" {in_words(number % unit)}" if number % unit else ""
            return f"{in_words(number // unit)} {name}{rest}"
    raise AssertionError(number)


def _write_date(rng: random.Random, day: date) -> str:
    month = _MONTHS[day.month - 1]
    suffix = "th" if 11 <= day.day <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(day.day % 10, "th")
    forms = [
        f"{month} {day.day}, {day.year}",
        f"{day.day} {month} {day.year}",
        f"the {day.day}{suffix} day of {month}, {day.year}",
        (
            f"{month[:3]}. {day.day}, {day.year}"
            if len(month) > 4
            else f"{month} {day.day}, {day.year}"
        ),
        day.isoformat(),
        f"{day.day:02}.{day.month:02}.{day.year}",
    ]
    return rng.choice(forms)


def _write_count(rng: random.Random, number: int, unit: str, level: Level) -> str:
    """ "ninety (90) days", "90 days" or "ninety days"."""
    units = unit if number == 1 else unit + "s"
    if rng.random() < level.words_only:
        return f"{in_words(number)} {units}"
    return rng.choice((f"{number} {units}", f"{in_words(number)} ({number}) {units}"))


def _write_period(rng: random.Random, months: int, level: Level) -> str:
    if months % 12 == 0 and rng.random() < 0.6:
        return _write_count(rng, months // 12, "year", level)
    return _write_count(rng, months, "month", level)


def _write_money(rng: random.Random, cap: dict[str, Any], level: Level) -> str:
    amount, code = cap["amount"], cap["currency"]
    symbol, noun = _CURRENCIES[code]
    if rng.random() < level.words_only:
        return f"{in_words(amount)} {noun}"
    forms = [f"{code} {amount:,}", f"{symbol}{amount:,}", f"{amount:,} {noun}"]
    if amount >= 1_000_000 and amount % 100_000 == 0:
        forms.append(f"{symbol}{amount / 1_000_000:g} million")
    return rng.choice(forms)


def _draw_money(rng: random.Random) -> dict[str, Any]:
    amount = rng.choice(
        (
            rng.randrange(5, 100) * 1_000,
            rng.randrange(4, 40) * 25_000,
            rng.randrange(10, 95) * 100_000,
        )
    )
    return {"amount": amount, "currency": rng.choice(("USD", "USD", "EUR", "GBP"))}


def _draw_day(rng: random.Random) -> date:
    return date(2005, 1, 1) + timedelta(days=rng.randrange(20 * 365))


def _invented(rng: random.Random) -> str:
    """A name nobody has read before, so that names are copied and not recalled:

    "Tavorik", "Ulmesco".
    """
    syllables = [
        rng.choice("bdfgklmnprstvz")
        + rng.choice("aeiou")
        + rng.choice(("", "", "l", "n", "r", "s"))
        for _ in range(rng.randint(2, 3))
    ]
    return ("".join(syllables) + rng.choice(("x", "k", "ra", "co", "nt", ""))).capitalize()


def _company(rng: random.Random, world: World) -> str:
    stem = _invented(rng) if world is TRAIN and rng.random() < 0.4 else rng.choice(world.stems)
    parts = [stem, rng.choice(world.trades)]
    suffix = rng.choice(world.suffixes)
    comma = "," if suffix in ("Inc.", "LLC", "Incorporated") and rng.random() < 0.5 else ""
    return f"{' '.join(parts)}{comma} {suffix}"


class _Draft:
    """One contract while it is being written: facts so far and the clauses that state them."""

    def __init__(self, rng: random.Random, world: World, level: Level) -> None:
        self.rng, self.world, self.level = rng, world, level
        self.names = [_company(rng, world), _company(rng, world)]
        while self.names[0].split()[0] == self.names[1].split()[0]:
            self.names[1] = _company(rng, world)
        a, b = rng.choice(world.roles)
        kind = rng.choice(world.kinds)
        self.fields = {
            "A": self.names[0],
            "B": self.names[1],
            "a": a,
            "b": b,
            "kind": kind,
            "KIND": kind.upper(),
        }
        self.facts: dict[str, Any] = dict.fromkeys(KEYS)
        self.facts["parties"] = list(self.names)
        self.clauses: list[
            tuple[str, str]
        ] = []  # (kind, sentence) in any order; the opening comes first
        self.amendments: list[
            tuple[str, str]
        ] = []  # always after every clause: the later term stands

    def _fill(self, sentence: str, **values: str) -> str:
        text = sentence.format(**{**self.fields, "n": str(self.rng.randrange(1, 6)), **values})
        return text[0].upper() + text[1:].replace("..", ".")

    def _write(self, slot: str, value: Any) -> dict[str, str]:
        writers: dict[str, Callable[[], str]] = {
            "date": lambda: _write_date(self.rng, value),
            "period": lambda: _write_period(self.rng, value, self.level),
            "days": lambda: _write_count(self.rng, value, "day", self.level),
            "place": lambda: str(value),
            "money": lambda: _write_money(self.rng, value, self.level),
        }
        return {slot: writers[slot]()}

    def _draw(self, slot: str) -> Any:
        draws: dict[str, Callable[[], Any]] = {
            "date": lambda: _draw_day(self.rng),
            "period": lambda: self.rng.choice(_TERM_MONTHS),
            "days": lambda: self.rng.choice(_DAYS),
            "place": lambda: self.rng.choice(self.world.places),
            "money": lambda: _draw_money(self.rng),
        }
        return draws[slot]()

    def opening(self) -> None:
        """Parties, with the agreement's date unless it is absent."""
        if self.rng.random() < self.level.absent:
            self.clauses.append(
                ("parties", self._fill(self.rng.choice(self.world.clauses["parties"])))
            )
            return
        day = self._draw("date")
        self.facts["signed"] = day.isoformat()
        sentence = self.rng.choice(self.world.clauses["parties_dated"])
        self.clauses.append(("parties_dated", self._fill(sentence, **self._write("date", day))))

    def effective(self) -> None:
        signed = self.facts["signed"]
        if signed and self.rng.random() < 0.25:
            self.facts["effective"] = signed
            self.clauses.append(
                ("effective", self._fill(self.rng.choice(self.world.clauses["effective_same"])))
            )
            return
        self.term_clause("effective", "effective", "date")

    def term_clause(self, kind: str, key: str, slot: str) -> None:
        """States one fact, and sometimes overrules it in an amendment."""
        value = self._draw(slot)
        self.clauses.append(
            (
                kind,
                self._fill(self.rng.choice(self.world.clauses[kind]), **self._write(slot, value)),
            )
        )
        if kind in self.world.amendments and self.rng.random() < self.level.amended:
            later = self._draw(slot)
            sentence = self.rng.choice(self.world.amendments[kind])
            self.amendments.append(
                (f"amended {kind}", self._fill(sentence, **self._write(slot, later)))
            )
            value = later
        self.facts[key] = value.isoformat() if isinstance(value, date) else value

    def renewal(self) -> None:
        choice = self.rng.choice(("automatic", "by_agreement", "none"))
        self.facts["renewal"] = choice
        sentence = self.rng.choice(self.world.renewals[choice])
        self.clauses.append(
            (
                "renewal",
                self._fill(sentence, **self._write("period", self.rng.choice((6, 12, 24, 36)))),
            )
        )

    def distractor(self, sentence: str) -> None:
        values: dict[str, str] = {}
        for slot in ("date", "period", "days", "money"):
            if f"{{{slot}}}" in sentence:
                values |= self._write(slot, self._draw(slot))
        self.clauses.append(("distractor", self._fill(sentence, **values)))


_TERM_CLAUSES = (
    ("term", "term_months", "period"),
    ("notice", "notice_days", "days"),
    ("law", "law", "place"),
    ("cap", "liability_cap", "money"),
    ("payment", "payment_days", "days"),
)
_HEADINGS = {
    "parties": "Parties", "parties_dated": "Parties", "effective": "Commencement", "term": "Term", "renewal": "Renewal",  # noqa: E501
    "notice": "Termination", "law": "Governing Law", "cap": "Liability", "payment": "Payment", "distractor": "Miscellaneous",  # noqa: E501
}  # fmt: skip


def _lay_out(rng: random.Random, clauses: list[tuple[str, str]]) -> str:
    """Joins clauses in one of four drafting styles."""
    style = rng.choice(("prose", "numbered", "headed", "lettered"))
    if style == "prose":
        return " ".join(sentence for _, sentence in clauses)
    if style == "numbered":
        return "\n".join(f"{i}. {sentence}" for i, (_, sentence) in enumerate(clauses, 1))
    if style == "lettered":
        return "\n".join(
            f"({chr(96 + i)}) {sentence}" for i, (_, sentence) in enumerate(clauses, 1)
        )
    return "\n".join(
        f"{_HEADINGS.get(kind, 'Amendment')}: {sentence}" for kind, sentence in clauses
    )


def _order_belongs_to_test(kinds: list[str]) -> bool:
    """A quarter of all clause orders is kept for the test world alone."""
    return int(stable_hash(kinds), 16) % 4 == 0


def _contract(rng: random.Random, world: World, level: Level) -> tuple[str, dict[str, Any]]:
    draft = _Draft(rng, world, level)
    draft.opening()
    if rng.random() >= level.absent:
        draft.effective()
    for kind, key, slot in _TERM_CLAUSES:
        if rng.random() >= level.absent:
            draft.term_clause(kind, key, slot)
            if kind == "term" and rng.random() >= level.absent:
                draft.renewal()
    for sentence in rng.sample(world.distractors, rng.randint(*level.distractors)):
        draft.distractor(sentence)
    opening, rest = draft.clauses[:1], draft.clauses[1:]
    # A short contract has few orders, so draw until one of the right world comes up; shuffling
    # alone may never find it.
    for _ in range(50):
        rng.shuffle(rest)
        order = [kind for kind, _ in opening + rest + draft.amendments]
        if _order_belongs_to_test(order) == (world is TEST):
            return _lay_out(rng, opening + rest + draft.amendments), draft.facts
    return _contract(rng, world, level)


def contract_rows(split: str, count: int, difficulty: Difficulty, seed: int) -> Iterator[Row]:
    """Yields ``count`` rows of ``split`` ("train", "validation" or "test"), the same for the same
    arguments.

    Training and validation share a world of wordings and never a contract; the test split has a
    world of its own.
    """
    rng = random.Random(f"contracts/{split}/{difficulty.value}/{seed}")
    world = TEST if split == "test" else TRAIN
    seen: set[str] = set()
    while len(seen) < count:
        text, facts = _contract(rng, world, LEVELS[difficulty])
        if text in seen:
            continue
        name = f"contracts-{split}-{len(seen):04}"
        seen.add(text)
        messages = (
            Message("user", text),
            Message("assistant", json.dumps(facts, ensure_ascii=False)),
        )
        yield Row(id=name, messages=messages, group=name)
