"""Repairs of texts: each is a pure function of one text, and ``Cleaner`` applies them to rows.

``Cleaner`` also tries the repairs that are switched off and counts the rows that they would change,
so that a report can show their effect. Lines that many rows share are in ``boilerplate``.
"""

import functools
import html
import json
import re
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypedDict

from hydratune import extras
from hydratune.data.rows import Message, Row
from hydratune.settings.data import CleaningConfig

Repair = Callable[[str], str]

# ------------------------------------------------------------------------------------ every message
_ABOUT_ENCODINGS = re.compile(
    r"mojibake|\butf|unicode|latin-?\d|iso-?8859|windows-?125|\bcp125"
    r"|encod|decod|charset|\bbytes?\b",
    re.IGNORECASE,
)


@functools.cache
def can_repair_encoding() -> bool:
    """Return whether the optional package ftfy is installed."""
    return extras.is_installed("ftfy")


def repair_encoding(text: str) -> str:
    """Undo wrong decodings ("cafÃ©" -> "café"); quotes, ligatures and all other characters stay.

    A text that mentions encodings, or that has correct letters beside the wrong ones, may quote
    them on purpose ("The bytes Ã© mean é"), so it is returned unchanged. So is every text if ftfy
    is not installed, which the report says (``skipped``).
    """
    if text.isascii() or not can_repair_encoding():
        return text
    import ftfy
    from ftfy.chardata import UTF8_DETECTOR_RE
    from ftfy.fixes import fix_c1_controls

    if not _ABOUT_ENCODINGS.search(text):
        text = ftfy.fix_encoding(text, ftfy.TextFixerConfig(decode_inconsistent_utf8=False))
        if not any(c.isalpha() and not c.isascii() for c in UTF8_DETECTOR_RE.sub("", text)):
            text = ftfy.fix_encoding(text)
    return str(fix_c1_controls(text))


_CONTROL = re.compile(
    "[\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u2060\ufeff\ufff9-\ufffb]"
)
# Terminal escape sequences: colours, cursor movements, window titles (ECMA-48).
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()][0-9A-Z])")


def remove_control_characters(text: str) -> str:
    """Remove control characters, zero-width characters and terminal escape sequences.

    The joiners that combine emoji or shape letters of some scripts stay.
    """
    return _CONTROL.sub("", _ANSI.sub("", text)) if _CONTROL.search(text) else text


_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_NO_BREAK_SPACES = re.compile("[\u00a0\u2007\u202f]")
_EMPTY_FIRST_LINES = re.compile(r"\A(?:[ \t]*\n)+")
_EMPTY_LINES = re.compile(r"\n{4,}")


def tidy_whitespace(text: str) -> str:
    """Use line feeds for all line and page ends, and plain spaces for no-break spaces.

    White space around the text is removed. Indentation (of the first line too) and blanks at the
    ends of inner lines stay, because Python, diffs and Markdown give them a meaning; only a text of
    a single line loses the blanks before it.
    """
    text = _NO_BREAK_SPACES.sub(" ", _LINE_ENDS.sub("\n", text))
    text = _EMPTY_FIRST_LINES.sub("", _EMPTY_LINES.sub("\n\n\n", text)).rstrip()
    return text if "\n" in text else text.lstrip()


_ATTRIBUTE = (
    r"""\s+(?:[a-z_:][\w:.-]*\s*=\s*(?:"[^"<>]*"|'[^'<>]*'|[^\s"'<>=&|]+)"""
    r"""|async|checked|defer|disabled|hidden|nowrap|selected)"""
)
_TAG = re.compile(
    r"(?P<code>```.*?```|`[^`\n]+`)"
    r"|(?P<hidden><(?P<what>script|style)\b[^<>]*>.*?</(?P=what)>|<!--.*?-->)"
    r"|<(?P<closes>/?)(?P<name>"
    r"a|abbr|b|blockquote|body|br|center|div|em|font|footer|h[1-6]|head|header|hr|html|i|img|li"
    r"|link|main|meta|nav|ol|p|script|section|small|span|strong|style|sub|sup|table|tbody|td|th"
    r"|thead|title|tr|u|ul)"
    rf"(?P<attributes>(?:{_ATTRIBUTE})*)\s*/?>",
    re.IGNORECASE | re.DOTALL,
)
_BREAKS = {"br", "hr"}
_BLOCKS = {
    *("body", "div", "h1", "h2", "h3", "h4", "h5", "h6", "html"),
    *("ol", "table", "tbody", "td", "thead", "tr", "ul"),
}
_OFTEN_UNCLOSED = {"p", "li"}  # old pages do not close these
_BREAK = re.compile(r"<(?:br|hr)\s*/?>|</(?:p|div|li|tr|h[1-6]|title)>", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:[a-z]{2,8}|#\d{2,6}|#x[0-9a-f]{2,5});", re.IGNORECASE)


def remove_html(text: str) -> str:
    """Remove the tags of a web page and replace its entities by characters.

    Quoted code, and what may be code, stays.
    """
    text = _remove_tags(text) if "<" in text else text
    return _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)


