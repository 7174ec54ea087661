"""Write contracts whose terms are known, so that an extraction can be scored without a human.

A contract is drawn in two steps: first its *facts* (the answer), then prose that states them in one
drafting style, in some order, with distractors that look like facts and amendments that overrule
them.
"""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from hydratune.data.contracts.values import (
    Money,
    draw_day,
    draw_money,
    invent_name,
    write_count,
    write_date,
    write_money,
    write_period,
)
from hydratune.data.contracts.wordings import TEST, TRAIN, World
from hydratune.data.rows import Message, Row, stable_hash

# The keys of the answer, in order; their types are the JSON schema in conf/data/contracts.yaml.
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
_TERM_MONTHS = (6, 9, 12, 15, 18, 24, 30, 36, 42, 48, 54, 60, 72, 84, 96, 120)
_RENEWAL_MONTHS = (6, 12, 24, 36)
_DAYS = (5, 7, 10, 14, 15, 20, 21, 25, 28, 30, 35, 40, 45, 50, 60, 75, 90, 100, 120, 150, 180)

Value = date | int | str | Money  # of a slot in a sentence
Facts = dict[str, object]


class Difficulty(StrEnum):
    """How hard the built-in contracts are to read."""

    easy = "easy"  # no amendments, no distracting clauses, every number in digits
    standard = "standard"  # some of each
    hard = "hard"  # more of each


@dataclass(frozen=True)
class DifficultySettings:
    """The numbers behind a difficulty; probabilities are per clause."""

    absent: float
    amended: float
    distractors: tuple[int, int]  # at least, at most
    words_only: float  # of a number: without digits


LEVELS = {
    Difficulty.easy: DifficultySettings(
        absent=0.20, amended=0.0, distractors=(0, 0), words_only=0.0
    ),
    Difficulty.standard: DifficultySettings(
        absent=0.42, amended=0.08, distractors=(0, 2), words_only=0.15
    ),
    Difficulty.hard: DifficultySettings(
        absent=0.30, amended=0.25, distractors=(1, 4), words_only=0.4
    ),
}


def _company(rng: random.Random, world: World) -> str:
    is_invented = world is TRAIN and rng.random() < 0.4
    stem = invent_name(rng) if is_invented else rng.choice(world.stems)
    trade, suffix = rng.choice(world.trades), rng.choice(world.suffixes)
    may_have_comma = suffix in ("Inc.", "LLC", "Incorporated")
    comma = "," if may_have_comma and rng.random() < 0.5 else ""
    return f"{stem} {trade}{comma} {suffix}"


