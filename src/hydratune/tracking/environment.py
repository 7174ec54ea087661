"""What a run was made with: versions, code, hardware. For environment.json."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("hydratune", "torch", "transformers", "peft", "lightning", "hydra-core", "omegaconf", "bitsandbytes", "datasets", "wandb")


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide a result."""
    found = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def git_commit(folder: Path) -> dict[str, Any]:
    """Commit of the repository around ``folder`` and whether it has changes; empty outside a repository."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, timeout=10, check=False)
        if head.returncode:
            return {}
        changes = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=folder, capture_output=True, text=True, timeout=10, check=False
        )
        return {"commit": head.stdout.strip(), "dirty": bool(changes.stdout.strip())}
    except (OSError, subprocess.TimeoutExpired):
        return {}