def _remove_tags(text: str) -> str:
    """Remove closing tags, and opening tags that are closed, have attributes or are blocks or
    breaks; ``vector<a>`` stays.
    """
    tags = [tag for tag in _TAG.finditer(text) if not tag["code"]]
    closed = {tag["name"].lower() for tag in tags if tag["closes"]}

    def is_html(tag: re.Match[str]) -> bool:
        name = (tag["name"] or "").lower()
        if tag["hidden"] or tag["closes"] or tag["attributes"].strip() or name in closed | _BREAKS:
            return True
        follows_a_word = re.match(r"[\w:]", text[tag.start() - 1 : tag.start()])  # List<table>
        return name in _BLOCKS and not follows_a_word

    def replacement(tag: re.Match[str]) -> str:
        if tag["code"]:
            return tag[0]
        if tag["name"] and tag["name"].lower() in _OFTEN_UNCLOSED - closed:
            return "\n"
        if not is_html(tag):
            return tag[0]
        return "\n" if _BREAK.fullmatch(tag[0]) else ""

    return _TAG.sub(replacement, text) if any(map(is_html, tags)) else text


# ---------------------------------------------------------------------------------------- answers
_FENCE = re.compile(r"\s*```[a-zA-Z]*[ \t]*\n(.*?)\n?[ \t]*```\s*", re.DOTALL)


def remove_code_fence(text: str) -> str:
    """Remove the code fence around JSON; return any other text unchanged."""
    fenced = _FENCE.fullmatch(text)
    if fenced is None:
        return text
    try:
        json.loads(fenced[1])
    except (ValueError, RecursionError):
        return text
    return fenced[1].strip()


# Only these words may follow, so that "let me know if you have the form" stays.
_NEED = (
    r"if (?:you(?:'d)?|there)(?:'s|'re)?(?:,? (?:a|about|additional|any|anything|anytime|are"
    r"|assistance|can|clarifications?|concerns?|details|do|else|ever|examples?|explanations?|for"
    r"|further|has|have|help|i|information|is|issues?|like|me|more|need|on|or|other|questions?"
    r"|require|some|specific|still|that|this|to|want|with|would|you))+"
)
_OFFER = (
    r"(?:(?:please )?let (?:me|us) know"
    r"|(?:please )?feel free to (?:ask|reach out|contact (?:me|us)|let (?:me|us) know)"
    r"|(?:please )?(?:do not|don't|never) hesitate to"
    r" (?:ask|reach out|contact (?:me|us)|let (?:me|us) know)|just ask)"
)
_LONGEST_CLOSING = 400  # characters
# Matches whole sentences only: "Hope this helps the patient recover" is not a closing phrase.
_CHATTER = re.compile(
    r"(?:(?:\n\s{0,9}|(?<=[.!?])\s{1,9})"
    r"(?:(?:i )?hope (?:this|that|it)(?: all)?"
    r" (?:helps|was helpful|is helpful)(?: you)?(?: out)?"
    rf"|{_OFFER}(?:,? {_NEED})?|{_NEED}, {_OFFER}"
    r"|is there anything else(?: (?:i|we|you) (?:can|could|may|need)"
    r"(?: (?:help|assist|do|with|for|you))*)?"
    r"|(?:(?:i am|i'm|we are|we're) )?(?:always )?happy to help(?: you)?(?: further)?"
    r"|have a (?:great|nice|good|wonderful) (?:day|one|time))"
    r"(?:[.!?]+|(?=\s*\Z))[ \t]*[\U0001f300-\U0001faff\u263a]?[ \t]*)+\s*\Z",
    re.IGNORECASE,
)


