"""What a search optimises: metrics of metrics.json, each with a direction."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hydratune.errors import ConfigError, Problem
from hydratune.metric_table import ANSWER_METRICS, RUN_METRICS
from hydratune.settings import packages

# names of metrics.json that a trial can be judged by, and what such names begin with
_METRICS = (
    *("val/loss", "train/loss", "objective"),
    *(row.name for row in RUN_METRICS if row.name.startswith("cost/")),
    *(f"eval/{row.name}" for row in ANSWER_METRICS if not row.name.endswith("/*")),
)
_METRIC_FAMILIES = (
    *(f"eval/{row.name[:-1]}" for row in ANSWER_METRICS if row.name.endswith("/*")),
    *("forgetting/", "memorisation/", "fit/"),
)
_VALIDATION_LOSS = ("val/loss", "objective")  # two names of one number, which ranks every sweep
_KEY = "hydra.sweeper.objectives"


@dataclass(frozen=True)
class SearchObjective:
    """A metric to minimise or maximise."""

    metric: str
    direction: str  # min or max

    def __str__(self) -> str:
        return f"{self.metric}:{self.direction}"

    @property
    def is_validation_loss(self) -> bool:
        return self.metric in _VALIDATION_LOSS


def read_objectives(value: object) -> list[SearchObjective]:
    """Return the objectives in ``METRIC:min``, in a list of such texts, or in a mapping from METRIC
    to min or max.

    Raises ``ConfigError``.
    """
    pairs = _pairs(value)
    problems = [problem for pair in pairs if (problem := _problem(*pair)) is not None]
    if not pairs or len({metric for metric, _ in pairs}) < len(pairs):
        why = "the same metric is listed twice" if pairs else "there is nothing to search for"
        problems.append(Problem(_KEY, value, why, "for example [val/loss:min,eval/field_f1:max]"))
    if problems:
        raise ConfigError(problems, prefix="search: ")
    return [SearchObjective(metric, direction) for metric, direction in pairs]


def _pairs(value: object) -> list[tuple[str, str]]:
    """Return (metric, direction) for every objective; a direction that is missing is ""."""
    if isinstance(value, Mapping) and value:
        return [(str(metric), str(direction)) for metric, direction in value.items()]
    texts = [value] if isinstance(value, str) else value if isinstance(value, Iterable) else []
    pairs = []
    for text in texts:
        metric, _, direction = str(text).rpartition(":")
        pairs.append((metric, direction) if metric else (str(text), ""))
    return pairs


def _problem(metric: str, direction: str) -> Problem | None:
    if not _is_metric(metric):
        families = "".join(f", {family}NAME" for family in _METRIC_FAMILIES)
        fix = f"one of: {', '.join(_METRICS)}{families}"
        return Problem(_KEY, metric, "no run has such a metric", fix)
    if direction not in ("min", "max"):
        fix = f"{_KEY}={metric}:min or {metric}:max"
        return Problem(_KEY, metric, "its direction must be min or max", fix)
    return None


def _is_metric(name: str) -> bool:
    """Return whether a run can have such a metric, of this package or of an installed one."""
    if name in _METRICS or name.startswith(_METRIC_FAMILIES):
        return True
    return name in {f"eval/{metric}" for metric in packages.names("metric")}
