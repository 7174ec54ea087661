"""Secrets of the environment: refused among settings, hidden in everything that is stored."""

import os
import re
from collections.abc import Iterator, Mapping
from functools import cache

from hydratune.errors import Problem, refuse

_SECRET_NAME = re.compile(
    r"TOKEN(?!IZ)|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|SECRET|PASSWORD|PASSWD|CREDENTIAL|_PWD$"
    r"|(^|_)(PASS|AUTH|DATABASE_URL|DSN|JWT|COOKIE|WEBHOOK|KEY|CONNECTION_STRING)(_|$)",
    re.I,
)
_PASSWORD = re.compile(r"(?<=://)([^\s/:@]*):[^\s/]+(?=@)")  # of a URL
_SECRET_VALUE = re.compile(
    r"\b(hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{30,}"
    r"|github_pat_\w{30,}|glpat-[\w-]{20,}|xox[abprs]-[\w-]{20,}|AIza[\w-]{35}"
    r"|wandb_v\d+_\w{30,}|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,})\b"
)


def secrets() -> dict[str, str]:
    """Return the values of environment variables that are secret by their names: value -> name.

    The path of an existing file is no secret.
    """
    named = {
        value: name for name, value in os.environ.items() if _is_secret(name) and len(value) >= 8
    }
    return {value: name for value, name in named.items() if not ("/" in value and _exists(value))}


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Return ``environment`` without the variables that are, or whose values hold, a secret."""
    return {name: value for name, value in environment.items() if mask(value) == value}


@cache
def _is_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


def _exists(path: str) -> bool:
    # unlike pathlib, os.path accepts any text: a long token would be an error for pathlib
    return os.path.exists(os.path.expanduser(path))  # noqa: PTH110, PTH111


def mask(text: str) -> str:
    """Return ``text`` with every secret of the environment replaced by asterisks."""
    for secret in sorted(secrets(), key=len, reverse=True):
        text = text.replace(secret, "***")
    return _PASSWORD.sub(r"\1:***", _SECRET_VALUE.sub("***", text))


def refuse_secrets(overrides: list[str]) -> None:
    """Raise ``ConfigError`` for secrets on the command line, which is stored as well.

    The message does not show them.
    """
    refuse(p for o in overrides for p in secret_problems(o.split("=", 1)[0], o))


def secret_problems(key: str, value: object) -> Iterator[Problem]:
    """Yield a problem, without the value, for every secret in ``value``, which may be nested.

    Settings are stored and sent to W&B.
    """
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from secret_problems(f"{key}.{name}" if key else str(name), inner)
    elif isinstance(value, list):
        for inner in value:
            yield from secret_problems(key, inner)
    elif isinstance(value, str) and mask(value) != value:
        variables = (name for secret, name in secrets().items() if secret in value)
        name = next(variables, None)
        source = f" (the value of the environment variable {name})" if name else ""
        why = f"this looks like a secret{source}, and settings are stored in the run directory"
        fix = (
            "remove it here and rotate it; keys are read from environment variables such as"
            " WANDB_API_KEY or HF_TOKEN"
        )
        yield Problem(key, "***", why, fix)
