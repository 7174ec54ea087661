"""report.html of a decision: one page without scripts or links; the template's autoescape makes HTML of texts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hydratune.config import EvaluationConfig
from hydratune.evaluation.decision import TITLES, Decision
from hydratune.evaluation.measures import Measure, groups_of

_SHOWN = 10  # rows whose answers are on the page
_WIDTH = 180  # of a bar, in pixels


def render(
    name: str,
    metric: str,
    decided: Decision,
    measured: Mapping[str, Mapping[str, Measure]],
    predictions: Mapping[str, Sequence[Mapping[str, Any]]],
    costs: Mapping[str, Mapping[str, float]],
    config: EvaluationConfig,
    held: Sequence[str] = (),
) -> str:
    """The page."""
    groups = groups_of(next(iter(predictions.values())))
    values = {s: some[metric].value for s, some in measured.items()}
    intervals = {s: some[metric].interval(groups, config.confidence, config.bootstrap_samples) for s, some in measured.items()}
    scale = _WIDTH / max(1e-9, *values.values(), *(high for _, high in intervals.values()))
    winner = {"tune": "tuned", "tune_and_retrieve": "tuned_rag", "retrieve": "rag"}.get(decided.choice)
    systems = [
        {
            "title": TITLES[system],
            "value": f"{value:.3f}",
            "low": f"{intervals[system][0]:.3f}",
            "high": f"{intervals[system][1]:.3f}",
            "width": round(scale * value, 1),
            "low_x": round(scale * intervals[system][0], 1),
            "high_x": round(scale * intervals[system][1], 1),
            "best": system == winner,
            "cost": costs[system],
        }
        for system, value in values.items()
    ]
    base = next(iter(predictions.values()))
    shown = [
        {
            "id": row["id"],
            "request": "\n\n".join(str(turn.get("content") or "") for turn in row["prompt"] if turn["role"] == "user"),
            "reference": row["reference"],
            "answers": [(TITLES[system], rows[number]["prediction"]) for system, rows in predictions.items()],
        }
        for number, row in enumerate(base[:_SHOWN])
    ]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.get_template("decision.html.j2")
    return template.render(name=name, metric=metric, rows=len(base), decided=decided, systems=systems, shown=shown, held=held)
