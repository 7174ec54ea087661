"""Records of files and hub data sets -> rows. Every refusal names file:line; what was recognised is stated, never guessed silently.

Layouts: OpenAI messages (``messages``), sharegpt (``conversations``), alpaca (``instruction``/``input``/``output``),
prompt/completion columns under their usual names, and documents (``text``). ``tools`` is a column of the row; tool calls,
thinking and ``train`` are keys of a turn. ``columns`` maps canonical names to a file's own. Other columns with short plain
values are meta data of the row; the rest is ignored, and said to be.
"""

import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hydratune.console import console
from hydratune.data.files import load_json, records
from hydratune.data.rows import Message, Row
from hydratune.data.turns import (
    becomes_json,
    check_turns,
    content_text,
    refuse_half_characters,
    tool_list,
    turn_list,
    turn_message,
)
from hydratune.errors import DataError

log = logging.getLogger(__name__)

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


def read_file(path: Path, columns: Mapping[str, str], encoding: str = "utf-8", statements: list[str] | None = None) -> Iterator[Row]:
    """The rows of one file, one after the other, so that a large file need not fit into memory. Raises ``DataError``.

    What was recognised is logged and appended to ``statements``.
    """
    return to_rows(records(path, encoding), str(path), columns, statements)


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
            tools=tool_list(record.get("tools"), where),
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
        plain = {name: value for name, value in meta.items() if (_is_plain(value) and name != _OTHER_MEANING) or _scores(name, value)}
        self.kept |= dict.fromkeys(plain)
        self.ignored |= dict.fromkeys(name for name in meta if name not in plain)
        refuse_half_characters("".join(map(str, (*raw, *plain, *plain.values()))), "meta data", where)
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


def _scores(name: str, value: Any) -> bool:
    """Whether a value is what answers are scored by, of any length: other right answers, or tests of code."""
    if name == "references":
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return name == "tests" and isinstance(value, str)


def _meta_object(value: Any, where: str) -> dict[str, Any] | None:
    """A column of meta data is an object, or the JSON text of one."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = load_json(value, where)
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
    refuse_half_characters(text, column, where)
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
    system = Message("system", content_text(record["system"], "system", where))
    if messages[0].role != "system":
        return [system, *messages]
    if messages[0] != system:
        raise DataError(f"{where}: the system column and the conversation's own system turn differ; keep one of them")
    return messages


def _conversation(record: Mapping[str, Any], seen: _Seen, where: str) -> Iterator[tuple[Message, bool]]:
    """The turns, each with whether its content was an object that became JSON."""
    if seen.layout in ("messages", "sharegpt"):
        role, content = ("role", "content") if seen.layout == "messages" else ("from", "value")
        for turn in turn_list(record[seen.sides[0]], where):
            yield turn_message(turn, role, content, where), isinstance(turn, dict) and becomes_json(turn.get(content))
        return
    if seen.layout == "text":
        yield Message("text", content_text(record["text"], "text", where)), False
        return
    first, second = seen.sides
    prompt, completion, context = record[first], record[second], seen.context(record)
    if context is not None:
        texts = [content_text(prompt, first, where), content_text(record[context], context, where)]
        prompt = "\n\n".join(text for text in texts if text.strip())
    for value, role, column in ((prompt, "user", first), (completion, "assistant", second)):
        if isinstance(value, list) and value and all(isinstance(turn, dict) and "role" in turn for turn in value):
            for turn in value:
                yield turn_message(turn, "role", "content", where), becomes_json(turn.get("content"))
        else:
            answer = role == "assistant"
            yield Message(role, content_text(value, column, where, answer=answer)), answer and becomes_json(value)
