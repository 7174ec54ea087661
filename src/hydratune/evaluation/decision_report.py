"""report.html of a decision."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydratune.evaluation.decision import TITLES, Decision
from hydratune.evaluation.measures import Measure, count_cut, groups_of, user_text
from hydratune.evaluation.pages import bar, page
from hydratune.settings.evaluation import EvaluationConfig

_SHOWN = 10  # rows whose answers are on the page


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
    intervals = {
        s: some[metric].interval(groups, config.confidence, config.bootstrap_samples)
        for s, some in measured.items()
    }
    largest = max(
        [*values.values(), *(edges[1] for edges in intervals.values() if edges is not None)]
    )
    winner = {"tune": "tuned", "tune_and_retrieve": "tuned_rag", "retrieve": "rag"}.get(
        decided.choice
    )
    systems = [
        {
            "title": TITLES[system],
            "value": f"{value:.3f}",
            "interval": "one group of rows: none"
            if (edges := intervals[system]) is None
            else f"{edges[0]:.3f} to {edges[1]:.3f}",
            "bar": bar(value, intervals[system], largest, best=system == winner),
            "cost": costs[system],
            "cut": count_cut(predictions[system]),
        }
        for system, value in values.items()
    ]
    base = next(iter(predictions.values()))
    shown = [
        {
            "id": row["id"],
            "request": user_text(row),
            "reference": row["reference"],
            "answers": [
                (TITLES[system], rows[number]["prediction"]) for system, rows in predictions.items()
            ],
        }
        for number, row in enumerate(base[:_SHOWN])
    ]
    return page(
        "decision.html.j2",
        name=name,
        metric=metric,
        rows=len(base),
        decided=decided,
        systems=systems,
        shown=shown,
        held=held,
    )
