"""Read the turns of a conversation as a file has them: speaker, content, calls, thoughts, marks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

from hydratune.data.formats.calls import read_tool_calls
from hydratune.data.formats.contents import becomes_json, to_text
from hydratune.data.formats.json_files import parse_json_text
from hydratune.data.formats.layouts import ROLE_KEYS, is_turn, is_turn_list
from hydratune.data.formats.marks import (
    is_trained,
)
from hydratune.data.formats.notes import Notes
from hydratune.data.formats.padding import ARGUMENT_KEYS, drop_padding
from hydratune.data.formats.parts import (
    ContentPart,
    PartKind,
    ToolResult,
    add_gemini_type,
    read_parts,
)
from hydratune.data.formats.roles import CALL, RoleMapping, is_known, role_of
from hydratune.data.formats.tagged import read_tagged_calls, split_tagged_calls
from hydratune.data.formats.turn_keys import (
    CONTENT_KEYS_OF_TURNS,
    check_other_keys,
    only_key,
    optional_text,
    read_reasoning,
    refuse_misplaced,
)
from hydratune.data.rows import Message, Record, Tool, ToolCall
from hydratune.errors import DataError

# keys of parts that are read, or change nothing
_PART_KEYS = {"type", "text", "refusal", "signature", "id", "name", "toolName", "toolCallId"}
_PART_KEYS |= {"tool_use_id", "tool_call_id", "call_id", "function", *ARGUMENT_KEYS}
_PART_KEYS |= {"content", "output", "result", "response", "summary"}
_PART_KEYS |= {"thinking", "reasoning", "reasoning_content", "thought", "think"}


def read_turn_list(value: object, where: str) -> list[Any]:
    """Return the turns of a conversation, also from JSON text (CSV) and from an object of lists.

    Raises ``DataError`` if there are none.
    """
    if isinstance(value, str):
        value = parse_json_text(value, "the conversation", where)
    if isinstance(value, dict) and _is_object_of_lists(value):
        value = [dict(zip(value, turn, strict=True)) for turn in zip(*value.values(), strict=True)]
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: the conversation must be a list with at least one turn")
    return value


def _is_object_of_lists(value: Mapping[str, object]) -> bool:
    """Return whether a conversation is stored as the datasets library stores a Sequence."""
    lengths = {len(item) if isinstance(item, list) else -1 for item in value.values()}
    return not value.keys().isdisjoint(ROLE_KEYS) and len(lengths) == 1 and -1 not in lengths


@dataclass
class _Content:
    """What the content of one turn says; ``results`` are turns of tools that come before it."""

    text: str = ""
    reasoning: str | None = None
    calls: tuple[ToolCall, ...] = ()
    results: list[Message] = field(default_factory=list)
    became_json: bool = False

    def messages(self, turn: Message, where: str) -> list[Message]:
        """Return the results of tools, and ``turn`` with this content.

        Content that is nothing but results of tools makes no turn of its own.
        """
        if self.results and not self.text.strip():
            return self.results
        differ = self.reasoning and turn.reasoning and self.reasoning != turn.reasoning
        if differ or (self.calls and turn.tool_calls):
            raise DataError(
                f"{where}: the turn has thoughts or calls both in its content and beside it; keep"
                " one of them"
            )
        own = replace(
            turn,
            content=self.text,
            reasoning=self.reasoning or turn.reasoning,
            tool_calls=self.calls or turn.tool_calls,
        )
        return [*self.results, own]


@dataclass
class TurnReader:
    """Reads the turns of one row.

    ``roles`` is data.roles; ``notes`` counts what was changed or dropped; ``where`` is file:line of
    the row. ``became_json`` says whether the content of a turn was an object that became JSON.
    Every method raises ``DataError``.
    """

    roles: RoleMapping
    notes: Notes
    tools: Sequence[Tool]
    where: str
    became_json: bool = False

    def read_conversation(self, turns: Sequence[object]) -> list[Message]:
        """Return the messages of a list of turns."""
        messages: list[Message] = []
        for turn in turns:
            role, read = self._read_turn(turn)
            if role == CALL and messages and messages[-1].role == "assistant":
                self.notes.merged += 1
                messages[-1] = _merge_call(messages[-1], read[0], self.where)
            else:
                messages += read
        return read_tagged_calls(messages, self.tools, self.notes, self.where)

    def read_side(self, value: object, role: str, column: str) -> list[Message]:
        """Return the messages of one side of a pair.

        It is a text, an object that becomes JSON (answers only), a turn, or a list of turns.
        """
        if is_turn(value) and any(
            is_known(value[key], self.roles) for key in ROLE_KEYS if key in value
        ):
            value = [value]
        elif role == "user" and _is_preference_input(value):
            value = value["messages"]
        if is_turn_list(value):
            return self.read_conversation(value)
        content = self._read_content(value, role, column, strict=role != "assistant")
        self.became_json |= content.became_json
        return content.messages(Message(role, ""), self.where)

    def _read_turn(self, turn: object) -> tuple[str, list[Message]]:
        """Return the role of a turn, which may be ``CALL``, and its messages."""
        where = self.where
        if not isinstance(turn, dict):
            raise _incomplete_turn_error(turn, where)
        role_key = only_key(turn, ROLE_KEYS, where)
        if role_key is None:
            raise _incomplete_turn_error(turn, where)
        role = role_of(turn[role_key], self.roles, where)
        check_other_keys(turn, role, self.notes, where)
        train = is_trained(turn, role, where)
        content_key = only_key(turn, CONTENT_KEYS_OF_TURNS, where)
        content = turn[content_key] if content_key else None
        content, calls = self._split_calls(turn, role, content)
        content = self._refusal_or_content(turn, role, content)
        if content is None and not any(key in turn for key in CONTENT_KEYS_OF_TURNS):
            raise _incomplete_turn_error(turn, where)
        speaker = "assistant" if role == CALL else role
        empty_turn = Message(
            speaker,
            "",
            reasoning=read_reasoning(turn, speaker, where),
            tool_calls=calls,
            tool_call_id=optional_text(turn, "tool_call_id", speaker, where),
            name=optional_text(turn, "name", speaker, where),
            train=train,
        )
        if content_key == "parts" and isinstance(content, list):
            content = [add_gemini_type(part) for part in content]
        name = f"content of the {speaker} turn"
        read = self._read_content(content, speaker, name, strict=speaker != "tool")
        self.became_json |= read.became_json
        messages = read.messages(empty_turn, where)
        for message in messages:
            refuse_misplaced(message, where)
        return role, messages

    def _split_calls(
        self, turn: Record, role: str, content: object
    ) -> tuple[object, tuple[ToolCall, ...]]:
        """Return the content without calls, and the calls; a turn of role ``CALL`` has no other."""
        beside = turn.get("tool_calls") or turn.get("function_call")
        if role != CALL:
            calls = read_tool_calls(beside, self.tools, self.notes, self.where)
            return ("" if calls and content is None else content), calls
        tagged = split_tagged_calls(content, self.where)
        content = tagged[1] if tagged is not None and not tagged[0] else content
        calls = read_tool_calls(content or beside, self.tools, self.notes, self.where)
        if not calls:
            raise DataError(f"{self.where}: a function_call turn holds no call")
        return "", calls

    def _refusal_or_content(self, turn: Record, role: str, content: object) -> object:
        """Return the refusal of a turn, which OpenAI stores beside an empty content."""
        refusal = optional_text(turn, "refusal", role, self.where)
        if not refusal:
            return content
        if content:
            raise DataError(
                f"{self.where}: content and refusal of the {role} turn are both there; keep one of"
                " them"
            )
        self.notes.refusals += 1
        return refusal

    def _read_content(self, value: object, role: str, name: str, *, strict: bool) -> _Content:
        """Return what a content says. ``name`` is what messages call it; ``strict``: see parts."""
        parts = read_parts(value, name, self.where, strict=strict)
        if parts is not None:
            self._count_parts(value, parts)
            if role == "assistant":
                return self._join_assistant_parts(parts, name)
            return self._join_parts(parts, role, name)
        if strict and role == "assistant" and _holds_text(value):
            raise DataError(
                f"{self.where}: {name} is a list with texts in it, and it is not known whether they"
                " are parts of one text or a JSON list; write the one text, or the list as JSON"
                " text"
            )
        if becomes_json(value):
            self.notes.answer_nulls += drop_padding(value)[1]
        text = to_text(value, name, self.where, is_answer=role in ("assistant", "tool"))
        return _Content(text, became_json=becomes_json(value))

    def _count_parts(self, value: object, parts: Sequence[ContentPart]) -> None:
        """Count refusals, and keys of parts that nothing reads."""
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict):
                unread = [key for key, item in part.items() if key not in _PART_KEYS and item]
                self.notes.keys.update(f"{part['type']}.{key}" for key in unread)
        self.notes.refusals += sum(part.kind is PartKind.refusal for part in parts)

    def _join_parts(self, parts: Sequence[ContentPart], role: str, name: str) -> _Content:
        """Return the content of a turn that is not the assistant's: results of tools, then text."""
        content = _Content()
        for part in parts:
            if part.kind is PartKind.text:
                content.text += part.text
            elif part.result is not None and role in ("user", "tool"):
                if content.text.strip():
                    raise DataError(
                        f"{self.where}: {name} holds the result of a tool after a text; results"
                        " come first"
                    )
                content.text = ""
                content.results.append(self._result_message(part.result))
            else:
                raise DataError(
                    f"{self.where}: {name} holds a part of type {part.type!r} that is not text;"
                    " only text can be trained on"
                )
        return content

    def _result_message(self, result: ToolResult) -> Message:
        name = "the result of a tool"
        text = self._read_content(result.content, "tool", name, strict=False).text
        return Message("tool", text, tool_call_id=result.id or None, name=result.name or None)

    def _join_assistant_parts(self, parts: Sequence[ContentPart], name: str) -> _Content:
        """Return the content of an assistant turn.

        Its parts must be in the order in which templates write them: thoughts, the text, calls.
        """
        order = (PartKind.thought, PartKind.text, PartKind.call)
        content, last = _Content(), 0
        thoughts: list[str] = []
        for part in parts:
            kind = PartKind.text if part.kind is PartKind.refusal else part.kind
            if kind is PartKind.result:
                raise DataError(
                    f"{self.where}: {name} holds the result of a tool; results belong in a turn of"
                    " the tool or the user"
                )
            is_empty = part.call is None and not part.text.strip()
            if is_empty and (kind is PartKind.thought or not content.text or content.calls):
                continue
            if order.index(kind) < last:
                raise DataError(
                    f"{self.where}: {name} holds {_plural(kind)} after {_plural(order[last])};"
                    " templates write thoughts, then the text, then the calls: put them in this"
                    " order, or split the turn"
                )
            last = order.index(kind)
            if kind is PartKind.thought:
                thoughts.append(part.text)
            elif kind is PartKind.text:
                content.text += part.text
            else:
                content.calls += read_tool_calls(part.call, self.tools, self.notes, self.where)
        content.reasoning = "\n\n".join(thoughts) or None
        return content


