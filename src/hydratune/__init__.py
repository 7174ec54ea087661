"""Config-driven fine-tuning experiments: reproducible, cheap, tracked."""

import importlib
import logging
from types import ModuleType

__version__ = "0.1.0"

# On a CPU it recommends a kernel package that the default needs nothing of, wherever PEFT is
# imported.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def __getattr__(name: str) -> ModuleType:
    """Import ``hydratune.config`` when it is first used: it takes half a second."""
    if name == "config":
        return importlib.import_module("hydratune.config")
    raise AttributeError(f"module 'hydratune' has no attribute {name!r}")
