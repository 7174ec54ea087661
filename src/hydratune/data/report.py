"""report.html: what ``hydratune prepare`` found, on one page for the people who decide whether a
data set is fit for training.

The functions here turn the report into plain values (sentences, coordinates, spans of text);
``report.html.j2`` lays them out, and its autoescape is the only thing that makes HTML of texts. The
page loads nothing and runs nothing.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from hydratune.data.quality.findings import describe_check, describe_splits
from hydratune.data.spans import (
    Span,
    character_differences,
    named,
    occurrences,
    shortened,
    spans,
    word_differences,
)
from hydratune.records.files import write_text
from hydratune.settings.data import Level

IDS_SHOWN = 50  # of one finding
LABELS_SHOWN = 15  # of one field
_TEXT, _PIECE, _ID = (
    1_200,
    4_000,
    160,
)  # characters shown of an example, of a piece of the mask, of an id
# checks whose notes quote the text
_QUOTING = (
    "ungrounded",
    "rendered",
    "refusals",
    "template_tokens",
)

Report = Mapping[str, Any]


def write_html(path: Path, report: Report) -> None:
    """One file without scripts, links or anything from elsewhere; the same report gives the same
    bytes. Raises ``RunError``.
    """
    write_text(path, render(report))


def render(report: Report) -> str:
    """The page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "n": "{:,}".format,
        "share": share,
        "spans": spans,
        "short": lambda text: shortened(str(text), _ID),
    }
    checks = report["checks"]
    values = {
        "verdict": verdict(checks),
        "totals": totals(report),
        "longest": max(split["quantiles"]["100"] for split in report["tokens"]["splits"].values()),
        "histograms": histograms(report["tokens"]),
        "labels": {field: label_bars(counts) for field, counts in report["labels"].items()},
        "strip": strip(checks),
        "findings": [
            finding(name, check) for name, check in in_order(checks).items() if check["count"]
        ],
        "silent": [name for name, check in checks.items() if not check["count"]],
        "cleaning": {name: cleaned(entry) for name, entry in report["cleaning"].items()},
        "idle": idle(report["cleaning"]),
        "masked": [masked(row) for row in report["mask"]],
    }
    return environment.get_template("report.html.j2").render(report=report, **values)


