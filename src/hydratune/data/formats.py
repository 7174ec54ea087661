"""Reads files and hub data sets into rows. Every refusal names file:line; what was recognised is stated, never guessed silently.

Layouts: OpenAI messages (``messages``), sharegpt (``conversations``), alpaca (``instruction``/``input``/``output``) and
prompt/completion columns under their usual names. ``columns`` maps canonical names to a file's own.
"""

import codecs
import csv
import io
import itertools
import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hydratune.console import console
from hydratune.data.rows import ROLES, Message, Row, stable_hash
from hydratune.errors import DataError

log = logging.getLogger(__name__)

_SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system", "tool": "tool"}
_PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "response"),
    ("question", "answer"),
    ("input", "output"),
    ("source", "target"),
)
_EXTRA = {"id", "group", "system"}
COLUMNS = (
    "messages",
    "conversations",
    "instruction",
    "input",
    "output",
    *dict.fromkeys(n for pair in _PAIRS for n in pair),
    *sorted(_EXTRA),
)
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt")


def read_file(path: Path, columns: Mapping[str, str], encoding: str = "utf-8", statements: list[str] | None = None) -> Iterator[Row]:
    """The rows of one file, one after the other, so that a large file need not fit into memory. Raises ``DataError``.

    What was recognised is logged and appended to ``statements``.
    """
    return to_rows(_records(path, encoding), str(path), columns, statements)


def _records(path: Path, encoding: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (file:line, raw record)."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{path}: unknown file type {suffix or '(none)'!r}; known: {', '.join(SUFFIXES)}")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty; it needs at least one row")
    if suffix == ".parquet":
        yield from _parquet_records(path)
        return
    with _text(path, encoding) as stream:
        try:
            if suffix in (".jsonl", ".ndjson"):
                yield from _jsonl_records(path, stream)
            elif suffix == ".json":
                yield from _json_records(path, stream.read())
            elif suffix == ".txt":
                yield from _paragraphs(path, stream)
            else:
                yield from _csv_records(path, stream, "\t" if suffix == ".tsv" else ",")
        except UnicodeDecodeError:
            raise _wrong_encoding(path, encoding) from None


def _text(path: Path, encoding: str) -> io.TextIOWrapper:
    """The file as text whose lines end with a line feed only, without a byte-order mark."""
    with path.open("rb") as stream:
        head = stream.read(65536)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and not encoding.lower().startswith("utf-16"):
        raise DataError(f"{path}: this is UTF-16 text; state it: data.encoding=utf-16, or save the file as UTF-8")
    if b"\0" in head and not encoding.lower().startswith(("utf-16", "utf-32")):
        raise DataError(f"{path}: this is a binary file, not text; give JSONL, JSON, CSV or Parquet with the right ending")
    try:
        name = codecs.lookup(encoding).name
    except LookupError:
        raise DataError(f"data.encoding = {encoding}: no such encoding; usual: utf-8, latin-1, cp1252") from None
    return io.TextIOWrapper(path.open("rb"), encoding="utf-8-sig" if name == "utf-8" else name, newline="\n")


def _wrong_encoding(path: Path, encoding: str) -> DataError:
    """Finds the first byte that is not ``encoding``; decoding in chunks cannot say where it is."""
    raw = path.read_bytes()
    try:
        raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        return DataError(
            f"{path}:{line}: not {encoding} (byte 0x{raw[error.start]:02x}); save the file as UTF-8, or state its encoding: "
            "data.encoding=latin-1 (or cp1252)"
        )
    return DataError(f"{path}: not {encoding}; save the file as UTF-8, or state its encoding: data.encoding=latin-1 (or cp1252)")


