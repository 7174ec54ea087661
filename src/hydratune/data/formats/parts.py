"""Read the content of a turn that is a list of parts: texts, thoughts, calls, results of tools.

OpenAI, Anthropic, Mistral, Gemini and the AI SDK store contents in this way.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from hydratune.data.formats.padding import ARGUMENT_KEYS
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
_CALL_IDS = ("id", "toolCallId", "call_id", "tool_call_id")
_RESULT_IDS = ("tool_use_id", "tool_call_id", "toolCallId", "call_id")
_NAME_KEYS = ("name", "toolName")
# keys of a call that are no arguments
_CALL_KEYS = {*_CALL_IDS, *_NAME_KEYS, "type", "function", "cache_control", "status", "caller"}
_MEDIA = {
    "image": "images",
    "audio": "sounds",
    "video": "videos",
    "file": "files",
    "document": "files",
}
_ENCRYPTED = {"redacted_thinking", "encrypted_reasoning"}
# the only key of a part without a type: Bedrock, Gemini
_UNTYPED_KEYS = {
    "text",
    "toolUse",
    "toolResult",
    "reasoningContent",
    "functionCall",
    "functionResponse",
    "inlineData",
}


class PartKind(StrEnum):
    """What a part of a turn's content is."""

    text = "text"
    thought = "thought"
    call = "call"
    result = "result"
    refusal = "refusal"


@dataclass(frozen=True)
class ToolResult:
    """What a tool returned: ``id`` and ``name`` of the call where the file has them."""

    id: Any
    name: Any
    content: object


@dataclass(frozen=True)
class ContentPart:
    """A part of a turn's content.

    ``text`` is that of a text, a thought or a refusal; ``call`` has the ``id``, ``name`` and
    arguments of a call; ``type`` is what the file names the part.
    """

    kind: PartKind
    text: str = ""
    call: Mapping[str, object] | None = None
    result: ToolResult | None = None
    type: str = "text"


def read_parts(value: object, name: str, where: str, *, strict: bool) -> list[ContentPart] | None:
    """Return the parts of a content, or None if it is not a list of parts.

    In a conversation (``strict``), every list with an object that has a ``type`` is a list of
    parts, an unknown part raises ``DataError``, and such an object that stands alone is a list of
    one. An answer in a column of its own may be any list of objects, so it is a list of parts only
    if all of them are known.
    """
    if isinstance(value, dict) and strict:
        if _read_part(value) is None and not isinstance(value.get("type"), str):
            return None
        value = [value]
    if not isinstance(value, list) or not value:
        return None
    objects = [item for item in value if isinstance(item, dict)]
    has_types = any(isinstance(item.get("type"), str) for item in objects)
    parts = [_read_part(item) for item in value]
    known = [part for part in parts if part is not None]
    if not strict:
        return known if has_types and None not in parts else None
    if len(objects) == len(value) and not has_types and all(map(_is_untyped_part, objects)):
        raise DataError(f"{where}: {name} is a list of objects without a type; {_advice('text')}")
    if not has_types:
        return None
    for item, part in zip(value, parts, strict=True):
        if part is None:
            raise _unknown_part_error(item, name, where)
    return known


def add_gemini_type(part: object) -> object:
    """Return a part of Gemini's, which has no type, with the type it would have elsewhere."""
    if not isinstance(part, dict) or "type" in part:
        return part
    signatures = ("thoughtSignature", "thought_signature")
    given = {k: value for k, value in part.items() if value is not None and k not in signatures}
    for keys, kind in (
        (("functionCall", "function_call"), "tool_use"),
        (("functionResponse", "function_response"), "tool_result"),
    ):
        key = next((key for key in keys if isinstance(given.get(key), dict)), None)
        if key is not None and len(given) == 1:
            return {"type": kind, **given[key]}
    if isinstance(given.get("text"), str) and given.keys() <= {"text", "thought"}:
        kind = "thinking" if given.get("thought") is True else "text"
        return {"type": kind, "text": given["text"]}
    return part


def _is_untyped_part(item: Mapping[str, object]) -> bool:
    keys = {key for key, value in item.items() if value is not None}
    return len(keys) == 1 and keys <= _UNTYPED_KEYS


