"""Thoughts that a file writes into the text of an answer, between tags such as ``<think>`` and ``</think>``.

Reasoning models are published with such rows. Chat templates differ in what they do with them: some want thoughts apart, as
``reasoning_content``; some open the thought in the generation prompt; some drop the thoughts of earlier turns.
"""

TAGS = (("<think>", "</think>"), ("<thinking>", "</thinking>"), ("[THINK]", "[/THINK]"))


def closings(text: str) -> int:
    """How many closing tags ``text`` holds."""
    return sum(text.count(close) for _, close in TAGS)


def opened_at_end(prompt: str) -> str:
    """The opening tag with which ``prompt`` ends, and the white space after it; empty if it opens no thought."""
    stripped = prompt.rstrip()
    opening = next((opening for opening, _ in TAGS if stripped.endswith(opening)), None)
    return "" if opening is None else prompt[len(stripped) - len(opening) :]


def parted(content: str, *, opened: bool = False) -> tuple[str, str] | None:
    """(thoughts, answer) of a text that begins with thoughts, each without the line breaks around it; None if it does not.

    With ``opened`` the prompt has opened the thought, so the text need not. A text with more than one closing tag quotes
    them, and nobody can say where its thoughts end.
    """
    for opening, close in TAGS:
        body = content.lstrip()
        begins = body.startswith(opening)
        if content.count(close) != 1 or not (begins or opened) or content.count(opening) != int(begins):
            continue
        thoughts, _, answer = body.removeprefix(opening).partition(close)
        return thoughts.strip("\n"), answer.lstrip("\n")
    return None
