"""Check that the turns of a row make a conversation, or a document, from which one can learn."""

import itertools
import json
from collections.abc import Sequence

from hydratune.data.formats.contents import refuse_half_characters
from hydratune.data.rows import ROLES, Message
from hydratune.errors import DataError


def check_turns(messages: Sequence[Message], where: str) -> tuple[Message, ...]:
    """Return the turns up to the last trained one; nothing that is trained reads what follows it.

    Raises ``DataError`` unless the roles are known and in order and the last trained turn says
    something.
    """
    roles = [message.role for message in messages]
    unknown = next((role for role in roles if role not in ROLES), None)
    if unknown is not None:
        raise DataError(f"{where}: unknown role {unknown!r}; known: {', '.join(ROLES)}")
    for message in messages:
        has_more = message.tool_calls or message.reasoning
        text = json.dumps(message.turn(), ensure_ascii=False) if has_more else message.content
        refuse_half_characters(text, f"the {message.role} turn", where)
    if "text" in roles:
        _check_document(messages, where)
        return tuple(messages)
    _check_first_and_last(roles, where)
    _check_alternation(roles, where)
    _check_tool_turns(messages, where)
    return tuple(messages[: _last_trained_turn(messages, where) + 1])


def _listed(roles: Sequence[str]) -> str:
    return f"(roles: {', '.join(roles)})"


def _check_document(messages: Sequence[Message], where: str) -> None:
    if len(messages) > 1:
        raise DataError(
            f"{where}: a text is a whole document and stands alone in its row"
            f" {_listed([message.role for message in messages])}"
        )
    if not messages[0].content.strip():
        raise DataError(f"{where}: the text is empty")


def _check_first_and_last(roles: Sequence[str], where: str) -> None:
    """Raise ``DataError`` if no assistant turn ends the row, or a system turn is not its first."""
    if "assistant" not in roles:
        raise DataError(
            f"{where}: no assistant turn, so there is nothing to learn {_listed(roles)}"
        )
    if roles[-1] != "assistant":
        raise DataError(
            f"{where}: the last turn must be the assistant's {_listed(roles)}; what follows the"
            " last answer teaches nothing: take it out, or add the answer"
        )
    if "system" in roles[1:]:
        raise DataError(
            f"{where}: a system turn can only come first {_listed(roles)}; put its text into the"
            " first one, or into the turn of the user that follows"
        )


def _check_alternation(roles: Sequence[str], where: str) -> None:
    """Raise ``DataError`` unless the user begins and no two turns of one speaker are adjacent."""
    talk = roles[1:] if roles[0] == "system" else roles
    if talk[0] == "assistant":
        raise DataError(
            f"{where}: roles out of order, the conversation starts with the assistant"
            f" {_listed(roles)}, and most chat templates need a turn of the user first; take a"
            " greeting out, or put a turn of the user before it"
        )
    speakers = ("user", "assistant")
    repeats = any(a == b for a, b in itertools.pairwise(talk) if a in speakers)
    if talk[0] != "user" or repeats:
        raise DataError(
            f"{where}: roles out of order, user and assistant must alternate after the system turn"
            f" {_listed(roles)}; join turns of one speaker that follow each other, or take one of"
            " them out"
        )


def _check_tool_turns(messages: Sequence[Message], where: str) -> None:
    """Raise ``DataError`` for the result of a tool that nothing called."""
    for before, message in itertools.pairwise(messages):
        if message.role == "tool" and before.role != "tool" and not before.tool_calls:
            raise DataError(
                f"{where}: a tool turn must follow an assistant turn with tool_calls, or another"
                ' tool turn. Write the call of the assistant turn before it as "tool_calls":'
                ' [{"name": ..., "arguments": {...}}]; where it is a text that is to stay one, read'
                " the results as turns of the user: data.roles.tool=user"
            )


def _last_trained_turn(messages: Sequence[Message], where: str) -> int:
    trained = [i for i, m in enumerate(messages) if m.role == "assistant" and m.train]
    if not trained:
        raise DataError(
            f"{where}: every assistant turn is marked as context (train: false, weight: 0 or the"
            " like), so there is nothing to learn"
        )
    last = messages[trained[-1]]
    if not last.content.strip() and not last.tool_calls:
        raise DataError(f"{where}: the assistant's answer is empty")
    return trained[-1]
