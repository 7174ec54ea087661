"""The content of a turn as a list of parts (OpenAI, Anthropic, Mistral, the AI SDK) -> text,
thoughts, calls and results of tools.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from hydratune.data.formats.padding import ARGUMENTS
from hydratune.errors import DataError

_TEXTS = {"text", "input_text", "output_text"}
_THOUGHTS = {"thinking", "reasoning", "reasoning_content", "thought", "think"}
_THOUGHT_KEYS = (
    "thinking",
    "reasoning",
    "reasoning_content",
    "thought",
    "think",
    "text",
    "content",
    "summary",
)
_CALLS = {"tool_use", "tool_call", "function_call"}
_RESULTS = {"tool_result", "tool_response", "function_call_output", "function_response"}
_CALL_KEYS = {
    "type",
    "id",
    "toolCallId",
    "call_id",
    "tool_call_id",
    "name",
    "toolName",
    "function",
    "cache_control",
    "status",
    "caller",
}
_MEDIA = {
    "image": "images",
    "audio": "sounds",
    "video": "videos",
    "file": "files",
    "document": "files",
}
_HIDDEN = {"redacted_thinking": "it is encrypted", "encrypted_reasoning": "it is encrypted"}
_BARE = {
    "text",
    "toolUse",
    "toolResult",
    "reasoningContent",
    "functionCall",
    "functionResponse",
    "inlineData",
}  # Bedrock, Gemini


class PartKind(StrEnum):
    """What a part of a turn's content is."""

    text = "text"
    thought = "thought"
    call = "call"
    result = "result"
    refusal = "refusal"


@dataclass(frozen=True)
class Part:
    """``value``: a text; of a call its ``id``, ``name`` and ``arguments``; of a result its ``id``,
    ``name`` and ``content``.
    """

    kind: PartKind
    value: Any
    type: str = "text"  # as the file names it


def parts_of(value: Any, name: str, where: str, *, strict: bool) -> list[Part] | None:
    """The parts of a content, or None where it is none of parts.

    In a conversation (``strict``) every list with an object that has a ``type`` is one of parts,
    and a part that is not known is refused; such an object that stands alone is a list of one. An
    answer in a column of its own may be any list of objects, so it is one of parts only if all of
    them are known.
    """
    if isinstance(value, dict) and strict:
        if _part(value) is None and not isinstance(value.get("type"), str):
            return None
        value = [value]
    if not isinstance(value, list) or not value:
        return None
    objects = [item for item in value if isinstance(item, dict)]
    typed = [item for item in objects if isinstance(item.get("type"), str)]
    found = [_part(item) for item in value]
    if not strict:
        return [part for part in found if part is not None] if typed and None not in found else None
    if len(objects) == len(value) and not typed and all(_is_bare(item) for item in objects):
        raise DataError(f"{where}: {name} is a list of objects without a type; {_advice('text')}")
    if not typed:
        return None
    for item, part in zip(value, found, strict=True):
        if part is None:
            raise _unknown(item, name, where)
    return [part for part in found if part is not None]


def gemini_part(part: Any) -> Any:
    """A part of Gemini's, which has no type, with one."""
    if not isinstance(part, dict) or "type" in part:
        return part
    given = {
        key: value
        for key, value in part.items()
        if value is not None and key not in ("thoughtSignature", "thought_signature")
    }
    for names, kind in (
        (("functionCall", "function_call"), "tool_use"),
        (("functionResponse", "function_response"), "tool_result"),
    ):
        name = next((name for name in names if isinstance(given.get(name), dict)), None)
        if name is not None and len(given) == 1:
            return {"type": kind, **given[name]}
    if isinstance(given.get("text"), str) and given.keys() <= {"text", "thought"}:
        return {
            "type": "thinking" if given.get("thought") is True else "text",
            "text": given["text"],
        }
    return part


def _is_bare(item: Mapping[str, Any]) -> bool:
    present = {key for key, value in item.items() if value is not None}
    return len(present) == 1 and present <= _BARE