def _jsonl_records(path: Path, lines: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            value = json.loads(line)
        except RecursionError:
            raise DataError(f"{where}: the JSON is nested too deeply to be a row") from None
        except json.JSONDecodeError as error:
            raise DataError(
                f"{where}: broken JSON at column {error.colno} ({error.msg}); one whole JSON object per line is needed"
            ) from None
        yield where, _object(value, where)


def _json_records(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """A JSON file is one value, so it is read whole."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise DataError(f"{path}: the JSON is nested too deeply to be rows") from None
    except json.JSONDecodeError as error:
        hint = "; this looks like JSONL: name it .jsonl" if error.msg == "Extra data" else ""
        raise DataError(f"{path}:{error.lineno}: broken JSON at column {error.colno} ({error.msg}){hint}") from None
    if isinstance(value, dict):
        lists = [v for v in value.values() if isinstance(v, list)]
        if len(lists) != 1:
            raise DataError(f'{path}: a list of rows is needed, or an object with exactly one list in it (as in {{"data": [...]}})')
        value = lists[0]
    if not isinstance(value, list):
        raise DataError(f"{path}: a list of rows is needed, this is {type(value).__name__}")
    for number, item in enumerate(value, 1):
        where = f"{path}[{number}]"
        yield where, _object(item, where)


def _paragraphs(path: Path, lines: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Plain text: each paragraph, up to an empty line, is one row."""
    paragraph: list[str] = []
    for number, line in enumerate(itertools.chain(lines, [""]), 1):
        if line.strip():
            paragraph.append(line)
        elif paragraph:
            yield f"{path}:{number - len(paragraph)}", {"text": "".join(paragraph).rstrip("\r\n")}
            paragraph = []


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where}: a row must be a JSON object, this is {type(value).__name__}")
    return value


def _csv_records(path: Path, lines: Iterable[str], delimiter: str) -> Iterator[tuple[str, dict[str, Any]]]:
    csv.field_size_limit(2**31 - 1)
    first, lines = _peek(lines)
    if delimiter not in first and ";" in first:
        raise DataError(f"{path}:1: the columns are separated by semicolons; save the file with commas, or with tabs as .tsv")
    reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
    names = reader.fieldnames or []
    twice = next((name for name in names if list(names).count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}:1: the column {twice!r} occurs twice; every column needs a name of its own")
    try:
        for record in reader:
            where = f"{path}:{reader.line_num}"
            if None in record:
                raise DataError(f"{where}: more cells than the header has columns; quote cells that contain {delimiter!r}")
            if None in record.values():
                raise DataError(f"{where}: fewer cells than the header has columns")
            yield where, dict(record)
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: broken CSV ({error})") from None


def _peek(lines: Iterable[str]) -> tuple[str, Iterator[str]]:
    """The first line, and all of them."""
    iterator = iter(lines)
    first = next(iterator, "")
    return first, itertools.chain([first], iterator)


def _parquet_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(1000):
                for record in batch.to_pylist():
                    number += 1
                    yield f"{path}[{number}]", record
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from None


def open_hub(name: str, subset: str | None, split: str, revision: str | None) -> Any:
    """One split of a hub data set or of a local data set folder, memory-mapped. Raises ``DataError``."""
    import datasets

    if not console.is_terminal:
        datasets.disable_progress_bars()
    try:
        if (Path(name) / "dataset_dict.json").is_file() or (Path(name) / "state.json").is_file():  # written by save_to_disk
            saved = datasets.load_from_disk(name)
            return saved[split] if isinstance(saved, datasets.DatasetDict) else saved
        return datasets.load_dataset(name, subset, split=split, revision=revision)
    except Exception as error:  # the library raises a dozen unrelated types, most of them about the network
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"data.id = {name}: cannot load split {split!r} ({first}); check the name, the network and HF_TOKEN for a gated set, "
            "or download it and use data=files"
        ) from error


def read_hub(data: Any, name: str, split: str, columns: Mapping[str, str], statements: list[str] | None = None) -> Iterator[Row]:
    """The rows of what ``open_hub`` opened. Raises ``DataError``."""
    records = ((f"{name}[{split}][{number}]", dict(record)) for number, record in enumerate(data, 1))
    return to_rows(records, f"{name}[{split}]", columns, statements)


def to_rows(
    records: Iterable[tuple[str, Mapping[str, Any]]], source: str, columns: Mapping[str, str], statements: list[str] | None = None
) -> Iterator[Row]:
    """Recognises the layout from the first record, says so in the log, and converts every record. Raises ``DataError``."""
    layout: str | None = None
    for where, raw in records:
        record = _renamed(raw, columns, where)
        if layout is None:
            layout = _layout({name: record[name] for name in columns} if columns.keys() - _EXTRA else record, where)
            log.info("%s: read as %s", source, layout)
            if statements is not None:
                statements.append(f"{source}: read as {layout}")
        messages = check_turns(_messages(record, layout, where), where)
        meta = {key: value for key, value in record.items() if key in ("meta",)}
        identity = record.get("id")
        group = record.get("group")
        yield Row(
            id=str(identity) if identity not in (None, "") else stable_hash([(m.role, m.content) for m in messages]),
            messages=messages,
            group=None if group in (None, "") or group != group else str(group),
            meta=meta,
            where=where,
        )
    if layout is None:
        raise DataError(f"{source}: no rows in it; at least one is needed")


def _renamed(raw: Mapping[str, Any], columns: Mapping[str, str], where: str) -> dict[str, Any]:
    record = dict(raw)
    for canonical, own in columns.items():
        if own not in raw:
            raise DataError(f"{where}: data.columns.{canonical} = {own}: no such column; this row has: {', '.join(map(str, raw))}")
        record[canonical] = raw[own]
    return record


def _layout(record: Mapping[str, Any], where: str) -> str:
    if record.get("messages") is not None:
        return "messages"
    if record.get("conversations") is not None:
        return "sharegpt"
    if {"instruction", "output"} <= record.keys():  # "input" is optional, and may be missing in some rows only
        return "alpaca"
    for prompt, completion in _PAIRS:
        if prompt in record and completion in record:
            return f"{prompt}/{completion}"
    raise DataError(
        f"{where}: no known layout in the columns {', '.join(map(str, record))}; needed: messages, conversations, "
        "instruction/input/output or prompt/completion. Name yours: +data.columns.prompt=YOURS +data.columns.completion=YOURS"
    )


def _messages(record: Mapping[str, Any], layout: str, where: str) -> list[Message]:
    if layout == "messages":
        return [_message(turn, "role", "content", where) for turn in _turns(record.get("messages"), where)]
    if layout == "sharegpt":
        return [_message(turn, "from", "value", where) for turn in _turns(record.get("conversations"), where)]
    system = [Message("system", _content(record["system"], "system", where))] if record.get("system") else []
    if layout == "alpaca":
        instruction, context = _content(record.get("instruction"), "instruction", where), record.get("input")
        prompt = f"{instruction}\n\n{context}" if context else instruction
        return [*system, Message("user", prompt), Message("assistant", _content(record.get("output"), "output", where))]
    first, second = layout.split("/")
    return [*system, *_side(record.get(first), "user", first, where), *_side(record.get(second), "assistant", second, where)]


def _side(value: Any, role: str, column: str, where: str) -> list[Message]:
    """A prompt or completion is a text, or a list of messages."""
    if isinstance(value, list):
        return [_message(turn, "role", "content", where) for turn in value]
    return [Message(role, _content(value, column, where))]


def _turns(value: Any, where: str) -> list[Any]:
    if isinstance(value, str):  # CSV cells hold lists as JSON text
        try:
            value = json.loads(value)
        except (json.JSONDecodeError, RecursionError):
            raise DataError(f"{where}: the conversation is a text that is not JSON") from None
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: the conversation must be a list with at least one turn")
    return value


def _message(turn: Any, role_key: str, content_key: str, where: str) -> Message:
    if not isinstance(turn, dict) or role_key not in turn or content_key not in turn:
        raise DataError(f"{where}: a turn needs {role_key!r} and {content_key!r}, got {str(turn)[:80]!r}")
    role = str(turn[role_key])
    role = _SHAREGPT_ROLES.get(role, role) if role_key == "from" else role
    return Message(role, _content(turn[content_key], f"content of the {role} turn", where))


def _content(value: Any, name: str, where: str) -> str:
    if isinstance(value, float) and math.isnan(value):
        raise DataError(f"{where}: {name} is empty (not a number)")
    if isinstance(value, bytes):
        raise DataError(f"{where}: {name} is binary; a text is needed")
    if isinstance(value, list) and value and all(isinstance(p, dict) and p.get("type") == "text" for p in value):
        return "".join(str(p.get("text", "")) for p in value)  # OpenAI's content parts
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False)
    if value is None:
        raise DataError(f"{where}: {name} is empty (null)")
    return str(value)


