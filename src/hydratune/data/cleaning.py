"""Repairs of texts, each by itself, each counted. Pure functions on one text; ``Cleaner`` applies the chosen ones to rows.

The repairs that are switched off are tried as well and counted, so that a report can say what they would do.
"""

import html
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import ftfy
from ftfy.fixes import fix_c1_controls

from hydratune.config import CleaningConfig
from hydratune.data.rows import Message, Row

_CONTROL = re.compile("[\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u2060\ufeff\ufff9-\ufffb]")
_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_SPACES = re.compile("[\u00a0\u2000-\u200a\u202f\u205f\u3000]")
_TRAILING = re.compile(r"[ \t]+(?=\n|$)")
_EMPTY_LINES = re.compile(r"\n{4,}")
_TAG = re.compile(
    r"</?(?:a|abbr|b|blockquote|body|br|center|div|em|font|footer|h[1-6]|head|header|hr|html|i|img|li|link|main|meta|nav|ol|p|script|"
    r"section|small|span|strong|style|sub|sup|table|tbody|td|th|thead|title|tr|u|ul)(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
_HIDDEN = re.compile(r"<(script|style)\b[^<>]*>.*?</\1>|<!--.*?-->", re.IGNORECASE | re.DOTALL)
_BREAK = re.compile(r"<(?:br|hr)\s*/?>|</(?:p|div|li|tr|h[1-6]|title)>", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:[a-z]{2,8}|#\d{2,6}|#x[0-9a-f]{2,5});", re.IGNORECASE)
_FENCE = re.compile(r"\s*```[a-zA-Z]*[ \t]*\n(.*?)\n?[ \t]*```\s*", re.DOTALL)
_CHATTER = re.compile(
    r"(?:\n+|(?<=[.!?])\s+)(?:i hope (?:this|that) (?:helps|was helpful)|hope (?:this|that) helps|let me know if (?:you|there)|"
    r"feel free to (?:ask|reach out|contact)|(?:please )?(?:do not|don't) hesitate to|if you (?:have|need) any (?:other|more|further)|"
    r"is there anything else|happy to help|have a (?:great|nice|good) day)[^\n]*\Z",
    re.IGNORECASE,
)


def encoding(text: str) -> str:
    """Undoes wrong decodings; leaves quotes, ligatures and everything else as it is."""
    return text if text.isascii() else str(fix_c1_controls(ftfy.fix_encoding(text)))


def control(text: str) -> str:
    """Without control and zero-width characters; those that join emoji and shape scripts stay."""
    return _CONTROL.sub("", text) if _CONTROL.search(text) else text


def whitespace(text: str) -> str:
    """Line feeds for all line and page ends, plain spaces, no spaces at line ends or around the text; indentation stays."""
    text = _TRAILING.sub("", _SPACES.sub(" ", _LINE_ENDS.sub("\n", text)))
    return _EMPTY_LINES.sub("\n\n\n", text).strip()


def without_html(text: str) -> str:
    """Text of a web page without its tags; entities as characters."""
    if "<" in text:
        text = _TAG.sub("", _BREAK.sub("\n", _HIDDEN.sub("", text)))
    return html.unescape(text) if _ENTITY.search(text) else text


def code_fence(text: str) -> str:
    """JSON without the code fence around it; any other text as it is."""
    found = _FENCE.fullmatch(text)
    if found is None:
        return text
    try:
        json.loads(found[1])
    except (ValueError, RecursionError):
        return text
    return found[1].strip()


def chatter(text: str) -> str:
    """An answer without the polite phrase at its end, unless it is nothing else."""
    return _CHATTER.sub("", text).rstrip() or text


ANY_TURN: dict[str, Callable[[str], str]] = {
    "encoding": encoding,
    "control": control,
    "html": without_html,
    "whitespace": whitespace,
}  # in the order in which they are applied
ANSWERS: dict[str, Callable[[str], str]] = {"code_fence": code_fence, "chatter": chatter}
TITLES = {
    "encoding": "wrong decoding repaired",
    "control": "control and zero-width characters removed",
    "html": "HTML removed",
    "whitespace": "white space tidied",
    "code_fence": "code fence around JSON removed",
    "chatter": "closing phrase removed",
    "boilerplate": "lines that many rows share removed",
}
_EXAMPLES = 5  # shown of each


@dataclass
class Changes:
    """What one repair did, or would do."""

    on: bool
    rows: int = 0
    examples: list[dict[str, str]] = field(default_factory=list)  # id, before, after

    def add(self, row: Row, before: str, after: str) -> None:
        self.rows += 1
        if len(self.examples) < _EXAMPLES:
            at = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after)))
            start = max(0, at - 60)
            self.examples.append({"id": row.id, "before": before[start : at + 140], "after": after[start : at + 140]})


