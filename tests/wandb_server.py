"""A W&B server on this machine for tests: the stand-in of the shared tools, where it is there."""

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).parents[2] / "shared" / "tools" / "wandb_standin.py"
needs_server = pytest.mark.skipif(not FILE.is_file(), reason="../shared/tools is not there")


def load_server() -> ModuleType:
    """Return the module of the stand-in, whose class ``StandIn`` is a server."""
    spec = importlib.util.spec_from_file_location("wandb_standin", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def client_environment(**more: str) -> dict[str, str]:
    """Return the environment of a process that has a client of its own, with ``more`` set."""
    return {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")} | more