def remove_chatter(text: str) -> str:
    """Remove the polite phrase at the end of an answer, unless the answer is nothing else."""
    stripped = text.rstrip()
    closing = _CHATTER.search(stripped, max(0, len(stripped) - _LONGEST_CLOSING))
    return (stripped[: closing.start()].rstrip() if closing else "") or text


# ------------------------------------------------------------------------------------------ rows
# In the order in which they are applied.
REPAIRS_OF_EVERY_MESSAGE: dict[str, Repair] = {
    "encoding": repair_encoding,
    "control": remove_control_characters,
    "html": remove_html,
    "whitespace": tidy_whitespace,
}
REPAIRS_OF_ANSWERS: dict[str, Repair] = {
    **REPAIRS_OF_EVERY_MESSAGE,
    "code_fence": remove_code_fence,
    "chatter": remove_chatter,
}
TITLES = {
    "encoding": "wrong decoding repaired",
    "control": "control and zero-width characters removed",
    "html": "HTML removed",
    "whitespace": "white space tidied",
    "code_fence": "code fence around JSON removed",
    "chatter": "closing phrase removed",
    "boilerplate": "lines that many rows share removed",
}
_MOST_EXAMPLES = 5  # of each repair
_BEFORE_CHANGE, _AFTER_CHANGE = 60, 140  # characters of an example around the first difference


class ChangeExample(TypedDict):
    """A text before and after a repair, around its first difference; ``id`` is the row's."""

    id: str
    before: str
    after: str


@dataclass
class Changes:
    """The rows that one repair changed, or would change while it is off."""

    on: bool
    rows: int = 0
    examples: list[ChangeExample] = field(default_factory=list)
    numbers: "array[int]" = field(default_factory=lambda: array("I"))  # positions of these rows

    def add(self, row: Row, before: str, after: str) -> None:
        """Count one row, and keep it as an example if there are still few."""
        self.rows += 1
        if len(self.examples) < _MOST_EXAMPLES:
            difference = next(
                (i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b),
                min(len(before), len(after)),
            )
            shown = slice(max(0, difference - _BEFORE_CHANGE), difference + _AFTER_CHANGE)
            self.examples.append({"id": row.id, "before": before[shown], "after": after[shown]})


class Cleaner:
    """Applies the chosen repairs to rows, and counts for every repair the rows that it changed or
    would have changed.
    """

    def __init__(self, config: CleaningConfig) -> None:
        self.config = config
        names = [name for name in TITLES if name != "encoding" or can_repair_encoding()]
        self.changes = {name: Changes(bool(getattr(config, name))) for name in names}
        self.number = -1  # position of the row that is being cleaned

    def __call__(self, row: Row) -> Row:
        """Return ``row`` after the repairs that are on; the same object if nothing changed."""
        self.number += 1
        counted: set[str] = set()
        messages = tuple(self._clean(row, message, counted) for message in row.messages)
        return replace(row, messages=messages) if messages != row.messages else row

    def _clean(self, row: Row, message: Message, counted: set[str]) -> Message:
        """Repair one message; ``counted`` holds the repairs for which ``row`` was counted."""
        text = message.content
        is_answer = message.role == "assistant"
        repairs = REPAIRS_OF_ANSWERS if is_answer else REPAIRS_OF_EVERY_MESSAGE
        for name, repair in repairs.items():
            repaired = repair(text)
            if repaired == text:
                continue
            changes = self.changes[name]
            if name not in counted:
                counted.add(name)
                changes.add(row, text, repaired)
                changes.numbers.append(self.number)
            if changes.on:
                text = repaired
        return message if text == message.content else replace(message, content=text)


def summarise_changes(changes: Mapping[str, Changes]) -> dict[str, dict[str, object]]:
    """Return the changes as plain values for the report."""
    return {
        name: {"on": c.on, "rows": c.rows, "title": TITLES[name], "examples": c.examples}
        for name, c in changes.items()
    }