class Cleaner:
    """Applies the chosen repairs to rows and counts what every repair did or would have done."""

    def __init__(self, config: CleaningConfig) -> None:
        self.config = config
        self.changes = {name: Changes(bool(getattr(config, name))) for name in TITLES}

    def __call__(self, row: Row) -> Row:
        changed: set[str] = set()
        messages = tuple(self._message(row, message, changed) for message in row.messages)
        return replace(row, messages=messages) if messages != row.messages else row

    def _message(self, row: Row, message: Message, changed: set[str]) -> Message:
        text = message.content
        repairs = {**ANY_TURN, **ANSWERS} if message.role == "assistant" else ANY_TURN
        for name, repair in repairs.items():
            after = repair(text)
            if after == text:
                continue
            if name not in changed:  # counted once a row
                changed.add(name)
                self.changes[name].add(row, text, after)
            if self.changes[name].on:
                text = after
        return message if text == message.content else replace(message, content=text)


class Boilerplate:
    """Finds the first and last lines that very many requests share, such as a header or a disclaimer."""

    MOST = 0.05  # of the rows
    LEAST = 20  # rows
    LONGEST = 10  # lines from the beginning and from the end that are looked at

    def __init__(self) -> None:
        self.rows = 0
        self.counts: Counter[str] = Counter()

    def see(self, row: Row) -> None:
        self.rows += 1
        self.counts.update({line for m in row.messages if m.role == "user" for line in self._edges(m.content)})
        if len(self.counts) > 500_000:  # lines seen once will not become frequent in what is left
            self.counts = Counter({line: n for line, n in self.counts.items() if n > 1})

    def _edges(self, text: str) -> list[str]:
        lines = [line.strip() for line in text.split("\n")]
        return [line for line in (*lines[: self.LONGEST], *lines[-self.LONGEST :]) if len(line) > 8] if len(lines) > 1 else []

    def lines(self) -> dict[str, int]:
        """line -> number of rows, the most frequent first."""
        least = max(self.LEAST, self.MOST * self.rows)
        return {line: n for line, n in self.counts.most_common(100) if n >= least}


def without_lines(row: Row, lines: Iterable[str]) -> Row:
    """``row`` with these lines removed from the edges of its requests; a request of nothing else stays."""
    unwanted = set(lines)
    messages = []
    for message in row.messages:
        if message.role == "user":
            kept = _stripped(message.content.split("\n"), unwanted)
            if any(line.strip() for line in kept) and len(kept) < message.content.count("\n") + 1:
                message = replace(message, content="\n".join(kept).strip())
        messages.append(message)
    return replace(row, messages=tuple(messages)) if tuple(messages) != row.messages else row


def _stripped(lines: list[str], unwanted: set[str]) -> list[str]:
    """``lines`` without those of ``unwanted`` among the first and last few."""
    edge = Boilerplate.LONGEST
    return [line for i, line in enumerate(lines) if not (line.strip() in unwanted and (i < edge or i >= len(lines) - edge))]


def summary(changes: dict[str, Changes]) -> dict[str, Any]:
    """Plain values for the report."""
    return {name: {"on": c.on, "rows": c.rows, "title": TITLES[name], "examples": c.examples} for name, c in changes.items()}
