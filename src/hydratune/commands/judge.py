"""hydratune judge: a model scores the answers of a run, or compares them with those of another."""

from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape

from hydratune.console import console, section
from hydratune.errors import RunError
from hydratune.evaluation.judge import summary
from hydratune.evaluation.judge.client import Budget
from hydratune.evaluation.judge.clients import make_client
from hydratune.evaluation.judge.inputs import (
    label_key,
    read_answers,
    read_labels,
    read_other_answers,
)
from hydratune.evaluation.judge.judging import judge_answers
from hydratune.evaluation.judge.report import render
from hydratune.evaluation.judge.summary import JudgedRow, Summary
from hydratune.evaluation.judge.terminal import print_result
from hydratune.evaluation.measures import count_cut
from hydratune.experiment.finished_run import load_settings
from hydratune.records.files import write_json, write_jsonl, write_text
from hydratune.records.headline import headline_of
from hydratune.records.predictions import Prediction
from hydratune.records.run_directory import RunDirectory, require_writable
from hydratune.settings.commands import JudgeConfig


def run(config: JudgeConfig, _: RunDirectory) -> None:
    """Judge a run and write judge.json, judgements.jsonl and report.html into ``output``.

    Raises ``RunError`` if no row was judged.
    """
    record = RunDirectory(Path(config.run).resolve())
    output = Path(config.output) if config.output else record.path / "judge"
    require_writable(output, "choose another place with output=DIR")
    ours = read_answers(record, config.system, "run", config.rows)
    others = read_other_answers(record, config, ours)
    labels = read_labels(config)
    budget = Budget(config)
    client = make_client(config, lambda: load_settings(record).model, budget)
    section("judge")
    judgements, numbers = judge_answers(config, client, ours, others)
    content: Summary = {
        "judge": client.identity,
        "system": config.system,
        "against": config.against,
        **numbers,
        "why": next((row["why"] for row in judgements if row["why"]), ""),
    }
    if labels:
        key, categories = label_key(config)
        labelled = [row for row in judgements if row["id"] in labels and row[key] is not None]
        pairs = [(labels[row["id"]], row[key]) for row in labelled]
        content["agreement"] = summary.agreement(pairs, categories)
    content |= _conditions(config, budget, judgements, ours, others)
    write_jsonl(output / "judgements.jsonl", judgements)
    write_json(output / "judge.json", content)
    page = render(record.path.name, content, judgements, ours, others or [], headline_of(record))
    write_text(output / "report.html", page)
    print_result(content, config.confidence)
    console.print(
        f"report      {escape(str(output))}/report.html  [dim](and judge.json, judgements.jsonl)",
        soft_wrap=True,
    )
    if not content["judged"]:
        why = content["why"] or "no rows"
        raise RunError(f"none of {content['rows']} rows was judged: {why}; they have no score")


def _conditions(
    config: JudgeConfig,
    budget: Budget,
    judgements: Sequence[JudgedRow],
    ours: Sequence[Prediction],
    others: Sequence[Prediction] | None,
) -> Summary:
    """Return what judge.json says about the cost, the answers and the settings."""
    return {
        "cost": {
            "tokens_in": budget.tokens_in,
            "tokens_out": budget.tokens_out,
            "money": round(budget.spent, 6),
        },
        "cut": {
            "ours": count_cut(ours),
            "theirs": None if others is None else count_cut(others),
        },
        "from_cache": sum(row["from_cache"] for row in judgements),
        "settings": {
            "rubric": dict(config.rubric),
            "criteria": config.criteria,
            "references": config.references,
        },
    }
