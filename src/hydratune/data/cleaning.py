"""Repairs of texts, each by itself, each counted. Pure functions on one text; ``Cleaner`` applies
the chosen ones to rows.

The repairs that are switched off are tried as well and counted, so that a report can say what they
would do.
"""

import html
import json
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from hydratune.data.rows import Message, Row
from hydratune.settings.data import CleaningConfig

_CONTROL = re.compile(
    "[\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u2060\ufeff\ufff9-\ufffb]"
)
# colours, cursor, titles: ECMA-48
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()][0-9A-Z])")
_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_NO_BREAK = re.compile("[\u00a0\u2007\u202f]")
_FIRST_LINES = re.compile(r"\A(?:[ \t]*\n)+")
_EMPTY_LINES = re.compile(r"\n{4,}")
_ABOUT_ENCODINGS = re.compile(
    r"mojibake|\butf|unicode|latin-?\d|iso-?8859|windows-?125|\bcp125|encod|decod|charset|\bbytes?\b",
    re.IGNORECASE,
)
_ATTRIBUTE = r"""\s+(?:[a-z_:][\w:.-]*\s*=\s*(?:"[^"<>]*"|'[^'<>]*'|[^\s"'<>=&|]+)|async|checked|defer|disabled|hidden|nowrap|selected)"""  # noqa: E501
_TAG = re.compile(
    r"(?P<code>```.*?```|`[^`\n]+`)|(?P<hidden><(?P<what>script|style)\b[^<>]*>.*?</(?P=what)>|<!--.*?-->)|"
    r"<(?P<closes>/?)(?P<name>a|abbr|b|blockquote|body|br|center|div|em|font|footer|h[1-6]|head|header|hr|html|i|img|li|link|main|meta|"
    r"nav|ol|p|script|section|small|span|strong|style|sub|sup|table|tbody|td|th|thead|title|tr|u|ul)"
    rf"(?P<attributes>(?:{_ATTRIBUTE})*)\s*/?>",
    re.IGNORECASE | re.DOTALL,
)
_BREAKS = {"br", "hr"}
_BLOCKS = {
    "body",
    "div",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "html",
    "ol",
    "table",
    "tbody",
    "td",
    "thead",
    "tr",
    "ul",
}
_LEFT_OPEN = {"p", "li"}  # in old pages
_BREAK = re.compile(r"<(?:br|hr)\s*/?>|</(?:p|div|li|tr|h[1-6]|title)>", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:[a-z]{2,8}|#\d{2,6}|#x[0-9a-f]{2,5});", re.IGNORECASE)
_FENCE = re.compile(r"\s*```[a-zA-Z]*[ \t]*\n(.*?)\n?[ \t]*```\s*", re.DOTALL)
_NEED = (  # no other words, so that "let me know if you have the form" stays
    r"if (?:you(?:'d)?|there)(?:'s|'re)?(?:,?"
    r" (?:a|about|additional|any|anything|anytime|are|assistance|can|clarifications?|concerns?|"
    r"details|do|else|ever|examples?|explanations?|for|further|has|have|help|i|information|is|issues?|like|me|more|need|on|or|other|questions?|require|"
    r"some|specific|still|that|this|to|want|with|would|you))+"
)
_OFFER = (
    r"(?:(?:please )?let (?:me|us) know|(?:please )?feel free to (?:ask|reach out|contact"
    r" (?:me|us)|let (?:me|us) know)|"
    r"(?:please )?(?:do not|don't|never) hesitate to (?:ask|reach out|contact (?:me|us)|let"
    r" (?:me|us) know)|just ask)"
)
_LONGEST_CLOSING = 400  # characters
# whole sentences only: "Hope this helps the patient recover" is none
_CHATTER = re.compile(
    r"(?:(?:\n\s{0,9}|(?<=[.!?])\s{1,9})(?:(?:i )?hope (?:this|that|it)(?: all)? (?:helps|was"
    r" helpful|is helpful)(?: you)?(?: out)?|"
    rf"{_OFFER}(?:,? {_NEED})?|{_NEED}, {_OFFER}|"
    r"is there anything else(?: (?:i|we|you) (?:can|could|may|need)(?:"
    r" (?:help|assist|do|with|for|you))*)?|"
    r"(?:(?:i am|i'm|we are|we're) )?(?:always )?happy to help(?: you)?(?: further)?|have a"
    r" (?:great|nice|good|wonderful) (?:day|one|time))"
    r"(?:[.!?]+|(?=\s*\Z))[ \t]*[\U0001f300-\U0001faff\u263a]?[ \t]*)+\s*\Z",
    re.IGNORECASE,
)


def encoding(text: str) -> str:
    """Undoes wrong decodings; leaves quotes, ligatures and everything else as it is.

    A text that speaks of encodings, or has right letters beside the garbage, may be quoting it
    ("The bytes Ã© mean é"): it is left.
    """
    if text.isascii():
        return text
    import ftfy
    from ftfy.chardata import UTF8_DETECTOR_RE
    from ftfy.fixes import fix_c1_controls

    if not _ABOUT_ENCODINGS.search(text):
        text = ftfy.fix_encoding(text, ftfy.TextFixerConfig(decode_inconsistent_utf8=False))
        if not any(c.isalpha() and not c.isascii() for c in UTF8_DETECTOR_RE.sub("", text)):
            text = ftfy.fix_encoding(text)
    return str(fix_c1_controls(text))


def control(text: str) -> str:
    """Without control and zero-width characters and terminal escape sequences; those that join
    emoji and shape scripts stay.
    """
    return _CONTROL.sub("", _ANSI.sub("", text)) if _CONTROL.search(text) else text


def whitespace(text: str) -> str:
    """Line feeds for all line and page ends, plain spaces for no-break ones, no white space around
    the text.

    Indentation (of the first line too) and blanks at the ends of inner lines stay: Python, diffs
    and Markdown mean something by them. Only a text of a single line loses the blanks before it.
    """
    text = _NO_BREAK.sub(" ", _LINE_ENDS.sub("\n", text))
    text = _FIRST_LINES.sub("", _EMPTY_LINES.sub("\n\n\n", text)).rstrip()
    return text if "\n" in text else text.lstrip()


def without_html(text: str) -> str:
    """Text of a web page without its tags; entities as characters.

    Quoted code, and what may be code, stays.
    """
    return _ENTITY.sub(
        lambda entity: html.unescape(entity[0]), _without_tags(text) if "<" in text else text
    )


def _without_tags(text: str) -> str:
    """Closing tags go, and opening ones that are closed, have attributes or mean a block or a
    break: ``vector<a>`` stays.
    """
    found = [tag for tag in _TAG.finditer(text) if not tag["code"]]
    closed = {tag["name"].lower() for tag in found if tag["closes"]}

    def is_tag(tag: re.Match[str]) -> bool:
        name = (tag["name"] or "").lower()
        if tag["hidden"] or tag["closes"] or tag["attributes"].strip() or name in closed | _BREAKS:
            return True
        # List<table>
        return name in _BLOCKS and not re.match(r"[\w:]", text[tag.start() - 1 : tag.start()])

    def without(tag: re.Match[str]) -> str:
        if tag["code"]:
            return tag[0]
        if tag["name"] and tag["name"].lower() in _LEFT_OPEN - closed:
            return "\n"
        return ("\n" if _BREAK.fullmatch(tag[0]) else "") if is_tag(tag) else tag[0]

    return _TAG.sub(without, text) if any(map(is_tag, found)) else text


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
    text_end = text.rstrip()
    found = _CHATTER.search(text_end, max(0, len(text_end) - _LONGEST_CLOSING))
    return (text_end[: found.start()].rstrip() if found else "") or text


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
    numbers: "array[int]" = field(default_factory=lambda: array("I"))  # of the rows, as they came

    def add(self, row: Row, before: str, after: str) -> None:
        self.rows += 1
        if len(self.examples) < _EXAMPLES:
            at = next(
                (i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b),
                min(len(before), len(after)),
            )
            start = max(0, at - 60)
            self.examples.append(
                {"id": row.id, "before": before[start : at + 140], "after": after[start : at + 140]}
            )


class Cleaner:
    """Applies the chosen repairs to rows and counts what every repair did or would have done."""

    def __init__(self, config: CleaningConfig) -> None:
        self.config = config
        self.changes = {name: Changes(bool(getattr(config, name))) for name in TITLES}
        self.number = -1  # of the row that is cleaned

    def __call__(self, row: Row) -> Row:
        self.number += 1
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
                self.changes[name].numbers.append(self.number)
            if self.changes[name].on:
                text = after
        return message if text == message.content else replace(message, content=text)


class Boilerplate:
    """Finds lines that very many requests have in the same place at their beginning or end:
    headers, footers, disclaimers.

    Left out are lines that tell rows apart: labelled ones ("Section: allergies"), questions and
    headings, the few values that a place takes in nearly all rows, and lines but for which many
    requests would be the same.

    Memory: lines are counted by the rule of Manku and Motwani (2002, "lossy counting") once there
    are more than ``MOST_LINES`` of them. A line that is frequent enough is then still found; its
    count may miss ``ERROR`` of the rows.
    """

    MOST = 0.05  # of the rows
    LEAST = 20  # rows
    SHORTEST = 12  # characters
    EDGE = 5  # lines from the beginning and from the end, empty ones aside
    MOST_LINES = 500_000
    ERROR = 0.005  # of the rows
    _COMPARED = 50_000  # requests whose rest is compared with that of others
    _TELLING = 0.1  # of its rows: so many are the same as others but for this line
    _FEW_VALUES = (
        0.8  # of the rows: a place in which so many have one of several repeated lines is a field
    )

    def __init__(self) -> None:
        self.rows = 0
        self.requests = array("I")  # row of each request of several lines
        self.sizes = array("I")  # distinct lines of each, empty ones aside
        self.seen: dict[
            str, tuple[array[int], array[int]]
        ] = {}  # line -> requests, places in them as bits
        self.missed: dict[str, int] = {}  # line -> so many may have been forgotten
        self.forgotten = 0
        self.telling: Counter[str] = Counter()
        self.rests: dict[tuple[bool, int], str] = {}

    def see(self, row: Row) -> None:
        for message in row.messages:
            if message.role == "user":
                self._request(
                    [line for raw in message.content.split("\n") if (line := raw.strip())]
                )
        self.rows += 1
        if len(self.seen) > self.MOST_LINES:
            self._forget()

    def _request(self, lines: list[str]) -> None:
        if len(lines) < 2:
            return
        places: dict[str, int] = defaultdict(int)
        for i, line in enumerate(lines[: self.EDGE]):
            places[line] |= 1 << i
        for i, line in enumerate(reversed(lines[-self.EDGE :]), self.EDGE):
            places[line] |= 1 << i
        for line, bits in places.items():
            if len(line) >= self.SHORTEST and not _TELLS.search(line):
                if line not in self.seen:
                    self.seen[line] = (array("I"), array("H"))
                    if self.forgotten:
                        self.missed[line] = self.forgotten
                self.seen[line][0].append(len(self.requests))
                self.seen[line][1].append(bits)
        if len(self.requests) < self._COMPARED:
            for first, line, rest in ((True, lines[0], lines[1:]), (False, lines[-1], lines[:-1])):
                other = self.rests.setdefault((first, hash(tuple(rest))), line)
                if other != line:
                    self.telling.update((line, other))
        self.requests.append(self.rows)
        self.sizes.append(len(set(lines)))

    def _forget(self) -> None:
        self.forgotten = int(self.ERROR * self.rows)
        self.seen = {
            line: at
            for line, at in self.seen.items()
            if len(at[0]) + self.missed.get(line, 0) > self.forgotten
        }
        self.missed = {line: n for line, n in self.missed.items() if line in self.seen}

    def lines(self) -> dict[str, int]:
        """line -> number of rows that have it at an edge, the most frequent first; at most 100."""
        found: dict[str, int] = {}
        for place in range(2 * self.EDGE):
            there = {line: n for line in self.seen if (n := self._rows_with(line, place)) >= 3}
            if (
                sum(n > max(3, self.ERROR * self.rows) for n in there.values()) > 1
                and sum(there.values()) >= self._FEW_VALUES * self.rows
            ):
                continue
            for line, n in there.items():
                if (
                    n + self.missed.get(line, 0) >= max(self.LEAST, self.MOST * self.rows)
                    and self.telling[line] <= self._TELLING * n
                ):
                    found[line] = len({self.requests[i] for i in self.seen[line][0]})
        return dict(sorted(found.items(), key=lambda item: -item[1])[:100])

    def _rows_with(self, line: str, place: int) -> int:
        requests, places = self.seen[line]
        if len(requests) < 3:
            return 0
        return len(
            {
                self.requests[i]
                for i, bits in zip(requests, places, strict=True)
                if bits >> place & 1
            }
        )

    def changed_rows(self) -> int:
        """How many rows ``without_lines`` would change; up to ``ERROR`` of the rows fewer for each
        line where some were forgotten.
        """
        return len(self.changed())

    def changed(self) -> list[int]:
        """The numbers of these rows, as they came."""
        unwanted: Counter[int] = Counter()
        for line in self.lines():
            unwanted.update(self.seen[line][0])
        # a request of nothing else stays
        return sorted({self.requests[i] for i, n in unwanted.items() if n < self.sizes[i]})


# a label and no long text, a question, a rule
_TELLS = re.compile(r"\A[-*#>\s]*[^\s:][^:.!?]{0,40}:(?:\s|\Z)(?!.{60})|[:?]\W*\Z|\A\W*\Z")


def without_lines(row: Row, lines: Iterable[str]) -> Row:
    """``row`` with these lines removed from the edges of its requests; a request of nothing else
    stays.
    """
    unwanted = set(lines)
    messages = []
    for message in row.messages:
        if message.role == "user":
            every = message.content.split("\n")
            kept = _stripped(every, unwanted)
            if any(line.strip() for line in kept) and len(kept) < len(every):
                message = replace(message, content=whitespace("\n".join(kept)))
        messages.append(message)
    return replace(row, messages=tuple(messages)) if tuple(messages) != row.messages else row


def _stripped(lines: list[str], unwanted: set[str]) -> list[str]:
    """``lines`` without those of ``unwanted`` among the first and last few that are not empty."""
    full = [i for i, line in enumerate(lines) if line.strip()]
    edges = {*full[: Boilerplate.EDGE], *full[-Boilerplate.EDGE :]}
    return [line for i, line in enumerate(lines) if not (i in edges and line.strip() in unwanted)]


def summary(changes: dict[str, Changes]) -> dict[str, Any]:
    """Plain values for the report."""
    return {
        name: {"on": c.on, "rows": c.rows, "title": TITLES[name], "examples": c.examples}
        for name, c in changes.items()
    }
