"""hydratune judge: a model reads the answers of a run, alone by a rubric or beside those of
another.
"""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from hydratune.commands.evaluate import settings_of
from hydratune.console import console, section
from hydratune.data.rows import stable_hash
from hydratune.errors import ConfigError, InputError, Problem, RunError
from hydratune.evaluation.judge import questions, summary
from hydratune.evaluation.judge.asking import Judged, Kept, ask
from hydratune.evaluation.judge.clients import Client, Purse, client_for
from hydratune.evaluation.judge.report import cut_lines, render
from hydratune.evaluation.measures import cut_of, request_of
from hydratune.records.files import read_jsonl, write_json, write_jsonl, write_text
from hydratune.records.run_directory import RunDirectory
from hydratune.settings.commands import JudgeConfig

_SYSTEMS = ("eval", "base", "fewshot")
Rows = list[dict[str, Any]]


def run(config: JudgeConfig, _: RunDirectory) -> None:
    """Writes judge.json and judgements.jsonl into ``output``.

    Raises ``RunError`` if nothing was judged.
    """
    record = RunDirectory(Path(config.run).resolve())
    ours = _predictions(record, config.system, "run", config.rows)
    theirs = _matching(ours, _against(record, config)) if config.against else None
    labels = _labels(Path(config.labels).expanduser(), theirs is not None) if config.labels else {}
    purse = Purse(config)
    client = client_for(config, lambda: settings_of(record).model, purse)
    output = Path(config.output).expanduser() if config.output else record.path / "judge"
    section("judge")
    content: dict[str, Any] = {
        "judge": client.identity,
        "system": config.system,
        "against": config.against,
    }
    kept = Kept(client.identity, config.max_tokens)
    judgements, told = (
        _pairs(config, client, kept, ours, theirs)
        if theirs is not None
        else _scores(config, client, kept, ours)
    )
    content |= told
    content["why"] = next((row["why"] for row in judgements if row["why"]), "")
    if labels:
        key, categories = (
            ("winner", summary.OUTCOMES) if theirs is not None else ("score", questions.SCORES)
        )
        both = [
            (labels[row["id"]], row[key])
            for row in judgements
            if row["id"] in labels and row[key] is not None
        ]
        content["agreement"] = summary.agreement(both, categories)
    content["cost"] = {
        "tokens_in": purse.tokens_in,
        "tokens_out": purse.tokens_out,
        "money": round(purse.spent, 6),
    }
    content["cut"] = {
        "ours": cut_of(ours),
        "theirs": cut_of(theirs) if theirs is not None else None,
    }
    content["from_cache"] = sum(row["from_cache"] for row in judgements)
    content["settings"] = {
        "rubric": dict(config.rubric),
        "criteria": config.criteria,
        "references": config.references,
    }
    write_jsonl(output / "judgements.jsonl", judgements)
    write_json(output / "judge.json", content)
    write_text(
        output / "report.html", render(record.path.name, content, judgements, ours, theirs or [])
    )
    _show(content, config)
    console.print(
        f"report      {escape(str(output))}/report.html  [dim](and judge.json, judgements.jsonl)",
        soft_wrap=True,
    )
    if not content["judged"]:
        why = content["why"] or "no rows"
        raise RunError(
            f"none of {content['rows']} rows was judged: {why}; no score was made up for them"
        )


def _predictions(record: RunDirectory, system: str, key: str, most: int | None) -> Rows:
    file = record.predictions_file(system)
    if not file.is_file():
        there = [name for name in _SYSTEMS if record.predictions_file(name).is_file()]
        why = (
            f"no {file.name} in {record.path}; systems with answers there:"
            f" {', '.join(there) or 'none'}"
        )
        raise ConfigError([Problem(key, system, why, "name a finished run and one of its systems")])
    rows = read_jsonl(file)
    for number, row in enumerate(rows, 1):
        missing = [name for name in ("id", "prompt", "prediction", "reference") if name not in row]
        if missing:
            raise RunError(
                f"{file}:{number}: no {', '.join(missing)} in this row; the file was changed"
            )
    # whoever is chosen does not depend on the order of the file
    return sorted(rows, key=lambda row: stable_hash(str(row["id"])))[:most]