class _Draft:
    """A contract while it is being written: its facts so far and the clauses that state them."""

    def __init__(self, rng: random.Random, world: World, level: DifficultySettings) -> None:
        self.rng, self.world, self.level = rng, world, level
        self.names = [_company(rng, world), _company(rng, world)]
        while self.names[0].split()[0] == self.names[1].split()[0]:
            self.names[1] = _company(rng, world)
        a, b = rng.choice(world.roles)
        kind = rng.choice(world.kinds)
        first, second = self.names
        names = {"A": first, "B": second, "a": a, "b": b}
        self.fields = {**names, "kind": kind, "KIND": kind.upper()}
        self.facts: Facts = dict.fromkeys(KEYS)
        self.facts["parties"] = list(self.names)
        # (kind, sentence) in any order; the opening comes first
        self.clauses: list[tuple[str, str]] = []
        # always after every clause, because the later term is valid
        self.amendments: list[tuple[str, str]] = []

    def _fill(self, sentence: str, **values: str) -> str:
        text = sentence.format(**{**self.fields, "n": str(self.rng.randrange(1, 6)), **values})
        return text[0].upper() + text[1:].replace("..", ".")

    def _write(self, slot: str, value: Value) -> dict[str, str]:
        """Return the slot of a sentence with its text."""
        rng, words_only = self.rng, self.level.words_only
        if isinstance(value, date):
            return {slot: write_date(rng, value)}
        if isinstance(value, dict):
            return {slot: write_money(rng, value, words_only)}
        if isinstance(value, str):
            return {slot: value}
        if slot == "period":
            return {slot: write_period(rng, value, words_only)}
        return {slot: write_count(rng, value, "day", words_only)}

    def _draw(self, slot: str) -> Value:
        """Draw a value for a slot."""
        draws: dict[str, Callable[[], Value]] = {
            "date": lambda: draw_day(self.rng),
            "period": lambda: self.rng.choice(_TERM_MONTHS),
            "days": lambda: self.rng.choice(_DAYS),
            "place": lambda: self.rng.choice(self.world.places),
            "money": lambda: draw_money(self.rng),
        }
        return draws[slot]()

    def opening(self) -> None:
        """Name the parties, with the agreement's date unless it is absent."""
        if self.rng.random() < self.level.absent:
            sentence = self.rng.choice(self.world.clauses["parties"])
            self.clauses.append(("parties", self._fill(sentence)))
            return
        day = draw_day(self.rng)
        self.facts["signed"] = day.isoformat()
        sentence = self.rng.choice(self.world.clauses["parties_dated"])
        self.clauses.append(("parties_dated", self._fill(sentence, **self._write("date", day))))

    def effective(self) -> None:
        """State when the contract becomes effective, sometimes the day of its signature."""
        signed = self.facts["signed"]
        if signed and self.rng.random() < 0.25:
            self.facts["effective"] = signed
            sentence = self.rng.choice(self.world.clauses["effective_same"])
            self.clauses.append(("effective", self._fill(sentence)))
            return
        self.term_clause("effective", "effective", "date")

    def term_clause(self, kind: str, key: str, slot: str) -> None:
        """State one fact, and sometimes overrule it in an amendment."""
        value = self._draw(slot)
        sentence = self.rng.choice(self.world.clauses[kind])
        self.clauses.append((kind, self._fill(sentence, **self._write(slot, value))))
        if kind in self.world.amendments and self.rng.random() < self.level.amended:
            value = self._draw(slot)
            sentence = self.rng.choice(self.world.amendments[kind])
            amendment = self._fill(sentence, **self._write(slot, value))
            self.amendments.append((f"amended {kind}", amendment))
        self.facts[key] = value.isoformat() if isinstance(value, date) else value

    def renewal(self) -> None:
        """State whether the contract is renewed."""
        choice = self.rng.choice(("automatic", "by_agreement", "none"))
        self.facts["renewal"] = choice
        sentence = self.rng.choice(self.world.renewals[choice])
        period = self._write("period", self.rng.choice(_RENEWAL_MONTHS))
        self.clauses.append(("renewal", self._fill(sentence, **period)))

    def distractor(self, sentence: str) -> None:
        """Add a sentence that states no fact."""
        values: dict[str, str] = {}
        for slot in ("date", "period", "days", "money"):
            if f"{{{slot}}}" in sentence:
                values |= self._write(slot, self._draw(slot))
        self.clauses.append(("distractor", self._fill(sentence, **values)))


_TERM_CLAUSES = (  # kind of the clause, key of the fact, slot in the sentence
    ("term", "term_months", "period"),
    ("notice", "notice_days", "days"),
    ("law", "law", "place"),
    ("cap", "liability_cap", "money"),
    ("payment", "payment_days", "days"),
)
_HEADINGS = {
    "parties": "Parties",
    "parties_dated": "Parties",
    "effective": "Commencement",
    "term": "Term",
    "renewal": "Renewal",
    "notice": "Termination",
    "law": "Governing Law",
    "cap": "Liability",
    "payment": "Payment",
    "distractor": "Miscellaneous",
}


def _lay_out(rng: random.Random, clauses: list[tuple[str, str]]) -> str:
    """Join clauses in one of four drafting styles."""
    style = rng.choice(("prose", "numbered", "headed", "lettered"))
    if style == "prose":
        return " ".join(sentence for _, sentence in clauses)
    if style == "numbered":
        return "\n".join(f"{i}. {sentence}" for i, (_, sentence) in enumerate(clauses, 1))
    if style == "lettered":
        letters = (chr(96 + i) for i in range(1, len(clauses) + 1))
        return "\n".join(
            f"({letter}) {sentence}" for letter, (_, sentence) in zip(letters, clauses, strict=True)
        )
    return "\n".join(
        f"{_HEADINGS.get(kind, 'Amendment')}: {sentence}" for kind, sentence in clauses
    )


def _order_belongs_to_test(kinds: list[str]) -> bool:
    """Return whether an order of clauses occurs only in the test world, as a quarter of them do."""
    return int(stable_hash(kinds), 16) % 4 == 0


def _contract(rng: random.Random, world: World, level: DifficultySettings) -> tuple[str, Facts]:
    """Return the text and the facts of one contract."""
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
    # A short contract has few orders, and shuffling may never find one of the right world: then
    # another contract is drawn.
    for _ in range(50):
        rng.shuffle(rest)
        clauses = opening + rest + draft.amendments
        order = [kind for kind, _ in clauses]
        if _order_belongs_to_test(order) == (world is TEST):
            return _lay_out(rng, clauses), draft.facts
    return _contract(rng, world, level)


def contract_rows(split: str, count: int, difficulty: Difficulty, seed: int) -> Iterator[Row]:
    """Yield ``count`` rows of ``split`` ("train", "validation" or "test"), the same for the same
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
        answer = json.dumps(facts, ensure_ascii=False)
        yield Row(name, (Message("user", text), Message("assistant", answer)), group=name)
