"""The names that data sets give to those who speak -> the roles of chat templates."""

import functools
import re
import shlex
from collections.abc import Mapping
from typing import Any

from hydratune.errors import DataError

CALL = "function_call"  # a turn that is nothing but the assistant's call of a tool
_RESULTS = ("response", "responses", "result", "results", "output", "outputs")
_NAMES = {
    "system": ("system", "developer"),  # OpenAI's name since the o1 models
    "user": ("user", "human", "prompter"),
    "assistant": (
        "assistant",
        "model",
        "bot",
        "chatbot",
        "ai",
        "llm",
        "gpt",
        "gpt4",
        "gpt_4",
        "chatgpt",
        "bing",
        "bard",
        "claude",
        "gemini",
    ),
    "tool": ("tool", "function", "observation", "ipython", "environment", *(f"{a}_{b}" for a in ("tool", "function") for b in _RESULTS)),
    CALL: (CALL, "function_calls", "tool_call", "tool_calls"),
}
_ROLES = {name: role for role, names in _NAMES.items() for name in names}
ROLES_OF_TURNS = tuple(_NAMES)  # what data.roles may name


def role_of(said: Any, mapping: Mapping[str, str], where: str) -> str:
    """The role that ``said`` names. Raises ``DataError`` for a name that nobody knows.

    ``mapping`` (data.roles) comes first: name -> role, or role -> name for names that a command line cannot have as a key.
    """
    name = str(said)
    if name == "text":  # a document; whether it stands alone is checked later
        return name
    plain = _plain(name)
    role = _mapped(mapping).get(plain) or _ROLES.get(plain)
    if role is None:
        others = ", ".join(r for r in ROLES_OF_TURNS if r != "user")
        raise DataError(
            f"{where}: unknown role {name!r}; known: {', '.join(ROLES_OF_TURNS)}. Say who it is: {_setting(name)} "
            f"(or, in place of user: {others})"
        )
    return role


def is_known(said: Any, mapping: Mapping[str, str]) -> bool:
    return isinstance(said, str) and (_plain(said) in _ROLES or _plain(said) in _mapped(mapping))


def _mapped(mapping: Mapping[str, str]) -> dict[str, str]:
    """Name -> role."""
    return {_plain(key if value in _NAMES else value): value if value in _NAMES else key for key, value in mapping.items()}


@functools.cache
def _plain(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def _setting(name: str) -> str:
    """What to type so that ``name`` is the user."""
    if re.fullmatch(r"[A-Za-z_][\w-]*", name, re.ASCII):
        return f"+data.roles.{name}=user"
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    return shlex.quote(f'+data.roles.user="{quoted}"')