def _against(record: RunDirectory, config: JudgeConfig) -> Rows:
    assert config.against is not None
    if config.against in _SYSTEMS:
        return _predictions(record, config.against, "against", None)
    other = Path(config.against).expanduser()
    if not other.is_dir():
        fix = f"give a run directory, or a system of the same run: {', '.join(_SYSTEMS)}"
        raise ConfigError(
            [Problem("against", config.against, "neither a folder nor a system", fix)]
        )
    return _predictions(RunDirectory(other.resolve()), config.system, "against", None)


def _matching(ours: Rows, theirs: Rows) -> Rows:
    """Their answers to the very same rows. Raises ``ConfigError``."""
    there = {row["id"]: row for row in theirs}
    wrong = [
        row["id"]
        for row in ours
        if row["id"] not in there or request_of(there[row["id"]]) != request_of(row)
    ]
    if wrong:
        why = (
            f"{len(wrong)} of {len(ours)} rows have no answer there to the same request, the first:"
            f" {wrong[0]}"
        )
        raise ConfigError([Problem("against", "...", why, "compare runs with the same test rows")])
    return [there[row["id"]] for row in ours]


def _labels(file: Path, pairs: bool) -> dict[str, Any]:
    """id -> what people said. Raises ``InputError``."""
    if not file.is_file():
        raise ConfigError([Problem("labels", file, "no such file", "give a JSONL file")])
    key, allowed = ("winner", summary.OUTCOMES) if pairs else ("score", questions.SCORES)
    found: dict[str, Any] = {}
    for number, row in enumerate(read_jsonl(file), 1):
        value = row.get(key) if isinstance(row, dict) else None
        if value not in allowed or isinstance(value, bool) or "id" not in row:
            raise InputError(
                f'{file}:{number}: a label is {{"id": ..., "{key}": one of'
                f" {', '.join(map(str, allowed))}}}"
            )
        found[row["id"]] = value
    return found


def _request(row: Mapping[str, Any]) -> str:
    turns = request_of(row)
    return (
        "\n\n".join(f"{turn.get('role')}: {turn.get('content') or ''}" for turn in turns)
        if len(turns) > 1
        else turns[0]["content"]
    )


def _references(config: JudgeConfig, row: Mapping[str, Any]) -> list[str]:
    return [row["reference"], *row.get("references", [])] if config.references else []


def _scores(
    config: JudgeConfig, client: Client, kept: Kept, rows: Rows
) -> tuple[Rows, dict[str, Any]]:
    asked = [
        questions.score(config.rubric, _request(row), row["prediction"], _references(config, row))
        for row in rows
    ]
    found = ask(client, asked, kept, config.attempts)
    judgements = [
        {
            **_row(row, [one]),
            "score": one.opinion.value if one.opinion else None,
            "feedback": one.opinion.feedback if one.opinion else None,
            "length": len(row["prediction"]),
        }
        for row, one in zip(rows, found, strict=True)
    ]
    return judgements, {
        "kind": "score",
        **summary.absolute(judgements, config.confidence, config.bootstrap_samples),
    }


