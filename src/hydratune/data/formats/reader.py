"""Records of files and hub data sets -> rows. Every refusal names file:line; what was recognised is
stated, never guessed silently.

Layouts: OpenAI messages (``messages``), sharegpt (``conversations``), alpaca
(``instruction``/``input``/``output``), prompt/completion columns under their usual names, and
documents (``text``). ``tools`` is a column of the row, ``history`` one of pairs; tool calls,
thinking and ``train`` are keys of a turn. ``columns`` maps canonical names to a file's own,
``roles`` the names of those who speak, and ``keep`` names the value that a column of every row must
have. Other columns with short plain values are meta data of the row; the rest is ignored, and said
to be.
"""

import json
import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hydratune.console import console
from hydratune.data.formats.calls import Tools, refuse_half_characters, tool_list
from hydratune.data.formats.files import load_json, records
from hydratune.data.formats.layouts import (
    ALIASES,
    BESIDE,
    CONTEXT,
    EXTRA,
    HISTORY,
    REASONING,
    found_layout,
    is_turn_list,
    named_layout,
)
from hydratune.data.formats.notes import Notes, counted
from hydratune.data.formats.padding import typed
from hydratune.data.formats.preferences import (
    chosen_column,
    is_kept,
    refuse_marked,
    refuse_preferences,
)
from hydratune.data.formats.turns import TurnReader, check_turns, content_text, turn_list
from hydratune.data.rows import Message, Row
from hydratune.data.thoughts import closings
from hydratune.errors import DataError

log = logging.getLogger(__name__)

_META = ("meta", "metadata")
_META_CHARACTERS = 200
_OTHER_MEANING = "encoding"  # in meta data it says how a case's file had to be decoded
_NULLS = {
    "null",
    "NULL",
    "Null",
    "None",
    "NaN",
    "nan",
    "NAN",
    "NA",
    "N/A",
    "<NA>",
    "undefined",
}  # as programs write a missing value
_CHATS = ("messages", "sharegpt")


