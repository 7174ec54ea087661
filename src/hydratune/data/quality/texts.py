"""Checks that look at one row: each takes a row and returns what it saw (shown to people), or None."""

import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from hydratune.config import Level, QualityConfig
from hydratune.data.answers import is_valid_answer
from hydratune.data.cleaning import encoding as repaired
from hydratune.data.quality import grounding, pii
from hydratune.data.quality.findings import level_of
from hydratune.data.rows import Row

RowCheck = Callable[[Row], str | None]

_RENDERED = re.compile(
    r"<\|(?:im_start|im_end|eot_id|start_header_id|end_header_id|begin_of_text|endoftext|end_of_text|system|user|assistant|end)\|>"
    r"|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>"
    r"|^#{2,3} (?:Instruction|Response|Human|Assistant):|^(?:Human|Assistant|USER|ASSISTANT): ",
    re.MULTILINE,
)
_REFUSAL = re.compile(
    r"\A\W*(?:(?:i'?m|i am) (?:really |very |so )?sorry,? (?:but )?(?:i|as an)|i (?:can't|cannot|can not|am unable to|'m unable to|won't) "
    r"(?:assist|help|provide|fulfill|fulfil|comply|do that|answer|discuss|generate|create)|as an ai(?: language)?(?: model)?\b|"
    r"i apologi[sz]e,? but i|unfortunately,? i (?:can't|cannot|am unable))",
    re.IGNORECASE,
)
_LATIN_LEFTOVERS = re.compile("\ufffd|[\u0080-\u009f]|Ã[\u0080-\u00bf]|â€|Â[\u00a0-\u00bf]")
_END = re.compile(r"[.!?:;…\"'”’)\]}>`*_|。！？]\s*\Z")
_PAIRS = {"{": "}", "[": "]"}


def request(row: Row) -> str:
    """What the row asks: every turn before the last answer but the system's. A plain text is its own request."""
    turns = [m.content for m in row.prompt if m.role != "system"]
    return "\n".join(turns) if row.prompt else row.answer


def encoding(row: Row) -> str | None:
    """Text that was decoded wrongly, whether it could be repaired or not, or that is not UTF-8 in its file."""
    declared = row.meta.get("encoding")
    if declared:
        return f"read as {declared}"
    for message in row.messages:
        text = message.content
        found = None if text.isascii() else _LATIN_LEFTOVERS.search(text)
        if found or (not text.isascii() and repaired(text) != text):
            at = found.start() if found else 0
            return text[max(0, at - 30) : at + 50]
    return None


def rendered(row: Row) -> str | None:
    for message in row.messages:
        found = _RENDERED.search(message.content)
        if found:
            return message.content[max(0, found.start() - 30) : found.end() + 30]
    return None


def truncated(row: Row) -> str | None:
    """Open brackets, code or an ellipsis at the end. Missing full stops are judged over all rows: see ``lacks_end``."""
    answer = row.answer.strip()
    if answer[:1] in _PAIRS and not answer.endswith(_PAIRS[answer[0]]):
        return f"… {answer[-60:]}"
    if answer.count("```") % 2:
        return f"… {answer[-60:]}"
    if answer.endswith(("...", "…")) and len(answer) > 40:
        return f"… {answer[-60:]}"
    return None


def lacks_end(answer: str) -> bool:
    """A text of several words that ends without a mark."""
    return len(answer) > 40 and answer.count(" ") > 5 and not _END.search(answer)


def refusal(row: Row) -> str | None:
    return row.answer[:120] if _REFUSAL.search(row.answer[:200]) else None


def ungrounded(row: Row) -> str | None:
    """A plain text has no source."""
    if not row.prompt:
        return None
    found = grounding.ungrounded("\n".join(m.content for m in row.prompt), row.answer)
    return ", ".join(found[:8]) or None


def _finder(find: Callable[[str], str | None]) -> RowCheck:
    def check(row: Row) -> str | None:
        for text in pii.texts_of(row):
            found = find(text)
            if found:
                return pii.masked(found)
        return None

    return check


def _schema_check(schema: Mapping[str, Any]) -> RowCheck:
    def check(row: Row) -> str | None:
        if row.messages[-1].tool_calls:  # a call has the schema of its tool
            return None
        return None if is_valid_answer(row.answer, schema) else row.answer[:120]

    return check


def row_checks(config: QualityConfig, schema: Mapping[str, Any] | None) -> dict[str, RowCheck]:
    """The checks that are switched on."""
    every: dict[str, RowCheck] = {
        "encoding": encoding,
        "rendered": rendered,
        "truncated_answers": truncated,
        "refusals": refusal,
        "ungrounded": ungrounded,
        **{name: _finder(find) for name, find in pii.FINDERS.items()},
    }
    if schema is not None:
        every["schema"] = _schema_check(schema)
    return {name: check for name, check in every.items() if level_of(config, name) is not Level.off}


def is_json_object(text: str) -> bool:
    if not text.lstrip().startswith("{"):
        return False
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def language(text: str) -> str | None:
    """ISO 639-1 code; None where the text is too short to tell, or not clearly one language."""
    letters = sum(map(str.isalpha, text[:1000]))
    if letters < 40:
        return None
    code, share = _languages().classify(text[:1000])
    return str(code) if share > 0.9 and code != "zxx" else None


def likeliest(text: str) -> str:
    """ISO 639-1 code of the language a text is most likely in, however short it is."""
    return str(_languages().classify(text)[0])


@lru_cache(maxsize=1)
def _languages() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