def _pairs(
    config: JudgeConfig, client: Client, kept: Kept, rows: Rows, others: Rows
) -> tuple[Rows, dict[str, Any]]:
    """Both orders of every pair, the questions in an order drawn by the seed."""
    asked = []
    for row, other in zip(rows, others, strict=True):
        request, references = _request(row), _references(config, row)
        for first, second in ((row, other), (other, row)):
            asked.append(
                questions.pair(
                    config.criteria, request, first["prediction"], second["prediction"], references
                )
            )
    order = list(range(len(asked)))
    random.Random(config.seed).shuffle(order)
    answers = ask(client, [asked[number] for number in order], kept, config.attempts)
    found = dict(zip(order, answers, strict=True))
    judgements = []
    for number, (row, other) in enumerate(zip(rows, others, strict=True)):
        both = [found[2 * number], found[2 * number + 1]]
        verdicts = [one.opinion.value for one in both if one.opinion]
        winner, consistent = summary.outcome(*verdicts) if len(verdicts) == 2 else (None, None)
        judgements.append(
            {
                **_row(row, both),
                "verdicts": verdicts,
                "winner": winner,
                "consistent": consistent,
                "feedback": [one.opinion.feedback for one in both if one.opinion],
                "length_difference": len(row["prediction"]) - len(other["prediction"]),
            }
        )
    return judgements, {
        "kind": "pair",
        **summary.pairwise(judgements, config.confidence, config.bootstrap_samples),
    }


def _row(row: Mapping[str, Any], found: Sequence[Judged]) -> dict[str, Any]:
    why = next((one.why for one in found if one.why), "")
    cut = row.get("finish_reason") == "length"
    return {
        "id": row["id"],
        "group": row.get("group"),
        "cut": cut,
        "why": why,
        "from_cache": all(one.from_cache for one in found),
    }


def _show(content: Mapping[str, Any], config: JudgeConfig) -> None:
    table = Table(header_style="bold")
    table.add_column("judged by")
    table.add_column(escape(content["judge"]), justify="right")
    table.add_row("rows judged", f"{content['judged']} of {content['rows']}")
    percent = 100 * config.confidence
    if content["judged"] and content["kind"] == "score":
        edges = content["interval"]
        between = f"  \\[{edges[0]:.2f}, {edges[1]:.2f}] {percent:g} %" if edges else ""
        table.add_row("mean score, 1 to 5", f"{content['mean']:.2f}{between}")
        table.add_row("scores 1 / 2 / 3 / 4 / 5", " / ".join(map(str, content["counts"].values())))
    elif content["judged"]:
        edges = content["win_rate_interval"]
        between = f"\\[{edges[0]:.1%}, {edges[1]:.1%}], p = {content['p']:.2g}: " if edges else ""
        told = f"{content['win_rate']:.1%}  {between}{content['verdict']}"
        table.add_row(f"win rate against {escape(str(config.against))}", told)
        table.add_row(
            "won / tie / lost", f"{content['ours']} / {content['tie']} / {content['theirs']}"
        )
        table.add_row("the same at equal length", f"{content['length_controlled_win_rate']:.1%}")
        table.add_row("changed with the order", f"{content['inconsistent']:.1%}")
        if content["first_preferred"] is not None:
            table.add_row("the first answer preferred", f"{content['first_preferred']:.1%}")
    cost = content["cost"]
    table.add_row(
        "tokens in / out, cost",
        f"{cost['tokens_in']:,} / {cost['tokens_out']:,}, {cost['money']:.4f}",
    )
    table.add_row("taken from the cache", f"{content['from_cache']}")
    console.print(table)
    for warning in content.get("warnings", []):
        console.print(f"[yellow]{escape(warning)}", soft_wrap=True)
    for line in cut_lines(content):
        console.print(f"[yellow]{escape(line)}", soft_wrap=True)
    if content["unjudged"]:
        told = (
            f"{content['unjudged']} rows have no judgement and count nowhere: {content['why']}; see"
            " judgements.jsonl"
        )
        console.print(
            f"[yellow]{escape(told)}. What was answered is kept: the same command asks only for the"
            " others",
            soft_wrap=True,
        )
    if "agreement" in content:
        found = content["agreement"]
        console.print(
            f"agreement with people: [bold]{found['verdict']}[/]: {escape(str(found['why']))}",
            soft_wrap=True,
        )
    else:
        console.print(
            "[dim]nobody has checked this judge: labels=FILE compares it with people",
            soft_wrap=True,
        )