def check_turns(messages: list[Message], where: str) -> tuple[Message, ...]:
    """Roles known and in order, last turn by the assistant and not empty. Raises ``DataError``."""
    roles = [m.role for m in messages]
    unknown = next((r for r in roles if r not in ROLES), None)
    if unknown is not None:
        raise DataError(f"{where}: unknown role {unknown!r}; known: {', '.join(ROLES)}")
    if "assistant" not in roles:
        raise DataError(f"{where}: no assistant turn, so there is nothing to learn (roles: {', '.join(roles)})")
    if roles[-1] != "assistant":
        raise DataError(f"{where}: the last turn must be the assistant's (roles: {', '.join(roles)})")
    if "system" in roles[1:]:
        raise DataError(f"{where}: a system turn can only come first (roles: {', '.join(roles)})")
    talk = roles[1:] if roles[0] == "system" else roles
    if talk[0] != "user" or any(a == b for a, b in itertools.pairwise(talk) if a in ("user", "assistant")):
        raise DataError(f"{where}: roles out of order, user and assistant must alternate after the system turn (roles: {', '.join(roles)})")
    for message in messages:
        try:
            message.content.encode()
        except UnicodeEncodeError as error:
            half = ascii(message.content[error.start])
            raise DataError(
                f"{where}: the {message.role} turn holds half a character ({half}), as cut text does; repair or remove it"
            ) from None
    if not messages[-1].content.strip():
        raise DataError(f"{where}: the assistant's answer is empty")
    return tuple(messages)
