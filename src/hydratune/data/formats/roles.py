"""Map the names that data sets give to speakers to the roles of chat templates."""

import functools
import re
import shlex
from collections.abc import Mapping, Sequence

from hydratune.errors import DataError

CALL = "function_call"  # a turn that is nothing but the assistant's call of a tool
_RESULTS = ("response", "responses", "result", "results", "output", "outputs")
_ASSISTANTS = "assistant model bot chatbot ai llm gpt gpt4 gpt_4 chatgpt bing bard claude gemini"
_NAMES = {
    "system": ("system", "developer"),  # OpenAI's name since the o1 models
    "user": ("user", "human", "prompter"),
    "assistant": tuple(_ASSISTANTS.split()),
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
# versions of models, such as gpt-4o
_MODELS = re.compile(
    r"(gpt|chatgpt|claude|gemini|gemma|llama|mistral|mixtral|qwen|deepseek|phi)_?\d\w*"
    r"|(claude|gemini)_\w+"
)
ROLES_OF_TURNS = tuple(_NAMES)  # what data.roles may name

# data.roles: name -> role, or role -> a list of names
RoleMapping = Mapping[str, str | Sequence[str]]


def role_of(speaker: object, mapping: RoleMapping, where: str) -> str:
    """Return the role of a speaker. Raises ``DataError`` for an unknown name.

    ``mapping`` (data.roles) is looked at first. Its lists of names may hold any text; in its keys,
    "_" stands for spaces and punctuation ("Mr. X" is ``mr_x``).
    """
    name = str(speaker)
    if name == "text":  # a document; whether it stands alone is checked later
        return name
    plain = _plain(name)
    role = _names_of_mapping(mapping).get(plain) or _known_role(plain)
    if role is None:
        others = ", ".join(r for r in ROLES_OF_TURNS if r != "user")
        setting = _setting(name)
        is_list = '"]' in setting
        raise DataError(
            f"{where}: unknown role {name!r}; known: {', '.join(ROLES_OF_TURNS)}. Say who it is:"
            f" {setting} (or, in place of user: {others})"
            + ("; several names of one role stand in one list" if is_list else "")
        )
    return role


def is_known(speaker: object, mapping: RoleMapping) -> bool:
    """Return whether the role of a speaker is known."""
    if not isinstance(speaker, str):
        return False
    plain = _plain(speaker)
    return _known_role(plain) is not None or plain in _names_of_mapping(mapping)


def _known_role(plain: str) -> str | None:
    return _ROLES.get(plain) or ("assistant" if _MODELS.fullmatch(plain) else None)


def _names_of_mapping(mapping: RoleMapping) -> dict[str, str]:
    """Return name -> role from both forms that data.roles may have."""
    roles = {}
    for key, value in mapping.items():
        if isinstance(value, str) and value in _NAMES:
            roles[_plain(key)] = value
        else:
            names = [value] if isinstance(value, str) else value
            roles |= {_plain(str(name)): key for name in names}
    return roles


@functools.cache
def _plain(name: str) -> str:
    name = name.strip().lower()
    return re.sub(r"\W+", "_", name).strip("_") or name


def _setting(name: str) -> str:
    """Return what to type so that ``name`` is the user."""
    for key in (name, _plain(name)):
        if re.fullmatch(r"[A-Za-z_][\w-]*", key, re.ASCII) and key not in _NAMES:
            return f"data.roles.{key}=user"
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    return shlex.quote(f'data.roles.user=["{quoted}"]')
