"""What a run was made with: versions, code and the git commit, for environment.json."""

import functools
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hydratune.data.rows import stable_hash

PACKAGES = (
    "hydratune",
    "torch",
    "transformers",
    "peft",
    "lightning",
    "hydra-core",
    "omegaconf",
    "bitsandbytes",
    "datasets",
    "wandb",
)
_TRAINING_CODE = ("data", "models", "adapters", "training")  # packages that decide what is trained
_GIT_TIMEOUT = 10  # seconds


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that can change a result."""
    installed = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        installed[name] = _version(name)
    return installed


@functools.cache
def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


@functools.cache
def code_hash() -> str:
    """Return the hash of hydratune's own source, as far as it decides what is trained."""
    root = Path(__file__).parents[1]
    files = sorted(file for name in _TRAINING_CODE for file in (root / name).rglob("*.py"))
    texts = [[file.relative_to(root).as_posix(), file.read_text("utf-8")] for file in files]
    return stable_hash(texts)


def changes(before: Mapping[str, Any], now: Mapping[str, Any] | None = None) -> list[str]:
    """Return in words what differs from ``before``, the content of an environment.json.

    ``now``: the present versions and code, if they are known already.
    """
    now = now or {"versions": versions(), "code": code_hash()}
    old, new = before.get("versions", {}), now["versions"]
    changed = [
        f"{name} {old.get(name)} became {new[name]}"
        for name in new
        if name in old and old[name] != new[name]
    ]
    if before.get("code", now["code"]) != now["code"]:
        changed.append("the code of hydratune changed")
    return changed


def git_commit(folder: Path) -> dict[str, str | bool]:
    """Return the commit of the repository around ``folder`` and whether it has local changes.

    Empty outside a repository.
    """
    try:
        head = _git(folder, "rev-parse", "HEAD")
        if head.returncode:
            return {}
        modified = _git(folder, "status", "--porcelain", "-uno")
        return {"commit": head.stdout.strip(), "dirty": bool(modified.stdout.strip())}
    except (OSError, subprocess.TimeoutExpired):
        return {}


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=_GIT_TIMEOUT,
        check=False,
    )
