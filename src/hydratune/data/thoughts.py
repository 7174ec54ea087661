"""Thoughts that a file writes into the text of an answer, between tags such as ``<think>`` and
``</think>``.

Reasoning models are published with such rows. Chat templates differ in what they do with them: some
want thoughts apart, as ``reasoning_content``; some open the thought in the generation prompt; some
drop the thoughts of earlier turns.
"""

import re
from collections.abc import Sequence

Tags = Sequence[tuple[str, str]]
_NAMES = (
    "think",
    "thinking",
    "thought",
    "thoughts",
    "reasoning",
    "reason",
    "seed:think",
    "scratchpad",
    "analysis",
    "reflection",
)
TAGS: Tags = (
    *((f"<{name}>", f"</{name}>") for name in _NAMES),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
)
# how every closing tag begins: few texts hold any, and most need no closer look
_MAY_CLOSE = re.compile(r"</|\[/|◁/|<\|(?:END|end)_")
_TAG_AT_END = re.compile(r"<([\w:.-]+)>\s*\Z")


def closings(text: str, tags: Tags = TAGS) -> int:
    """How many closing tags ``text`` holds."""
    return sum(text.count(close) for _, close in tags) if _MAY_CLOSE.search(text) else 0


def tags_of(prompt: str) -> Tags:
    """The tags there are, with that of a generation prompt which ends with an opening tag of
    another name.
    """
    found = _TAG_AT_END.search(prompt)
    own = (f"<{found[1]}>", f"</{found[1]}>") if found else None
    return TAGS if own is None or own in TAGS else (*TAGS, own)


def opened_at_end(prompt: str, tags: Tags = TAGS) -> str:
    """The opening tag with which ``prompt`` ends, and the white space after it; empty if it opens
    no thought.
    """
    stripped = prompt.rstrip()
    opening = next((opening for opening, _ in tags if stripped.endswith(opening)), None)
    return "" if opening is None else prompt[len(stripped) - len(opening) :]


def parted(content: str, *, opened: bool = False, tags: Tags = TAGS) -> tuple[str, str] | None:
    """(thoughts, answer) of a text that begins with thoughts, each without the line breaks around
    it; None if it does not.

    With ``opened`` the prompt has opened the thought, so the text need not. A text with more than
    one closing tag quotes them, and nobody can say where its thoughts end.
    """
    if not _MAY_CLOSE.search(content):
        return None
    for opening, close in tags:
        body = content.lstrip()
        begins = body.startswith(opening)
        if (
            content.count(close) != 1
            or not (begins or opened)
            or content.count(opening) != int(begins)
        ):
            continue
        thoughts, _, answer = body.removeprefix(opening).partition(close)
        return thoughts.strip("\n"), answer.lstrip("\n")
    return None


def unopened(content: str, tags: Tags = TAGS) -> str:
    """The closing tag at the end of a line of ``content``, or at the beginning of one, that nothing
    in it opens; empty if there is none.

    One in the middle of a line is taken for a word about tags.
    """
    for opening, close in tags:
        at = content.find(close)
        if (
            at >= 0
            and opening not in content
            and (content[at + len(close) :][:1] in ("\n", "") or content[:at][-1:] in ("\n", ""))
        ):
            return close
    return ""
