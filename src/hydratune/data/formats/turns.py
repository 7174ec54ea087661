"""The turns of a conversation as a file has them -> Messages: who speaks, contents, tool calls,
thinking, and what is trained.
"""

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from hydratune.data.formats.calls import Tools, parsed, refuse_half_characters, tool_calls
from hydratune.data.formats.layouts import CONTENT_KEYS, ROLE_KEYS, is_turn, is_turn_list
from hydratune.data.formats.marks import (
    CONTEXT,
    TRAINED,
    is_missing,
    is_trained,
    refuse_bad,
    refuse_unclear,
)
from hydratune.data.formats.notes import Notes
from hydratune.data.formats.padding import ARGUMENTS, unpadded
from hydratune.data.formats.parts import Part, PartKind, gemini_part, parts_of, refuse_media
from hydratune.data.formats.roles import CALL, is_known, role_of
from hydratune.data.formats.tagged import tagged_calls, with_calls
from hydratune.data.rows import ROLES, Message
from hydratune.errors import DataError

_CONTENT_KEYS = (*CONTENT_KEYS, "text")  # beside a role; rows of documents have a text too
# one thing under several names
_REASONING = (
    "reasoning_content",
    "thinking",
    "reasoning",
    "thoughts",
    "thought",
    "chain_of_thought",
    "cot",
)
# the same as lists of parts (LiteLLM, OpenRouter)
_BLOCKS = (
    "thinking_blocks",
    "reasoning_details",
)
_KNOWN = {
    *ROLE_KEYS,
    *_CONTENT_KEYS,
    *_REASONING,
    *_BLOCKS,
    *TRAINED,
    *CONTEXT,
    "tool_calls",
    "function_call",
    "tool_call_id",
    "name",
    "refusal",
}
_MEDIA_KEYS = {"image", "images", "image_url", "audio", "audios", "video", "videos"}
_PART_KEYS = {
    "type",
    "text",
    "refusal",
    "signature",
    "id",
    "name",
    "toolName",
    "toolCallId",
    "tool_use_id",
    "tool_call_id",
    "call_id",
}
_PART_KEYS |= {"function", *ARGUMENTS, "content", "output", "result", "response", "summary"}
_PART_KEYS |= {"thinking", "reasoning", "reasoning_content", "thought", "think"}


def turn_list(value: Any, where: str) -> list[Any]:
    if isinstance(value, str):  # CSV cells hold lists as JSON text
        value = parsed(value, "the conversation", where)
    if isinstance(value, dict) and _is_table(value):
        value = [
            dict(zip(value, items, strict=True)) for items in zip(*value.values(), strict=True)
        ]
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: the conversation must be a list with at least one turn")
    return value


def _is_table(value: Mapping[str, Any]) -> bool:
    """An object of lists, as the datasets library has for a Sequence of objects."""
    lengths = {len(item) if isinstance(item, list) else -1 for item in value.values()}
    return not value.keys().isdisjoint(ROLE_KEYS) and len(lengths) == 1 and -1 not in lengths


