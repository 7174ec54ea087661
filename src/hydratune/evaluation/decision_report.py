"""The page report.html of a decision."""

from collections.abc import Mapping, Sequence

from hydratune.evaluation.answer_differences import compare_answers
from hydratune.evaluation.decision import TITLES, Decision, Measures, Predictions
from hydratune.evaluation.measures import count_cut, groups_of, user_text
from hydratune.evaluation.pages import bar, page
from hydratune.evaluation.statistics import Interval
from hydratune.metric_format import heading, written
from hydratune.settings.evaluation import EvaluationConfig

_SHOWN = 10  # rows whose answers are on the page
_LONGEST = 3000  # characters of a text
_WINNERS = {"tune": "tuned", "tune_and_retrieve": "tuned_rag", "retrieve": "rag"}


def render(
    name: str,
    metric: str,
    decided: Decision,
    measured: Measures,
    predictions: Predictions,
    costs: Mapping[str, Mapping[str, float]],
    config: EvaluationConfig,
    held: Sequence[str] = (),
    subject: str = "",
) -> str:
    """Return the page.

    ``held`` are sentences on answers that were held to a schema; ``subject`` is the headline of the
    run, or the base model and its data.
    """
    rows = next(iter(predictions.values()))
    groups = groups_of(rows)
    values = {s: some[metric].value for s, some in measured.items()}
    intervals = {
        s: some[metric].interval(groups, config.confidence, config.bootstrap_samples)
        for s, some in measured.items()
    }
    edges = [interval[1] for interval in intervals.values() if interval is not None]
    largest = max([*values.values(), *edges])
    winner = _WINNERS.get(decided.choice)
    systems = [
        {
            "title": TITLES[system],
            "value": written(f"eval/{metric}", value),
            "interval": _interval_text(metric, intervals[system]),
            "best": system == winner,
            "bar": bar(value, intervals[system], largest, best=system == winner),
            "cost": costs[system],
            "cut": count_cut(predictions[system]),
        }
        for system, value in values.items()
    ]
    return page(
        "decision.html.j2",
        name=name,
        subject=subject,
        look="warn" if decided.choice == "undecided" else "fit",
        metric=heading(f"eval/{metric}"),
        rows=len(rows),
        decided=decided,
        systems=systems,
        shown=[_answers(predictions, number) for number in range(min(_SHOWN, len(rows)))],
        held=held,
    )


def _interval_text(metric: str, interval: Interval | None) -> str:
    if interval is None:
        return "one group of rows: none"
    low, high = (written(f"eval/{metric}", edge) for edge in interval)
    return f"{low} to {high}"


def _answers(predictions: Predictions, number: int) -> dict[str, object]:
    """Return one test row with the answer of every system."""
    row = next(iter(predictions.values()))[number]
    return {
        "id": row["id"],
        "request": user_text(row),
        "reference": row["reference"],
        "compared": compare_answers(
            str(row["reference"]),
            {TITLES[s]: str(rows[number]["prediction"]) for s, rows in predictions.items()},
            _LONGEST,
        ),
    }
