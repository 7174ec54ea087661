"""What a run was made with: versions, code, hardware. For environment.json."""

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


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide a result."""
    found = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


@functools.cache
def code_hash() -> str:
    """Of hydratune's own source, as far as it decides what is trained."""
    root = Path(__file__).parents[1]
    files = sorted(
        path for name in ("data", "models", "training") for path in (root / name).glob("*.py")
    )
    return stable_hash([[path.name, path.read_text("utf-8")] for path in files])


def changes(before: Mapping[str, Any], now: Mapping[str, Any] | None = None) -> list[str]:
    """In words, what is not as it was when ``before`` (the content of an environment.json) was
    written.
    """
    now = now or {"versions": versions(), "code": code_hash()}
    old, new = before.get("versions", {}), now["versions"]
    found = [
        f"{name} {old.get(name)} became {new[name]}"
        for name in new
        if name in old and old[name] != new[name]
    ]
    if before.get("code", now["code"]) != now["code"]:
        found.append("the code of hydratune changed")
    return found


def git_commit(folder: Path) -> dict[str, Any]:
    """Commit of the repository around ``folder`` and whether it has changes; empty outside a
    repository.
    """
    try:
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
        if head.returncode:
            return {}
        changes = subprocess.run(
            ["git", "status", "--porcelain", "-uno"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
        return {"commit": head.stdout.strip(), "dirty": bool(changes.stdout.strip())}
    except (OSError, subprocess.TimeoutExpired):
        return {}