@dataclass(frozen=True)
class Naming:
    """What the user says of a source: canonical name -> column, name of a speaker -> role, column
    -> the value that rows must have.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    roles: Mapping[str, Any] = field(default_factory=dict)
    keep: Mapping[str, Any] = field(default_factory=dict)


def read_file(
    path: Path,
    naming: Naming | Mapping[str, str],
    encoding: str = "utf-8",
    statements: list[str] | None = None,
) -> Iterator[Row]:
    """The rows of one file, one after the other, so that a large file need not fit into memory.
    Raises ``DataError``.

    What was recognised is logged and appended to ``statements``. A mapping is one of columns alone.
    """
    statements = [] if statements is None else statements
    return to_rows(records(path, encoding, statements), str(path), naming, statements)


def open_hub(name: str, subset: str | None, split: str, revision: str | None) -> Any:
    """One split of a hub data set or of a local data set folder, memory-mapped.

    Raises ``DataError``.
    """
    import datasets

    if not console.is_terminal:
        datasets.disable_progress_bars()
    try:
        if (Path(name) / "dataset_dict.json").is_file() or (
            Path(name) / "state.json"
        ).is_file():  # written by save_to_disk
            saved = datasets.load_from_disk(name)
            return saved[split] if isinstance(saved, datasets.DatasetDict) else saved
        return datasets.load_dataset(name, subset, split=split, revision=revision)
    except (
        Exception
    ) as error:  # the library raises a dozen unrelated types, most of them about the network
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"data.id = {name}: cannot load split {split!r} ({first}); check the name, the network"
            " and HF_TOKEN for a gated set, or download it and use data=files"
        ) from error


def read_hub(
    data: Any,
    name: str,
    split: str,
    naming: Naming | Mapping[str, str],
    statements: list[str] | None = None,
) -> Iterator[Row]:
    """The rows of what ``open_hub`` opened. Raises ``DataError``."""
    features = getattr(data, "features", None)
    kinds = {item.name: item.type for item in features.arrow_schema} if features is not None else {}

    def found() -> Iterator[tuple[str, dict[str, Any]]]:
        for number, record in enumerate(data, 1):
            where = f"{name}[{split}][{number}]"
            yield (
                where,
                {
                    key: typed(value, kinds[key], where) if key in kinds else value
                    for key, value in record.items()
                },
            )

    return to_rows(found(), f"{name}[{split}]", naming, statements)


def to_rows(
    records: Iterable[tuple[str, Mapping[str, Any]]],
    source: str,
    naming: Naming | Mapping[str, str],
    statements: list[str] | None = None,
) -> Iterator[Row]:
    """Recognises the layout from the first record, says so in the log, and converts every record.

    Raises ``DataError``.
    """
    naming = naming if isinstance(naming, Naming) else Naming(naming)
    statements = [] if statements is None else statements
    seen: _Seen | None = None
    place = 0
    for where, raw in records:
        marks = _with_inner(raw, where)
        record = _renamed(raw, naming.columns, where)
        if seen is None:
            seen = _recognised(record, naming, source, where)
        if not is_kept(marks, naming.keep, where):
            seen.left_out += 1
            continue
        if seen.layout != "text":
            record |= _aliased(raw, naming.columns)
        meta = seen.meta(raw, record, where)
        if seen.rows == 0:
            log.info("%s", said := seen.statement())
            place = len(statements)
            statements.append(said)
        try:
            row = _row(record, seen, meta, where)
        except RecursionError:
            raise DataError(f"{where}: this is nested too deeply to be a row") from None
        seen.rows += 1
        yield row if row.id else replace(row, id=row.content_hash)
    if seen is None:
        raise DataError(f"{source}: no rows in it; at least one is needed")
    if not seen.rows:
        raise DataError(
            f"{source}: none of its {counted(seen.left_out, 'row')} has {_wanted(naming.keep)}; see"
            " data.keep"
        )
    if (whole := seen.statement()) != said:
        log.info("%s", whole)
    more = seen.counts()
    for line in more:
        log.info("%s", line)
    statements[place] = whole
    statements += more


def _wanted(keep: Mapping[str, Any]) -> str:
    return " and ".join(
        f"{name} = {str(value).lower() if isinstance(value, bool) else value}"
        for name, value in keep.items()
    )


def _recognised(record: Mapping[str, Any], naming: Naming, source: str, where: str) -> "_Seen":
    columns = naming.columns
    named = bool(columns.keys() - EXTRA - {"context", HISTORY, REASONING})
    chosen = None if named else chosen_column(record)
    if chosen is not None and not _answered(record):
        refuse_preferences(record, chosen, where)
    layout = named_layout(columns, where) if named else found_layout(record, where)
    seen = _Seen(source, layout, naming, named)
    seen.refuse_unused(where)
    return seen


def _answered(record: Mapping[str, Any]) -> bool:
    """Whether a row with a preference pair holds a whole conversation, or a completion, beside it."""  # noqa: E501
    turns = next(
        (record[name] for name in ("messages", "conversations") if is_turn_list(record.get(name))),
        None,
    )
    if turns is not None:
        return str(turns[-1].get("role") or turns[-1].get("from")).lower() in ("assistant", "gpt")
    return any(
        record.get(name) not in (None, "")
        for name in ("completion", "response", "output", "answer")
    )


def _row(record: Mapping[str, Any], seen: "_Seen", meta: dict[str, Any], where: str) -> Row:
    tools = tool_list(record.get("tools") or seen.functions(record), seen.notes, where)
    messages = _messages(record, seen, tools, where)
    kept = check_turns(messages, where)
    if kept[-1].content.strip() in _NULLS:
        seen.notes.null_texts[kept[-1].content.strip()] += 1
    seen.notes.cut += len(kept) < len(messages)
    row = Row(
        id=_name(record.get("id"), "id", where),
        messages=kept,
        group=_name(record.get("group"), "group", where) or None,
        meta=meta,
        where=where,
        tools=tools,
    )
    if row.tools and row.is_text:
        raise DataError(
            f"{where}: a text row is a document without a conversation, so it cannot have tools;"
            " leave one of the two out"
        )
    return row


@dataclass
class _Seen:
    """What was recognised in one source, to be said."""

    source: str
    layout: str
    naming: Naming
    named: bool  # the user named columns that hold text, so no other column is text
    notes: Notes = field(default_factory=Notes)
    rows: int = 0
    left_out: int = 0  # rows without the value that data.keep wants
    # in the order of the file; so are the next two
    taken: dict[str, None] = field(default_factory=dict)
    kept: dict[str, None] = field(default_factory=dict)
    ignored: dict[str, None] = field(default_factory=dict)

    @property
    def sides(self) -> tuple[str, ...]:
        """The columns that the layout needs."""
        known = {
            "messages": ("messages",),
            "sharegpt": ("conversations",),
            "alpaca": ("instruction", "output"),
            "text": ("text",),
        }
        return known.get(self.layout) or tuple(self.layout.split("/"))

    def refuse_unused(self, where: str) -> None:
        """A column that was named and has no place in the layout would be dropped."""
        places = {*self.sides, *EXTRA, *(BESIDE if len(self.sides) == 2 else ())}
        unused = next((name for name in self.naming.columns if name not in places), None)
        if unused is not None:
            raise DataError(
                f"{where}: data.columns.{unused} has no place in rows read as {self.layout}; leave"
                " it out, or name other columns"
            )

    def context(self, record: Mapping[str, Any]) -> str | None:
        """The column with what the request is about."""
        if len(self.sides) < 2:
            return None
        usual = not self.named and self.sides[0] in ("instruction", "question")
        known = [
            name
            for name in CONTEXT
            if name in record and name not in self.sides and (usual or name in self.naming.columns)
        ]
        return next((name for name in known if not _is_absent(record[name])), None)

    def history(self, record: Mapping[str, Any], where: str) -> list[list[str]] | None:
        """Earlier requests and answers of a pair; None where the column holds something else, which
        is no history.
        """
        value = record.get(HISTORY) if len(self.sides) == 2 else None
        named = HISTORY in self.naming.columns
        # CSV cells hold lists as JSON text
        if isinstance(value, str) and (named or value.lstrip().startswith("[[")):
            value = turn_list(value, where) if value.strip() not in ("", "[]") else None
        if _is_absent(value) or value == [] or (isinstance(value, str) and not named):
            return None
        pairs = isinstance(value, list) and all(
            isinstance(pair, list | tuple)
            and len(pair) == 2
            and all(isinstance(said, str) for said in pair)
            for pair in value
        )
        if not pairs and not is_turn_list(value):
            raise DataError(
                f"{where}: history must be a list of [request, answer], this is"
                f" {str(value)[:60]!r}; correct it, or rename it"
            )
        return value  # type: ignore[no-any-return]

    def reasoning(self, record: Mapping[str, Any], where: str) -> str | None:
        """The thoughts before the answer of a pair; None where the answer itself is written with
        its thoughts.
        """
        usual = not self.named or REASONING in self.naming.columns
        value = record.get(REASONING) if len(self.sides) == 2 and usual else None
        if _is_absent(value) or closings(str(record.get(self.sides[1]))):
            return None
        if not isinstance(value, str):
            if REASONING in self.naming.columns:
                raise DataError(
                    f"{where}: data.columns.{REASONING} must name a column of texts, this is"
                    f" {type(value).__name__}"
                )
            return None
        return value if value.strip() else None

    def functions(self, record: Mapping[str, Any]) -> Any:
        """OpenAI's name for ``tools`` before tools were: a list of functions."""
        value = (
            record.get("functions")
            if self.layout in _CHATS and "tools" not in self.naming.columns
            else None
        )
        if isinstance(value, str) and value.lstrip().startswith("[{"):
            return value
        functions = isinstance(value, list) and all(
            isinstance(item, dict) and isinstance(item.get("name"), str) for item in value
        )
        return value if functions else None

    def meta(self, raw: Mapping[str, Any], record: Mapping[str, Any], where: str) -> dict[str, Any]:
        """The row's meta data; notes which columns were taken, kept and ignored.

        ``record`` has the canonical names too.
        """
        context = self.context(record)
        canonical = {*self.sides, *EXTRA, *([context] if context else [])}
        canonical |= {HISTORY} if self.history(record, where) else set()
        canonical |= {"functions"} if self.functions(record) and not record.get("tools") else set()
        canonical |= {REASONING} if self.reasoning(record, where) is not None else set()
        canonical -= self.naming.columns.keys()
        own = {*canonical, *self.naming.columns.values()}
        own |= {
            alias
            for name in canonical
            if self.layout != "text" and (alias := _alias(name, raw)) is not None
        }
        refuse_marked(
            _with_inner(raw, where),
            {*own, *_META, *self.naming.keep},
            where,
            document=self.layout == "text",
        )
        meta: dict[str, Any] = {}
        nested: dict[str, Any] = {}
        for name, value in raw.items():
            if _is_absent(value) or value in ([], {}) or (name == HISTORY and value == "[]"):
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
        plain = {
            name: value
            for name, value in meta.items()
            if (_is_plain(value) and name != _OTHER_MEANING) or _scores(name, value)
        }
        if self.layout != "text":
            for name in plain.keys() - self.naming.keep.keys():
                if isinstance(plain[name], bool):
                    self.notes.truths.setdefault(name, Counter())[plain[name]] += 1
        self.kept |= dict.fromkeys(plain)
        self.ignored |= dict.fromkeys(name for name in meta if name not in plain)
        refuse_half_characters(
            "".join(map(str, (*raw, *plain, *plain.values()))), "meta data", where
        )
        return plain

    def statement(self) -> str:
        taken = (
            ""
            if set(self.taken) == set(self.layout.split("/"))
            else f" from {', '.join(self.taken)}"
        )
        kept = f"; kept as meta data: {_listed(self.kept)}" if self.kept else ""
        ignored = [f"{name} (in some rows)" if name in self.kept else name for name in self.ignored]
        return f"{self.source}: read as {self.layout}{taken}{kept}" + (
            f"; ignored: {_listed(ignored)}" if ignored else ""
        )

    def counts(self) -> list[str]:
        """What was changed in rows and left out, once all of them are read."""
        said = []
        if self.left_out:
            said.append(
                f"rows with {_wanted(self.naming.keep)}: {self.rows:,} of"
                f" {self.rows + self.left_out:,}; the others left out"
            )
        return [f"{self.source}: {line}" for line in (*said, *self.notes.lines())]


