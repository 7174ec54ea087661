"""Find the thoughts that a file writes into an answer, between tags such as <think> and </think>.

Reasoning models are published with such rows. Chat templates differ in what they do with them: some
take thoughts apart from the content, as ``reasoning_content``; some open the thought in the
generation prompt; some drop the thoughts of earlier turns.
"""

import re
from collections.abc import Sequence

Tags = Sequence[tuple[str, str]]  # (opening, closing)
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


def count_closing_tags(text: str, tags: Tags = TAGS) -> int:
    """Count the closing tags of thoughts in ``text``."""
    return sum(text.count(close) for _, close in tags) if _MAY_CLOSE.search(text) else 0


def tags_of(generation_prompt: str) -> Tags:
    """Return the usual tags, and the one with which a generation prompt ends if it is another."""
    match = _TAG_AT_END.search(generation_prompt)
    own = (f"<{match[1]}>", f"</{match[1]}>") if match else None
    return TAGS if own is None or own in TAGS else (*TAGS, own)


def opening_at_end(prompt: str, tags: Tags = TAGS) -> str:
    """Return the opening tag with which ``prompt`` ends, with the white space after it.

    Empty if the prompt opens no thought.
    """
    stripped = prompt.rstrip()
    opening = next((opening for opening, _ in tags if stripped.endswith(opening)), None)
    return "" if opening is None else prompt[len(stripped) - len(opening) :]


def split_thoughts(
    content: str, *, opened: bool = False, tags: Tags = TAGS
) -> tuple[str, str] | None:
    """Return (thoughts, answer) of a text that begins with thoughts; None if it does not.

    Line breaks around both are dropped. With ``opened``, the prompt has opened the thought, so the
    text need not. A text with more than one closing tag quotes them, and it is not known where its
    thoughts end, so it is not split.
    """
    if not _MAY_CLOSE.search(content):
        return None
    body = content.lstrip()
    for opening, close in tags:
        begins = body.startswith(opening)
        is_unique = content.count(close) == 1 and content.count(opening) == int(begins)
        if is_unique and (begins or opened):
            thoughts, _, answer = body.removeprefix(opening).partition(close)
            return thoughts.strip("\n"), answer.lstrip("\n")
    return None


def find_unopened_tag(content: str, tags: Tags = TAGS) -> str:
    """Return a closing tag at the end or the beginning of a line that nothing in the text opens.

    Empty if there is none. A closing tag in the middle of a line is taken for a word about tags.
    """
    for opening, close in tags:
        at = content.find(close)
        if at < 0 or opening in content:
            continue
        next_character, previous_character = content[at + len(close) :][:1], content[:at][-1:]
        if next_character in ("\n", "") or previous_character in ("\n", ""):
            return close
    return ""
