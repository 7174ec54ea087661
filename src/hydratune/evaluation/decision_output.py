"""decision.json and the table of ``hydratune decide`` on the terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from rich.markup import escape
from rich.table import Table

from hydratune.console import console
from hydratune.evaluation import metrics
from hydratune.evaluation.assess import TestSet
from hydratune.evaluation.decision import TITLES, Decision
from hydratune.evaluation.measures import Measure, count_cut, groups_of
from hydratune.metric_format import heading, with_interval, written
from hydratune.records.predictions import Prediction
from hydratune.settings.commands import DecideConfig
from hydratune.settings.evaluation import EvaluationConfig
from hydratune.wording import counted

_CALLS = 1000  # that a cost is for


@dataclass(frozen=True)
class DecisionResult:
    """What was measured of every system, and what follows. Mappings are by system."""

    metric: str
    measures: Mapping[str, Mapping[str, Measure]]
    predictions: Mapping[str, Sequence[Prediction]]
    costs: Mapping[str, Mapping[str, float]]
    decision: Decision
    constrained: Sequence[str]  # sentences on what holding answers to the schema changes


def cost_of_calls(rows: Sequence[Prediction], seconds: float) -> dict[str, float]:
    """Return tokens and seconds of 1,000 calls, as they were made here.

    That is in batches, in which what all prompts begin with is read once.
    """
    scale = _CALLS / len(rows)
    return {
        "tokens_in": round(sum(row["prompt_tokens"] for row in rows) * scale),
        "tokens_out": round(sum(row["generated_tokens"] for row in rows) * scale),
        "seconds": round(seconds * scale, 1),
    }


def decision_content(
    result: DecisionResult, config: DecideConfig, evaluation: EvaluationConfig, test_set: TestSet
) -> dict[str, object]:
    """Return the content of decision.json."""
    measured_with = metrics.settings(
        evaluation, test_set.task, test_set.max_new_tokens, result.predictions["base"]
    )
    decision = result.decision
    return {
        "choice": decision.choice,
        "headline": decision.headline,
        "reasons": list(decision.reasons),
        "constrained": list(result.constrained),
        "metric": result.metric,
        "margin": config.margin,
        "comparisons": [asdict(comparison) for comparison in decision.comparisons],
        "systems": {
            system: _system_content(system, rows, result.costs[system], evaluation, test_set)
            for system, rows in result.predictions.items()
        },
        "settings": {
            **measured_with,
            "run": config.run,
            "knowledge": config.knowledge,
            "passages": config.passages,
            "shots": evaluation.shots,
        },
    }


def _system_content(
    system: str,
    rows: Sequence[Prediction],
    cost: Mapping[str, float],
    evaluation: EvaluationConfig,
    test_set: TestSet,
) -> dict[str, object]:
    has_schema, families = test_set.schema is not None, test_set.families
    measured = metrics.metrics(rows, evaluation, has_schema=has_schema, families=families)
    values, intervals = metrics.flat(system, measured)
    return {"metrics": values, "intervals": intervals, "per_1000_calls": cost}


def print_decision(result: DecisionResult, evaluation: EvaluationConfig) -> None:
    """Print the table and what follows from it."""
    console.print(_table(result, evaluation))
    console.print(f"[bold]{escape(result.decision.headline)}", soft_wrap=True)
    for reason in result.decision.reasons:
        console.print(f"  {escape(reason)}", soft_wrap=True)
    for line in result.constrained:
        console.print(f"  [dim]{escape(line)}", soft_wrap=True)


def _table(result: DecisionResult, evaluation: EvaluationConfig) -> Table:
    base = result.measures["base"]
    others = [n for n in ("schema_valid", "exact_match") if n in base and n != result.metric]
    percent = round(100 * evaluation.confidence)
    title = (
        f"the same {counted(len(result.predictions['base']), 'test row')}, {percent} %"
        " intervals; cost of"
        " 1,000 calls here"
    )
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    table.add_column("system", no_wrap=True)
    names = [heading(f"eval/{name}") for name in (result.metric, *others)]
    for column in (*names, "cut", "tokens in", "tokens out", "seconds"):
        table.add_column(column, justify="right")
    for system, measures in result.measures.items():
        rows, cost = result.predictions[system], result.costs[system]
        table.add_row(
            TITLES[system],
            _cell(result.metric, measures[result.metric], rows, evaluation),
            *(written(f"eval/{name}", measures[name].value) for name in others),
            str(count_cut(rows)),
            f"{cost['tokens_in']:,}",
            f"{cost['tokens_out']:,}",
            f"{cost['seconds']:,.0f}",
        )
    return table


def _cell(
    metric: str, measure: Measure, rows: Sequence[Prediction], evaluation: EvaluationConfig
) -> str:
    edges = measure.interval(groups_of(rows), evaluation.confidence, evaluation.bootstrap_samples)
    text = with_interval(f"eval/{metric}", measure.value, edges)
    value, bracket, interval = text.partition(" [")
    return f"{value} [dim]\\[{interval}[/]" if bracket else value