def _listed(names: Iterable[str], most: int = 20) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _is_absent(value: Any) -> bool:
    """Null, an empty text, or not a number, which pandas writes for null."""
    return (
        value is None
        or (isinstance(value, str) and value == "")
        or (isinstance(value, float) and math.isnan(value))
    )


def _is_plain(value: Any) -> bool:
    """Whether a value can be a label: a short text, a number, true or false."""
    if isinstance(value, float) and math.isinf(value):
        return False
    return isinstance(value, bool | int | float | str) and len(str(value)) <= _META_CHARACTERS


def _scores(name: str, value: Any) -> bool:
    """Whether a value is what answers are scored by, of any length: other right answers, or tests
    of code.
    """
    if name == "references":
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return name == "tests" and isinstance(value, str)


def _with_inner(raw: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The columns, and beside them what an object of meta data holds."""
    inner = [found for name in _META if (found := _meta_object(raw.get(name), where)) is not None]
    return {key: value for found in (*inner, raw) for key, value in found.items()} if inner else raw


def _meta_object(value: Any, where: str) -> dict[str, Any] | None:
    """A column of meta data is an object, or the JSON text of one."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = load_json(value, where)
        except json.JSONDecodeError:
            return None
    return value if isinstance(value, dict) else None


def _name(value: Any, column: str, where: str) -> str:
    """An id or a group as text; empty where there is none.

    Parquet gives whole numbers as 2.0 where some are missing.
    """
    if _is_absent(value):
        return ""
    if isinstance(value, bool | dict | list | bytes):
        raise DataError(
            f"{where}: {column} must be a text or a number, this is {type(value).__name__}"
        )
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    refuse_half_characters(text, column, where)
    return text


def _renamed(raw: Mapping[str, Any], columns: Mapping[str, str], where: str) -> dict[str, Any]:
    record = dict(raw)
    for canonical, own in columns.items():
        if own not in raw:
            raise DataError(
                f"{where}: data.columns.{canonical} = {own}: no such column; this row has:"
                f" {', '.join(map(str, raw))}"
            )
        record[canonical] = raw[own]
    return record


def _aliased(raw: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """Canonical name -> the value of the column that is read alike."""
    found = {
        name: alias
        for name in ALIASES.keys() - columns.keys()
        if (alias := _alias(name, raw)) is not None
    }
    return {name: raw[alias] for name, alias in found.items() if alias not in columns.values()}


def _alias(canonical: str, raw: Mapping[str, Any]) -> str | None:
    """The column that is read as ``canonical``, which the row does not have itself."""
    if not _is_absent(raw.get(canonical)):
        return None
    return next(
        (name for name in ALIASES.get(canonical, ()) if not _is_absent(raw.get(name))), None
    )


def _messages(record: Mapping[str, Any], seen: _Seen, tools: Tools, where: str) -> list[Message]:
    missing = next((name for name in seen.sides if name not in record), None)
    if missing is not None:
        raise DataError(
            f"{where}: no column {missing!r} in this row; it has: {', '.join(map(str, record))}"
            f" (rows before were {seen.layout})"
        )
    messages, became_json = _conversation(record, seen, tools, where)
    seen.notes.json_answers += became_json
    if _is_absent(record.get("system")):
        return messages
    system = Message("system", content_text(record["system"], "system", where))
    if messages[0].role != "system":
        return [system, *messages]
    if messages[0] != system:
        raise DataError(
            f"{where}: the system column and the conversation's own system turn differ; keep one of"
            " them"
        )
    return messages


def _conversation(
    record: Mapping[str, Any], seen: _Seen, tools: Tools, where: str
) -> tuple[list[Message], bool]:
    """The turns, and whether the content of one was an object that became JSON."""
    reader = TurnReader(seen.naming.roles, seen.notes)
    if seen.layout in _CHATS:
        return reader.conversation(turn_list(record[seen.sides[0]], where), tools, where)
    if seen.layout == "text":
        return [Message("text", content_text(record["text"], "text", where))], False
    first, second = seen.sides
    prompt, completion, context = (
        _cell(record[first], seen, where),
        _cell(record[second], seen, where),
        seen.context(record),
    )
    if context is not None:
        texts = [content_text(prompt, first, where), content_text(record[context], context, where)]
        prompt = "\n\n".join(text for text in texts if text.strip())
    messages, changed = _earlier(seen.history(record, where) or [], reader, tools, where)
    for value, role, column in ((prompt, "user", first), (completion, "assistant", second)):
        said, became_json = reader.side(value, role, column, tools, where)
        messages += said
        changed |= became_json
    thoughts = seen.reasoning(record, where)
    if thoughts is not None and messages[-1].role == "assistant":
        if messages[-1].reasoning not in (None, thoughts):
            raise DataError(
                f"{where}: the {second} has thoughts of its own, which differ from those of the"
                " column of thoughts; keep one of them"
            )
        messages[-1] = replace(messages[-1], reasoning=thoughts)
    return messages, changed


def _cell(value: Any, seen: _Seen, where: str) -> Any:
    """A cell of a CSV file that holds the JSON text of turns is those turns."""
    if (
        isinstance(value, str)
        and seen.source.lower().endswith((".csv", ".tsv"))
        and value.lstrip().startswith("[{")
    ):
        try:
            turns = load_json(value, where)
        except json.JSONDecodeError:
            return value
        return turns if is_turn_list(turns) else value
    return value


def _earlier(
    history: list[Any], reader: TurnReader, tools: Tools, where: str
) -> tuple[list[Message], bool]:
    if is_turn_list(history):
        return reader.conversation(history, tools, where)
    return [
        Message(role, text)
        for pair in history
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ], False
