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
    "tool": (
        "tool",
        "function",
        "observation",
        "ipython",
        "environment",
        *(f"{a}_{b}" for a in ("tool", "function") for b in _RESULTS),
    ),
    CALL: (CALL, "function_calls", "tool_call", "tool_calls"),
}
_ROLES = {name: role for role, names in _NAMES.items() for name in names}
# versions: gpt-4o
_MODELS = re.compile(
    r"(gpt|chatgpt|claude|gemini|gemma|llama|mistral|mixtral|qwen|deepseek|phi)_?\d\w*|(claude|gemini)_\w+"
)
ROLES_OF_TURNS = tuple(_NAMES)  # what data.roles may name


def role_of(said: Any, mapping: Mapping[str, Any], where: str) -> str:
    """The role that ``said`` names. Raises ``DataError`` for a name that nobody knows.

    ``mapping`` (data.roles) comes first: name -> role, or role -> a list of names, which may be any
    text. In a key, "_" stands for spaces and marks ("Mr. X" is ``mr_x``).
    """
    name = str(said)
    if name == "text":  # a document; whether it stands alone is checked later
        return name
    plain = _plain(name)
    role = _mapped(mapping).get(plain) or _known(plain)
    if role is None:
        others = ", ".join(r for r in ROLES_OF_TURNS if r != "user")
        raise DataError(
            f"{where}: unknown role {name!r}; known: {', '.join(ROLES_OF_TURNS)}. Say who it is:"
            f" {_setting(name)} (or, in place of user: {others})"
            + ("; several names of one role stand in one list" if '"]' in _setting(name) else "")
        )
    return role


def is_known(said: Any, mapping: Mapping[str, Any]) -> bool:
    return isinstance(said, str) and (
        _known(_plain(said)) is not None or _plain(said) in _mapped(mapping)
    )


def _known(plain: str) -> str | None:
    return _ROLES.get(plain) or ("assistant" if _MODELS.fullmatch(plain) else None)


def _mapped(mapping: Mapping[str, Any]) -> dict[str, str]:
    """Name -> role."""
    found = {}
    for key, value in mapping.items():
        if isinstance(value, str) and value in _NAMES:
            found[_plain(key)] = value
        else:
            found |= {
                _plain(str(name)): key for name in ([value] if isinstance(value, str) else value)
            }
    return found


@functools.cache
def _plain(name: str) -> str:
    name = name.strip().lower()
    return re.sub(r"\W+", "_", name).strip("_") or name


def _setting(name: str) -> str:
    """What to type so that ``name`` is the user."""
    for key in (name, _plain(name)):
        if re.fullmatch(r"[A-Za-z_][\w-]*", key, re.ASCII) and key not in _NAMES:
            return f"+data.roles.{key}=user"
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    return shlex.quote(f'+data.roles.user=["{quoted}"]')
