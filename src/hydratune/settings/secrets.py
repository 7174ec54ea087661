"""Secrets of the environment: refused among settings, hidden in whatever is stored."""

import os
import re
from collections.abc import Iterator
from typing import Any

from hydratune.errors import ConfigError, Problem

_SECRET_NAME = re.compile(
    r"TOKEN(?!IZ)|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|SECRET|PASSWORD|PASSWD|CREDENTIAL|_PWD$|(^|_)(PASS|AUTH|DATABASE_URL|DSN)(_|$)",
    re.I,
)


_PASSWORD = re.compile(r"(?<=://)([^\s/:@]*):[^\s/@]+(?=@)")  # of a URL


_SECRET_VALUE = re.compile(
    r"\b(hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{30,})\b"
)


def secrets() -> dict[str, str]:
    """Environment variables whose name says that they are secret: value -> name.

    The path of a file is no secret.
    """
    named = {
        value: name
        for name, value in os.environ.items()
        if _SECRET_NAME.search(name) and len(value) >= 8
    }
    return {value: name for value, name in named.items() if not ("/" in value and _exists(value))}


def _exists(path: str) -> bool:
    """Never raises: a long token is no possible path, to which pathlib objects."""
    return os.path.exists(os.path.expanduser(path))  # noqa: PTH110, PTH111


def mask(text: str) -> str:
    """``text`` without any secret of the environment."""
    for secret in sorted(secrets(), key=len, reverse=True):
        text = text.replace(secret, "***")
    return _PASSWORD.sub(r"\1:***", _SECRET_VALUE.sub("***", text))


def refuse_secrets(overrides: list[str]) -> None:
    """The command line is stored as well. Raises ``ConfigError`` without showing the value."""
    problems = [p for o in overrides for p in secret_problems(o.split("=", 1)[0], o)]
    if problems:
        raise ConfigError(problems)


def secret_problems(key: str, value: Any) -> Iterator[Problem]:
    """Settings are stored and sent to W&B, so a secret among them is refused, unshown."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from secret_problems(f"{key}.{name}" if key else str(name), inner)
    elif isinstance(value, list):
        for inner in value:
            yield from secret_problems(key, inner)
    elif isinstance(value, str) and mask(value) != value:
        fix = (
            "remove it here and rotate it; keys are read from environment variables such as"
            " WANDB_API_KEY or HF_TOKEN"
        )
        named = next(
            (
                f" (the value of the environment variable {name})"
                for secret, name in secrets().items()
                if secret in value
            ),
            "",
        )
        yield Problem(
            key,
            "***",
            f"this looks like a secret{named}, and settings are stored in the run directory",
            fix,
        )
