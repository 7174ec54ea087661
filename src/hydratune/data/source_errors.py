"""Open a data source so that files that cannot be read are one clear message.

This covers every source: a reader need not expect files that are missing, broken or not UTF-8.
"""

import csv
import io
import json
import logging
import lzma
import stat
import traceback
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow

from hydratune.data.rows import Row
from hydratune.data.silence import said_if_silent
from hydratune.data.sources.base import OpenedSource, SourceConfig
from hydratune.errors import DataError, HydratuneError
from hydratune.settings.data import DataConfig
from hydratune.settings.registry import flat

# What reading a file raises if it cannot be opened, is broken, or is not what its reader expects.
_FILE_ERRORS = (
    OSError,  # also of gzip and bz2
    EOFError,  # of an archive that was cut
    UnicodeError,
    json.JSONDecodeError,
    csv.Error,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    pyarrow.ArrowException,
)


def open_source(config: SourceConfig) -> OpenedSource:
    """Open a data source.

    Raises ``InputError``, also while its rows are read: errors of its files are ``DataError``.
    """
    _refuse_pipes(config)
    with _readable_files(config), said_if_silent(_name(config)) as waiting, waiting:
        source = config.open()
    rows = {split: _checked(rows, config) for split, rows in source.rows.items()}
    return replace(source, rows=rows)


def check_first_rows(config: DataConfig) -> None:
    """Read the first rows of a data source, where that is cheap.

    A wrong column is an error before torch is loaded. What is read is not logged: it will be when
    the data is prepared. Raises ``InputError``.
    """
    if not isinstance(config, SourceConfig):
        return
    log = logging.getLogger("hydratune.data")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        _refuse_pipes(config)
        with _readable_files(config), said_if_silent(_name(config)) as waiting, waiting:
            config.read_first_rows()
    finally:
        log.setLevel(level)


def _checked(rows: Iterator[Row], config: SourceConfig) -> Iterator[Row]:
    """Yield the rows of a source. Raises ``DataError`` if a file cannot be read."""
    with _readable_files(config), said_if_silent(_name(config)) as waiting:
        given = iter(rows)  # a source may have a list
        while True:
            with waiting:
                row = next(given, None)
            if row is None:
                return
            yield row


def _name(config: SourceConfig) -> str:
    """Return the name by which a source is chosen."""
    return str(getattr(config, "source", type(config).__name__))


@contextmanager
def _readable_files(config: SourceConfig) -> Iterator[None]:
    """Raise errors of files as ``DataError``: which file, what is wrong, and what to do.

    Any other error keeps its type, and a note says which source raised it.
    """
    try:
        yield
    except _FILE_ERRORS as error:
        where = _position(error, config) or _paths_in_settings(config)
        raise DataError(f"{where}: {_reason_and_advice(error)}") from error
    except HydratuneError:
        raise
    except Exception as error:
        kind = type(config)
        name = getattr(config, "source", kind.__name__)
        error.add_note(f"the data source {name} raised it ({kind.__qualname__}, {kind.__module__})")
        raise


def _reason_and_advice(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        byte = error.object[error.start]
        return f"not {error.encoding} (byte 0x{byte:02x}); save the file as UTF-8"
    if isinstance(error, json.JSONDecodeError):
        if not error.doc.strip():
            return "the file is empty, and JSON was expected; give a file with rows"
        return f"broken JSON at column {error.colno} ({error.msg}); correct the file"
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be read ({error.strerror}); give a file that can be opened"
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return f"cannot be read ({reason[:300]}); give a file that is whole and of the right format"


def _position(error: Exception, config: SourceConfig) -> str:
    """Return file:line of an error, or the file where there is no line; "" if it is not known."""
    file = _file_of(error)
    if file is None:
        files = [Path(value) for value in _texts(config).values() if _is_file(value)]
        if len(files) != 1:
            return ""
        file = files[0]
    line = _line_of(error, file)
    return f"{file}:{line}" if line else str(file)


def _file_of(error: Exception) -> Path | None:
    """Return the file that an error is about.

    An ``OSError`` names it. For other errors it is the file that the innermost function of the
    traceback was reading, which has it, or the stream that reads it, among its variables.
    """
    if isinstance(error, OSError) and isinstance(error.filename, str):
        return Path(error.filename)
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in reversed(frames):
        for value in frame.f_locals.values():
            name = getattr(value, "name", None) if isinstance(value, io.IOBase) else value
            if isinstance(name, str | Path) and _is_file(str(name)):
                return Path(name)
    return None


def _is_file(name: str) -> bool:
    return name != "" and stat.S_ISREG(_mode(name))


def _mode(name: str) -> int:
    """Return the type and permissions of a path as the operating system has them; 0 if unknown."""
    try:
        return Path(name).stat().st_mode
    except (OSError, ValueError):
        return 0


def _line_of(error: Exception, file: Path) -> int:
    """Return the line of ``file`` that an error is about, from 1; 0 if it is not known."""
    if isinstance(error, UnicodeDecodeError):
        part, before = error.object, error.object.count(b"\n", 0, error.start)
    elif isinstance(error, json.JSONDecodeError) and error.doc.strip():
        part, before = error.doc.encode("utf-8", "surrogatepass"), error.lineno - 1
    else:
        return 0
    try:
        content = file.read_bytes()
    except OSError:
        return 0
    start = content.find(part)
    return content.count(b"\n", 0, start) + before + 1 if start >= 0 else 0


def _paths_in_settings(config: SourceConfig) -> str:
    """Return the settings of a source that are files or folders, as ``data.path = x``."""
    paths = {key: value for key, value in _texts(config).items() if _mode(value)}
    return ", ".join(f"data.{key} = {value}" for key, value in paths.items()) or "data"


def _texts(config: SourceConfig) -> dict[str, str]:
    """Return the settings of a source that may be paths, by key."""
    values = flat(config.own_settings())
    return {
        key: value
        for key, value in values.items()
        if isinstance(value, str) and value and key.rpartition(".")[2] != "source"
    }


def _refuse_pipes(config: SourceConfig) -> None:
    """Raise ``DataError`` for a pipe, socket or device: it can be read once at most, or never."""
    for key, value in _texts(config).items():
        mode = _mode(value)
        if mode and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise DataError(
                f"data.{key} = {value}: this is a pipe or a device, and rows are read more than"
                " once; write them into a file, and give that"
            )
