"""hydratune prepare: read, clean, check and split a data set; write it down with a report for
people and for machines.
"""

import gc
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from hydratune import digests
from hydratune.console import console, progress, section
from hydratune.data.answers import SCHEMA_FILE
from hydratune.data.calls import TEXT_ARGUMENTS
from hydratune.data.described import SHOWN, count_tokens, described
from hydratune.data.examples import encoded_examples
from hydratune.data.masking import ChatEncoder
from hydratune.data.prepared import Prepared, prepare, write_prepared
from hydratune.data.preview import show
from hydratune.data.quality.findings import by_split, refusals
from hydratune.data.reader import Reader
from hydratune.data.reading import SPLIT_NAMES, with_system
from hydratune.data.report import write_html
from hydratune.data.tokens import TokenCheck
from hydratune.errors import ConfigError, DataError, InputError, Problem, RunError
from hydratune.evaluation.judge import facts
from hydratune.evaluation.judge.client import Budget, Client
from hydratune.evaluation.judge.clients import make_client
from hydratune.experiment import fitness
from hydratune.models import loading
from hydratune.records.files import write_json
from hydratune.records.run_directory import RunDirectory
from hydratune.settings.commands import PrepareConfig
from hydratune.settings.data import FilesData, HubData, Level, PreparedData

_DATA_FILES = (*(f"{name}.parquet" for name in SPLIT_NAMES), SCHEMA_FILE)
_QUIET = 2_000  # rows: below it there is nothing to wait for


