"""The space of a search, read from overrides in Hydra's own grammar.

``a,b`` and ``choice(a,b)`` are categories; ``range(a,b,step)`` holds the values that a grid would
run; ``interval(a,b)`` is a range of floats, both ends included; ``int(interval(a,b))`` one of whole
numbers; ``tag(log, ...)`` makes a range logarithmic.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
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


@dataclass(frozen=True)
class Dimension:
    """One setting that a search varies."""

    key: str  # as in an override
    distribution: BaseDistribution
    texts: tuple[str, ...] = ()  # of the choices of a category, as in an override

    @property
    def name(self) -> str:
        """Of the parameter in the study."""
        return self.key.lstrip("+")

    def suggest(self, trial: Trial) -> Any:
        """The value of ``trial``, drawn if it has none yet."""
        its = self.distribution
        if isinstance(its, FloatDistribution):
            return trial.suggest_float(self.name, its.low, its.high, step=its.step, log=its.log)
        if isinstance(its, IntDistribution):
            return trial.suggest_int(self.name, its.low, its.high, step=its.step, log=its.log)
        assert isinstance(its, CategoricalDistribution)
        return trial.suggest_categorical(self.name, its.choices)

    def override(self, value: Any) -> str:
        """The override that sets exactly ``value``."""
        if isinstance(self.distribution, CategoricalDistribution):
            return f"{self.key}={self.texts[self.distribution.choices.index(value)]}"
        return f"{self.key}={value!r}"

    def corners(self) -> tuple[Any, ...]:
        """Values that stand for all: every choice, or both ends of a range."""
        its = self.distribution
        if isinstance(its, FloatDistribution | IntDistribution):
            return (its.low, its.high)
        assert isinstance(its, CategoricalDistribution)
        return its.choices

    def is_range(self) -> bool:
        return not isinstance(self.distribution, CategoricalDistribution)


def read_space(overrides: Sequence[Override]) -> tuple[list[Dimension], list[str]]:
    """(what varies, overrides that are the same for every trial).

    Raises ``ConfigError`` with everything that does not fit.
    """
    dimensions, fixed, problems = dict[str, Dimension](), dict[str, str](), list[Problem]()
    for override in overrides:  # a later one replaces an earlier one, as in a grid
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
        fix = "for example 'optimizer.lr=tag(log, interval(1e-4,1e-2))' adapter.r=4,16,64"
        problems.append(
            Problem(
                "hydra/sweeper",
                "a search",
                "no setting spans a range or several values: there is nothing to search",
                fix,
            )
        )
    if problems:
        raise ConfigError(problems, prefix="search: ")
    return list(dimensions.values()), list(fixed.values())


def _dimension(key: str, override: Override) -> Dimension:
    """Raises ``ValueError(why, fix)``."""
    value: Any = override.value()
    for tag in sorted(getattr(value, "tags", ())):
        if tag != _LOG:
            raise ValueError(
                f"the tag {tag!r} means nothing here",
                "the only tag is log, of a range: tag(log, interval(1e-4,1e-2))",
            )
    log = bool(getattr(value, "tags", ()))
    if isinstance(value, ChoiceSweep):
        if log:
            raise ValueError(
                "choices have no scale that could be logarithmic",
                "leave the tag away, or search an interval",
            )
        return _category(key, value.list)
    if isinstance(value, IntervalSweep):
        low, high = value.start, value.end
        assert low is not None and high is not None
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("its ends must be finite numbers", "for example interval(1e-4,1e-2)")
        _check_ends(low, high, log)
        if isinstance(low, int) and isinstance(high, int):
            return Dimension(key, IntDistribution(low, high, log=log))
        return Dimension(key, FloatDistribution(float(low), float(high), log=log))
    if isinstance(value, RangeSweep):
        return Dimension(key, _range(value, log))
    fix = "name the values: " + key + "=a,b,c"
    raise ValueError(
        "a glob matches whatever lies in the folder today, and a search must stay the same when it"
        " is continued",
        fix,
    )


def _check_ends(low: float, high: float, log: bool) -> None:
    if low > high:
        raise ValueError(
            "the range is empty: it ends before it begins", f"swap its ends: {high:g},{low:g}"
        )
    if log and low <= 0:
        raise ValueError(
            "a logarithmic range must begin above 0",
            "raise its lower end, for example to 1e-5, or leave the tag away",
        )


def _range(value: RangeSweep, log: bool) -> BaseDistribution:
    start, stop, step = (Decimal(str(number)) for number in (value.start, value.stop, value.step))
    if not all(number.is_finite() for number in (start, stop, step)):
        raise ValueError("its ends and its step must be finite numbers", "for example range(1,5)")
    count = math.ceil((stop - start) / step) if step else 0
    if count <= 0:
        raise ValueError(
            "the range is empty (its end is not part of it)",
            "for example range(1,5) or range(8,65,8)",
        )
    low, high = sorted((start, start + (count - 1) * step))
    _check_ends(float(low), float(high), log)
    whole = all(isinstance(number, int) for number in (value.start, value.stop, value.step))
    if log and not (whole and abs(step) == 1):
        raise ValueError(
            "a logarithmic range has no step",
            "use tag(log, int(interval(a,b))) or tag(log, interval(a,b))",
        )
    if whole:
        return IntDistribution(int(low), int(high), log=log, step=int(abs(step)))
    return FloatDistribution(float(low), float(high), step=float(abs(step)))


def _category(key: str, elements: Sequence[Any]) -> Dimension:
    """Scalars are kept as what they are.

    Lists and mappings, which a study cannot hold, are kept as they are written.
    """
    texts = [str(Override._get_value_element_as_str(element)) for element in elements]
    twice = next((text for text in texts if texts.count(text) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice} is there twice", "name every choice once")
    values = list(_scalars(elements, texts))
    # 1 == True == 1.0
    if any(a == b for i, a in enumerate(values) for b in values[:i]) or any(
        value != value for value in values
    ):
        values = list(texts)
    return Dimension(key, CategoricalDistribution(values), tuple(texts))


def _scalars(elements: Sequence[Any], texts: Sequence[str]) -> Iterator[Any]:
    for element, text in zip(elements, texts, strict=True):
        plain = element.text if isinstance(element, QuotedString) else element
        yield plain if plain is None or isinstance(plain, bool | int | float | str) else text