@dataclass(frozen=True)
class TurnReader:
    """Reads the turns of one source.

    ``roles`` is data.roles; ``notes`` counts what was changed or left out.
    """

    roles: Mapping[str, Any]
    notes: Notes

    def conversation(
        self, turns: list[Any], tools: Tools, where: str
    ) -> tuple[list[Message], bool]:
        """The messages, and whether the content of one was an object that became JSON.

        Raises ``DataError``.
        """
        messages: list[Message] = []
        became_json = False
        for turn in turns:
            role, found, changed = self._turn(turn, tools, where)
            became_json |= changed
            if role == CALL and messages and messages[-1].role == "assistant":
                self.notes.merged += 1
                messages[-1] = _together(messages[-1], found[0], where)
            else:
                messages += found
        return with_calls(messages, tools, self.notes, where), became_json

    def side(
        self, value: Any, role: str, column: str, tools: Tools, where: str
    ) -> tuple[list[Message], bool]:
        """One side of a pair: a text, an object that becomes JSON (answers only), a turn or a list
        of turns.
        """
        if is_turn(value) and any(
            is_known(value[key], self.roles) for key in ROLE_KEYS if key in value
        ):
            value = [value]
        if (
            role == "user"
            and isinstance(value, dict)
            and is_turn_list(value.get("messages"))
            and not any(item for key, item in value.items() if key != "messages")
        ):
            value = value["messages"]  # OpenAI's input of a preference pair
        if is_turn_list(value):
            return self.conversation(value, tools, where)
        said = self._content(value, role, column, tools, where, strict=role != "assistant")
        return said.messages(Message(role, ""), where), said.became_json

    def _turn(self, turn: Any, tools: Tools, where: str) -> tuple[str, list[Message], bool]:
        role_key = _one_of(turn, ROLE_KEYS, where) if isinstance(turn, dict) else None
        if role_key is None:
            raise DataError(
                f"{where}: a turn needs 'role' and 'content' (or 'from' and 'value'), got"
                f" {str(turn)[:80]!r}"
            )
        role = role_of(turn[role_key], self.roles, where)
        self._note_keys(turn, role, where)
        train = is_trained(turn, role, where)
        content_key = _one_of(turn, _CONTENT_KEYS, where)
        content = turn[content_key] if content_key else None
        if role == CALL:  # the call stands where others write the text
            tagged = tagged_calls(content, where)
            content = tagged[1] if tagged is not None and not tagged[0] else content
            calls = tool_calls(
                content or turn.get("tool_calls") or turn.get("function_call"),
                tools,
                self.notes,
                where,
            )
            content = ""
            if not calls:
                raise DataError(f"{where}: a function_call turn holds no call")
        else:
            calls = tool_calls(
                turn.get("tool_calls") or turn.get("function_call"), tools, self.notes, where
            )
            content = "" if calls and content is None else content
        if refusal := _optional_text(turn, "refusal", role, where):
            if content:
                raise DataError(
                    f"{where}: content and refusal of the {role} turn are both there; keep one of"
                    " them"
                )
            content = refusal
            self.notes.refusals += 1
        speaker = "assistant" if role == CALL else role
        if content is None and not any(key in turn for key in _CONTENT_KEYS):
            raise DataError(
                f"{where}: a turn needs 'role' and 'content' (or 'from' and 'value'), got"
                f" {str(turn)[:80]!r}"
            )
        frame = Message(
            speaker,
            "",
            reasoning=_reasoning(turn, speaker, where),
            tool_calls=calls,
            tool_call_id=_optional_text(turn, "tool_call_id", speaker, where),
            name=_optional_text(turn, "name", speaker, where),
            train=train,
        )
        if content_key == "parts" and isinstance(content, list):
            content = [gemini_part(part) for part in content]
        said = self._content(
            content,
            speaker,
            f"content of the {speaker} turn",
            tools,
            where,
            strict=speaker != "tool",
        )
        messages = said.messages(frame, where)
        for message in messages:
            _refuse_misplaced(message, where)
        return role, messages, said.became_json

    def _note_keys(self, turn: Mapping[str, Any], role: str, where: str) -> None:
        """Keys that nothing reads are named, unless what they say would change what is trained."""
        for key, value in turn.items():
            if key in _KNOWN or is_missing(value) or value in ("", [], {}):
                continue
            if key in _MEDIA_KEYS:
                raise DataError(
                    f"{where}: {key} of the {role} turn cannot be trained on, only text; take"
                    " it out"
                )
            if key in ("tools", "functions"):
                raise DataError(
                    f"{where}: {key} of the {role} turn: the tools of a row are a column of the"
                    " row; put them beside the turns"
                )
            inner = value if key in ("meta", "metadata") and isinstance(value, dict) else {}
            for name in (
                name
                for name, item in inner.items()
                if not is_missing(item) and item not in ("", [], {})
            ):
                refuse_unclear(inner, name, role, where)
                refuse_bad({**turn, **inner}, name, role, where)
            refuse_unclear(turn, key, role, where)
            refuse_bad(turn, key, role, where)
            self.notes.keys[key] += 1

    def _content(
        self, value: Any, role: str, name: str, tools: Tools, where: str, *, strict: bool
    ) -> "_Said":
        parts = parts_of(value, name, where, strict=strict)
        if parts is None:
            if (
                strict
                and role == "assistant"
                and isinstance(value, list)
                and any(isinstance(item, str) for item in value)
            ):
                raise DataError(
                    f"{where}: {name} is a list with texts in it, and it is not known whether they"
                    " are parts of one text or a JSON list; write the one text, or the list as"
                    " JSON text"
                )
            if becomes_json(value):
                self.notes.answer_nulls += unpadded(value)[1]
            return _Said(
                content_text(value, name, where, answer=role in ("assistant", "tool")),
                became_json=becomes_json(value),
            )
        for part in value if isinstance(value, list) else [value]:
            extra = (
                [key for key, item in part.items() if key not in _PART_KEYS and item]
                if isinstance(part, dict)
                else []
            )
            self.notes.keys.update(f"{part['type']}.{key}" for key in extra)
        self.notes.refusals += sum(part.kind is PartKind.refusal for part in parts)
        if role == "assistant":
            return self._assistant(parts, name, tools, where)
        said = _Said("")
        for part in parts:
            if part.kind is PartKind.text:
                said.text += part.value
            elif part.kind is PartKind.result and role in ("user", "tool"):
                if said.text.strip():
                    raise DataError(
                        f"{where}: {name} holds the result of a tool after a text; results come"
                        " first"
                    )
                said.text = ""
                result = part.value
                text = self._content(
                    result["content"], "tool", "the result of a tool", tools, where, strict=False
                ).text
                said.results.append(
                    Message(
                        "tool", text, tool_call_id=result["id"] or None, name=result["name"] or None
                    )
                )
            else:
                raise DataError(
                    f"{where}: {name} holds a part of type {part.type!r} that is not text; only"
                    " text can be trained on"
                )
        return said

    def _assistant(self, parts: list[Part], name: str, tools: Tools, where: str) -> "_Said":
        """Thoughts come first, then the text, then the calls: the order in which templates write
        them.
        """
        order = (PartKind.thought, PartKind.text, PartKind.call)
        said, last = _Said(""), 0
        thoughts: list[str] = []
        for part in parts:
            kind = PartKind.text if part.kind is PartKind.refusal else part.kind
            if kind is PartKind.result:
                raise DataError(
                    f"{where}: {name} holds the result of a tool; results belong in a turn of the"
                    " tool or the user"
                )
            if (
                isinstance(part.value, str)
                and not part.value.strip()
                and (kind is PartKind.thought or not said.text or said.calls)
            ):
                continue  # an empty part says nothing
            if order.index(kind) < last:
                raise DataError(
                    f"{where}: {name} holds {_plural(kind)} after {_plural(order[last])}; templates"
                    " write thoughts, then the text, then the calls: put them in this order, or"
                    " split the turn"
                )
            last = order.index(kind)
            if kind is PartKind.thought:
                thoughts.append(part.value)
            elif kind is PartKind.text:
                said.text += part.value
            else:
                said.calls += tool_calls(part.value, tools, self.notes, where)
        said.reasoning = "\n\n".join(thoughts) or None
        return said


