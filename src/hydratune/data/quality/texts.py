"""Checks that look at one row: each takes a row and returns what it saw (shown to people), or None."""  # noqa: E501

import json
import re
from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum
from functools import lru_cache
from typing import Any

from hydratune.data.answers import is_valid_answer
from hydratune.data.cleaning import encoding as repaired
from hydratune.data.quality import grounding, pii
from hydratune.data.quality.findings import level_of
from hydratune.data.rows import Row
from hydratune.settings.data import Level, QualityConfig

RowCheck = Callable[[Row], str | None]

_RENDERED = re.compile(
    # ChatML, Llama 3, Phi, GPT, Command R, Granite and whoever came after them
    r"<\|[A-Za-z0-9_.:-]{2,40}\|>"
    r"|<｜[^｜<>\s]{1,40}｜>"  # DeepSeek
    # Llama 2, Mistral
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_RESULTS)\]|\[TOOL_CALLS\]|<</?SYS>>"
    r"|<(?:start|end)_of_turn>|<\|turn>|<turn\|>"  # Gemma
    r"|<(?:[be]os|unk|pad|[BE]OS_TOKEN|PAD_TOKEN|[es]op)>|\[(?:[BE]OS|PAD|CLS|SEP|gMASK)\]"
    r"|(?<=[.!?\w])<(?:END|EOT|STOP)>(?=\s*(?:\n|\Z))|(?<=[.!?] )<(?:END|EOT|STOP)>(?=\s*(?:\n|\Z))"
    # cut
    r"|<\|(?:im_(?:start|end)|endoftext|(?:start|end)_header_id|(?:begin|end)_of_text|eo[tm]_id)\b"
    r"|<\|[A-Za-z][A-Za-z0-9_.:-]{1,40}\|\s*\Z|</s\Z|\b(?:im_(?:start|end)|endoftext|eo[tm]_id)\|>"
)
_ROLE = re.compile(
    r"^#{2,3} (?:Instruction|Response|Human|Assistant):|^(?:Human|Assistant|USER|ASSISTANT): "
    r"|#{3} ?(?:Instruction|Response|Human|Assistant|User):"
    r"|(?<=\n)(?:User: (?=\S)(?!\S+\s*\n\s*(?:Password|Host|Port|Group)\b)|(?:Human|Assistant):$)",
    re.MULTILINE,
)
# HTML's; alone, the begin- and end-of-text tokens of Llama and Mistral
_STRUCK = re.compile(r"<s>((?:(?!</?s>).)*)</s>", re.DOTALL)
_LONE = re.compile(r"\A\s*<s>|</s>")
_REFUSAL = re.compile(
    r"\A\W*(?:(?:i'?m|i am) (?:really |very |so )?sorry,? (?:but )?(?:i|as an)|i"
    r" (?:can't|cannot|can not|am unable to|'m unable to|won't) "
    r"(?:assist|help|provide|fulfill|fulfil|comply|do that|answer|discuss|generate|create)|as an"
    r" ai(?: language)?(?: model)?\b|"
    r"i apologi[sz]e,? but i|unfortunately,? i (?:can't|cannot|am unable))",
    re.IGNORECASE,
)
_LATIN_LEFTOVERS = re.compile("\ufffd|[\u0080-\u009f]|Ã[\u0080-\u00bf]|â€|Â[\u00a0-\u00bf]")
_END = re.compile(r"[.!?:;…\"'”’)\]}>`*_|。！？」』]\s*\Z")
_SENTENCE_END = re.compile(r"[a-z0-9)\"'][.!?] +[A-Z\"'(]|[。！？].")  # in the middle of a line
_NO_PROSE = re.compile(
    r"\A\s*(?:[-*+|>#$]|\d+[.)]\s)|https?://\S+\s*\Z|[{}=;\\<>$`|]|\s(?:--?[a-zA-Z]|@)|(?:\s|/\S*)/|\b[\w.-]+@[\w.-]+\s*\Z"
)
_DANGLING = re.compile(
    r"(?:,|\b(?:an?|the|and|or|but|nor|of|to"
    r" the|with|from|into|onto|than|because|although|whereas|which|whose|while|"
    r"my|your|our|their|is a|are|was|were|has been|have been|by the|in the|on the|for the|at"
    r" the|if|and then|should|would|could|must|"
    r"such as|as well as|known as|this|these|its|every|between|during|without|within|upon|will"
    r" be|can be|should be|must be|has to|have to|"
    r"(?:need|needs|want|wants|able|going|order|try|likely|due|according|similar|ought|used|trying|has|have)"
    r" to))\s*\Z",
    re.IGNORECASE,
)
_OPEN_BRACKET = re.compile(r"(?<![:;=\-\\(\[])[(\[]\w[^()\[\]]{2,80}\Z")
_OPEN_CODE = re.compile(r"(?:\A|[\s(])`[^`'\s][^`'\n]{0,80}\Z")
_OPEN_PRICE = re.compile(r"[a-z] [$€£¥]\Z")
_AROUND = ".,;:!?…()[]\"'“”‘’*_`"
_VISIBLE = re.compile("[^\\s\u200b-\u200f\u2060\ufeff\u00ad]")
_PAIRS = {"{": "}", "[": "]"}


def request(row: Row) -> str:
    """What the row asks: every turn before the last answer but the system's.

    A plain text is its own request.
    """
    turns = [m.content for m in row.prompt if m.role != "system"]
    return "\n".join(turns) if row.prompt else row.answer


