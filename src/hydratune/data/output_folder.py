"""The folder into which ``hydratune prepare`` writes."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from hydratune import digests
from hydratune.data.answers import REPORT_FILE, SCHEMA_FILE
from hydratune.data.prepared import Prepared, write_prepared
from hydratune.data.report import write_html
from hydratune.data.rows import SPLIT_NAMES
from hydratune.data.sources.prepared import PreparedData
from hydratune.errors import ConfigError, InputError, Problem
from hydratune.records.files import write_json
from hydratune.settings.commands import PrepareConfig
from hydratune.settings.overrides import as_typed

_DATA_FILES = (*(f"{name}.parquet" for name in SPLIT_NAMES), SCHEMA_FILE)
_OWN_FILES = {REPORT_FILE, "report.html", digests.INDEX, *_DATA_FILES}
_PARENT = Path("outputs/prepared")
_GENERAL_SOURCES = ("files", "hub")  # their names do not say which data is prepared
_OTHERS_NAMED = 5


def choose_folder(config: PrepareConfig) -> Path:
    """Return the folder to write, which exists then.

    Raises ``ConfigError`` if it contains anything else, and ``InputError`` if it cannot be made.
    """
    folder = Path(config.output) if config.output else _default_folder(config)
    if folder.exists() and not folder.is_dir():
        raise _refusal(folder, "this is a file", "give a folder")
    data = config.data
    if isinstance(data, PreparedData) and folder.resolve() == Path(data.path).resolve():
        raise _refusal(folder, "this is the data set that is read", "give another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    others = sorted(path.name for path in folder.iterdir() if path.name not in _OWN_FILES)
    if others:
        why = f"this folder contains other files: {', '.join(others[:_OTHERS_NAMED])}"
        raise _refusal(folder, why, "choose an empty or a new folder")
    return folder


def _default_folder(config: PrepareConfig) -> Path:
    """Return a folder of its own for each data set."""
    suggested = config.data.default_name()
    is_general = config.name in _GENERAL_SOURCES
    return _PARENT / str(suggested if suggested and is_general else config.name)


def write_result(
    folder: Path, report: dict[str, Any], prepared: Prepared | None, config: PrepareConfig
) -> None:
    """Write the report, and the data if ``prepared`` is given, for which ``report`` is completed.

    Data of an earlier run is removed. Raises ``InputError``.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in _DATA_FILES:
            (folder / name).unlink(missing_ok=True)
        if prepared is not None:
            report |= write_prepared(prepared, folder, config.data)
        write_json(folder / REPORT_FILE, report)
        write_html(folder / "report.html", report)
    except OSError as error:
        raise _cannot_write(folder, error) from error


def _refusal(folder: Path, why: str, fix: str) -> ConfigError:
    return ConfigError([Problem("output", folder, why, fix)])


def _cannot_write(folder: Path, error: OSError) -> InputError:
    return InputError(
        f"cannot write into {folder} ({error.strerror or error}); choose another place with"
        " output=DIR"
    )


def print_report_file(console: Console, folder: Path) -> None:
    """Print where the report is."""
    text = f"report      {escape(str(folder))}/report.html  [dim](and {REPORT_FILE})"
    console.print(text, soft_wrap=True)


def print_data_files(console: Console, folder: Path) -> None:
    """Print where the data is, and the command that trains on it."""
    path = escape(str(folder))
    files = f"data        {path}/train.parquet, validation.parquet, test.parquet"
    setting = escape(as_typed("data.path", folder))
    command = f"train       hydratune train data=prepared {setting}"
    for text in (files, command):
        console.print(text, soft_wrap=True)