@dataclass
class _Said:
    """What the content of one turn says; ``results`` are turns of tools that come before it."""

    text: str
    reasoning: str | None = None
    calls: tuple[dict[str, Any], ...] = ()
    results: list[Message] = field(default_factory=list)
    became_json: bool = False

    def messages(self, frame: Message, where: str) -> list[Message]:
        """The results of tools, and ``frame`` with what is said; nothing of it where only results
        are.
        """
        if self.results and not self.text.strip():
            return self.results
        if (self.reasoning and frame.reasoning and self.reasoning != frame.reasoning) or (
            self.calls and frame.tool_calls
        ):
            raise DataError(
                f"{where}: the turn has thoughts or calls both in its content and beside it; keep"
                " one of them"
            )
        own = replace(
            frame,
            content=self.text,
            reasoning=self.reasoning or frame.reasoning,
            tool_calls=self.calls or frame.tool_calls,
        )
        return [*self.results, own]


def _together(turn: Message, call: Message, where: str) -> Message:
    """Calls that follow an assistant turn without a result between them are made in that turn."""
    if turn.train != call.train:
        raise DataError(
            f"{where}: the calls of one assistant turn are marked both as trained and as context;"
            " mark them alike"
        )
    if turn.reasoning and call.reasoning:
        raise DataError(
            f"{where}: two calls of one assistant turn have thoughts of their own; put the result"
            " of the first between them"
        )
    return replace(
        turn,
        tool_calls=(*turn.tool_calls, *call.tool_calls),
        reasoning=turn.reasoning or call.reasoning,
    )


