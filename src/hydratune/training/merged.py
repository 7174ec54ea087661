"""Micro-packs of several LoRA trials over one frozen base, computed in one forward and backward.

A short micro-pack costs little more than reading every weight of the base twice, and some thousand
calls from Python. Here the rows of several trials are laid end to end and go through the base
together; only what belongs to one trial (A, B, scale, dropout, loss options) is applied to its
tokens alone. Rows never attend to each other, so every trial has the loss and the gradients that
its micro-pack has alone: to the last bit where a row of a product does not depend on the other rows
(``hydratune.training.products``), else up to rounding.
"""

import logging
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from hydratune.models.memory_plan import CPU_LOSS_POSITIONS
from hydratune.training.arithmetic import Arithmetic
from hydratune.training.lean_linears import is_lean
from hydratune.training.lora_layers import LinearLayer, factors_of
from hydratune.training.losses import head_loss
from hydratune.training.mergeable import MergeableBatch, Result, TrialAdapter
from hydratune.training.merged_pass import MergedPass, trials_of
from hydratune.training.packing import pack_rows
from hydratune.training.patches import ModelPatches
from hydratune.training.products import is_row_invariant
from hydratune.training.step import StepContext, computing

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)
_ROWS = 512  # on which products are tried


def trial_adapter(
    base: torch.nn.Module, parameters: Sequence[torch.nn.Parameter]
) -> TrialAdapter | None:
    """Return what is trained in ``base``, into which PEFT put its layers; None if that is not plain
    LoRA on dense linear layers alone.
    """
    layers: dict[str, LinearLayer] = {
        name: module for name, module in base.named_modules() if isinstance(module, BaseTunerLayer)
    }
    if not layers or not all(map(is_lean, layers.values())):
        return None
    weights = {id(weight) for layer in layers.values() for weight in factors_of(layer)}
    if weights != {id(p) for p in parameters} or any(
        type(layer.base_layer) is not torch.nn.Linear for layer in layers.values()
    ):
        return None
    return TrialAdapter(layers, parameters)


class BaseReplica:
    """A copy of the base model's modules without any adapter, on the same weights.

    It computes micro-packs of several trials in one pass. Several threads may use it at the same
    time.
    """

    def __init__(self, base: "PreTrainedModel", *, row_invariant: bool = False) -> None:
        """``base``: modules that are used for nothing else, on the weights that all trials share.
        ``row_invariant``: passes are merged only where no bit of a trial's numbers depends on the
        others.
        """
        self._base, self._row_invariant = base, row_invariant
        self._linears: dict[str, torch.nn.Linear] | None = None
        self._invariant: dict[torch.dtype, bool] = {}
        self._preparing = threading.Lock()

    def accepts(self, adapter: TrialAdapter) -> bool:
        """Return whether every layer of ``adapter`` is on a linear layer of this very base, which
        is frozen.
        """
        with self._preparing:
            if self._linears is None:  # not before: adding the first adapter froze the base
                # the base of a job that is about to find out that it cannot share a pack
                if any(p.requires_grad for p in self._base.parameters()):
                    return False
                self._base.to(next(iter(adapter.parameters)).device).eval()
                self._linears = ModelPatches(self._base).use_merged_passes()
        linears = self._linears
        return all(
            name in linears and layer.base_layer.weight is linears[name].weight
            for name, layer in adapter.layers.items()
        )

    def supports(self, autocast: torch.dtype | None) -> bool:
        """Return whether passes may be merged in this dtype, or that of the base."""
        if not self._row_invariant:
            return True
        dtype = autocast or self._base.dtype
        with self._preparing:
            if dtype not in self._invariant:
                self._invariant[dtype] = self._is_row_invariant(dtype)
            return self._invariant[dtype]

    def _is_row_invariant(self, dtype: torch.dtype) -> bool:
        linears = [m.weight for m in (self._linears or {}).values()]
        head = self._base.get_output_embeddings().weight
        invariant = is_row_invariant(linears, dtype, _ROWS) and is_row_invariant(
            [head], dtype, CPU_LOSS_POSITIONS, of_head=True
        )
        if not invariant:
            log.info(
                "no micro-packs are computed together: in products in %s on this machine, the last"
                " digits of a row depend on the other rows",
                dtype,
            )
        return invariant

    def run(self, batches: Sequence[MergeableBatch]) -> list[Result]:
        """Return (summed loss, gradients of all parameters in their order) of every micro-pack; all
        are of one kind.
        """
        first = batches[0]
        device = first.head.device
        packed = pack_rows([row for batch in batches for row in batch.rows], device)
        counts = [sum(sum(row.loss_mask[1:]) for row in batch.rows) for batch in batches]
        trials = trials_of(batches, counts, device)
        arithmetic = Arithmetic(first.elementwise)
        merged = MergedPass(trials, packed.input_ids.shape[1], packed.predicts, arithmetic)
        autocast = (
            torch.autocast(device.type, dtype=first.autocast)
            if first.autocast is not None
            else nullcontext()
        )
        with autocast, torch.set_grad_enabled(first.gradients):
            with computing(StepContext(arithmetic=arithmetic, merged=merged)):
                states = self._base.base_model(**packed.inputs()).last_hidden_state[0]
            losses = head_loss(
                states[packed.predicts],
                first.head,
                packed.targets,
                counts,
                [batch.loss_options for batch in batches],
                first.positions,
            )
            if not first.gradients:
                return [(loss, ()) for loss in losses.unbind()]
            leaves = [leaf for trial in trials for leaf in trial.leaves]
            gradients = torch.autograd.grad(losses.sum(), leaves, allow_unused=True)
            filled = [
                torch.zeros_like(leaf) if g is None else g
                for g, leaf in zip(gradients, leaves, strict=True)
            ]
            remaining = iter(filled)
            return [
                (loss, [next(remaining) for _ in trial.leaves])
                for loss, trial in zip(losses.detach().unbind(), trials, strict=True)
            ]
