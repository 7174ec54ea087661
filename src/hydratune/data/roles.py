"""The names that data sets give to those who speak -> the roles of chat templates."""

import re
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
    """The role that ``said`` names; ``mapping`` (data.roles) comes first. Raises ``DataError`` for a name that nobody knows."""
    name = str(said)
    if name == "text":  # a document; whether it stands alone is checked later
        return name
    plain = _plain(name)
    role = next((role for own, role in mapping.items() if _plain(own) == plain), None) or _ROLES.get(plain)
    if role is None:
        others = ", ".join(r for r in ROLES_OF_TURNS if r != "user")
        raise DataError(
            f"{where}: unknown role {name!r}; known: {', '.join(ROLES_OF_TURNS)}. Say who it is: {_setting(name)} (or {others})"
        )
    return role


def _plain(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def _setting(name: str) -> str:
    """What to type so that ``name`` is the user."""
    if re.fullmatch(r"[A-Za-z_][\w-]*", name, re.ASCII):
        return f"+data.roles.{name}=user"
    escaped = re.sub(r"([^\w-])", r"\\\1", name)
    return f"'+data.roles={{{escaped}: user}}'"
