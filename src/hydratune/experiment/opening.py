"""What a run writes before it trains: environment.json, data.json, data.html, the first lines."""

from pathlib import Path
from typing import Any

from rich.markup import escape

from hydratune.adapters import continued
from hydratune.adapters.folder import told
from hydratune.console import console
from hydratune.data.described import SHOWN, count_tokens, described
from hydratune.data.report import render
from hydratune.experiment.job import Job
from hydratune.models import hardware
from hydratune.records.files import write_json, write_text
from hydratune.records.run_directory import RunDirectory
from hydratune.settings.adapter import PeftAdapter
from hydratune.tracking import environment


def write_opening(job: Job, record: RunDirectory) -> dict[str, Any]:
    """Write what is trained on what, and print it. Returns the facts for W&B."""
    facts = _facts(job)
    write_json(record.path / "environment.json", _environment(job, facts))
    write_json(record.path / "data.json", job.data_facts)
    page = job.context.resources.shared("data page", lambda: _data_page(job))
    write_text(record.path / "data.html", page)
    if job.bench.schema is not None:
        write_json(record.schema_file, job.bench.schema)
    _print_opening(job, record)
    return facts | {
        "validation": job.data_facts["splits"]["validation"]["tokens_hash"],
        "code": environment.code_hash(),
    }


def _facts(job: Job) -> dict[str, Any]:
    """Return what identifies a run's model, data and code, for the record and for W&B."""
    start = {"start": continued.facts(job.start)} if job.start is not None else {}
    return {
        "base": job.source.identity,
        **start,
        "data_fingerprint": job.data_facts["fingerprint"],
        "git": environment.git_commit(Path(__file__).parent),
        "precision": job.compute.precision,
    }


def _environment(job: Job, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the content of environment.json."""
    model = job.config.model
    return {
        "versions": environment.versions(),
        "hardware": {**hardware.describe(), **job.compute.stored()},
        "code": environment.code_hash(),
        "seed": job.config.seed,
        "model": {
            "name": model.name,
            "licence": model.licence,
            "source": job.source.name,
            "identity": job.source.identity,
        },
        **facts,
    }


def _print_opening(job: Job, record: RunDirectory) -> None:
    config, splits = job.config, job.data_facts["splits"]
    counts = ", ".join(f"{name} {facts['kept']}" for name, facts in splits.items())
    device = f"{job.compute.accelerator}, {job.compute.precision}"
    console.print(
        f"[bold]{config.name}[/]  {escape(config.model.name)} ({config.model.licence}) on {device}"
    )
    if job.start is not None:
        assert isinstance(config.adapter, PeftAdapter)
        console.print(
            escape(
                f"starts from the adapter in {job.start.path} ({told(config.adapter)}); the"
                " baselines are the base model without it"
            ),
            soft_wrap=True,
        )
    console.print(
        f"rows: {counts}; {splits['train']['tokens']:,} training tokens,"
        f" {splits['train']['trained_tokens']:,} of them trained"
    )
    console.print(f"scored as {job.bench.task.value}; record: {escape(str(record.path))}")


def _data_page(job: Job) -> str:
    """Return the report of ``hydratune prepare``, with the loss masks of the first rows."""
    tokens = count_tokens(job.config.data, job.prepared, job.encoder, job.reader)
    examples = zip(job.sets.train[:SHOWN], job.train[:SHOWN], strict=True)
    splits = job.data_facts["splits"]
    used = ", ".join(f"{facts['kept']} {name} rows" for name, facts in splits.items())
    name, model = str(job.config.name), job.config.model.name
    return render(described(name, model, job.prepared, tokens, examples, used))