def encoding(row: Row) -> str | None:
    """Text that was decoded wrongly, whether it could be repaired or not, or that is not UTF-8 in
    its file.
    """
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
    """Role marks or special tokens of some model, whichever is trained, in anything that the row
    says.
    """
    for message in row.messages:
        for text in (
            message.content,
            message.reasoning or "",
            str(message.tool_calls) if message.tool_calls else "",
        ):
            found = _RENDERED.search(text) if "<" in text or "[" in text or "|>" in text else None
            found = found or (_ROLE.search(text) if ":" in text else None) or _lone_end(text)
            if found:
                return text[max(0, found.start() - 30) : found.end() + 30]
    return None


def _lone_end(text: str) -> re.Match[str] | None:
    """``<s>`` or ``</s>`` that strikes nothing through: without the other, or around the whole
    text.
    """
    if "s>" not in text:
        return None
    whole = _STRUCK.fullmatch(text.strip())
    return _LONE.search(text if whole else _STRUCK.sub(lambda struck: "x" * len(struck[0]), text))


def empty_request(row: Row) -> str | None:
    """A user turn in which nothing is said."""
    for number, message in enumerate(row.messages, 1):
        if message.role == "user" and not _VISIBLE.search(message.content):
            return f"turn {number} is empty"
    return None


def truncated(row: Row) -> str | None:
    """Open brackets or code, an ellipsis or a dangling word at the end.

    Missing full stops are judged over all rows: see ``ending``.
    """
    answer = row.answer.strip()
    if answer[:1] in _PAIRS and not answer.endswith(_PAIRS[answer[0]]):
        return f"… {answer[-60:]}"
    if answer.count("```") % 2:
        return f"… {answer[-60:]}"
    if (answer.endswith(("...", "…")) and len(answer) > 40) or dangling(answer) or _opens(answer):
        return f"… {answer[-60:]}"
    return None


class Ending(IntEnum):
    """Kinds of answers that are compared with each other: who writes full stops in one need not in
    another.
    """

    none = 0  # JSON, code, a list, a few words
    label = 1  # a few words more
    line = 2  # one long sentence, or what may be none
    prose = 3  # sentences


def ending(answer: str) -> tuple[Ending, bool]:
    """(kind of the answer by its last line, whether that ends without a mark)."""
    line = answer.rstrip().rpartition("\n")[2]
    words = line.count(" ") + sum("\u3040" <= c <= "\u9fff" for c in line[-60:]) // 2
    if _NO_PROSE.search(line) or words < 3:
        return Ending.none, False
    kind = (
        Ending.prose
        if _SENTENCE_END.search(line)
        else Ending.line
        if len(answer) > 40 and words > 5
        else Ending.label
    )
    return kind, not _END.search(line[-1:])


def plain_words(answer: str) -> list[str]:
    """The words of letters alone, in order."""
    return [word for piece in answer.split() if (word := piece.strip(_AROUND)).isalpha()]


def dangling(answer: str) -> bool:
    """Whether prose breaks off after a word that no sentence ends with ("... in the"). English."""
    line = answer.rstrip().rpartition("\n")[2]
    return (
        line.count(" ") >= 3 and bool(_DANGLING.search(line[-40:])) and not _NO_PROSE.search(line)
    )


def _opens(answer: str) -> bool:
    """Whether the last line of prose ends in an open bracket, in open code or after the sign of a
    currency.
    """
    line = answer.rpartition("\n")[2]
    if line.count(" ") < 1 or line[-1:] in ".!?;":
        return False
    if _OPEN_CODE.search(line[-90:]) and line.count("`") % 2:
        return True
    if line.count(" ") < 3 or _NO_PROSE.search(line.rstrip("$")):
        return False
    opened = _OPEN_BRACKET.search(line[-90:])
    return bool(opened or _OPEN_PRICE.search(line[-3:]))


def refusal(row: Row) -> str | None:
    return row.answer[:120] if _REFUSAL.search(row.answer[:200]) else None


def ungrounded(row: Row) -> str | None:
    """A plain text has no source."""
    if not row.prompt:
        return None
    found = grounding.ungrounded("\n".join(m.content for m in row.prompt), row.answer)
    return ", ".join(found[:8]) or None


class _Said:
    """All texts of a row, gathered once for the checks that ask one after the other."""

    def __init__(self) -> None:
        self.row: Row | None = None
        self.texts: tuple[str, ...] = ()

    def __call__(self, row: Row) -> tuple[str, ...]:
        if row is not self.row:
            self.row, self.texts = row, tuple(pii.texts_of(row))
        return self.texts


def _finder(find: Callable[[str], str | None], said: Callable[[Row], Iterable[str]]) -> RowCheck:
    def check(row: Row) -> str | None:
        for text in said(row):
            found = find(text)
            if found:
                return pii.masked(found)
        return None

    return check


def _schema_check(schema: Mapping[str, Any]) -> RowCheck:
    def check(row: Row) -> str | None:
        if row.messages[-1].tool_calls:  # a call has the schema of its tool
            return None
        return None if is_valid_answer(row.answer, schema, row.where) else row.answer[:120]

    return check


def row_checks(config: QualityConfig, schema: Mapping[str, Any] | None) -> dict[str, RowCheck]:
    """The checks that are switched on."""
    said = _Said()
    every: dict[str, RowCheck] = {
        "encoding": encoding,
        "empty_requests": empty_request,
        "rendered": rendered,
        "truncated_answers": truncated,
        "refusals": refusal,
        "ungrounded": ungrounded,
        **{name: _finder(find, said) for name, find in pii.FINDERS.items()},
    }
    if schema is not None:
        every["schema"] = _schema_check(schema)
    return {name: check for name, check in every.items() if level_of(config, name) is not Level.off}


def json_object(text: str) -> dict[str, Any] | None:
    """The JSON object that ``text`` is, or None."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


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
