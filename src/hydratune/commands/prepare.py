"""hydratune prepare: read, clean, check and split a data set; write it down with a report for people and for machines."""

from pathlib import Path
from typing import Any

from rich.markup import escape

from hydratune.config import Level, PrepareConfig, PreparedData
from hydratune.console import console, progress, section
from hydratune.data.masking import ChatEncoder
from hydratune.data.prepared import Prepared, prepare, write_prepared
from hydratune.data.preview import show
from hydratune.data.quality.findings import CHECKS
from hydratune.data.reading import SPLIT_NAMES, with_system
from hydratune.data.report import write_html
from hydratune.data.tokens import TokenCheck
from hydratune.errors import ConfigError, DataError, Problem
from hydratune.models import sources
from hydratune.records import RunDirectory, write_json

_SHOWN = 5  # rows whose mask is in the report
_QUIET = 5_000  # rows: below it there is nothing to wait for


def run(config: PrepareConfig, record: RunDirectory) -> None:
    """Raises ``DataError`` after everything is written, if a check refuses the data."""
    output = _output(config)
    section("data")
    prepared = prepare(config.data)
    for statement in prepared.report["source"]:
        console.print(escape(statement), soft_wrap=True)
    reader = sources.reader(config.model)
    encoder = ChatEncoder(reader.tokenizer, reader.turn_end_ids)
    tokens = _count_tokens(config, prepared, TokenCheck(encoder, config.data, reader.context_window))
    report = _report(config, prepared, tokens)
    _print(report)
    if config.preview:
        section("mask")
        show(console, encoder, *_masked(config, prepared, encoder, config.preview), config.preview)
    section("written")
    errors = [name for name, check in report["checks"].items() if check["level"] == Level.error.value and check["count"]]
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "report.json", report)
    write_html(output / "report.html", report)
    console.print(f"report      {output}/report.html  [dim](and report.json)", soft_wrap=True)
    if errors:
        for name in SPLIT_NAMES:  # of an earlier, better time
            (output / f"{name}.parquet").unlink(missing_ok=True)
        found = "\n".join(f"  {name}: {CHECKS[name].title}\n    fix: {CHECKS[name].fix}" for name in errors)
        raise DataError(f"the data set is not fit for training, so only the report was written.\n{found}")
    write_prepared(prepared, output)
    console.print(f"data        {output}/train.parquet, validation.parquet, test.parquet", soft_wrap=True)
    console.print(f"train       hydratune train data=prepared data.path={output}", soft_wrap=True)


def _output(config: PrepareConfig) -> Path:
    """The folder to write. Raises ``ConfigError`` if it holds something else."""
    output = Path(config.output).expanduser() if config.output else Path("outputs/prepared") / str(config.name)
    ours = {"report.json", "report.html", *(f"{name}.parquet" for name in SPLIT_NAMES)}
    if output.exists() and not output.is_dir():
        raise ConfigError([Problem("output", output, "this is a file", "give a folder")])
    if isinstance(config.data, PreparedData) and output.resolve() == Path(config.data.path).resolve():
        raise ConfigError([Problem("output", output, "this is the data set that is read", "give another folder")])
    others = sorted(path.name for path in output.iterdir() if path.name not in ours)[:5] if output.is_dir() else []
    if others:
        why = f"this folder holds other things: {', '.join(others)}"
        raise ConfigError([Problem("output", output, why, "choose an empty or a new folder")])
    return output


def _count_tokens(config: PrepareConfig, prepared: Prepared, check: TokenCheck) -> TokenCheck:
    count = sum(split["rows"] for split in prepared.report["splits"].values())
    with progress("counting tokens, checking masks", count, "rows", quiet=count < _QUIET) as ticker:
        for name in SPLIT_NAMES:
            rows = (with_system(row, config.data.system_prompt) for row in prepared.rows(name))
            check.split(name, rows, lambda steps: ticker.advance(steps, steps))
    return check


def _report(config: PrepareConfig, prepared: Prepared, tokens: TokenCheck) -> dict[str, Any]:
    """The content of report.json."""
    summary = tokens.summary()
    previews = []
    rows, encoded = _masked(config, prepared, tokens.encoder, _SHOWN)
    for row, example in zip(rows, encoded, strict=True):
        previews.append({"id": row.id, "pieces": mask_pieces(tokens.encoder, example)})
    return {
        "name": config.name,
        **prepared.report,
        "checks": {**{name: finding.plain() for name, finding in tokens.findings.items()}, **prepared.report["checks"]},
        "tokens": {"model": config.model.name, **summary},
        "mask": previews,
    }


def _masked(config: PrepareConfig, prepared: Prepared, encoder: ChatEncoder, count: int) -> tuple[list[Any], list[Any]]:
    """The first training rows whose mask can be made."""
    rows, encoded = [], []
    for raw in prepared.rows("train"):
        row = with_system(raw, config.data.system_prompt)
        try:
            encoded.append(encoder.encode(row, config.data.train_on))
        except DataError:
            continue
        rows.append(row)
        if len(rows) == count:
            break
    return rows, encoded
