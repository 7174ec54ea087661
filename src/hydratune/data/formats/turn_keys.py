"""Read the keys of a turn beside its content and calls, and check those that nothing reads."""

from collections.abc import Sequence

from hydratune.data.formats.layouts import CONTENT_KEYS, ROLE_KEYS
from hydratune.data.formats.marks import (
    MASK_KEYS,
    TRAIN_KEYS,
    is_missing,
    refuse_bad,
    refuse_unclear,
)
from hydratune.data.formats.notes import Notes
from hydratune.data.rows import Message, Record
from hydratune.errors import DataError

CONTENT_KEYS_OF_TURNS = (*CONTENT_KEYS, "text")  # beside a role; rows of documents have a text too
# the names under which data sets store the thoughts of a turn, as text
_REASONING_KEYS = (
    "reasoning_content",
    "thinking",
    "reasoning",
    "thoughts",
    "thought",
    "chain_of_thought",
    "cot",
)
# the same as lists of parts (LiteLLM, OpenRouter)
_REASONING_BLOCKS = ("thinking_blocks", "reasoning_details")
_READ_KEYS = {*ROLE_KEYS, *CONTENT_KEYS_OF_TURNS, *_REASONING_KEYS, *_REASONING_BLOCKS}
_READ_KEYS |= {*TRAIN_KEYS, *MASK_KEYS}
_READ_KEYS |= {"tool_calls", "function_call", "tool_call_id", "name", "refusal"}
_MEDIA_KEYS = {"image", "images", "image_url", "audio", "audios", "video", "videos"}
_EMPTY: tuple[object, ...] = ("", [], {})


def check_other_keys(turn: Record, role: str, notes: Notes, where: str) -> None:
    """Count keys that nothing reads; refuse those that would change what is trained."""
    for key, value in turn.items():
        if key in _READ_KEYS or is_missing(value) or value in _EMPTY:
            continue
        if key in _MEDIA_KEYS:
            raise DataError(
                f"{where}: {key} of the {role} turn cannot be trained on, only text; take it out"
            )
        if key in ("tools", "functions"):
            raise DataError(
                f"{where}: {key} of the {role} turn: the tools of a row are a column of the"
                " row; put them beside the turns"
            )
        inner = value if key in ("meta", "metadata") and isinstance(value, dict) else {}
        for name, item in inner.items():
            if not is_missing(item) and item not in _EMPTY:
                refuse_unclear(inner, name, role, where)
                refuse_bad({**turn, **inner}, name, role, where)
        refuse_unclear(turn, key, role, where)
        refuse_bad(turn, key, role, where)
        notes.keys[key] += 1


def only_key(turn: Record, keys: Sequence[str], where: str) -> str | None:
    """Return the first of ``keys`` that is not null; raise ``DataError`` if several differ."""
    present = [key for key in keys if turn.get(key) is not None]
    if len(present) > 1 and any(turn[key] != turn[present[0]] for key in present):
        raise DataError(f"{where}: {' and '.join(present)} of a turn differ; keep one of them")
    return present[0] if present else None


def refuse_misplaced(message: Message, where: str) -> None:
    """Raise ``DataError`` for what only turns of another role may have."""
    for key, value, owner in (
        ("tool_calls", message.tool_calls, "assistant"),
        ("thinking", message.reasoning, "assistant"),
        ("tool_call_id", message.tool_call_id, "tool"),
    ):
        if value and message.role != owner:
            raise DataError(
                f"{where}: {key} on the {message.role} turn; only {owner} turns have it"
            )


def read_reasoning(turn: Record, role: str, where: str) -> str | None:
    """Return the thoughts that stand beside the content of a turn."""
    texts = {key: optional_text(turn, key, role, where) for key in _REASONING_KEYS}
    thoughts = {key: text for key, text in texts.items() if text}
    if len(set(thoughts.values())) > 1:
        raise DataError(
            f"{where}: {' and '.join(thoughts)} of the {role} turn differ; keep one of them"
        )
    if thoughts:
        return next(iter(thoughts.values()))
    key = next((key for key in _REASONING_BLOCKS if turn.get(key)), None)
    if key is None:
        return None
    blocks = turn[key] if isinstance(turn[key], list) else [turn[key]]
    block_texts = [_block_text(block) for block in blocks]
    if None in block_texts:
        raise DataError(
            f"{where}: {key} of the {role} turn holds a block without a text (it may be encrypted);"
            ' take it out, or write the thoughts as "reasoning_content": "..."'
        )
    return "\n\n".join(text for text in block_texts if text) or None


def _block_text(block: object) -> str | None:
    if not isinstance(block, dict):
        return None
    keys = ("thinking", "text", "summary")
    return next((block[key] for key in keys if isinstance(block.get(key), str)), None)


def optional_text(turn: Record, key: str, role: str, where: str) -> str | None:
    """Return a text that may be missing, empty or null (Parquet fills what is missing)."""
    value = turn.get(key)
    if value is None or isinstance(value, str):
        return value or None
    raise DataError(
        f"{where}: {key} of the {role} turn must be a text, this is {type(value).__name__}"
    )
