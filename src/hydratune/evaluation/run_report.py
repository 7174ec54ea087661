"""report.html of a run: a pure function of its directory, finished or not.

What is not there is left out.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from hydratune import digests
from hydratune.bounds import load_yaml
from hydratune.errors import InputError, RunError
from hydratune.evaluation import canaries, memorisation, metrics
from hydratune.evaluation.json_scores import agreement
from hydratune.evaluation.measures import count_cut, cut_sentence, difference, groups_of, user_text
from hydratune.evaluation.pages import bar, curves, page
from hydratune.evaluation.result_rows import Change, answer_metrics, changes, without_leaks
from hydratune.metric_table import (
    RUN_METRICS,
    SYSTEM_TITLES,
    Unit,
    lower_is_better,
    main_metric,
    title,
)
from hydratune.records.files import read_json, read_jsonl, read_text, write_text
from hydratune.records.run_directory import RunDirectory
from hydratune.settings.evaluation import EvaluationConfig
from hydratune.settings.registry import flat
from hydratune.settings.secrets import mask

_SHOWN = 40  # rows whose answers are on the page
_LONGEST = 3000  # letters of a text
ONE_RUN = (
    "All this is of one run: by how much another seed of the same settings would differ is not in"
    " these intervals."
)


def write(record: RunDirectory) -> Path:
    """Raises ``RunError`` if the disk refuses it."""
    file = record.path / "report.html"
    write_text(file, render(record))
    return file


def render(record: RunDirectory) -> str:
    measured = _json(record.metrics_file)
    intervals: Mapping[str, Any] = measured.get("intervals", {})
    settings = _settings(record)
    predictions = {system: rows for system in SYSTEM_TITLES if (rows := _rows(record, system))}
    status = _json(record.status_file)
    damaged = [*digests.problems(record.path), *digests.problems(record.path / ".hydra")]
    systems = [
        system for system in SYSTEM_TITLES if any(key.startswith(f"{system}/") for key in measured)
    ]
    main = main_metric(measured)
    evaluation = EvaluationConfig(metrics=settings.get("evaluation.metrics"))
    return page(
        "run_report.html.j2",
        name=str(settings.get("name") or record.path.name),
        path=mask(str(record.path)),
        state=str(status.get("state", "unknown")),
        error=mask(". ".join([*([str(status["error"])] if status.get("error") else []), *damaged])),
        model=str(settings.get("model.name", "")),
        systems=[SYSTEM_TITLES[system] for system in systems],
        main=title(f"eval/{main}") if main else "",
        bars=_bars(measured, intervals, systems, main),
        rows=_table(measured, intervals, systems),
        verdicts=_verdicts(predictions, main, evaluation, "eval/schema_valid" in measured),
        clean=without_leaks(measured),
        course=measured.get("course") or {},
        chart=_chart(record, measured),
        lost=_lost(measured),
        heart=(
            memorisation.told(measured, intervals) if "memorisation/difference" in measured else ""
        ),
        secrets=(
            canaries.told(measured, intervals)
            if "memorisation/canary_difference" in measured
            else ""
        ),
        costs=_costs(measured),
        seconds=measured.get("seconds", {}),
        changed=_overrides(record),
        settings={key: mask(str(value)) for key, value in settings.items()},
        environment=_environment(record),
        data=_data(record),
        answers=_answers(predictions, main),
        asked=len(predictions.get("eval", [])),
    )


def _json(file: Path) -> dict[str, Any]:
    try:
        found = read_json(file) if file.is_file() else {}
    except RunError:
        return {}
    return found if isinstance(found, dict) else {}


def _settings(record: RunDirectory) -> dict[str, Any]:
    try:
        return (
            flat(OmegaConf.to_container(load_yaml(record.config_file)))
            if record.config_file.is_file()
            else {}
        )
    except (InputError, OmegaConfBaseException, YAMLError, ValueError):
        return {}


def _rows(record: RunDirectory, system: str) -> list[dict[str, Any]]:
    file = record.predictions_file(system)
    try:
        return (
            [row for row in read_jsonl(file) if isinstance(row, dict) and "prediction" in row]
            if file.is_file()
            else []
        )
    except RunError:
        return []


def _overrides(record: RunDirectory) -> list[str]:
    """What was typed."""
    file = record.path / ".hydra" / "overrides.yaml"
    try:
        found = OmegaConf.to_container(load_yaml(file)) if file.is_file() else []
    except (InputError, OmegaConfBaseException, YAMLError, ValueError):
        return []
    return [mask(str(one)) for one in found] if isinstance(found, list) else []


def _bars(
    measured: Mapping[str, Any],
    intervals: Mapping[str, Any],
    systems: Sequence[str],
    main: str | None,
) -> list[dict[str, Any]]:
    if main is None:
        return []
    known = [
        (system, float(measured[f"{system}/{main}"]), intervals.get(f"{system}/{main}"))
        for system in systems
        if f"{system}/{main}" in measured
    ]
    largest = max([value for _, value, _ in known] + [edge[1] for _, _, edge in known if edge])
    return [
        {
            "title": SYSTEM_TITLES[system],
            "value": f"{value:.3f}",
            "interval": edge,
            "bar": bar(value, edge, largest, best=system == "eval"),
        }
        for system, value, edge in known
    ]


def _table(
    measured: Mapping[str, Any], intervals: Mapping[str, Any], systems: Sequence[str]
) -> list[tuple[str, list[str]]]:
    return [
        (row.title, [_number(measured, intervals, f"{system}/{row.name}") for system in systems])
        for row in answer_metrics(measured, systems)
    ]


def _number(measured: Mapping[str, Any], intervals: Mapping[str, Any], key: str) -> str:
    if key not in measured:
        return "-"
    edge = intervals.get(key)
    value = f"{measured[key]:,.4g}"
    return f"{value} [{edge[0]:.3g}, {edge[1]:.3g}]" if edge else value


def _verdicts(
    predictions: Mapping[str, Sequence[Mapping[str, Any]]],
    main: str | None,
    config: EvaluationConfig,
    has_schema: bool,
) -> list[str]:
    """The fine-tuned model against each baseline, paired over the same rows."""
    ours = predictions.get("eval")
    told = []
    for system in ("fewshot", "base"):
        theirs = predictions.get(system)
        if (
            not ours
            or not theirs
            or [row.get("item_hash") for row in ours] != [row.get("item_hash") for row in theirs]
        ):
            continue
        try:
            both = [
                metrics.measures(rows, metrics.families_of(rows, config), has_schema=has_schema)
                for rows in (ours, theirs)
            ]
            names = [name for name in (main, "nll") if name and name in both[0] and name in both[1]]
            for name in names:
                found = difference(
                    both[0][name],
                    both[1][name],
                    groups_of(ours),
                    config.confidence,
                    config.bootstrap_samples,
                )
                better = (found.value < 0) == lower_is_better(f"eval/{name}")
                word = (
                    ("better" if better else "worse")
                    if found.p < 1 - config.confidence
                    else "not distinguishable"
                )
                change = f"{found.value:+.3f} {found.interval_text('+.3f')}, p = {found.p:.2g}"
                against = f"{title(f'eval/{name}')}, fine-tuned against {SYSTEM_TITLES[system]}"
                told.append(f"{against}: {change}: {word}")
        except (RunError, KeyError, TypeError, ValueError):
            continue
    cut = [
        cut_sentence(count_cut(rows), len(rows), SYSTEM_TITLES[system])
        for system, rows in predictions.items()
    ]
    return [*told, *([ONE_RUN] if told else []), *filter(None, cut)]


def _chart(record: RunDirectory, measured: Mapping[str, Any]) -> str:
    try:
        history = (
            list(csv.DictReader(io.StringIO(read_text(record.history_file))))
            if record.history_file.is_file()
            else []
        )
        lines = []
        for key, title, look in (
            ("train/loss", "training loss", "train"),
            ("val/loss", "validation loss", "val"),
        ):
            lines.append(
                (
                    title,
                    look,
                    [(float(row["step"]), float(row[key])) for row in history if row.get(key)],
                )
            )
    except (RunError, OSError, ValueError, KeyError, csv.Error):
        return ""
    step = measured.get("fit/best_step")
    best = next((point for point in lines[1][2] if point[0] == step), None)
    finite = [
        (title, look, [p for p in points if p[1] == p[1] and abs(p[1]) < 1e9])
        for title, look, points in lines
    ]
    return curves(finite, best, "optimizer step")


def _lost(measured: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    rows = []
    for change in changes(measured):
        before = "" if change.before is None else f"{change.before:.4f}"
        delta = "" if change.difference is None else f"{change.difference:+.4f} {_edges(change)}"
        rows.append((change.title, before, f"{change.after:.4f}", delta))
    if measured.get("forgetting/within_budget") is False:
        rows.append(("more was lost than evaluation.forgetting.fail allows", "", "", ""))
    return rows


def _edges(change: Change) -> str:
    if not change.interval:
        return "(too few to tell)"
    return f"[{change.interval[0]:+.4f}, {change.interval[1]:+.4f}]"


def _costs(measured: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [row for row in RUN_METRICS if row.name.startswith("cost/") and row.name in measured]
    return [(row.title, _with_unit(row.unit, measured[row.name])) for row in rows]


def _with_unit(unit: Unit, value: float) -> str:
    return f"{value / 2**30:.2f} GiB" if unit is Unit.bytes else f"{value:,.0f}"


def _environment(record: RunDirectory) -> dict[str, str]:
    found = _json(record.path / "environment.json")
    return {key: mask(str(value)) for key, value in flat(found).items()} if found else {}


def _data(record: RunDirectory) -> dict[str, Any]:
    found = _json(record.path / "data.json")
    splits = [
        {
            "name": name,
            "rows": one.get("rows", 0),
            "kept": one.get("kept", 0),
            "tokens": one.get("tokens", 0),
            "trained": one.get("trained_tokens", 0),
        }
        for name, one in found.get("splits", {}).items()
    ]
    findings = [
        (name, one.get("level", ""), one.get("count", 0))
        for name, one in found.get("quality", {}).items()
    ]
    page = (record.path / "data.html").is_file()
    return {
        "splits": splits,
        "findings": findings,
        "canaries": len(found.get("canaries", [])),
        "page": page,
    }


def _answers(
    predictions: Mapping[str, Sequence[Mapping[str, Any]]], main: str | None
) -> list[dict[str, Any]]:
    """The fine-tuned model's worst answers first, with what the others said."""
    ours = predictions.get("eval", [])
    order = sorted(
        range(len(ours)), key=lambda i: (_quality(ours[i], main), -float(ours[i].get("nll") or 0.0))
    )
    others = {
        system: {row.get("item_hash"): row for row in rows}
        for system, rows in predictions.items()
        if system != "eval"
    }
    shown = []
    for i in order[:_SHOWN]:
        row, scores = ours[i], ours[i].get("scores") or {}
        said = [(SYSTEM_TITLES["eval"], str(row["prediction"])[:_LONGEST])]
        said += [
            (SYSTEM_TITLES[s], str(rows[row.get("item_hash")]["prediction"])[:_LONGEST])
            for s, rows in others.items()
            if row.get("item_hash") in rows
        ]
        wrong = (
            [str(error) for error in scores.get("errors", [])][:5]
            if isinstance(scores.get("errors"), list)
            else []
        )
        request = user_text(row)
        shown.append(
            {
                "id": str(row.get("id")),
                "score": f"{_quality(row, main):.2f}",
                "leaky": bool(row.get("leaky")),
                "cut": row.get("finish_reason") == "length",
                "request": request[:_LONGEST],
                "reference": str(row.get("reference"))[:_LONGEST],
                "said": said,
                "errors": wrong,
            }
        )
    return shown


def _quality(row: Mapping[str, Any], main: str | None) -> float:
    """Of one answer, in [0, 1]."""
    scores = row.get("scores") or {}
    if "fields" in scores:
        return agreement(scores)
    value = scores.get(main or "", scores.get("exact_match", 0.0))
    if main == "label_accuracy":
        value = scores.get("label") == scores.get("expected_label")
    return float(value) if isinstance(value, (int, float)) else 0.0
