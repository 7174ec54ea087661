"""Reads files and hub data sets into rows. Every refusal names file:line; what was recognised is stated, never guessed silently.

Layouts: OpenAI messages (``messages``), sharegpt (``conversations``), alpaca (``instruction``/``input``/``output``),
prompt/completion columns under their usual names, and documents (``text``). ``tools`` is a column of the row; tool calls,
thinking and ``train`` are keys of a turn. ``columns`` maps canonical names to a file's own. Other columns with short plain
values are meta data of the row; the rest is ignored, and said to be.
"""

import codecs
import csv
import io
import itertools
import json
import logging
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

from hydratune.console import console
from hydratune.data.rows import ROLES, Message, Row
from hydratune.errors import DataError

log = logging.getLogger(__name__)

_SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "function_call": "assistant", "observation": "tool"}
_OPENAI_ROLES = {"developer": "system"}  # its name since the o1 models
_REASONING = ("reasoning_content", "thinking", "reasoning")  # one thing under three names
_PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "response"),
    ("question", "answer"),
    ("input", "output"),
    ("source", "target"),
)
_EXTRA = {"id", "group", "system", "tools"}
_CONTEXT = ("input", "context")  # what an instruction or a question is about: alpaca's name and Dolly's
_ANSWERS = {"label", "labels", "label_text", "target", "targets", "category", "class", "answer", "answers", "output", "completion"}
_ANSWERS |= {"response", "summary", "sentiment", "intent"}  # beside a text column: what is to be learned, not a document's origin
_META = ("meta", "metadata")
_META_CHARACTERS = 200
_OTHER_MEANING = "encoding"  # in meta data it says how a case's file had to be decoded
_TEXT_PARTS = {"text", "input_text", "output_text"}
_MEDIA = {"image": "images", "audio": "sounds", "video": "videos", "file": "files", "document": "files"}
COLUMNS = (
    "messages",
    "conversations",
    "instruction",
    "output",
    *_CONTEXT,
    *dict.fromkeys(n for pair in _PAIRS for n in pair if n not in (*_CONTEXT, "instruction", "output")),
    "text",
    *sorted(_EXTRA),
)
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt")
_UNREADABLE = {
    **dict.fromkeys((".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz", ".7z"), "unpack it first"),
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".ods", ".numbers"), "export the sheet as CSV"),
    ".arrow": "give the folder it is in: data=hub data.id=FOLDER",
}


def read_file(path: Path, columns: Mapping[str, str], encoding: str = "utf-8", statements: list[str] | None = None) -> Iterator[Row]:
    """The rows of one file, one after the other, so that a large file need not fit into memory. Raises ``DataError``.

    What was recognised is logged and appended to ``statements``.
    """
    return to_rows(_records(path, encoding), str(path), columns, statements)