def _read_part(item: object) -> ContentPart | None:
    """Return the part that ``item`` is, or None if it is not one that is known."""
    if isinstance(item, str):
        return ContentPart(PartKind.text, item)
    if not isinstance(item, dict) or not isinstance(item.get("type"), str):
        return None
    type_ = item["type"]
    kind = type_.replace("-", "_").lower()
    if kind in _TEXTS and isinstance(item.get("text"), str):
        return ContentPart(PartKind.text, item["text"])
    if kind in _THOUGHTS and (thought := _thought_text(item)) is not None:
        return ContentPart(PartKind.thought, thought, type=type_)
    if kind == "refusal" and isinstance(item.get("refusal"), str):
        return ContentPart(PartKind.refusal, item["refusal"], type=type_)
    if kind in _CALLS and (call := _read_call(item)) is not None:
        return ContentPart(PartKind.call, call=call, type=type_)
    if kind in _RESULTS and (result := _read_result(item)) is not None:
        return ContentPart(PartKind.result, result=result, type=type_)
    return None


def _thought_text(item: Mapping[str, object]) -> str | None:
    """Return a thought: a text, or the texts of a list of parts (Mistral, OpenAI's summaries)."""
    value = _first_value(item, _THOUGHT_KEYS)
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        return None
    texts = [part["text"] for part in value if _has_text(part)]
    return "".join(texts) if len(texts) == len(value) else None


def _has_text(part: object) -> bool:
    return isinstance(part, dict) and isinstance(part.get("text"), str)


def _read_call(item: Mapping[str, object]) -> dict[str, object] | None:
    """Return ``id``, ``name`` and arguments of a call; None if it has no name."""
    wrapped = item.get("function")
    function = wrapped if isinstance(wrapped, dict) else item
    name = _first_value(function, _NAME_KEYS)
    if not isinstance(name, str):
        return None
    arguments = {key: function[key] for key in ARGUMENT_KEYS if function.get(key) is not None}
    # other keys may be arguments under another name
    others = {key: value for key, value in function.items() if key not in _CALL_KEYS}
    return {"id": _first_value(item, _CALL_IDS), "name": name, **(arguments or others)}


def _read_result(item: Mapping[str, object]) -> ToolResult | None:
    """Return the result of a tool; None if the item has neither a content nor the id of a call."""
    content = _first_value(item, ("content", "output", "result", "response"))
    identity = _first_value(item, _RESULT_IDS)
    if content is None and identity is None:
        return None
    content = "" if content is None else content  # Anthropic omits an empty content
    return ToolResult(identity, _first_value(item, _NAME_KEYS), content)


def _first_value(item: Mapping[str, Any], keys: Iterable[str]) -> Any:
    """Return the value of the first key that is not null."""
    return next((item[key] for key in keys if item.get(key) is not None), None)


def _unknown_part_error(item: object, name: str, where: str) -> DataError:
    if not isinstance(item, dict) or not isinstance(item.get("type"), str):
        return DataError(
            f"{where}: {name} is a list of parts, and one of them has no type: {str(item)[:60]!r}"
        )
    kind = item["type"]
    part = f"{where}: {name} holds a part of type {kind!r}"
    medium = next((medium for medium in _MEDIA if medium in kind), None)
    if medium is not None:
        return DataError(f"{part}; {_MEDIA[medium]} cannot be trained on, only text")
    if kind in _ENCRYPTED:
        return DataError(f"{part}; it is encrypted, so it cannot be trained; take the part out")
    return DataError(f"{part} that is not text; only text can be trained on; {_advice(kind)}")


def _advice(kind: str) -> str:
    if kind in {*_TEXTS, *_THOUGHTS}:
        key = kind if kind in _THOUGHTS else "text"
        return f'a part is written {{"type": "{kind}", "{key}": "..."}}'
    return "take the part out, or store the answer as a text if it is JSON"


def refuse_media(value: object, name: str, where: str) -> None:
    """Raise ``DataError`` for an answer in a column of its own that holds a picture or a sound.

    The answer may be a list of objects with a key ``type`` that are no parts.
    """
    for part in value if isinstance(value, list) else ():
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str):
            continue
        medium = next((medium for medium in _MEDIA if medium in kind), None)
        if medium is not None and (kind in part or isinstance(part.get("source"), dict)):
            raise DataError(
                f"{where}: {name} holds a part of type {kind!r}; {_MEDIA[medium]} cannot be trained"
                " on, only text"
            )
