"""Config-driven fine-tuning experiments: reproducible, cheap, tracked.

From Python: ``compose``, ``train``, ``sweep``, ``Run``, ``load_runs`` and ``compare`` do what the
commands do; ``config`` and ``extensions`` are modules. Each is imported when it is first used.
"""

import importlib
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hydratune import config, extensions
    from hydratune.api import Comparison, Run, Sweep, compare, compose, load_runs, sweep, train

__version__ = "0.1.0"
__all__ = [
    "Comparison",
    "Run",
    "Sweep",
    "compare",
    "compose",
    "config",
    "extensions",
    "load_runs",
    "sweep",
    "train",
]

_MODULES = ("config", "extensions")

# On a CPU it recommends a kernel package that the default needs nothing of, wherever PEFT is
# imported.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: it takes half a second."""
    if name not in __all__:
        raise AttributeError(f"module 'hydratune' has no attribute {name!r}")
    if name in _MODULES:
        return importlib.import_module(f"hydratune.{name}")
    return getattr(importlib.import_module("hydratune.api"), name)


def __dir__() -> list[str]:
    """Return the public names, without the modules that were imported so far."""
    dunders = (name for name in globals() if name.startswith("__"))
    return sorted({*dunders, *__all__})
