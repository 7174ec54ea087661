"""Checks of one row: each takes a row and returns what is wrong, to be shown to people, or None."""

import json
import re
from collections.abc import Callable, Iterator, Mapping

from hydratune.data.answers import is_valid_answer
from hydratune.data.cleaning import repair_encoding
from hydratune.data.quality import grounding, pii
from hydratune.data.quality.endings import is_cut_off
from hydratune.data.quality.findings import level_of
from hydratune.data.rows import Message, Row
from hydratune.settings.data import Level, QualityConfig

RowCheck = Callable[[Row], str | None]

_SPECIAL_TOKENS = re.compile(
    # ChatML, Llama 3, Phi, GPT, Command R, Granite and the formats derived from them
    r"<\|[A-Za-z0-9_.:-]{2,40}\|>"
    r"|<｜[^｜<>\s]{1,40}｜>"  # DeepSeek
    # Llama 2, Mistral
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_RESULTS)\]|\[TOOL_CALLS\]|<</?SYS>>"
    r"|<(?:start|end)_of_turn>|<\|turn>|<turn\|>"  # Gemma
    r"|<(?:[be]os|unk|pad|[BE]OS_TOKEN|PAD_TOKEN|[es]op)>|\[(?:[BE]OS|PAD|CLS|SEP|gMASK)\]"
    r"|(?<=[.!?\w])<(?:END|EOT|STOP)>(?=\s*(?:\n|\Z))|(?<=[.!?] )<(?:END|EOT|STOP)>(?=\s*(?:\n|\Z))"
    # tokens that were cut
    r"|<\|(?:im_(?:start|end)|endoftext|(?:start|end)_header_id|(?:begin|end)_of_text|eo[tm]_id)\b"
    r"|<\|[A-Za-z][A-Za-z0-9_.:-]{1,40}\|\s*\Z|</s\Z|\b(?:im_(?:start|end)|endoftext|eo[tm]_id)\|>"
)
_ROLE_MARKS = re.compile(
    r"^#{2,3} (?:Instruction|Response|Human|Assistant):|^(?:Human|Assistant|USER|ASSISTANT): "
    r"|#{3} ?(?:Instruction|Response|Human|Assistant|User):"
    r"|(?<=\n)(?:User: (?=\S)(?!\S+\s*\n\s*(?:Password|Host|Port|Group)\b)|(?:Human|Assistant):$)",
    re.MULTILINE,
)
# HTML strikes text out with <s>...</s>; alone, these are tokens of Llama and Mistral.
_STRUCK_OUT = re.compile(r"<s>((?:(?!</?s>).)*)</s>", re.DOTALL)
_LONE_TOKEN = re.compile(r"\A\s*<s>|</s>")
_REFUSAL = re.compile(
    r"\A\W*(?:(?:i'?m|i am) (?:really |very |so )?sorry,? (?:but )?(?:i|as an)"
    r"|i (?:can't|cannot|can not|am unable to|'m unable to|won't) "
    r"(?:assist|help|provide|fulfill|fulfil|comply|do that|answer|discuss|generate|create)"
    r"|as an ai(?: language)?(?: model)?\b|i apologi[sz]e,? but i"
    r"|unfortunately,? i (?:can't|cannot|am unable))",
    re.IGNORECASE,
)
_LATIN_1_REMAINS = re.compile("\ufffd|[\u0080-\u009f]|Ã[\u0080-\u00bf]|â€|Â[\u00a0-\u00bf]")
_VISIBLE = re.compile("[^\\s\u200b-\u200f\u2060\ufeff\u00ad]")
_SHOWN_ANSWER = 120  # characters
_SHOWN_CONTEXT = 30  # characters before and after a hit
_SHOWN_ENDING = 60  # characters
_SHOWN_UNGROUNDED = 8  # items


def request(row: Row) -> str:
    """Return what the row asks: the turns before the last answer, without the system turn.

    A plain text is its own request.
    """
    turns = [m.content for m in row.prompt if m.role != "system"]
    return "\n".join(turns) if row.prompt else row.answer


def check_encoding(row: Row) -> str | None:
    """Return text that was decoded wrongly, or the encoding of a file that is not UTF-8."""
    encoding = row.meta.get("encoding")
    if encoding:
        return f"read as {encoding}"
    for message in row.messages:
        text = message.content
        hit = None if text.isascii() else _LATIN_1_REMAINS.search(text)
        if hit or (not text.isascii() and repair_encoding(text) != text):
            start = hit.start() if hit else 0
            return text[max(0, start - _SHOWN_CONTEXT) : start + 50]
    return None


