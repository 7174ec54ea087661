"""How rows are laid end to end in a model, and how it reads prompts.

There are four ways, the fastest first (``Level``); what remains is the padded batch. Which of them
a model takes is found by a trial before it is used (``packing_trial.py``).
"""

from dataclasses import dataclass
from enum import StrEnum

import torch
from transformers import PreTrainedModel

from hydratune.models.attention import shares_prefix_by_config, supports_packing


class Level(StrEnum):
    """Which modules see the borders of rows laid end to end."""

    attention = "attention"  # our attention function; nothing else mixes tokens
    hybrid = "hybrid"  # our attention function, and all other modules that mix tokens, row by row
    mixers = "mixers"  # all modules that mix tokens, row by row
    layers = "layers"  # whole decoder layers, row by row
    padded = "padded"  # rows are padded


class Reading(StrEnum):
    """How prompts are read, and tokens after them, in generation."""

    batches = "batches"  # padded on the left, with a cache
    rows = "rows"  # one row at a time, with a cache
    whole_rows = "whole_rows"  # one row at a time, all of it again for every token


@dataclass(frozen=True)
class RowPacking:
    """How a model computes several rows."""

    level: Level
    reason: str | None = None  # why they are padded
    # the row lengths reach the modules as an argument; else by ``row_mixers.rows_end_to_end``
    by_argument: bool = True
    shares_prefix: bool = False  # one copy of a common beginning can serve all rows
    reads_cache: bool = False  # so can the keys and values of a cache, for generation
    reading: Reading = Reading.batches
    # the last layer is called once, so only the positions that are read need be computed in it
    ends_once: bool = True
    # a pass can begin with the hidden states that enter a layer, without the layers below
    enters_anywhere: bool = True

    @property
    def row_by_row(self) -> bool:
        """Whether some modules are called once for every row."""
        return self.level in (Level.hybrid, Level.mixers, Level.layers)


OUR_ATTENTION = RowPacking(Level.attention)


def row_packing(model: PreTrainedModel) -> RowPacking:
    """Return what ``choose`` chose for ``model``; without it, what its config says."""
    chosen = vars(model).get("hydratune_packing")
    if isinstance(chosen, RowPacking):
        return chosen
    reason = supports_packing(model)
    if reason is not None:
        return RowPacking(Level.padded, reason)
    return RowPacking(Level.attention, shares_prefix=True, reads_cache=True)


def can_share_prefix(model: PreTrainedModel) -> bool:
    """Return whether one copy of a common beginning can serve all rows of a training step."""
    return shares_prefix_by_config(model) and row_packing(model).shares_prefix


def can_share_cache(model: PreTrainedModel) -> bool:
    """Return whether the keys and values of a cache can serve all rows that continue it."""
    return shares_prefix_by_config(model) and row_packing(model).reads_cache


def packed_inputs(
    input_ids: torch.Tensor,
    position_ids: torch.Tensor,
    lengths: tuple[int, ...],
    packing: RowPacking,
) -> dict[str, object]:
    """Return the arguments of a model's forward for rows laid end to end, (1, tokens) each.

    Our attention needs no mask: a 4-D mask is handed through to it untouched, and it ignores it.
    Other modules get what the model makes of a mask without padding.
    """
    mask = torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=input_ids.device)
    if packing.row_by_row:
        mask = torch.ones_like(input_ids)
    inputs: dict[str, object] = {
        "input_ids": input_ids,
        "position_ids": position_ids,
        "attention_mask": mask,
    }
    if packing.by_argument:
        inputs["row_lengths"] = lengths
    return {**inputs, "use_cache": False}