def _plural(kind: PartKind) -> str:
    return "text" if kind is PartKind.text else f"{kind}s"


def _one_of(turn: Mapping[str, Any], keys: tuple[str, ...], where: str) -> str | None:
    """The one of ``keys`` that the turn has, null being none."""
    present = [key for key in keys if turn.get(key) is not None]
    if len(present) > 1 and any(turn[key] != turn[present[0]] for key in present):
        raise DataError(f"{where}: {' and '.join(present)} of a turn differ; keep one of them")
    return present[0] if present else None


def _refuse_misplaced(message: Message, where: str) -> None:
    for key, value, owner in (
        ("tool_calls", message.tool_calls, "assistant"),
        ("thinking", message.reasoning, "assistant"),
        ("tool_call_id", message.tool_call_id, "tool"),
    ):
        if value and message.role != owner:
            raise DataError(
                f"{where}: {key} on the {message.role} turn; only {owner} turns have it"
            )


def _reasoning(turn: Mapping[str, Any], role: str, where: str) -> str | None:
    thoughts = {key: text for key in _REASONING if (text := _optional_text(turn, key, role, where))}
    if len(set(thoughts.values())) > 1:
        raise DataError(
            f"{where}: {' and '.join(thoughts)} of the {role} turn differ; keep one of them"
        )
    if thoughts:
        return next(iter(thoughts.values()))
    key = next((key for key in _BLOCKS if turn.get(key)), None)
    if key is None:
        return None
    blocks = turn[key] if isinstance(turn[key], list) else [turn[key]]
    texts = [
        next(
            (
                b[k]
                for k in ("thinking", "text", "summary")
                if isinstance(b, dict) and isinstance(b.get(k), str)
            ),
            None,
        )
        for b in blocks
    ]
    if None in texts:
        raise DataError(
            f"{where}: {key} of the {role} turn holds a block without a text (it may be encrypted);"
            ' take it out, or write the thoughts as "reasoning_content": "..."'
        )
    return "\n\n".join(text for text in texts if text) or None


def _optional_text(turn: Mapping[str, Any], key: str, role: str, where: str) -> str | None:
    """A key that may be missing, null (Parquet fills what is missing) or a text."""
    value = turn.get(key)
    if value is None or isinstance(value, str):
        return value or None
    raise DataError(
        f"{where}: {key} of the {role} turn must be a text, this is {type(value).__name__}"
    )