def _part(item: Any) -> Part | None:
    """None: this is no part that is known."""
    if isinstance(item, str):
        return Part(PartKind.text, item)
    if not isinstance(item, dict) or not isinstance(item.get("type"), str):
        return None
    kind = item["type"].replace("-", "_").lower()
    if kind in _TEXTS and isinstance(item.get("text"), str):
        return Part(PartKind.text, item["text"])
    if kind in _THOUGHTS and (thought := _thought(item)) is not None:
        return Part(PartKind.thought, thought, item["type"])
    if kind == "refusal" and isinstance(item.get("refusal"), str):
        return Part(PartKind.refusal, item["refusal"], item["type"])
    if kind in _CALLS and (call := _call(item)) is not None:
        return Part(PartKind.call, call, item["type"])
    if kind in _RESULTS:
        content = _first(item, ("content", "output", "result", "response"))
        identity = _first(item, ("tool_use_id", "tool_call_id", "toolCallId", "call_id"))
        if content is None and identity is None:
            return None
        content = "" if content is None else content  # Anthropic leaves an empty one out
        return Part(
            PartKind.result,
            {"id": identity, "name": _first(item, ("name", "toolName")), "content": content},
            item["type"],
        )
    return None


def _thought(item: Mapping[str, Any]) -> str | None:
    """A text, or the texts of a list of parts (Mistral, OpenAI's summaries)."""
    value = _first(item, _THOUGHT_KEYS)
    if (
        isinstance(value, list)
        and value
        and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in value)
    ):
        return "".join(part["text"] for part in value)
    return value if isinstance(value, str) else None


def _call(item: Mapping[str, Any]) -> dict[str, Any] | None:
    function = item["function"] if isinstance(item.get("function"), dict) else item
    name = _first(function, ("name", "toolName"))
    if not isinstance(name, str):
        return None
    identity = _first(item, ("id", "toolCallId", "call_id", "tool_call_id"))
    given = {key: function[key] for key in ARGUMENTS if function.get(key) is not None}
    others = {
        key: value for key, value in function.items() if key not in _CALL_KEYS
    }  # may be arguments under another name
    return {"id": identity, "name": name, **(given or others)}


def _first(item: Mapping[str, Any], keys: Iterable[str]) -> Any:
    return next((item[key] for key in keys if item.get(key) is not None), None)


def _unknown(item: Any, name: str, where: str) -> DataError:
    if not isinstance(item, dict) or not isinstance(item.get("type"), str):
        return DataError(
            f"{where}: {name} is a list of parts, and one of them has no type: {str(item)[:60]!r}"
        )
    kind = item["type"]
    medium = next((medium for medium in _MEDIA if medium in kind), None)
    if medium is not None:
        return DataError(
            f"{where}: {name} holds a part of type {kind!r}; {_MEDIA[medium]} cannot be trained on,"
            " only text"
        )
    if kind in _HIDDEN:
        return DataError(
            f"{where}: {name} holds a part of type {kind!r}; {_HIDDEN[kind]}, so it cannot be"
            " trained; take the part out"
        )
    return DataError(
        f"{where}: {name} holds a part of type {kind!r} that is not text; only text can be trained"
        f" on; {_advice(kind)}"
    )


def _advice(kind: str) -> str:
    if kind in {*_TEXTS, *_THOUGHTS}:
        return (
            f'a part is written {{"type": "{kind}", "{kind if kind in _THOUGHTS else "text"}":'
            ' "..."}'
        )
    return "take the part out, or store the answer as a text if it is JSON"


def refuse_media(value: Any, name: str, where: str) -> None:
    """An answer in a column of its own that holds a picture or a sound; it may be a list of objects
    with a key ``type``.
    """
    for part in value if isinstance(value, list) else ():
        kind = part.get("type") if isinstance(part, dict) else None
        medium = next(
            (medium for medium in _MEDIA if isinstance(kind, str) and medium in kind), None
        )
        if medium is not None and (kind in part or isinstance(part.get("source"), dict)):
            raise DataError(
                f"{where}: {name} holds a part of type {kind!r}; {_MEDIA[medium]} cannot be trained"
                " on, only text"
            )
