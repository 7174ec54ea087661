"""Convert the records of files and hub data sets to rows.

Every error names file:line. How a source was read is stated and never guessed silently.

Layouts: OpenAI messages (``messages``), sharegpt (``conversations``), alpaca
(``instruction``/``input``/``output``), prompt/completion columns under their usual names, and
documents (``text``). ``tools`` is a column of the row, ``history`` one of pairs; tool calls,
thinking and ``train`` are keys of a turn. Other columns with short plain values are meta data of
the row; the remaining columns are ignored, which is stated.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hydratune import hub
from hydratune.console import console
from hydratune.data.formats.columns import (
    CHAT_LAYOUTS,
    Columns,
    Naming,
    is_absent,
    recognise_columns,
    rename_columns,
    resolve_aliases,
)
from hydratune.data.formats.contents import refuse_half_characters, to_text
from hydratune.data.formats.files import read_records
from hydratune.data.formats.layouts import is_turn_list
from hydratune.data.formats.metadata import MetaColumns, add_nested_columns
from hydratune.data.formats.notes import Notes
from hydratune.data.formats.padding import from_arrow
from hydratune.data.formats.preferences import is_kept
from hydratune.data.formats.tools import read_tools
from hydratune.data.formats.turn_order import check_turns
from hydratune.data.formats.turns import TurnReader, read_turn_list
from hydratune.data.rows import Message, Record, Records, Row
from hydratune.errors import DataError
from hydratune.wording import counted

log = logging.getLogger(__name__)

_NULL_TEXTS = {"null", "NULL", "Null", "None", "NaN", "nan", "NAN", "NA", "N/A", "<NA>"}
_NULL_TEXTS |= {"undefined"}  # as programs write a missing value


def read_file(
    path: Path,
    naming: Naming | Mapping[str, str],
    encoding: str = "utf-8",
    statements: list[str] | None = None,
    delimiter: str | None = None,
) -> Iterator[Row]:
    """Yield the rows of one file, one after the other, so that a large file needs little memory.

    A mapping as ``naming`` is one of columns. What was recognised is logged and appended to
    ``statements``. ``delimiter``: of a CSV file; None: found in it. Raises ``DataError``.
    """
    statements = [] if statements is None else statements
    records = read_records(path, encoding, statements, delimiter)
    return to_rows(records, str(path), naming, statements)


def open_hub(name: str, subset: str | None, split: str, revision: str | None) -> Any:
    """Open one split of a hub data set or of a local data set folder, memory-mapped.

    Raises ``DataError``.
    """
    import datasets

    if not console.is_terminal:
        datasets.disable_progress_bars()
    try:
        # the two files that save_to_disk writes
        if any((Path(name) / file).is_file() for file in ("dataset_dict.json", "state.json")):
            saved = datasets.load_from_disk(name)
            return saved[split] if isinstance(saved, datasets.DatasetDict) else saved
        if not Path(name).exists():
            hub.use_cache_if_silent()
        return datasets.load_dataset(name, subset, split=split, revision=revision)
    except Exception as error:  # the library raises many unrelated types, most about the network
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"data.id = {name}: cannot load split {split!r} ({first_line}); check the name, the"
            " network and HF_TOKEN for a gated set, or download it and use data=files"
        ) from error


def read_hub(
    data: Any,
    name: str,
    split: str,
    naming: Naming | Mapping[str, str],
    statements: list[str] | None = None,
) -> Iterator[Row]:
    """Yield the rows of a data set that ``open_hub`` opened. Raises ``DataError``."""
    source = f"{name}[{split}]"
    features = getattr(data, "features", None)
    kinds = {item.name: item.type for item in features.arrow_schema} if features is not None else {}

    def records() -> Records:
        for number, record in enumerate(data, 1):
            where = f"{source}[{number}]"
            yield (
                where,
                {
                    key: from_arrow(value, kinds[key], where) if key in kinds else value
                    for key, value in record.items()
                },
            )

    return to_rows(records(), source, naming, statements)


def to_rows(
    records: Iterable[tuple[str, Record]],
    source: str,
    naming: Naming | Mapping[str, str],
    statements: list[str] | None = None,
) -> Iterator[Row]:
    """Recognise the layout from the first record, state it, and convert every record.

    Raises ``DataError``, also if no row has the values of data.keep.
    """
    naming = naming if isinstance(naming, Naming) else Naming(naming)
    reader: _SourceReader | None = None
    for where, raw in records:
        all_columns = add_nested_columns(raw, where)
        record = rename_columns(raw, naming.columns, where)
        if reader is None:
            columns = recognise_columns(record, naming, source, where)
            reader = _SourceReader(columns, [] if statements is None else statements)
        if is_kept(all_columns, naming.keep, where):
            yield reader.read_row(raw, record, where)
        else:
            reader.dropped += 1
    if reader is None:
        raise DataError(f"{source}: no rows in it; at least one is needed")
    reader.finish()


@dataclass
class _SourceReader:
    """Converts the records of one source, and states how it read them."""

    columns: Columns
    statements: list[str]
    rows: int = 0
    dropped: int = 0  # rows without the value that data.keep requires
    notes: Notes = field(default_factory=Notes)

    def __post_init__(self) -> None:
        self.meta = MetaColumns(self.columns, self.notes)
        self._statement = ""  # how the source was read, as far as is known
        self._index = 0  # of this statement among all

    def read_row(self, raw: Record, record: dict[str, Any], where: str) -> Row:
        """Convert a record; ``record`` is ``raw`` with the columns that the user named renamed."""
        if not self.columns.is_text:
            record |= resolve_aliases(raw, self.columns.naming.columns)
        meta = self.meta.read(raw, record, where)
        if self.rows == 0:
            self._statement, self._index = self.meta.statement(), len(self.statements)
            log.info("%s", self._statement)
            self.statements.append(self._statement)
        try:
            row = self._convert(record, meta, where)
        except RecursionError:
            raise DataError(f"{where}: this is nested too deeply to be a row") from None
        self.rows += 1
        return row if row.id else replace(row, id=row.content_hash)

    def finish(self) -> None:
        """State how the source was read as a whole, and what was changed or dropped."""
        source, required = self.columns.source, _required_values(self.columns.naming.keep)
        if not self.rows:
            raise DataError(
                f"{source}: none of its {counted(self.dropped, 'row')} has {required}; see"
                " data.keep"
            )
        statement = self.meta.statement()
        if statement != self._statement:
            log.info("%s", statement)
        self.statements[self._index] = statement
        lines = self.notes.lines()
        if self.dropped:
            total = self.rows + self.dropped
            lines.insert(0, f"rows with {required}: {self.rows:,} of {total:,}; the others dropped")
        for line in lines:
            log.info("%s: %s", source, line)
        self.statements += [f"{source}: {line}" for line in lines]

    def _convert(self, record: Record, meta: dict[str, Any], where: str) -> Row:
        functions = record.get("tools") or self.columns.find_functions(record)
        tools = read_tools(functions, self.notes, where)
        reader = TurnReader(self.columns.naming.roles, self.notes, tools, where)
        messages = _read_messages(record, self.columns, reader)
        self.notes.json_answers += reader.became_json
        messages = _add_system_column(messages, record, where)
        kept = check_turns(messages, where)
        answer = kept[-1].content.strip()
        if answer in _NULL_TEXTS:
            self.notes.null_texts[answer] += 1
        self.notes.cut += len(kept) < len(messages)
        row = Row(
            id=_to_name(record.get("id"), "id", where),
            messages=kept,
            group=_to_name(record.get("group"), "group", where) or None,
            meta=meta,
            where=where,
            tools=tools,
        )
        if row.tools and row.is_text:
            raise DataError(
                f"{where}: a text row is a document without a conversation, so it cannot have"
                " tools; take one of the two out"
            )
        return row


def _required_values(keep: Mapping[str, object]) -> str:
    return " and ".join(
        f"{name} = {str(value).lower() if isinstance(value, bool) else value}"
        for name, value in keep.items()
    )


def _to_name(value: object, column: str, where: str) -> str:
    """Return an id or a group as text; empty if there is none.

    Parquet gives whole numbers as 2.0 where some are missing. Raises ``DataError``.
    """
    if is_absent(value):
        return ""
    if isinstance(value, bool | dict | list | bytes):
        raise DataError(
            f"{where}: {column} must be a text or a number, this is {type(value).__name__}"
        )
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    refuse_half_characters(text, column, where)
    return text


def _read_messages(record: Record, columns: Columns, reader: TurnReader) -> list[Message]:
    """Return the turns of a row, without a system column."""
    where = reader.where
    missing = next((name for name in columns.sides if name not in record), None)
    if missing is not None:
        raise DataError(
            f"{where}: no column {missing!r} in this row; it has: {', '.join(map(str, record))}"
            f" (rows before were {columns.layout})"
        )
    if columns.layout in CHAT_LAYOUTS:
        return reader.read_conversation(read_turn_list(record[columns.sides[0]], where))
    if columns.is_text:
        return [Message("text", to_text(record["text"], "text", where))]
    return _read_pair(record, columns, reader)


def _read_pair(record: Record, columns: Columns, reader: TurnReader) -> list[Message]:
    """Return the turns of a request and an answer that stand in columns of their own."""
    where = reader.where
    first, second = columns.sides
    prompt = columns.parse_cell(record[first], where)
    completion = columns.parse_cell(record[second], where)
    context = columns.find_context(record)
    if context is not None:
        texts = [to_text(prompt, first, where), to_text(record[context], context, where)]
        prompt = "\n\n".join(text for text in texts if text.strip())
    messages = _read_earlier_turns(columns.read_history(record, where), reader)
    messages += reader.read_side(prompt, "user", first)
    messages += reader.read_side(completion, "assistant", second)
    thoughts = columns.read_reasoning(record, where)
    if thoughts is not None and messages[-1].role == "assistant":
        if messages[-1].reasoning not in (None, thoughts):
            raise DataError(
                f"{where}: the {second} has thoughts in its text, which differ from those of the"
                " column of thoughts; keep one of them"
            )
        messages[-1] = replace(messages[-1], reasoning=thoughts)
    return messages


def _read_earlier_turns(history: list[Any], reader: TurnReader) -> list[Message]:
    """Return the turns of a history: turns, or lists of a request and an answer."""
    if is_turn_list(history):
        return reader.read_conversation(history)
    return [
        Message(role, text)
        for pair in history
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]


def _add_system_column(messages: list[Message], record: Record, where: str) -> list[Message]:
    """Return the messages with the system column as their first one; raise if they have another."""
    if is_absent(record.get("system")):
        return messages
    system = Message("system", to_text(record["system"], "system", where))
    if messages[0].role != "system":
        return [system, *messages]
    if messages[0] != system:
        raise DataError(
            f"{where}: the system column and the conversation's own system turn differ; keep one of"
            " them"
        )
    return messages