@contextmanager
def _without_looking_at_imports() -> Iterator[None]:
    """Leaves the million objects of imported modules out of garbage collection, which takes a tenth
    of the time otherwise.

    And collects less often: rows make few cycles.
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@_without_looking_at_imports()
def run(config: PrepareConfig, record: RunDirectory) -> None:
    """Raises ``DataError`` after everything is written, if a check refuses the data."""
    output = _output(config)
    judge = (
        make_client(config.facts, lambda: config.model, Budget(config.facts))
        if facts.is_enabled(config.facts)
        else None
    )
    section("data")
    reader = loading.load_reader(config.model)
    fitness.check_model(config, reader)
    prepared = prepare(config.data)
    for statement in prepared.report["source"]:
        console.print(escape(statement), soft_wrap=True)
    encoder = ChatEncoder(reader.tokenizer, reader.turn_end_ids)
    for notice in fitness.notices(encoder):
        console.print(f"[yellow]{escape(notice)}", soft_wrap=True)
    tokens = _count_tokens(config, prepared, encoder, reader)
    if encoder.text_arguments:
        console.print(f"{escape(str(config.model.name))}: {TEXT_ARGUMENTS}", soft_wrap=True)
    masked = zip(*_masked(config, prepared, encoder, SHOWN), strict=True)
    report = described(str(config.name), config.model.name, prepared, tokens, masked)
    unjudged = _facts(config, prepared, report, judge) if judge is not None else ""
    _print(report)
    if config.preview:
        section("mask")
        show(console, encoder, *_masked(config, prepared, encoder, config.preview), config.preview)
    section("written")
    errors = refusals(report["checks"])
    unfit = None if errors else _unfit(config, reader, encoder, prepared, tokens)
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name in _DATA_FILES:  # of an earlier, better time
            (output / name).unlink(missing_ok=True)
        if not errors and unfit is None:
            report |= write_prepared(prepared, output, config.data)
        write_json(output / "report.json", report)
        write_html(output / "report.html", report)
    except OSError as error:
        raise InputError(
            f"cannot write into {output} ({error.strerror or error}); choose another place with"
            " output=DIR"
        ) from error
    console.print(
        f"report      {escape(str(output))}/report.html  [dim](and report.json)", soft_wrap=True
    )
    if errors:
        found = "\n".join(f"  {error}" for error in errors.values())
        raise DataError(
            f"the data set is not fit for training, so only the report was written.\n{found}"
        )
    if unfit is not None:
        raise unfit
    if unjudged:
        raise RunError(
            f"everything was written, but no answer was judged: {unjudged}; none is called"
            " supported or unsupported for it"
        )
    console.print(
        f"data        {escape(str(output))}/train.parquet, validation.parquet, test.parquet",
        soft_wrap=True,
    )
    console.print(
        f"train       hydratune train data=prepared data.path={escape(str(output))}", soft_wrap=True
    )


def _unfit(
    config: PrepareConfig,
    reader: Reader,
    encoder: ChatEncoder,
    prepared: Prepared,
    tokens: TokenCheck,
) -> InputError | None:
    """Why ``train`` would refuse these rows with this model."""
    try:
        fitness.check_prepared(config, reader, encoder, prepared, tokens)
    except InputError as error:
        return error
    return None


def _facts(config: PrepareConfig, prepared: Prepared, report: dict[str, Any], judge: Client) -> str:
    """Has a judge read training answers. Returns why nothing was judged; empty: something was."""
    section("facts")
    rows = (with_system(row, config.data.system_prompt) for row in prepared.rows("train"))
    found = facts.check_facts(rows, config.facts, judge)
    report["checks"]["unsupported"] = found.finding.plain()
    console.print(escape(found.finding.note), soft_wrap=True)
    return "" if found.judged else found.why or "no training row has an answer"


def _default_output(config: PrepareConfig) -> Path:
    """Other data, another folder."""
    data = config.data
    own = None
    if isinstance(data, FilesData):
        file = Path(data.train)
        own = (
            file.resolve().parent.name if file.stem in ("train", "training", "data") else file.stem
        )
    elif isinstance(data, HubData):
        own = data.id.rstrip("/").rpartition("/")[2]
    return Path("outputs/prepared") / str(
        own if own and config.name in ("files", "hub") else config.name
    )


def _output(config: PrepareConfig) -> Path:
    """The folder to write. Raises ``ConfigError`` if it holds something else."""
    output = Path(config.output).expanduser() if config.output else _default_output(config)
    ours = {"report.json", "report.html", digests.INDEX, *_DATA_FILES}
    if output.exists() and not output.is_dir():
        raise ConfigError([Problem("output", output, "this is a file", "give a folder")])
    if (
        isinstance(config.data, PreparedData)
        and output.resolve() == Path(config.data.path).resolve()
    ):
        raise ConfigError(
            [Problem("output", output, "this is the data set that is read", "give another folder")]
        )
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot write into {output} ({error.strerror or error}); choose another place with"
            " output=DIR"
        ) from error
    others = (
        sorted(path.name for path in output.iterdir() if path.name not in ours)[:5]
        if output.is_dir()
        else []
    )
    if others:
        why = f"this folder holds other things: {', '.join(others)}"
        raise ConfigError([Problem("output", output, why, "choose an empty or a new folder")])
    return output


def _count_tokens(
    config: PrepareConfig, prepared: Prepared, encoder: ChatEncoder, reader: Reader
) -> TokenCheck:
    count = sum(split["rows"] for split in prepared.report["splits"].values())
    with progress("counting tokens, checking masks", count, "rows", quiet=count < _QUIET) as ticker:
        return count_tokens(
            config.data, prepared, encoder, reader, lambda rows: ticker.advance(rows, rows)
        )


def _print(report: dict[str, Any]) -> None:
    """The report for the terminal."""
    console.print(_splits_table(report))
    changed = {name: entry for name, entry in report["cleaning"].items() if entry["rows"]}
    if changed:
        table = Table("cleaning", "rows", "", header_style="bold")
        for name, entry in changed.items():
            state = "[green]done" if entry["on"] else f"[dim]left: data.clean.{name}=true does it"
            where = by_split(entry)
            table.add_row(
                f"{entry['title']} [dim]({where})" if where else entry["title"],
                f"{entry['rows']:,}",
                state,
            )
        console.print(table)
    table = Table("check", "rows", "what", "the first", header_style="bold")
    for name, check in report["checks"].items():
        if not check["count"]:
            continue
        style = "bold red" if check["level"] == Level.error.value else "yellow"
        notes = "; ".join(filter(None, (by_split(check), check["note"])))
        what = f"{check['title']} ({notes})" if notes else check["title"]
        table.add_row(
            Text(name, style),
            f"{check['count']:,}",
            Text(what),
            Text("\n".join(_where(check)), "dim"),
        )
    console.print(table)
    clean = [name for name, check in report["checks"].items() if not check["count"]]
    console.print(f"[dim]nothing found by {', '.join(clean)}", soft_wrap=True)


def _where(check: dict[str, Any]) -> list[str]:
    """Where to look: file:line of the first rows, or their ids."""
    places = [Path(place).name if place else "" for place in check.get("where", [])]
    return [
        place or row
        for row, place in itertools.zip_longest(check["rows"][:2], places[:2], fillvalue="")
    ]


def _splits_table(report: dict[str, Any]) -> Table:
    tokens = report["tokens"]
    table = Table(
        header_style="bold",
        title=f"tokens of {tokens['model']}; data.max_length={tokens['max_length']}",
        title_justify="left",
    )
    for column in (
        "split",
        "rows",
        "groups",
        "tokens",
        "trained",
        "median",
        "99 %",
        "longest",
        "too long",
    ):
        table.add_column(column, justify="left" if column == "split" else "right")
    for name, split in report["splits"].items():
        mine = tokens["splits"][name]
        numbers = (split["rows"], split["groups"], mine["tokens"], mine["trained_tokens"])
        lengths = (
            mine["quantiles"]["50"],
            mine["quantiles"]["99"],
            mine["quantiles"]["100"],
            mine["too_long"],
        )
        table.add_row(name, *(f"{n:,}" for n in (*numbers, *lengths)))
    return table


def _masked(
    config: PrepareConfig, prepared: Prepared, encoder: ChatEncoder, count: int
) -> tuple[list[Any], list[Any]]:
    """The first training rows whose mask can be made."""
    rows: list[Any] = []
    encoded: list[Any] = []
    for raw in prepared.rows("train"):
        try:
            examples = list(
                encoded_examples(
                    encoder, [with_system(raw, config.data.system_prompt)], config.data, "train"
                )
            )
        except DataError:
            continue
        rows += [row for row, _ in examples]
        encoded += [example for _, example in examples]
        if len(rows) >= count:
            break
    return rows[:count], encoded[:count]
