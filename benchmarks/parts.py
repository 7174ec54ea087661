"""The parts of hydratune's training step, each of which can be left out to see what it brings.

``PARTS`` names, for each, the settings of ``hydratune train`` or the keyword arguments of ``Objective`` that switch it off.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest.mock import patch


@dataclass(frozen=True)
class Part:
    """How to do without it."""

    overrides: dict[str, Any] = field(default_factory=dict)  # setting -> value
    objective: dict[str, Any] = field(default_factory=dict)  # keyword arguments of Objective
    lean_lora: bool = True  # False: PEFT's own forward


PARTS = {
    "worker threads": Part(overrides={"trainer.cpu_workers": 1}),
    "micro-packs": Part(overrides={"trainer.micro_tokens": 1 << 30}),
    "LoRA function": Part(lean_lora=False),
}


@contextmanager
def without(name: str, config: Any) -> Iterator[None]:
    """hydratune without the part ``name`` during the block; ``config`` is changed in place."""
    from hydratune.models import adapters
    from hydratune.training import fit
    from hydratune.training.objective import Objective

    part = PARTS[name]
    for key, value in part.overrides.items():
        group, _, attribute = key.rpartition(".")
        setattr(getattr(config, group) if group else config, attribute, value)
    lean = adapters.use_lean_forward if part.lean_lora else lambda model: 0
    with patch.object(fit, "Objective", partial(Objective, **part.objective)), patch.object(adapters, "use_lean_forward", lean):
        yield
