"""Read what W&B's client wrote on this machine: the transaction log of a run, without a server.

The file is a log in LevelDB's format: after a header of 7 bytes, blocks of 32 KiB hold records that
may be split into pieces. The records are the client's protobuf messages.
"""

import json
import struct
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hydratune.errors import RunError

if TYPE_CHECKING:
    from wandb.proto.wandb_internal_pb2 import Record

_HEADER, _MAGIC, _BLOCK = 7, b":W&B", 32768  # bytes
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4  # kinds of pieces
_SUMMARIES = ("min", "max", "last", "mean", "best")  # what the client can keep of a metric


@dataclass
class Log:
    """The content of one file. ``exit_code`` None: it does not say how the run ended."""

    file: Path
    id: str = ""
    name: str = ""
    group: str = ""
    job_type: str = ""
    started: float = 0.0  # seconds since 1970
    config: dict[str, object] = field(default_factory=dict)
    summary: dict[str, object] = field(default_factory=dict)
    history: list[dict[str, object]] = field(default_factory=list)
    exit_code: int | None = None

    def resumed_by(self, later: "Log") -> "Log":
        """Return the log of the whole run that the process of ``later`` resumed."""
        return Log(
            later.file,
            later.id,
            later.name or self.name,
            later.group or self.group,
            later.job_type or self.job_type,
            self.started,
            self.config | later.config,
            self.summary | later.summary,
            self.history + later.history,
            later.exit_code,
        )


def find_logs(path: Path) -> list[Path]:
    """Return the logs at or below ``path``, each once: latest-run is a link to another folder."""
    if path.suffix == ".wandb" and path.is_file():
        return [path]
    files = sorted(path.glob("**/run-*.wandb"), reverse=True)
    return list({file.resolve(): file for file in files}.values())[::-1]


def read_log(file: Path) -> Log:
    """Read a log; one that was cut is read up to the cut.

    Raises ``RunError`` for a file that is no log, or holds no run.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from wandb.proto.wandb_internal_pb2 import Record

    log = Log(file)
    try:
        for content in _read_records(file):
            record = Record()
            record.ParseFromString(content)
            _add_record(log, record)
    except (DecodeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(
            f"{file} is damaged ({type(error).__name__}); wandb sync may still save some of it"
        ) from None
    except OSError as error:
        raise RunError(f"{file} cannot be read: {error.strerror or error}") from None
    if not log.id:
        raise RunError(f"ended before anything was written: {file} holds no run")
    return log


def _read_records(file: Path) -> Iterator[bytes]:
    """Yield the records, joined from their pieces; an incomplete one at the end is dropped."""
    content = file.read_bytes()
    if not content.startswith(_MAGIC):
        raise RunError(
            f"{file} is no file of W&B's client (it begins with {content[:4]!r}, not {_MAGIC!r})"
        )
    at, record = _HEADER, b""
    while at + _HEADER <= len(content):
        room = _BLOCK - at % _BLOCK
        if room < _HEADER:  # padding: too little room for another header
            at += room
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        piece = content[at + _HEADER : at + _HEADER + length]
        if not _WHOLE <= kind <= _LAST:  # zeros to the end of the block
            at += room
            continue
        if len(piece) < length:
            return
        record = piece if kind in (_WHOLE, _FIRST) else record + piece
        if kind in (_WHOLE, _LAST):
            yield record
        at += _HEADER + length


def _add_record(log: Log, record: "Record") -> None:
    kind = record.WhichOneof("record_type")
    if kind == "run":
        run = record.run
        log.id, log.name, log.group = run.run_id, run.display_name, run.run_group
        log.job_type = run.job_type
        log.started = run.start_time.ToSeconds()
        _update(log.config, run.config.update)
    elif kind == "config":
        _update(log.config, record.config.update)
    elif kind == "summary":
        _update(log.summary, record.summary.update)
        for item in record.summary.remove:
            log.summary.pop(_key_path(item)[0], None)
    elif kind == "history":
        row: dict[str, object] = {}
        _update(row, record.history.item)
        log.history.append(row)
    elif kind == "exit":
        log.exit_code = record.exit.exit_code


def _key_path(item: "Record") -> Sequence[str]:
    return list(item.nested_key) or [item.key]


def _update(values: MutableMapping[str, object], items: "Sequence[Record]") -> None:
    """Set the values of ``items``, whose keys may be nested."""
    for item in items:
        *parents, last = _key_path(item)
        inner = values
        for name in parents:
            child = inner.get(name)
            if not isinstance(child, dict):
                child = inner[name] = {}
            inner = child
        inner[last] = json.loads(item.value_json) if item.value_json else None


def numbers(values: Mapping[str, object], prefix: str = "") -> dict[str, float | bool]:
    """Return the numbers by flat names.

    ``{"min": 0.3}``, which the client keeps of a metric whose minimum counts, is that number.
    """
    flat: dict[str, float | bool] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, int | float):
            flat[name] = value
        elif isinstance(value, dict) and len(value) == 1 and next(iter(value)) in _SUMMARIES:
            (only,) = value.values()
            if isinstance(only, int | float):
                flat[name] = only
        elif isinstance(value, dict) and "_type" not in value:
            flat |= numbers(value, f"{name}.")
    return flat
