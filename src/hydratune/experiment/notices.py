"""What the terminal says of the model and the data before training."""

from collections.abc import Mapping

from rich.markup import escape

from hydratune import metric_table
from hydratune.console import console
from hydratune.data.prepared import Prepared
from hydratune.data.quality.findings import describe_places
from hydratune.data.quality.skipped import describe_skipped
from hydratune.data.sources.prepared import PreparedData
from hydratune.evaluation.assess import can_be_shown
from hydratune.experiment import compatibility
from hydratune.experiment.job import Job
from hydratune.records.files import Json
from hydratune.settings.evaluation import Baseline
from hydratune.settings.monitor import Monitor
from hydratune.wording import counted

_FEW_VALIDATION_ROWS = 5
_MOST_STATEMENTS = 10  # about how a source was read, on the terminal; data.json has all

_CANARY = "canary, a made-up row with a secret, is"
_CANARIES = "canaries, made-up rows with secrets, are"


def quality(prepared: Prepared) -> dict[str, Json]:
    """Return what data.json says of the preparation: findings, repairs and rows that were dropped.

    ``left`` are the findings that cleaning would repair, and does not, by the settings.
    """
    report = prepared.report
    checks = {
        name: {
            "level": check["level"],
            "count": check["count"],
            "splits": check.get("splits", {}),
        }
        for name, check in report["checks"].items()
        if check["count"]
    }
    repairs = {name: entry for name, entry in report["cleaning"].items() if entry["rows"]}
    facts: dict[str, Json] = {
        "prepared": report["fingerprint"],
        "source": report["source"],
        "quality": checks,
        "cleaning": {name: entry["rows"] for name, entry in repairs.items() if entry["on"]},
        "left": {name: entry["rows"] for name, entry in repairs.items() if not entry["on"]},
        "left_out": report["left_out"],
    }
    if "skipped" in report:
        facts["skipped"] = report["skipped"]
    return facts


def print_notices(job: Job, base_warning: str) -> None:
    """Print what is unusual about the model, the prompts, the data and the precision.

    ``base_warning``: what is unusual about the adapter from which training starts, or "".
    """
    for notice in compatibility.notices(job.encoder):
        console.print(f"[yellow]{escape(notice)}", soft_wrap=True)
    if job.config.model.trust_remote_code:
        console.print(
            "[yellow]model.trust_remote_code=true: code that comes with the model runs on this"
            " machine, with all rights of this user",
            soft_wrap=True,
        )
    _print_few_shot(job)
    facts = quality(job.prepared)
    repaired = ", ".join(f"{name} {rows:,}" for name, rows in facts["cleaning"].items())
    origin = "taken from the cache" if job.prepared.reused else "prepared and checked"
    if isinstance(job.config.data, PreparedData):
        origin = "as it was prepared"
    cleaned = f"; cleaned: {repaired}" if repaired else ""
    console.print(f"[dim]data: {origin}{cleaned}", soft_wrap=True)
    for statement in facts["source"][:_MOST_STATEMENTS]:
        console.print(f"[dim]{escape(statement)}", soft_wrap=True)
    _print_precision(job)
    _print_direction(job)
    _print_few_validation_rows(job)
    if count := job.config.evaluation.canaries:
        console.print(f"[yellow]{counted(count, _CANARY, _CANARIES)} among the training rows")
    findings = _describe_findings(job.prepared, facts)
    if findings:
        console.print(
            f"[yellow]data checks found: {escape(findings)} [dim](hydratune prepare, with the same"
            " settings, shows the rows)",
            soft_wrap=True,
        )
    if skipped := describe_skipped(job.prepared.report.get("skipped", {})):
        console.print(f"[yellow]data checks {escape(skipped)}", soft_wrap=True)
    if base_warning:
        console.print(f"[yellow]{escape(base_warning)}", soft_wrap=True)


def _print_few_validation_rows(job: Job) -> None:
    count, limit = len(job.sets.validation), job.config.data.max_validation_rows
    if count < _FEW_VALIDATION_ROWS and (limit is None or count < limit):
        console.print(
            f"[yellow]only {counted(count, 'validation row')}: the weights that are kept, and the"
            " best run of a sweep, are chosen by so few; a larger data.validation_fraction, or rows"
            " of your own as data.validation, help",
            soft_wrap=True,
        )


def _print_few_shot(job: Job) -> None:
    """Say if the few-shot baseline has fewer examples than the settings ask for."""
    shots, examples = job.config.evaluation.shots, len(job.examples)
    if Baseline.fewshot not in job.config.evaluation.baselines or examples >= shots:
        return
    what = f"has {examples} instead of {shots} examples" if examples else "is skipped"
    why = "no more fit into the model's context, or there are no more rows"
    if not all(map(can_be_shown, job.sets.test)):
        why = "the test rows are documents or use tools, for which examples make no prompt"
    console.print(f"[yellow]the few-shot baseline {what}: {why}")


def _print_precision(job: Job) -> None:
    """Warn of weights in bf16, which full fine-tuning allows (adapters refuse them)."""
    if job.config.trainer.precision == "bf16-true":
        console.print(
            "[yellow]trainer.precision=bf16-true: weights in bf16 lose updates smaller than 1/256"
            " of them, most of those of usual learning rates; bf16-mixed keeps them, for twice the"
            " memory",
            soft_wrap=True,
        )


def _print_direction(job: Job) -> None:
    """Warn of a direction in ``trainer.monitor`` that is not the one of the metric."""
    text = job.config.trainer.monitor
    monitor = Monitor.read(text)
    if metric_table.lower_is_better(monitor.metric) in (None, monitor.lower):
        return
    better, kept = ("higher", "lowest") if monitor.lower else ("lower", "highest")
    console.print(
        f"[yellow]trainer.monitor={escape(text)} keeps the worst weights: {better} values of"
        f" {escape(monitor.metric)} are better, and those with the {kept} one are kept;"
        f" trainer.monitor={escape(monitor.metric)} keeps the best",
        soft_wrap=True,
    )


def _describe_findings(prepared: Prepared, facts: Mapping[str, Json]) -> str:
    """Return, in one line, what the checks found and what is not repaired, each with its splits."""
    checks, repairs = prepared.report["checks"], prepared.report["cleaning"]
    findings = [
        f"{name} {check['count']:,} ({describe_places(checks[name])})"
        for name, check in facts["quality"].items()
        if name != "size"
    ]
    findings += [
        f"{name} {rows:,} ({describe_places(repairs[name])}; data.clean.{name}=true repairs"
        f" {'them' if rows > 1 else 'it'})"
        for name, rows in facts["left"].items()
    ]
    return ", ".join(findings).replace(" ()", "").replace("(; ", "(")
