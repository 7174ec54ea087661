"""The page report.html of a run: a pure function of its directory, finished or not.

A part whose files are missing or broken is not on the page.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from omegaconf import OmegaConf

from hydratune import digests
from hydratune.bounds import load_yaml
from hydratune.data.quality.findings import finding_in_words
from hydratune.errors import RunError
from hydratune.evaluation import canaries, memorisation, metrics
from hydratune.evaluation.learning_curves import charts
from hydratune.evaluation.measures import (
    Measure,
    count_cut,
    cut_sentence,
    difference,
    groups_of,
)
from hydratune.evaluation.pages import bar, page
from hydratune.evaluation.result_rows import (
    Change,
    MeasuredValues,
    answer_metrics,
    changes,
    of_kept_weights,
    without_leaks,
)
from hydratune.evaluation.run_answers import Predictions, shown_answers
from hydratune.evaluation.run_links import links
from hydratune.metric_format import difference as format_difference
from hydratune.metric_format import (
    difference_form,
    difference_with_unit,
    heading,
    with_interval,
    with_unit,
    written,
)
from hydratune.metric_table import (
    RUN_METRICS,
    SYSTEM_TITLES,
    largest_difference,
    lower_is_better,
    main_metric,
    title,
)
from hydratune.records.files import Json, read_json, write_text
from hydratune.records.headline import YAML_ERRORS, headline, recorded_settings
from hydratune.records.predictions import Prediction, read_predictions
from hydratune.records.run_directory import RunDirectory, RunFile
from hydratune.settings.evaluation import EvaluationConfig
from hydratune.settings.monitor import LOSS
from hydratune.settings.registry import flat
from hydratune.settings.secrets import mask

_COSTS = ("cost/cpu_seconds", "cost/tokens", "cost/peak_memory_bytes")  # shown at the top
ONE_RUN = (
    "All this is of one run: by how much another seed of the same settings would differ is not in"
    " these intervals."
)

_SECTIONS = (  # id, the part without which there is no such section, title
    ("result", "bars", ""),
    ("training", "charts", "Training"),
    ("metrics", "rows", "All metrics"),
    ("forgotten", "forgotten", "What was forgotten"),
    ("answers", "answers", "Answers"),
    ("cost", "costs", "Cost"),
    ("data", "data", "Data"),
    ("settings", "path", "Settings"),
)


def write(record: RunDirectory) -> Path:
    """Write the page, and return its path. Raises ``RunError`` if the disk refuses it."""
    file = record.file(RunFile.report)
    write_text(file, render(record))
    return file


def render(record: RunDirectory) -> str:
    """Return the page."""
    measured = _json(record.metrics_file)
    settings = recorded_settings(record)
    predictions = {system: rows for system in SYSTEM_TITLES if (rows := _rows(record, system))}
    main = main_metric(measured)
    parts: dict[str, object] = {
        **_heading(record, settings),
        **_results(measured, main),
        "links": links(record),
        "verdicts": _verdicts(predictions, main, settings, "eval/schema_valid" in measured),
        "charts": charts(record.history_file, measured, settings),
        "changed": _overrides(record),
        "settings": {key: mask(_as_typed(value)) for key, value in settings.items()},
        "environment": _environment(record),
        "data": _data(record),
        **shown_answers(predictions, main),
    }
    return page("run_report.html.j2", **parts, sections=_sections(parts))


def _sections(parts: Mapping[str, object]) -> list[tuple[str, str]]:
    """Return (id, title) of the sections that are on the page."""
    data = parts["data"]
    present = {**parts, "data": isinstance(data, dict) and data["splits"]}
    return [(id_, title or str(parts["main"])) for id_, part, title in _SECTIONS if present[part]]


def _heading(record: RunDirectory, settings: Mapping[str, object]) -> dict[str, str]:
    status = _json(record.status_file)
    errors = [str(status["error"])] if status.get("error") else []
    damaged = [*digests.problems(record.path), *digests.problems(record.file(RunFile.hydra))]
    return {
        "name": str(settings.get("name") or record.path.name),
        "headline": mask(headline(settings)),
        "path": mask(str(record.path)),
        "state": str(status.get("state", "unknown")),
        "started": str(status.get("started") or "")[:16].replace("T", " "),
        "error": mask(". ".join([*errors, *damaged])),
    }


def _results(measured: MeasuredValues, main: str | None) -> dict[str, object]:
    """Return what the page says of metrics.json."""
    systems = [s for s in SYSTEM_TITLES if any(key.startswith(f"{s}/") for key in measured)]
    intervals = measured.get("intervals", {})
    memorised = secrets = ""
    if "memorisation/difference" in measured:
        memorised = memorisation.sentence(measured, intervals)
    if "memorisation/canary_difference" in measured:
        secrets = canaries.sentence(measured, intervals)
    return {
        "systems": [SYSTEM_TITLES[system] for system in systems],
        "main": heading(f"eval/{main}") if main else "",
        "bars": _bars(measured, systems, main),
        "figures": _figures(measured, main),
        "rows": _table(measured, systems),
        "clean": without_leaks(measured),
        "course": measured.get("course") or {},
        "chosen": of_kept_weights(measured),
        "forgotten": _forgotten(measured),
        "memorised": memorised,
        "secrets": secrets,
        "costs": _costs(measured),
        "seconds": measured.get("seconds", {}),
    }


def _json(file: Path) -> dict[str, Json]:
    try:
        content = read_json(file) if file.is_file() else {}
    except RunError:
        return {}
    return content if isinstance(content, dict) else {}


def _rows(record: RunDirectory, system: str) -> list[Prediction]:
    file = record.predictions_file(system)
    try:
        rows = read_predictions(file) if file.is_file() else []
    except RunError:
        return []
    return [row for row in rows if isinstance(row, dict) and "prediction" in row]


def _overrides(record: RunDirectory) -> list[str]:
    """Return what was typed on the command line."""
    file = record.file(RunFile.hydra) / "overrides.yaml"
    try:
        overrides = OmegaConf.to_container(load_yaml(file)) if file.is_file() else []
    except YAML_ERRORS:
        return []
    return [mask(str(one)) for one in overrides] if isinstance(overrides, list) else []


def _bars(
    measured: MeasuredValues, systems: Sequence[str], main: str | None
) -> list[dict[str, object]]:
    """Return a bar for the main metric of each system."""
    if main is None:
        return []
    intervals = measured.get("intervals", {})
    keys = {system: f"{system}/{main}" for system in systems if f"{system}/{main}" in measured}
    edges = [intervals[key][1] for key in keys.values() if intervals.get(key)]
    largest = max([float(measured[key]) for key in keys.values()] + edges)
    return [
        {
            "title": SYSTEM_TITLES[system],
            "value": with_interval(key, float(measured[key]), intervals.get(key)),
            "best": system == "eval",
            "bar": bar(float(measured[key]), intervals.get(key), largest, best=system == "eval"),
        }
        for system, key in keys.items()
    ]


def _figures(measured: MeasuredValues, main: str | None) -> list[tuple[str, str]]:
    """Return (title, value) of the numbers that matter most."""
    keys = [f"eval/{main}"] if main else []
    keys += [LOSS, *_COSTS]
    return [(heading(key), _number(measured, key)) for key in keys if key in measured]


def _table(measured: MeasuredValues, systems: Sequence[str]) -> list[tuple[str, list[str]]]:
    return [
        (
            heading(f"eval/{row.name}"),
            [_number(measured, f"{system}/{row.name}") for system in systems],
        )
        for row in answer_metrics(measured, systems)
    ]


def _number(measured: MeasuredValues, key: str) -> str:
    return with_interval(key, measured.get(key), measured.get("intervals", {}).get(key))


def _verdicts(
    predictions: Predictions, main: str | None, settings: Mapping[str, Json], has_schema: bool
) -> list[str]:
    """Return the fine-tuned model against each baseline, paired over the same rows, in words."""
    config = EvaluationConfig(metrics=settings.get("evaluation.metrics"))
    sentences: list[str] = []
    for system in ("fewshot", "base"):
        if not _are_paired(predictions, system):
            continue
        try:
            ours, theirs = (
                metrics.measures(rows, metrics.families_of(rows, config), has_schema=has_schema)
                for rows in (predictions["eval"], predictions[system])
            )
            groups = groups_of(predictions["eval"])
            for name in (main, "nll"):
                if name and name in ours and name in theirs:
                    verdict = _verdict(name, ours[name], theirs[name], groups, config)
                    against = f"{title(f'eval/{name}')}, fine-tuned against {SYSTEM_TITLES[system]}"
                    sentences.append(f"{against}: {verdict}")
        except (RunError, KeyError, TypeError, ValueError):
            continue
    cut = [
        cut_sentence(count_cut(rows), len(rows), SYSTEM_TITLES[system])
        for system, rows in predictions.items()
    ]
    return [*sentences, *([ONE_RUN] if sentences else []), *filter(None, cut)]


def _are_paired(predictions: Predictions, system: str) -> bool:
    """Return whether the fine-tuned model and ``system`` answered the same rows."""
    ours, theirs = predictions.get("eval"), predictions.get(system)
    if not ours or not theirs:
        return False
    return [row.get("item_hash") for row in ours] == [row.get("item_hash") for row in theirs]


def _verdict(
    name: str, ours: Measure, theirs: Measure, groups: Sequence[str], config: EvaluationConfig
) -> str:
    key = f"eval/{name}"
    change = difference(ours, theirs, groups, config.confidence, config.bootstrap_samples)
    change = change.within(largest_difference(key))
    better = (change.value < 0) == lower_is_better(key)
    word = "statistically indistinguishable"
    if change.p < 1 - config.confidence:
        word = "better" if better else "worse"
    value = difference_with_unit(key, change.value)
    interval = change.interval_text(*difference_form(key))
    return f"{value} {interval}, p = {change.p:.2g}: {word}"


def _forgotten(measured: MeasuredValues) -> list[tuple[str, str, str, str]]:
    """Return (title, before, after, difference) for each measure of forgetting."""
    rows = []
    for change in changes(measured):
        key = change.key
        before = "" if change.before is None else written(key, change.before)
        delta = ""
        if change.difference is not None:
            delta = f"{format_difference(key, change.difference)} {_edges(change)}"
        rows.append((heading(key), before, written(key, change.after), delta))
    if measured.get("forgetting/within_budget") is False:
        rows.append(("more was lost than evaluation.forgetting.fail allows", "", "", ""))
    return rows


def _edges(change: Change) -> str:
    if not change.interval:
        return "(too few items for an interval)"
    low, high = (format_difference(change.key, edge) for edge in change.interval)
    return f"[{low}, {high}]"


def _costs(measured: MeasuredValues) -> list[tuple[str, str]]:
    rows = [row for row in RUN_METRICS if row.name.startswith("cost/") and row.name in measured]
    return [(row.title, with_unit(row.name, measured[row.name])) for row in rows]


def _as_typed(value: object) -> str:
    """Return a setting as it is typed: null and not None; texts without quotes."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _environment(record: RunDirectory) -> dict[str, str]:
    facts = _json(record.environment_file)
    return {key: mask(_as_typed(value)) for key, value in flat(facts).items()} if facts else {}


def _data(record: RunDirectory) -> dict[str, object]:
    facts = _json(record.data_file)
    splits = [
        {
            "name": name,
            "rows": split.get("rows", 0),
            "kept": split.get("kept", 0),
            "tokens": split.get("tokens", 0),
            "trained": split.get("trained_tokens", 0),
        }
        for name, split in facts.get("splits", {}).items()
    ]
    findings = [
        (finding_in_words(name, finding.get("count", 0)), finding.get("level", ""))
        for name, finding in facts.get("quality", {}).items()
    ]
    return {
        "splits": splits,
        "findings": findings,
        "canaries": len(facts.get("canaries", [])),
        "page": record.file(RunFile.data_page).is_file(),
    }
