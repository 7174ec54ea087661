"""Reads files and hub data sets into rows. Every refusal names file:line; what was recognised is stated, never guessed silently.

Layouts: OpenAI messages (``messages``), sharegpt (``conversations``), alpaca (``instruction``/``input``/``output``),
prompt/completion columns under their usual names, and documents (``text``). ``tools`` is a column of the row; tool calls,
thinking and ``train`` are keys of a turn. ``columns`` maps canonical names to a file's own.
"""

import codecs
import csv
import io
import itertools
import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydratune.console import console
from hydratune.data.rows import ROLES, Message, Row
from hydratune.errors import DataError

log = logging.getLogger(__name__)

_SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "function_call": "assistant", "observation": "tool"}
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
COLUMNS = (
    "messages",
    "conversations",
    "instruction",
    "input",
    "output",
    *dict.fromkeys(n for pair in _PAIRS for n in pair),
    "text",
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
        identity, group = record.get("id"), record.get("group")
        row = Row(
            id="" if identity is None else str(identity),
            messages=check_turns(_messages(record, layout, where), where),
            group=None if group in (None, "") or group != group else str(group),
            meta={key: value for key, value in record.items() if key in ("meta",)},
            where=where,
            tools=_tools(record.get("tools"), where),
        )
        if row.tools and row.is_text:
            raise DataError(f"{where}: a text row is a document without a conversation, so it cannot have tools; leave one of the two out")
        yield row if row.id else replace(row, id=row.content_hash)
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
    half = record.keys() & (set(COLUMNS) - _EXTRA - {"text", "source"})  # many documents state their source
    if "text" in record and not half:
        return "text"
    raise DataError(
        f"{where}: no known layout in the columns {', '.join(map(str, record))}; needed: messages, conversations, "
        "instruction/input/output, prompt/completion or text. "
        "Name yours: +data.columns.prompt=YOURS +data.columns.completion=YOURS, or +data.columns.text=YOURS"
    )


def _messages(record: Mapping[str, Any], layout: str, where: str) -> list[Message]:
    messages = _conversation(record, layout, where)
    if not record.get("system"):
        return messages
    system = Message("system", _content(record["system"], "system", where))
    if messages[0].role != "system":
        return [system, *messages]
    if messages[0] != system:
        raise DataError(f"{where}: the system column and the conversation's own system turn differ; keep one of them")
    return messages


def _conversation(record: Mapping[str, Any], layout: str, where: str) -> list[Message]:
    if layout == "messages":
        return [_message(turn, "role", "content", where) for turn in _turns(record.get("messages"), where)]
    if layout == "sharegpt":
        return [_message(turn, "from", "value", where) for turn in _turns(record.get("conversations"), where)]
    if layout == "text":
        return [Message("text", _content(record.get("text"), "text", where))]
    if layout == "alpaca":
        instruction, context = _content(record.get("instruction"), "instruction", where), record.get("input")
        prompt = f"{instruction}\n\n{context}" if context else instruction
        return [Message("user", prompt), Message("assistant", _content(record.get("output"), "output", where))]
    first, second = layout.split("/")
    return [*_side(record.get(first), "user", first, where), *_side(record.get(second), "assistant", second, where)]


def _side(value: Any, role: str, column: str, where: str) -> list[Message]:
    """A prompt or completion is a text, or a list of messages."""
    if isinstance(value, list):
        return [_message(turn, "role", "content", where) for turn in value]
    return [Message(role, _content(value, column, where))]


def _turns(value: Any, where: str) -> list[Any]:
    if isinstance(value, str):  # CSV cells hold lists as JSON text
        value = _parsed(value, "the conversation", where)
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: the conversation must be a list with at least one turn")
    return value


def _parsed(text: str, name: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        raise DataError(f"{where}: {name} is a text that is not JSON: {text[:60]!r}") from None


def _message(turn: Any, role_key: str, content_key: str, where: str) -> Message:
    if not isinstance(turn, dict) or role_key not in turn:
        raise DataError(f"{where}: a turn needs {role_key!r} and {content_key!r}, got {str(turn)[:80]!r}")
    said = str(turn[role_key])
    role = _SHAREGPT_ROLES.get(said, said) if role_key == "from" else said
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
        _content(content, f"content of the {role} turn", where),
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
