"""The parts of hydratune's training step, each of which can be left out to see what it brings."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from hydratune.models.row_packing import Level, RowPacking


@dataclass(frozen=True)
class Part:
    """How to do without it."""

    # setting of ``hydratune train`` -> value
    overrides: dict[str, Any] = field(default_factory=dict)
    # name in the package -> what stands there instead
    replaced: dict[str, Any] = field(default_factory=dict)


def _nothing(model: Any) -> Any:
    """Leaves the model as it is."""
    return None


def _padded(model: Any) -> RowPacking:
    """Has rows padded."""
    return RowPacking(Level.padded, "left out")


PARTS = {
    "shared prefix": Part(overrides={"trainer.share_prefix": False}),
    "worker threads": Part(overrides={"trainer.cpu_workers": 1}),
    "micro-packs": Part(overrides={"trainer.micro_tokens": 1 << 30}),
    "LoRA function, norms and MLPs": Part(
        replaced={
            "hydratune.training.patches.ModelPatches.use_lean_layers": _nothing,
        }
    ),
    "norms and MLPs": Part(
        replaced={"hydratune.training.patches.ModelPatches.use_lean_blocks": _nothing}
    ),
    "head loss without logits": Part(
        replaced={"hydratune.training.micro_pack_loss.plain_head": _nothing}
    ),
    "packing (rows are padded)": Part(
        replaced={"hydratune.training.micro_pack_loss.row_packing": _padded}
    ),
}


@contextmanager
def without(name: str, config: Any) -> Iterator[None]:
    """hydratune without the part ``name`` during the block; ``config`` is changed in place."""
    part = PARTS[name]
    for key, value in part.overrides.items():
        group, _, attribute = key.rpartition(".")
        setattr(getattr(config, group) if group else config, attribute, value)
    with ExitStack() as stack:
        for target, value in part.replaced.items():
            stack.enter_context(patch(target, value))
        yield
