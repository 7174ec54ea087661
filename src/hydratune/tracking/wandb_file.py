"""What the W&B client wrote on this machine: the transaction log of a run, read without a server.

The file is a log of LevelDB's format, in blocks of 32 KiB after a header of 7 bytes; what it holds
are the client's protobuf records.
"""

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydratune.errors import RunError

_HEADER, _MAGIC, _BLOCK = 7, b":W&B", 32768
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4  # kinds of pieces


@dataclass
class Log:
    """What one file says. ``exit_code`` None: it does not say how the run ended."""

    file: Path
    id: str = ""
    name: str = ""
    group: str = ""
    started: float = 0.0
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    exit_code: int | None = None

    def gone_on(self, later: "Log") -> "Log":
        """The same run with what a resumed process wrote."""
        config, summary = self.config | later.config, self.summary | later.summary
        history = self.history + later.history
        return Log(later.file, later.id, later.name or self.name, later.group or self.group, self.started, config, summary, history,  # noqa: E501
                   later.exit_code)  # fmt: skip


def files_of(path: Path) -> list[Path]:
    """The logs at or below ``path``, each once: latest-run is a link to one of the others."""
    if path.suffix == ".wandb" and path.is_file():
        return [path]
    return list(
        {
            file.resolve(): file for file in sorted(path.glob("**/run-*.wandb"), reverse=True)
        }.values()
    )[::-1]


def read(file: Path) -> Log:
    """Raises ``RunError`` for what is no such file, or holds no run; a log that was cut is read as
    far as it goes.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from wandb.proto.wandb_internal_pb2 import Record

    log = Log(file)
    try:
        for content in _records(file):
            record = Record()
            record.ParseFromString(content)
            _take(log, record)
    except (DecodeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(
            f"{file} is damaged ({type(error).__name__}); wandb sync may still save some of it"
        ) from None
    except OSError as error:
        raise RunError(f"{file} cannot be read: {error.strerror or error}") from None
    if not log.id:
        raise RunError(f"ended before anything was written: {file} holds no run")
    return log


def _records(file: Path) -> Iterator[bytes]:
    """The pieces put together; those of the end that are not whole are left out."""
    content = file.read_bytes()
    if not content.startswith(_MAGIC):
        raise RunError(
            f"{file} is no file of W&B's client (it begins with {content[:4]!r}, not {_MAGIC!r})"
        )
    at, parts = _HEADER, b""
    while at + _HEADER <= len(content):
        room = _BLOCK - at % _BLOCK
        if room < _HEADER:  # too little for another header: padding
            at += room
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        piece = content[at + _HEADER : at + _HEADER + length]
        if not _WHOLE <= kind <= _LAST:  # zeros to the end of the block
            at += room
            continue
        if len(piece) < length:
            return
        parts = piece if kind in (_WHOLE, _FIRST) else parts + piece
        if kind in (_WHOLE, _LAST):
            yield parts
        at += _HEADER + length


def _take(log: Log, record: Any) -> None:
    kind = record.WhichOneof("record_type")
    if kind == "run":
        run = record.run
        log.id, log.name, log.group, log.started = (
            run.run_id,
            run.display_name,
            run.run_group,
            run.start_time.ToSeconds(),
        )
        _update(log.config, run.config.update)
    elif kind == "config":
        _update(log.config, record.config.update)
    elif kind == "summary":
        _update(log.summary, record.summary.update)
        for item in record.summary.remove:
            log.summary.pop(_path(item)[0], None)
    elif kind == "history":
        row: dict[str, Any] = {}
        _update(row, record.history.item)
        log.history.append(row)
    elif kind == "exit":
        log.exit_code = record.exit.exit_code


def _path(item: Any) -> Sequence[str]:
    return list(item.nested_key) or [item.key]


def _update(values: dict[str, Any], items: Any) -> None:
    for item in items:
        *above, last = _path(item)
        inner = values
        for name in above:
            if not isinstance(inner.get(name), dict):
                inner[name] = {}
            inner = inner[name]
        inner[last] = json.loads(item.value_json) if item.value_json else None


def numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, float | bool]:
    """What is a number, by flat names; ``{"min": 0.3}``, as the client keeps a summary of which the
    least was asked for, is that number.
    """
    found: dict[str, float | bool] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, (int, float)):
            found[name] = value
        elif (
            isinstance(value, dict)
            and len(value) == 1
            and next(iter(value)) in ("min", "max", "last", "mean", "best")
        ):
            (only,) = value.values()
            found |= {name: only} if isinstance(only, (int, float)) else {}
        elif isinstance(value, dict) and "_type" not in value:
            found |= numbers(value, f"{name}.")
    return found
