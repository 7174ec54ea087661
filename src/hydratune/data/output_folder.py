"""The folder into which ``hydratune prepare`` writes."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from hydratune import digests
from hydratune.console import relative_path
from hydratune.data.answers import REPORT_FILE, SCHEMA_FILE
from hydratune.data.prepared import Prepared, write_prepared
from hydratune.data.report import write_html
from hydratune.data.rows import SPLIT_NAMES
from hydratune.data.sources.prepared import PreparedData
from hydratune.errors import ConfigError, InputError, Problem, RunError
from hydratune.records.files import read_json, write_json
from hydratune.records.headline import data_name
from hydratune.settings.commands import PrepareConfig
from hydratune.settings.data import DataConfig
from hydratune.settings.overrides import as_typed

_DATA_FILES = (*(f"{name}.parquet" for name in SPLIT_NAMES), SCHEMA_FILE)
_OWN_FILES = {REPORT_FILE, "report.html", digests.INDEX, *_DATA_FILES}
_PARENT = Path("outputs/prepared")
_GENERAL_SOURCES = ("files", "hub")  # their names do not say which data is prepared
_OTHERS_NAMED = 5
_ORIGIN = "origin"  # in report.json: what tells the data set from others
_OF_ORIGIN = ("source", "id", "subset", "path", "train", "validation", "test", "tldr")  # settings


def choose_folder(config: PrepareConfig) -> Path:
    """Return the folder to write, which exists then.

    Raises ``ConfigError`` if it contains anything else, or another data set and was not typed, and
    ``InputError`` if it cannot be made.
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
    if not config.output:
        _refuse_other_data(folder, data)
    return folder


def _refuse_other_data(folder: Path, data: DataConfig) -> None:
    """Raise ``ConfigError`` if ``folder`` holds a data set that was prepared from another source.

    What earlier versions wrote does not say its source, and is replaced.
    """
    try:
        before = dict(read_json(folder / REPORT_FILE).get(_ORIGIN) or {})
    except (RunError, OSError, ValueError, AttributeError):  # none, or none that can be read
        return
    now = _origin(data)
    if not before or before == now:
        return
    differing = [key for key in _OF_ORIGIN if before.get(key) != now.get(key)]
    made = ", ".join(f"data.{key}={before.get(key, 'null')}" for key in differing)
    if "parts" in (before.keys() | now.keys()) and not differing:
        made = "other data.parts"
    new = next(other for n in range(2, 1_000_000) if not (other := _numbered(folder, n)).exists())
    why = f"this folder holds another data set, prepared from {made}"
    fix = f"{as_typed('output', new)}; to replace the other data set: {as_typed('output', folder)}"
    raise _refusal(folder, why, fix)


def _numbered(folder: Path, number: int) -> Path:
    return folder.with_name(f"{folder.name}-{number}")


def _origin(data: DataConfig) -> dict[str, Any]:
    """Return the settings that tell a data set from others, with paths from the current folder."""
    settings = vars(data)
    origin: dict[str, Any] = _located(settings)
    parts = settings.get("parts") or {}
    if parts:
        origin["parts"] = {str(name): _located(part) for name, part in parts.items()}
    return origin


def _located(settings: Mapping[str, Any]) -> dict[str, str]:
    return {key: _shown(str(settings[key])) for key in _OF_ORIGIN if settings.get(key)}


def _shown(value: str) -> str:
    path = Path(value)
    return str(relative_path(path.resolve())) if path.exists() else value


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
        report[_ORIGIN] = _origin(config.data)
        write_json(folder / REPORT_FILE, report)
        write_html(folder / "report.html", report, data_name(config.data))
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


def print_data_files(console: Console, folder: Path, settings: Sequence[str]) -> None:
    """Print where the data is, and the command that trains on it with further ``settings``."""
    path = escape(str(folder))
    files = f"data        {path}/train.parquet, validation.parquet, test.parquet"
    words = [*map(shlex.quote, settings), "data=prepared", as_typed("data.path", folder)]
    command = f"train       hydratune train {escape(' '.join(words))}"
    for text in (files, command):
        console.print(text, soft_wrap=True)
