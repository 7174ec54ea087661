"""The space of a search, read from overrides in Hydra's own grammar.

``a,b`` and ``choice(a,b)`` are choices; ``range(a,b,step)`` has the values that a grid would run;
``interval(a,b)`` is a range of floats, both ends included, and ``int(interval(a,b))`` one of
integers; ``tag(log, ...)`` makes a range logarithmic.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    ParsedElementType,
    QuotedString,
    RangeSweep,
)
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial

from hydratune.errors import ConfigError, Problem

_LOG = "log"  # the only tag with a meaning
Value = bool | int | float | str | None  # of one setting in one trial


@dataclass(frozen=True)
class Dimension:
    """One setting that a search varies."""

    key: str  # as in an override
    distribution: BaseDistribution
    texts: tuple[str, ...] = ()  # the choices as they are written in an override

    @property
    def name(self) -> str:
        """The name of the parameter in the study."""
        return self.key.lstrip("+")

    def suggest(self, trial: Trial) -> Value:
        """Return the value of ``trial``, drawn if it has none yet."""
        d = self.distribution
        if isinstance(d, FloatDistribution):
            return trial.suggest_float(self.name, d.low, d.high, step=d.step, log=d.log)
        if isinstance(d, IntDistribution):
            return trial.suggest_int(self.name, d.low, d.high, step=d.step, log=d.log)
        assert isinstance(d, CategoricalDistribution)
        return trial.suggest_categorical(self.name, d.choices)

    def override(self, value: Value) -> str:
        """Return the override that sets exactly ``value``."""
        if isinstance(self.distribution, CategoricalDistribution):
            return f"{self.key}={self.texts[self.distribution.choices.index(value)]}"
        return f"{self.key}={value!r}"

    def corners(self) -> tuple[Value, ...]:
        """Return values that stand for all: every choice, or both ends of a range."""
        d = self.distribution
        if isinstance(d, FloatDistribution | IntDistribution):
            return (d.low, d.high)
        assert isinstance(d, CategoricalDistribution)
        return tuple(d.choices)

    def count(self) -> int | None:
        """Return the number of values, or None for every number of an interval."""
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return len(d.choices)
        assert isinstance(d, FloatDistribution | IntDistribution)
        if d.low == d.high:
            return 1
        return None if d.step is None else round((d.high - d.low) / d.step) + 1

    def value(self, number: int) -> Value:
        """Return a value by its number, from 0."""
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            choice: Value = d.choices[number]
            return choice
        assert isinstance(d, FloatDistribution | IntDistribution)
        return d.low + number * (d.step or 0)

    def number_of(self, value: Value) -> int:
        """Return the number of a value, for a dimension with a ``count``."""
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return d.choices.index(value)
        assert isinstance(d, FloatDistribution | IntDistribution) and isinstance(value, int | float)
        return round((value - d.low) / d.step) if d.step else 0

    def is_range(self) -> bool:
        return not isinstance(self.distribution, CategoricalDistribution)


class SearchSpace(NamedTuple):
    """What a search varies, and what it does not."""

    dimensions: list[Dimension]
    fixed: list[str]  # overrides that are the same for every trial

    def corners(self) -> list[list[str]]:
        """Return the overrides of one job for every choice and both ends of every range."""
        first = {dimension.key: dimension.corners()[0] for dimension in self.dimensions}
        corners = [first]
        for dimension in self.dimensions:
            corners += [{**first, dimension.key: value} for value in dimension.corners()[1:]]
        return [
            [*self.fixed, *(d.override(corner[d.key]) for d in self.dimensions)]
            for corner in corners
        ]

    def lines(self, dimension: Dimension) -> list[list[list[str]]]:
        """Return lists of jobs that differ in ``dimension`` only.

        There is one for the first value of all others, and one for each further corner of each.
        """
        first = {d.key: d.corners()[0] for d in self.dimensions}
        others = [d for d in self.dimensions if d.key != dimension.key]
        places = [first, *({**first, d.key: v} for d in others for v in d.corners()[1:])]
        jobs = [
            [{**place, dimension.key: value} for value in dict.fromkeys(dimension.corners())]
            for place in places
        ]
        return [
            [[*self.fixed, *(d.override(job[d.key]) for d in self.dimensions)] for job in line]
            for line in jobs
        ]

    def describe(self) -> dict[str, list[str]]:
        """Return what trials of one study must have in common, by topic."""
        return {
            "ranges or choices": [f"{d.key}: {d.distribution}" for d in self.dimensions],
            "settings": [text for text in self.fixed if not text.startswith("resume=")],
        }


def read_space(overrides: Sequence[Override]) -> SearchSpace:
    """Return the space that ``overrides`` span.

    Raises ``ConfigError`` with everything that is wrong.
    """
    dimensions, fixed, problems = dict[str, Dimension](), dict[str, str](), list[Problem]()
    for override in overrides:  # a later one replaces an earlier one of the key, as in a grid
        key = str(override.get_key_element())
        dimensions.pop(key, None)
        fixed.pop(key, None)
        if not override.is_sweep_override():
            fixed[key] = str(override.input_line)
            continue
        try:
            dimensions[key] = _dimension(key, override)
        except ValueError as error:
            problems.append(Problem(key, override.get_value_string(), *error.args))
    if not dimensions and not problems:
        why = "no setting spans a range or several values: there is nothing to search"
        fix = "for example 'optimizer.lr=tag(log, interval(1e-4,1e-2))' adapter.r=4,16,64"
        problems.append(Problem("hydra/sweeper", "a search", why, fix))
    if problems:
        raise ConfigError(problems, prefix="search: ")
    return SearchSpace(list(dimensions.values()), list(fixed.values()))


def _dimension(key: str, override: Override) -> Dimension:
    """Return the dimension of a setting. Raises ``ValueError(why, fix)``."""
    value = override.value()
    log = _is_log(getattr(value, "tags", set()))
    if isinstance(value, ChoiceSweep):
        if log:
            fix = "leave the tag away, or search an interval"
            raise ValueError("choices have no scale that could be logarithmic", fix)
        return _choices(key, value.list)
    if isinstance(value, IntervalSweep):
        assert value.start is not None and value.end is not None
        return Dimension(key, _interval(value.start, value.end, log))
    if isinstance(value, RangeSweep):
        return Dimension(key, _range(value, log))
    why = "a glob matches what is in the folder today, but a resumed search must span the same"
    raise ValueError(why, f"name the values: {key}=a,b,c")


def _is_log(tags: Iterable[str]) -> bool:
    for tag in sorted(tags):
        if tag != _LOG:
            fix = "the only tag is log, of a range: tag(log, interval(1e-4,1e-2))"
            raise ValueError(f"the tag {tag!r} means nothing here", fix)
    return bool(tags)


def _interval(low: float, high: float, log: bool) -> BaseDistribution:
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("its ends must be finite numbers", "for example interval(1e-4,1e-2)")
    _check_ends(low, high, log)
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(float(low), float(high), log=log)


def _check_ends(low: float, high: float, log: bool) -> None:
    if low > high:
        fix = f"swap its ends: {high:g},{low:g}"
        raise ValueError("the range is empty: it ends before it begins", fix)
    if log and low <= 0:
        fix = "raise its lower end, for example to 1e-5, or leave the tag away"
        raise ValueError("a logarithmic range must begin above 0", fix)


def _range(value: RangeSweep, log: bool) -> BaseDistribution:
    start, stop, step = (Decimal(str(number)) for number in (value.start, value.stop, value.step))
    if not all(number.is_finite() for number in (start, stop, step)):
        raise ValueError("its ends and its step must be finite numbers", "for example range(1,5)")
    count = math.ceil((stop - start) / step) if step else 0
    if count <= 0:
        fix = "for example range(1,5) or range(8,65,8)"
        raise ValueError("the range is empty (its end is not part of it)", fix)
    low, high = sorted((start, start + (count - 1) * step))
    _check_ends(float(low), float(high), log)
    are_integers = all(isinstance(n, int) for n in (value.start, value.stop, value.step))
    if log and not (are_integers and abs(step) == 1):
        fix = "use tag(log, int(interval(a,b))) or tag(log, interval(a,b))"
        raise ValueError("a logarithmic range has no step", fix)
    if are_integers:
        return IntDistribution(int(low), int(high), log=log, step=int(abs(step)))
    return FloatDistribution(float(low), float(high), step=float(abs(step)))


def _choices(key: str, elements: Sequence[ParsedElementType]) -> Dimension:
    """Return a dimension of choices. Scalars keep their types.

    Lists and mappings, which a study cannot hold, become the texts that are written for them, and
    so do all choices if two scalars are equal (1, True and 1.0) or one is not equal to itself.
    """
    texts = [str(Override._get_value_element_as_str(element)) for element in elements]
    repeated = next((text for text in texts if texts.count(text) > 1), None)
    if repeated is not None:
        raise ValueError(f"{repeated} is listed twice", "name every choice once")
    values = [_scalar(element, text) for element, text in zip(elements, texts, strict=True)]
    are_equal = any(a == b for i, a in enumerate(values) for b in values[:i])
    if are_equal or any(value != value for value in values):
        values = list(texts)
    return Dimension(key, CategoricalDistribution(values), tuple(texts))


def _scalar(element: ParsedElementType, text: str) -> Value:
    """Return the value of a choice; ``text`` if it is a list or a mapping."""
    value = element.text if isinstance(element, QuotedString) else element
    return value if value is None or isinstance(value, bool | int | float | str) else text