def _is_preference_input(value: object) -> TypeGuard[Record]:
    """Return whether a prompt is OpenAI's input of a preference pair: an object with messages."""
    return (
        isinstance(value, dict)
        and is_turn_list(value.get("messages"))
        and not any(item for key, item in value.items() if key != "messages")
    )


def _holds_text(value: object) -> bool:
    return isinstance(value, list) and any(isinstance(item, str) for item in value)


def _plural(kind: PartKind) -> str:
    return "text" if kind is PartKind.text else f"{kind}s"


def _incomplete_turn_error(turn: object, where: str) -> DataError:
    return DataError(
        f"{where}: a turn needs 'role' and 'content' (or 'from' and 'value'), got"
        f" {str(turn)[:80]!r}"
    )


def _merge_call(turn: Message, call: Message, where: str) -> Message:
    """Return an assistant turn with the calls that follow it without a result between them."""
    if turn.train != call.train:
        raise DataError(
            f"{where}: the calls of one assistant turn are marked both as trained and as context;"
            " give all of them the same mark"
        )
    if turn.reasoning and call.reasoning:
        raise DataError(
            f"{where}: two calls of one assistant turn have different thoughts; put the result"
            " of the first between them"
        )
    return replace(
        turn,
        tool_calls=(*turn.tool_calls, *call.tool_calls),
        reasoning=turn.reasoning or call.reasoning,
    )