def check_rendered(row: Row) -> str | None:
    """Return role marks or special tokens of any model in any text of the row."""
    for message in row.messages:
        for text in _texts_of(message):
            may_have_token = "<" in text or "[" in text or "|>" in text
            hit = _SPECIAL_TOKENS.search(text) if may_have_token else None
            hit = hit or (_ROLE_MARKS.search(text) if ":" in text else None) or _lone_token(text)
            if hit:
                return text[max(0, hit.start() - _SHOWN_CONTEXT) : hit.end() + _SHOWN_CONTEXT]
    return None


def _texts_of(message: Message) -> Iterator[str]:
    yield message.content
    yield message.reasoning or ""
    yield str(message.tool_calls) if message.tool_calls else ""


def _lone_token(text: str) -> re.Match[str] | None:
    """Find ``<s>`` or ``</s>`` that strikes nothing out: without the other, or around all text."""
    if "s>" not in text:
        return None
    if not _STRUCK_OUT.fullmatch(text.strip()):
        text = _STRUCK_OUT.sub(lambda struck: "x" * len(struck[0]), text)
    return _LONE_TOKEN.search(text)


def check_empty_request(row: Row) -> str | None:
    """Return the number of a user turn without any visible character."""
    for number, message in enumerate(row.messages, 1):
        if message.role == "user" and not _VISIBLE.search(message.content):
            return f"turn {number} is empty"
    return None


def check_truncated(row: Row) -> str | None:
    """Return the end of an answer that is cut off.

    Missing full stops are judged over all rows, see ``endings``.
    """
    answer = row.answer.strip()
    return f"… {answer[-_SHOWN_ENDING:]}" if is_cut_off(answer) else None


def check_refusal(row: Row) -> str | None:
    """Return the beginning of an answer that refuses the request."""
    return row.answer[:_SHOWN_ANSWER] if _REFUSAL.search(row.answer[:200]) else None


def check_ungrounded(row: Row) -> str | None:
    """Return what the answer states and the prompt does not contain; a plain text has no prompt."""
    if not row.prompt:
        return None
    missing = grounding.ungrounded("\n".join(m.content for m in row.prompt), row.answer)
    return ", ".join(missing[:_SHOWN_UNGROUNDED]) or None


class _TextsOfRow:
    """Collects all texts of a row once for the checks that ask one after the other."""

    def __init__(self) -> None:
        self.row: Row | None = None
        self.texts: tuple[str, ...] = ()

    def __call__(self, row: Row) -> tuple[str, ...]:
        if row is not self.row:
            self.row, self.texts = row, tuple(pii.texts_of(row))
        return self.texts


def _personal_data_check(find: pii.Finder, texts_of: _TextsOfRow) -> RowCheck:
    def check(row: Row) -> str | None:
        hits = (find(text) for text in texts_of(row))
        hit = next(filter(None, hits), None)
        return pii.mask(hit) if hit else None

    return check


def _schema_check(schema: Mapping[str, object]) -> RowCheck:
    def check(row: Row) -> str | None:
        if row.messages[-1].tool_calls:  # a tool call follows the schema of its tool
            return None
        is_valid = is_valid_answer(row.answer, schema, row.where)
        return None if is_valid else row.answer[:_SHOWN_ANSWER]

    return check


def row_checks(config: QualityConfig, schema: Mapping[str, object] | None) -> dict[str, RowCheck]:
    """Return the checks of one row that are switched on and whose packages are installed."""
    texts_of = _TextsOfRow()
    checks: dict[str, RowCheck] = {
        "encoding": check_encoding,
        "empty_requests": check_empty_request,
        "rendered": check_rendered,
        "truncated_answers": check_truncated,
        "refusals": check_refusal,
        "ungrounded": check_ungrounded,
        **{name: _personal_data_check(find, texts_of) for name, find in pii.FINDERS.items()},
    }
    if schema is not None:
        checks["schema"] = _schema_check(schema)
    skipped = config.skipped()
    return {
        name: check
        for name, check in checks.items()
        if level_of(config, name) is not Level.off and name not in skipped
    }


def parse_json_object(text: str) -> dict[str, object] | None:
    """Return the JSON object that ``text`` is, or None."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
