"""report.html: the result of ``hydratune prepare`` on one page, for the people who decide whether a
data set is fit for training.

The functions here turn the report into plain values: sentences and spans of text. Coordinates are
in ``report_charts``. ``pages/templates/data_report.html.j2`` lays them out, and only its autoescape
makes HTML of texts. The page loads nothing and runs nothing.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hydratune.data.quality.findings import CheckReport, describe_check, format_splits
from hydratune.data.quality.skipped import describe_skipped
from hydratune.data.report_charts import histograms, label_bars, strip
from hydratune.data.report_content import Report
from hydratune.pages.filled import fill
from hydratune.pages.spans import (
    Span,
    character_differences,
    occurrences,
    shortened,
    spans,
    word_differences,
)
from hydratune.records.files import write_text
from hydratune.settings.data import Level
from hydratune.wording import counted

IDS_SHOWN = 50  # of one finding
_SHOWN_TEXT, _SHOWN_PIECE = 1_200, 4_000  # characters
# Checks whose notes quote the text.
_QUOTING = ("ungrounded", "rendered", "refusals", "template_tokens")


def write_html(path: Path, report: Report, title: str = "") -> None:
    """Write one file without scripts, links or anything from elsewhere.

    ``title``: what the data are; the name of the report if that is not known. The same report gives
    the same bytes. Raises ``RunError``.
    """
    write_text(path, render(report, title))


def render(report: Report, title: str = "") -> str:
    """Return the page. ``title`` as in ``write_html``."""
    checks = in_order(report["checks"])
    values = {
        "title": title or report["name"],
        "verdict": verdict(checks),
        "totals": totals(report),
        "longest": max(split["quantiles"]["100"] for split in report["tokens"]["splits"].values()),
        "histograms": histograms(report["tokens"]),
        "labels": {field: label_bars(counts) for field, counts in report["labels"].items()},
        "strip": strip(checks),
        "findings": [shown_check(name, check) for name, check in checks.items() if check["count"]],
        "silent": [name for name, check in report["checks"].items() if not check["count"]],
        "cleaning": {name: shown_repair(entry) for name, entry in report["cleaning"].items()},
        "skipped": describe_skipped(report.get("skipped", {})),
        "idle": repairs_without_effect(report["cleaning"]),
        "masked": [shown_mask(row) for row in report["mask"]],
    }
    return fill("data_report.html.j2", {"report": report, **values})


@dataclass(frozen=True)
class DataVerdict:
    """Whether training may begin."""

    state: str  # error, warn or fit
    sentence: str


def verdict(checks: Mapping[str, CheckReport]) -> DataVerdict:
    """Return one sentence for all checks."""
    errors = [f"{c['title']} ({c['count']:,})" for c in _with_findings(checks, Level.error)]
    warnings = len(_with_findings(checks, Level.warn))
    if errors:
        return DataVerdict("error", f"Not fit for training: {'; '.join(errors)}.")
    if warnings:
        return DataVerdict("warn", f"Fit for training, with {counted(warnings, 'warning')}.")
    return DataVerdict("fit", "Fit for training: no check found anything.")


def _with_findings(checks: Mapping[str, CheckReport], level: Level) -> list[CheckReport]:
    return [check for check in checks.values() if check["count"] and check["level"] == level.value]


def in_order(checks: Mapping[str, CheckReport]) -> dict[str, CheckReport]:
    """Return errors first, then warnings, then checks that found nothing."""

    def rank(item: tuple[str, CheckReport]) -> tuple[bool, bool]:
        return not item[1]["count"], item[1]["level"] != Level.error.value

    return dict(sorted(checks.items(), key=rank))


def totals(report: Report) -> dict[str, int]:
    """Return the numbers of rows, groups and tokens of all splits together."""
    splits, tokens = report["splits"].values(), report["tokens"]["splits"].values()
    return {
        **{name: sum(split[name] for split in splits) for name in ("rows", "groups")},
        **{name: sum(split[name] for split in tokens) for name in ("tokens", "trained_tokens")},
    }


@dataclass(frozen=True)
class ShownExample:
    """An example of a finding: rows that are shown side by side."""

    note: str
    rows: list[tuple[str, list[Span]]]  # id, text
    same: bool = False  # several texts without a difference


def shown_check(name: str, check: CheckReport) -> dict[str, object]:
    """Return the words, ids and examples of one check."""
    where = check.get("where", [])  # shorter than the rows if no place is known
    ids = [
        f"{row} ({Path(place).name})" if place else row
        for row, place in itertools.zip_longest(check["rows"], where, fillvalue="")
    ]
    more = max(0, len(ids) - IDS_SHOWN, check["count"] - IDS_SHOWN)
    return {
        **check,
        "name": name,
        "note": describe_check(check),
        "ids": ids[:IDS_SHOWN],
        "more": more,
        "examples": [_shown_example(name, example) for example in check["examples"]],
    }


def _shown_example(name: str, example: Report) -> ShownExample:
    """Mark the differences of several texts, and in one text what the note quotes.

    Personal data that was found is not repeated here.
    """
    is_personal = name.startswith("pii_")
    texts = [] if is_personal else [shortened(text, _SHOWN_TEXT) for text in example["texts"]]
    if len(texts) > 1:
        marked = word_differences(texts)
    else:
        quoted = [example["note"], *example["note"].split(", ")] if name in _QUOTING else []
        marked = [occurrences(text, quoted, max(0, text.rfind("\n→ "))) for text in texts]
    shown = [spans(text, stretches) for text, stretches in zip(texts, marked, strict=True)]
    ids = [str(id_ or "") for id_ in example["rows"]]
    rows = [
        (ids[i] if i < len(ids) else "", shown[i] if i < len(shown) else [])
        for i in range(max(len(ids), len(shown)))
    ]
    return ShownExample(example["note"], rows, same=len(texts) > 1 and not any(marked))


def shown_repair(entry: Report) -> dict[str, object]:
    """Return a repair with its examples, before and after."""
    examples = []
    for example in entry["examples"]:
        before = shortened(example["before"], _SHOWN_TEXT)
        after = shortened(example["after"], _SHOWN_TEXT)
        old, new = character_differences(before, after)
        marked = {"before": spans(before, old), "after": spans(after, new)}
        examples.append({"id": example["id"], **marked})
    ids = entry.get("ids", [])
    return {
        **entry,
        "where": format_splits(entry.get("splits", {})),
        "examples": examples,
        "ids": ids[:IDS_SHOWN],
        "more": max(0, len(ids) - IDS_SHOWN),
    }


def repairs_without_effect(cleaning: Mapping[str, Report]) -> dict[str, list[str]]:
    """Return reason -> the repairs that changed nothing.

    Repairs that remove rows (those with "ids") are not tried while they are off, because checks
    count these rows.
    """
    unchanged = {name: entry for name, entry in cleaning.items() if not entry["rows"]}
    off = {name: entry for name, entry in unchanged.items() if not entry["on"]}
    return {
        "Nothing to do": [entry["title"] for entry in unchanged.values() if entry["on"]],
        "Off, and nothing to do": [e["title"] for e in off.values() if "ids" not in e],
        "Off; the checks above say what they would remove": [
            f"data.clean.{name}" for name, entry in off.items() if "ids" in entry
        ],
    }


def shown_mask(row: Report) -> dict[str, object]:
    """Return a row in runs that are trained or not, each of pieces that are special or not."""
    runs: list[tuple[bool, list[tuple[bool, list[Span]]]]] = []
    for trained, pieces in itertools.groupby(row["pieces"], key=lambda piece: piece[1]):
        shown = [
            (special, spans(shortened(text, _SHOWN_PIECE), spaces=True))
            for text, _, special in pieces
        ]
        runs.append((trained, shown))
    return {**row, "runs": runs}
