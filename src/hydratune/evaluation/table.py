"""The closing table of a run: every system on the same test rows, with intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from hydratune.evaluation.metrics import MAIN
from hydratune.settings.evaluation import METRIC_FAMILIES

_ROWS = (
    ("json_valid", "strict JSON", "rate"),
    ("schema_valid", "schema-valid", "rate"),
    ("field_precision", "field precision", "rate"),
    ("field_recall", "field recall", "rate"),
    ("field_f1", "field F1", "rate"),
    ("invented_keys", "answers with invented keys", "rate"),
    ("hallucinated", "values where there are none", "rate"),
    ("in_source", "values found in the request", "rate"),
    ("in_source_reference", "  true values likewise", "rate"),
    ("label_accuracy", "accuracy", "rate"),
    ("label_f1", "macro F1", "rate"),
    ("label_unknown", "answers that are no label", "rate"),
    ("tests_passed", "tests passed", "rate"),
    ("code_runs", "code that runs", "rate"),
    ("rouge1", "ROUGE-1", "rate"),
    ("rouge2", "ROUGE-2", "rate"),
    ("rougeL", "ROUGE-L", "rate"),
    ("bleu", "BLEU", "rate"),
    ("chrf", "chrF", "rate"),
    ("normalised_match", "match, normalised", "rate"),
    ("exact_match", "exact match", "rate"),
    ("nll", "NLL per token", "number"),
    ("perplexity", "perplexity", "number"),
    ("bits_per_byte", "bits per byte", "number"),
    ("finished", "ended its turn", "rate"),
    ("cut", "answers cut at the token limit", "count"),
    ("length_ratio", "length, of the reference's", "rate"),
    ("generated_tokens", "tokens generated", "count"),
)
TITLES = {name: title.strip() for name, title, _ in _ROWS}
# of the metrics of a system, but for those of single fields
NAMES = tuple(name for name, _, _ in _ROWS)
_FIELDS = 12  # of a JSON answer, shown one by one
_TITLES = {"base": "base, zero-shot", "fewshot": "base, {shots}-shot", "eval": "fine-tuned"}


def results(metrics: Mapping[str, Any], systems: Sequence[str], shots: int) -> Table:
    """``metrics`` is the content of metrics.json."""
    rows, confidence = (
        metrics["settings"]["eval"]["rows"],
        metrics["settings"]["eval"]["intervals"].split(":")[0],
    )
    table = Table(
        title=f"{rows} test rows; rates in %, with {confidence} intervals",
        title_justify="left",
        title_style="bold",
        header_style="bold",
    )
    table.add_column("metric", no_wrap=True)
    for system in systems:
        table.add_column(
            _TITLES[system].format(shots=shots),
            justify="right",
            style="bold green" if system == "eval" else "",
        )
    for name, title, kind in _ROWS:
        if any(f"{system}/{name}" in metrics for system in systems):
            table.add_row(title, *(_cell(metrics, f"{system}/{name}", kind) for system in systems))
        if name == "field_f1":
            for field in _fields(metrics, systems[-1]):
                cells = (_cell(metrics, f"{system}/field_f1/{field}", "rate") for system in systems)
                table.add_row(f"[dim]  {escape(field)}", *cells, style="dim")
    brought = [
        name
        for name in metrics["settings"]["eval"].get("metrics", [])
        if name not in METRIC_FAMILIES
    ]
    for name in brought:  # by a package
        if f"{systems[-1]}/{name}" in metrics:
            table.add_row(
                escape(name), *(_cell(metrics, f"{system}/{name}", "number") for system in systems)
            )
    return table


def _fields(metrics: Mapping[str, Any], system: str) -> list[str]:
    """Fields of the JSON answers; none where there are too many to be read."""
    prefix = f"{system}/field_f1/"
    fields = [key.removeprefix(prefix) for key in metrics if key.startswith(prefix)]
    return fields if len(fields) <= _FIELDS else []


def _cell(metrics: Mapping[str, Any], key: str, kind: str) -> str:
    if key not in metrics:  # a measure that has nothing to count in this system's answers
        return "-"
    value, interval = metrics[key], metrics["intervals"].get(key)
    if kind == "count":
        return f"{value:,.0f}"
    scale, digits = (100, 1) if kind == "rate" else (1, 3 if value < 1000 else 0)
    shown = f"{scale * value:.{digits}f}"
    return (
        f"{shown} [dim]\\[{scale * interval[0]:.{digits}f}, {scale * interval[1]:.{digits}f}][/]"
        if interval
        else shown
    )


_LOST = (
    ("bits_per_byte", "general texts, bits per byte", "{:.4f}"),
    ("nll", "answers to general questions, NLL", "{:.4f}"),
    ("instructions", "instructions followed", "{:.3f}"),
)


def forgetting(metrics: Mapping[str, Any]) -> Table:
    """What the fine-tuned model lost on the panel."""
    table = Table(title="forgetting", title_justify="left", title_style="bold", header_style="bold")
    for column in ("", "before", "after", "difference"):
        table.add_column(column, justify="right" if column else "left")
    for name, title, form in _LOST:
        key = f"forgetting/{name}"
        if key in metrics:
            edge = metrics["intervals"].get(f"{key}_delta")
            delta = f"{metrics[f'{key}_delta']:+.4f} " + (
                f"[dim]\\[{edge[0]:+.4f}, {edge[1]:+.4f}][/]" if edge else "[dim](too few)[/]"
            )
            table.add_row(
                title, form.format(metrics[f"{key}_base"]), form.format(metrics[key]), delta
            )
    if "forgetting/kl" in metrics:
        table.add_row(
            "divergence from the base, nats a token", "", f"{metrics['forgetting/kl']:.4f}", ""
        )
    return table


def without_leaks(values: Mapping[str, Any]) -> str:
    """One sentence about leaky rows; empty where there are none."""
    if "eval_clean/rows" not in values:
        return ""
    name = next((name for name in MAIN if f"eval/{name}" in values), "nll")
    raw, clean, rows = (
        values[f"eval/{name}"],
        values[f"eval_clean/{name}"],
        values["eval_clean/rows"],
    )
    return (
        f"some test rows are in training, or nearly: without them {TITLES[name]} is {clean:.3f}"
        f" instead of {raw:.3f} ({rows:.0f} rows)"
    )


def times(seconds: Mapping[str, float]) -> Table:
    """Where the time went."""
    total = sum(seconds.values())
    table = Table(
        title="where the time went", title_justify="left", title_style="bold", header_style="bold"
    )
    for column in ("stage", "seconds", "share"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage, spent in seconds.items():
        table.add_row(stage, f"{spent:.1f}", f"{100 * spent / total:.0f} %")
    table.add_row("[bold]all", f"[bold]{total:.1f}", "")
    return table