def content_text(value: Any, name: str, where: str, *, answer: bool = False) -> str:
    """A text, or a number as text. An ``answer`` may also be an object, which becomes JSON."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise DataError(f"{where}: {name} is empty ({'null' if value is None else 'not a number'})")
    if isinstance(value, bytes):
        raise DataError(f"{where}: {name} is binary; a text is needed")
    if isinstance(value, bool | dict | list):
        if not answer:
            parts = parts_of(value, name, where, strict=True)
            if parts is None or any(part.kind is not PartKind.text for part in parts):
                raise DataError(
                    f"{where}: {name} must be a text, this is {_python(value)}: {str(value)[:60]}"
                )
            return "".join(part.value for part in parts)
        refuse_media(value, name, where)
        try:
            return json.dumps(value, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise DataError(f"{where}: {name} cannot be written as JSON ({error})") from None
    if isinstance(value, float) and math.isinf(value):
        raise DataError(f"{where}: {name} is not a finite number")
    if not isinstance(value, str | int | float | Decimal | date | datetime | time):
        raise DataError(f"{where}: {name} must be a text, this is {type(value).__name__}")
    return str(value)


def _python(value: Any) -> str:
    return "dict" if isinstance(value, dict) else type(value).__name__


def becomes_json(value: Any) -> bool:
    return isinstance(value, bool | dict | list)


def check_turns(messages: list[Message], where: str) -> tuple[Message, ...]:
    """The turns up to the last one that is trained. Raises ``DataError`` unless roles are known and
    in order and it says something.

    What follows the last trained turn is neither trained nor read by anything that is.
    """
    roles = [m.role for m in messages]
    unknown = next((r for r in roles if r not in ROLES), None)
    if unknown is not None:
        raise DataError(f"{where}: unknown role {unknown!r}; known: {', '.join(ROLES)}")
    for message in messages:
        apart = message.tool_calls or message.reasoning
        text = json.dumps(message.turn(), ensure_ascii=False) if apart else message.content
        refuse_half_characters(text, f"the {message.role} turn", where)
    if "text" in roles:
        if len(roles) > 1:
            raise DataError(
                f"{where}: a text is a whole document and stands alone in its row (roles:"
                f" {', '.join(roles)})"
            )
        if not messages[0].content.strip():
            raise DataError(f"{where}: the text is empty")
        return tuple(messages)
    if "assistant" not in roles:
        raise DataError(
            f"{where}: no assistant turn, so there is nothing to learn (roles: {', '.join(roles)})"
        )
    if roles[-1] != "assistant":
        raise DataError(
            f"{where}: the last turn must be the assistant's (roles: {', '.join(roles)}); what"
            " follows the last answer teaches nothing: take it out, or add the answer"
        )
    if "system" in roles[1:]:
        raise DataError(
            f"{where}: a system turn can only come first (roles: {', '.join(roles)}); put its text"
            " into the first one, or into the turn of the user that follows"
        )
    talk = roles[1:] if roles[0] == "system" else roles
    if talk[0] == "assistant":
        raise DataError(
            f"{where}: roles out of order, the conversation starts with the assistant (roles:"
            f" {', '.join(roles)}), and most chat templates need a turn of the user first; take a"
            " greeting out, or put a turn of the user before it"
        )
    if talk[0] != "user" or any(
        a == b for a, b in itertools.pairwise(talk) if a in ("user", "assistant")
    ):
        raise DataError(
            f"{where}: roles out of order, user and assistant must alternate after the system turn"
            f" (roles: {', '.join(roles)}); join turns of one speaker that follow each other, or"
            " take one of them out"
        )
    if any(
        b.role == "tool" and a.role != "tool" and not a.tool_calls
        for a, b in itertools.pairwise(messages)
    ):
        raise DataError(
            f"{where}: a tool turn must follow an assistant turn with tool_calls, or another tool"
            ' turn. Write the call of the assistant turn before it as "tool_calls": [{"name":'
            ' ..., "arguments": {...}}]; where it is a text that is to stay one, read the'
            " results as turns of the user: +data.roles.tool=user"
        )
    trained = [i for i, m in enumerate(messages) if m.role == "assistant" and m.train]
    if not trained:
        raise DataError(
            f"{where}: every assistant turn is marked as context (train: false, weight: 0 or the"
            " like), so there is nothing to learn"
        )
    last = messages[trained[-1]]
    if not last.content.strip() and not last.tool_calls:
        raise DataError(f"{where}: the assistant's answer is empty")
    return tuple(messages[: trained[-1] + 1])
