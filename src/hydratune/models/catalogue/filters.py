"""Filters of the model catalogue, as they are typed: ``licence=commercial context>=32k``."""

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from hydratune.errors import InputError
from hydratune.models.catalogue.entries import CommercialUse, ModelFacts

_FORM = re.compile(r"(?P<key>[A-Za-z_]+)\s*(?P<sign>>=|<=|=|>|<)\s*(?P<value>.+)")
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)\s*([kmb]?)", re.IGNORECASE)
_SCALES: dict[str, dict[str, float]] = {
    "context": {"": 1, "k": 1024, "m": 1024**2},  # 32k tokens are 32,768
    "size": {"": 1, "k": 1e3, "m": 1e6, "b": 1e9},
}
_SLACK = 0.06  # of a size, which is stated in few digits
_EXAMPLES = "licence=commercial, context=32k+, size=8b-, size=1b..8b, gated=no, name=qwen"
_SHELL = (
    "the shell reads > and < as redirections; quote the filter ('context>=32k'), or write"
    " context=32k+ and size=8b-"
)
_KEYS = ("licence", "commercial", "context", "size", "gated", "name")
_OTHER_NAMES = {
    "license": "licence",
    "ctx": "context",
    "context_window": "context",
    "parameters": "size",
    "params": "size",
    "id": "name",
}

Matches = Callable[[ModelFacts], bool | None]  # None: unknown


@dataclass(frozen=True)
class Filtered:
    """The models that match, and how many could not be judged."""

    models: tuple[ModelFacts, ...]
    unknown: int  # models that fail no filter, but lack a value that one asks for


def apply(filters: Sequence[str], models: Iterable[ModelFacts]) -> Filtered:
    """Return the models that match all ``filters``. Raises ``InputError`` for a wrong one."""
    models = tuple(models)
    licences = {facts.licence for facts in models if facts.licence is not None}
    conditions = [_condition(text, licences) for text in filters]
    matching, unknown = [], 0
    for facts in models:
        answers = [condition(facts) for condition in conditions]
        if False in answers:
            continue
        if None in answers:
            unknown += 1
        else:
            matching.append(facts)
    return Filtered(tuple(matching), unknown)


def _condition(text: str, licences: Iterable[str]) -> Matches:
    form = _FORM.fullmatch(text.strip())
    if form is None:
        hint = _SHELL if text.lower() in (*_KEYS, *_OTHER_NAMES) else f"for example {_EXAMPLES}"
        raise InputError(f"{text}: this is no filter of models; {hint}")
    typed, sign, value = form["key"].lower(), form["sign"], form["value"].strip()
    key = _OTHER_NAMES.get(typed, typed)
    if key not in _KEYS:
        near = difflib.get_close_matches(key, _KEYS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"filters: {', '.join(_KEYS)}"
        raise InputError(f"{text}: models have no {typed}; {hint}")
    if key in _SCALES:
        return _range(key, *_bounds(text, key, sign, value))
    if sign != "=":
        raise InputError(f"{text}: {key} is no number; write {key}={value}")
    return _texts(text, key, value.lower(), licences)


def _bounds(text: str, key: str, sign: str, value: str) -> tuple[float, float, bool]:
    """Return (least, most, whether both are excluded) of a number."""
    if sign != "=":
        number = _number(text, key, value)
        low, high = (number, float("inf")) if sign[0] == ">" else (0.0, number)
        return low, high, len(sign) == 1
    if ".." in value:
        first, _, last = value.partition("..")
        low = _number(text, key, first) if first else 0.0
        return low, _number(text, key, last) if last else float("inf"), False
    if value[-1] == "+":
        return _number(text, key, value[:-1]), float("inf"), False
    if value[-1] == "-":
        return 0.0, _number(text, key, value[:-1]), False
    number = _number(text, key, value)
    return number, number, False


def _number(text: str, key: str, value: str) -> float:
    parsed = _NUMBER.fullmatch(value.strip())
    scales = _SCALES[key]
    if parsed is None or parsed[2].lower() not in scales:
        example = "context=32k+" if key == "context" else "size=8b-"
        raise InputError(f"{text}: {value} is no {key}; for example {example}")
    unit = parsed[2].lower()
    if key == "size" and not unit and float(parsed[1]) < 1000:
        unit = "b"  # nobody means 8 parameters
    return float(parsed[1]) * scales[unit]


def _range(key: str, low: float, high: float, excluded: bool) -> Matches:
    def matches(facts: ModelFacts) -> bool | None:
        value = facts.context_window if key == "context" else facts.parameters
        if value is None:
            return None
        if excluded:
            return low < value < high
        # models of 8.03B and 8.19B are called 8B: 8b are 7.5 to 8.5, and 8b- those as well
        slack = _SLACK if key == "size" else 0.0
        return (1 - slack) * low <= value <= (1 + slack) * high

    return matches


def _texts(text: str, key: str, value: str, licences: Iterable[str]) -> Matches:
    if key == "name":
        return lambda facts: value in facts.name.lower() or value in facts.hub_id.lower()
    if key == "gated":
        answers = {"yes": True, "true": True, "no": False, "false": False}
        if value not in answers:
            raise InputError(f"{text}: gated is yes or no; write gated=no")
        return lambda facts: None if facts.gated is None else facts.gated is answers[value]
    if key == "licence" and value != "commercial":
        if not any(value in licence.lower() for licence in licences):
            there = f"licence=commercial, or a part of: {', '.join(sorted(licences))}"
            raise InputError(f"{text}: no model has such a licence; {there}")
        return lambda facts: None if facts.licence is None else value in facts.licence.lower()
    allowed = [CommercialUse.yes, CommercialUse.conditional]
    if key == "commercial":
        if value not in ("yes", "conditional", "no"):
            raise InputError(
                f"{text}: commercial use is yes, conditional or no; write commercial=yes"
            )
        allowed = [CommercialUse(value)]

    def matches(facts: ModelFacts) -> bool | None:
        return (
            None
            if facts.commercial_use is CommercialUse.unknown
            else (facts.commercial_use in allowed)
        )

    return matches
