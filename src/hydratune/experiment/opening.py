"""What a run writes before it trains: environment.json, data.json, data.html, the first lines."""

from pathlib import Path

from rich.markup import escape

from hydratune.adapters import continued
from hydratune.adapters.base import PeftAdapter
from hydratune.adapters.folder import describe_adapter
from hydratune.console import console
from hydratune.data.report import render
from hydratune.data.report_content import MASKS_SHOWN, count_tokens, report_content
from hydratune.data.sets import which_rows
from hydratune.experiment.job import Job
from hydratune.models import hardware
from hydratune.records.environment import Environment
from hydratune.records.files import write_json, write_text
from hydratune.records.headline import data_name
from hydratune.records.run_directory import RunDirectory, RunFile
from hydratune.settings import used_parts
from hydratune.tracking.environment import code_hash, git_commit, versions
from hydratune.wording import counted


def write_opening(job: Job, record: RunDirectory) -> dict[str, object]:
    """Write what is trained on what, and print it. Returns the facts for W&B."""
    environment = _environment(job)
    environment.write(record.environment_file)
    write_json(record.data_file, job.data_facts)
    drawn = which_rows(job.config.data, job.config.seed)
    page = job.context.resources.shared(f"data page{drawn}", lambda: _data_page(job))
    write_text(record.file(RunFile.data_page), page)
    if job.test_set.schema is not None:
        write_json(record.schema_file, job.test_set.schema)
    _print_opening(job, record)
    validation = job.data_facts["splits"]["validation"]["tokens_hash"]
    return {**environment.facts(), "validation": validation, "code": environment.code}


def _environment(job: Job) -> Environment:
    model, source = job.config.model, job.source
    return Environment(
        versions=versions(),
        hardware={**hardware.describe(), **job.compute.stored()},
        code=code_hash(),
        seed=job.config.seed,
        model={
            "name": model.name,
            "licence": model.licence,
            "source": source.name,
            "identity": source.identity,
        },
        base=source.identity,
        start={**continued.facts(job.start)} if job.start is not None else None,
        parts=used_parts.facts(job.config) or None,
        data_fingerprint=job.data_facts["fingerprint"],
        git=git_commit(Path(__file__).parent),
        precision=job.compute.precision,
    )


def _print_opening(job: Job, record: RunDirectory) -> None:
    config, splits = job.config, job.data_facts["splits"]
    counts = ", ".join(f"{name} {facts['kept']}" for name, facts in splits.items())
    device = f"{job.compute.accelerator}, {job.compute.precision}"
    console.print(
        f"[bold]{config.name}[/]  {escape(config.model.name)} ({config.model.licence}) on {device}"
    )
    for used in used_parts.used_parts(config):
        console.print(escape(f"{used.title}: {used.owner}"), soft_wrap=True)
    if job.start is not None:
        assert isinstance(config.adapter, PeftAdapter)
        console.print(
            escape(
                f"starts from the adapter in {job.start.path} ({describe_adapter(config.adapter)});"
                " the baselines are the base model without it"
            ),
            soft_wrap=True,
        )
    console.print(
        f"rows: {counts}; {counted(splits['train']['tokens'], 'training token')},"
        f" {splits['train']['trained_tokens']:,} of them trained"
    )
    console.print(f"scored as {job.test_set.task.value}; record: {escape(str(record.shown))}")


def _data_page(job: Job) -> str:
    """Return the report of ``hydratune prepare``, with the loss masks of the first rows."""
    tokens = count_tokens(job.config.data, job.prepared, job.encoder, job.reader)
    examples = zip(job.sets.train[:MASKS_SHOWN], job.train[:MASKS_SHOWN], strict=True)
    splits = job.data_facts["splits"]
    used = ", ".join(counted(facts["kept"], f"{name} row") for name, facts in splits.items())
    name, model = str(job.config.name), job.config.model.name
    report = report_content(name, model, job.prepared, tokens, examples, used)
    return render(report, data_name(job.config.data))
