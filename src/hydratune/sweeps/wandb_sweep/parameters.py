"""The parameters of a W&B sweep: which values they can take, and the settings that they are.

A parameter is named by the setting (``optimizer.lr``), or nested (``optimizer: {parameters: {lr:
...}}``); that of a config group chooses its option (``adapter: {values: [lora, dora]}``). Values
that stand for all are checked before anything runs. The rules are those of W&B's sweep server:
https://docs.wandb.ai/models/sweeps/sweep-config-keys
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from hydratune.errors import Problem
from hydratune.records.files import Json
from hydratune.settings.overrides import value_text

_LOG = ("log_uniform", "q_log_uniform", "inv_log_uniform")  # their ends are exponents of e
_NORMAL = ("normal", "q_normal", "log_normal", "q_log_normal")
_INTEGER = ("int_uniform", "q_uniform", "q_log_uniform", "q_log_uniform_values", "q_normal")
_VALUES_FIX = "give value: X, values: [...], or min: and max:"


@dataclass(frozen=True)
class Parameter:
    """One parameter of a W&B sweep."""

    key: str  # of the setting
    path: tuple[str, ...]  # where its value is in what the server hands out
    samples: tuple[Json, ...]  # every choice, or both ends of a range
    is_countable: bool  # whether a grid can have it
    is_constant: bool = False  # it has one value

    def value_in(self, handed_out: Mapping[str, Json]) -> Json:
        """Return its value. Raises ``KeyError`` if it has none."""
        value: Json = handed_out
        for part in self.path:
            if not isinstance(value, Mapping):
                raise KeyError(self.key)
            value = value[part]
        return value


def read_parameters(
    content: object, problems: list[Problem], path: tuple[str, ...] = ()
) -> list[Parameter]:
    """Return the parameters in ``content``; what is wrong is appended to ``problems``."""
    if not isinstance(content, Mapping) or not content:
        name = ".".join(("parameters", *path))
        fix = "for example parameters: {optimizer.lr: {values: [0.0003, 0.001]}}"
        problems.append(Problem(name, content, "the sweep has no parameters: nothing varies", fix))
        return []
    parameters: list[Parameter] = []
    for name, spec in content.items():
        inner = (*path, str(name))
        if isinstance(spec, Mapping) and "parameters" in spec:
            parameters += read_parameters(spec["parameters"], problems, inner)
            continue
        try:
            samples = _samples(spec)
        except ValueError as error:
            key = ".".join(("parameters", *inner))
            problems.append(Problem(key, spec, str(error), _VALUES_FIX))
            continue
        has_choices = "value" in spec or "values" in spec
        is_constant = has_choices and len(set(map(repr, samples))) == 1
        key = ".".join(inner)
        parameters.append(Parameter(key, inner, samples, _is_countable(spec), is_constant))
    return parameters


def _samples(spec: object) -> tuple[Json, ...]:
    """Return values that stand for all of a parameter. Raises ``ValueError``."""
    if not isinstance(spec, Mapping):
        raise ValueError("a parameter says which values it can take")
    if "value" in spec:
        return (spec["value"],)
    if "values" in spec:
        values = spec["values"]
        if not isinstance(values, list) or not values:
            raise ValueError("its list of values is empty")
        return tuple(values)
    distribution = spec.get("distribution")
    if distribution in _NORMAL:
        mean = float(spec.get("mu", 0))
        mean = math.exp(mean) if "log" in str(distribution) else mean
        return (_rounded(mean, spec, distribution),)
    if distribution in ("beta", "q_beta"):
        return (0.0, 1.0)
    return _ends(spec, distribution)


def _ends(spec: Mapping[str, Json], distribution: object) -> tuple[Json, ...]:
    """Return both ends of a range. Raises ``ValueError``."""
    low, high = spec.get("min"), spec.get("max")
    numbers = [end for end in (low, high) if isinstance(end, int | float)]
    if len(numbers) < 2 or isinstance(low, bool) or isinstance(high, bool):
        texts = [repr(end) for end in (low, high) if isinstance(end, str)]
        # YAML 1.1, which W&B reads, needs a dot and a sign in 1.0e-4
        if texts:
            raise ValueError(f"YAML reads {texts[0]} as a text; write 0.0001 or 1.0e-4")
        raise ValueError("it has no values")
    low, high = numbers
    if low > high:
        raise ValueError("the range is empty: its min is above its max")
    if distribution is None and isinstance(low, int) != isinstance(high, int):
        raise ValueError("one end is a whole number and the other is not")
    if distribution in _LOG:
        low, high = math.exp(low), math.exp(high)
    elif "log" in str(distribution or "") and low <= 0:
        raise ValueError("a logarithmic range must begin above 0")
    elif distribution == "uniform":
        low, high = float(low), float(high)
    return (_rounded(low, spec, distribution), _rounded(high, spec, distribution))


def _rounded(value: float, spec: Mapping[str, Json], distribution: object) -> float:
    """Return ``value`` as a whole number where the server hands out whole numbers."""
    is_whole = distribution in _INTEGER and isinstance(spec.get("q", 1), int)
    return round(value) if is_whole else value


def _is_countable(spec: Mapping[str, Json]) -> bool:
    if "value" in spec or "values" in spec:
        return True
    distribution = spec.get("distribution")
    are_integers = isinstance(spec.get("min"), int) and isinstance(spec.get("max"), int)
    return str(distribution).startswith("q_") or (
        are_integers and distribution in (None, "int_uniform")
    )


def overrides_of(
    parameters: list[Parameter], handed_out: Mapping[str, Json]
) -> Iterator[tuple[str, str]]:
    """Yield (setting, value as in an override) of a trial.

    What the sweep's definition does not have, because the trial was queued by hand, comes last.
    """
    for parameter in parameters:
        try:
            value = parameter.value_in(handed_out)
        except KeyError:
            continue
        yield parameter.key, value_text(parameter.key, value)
    known = {parameter.path[0] for parameter in parameters}
    for key, value in handed_out.items():
        if key not in known:
            yield key, value_text(key, value)
