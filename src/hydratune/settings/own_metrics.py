"""What the metrics of packages, and of Python code, declare: which values are better, and the unit.

They are attributes of the function that scores an answer: ``direction``, ``higher`` or ``lower``,
and ``unit``, ``rate`` (a share of 1, shown in per cent) or ``number``. Both may be missing. The
table of metrics (``hydratune.metric_table``) finds them here, without knowing packages itself.
"""

from collections.abc import Iterator

from hydratune import metric_table
from hydratune.errors import ConfigError, Problem
from hydratune.metric_table import Direction, Metric, Unit
from hydratune.settings import packages

_DIRECTIONS = {one.value: one for one in (Direction.higher, Direction.lower)}
_UNITS = {one.value: one for one in (Unit.rate, Unit.number)}
_KEY = "evaluation.metrics"


def own_metric(name: str) -> Metric | None:
    """Return the row of a metric that a package or Python code brings, as it declares it.

    None for any other name, for a metric that declares nothing, and for one whose package cannot
    be imported or whose declaration is wrong, which the check of the settings reports.
    """
    if not packages.has("metric", name):
        return None
    try:
        function = packages.load("metric", name, _KEY)
    except ConfigError:
        return None
    direction, unit = declaration(function)
    if (direction, unit) == (None, None) or any(problems(name, function, _KEY)):
        return None
    default = Direction.lower if metric_table.is_lower_by_name(name) else Direction.neither
    return Metric(
        name,
        name.replace("_", " "),
        Unit.number if unit is None else _UNITS[str(unit)],
        default if direction is None else _DIRECTIONS[str(direction)],
        (name,),
    )


def problems_of(name: str, key: str) -> Iterator[Problem]:
    """Load a metric; yield why that is impossible, or what is wrong with its declaration."""
    try:
        function = packages.load("metric", name, key)
    except ConfigError as error:
        yield from error.problems
    else:
        yield from problems(name, function, key)


def declaration(function: object) -> tuple[object, object]:
    """Return the direction and the unit that the function of a metric declares."""
    return getattr(function, "direction", None), getattr(function, "unit", None)


def problems(name: str, function: object, key: str) -> Iterator[Problem]:
    """Yield what is wrong with the declaration of a metric; ``key``: the setting that names it."""
    possible = (("direction", list(_DIRECTIONS)), ("unit", list(_UNITS)))
    for (attribute, values), value in zip(possible, declaration(function), strict=True):
        if value is not None and (not isinstance(value, str) or value not in values):
            why = f"its {attribute} is {value!r}"
            fix = f"its function may declare {' or '.join(values)}, or nothing"
            yield Problem(key, name, why, fix)


metric_table.set_own_metrics(own_metric)