def _printable(value: Any) -> Any:
    """Names hidden characters in whatever the page prints; Markup comes from the template itself
    and has been through here.
    """
    return named(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def share(part: float, whole: float) -> str:
    """In per cent."""
    if not whole:
        return "–"
    percent = 100 * part / whole
    return (
        f"{percent:.0f} %"
        if percent >= 10 or percent == 0
        else f"{percent:.1f} %"
        if percent >= 0.1
        else "< 0.1 %"
    )


@dataclass(frozen=True)
class Judgement:
    """Whether training may begin."""

    state: str  # error, warn or fit
    sentence: str


def verdict(checks: Mapping[str, Report]) -> Judgement:
    """One sentence for all checks."""
    errors = [f"{c['title']} ({c['count']:,})" for c in _found(checks, Level.error)]
    warnings = len(_found(checks, Level.warn))
    if errors:
        return Judgement("error", f"Not fit for training: {'; '.join(errors)}.")
    if warnings:
        return Judgement(
            "warn", f"Fit for training, with {warnings} warning{'s' * (warnings > 1)}."
        )
    return Judgement("fit", "Fit for training: no check found anything.")


def _found(checks: Mapping[str, Report], level: Level) -> list[Report]:
    return [check for check in checks.values() if check["count"] and check["level"] == level.value]


def in_order(checks: Mapping[str, Report]) -> dict[str, Report]:
    """Errors, then warnings, then checks that found nothing."""
    return dict(
        sorted(
            checks.items(),
            key=lambda item: (not item[1]["count"], item[1]["level"] != Level.error.value),
        )
    )


def totals(report: Report) -> dict[str, int]:
    """Over all splits."""
    splits, tokens = report["splits"].values(), report["tokens"]["splits"].values()
    return {
        **{name: sum(split[name] for split in splits) for name in ("rows", "groups")},
        **{name: sum(split[name] for split in tokens) for name in ("tokens", "trained_tokens")},
    }


@dataclass(frozen=True)
class Bar:
    """Coordinates of a picture, in its own units."""

    x: float
    y: float
    width: float
    height: float
    kind: str = ""
    name: str = ""


@dataclass(frozen=True)
class Limit:
    """A length that matters; ``x`` is None where it lies beyond the picture."""

    name: str
    value: int
    x: float | None


@dataclass(frozen=True)
class Histogram:
    """Lengths of the rows of one split, in tokens."""

    split: str
    numbers: Report
    bars: list[Bar]
    ticks: list[tuple[float, int]]  # x, tokens
    level: tuple[float, int] | None  # y, rows: one line to read the heights by
    limits: list[Limit]
    beyond: int  # rows longer than what is drawn
    end: float  # tokens, at the right edge


WIDTH, TOP, BOTTOM = (
    340.0,
    46.0,
    150.0,
)  # of a histogram; the names of the limits stand above, the ticks below


def histograms(tokens: Report) -> list[Histogram]:
    """One for every split, all with one x axis and each with its own y axis."""
    edges, limits = (
        tokens["edges"],
        {"data.max_length": tokens["max_length"], "context window": tokens["context_window"]},
    )
    end = _end(
        edges, [split["histogram"] for split in tokens["splits"].values()], list(limits.values())
    )
    return [_histogram(name, split, edges, limits, end) for name, split in tokens["splits"].items()]


def _end(edges: Sequence[float], counts: Sequence[Sequence[int]], limits: Sequence[int]) -> float:
    """How far to draw: all rows, or 99 % where a few long ones would squeeze the rest; a limit
    close by is taken in.
    """
    summed = list(itertools.accumulate(map(sum, zip(*counts, strict=True))))
    most = next(
        (i for i, n in enumerate(summed, 1) if n and n >= 0.99 * summed[-1]), len(edges) - 1
    )
    end = edges[most] if edges[most] < 0.6 * edges[-1] else edges[-1]
    near = [limit for limit in limits if end <= limit <= 1.3 * end]
    return max([end, *(1.04 * limit for limit in near)]) or 1.0


def _histogram(
    name: str, split: Report, edges: Sequence[float], limits: Mapping[str, int], end: float
) -> Histogram:
    scale, counts = WIDTH / end, split["histogram"]
    peak = max(counts, default=0)
    drawn = [
        (a, b, n)
        for a, b, n in zip(edges, edges[1:], counts, strict=False)
        if n and b <= end * 1.001
    ]
    bars = []
    for start, stop, n in drawn:
        height = max(1.0, (BOTTOM - TOP) * n / peak)
        kind = "over" if start >= limits["data.max_length"] else ""
        bars.append(
            Bar(
                round(start * scale, 1),
                round(BOTTOM - height, 1),
                round((stop - start) * scale - 1, 1),
                round(height, 1),
                kind,
            )
        )
    step = _round_number(end / 4)
    ticks = [(round(i * step * scale, 1), i * step) for i in range(int(end / step) + 1)]
    read = _round_number(0.75 * peak)
    return Histogram(
        split=name,
        numbers=split,
        bars=bars,
        ticks=[(x, value) for x, value in ticks if x < WIDTH - 12],
        level=(round(BOTTOM - (BOTTOM - TOP) * read / peak, 1), read) if peak > 1 else None,
        limits=[
            Limit(limit, value, round(value * scale, 1) if value <= end else None)
            for limit, value in limits.items()
        ],
        beyond=sum(counts) - sum(n for _, _, n in drawn),
        end=end,
    )


def _round_number(least: float) -> int:
    """1, 2 or 5 times a power of ten, at most ``least`` (but 1)."""
    if least < 1:
        return 1
    power = 10 ** math.floor(math.log10(least))
    return int(max(factor for factor in (1, 2, 5) if factor * power <= least) * power)


@dataclass(frozen=True)
class LabelBar:
    """One line of the picture of a field."""

    label: str
    rows: int
    width: float  # per cent of the longest bar
    others: int = 0  # how many labels this line stands for, if not one


def label_bars(counts: Mapping[str, int]) -> list[LabelBar]:
    """The most frequent labels; the rest together."""
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    shown = ordered if len(ordered) <= LABELS_SHOWN + 1 else ordered[:LABELS_SHOWN]
    rest = sum(n for _, n in ordered[len(shown) :])
    longest = max([rest, *(n for _, n in shown)], default=0) or 1
    bars = [LabelBar(label, n, round(100 * n / longest, 1)) for label, n in shown]
    return (
        [*bars, LabelBar("", rest, round(100 * rest / longest, 1), len(ordered) - len(shown))]
        if rest
        else bars
    )


STRIP = 26.0  # its height


def strip(checks: Mapping[str, Report]) -> list[Bar]:
    """A bar for every check, as high as what it found is grave."""
    heights = {Level.error.value: STRIP, Level.warn.value: 0.6 * STRIP, "": 0.16 * STRIP}
    kinds = [
        (name, check["level"] if check["count"] else "") for name, check in in_order(checks).items()
    ]
    return [
        Bar(12.0 * i, round(STRIP - heights[kind], 1), 9, round(heights[kind], 1), kind, name)
        for i, (name, kind) in enumerate(kinds)
    ]


@dataclass(frozen=True)
class Shown:
    """An example: rows that are looked at together."""

    note: str
    rows: list[tuple[str, list[Span]]]  # id, text
    same: bool = False  # several texts without a difference


def finding(name: str, check: Report) -> dict[str, Any]:
    """One check's words, ids and examples."""
    ids = [
        f"{row} ({Path(where).name})" if where else row
        for row, where in zip(check["rows"], places(check), strict=True)
    ]
    more = max(0, len(ids) - IDS_SHOWN, check["count"] - IDS_SHOWN)
    return {
        **check,
        "name": name,
        "note": describe_check(check),
        "ids": ids[:IDS_SHOWN],
        "more": more,
        "examples": [_example(name, example) for example in check["examples"]],
    }


def places(check: Report) -> list[str]:
    """file:line of a finding's rows, empty where it is not known."""
    known = check.get("where", [])
    return [*known, *[""] * (len(check["rows"]) - len(known))]


def _example(name: str, example: Report) -> Shown:
    """Differences of several texts; in one text what the note quotes.

    Personal data that was found is not repeated here.
    """
    texts = [] if name.startswith("pii_") else [shortened(text, _TEXT) for text in example["texts"]]
    if len(texts) > 1:
        changed = word_differences(texts)
    else:
        quoted = [example["note"], *example["note"].split(", ")] if name in _QUOTING else []
        changed = [occurrences(text, quoted, max(0, text.rfind("\n→ "))) for text in texts]
    shown = [spans(text, stretches) for text, stretches in zip(texts, changed, strict=True)]
    rows: list[tuple[Any, Any]] = list(itertools.zip_longest(example["rows"], shown, fillvalue=[]))
    return Shown(
        example["note"],
        [(str(id_ or ""), text) for id_, text in rows],
        len(texts) > 1 and not any(changed),
    )


def cleaned(entry: Report) -> dict[str, Any]:
    """A repair with its examples, before and after."""
    examples = []
    for example in entry["examples"]:
        before, after = shortened(example["before"], _TEXT), shortened(example["after"], _TEXT)
        old, new = character_differences(before, after)
        examples.append(
            {"id": example["id"], "before": spans(before, old), "after": spans(after, new)}
        )
    ids = entry.get("ids", [])
    return {
        **entry,
        "where": describe_splits(entry),
        "examples": examples,
        "ids": ids[:IDS_SHOWN],
        "more": max(0, len(ids) - IDS_SHOWN),
    }


def idle(cleaning: Mapping[str, Report]) -> dict[str, list[str]]:
    """What changed nothing, by the reason.

    What removes rows is not tried while it is off; checks count those rows.
    """
    silent = {name: entry for name, entry in cleaning.items() if not entry["rows"]}
    return {
        "Nothing to do": [entry["title"] for entry in silent.values() if entry["on"]],
        "Off, and nothing to do": [
            entry["title"] for entry in silent.values() if not entry["on"] and "ids" not in entry
        ],
        "Off; the checks above say what they would remove": [
            f"data.clean.{name}"
            for name, entry in silent.items()
            if not entry["on"] and "ids" in entry
        ],
    }


def masked(row: Report) -> dict[str, Any]:
    """A row in runs that are trained or not, each of pieces that are special or not."""
    runs: list[tuple[bool, list[tuple[bool, list[Span]]]]] = []
    for trained, run in itertools.groupby(row["pieces"], key=lambda piece: piece[1]):
        runs.append(
            (
                trained,
                [
                    (special, spans(shortened(text, _PIECE), spaces=True))
                    for text, _, special in run
                ],
            )
        )
    return {**row, "runs": runs}