def _records(path: Path, encoding: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (file:line, raw record)."""
    suffix = path.suffix.lower()
    if suffix in _UNREADABLE:
        raise DataError(f"{path}: {suffix} files are not read; {_UNREADABLE[suffix]}")
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
        except UnicodeError:
            raise _wrong_encoding(path, encoding) from None


def _text(path: Path, encoding: str) -> io.TextIOWrapper:
    """The file as text whose lines end with a line feed only, without a byte-order mark."""
    try:
        codec = codecs.lookup(encoding)
    except (LookupError, ValueError):
        codec = None
    if codec is None or not getattr(codec, "_is_text_encoding", True):  # hex, rot13 and the like
        raise DataError(f"{path}: data.encoding = {encoding}: no such encoding of text; usual: utf-8, latin-1, cp1252")
    with path.open("rb") as stream:
        head = stream.read(65536)
    name = codec.name
    if not name.startswith(("utf-16", "utf-32")):
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise DataError(f"{path}: this is UTF-16 text; state it: data.encoding=utf-16, or save the file as UTF-8")
        if (wide := _utf16_without_mark(head)) is not None:
            raise DataError(f"{path}: this looks like UTF-16 text; state it: data.encoding={wide}, or save the file as UTF-8")
        if b"\0" in head:
            raise DataError(f"{path}: this is a binary file, not text; give JSONL, JSON, CSV or Parquet with the right ending")
    if name == "utf-8":
        name = "utf-8-sig"
    if name.startswith("utf-16") and head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        name = "utf-16"  # utf-16-le would leave the mark in the first column's name
    return io.TextIOWrapper(path.open("rb"), encoding=name, newline="\n")


def _utf16_without_mark(head: bytes) -> str | None:
    """Of mostly ASCII characters every second byte is zero."""
    for name, high, low in (("utf-16-le", head[1::2], head[::2]), ("utf-16-be", head[::2], head[1::2])):
        if len(head) > 3 and high.count(0) > 0.7 * len(high) and low.count(0) == 0:
            return name
    return None


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
    except UnicodeError:
        pass
    return DataError(f"{path}: not {encoding}; save the file as UTF-8, or state its encoding: data.encoding=latin-1 (or cp1252)")


def _jsonl_records(path: Path, lines: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            value = _loads(line, where)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{where}: broken JSON at column {error.colno} ({error.msg}); one whole JSON object per line is needed"
            ) from None
        yield where, _object(value, where)


def _loads(text: str, where: str) -> Any:
    """JSON whose objects have every key once. Raises ``json.JSONDecodeError``, and ``DataError`` for what only Python minds."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise DataError(f"{where}: the key {ascii(twice)[1:-1]!r} occurs twice in one JSON object; keep one of them")
        return value

    try:
        return json.loads(text, object_pairs_hook=unique)
    except RecursionError:
        raise DataError(f"{where}: the JSON is nested too deeply to be a row") from None
    except json.JSONDecodeError:
        raise
    except ValueError:  # CVE-2020-10735: Python limits the digits of whole numbers
        raise DataError(f"{where}: a number with thousands of digits; put it in quotes, as text") from None


def _json_records(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """A JSON file is one value, so it is read whole."""
    try:
        value = _loads(text, _place_of_long_number(path, text))
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


def _place_of_long_number(path: Path, text: str) -> str:
    """A whole file has no line of its own, but a number that Python refuses can be found."""
    found = re.search(r"[\s:,\[]-?\d{4301}", text)
    return f"{path}:{text.count(chr(10), 0, found.end()) + 1}" if found else str(path)


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
    blank, first, lines = _peek(lines)
    if delimiter not in first:
        _refuse_other_delimiter(first, delimiter, f"{path}:{blank + 1}")
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    names: list[str] | None = None
    start = blank  # the line where the last record ends
    try:
        for cells in reader:
            where, start = f"{path}:{start + 1}", blank + reader.line_num
            if not cells:
                continue
            if names is None:
                names = cells
                twice = next((name for name in names if names.count(name) > 1), None)
                if twice is not None:
                    raise DataError(f"{where}: the column {twice!r} occurs twice; every column needs a name of its own")
                continue
            if len(cells) > len(names):
                raise DataError(f"{where}: more cells than the header has columns; quote cells that contain {delimiter!r}")
            if len(cells) < len(names):
                raise DataError(f"{where}: fewer cells than the header has columns")
            yield where, dict(zip(names, cells, strict=True))
    except csv.Error as error:
        if "new-line" in str(error):
            fix = "a carriage return alone ends no line; save the file with line feeds, or quote the cell that holds it"
        else:
            fix = f'{error}; a cell that starts with a quote must end with one, and quotes inside it are doubled: "5"" nails"'
        raise DataError(f"{path}:{start + 1}: broken CSV in the row that begins here: {fix}") from None


def _refuse_other_delimiter(header: str, delimiter: str, where: str) -> None:
    ours = "commas, or with tabs as .tsv" if delimiter == "," else "tabs, or with commas as .csv"
    for sign, name in ((";", "semicolons"), ("|", "pipes"), ("\t", "tabs"), (",", "commas")):
        if sign in header:
            raise DataError(f"{where}: the columns are separated by {name}; save the file with {ours}")


def _peek(lines: Iterable[str]) -> tuple[int, str, Iterator[str]]:
    """How many empty lines come first, the first other line, and all lines from there."""
    iterator = iter(lines)
    for blank, line in enumerate(iterator):
        if line.strip():
            return blank, line, itertools.chain([line], iterator)
    return 0, "", iterator


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
    seen: _Seen | None = None
    place = 0
    for where, raw in records:
        record = _renamed(raw, columns, where)
        if seen is None:
            named = bool(columns.keys() - _EXTRA - {"context"})
            layout = _named_layout(columns, where) if named else _layout(record, where)
            seen = _Seen(source, layout, dict(columns), named)
            seen.refuse_unused(where)
        meta = seen.meta(raw, record, where)
        if seen.rows == 0:
            log.info("%s", said := seen.statement())
            if statements is not None:
                place = len(statements)
                statements.append(said)
        messages = _messages(record, seen, where)
        kept = check_turns(messages, where)
        seen.rows += 1
        seen.cut += len(kept) < len(messages)
        row = Row(
            id=_name(record.get("id"), "id", where),
            messages=kept,
            group=_name(record.get("group"), "group", where) or None,
            meta=meta,
            where=where,
            tools=_tools(record.get("tools"), where),
        )
        if row.tools and row.is_text:
            raise DataError(f"{where}: a text row is a document without a conversation, so it cannot have tools; leave one of the two out")
        yield row if row.id else replace(row, id=row.content_hash)
    if seen is None:
        raise DataError(f"{source}: no rows in it; at least one is needed")
    if (whole := seen.statement()) != said:
        log.info("%s", whole)
    more = seen.counts()
    for line in more:
        log.info("%s", line)
    if statements is not None:
        statements[place] = whole
        statements += more


@dataclass
class _Seen:
    """What was recognised in one source, to be said."""

    source: str
    layout: str
    columns: Mapping[str, str]
    named: bool  # the user named columns that hold text, so no other column is text
    rows: int = 0
    cut: int = 0  # rows with turns after the last trained one
    json_answers: int = 0
    taken: dict[str, None] = field(default_factory=dict)  # in the order of the file; so are the next two
    kept: dict[str, None] = field(default_factory=dict)
    ignored: dict[str, None] = field(default_factory=dict)

    @property
    def sides(self) -> tuple[str, ...]:
        """The columns that the layout needs."""
        known = {"messages": ("messages",), "sharegpt": ("conversations",), "alpaca": ("instruction", "output"), "text": ("text",)}
        return known.get(self.layout) or tuple(self.layout.split("/"))

    def refuse_unused(self, where: str) -> None:
        """A column that was named and has no place in the layout would be dropped."""
        places = {*self.sides, *_EXTRA, *(_CONTEXT if len(self.sides) == 2 else ())}
        unused = next((name for name in self.columns if name not in places), None)
        if unused is not None:
            raise DataError(
                f"{where}: data.columns.{unused} has no place in rows read as {self.layout}; leave it out, or name other columns"
            )

    def context(self, record: Mapping[str, Any]) -> str | None:
        """The column with what the request is about."""
        if len(self.sides) < 2:
            return None
        usual = not self.named and self.sides[0] in ("instruction", "question")
        known = [name for name in _CONTEXT if name in record and name not in self.sides and (usual or name in self.columns)]
        return next((name for name in known if not _is_absent(record[name])), None)

    def meta(self, raw: Mapping[str, Any], record: Mapping[str, Any], where: str) -> dict[str, Any]:
        """The row's meta data; notes which columns were taken, kept and ignored. ``record`` has the canonical names too."""
        context = self.context(record)
        canonical = {*self.sides, *_EXTRA, *([context] if context else [])}
        canonical -= self.columns.keys()
        own = {*canonical, *self.columns.values()}
        meta: dict[str, Any] = {}
        nested: dict[str, Any] = {}
        for name, value in raw.items():
            if _is_absent(value):
                continue
            if name in own:
                self.taken[name] = None
                continue
            inner = _meta_object(value, where) if name in _META else None
            if inner is not None:
                nested |= {key: item for key, item in inner.items() if not _is_absent(item)}
            else:
                meta[name] = value
        for name, value in nested.items():
            meta.setdefault(name, value)
        plain = {name: value for name, value in meta.items() if _is_plain(value) and name != _OTHER_MEANING}
        self.kept |= dict.fromkeys(plain)
        self.ignored |= dict.fromkeys(name for name in meta if name not in plain)
        _refuse_half_characters("".join(map(str, (*raw, *plain, *plain.values()))), "meta data", where)
        return plain

    def statement(self) -> str:
        taken = "" if set(self.taken) == set(self.layout.split("/")) else f" from {', '.join(self.taken)}"
        kept = f"; kept as meta data: {_listed(self.kept)}" if self.kept else ""
        ignored = [f"{name} (in some rows)" if name in self.kept else name for name in self.ignored]
        return f"{self.source}: read as {self.layout}{taken}{kept}" + (f"; ignored: {_listed(ignored)}" if ignored else "")

    def counts(self) -> list[str]:
        """What was changed in rows, once all of them are read."""
        said = []
        if self.json_answers:
            said.append(f"{self.source}: answers that are objects, lists, true or false became JSON ({_rows(self.json_answers)})")
        if self.cut:
            said.append(f"{self.source}: {_rows(self.cut)}: turns after the last trained one left out")
        return said


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def _listed(names: Iterable[str], most: int = 20) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _is_absent(value: Any) -> bool:
    """Null, an empty text, or not a number, which pandas writes for null."""
    return value is None or (isinstance(value, str) and value == "") or (isinstance(value, float) and math.isnan(value))


def _is_plain(value: Any) -> bool:
    """Whether a value can be a label: a short text, a number, true or false."""
    if isinstance(value, float) and math.isinf(value):
        return False
    return isinstance(value, bool | int | float | str) and len(str(value)) <= _META_CHARACTERS


def _meta_object(value: Any, where: str) -> dict[str, Any] | None:
    """A column of meta data is an object, or the JSON text of one."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = _loads(value, where)
        except json.JSONDecodeError:
            return None
    return value if isinstance(value, dict) else None


def _name(value: Any, column: str, where: str) -> str:
    """An id or a group as text; empty where there is none. Parquet gives whole numbers as 2.0 where some are missing."""
    if _is_absent(value):
        return ""
    if isinstance(value, bool | dict | list | bytes):
        raise DataError(f"{where}: {column} must be a text or a number, this is {type(value).__name__}")
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    _refuse_half_characters(text, column, where)
    return text


def _renamed(raw: Mapping[str, Any], columns: Mapping[str, str], where: str) -> dict[str, Any]:
    record = dict(raw)
    for canonical, own in columns.items():
        if own not in raw:
            raise DataError(f"{where}: data.columns.{canonical} = {own}: no such column; this row has: {', '.join(map(str, raw))}")
        record[canonical] = raw[own]
    return record


def _named_layout(columns: Mapping[str, str], where: str) -> str:
    """The layout of the columns that the user named."""
    if (layout := _known(dict.fromkeys(columns, ""), columns)) is not None:
        return layout
    halves = sorted(columns.keys() - _EXTRA)
    pairs = [("instruction", "output"), *_PAIRS]
    partners = dict(reversed(pairs)) | {b: a for a, b in reversed(pairs)}
    named = next((name for name in halves if name in partners and name not in _CONTEXT), halves[0])
    missing = partners.get(named, "prompt")
    raise DataError(
        f"{where}: data.columns names {', '.join(halves)} but not {missing}, and it takes both; add +data.columns.{missing}=YOURS"
    )


def _known(record: Mapping[str, Any], names: Iterable[str]) -> str | None:
    """The layout whose columns are in ``names``."""
    names = set(names)
    for column, layout in (("messages", "messages"), ("conversations", "sharegpt")):
        if column in names and record[column] is not None:
            return layout
    if {"instruction", "output"} <= names:  # "input" is optional, and may be missing in some rows only
        return "alpaca"
    for prompt, completion in _PAIRS:
        if prompt in names and completion in names:
            return f"{prompt}/{completion}"
    half = names & (set(COLUMNS) - _EXTRA - {"text", "source", "context"})  # many documents state their source
    return "text" if "text" in names and not half else None


def _layout(record: Mapping[str, Any], where: str) -> str:
    layout = _known(record, record)
    answers = [name for name in record if str(name).lower() in _ANSWERS]
    if "text" in record and answers and layout in ("text", None):
        raise DataError(
            f"{where}: is the column {answers[0]} beside text to be learned? Then name both: +data.columns.prompt=text "
            f"+data.columns.completion={answers[0]}; if the texts alone are, as documents: +data.columns.text=text"
        )
    if layout is not None:
        return layout
    raise DataError(
        f"{where}: no known layout in the columns {', '.join(map(str, record))}; needed: messages, conversations, "
        "instruction/input/output, prompt/completion or text. "
        "Name yours: +data.columns.prompt=YOURS +data.columns.completion=YOURS, or +data.columns.text=YOURS"
    )


def _messages(record: Mapping[str, Any], seen: _Seen, where: str) -> list[Message]:
    missing = next((name for name in seen.sides if name not in record), None)
    if missing is not None:
        raise DataError(
            f"{where}: no column {missing!r} in this row; it has: {', '.join(map(str, record))} (rows before were {seen.layout})"
        )
    messages, became_json = [], False
    for message, changed in _conversation(record, seen, where):
        messages.append(message)
        became_json |= changed
    seen.json_answers += became_json
    if _is_absent(record.get("system")):
        return messages
    system = Message("system", _content(record["system"], "system", where))
    if messages[0].role != "system":
        return [system, *messages]
    if messages[0] != system:
        raise DataError(f"{where}: the system column and the conversation's own system turn differ; keep one of them")
    return messages


def _conversation(record: Mapping[str, Any], seen: _Seen, where: str) -> Iterator[tuple[Message, bool]]:
    """The turns, each with whether its content was an object that became JSON."""
    if seen.layout in ("messages", "sharegpt"):
        role, content = ("role", "content") if seen.layout == "messages" else ("from", "value")
        for turn in _turns(record[seen.sides[0]], where):
            yield _message(turn, role, content, where), isinstance(turn, dict) and _becomes_json(turn.get(content))
        return
    if seen.layout == "text":
        yield Message("text", _content(record["text"], "text", where)), False
        return
    first, second = seen.sides
    prompt, completion, context = record[first], record[second], seen.context(record)
    if context is not None:
        texts = [_content(prompt, first, where), _content(record[context], context, where)]
        prompt = "\n\n".join(text for text in texts if text.strip())
    for value, role, column in ((prompt, "user", first), (completion, "assistant", second)):
        if isinstance(value, list) and value and all(isinstance(turn, dict) and "role" in turn for turn in value):
            for turn in value:
                yield _message(turn, "role", "content", where), _becomes_json(turn.get("content"))
        else:
            answer = role == "assistant"
            yield Message(role, _content(value, column, where, answer=answer)), answer and _becomes_json(value)


def _turns(value: Any, where: str) -> list[Any]:
    if isinstance(value, str):  # CSV cells hold lists as JSON text
        value = _parsed(value, "the conversation", where)
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: the conversation must be a list with at least one turn")
    return value


def _parsed(text: str, name: str, where: str) -> Any:
    try:
        return _loads(text, where)
    except json.JSONDecodeError:
        raise DataError(f"{where}: {name} is a text that is not JSON: {text[:60]!r}") from None


def _message(turn: Any, role_key: str, content_key: str, where: str) -> Message:
    if not isinstance(turn, dict) or role_key not in turn:
        raise DataError(f"{where}: a turn needs {role_key!r} and {content_key!r}, got {str(turn)[:80]!r}")
    said = str(turn[role_key])
    role = (_SHAREGPT_ROLES if role_key == "from" else _OPENAI_ROLES).get(said, said)
    content = turn.get(content_key)
    if role_key == "from" and said == "function_call":  # sharegpt writes the call where others write the text
        calls, content = _calls(content, where), ""
        if not calls:
            raise DataError(f"{where}: a function_call turn holds no call")
    else:
        calls = _calls(turn.get("tool_calls") or turn.get("function_call"), where)
        content = "" if calls and content is None else content
    if content is None and content_key not in turn:
        raise DataError(f"{where}: a turn needs {role_key!r} and {content_key!r}, got {str(turn)[:80]!r}")
    reasoning = next((text for key in _REASONING if (text := _optional_text(turn, key, role, where))), None)
    identity, name = _optional_text(turn, "tool_call_id", role, where), _optional_text(turn, "name", role, where)
    for key, value, owner in (
        ("tool_calls", calls, "assistant"),
        ("thinking", reasoning, "assistant"),
        ("tool_call_id", identity, "tool"),
    ):
        if value and role != owner:
            raise DataError(f"{where}: {key} on the {role} turn; only {owner} turns have it")
    return Message(
        role,
        _content(content, f"content of the {role} turn", where, answer=role in ("assistant", "tool")),
        reasoning=reasoning,
        tool_calls=calls,
        tool_call_id=identity,
        name=name,
        train=_is_trained(turn, role, where),
    )


def _optional_text(turn: Mapping[str, Any], key: str, role: str, where: str) -> str | None:
    """A key that may be missing, null (Parquet fills what is missing) or a text."""
    value = turn.get(key)
    if value is None or isinstance(value, str):
        return value or None
    raise DataError(f"{where}: {key} of the {role} turn must be a text, this is {type(value).__name__}")


def _is_trained(turn: Mapping[str, Any], role: str, where: str) -> bool:
    """From ``train: true/false`` or OpenAI's ``weight: 0/1``."""
    train, weight = turn.get("train"), turn.get("weight")
    if train is not None and not isinstance(train, bool):
        raise DataError(f"{where}: train of the {role} turn must be true or false, this is {train!r}")
    if weight is not None and (isinstance(weight, bool) or not isinstance(weight, int | float) or weight not in (0, 1)):
        raise DataError(f"{where}: weight of the {role} turn must be 0 (context) or 1 (trained), this is {weight!r}")
    stated = {bool(value) for value in (train, weight) if value is not None}
    if len(stated) == 2:
        raise DataError(f"{where}: train and weight of the {role} turn say opposite things; keep one of them")
    if role != "assistant":
        if True in stated:
            raise DataError(f"{where}: the {role} turn is marked as trained; only assistant turns can be")
        return True
    return stated != {False}


def _calls(value: Any, where: str) -> tuple[dict[str, Any], ...]:
    """Tool calls in OpenAI's form, ``arguments`` as an object: templates print it as JSON, and would print a text as a JSON string."""
    if isinstance(value, str) and value.strip():
        value = _parsed(value, "a tool call", where)
    if not value:
        return ()
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise DataError(f"{where}: tool_calls must be a list, this is {type(value).__name__}")
    return tuple(_call(call, where) for call in value)


def _call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise DataError(f'{where}: a tool call needs {{"function": {{"name": ..., "arguments": ...}}}}, got {str(call)[:80]!r}')
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str) and arguments.strip():
        arguments = _parsed(arguments, f"arguments of the call to {function['name']}", where)
    if arguments is not None and arguments != "" and not isinstance(arguments, dict):
        raise DataError(f"{where}: arguments of the call to {function['name']} must be an object, this is {type(arguments).__name__}")
    identity = call.get("id")
    if identity is not None and not isinstance(identity, str):
        raise DataError(f"{where}: id of the call to {function['name']} must be a text, this is {type(identity).__name__}")
    named = {"id": identity} if identity else {}
    return {**named, "type": "function", "function": {"name": function["name"], "arguments": arguments or {}}}


def _tools(value: Any, where: str) -> tuple[dict[str, Any], ...]:
    """The tools of a row in OpenAI's form, which is what servers hand to templates at inference."""
    if isinstance(value, str) and value.strip():
        value = _parsed(value, "tools", where)
    if value is None or value in ("", []) or value != value:
        return ()
    if not isinstance(value, list):
        raise DataError(f"{where}: tools must be a list of functions, this is {type(value).__name__}")
    _refuse_half_characters(json.dumps(value, ensure_ascii=False, default=str), "tools", where)
    return tuple(_tool(tool, where) for tool in value)


def _tool(tool: Any, where: str) -> dict[str, Any]:
    function = tool.get("function", tool) if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise DataError(f"{where}: a tool needs a name, a description and parameters, got {str(tool)[:80]!r}")
    if _has_null_property(function.get("parameters")):
        raise DataError(
            f"{where}: the parameters of the tool {function['name']} hold null where a JSON schema belongs, as Parquet does when it "
            "gives all rows the same keys; store the tools as JSON text"
        )
    return dict(tool) if "function" in tool else {"type": "function", "function": dict(function)}


def _has_null_property(schema: Any) -> bool:
    if isinstance(schema, dict):
        properties = schema.get("properties")
        if isinstance(properties, dict) and None in properties.values():
            return True
        return any(map(_has_null_property, schema.values()))
    return isinstance(schema, list) and any(map(_has_null_property, schema))


def _content(value: Any, name: str, where: str, *, answer: bool = False) -> str:
    """A text, a number as text, or the text parts of OpenAI's content. An ``answer`` may also be an object, which becomes JSON."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise DataError(f"{where}: {name} is empty ({'null' if value is None else 'not a number'})")
    if isinstance(value, bytes):
        raise DataError(f"{where}: {name} is binary; a text is needed")
    if _are_text_parts(value):
        return "".join(part["text"] for part in value)
    _refuse_media(value, name, where, strict=not answer)
    if isinstance(value, bool | dict | list):
        if not answer:
            raise DataError(f"{where}: {name} must be a text, this is {type(value).__name__}: {str(value)[:60]}")
        try:
            return json.dumps(value, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise DataError(f"{where}: {name} cannot be written as JSON ({error})") from None
    if isinstance(value, float) and math.isinf(value):
        raise DataError(f"{where}: {name} is not a finite number")
    if not isinstance(value, str | int | float | Decimal | date | datetime | time):
        raise DataError(f"{where}: {name} must be a text, this is {type(value).__name__}")
    return str(value)


def _becomes_json(value: Any) -> bool:
    return isinstance(value, bool | dict | list) and not _are_text_parts(value)


def _are_text_parts(value: Any) -> bool:
    """OpenAI's content parts; each is a text."""
    known = isinstance(value, list) and all(isinstance(p, dict) and p.get("type") in _TEXT_PARTS for p in value)
    return known and bool(value) and all(isinstance(p.get("text"), str) for p in value)


def _refuse_media(value: Any, name: str, where: str, *, strict: bool) -> None:
    """Content parts that are no text. An answer that is a list of objects may have a key ``type``, so it is ``strict`` for others only."""
    if not isinstance(value, list) or not all(isinstance(part, dict) and isinstance(part.get("type"), str) for part in value):
        return
    for part in value:
        kind = part["type"]
        medium = next((medium for medium in _MEDIA if medium in kind and (strict or kind in part)), None)
        if medium is not None:
            raise DataError(f"{where}: {name} holds a part of type {kind!r}; {_MEDIA[medium]} cannot be trained on, only text")
        if strict and (kind not in _TEXT_PARTS or not isinstance(part.get("text"), str)):
            raise DataError(f"{where}: {name} holds a part of type {kind!r} that is not text; only text can be trained on")


def check_turns(messages: list[Message], where: str) -> tuple[Message, ...]:
    """The turns up to the last one that is trained. Raises ``DataError`` unless roles are known and in order and it says something.

    What follows the last trained turn is neither trained nor read by anything that is.
    """
    roles = [m.role for m in messages]
    unknown = next((r for r in roles if r not in ROLES), None)
    if unknown is not None:
        raise DataError(f"{where}: unknown role {unknown!r}; known: {', '.join(ROLES)}")
    for message in messages:
        apart = message.tool_calls or message.reasoning
        text = json.dumps(message.turn(), ensure_ascii=False) if apart else message.content
        _refuse_half_characters(text, f"the {message.role} turn", where)
    if "text" in roles:
        if len(roles) > 1:
            raise DataError(f"{where}: a text is a whole document and stands alone in its row (roles: {', '.join(roles)})")
        if not messages[0].content.strip():
            raise DataError(f"{where}: the text is empty")
        return tuple(messages)
    if "assistant" not in roles:
        raise DataError(f"{where}: no assistant turn, so there is nothing to learn (roles: {', '.join(roles)})")
    if roles[-1] != "assistant":
        raise DataError(f"{where}: the last turn must be the assistant's (roles: {', '.join(roles)})")
    if "system" in roles[1:]:
        raise DataError(f"{where}: a system turn can only come first (roles: {', '.join(roles)})")
    talk = roles[1:] if roles[0] == "system" else roles
    if talk[0] != "user" or any(a == b for a, b in itertools.pairwise(talk) if a in ("user", "assistant")):
        raise DataError(f"{where}: roles out of order, user and assistant must alternate after the system turn (roles: {', '.join(roles)})")
    if any(b.role == "tool" and a.role != "tool" and not a.tool_calls for a, b in itertools.pairwise(messages)):
        raise DataError(f"{where}: a tool turn must follow an assistant turn with tool_calls, or another tool turn")
    trained = [i for i, m in enumerate(messages) if m.role == "assistant" and m.train]
    if not trained:
        raise DataError(f"{where}: every assistant turn is marked as context (train: false or weight: 0), so there is nothing to learn")
    last = messages[trained[-1]]
    if not last.content.strip() and not last.tool_calls:
        raise DataError(f"{where}: the assistant's answer is empty")
    return tuple(messages[: trained[-1] + 1])


def _refuse_half_characters(text: str, name: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])
        raise DataError(f"{where}: {name} holds half a character ({half}), as cut text does; repair or remove it") from None
