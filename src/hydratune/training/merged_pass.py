"""One forward pass that several trials share: whose rows are where, and what each adds to them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from hydratune.training.arithmetic import Arithmetic
from hydratune.training.block_functions import gated_down
from hydratune.training.lora_layers import as_computed, factors_of, no_autocast, share_of
from hydratune.training.low_rank import FrozenLinear, LoraShare, apply_lora
from hydratune.training.mergeable import MergeableBatch


@dataclass
class MergedTrial:
    """One trial's micro-pack during a merged pass."""

    batch: MergeableBatch
    span: slice  # its tokens among all tokens of the pass
    read: slice  # its positions among those at which the last MLP is computed
    generator: torch.Generator | None  # of dropout
    # one for every parameter: two micro-packs of one trial have separate gradients
    leaves: list[torch.Tensor]

    def share(
        self, names: Sequence[str], span: slice
    ) -> tuple[LoraShare, list[torch.Tensor]] | None:
        """Return what the trial adds to the linear layers ``names``, and its weights; None if it
        adds nothing.
        """
        adapter = self.batch.adapter
        layers = [
            (place, layer)
            for place, name in enumerate(names)
            if (layer := adapter.layers.get(name)) is not None
        ]
        if not layers:
            return None
        weights = [
            self.leaves[adapter.order[id(weight)]]
            for _, layer in layers
            for weight in factors_of(layer)
        ]
        return share_of(layers, self.generator, span), weights


def trials_of(
    batches: Sequence[MergeableBatch], counts: Sequence[int], device: torch.device
) -> list[MergedTrial]:
    """Lay out the tokens of ``batches`` end to end; ``counts`` are their trained tokens."""
    trials: list[MergedTrial] = []
    start = reads = 0
    for batch, count in zip(batches, counts, strict=True):
        span = slice(start, start := start + batch.tokens)
        read = slice(reads, reads := reads + count)
        generator = None if batch.seed is None else torch.Generator(device).manual_seed(batch.seed)
        leaves = [p.detach().requires_grad_(batch.gradients) for p in batch.adapter.parameters]
        trials.append(MergedTrial(batch, span, read, generator, leaves))
    return trials


@dataclass
class MergedPass:
    """What the layers of the base model need to know of a pass that several trials share."""

    trials: list[MergedTrial]
    tokens: int
    # positions at which the last MLP is computed: no other layer reads what it writes
    read: torch.Tensor
    arithmetic: Arithmetic
    # by group of linear layers: x, and the outputs that were computed for other layers of the group
    held: dict[int, tuple[torch.Tensor, dict[int, torch.Tensor]]] = field(default_factory=dict)

    def outputs(
        self,
        x: torch.Tensor,
        names: Sequence[str],
        linears: Sequence[FrozenLinear],
        *,
        of_last: bool = False,
    ) -> Sequence[torch.Tensor]:
        """Return the outputs of ``linears``, called ``names``, for one x.

        ``of_last``: x is read by the last MLP, at the positions ``read`` alone.
        """
        computed = self._checked(as_computed(x), of_last)
        shares, flat = self._shares(names, of_last)
        with no_autocast(x.device.type):
            return apply_lora(computed, linears, shares, flat, self.arithmetic)

    def down(
        self,
        gate: torch.Tensor,
        up: torch.Tensor,
        activation: str,
        name: str,
        linear: FrozenLinear,
        *,
        of_last: bool,
    ) -> torch.Tensor:
        """Return the output of a gated MLP whose last linear layer is called ``name``."""
        shares, flat = self._shares([name], of_last)
        with no_autocast(gate.device.type):
            gate = self._checked(gate, of_last)
            return gated_down(gate, up, activation, linear, shares, flat, self.arithmetic)

    def _checked(self, x: torch.Tensor, of_last: bool) -> torch.Tensor:
        expected = (1, len(self.read) if of_last else self.tokens)
        if x.shape[:-1] != expected:
            raise RuntimeError(
                f"a layer reads {tuple(x.shape[:-1])} tokens, not {expected}: it is unknown which"
                " trial they belong to"
            )
        return x

    def _shares(
        self, names: Sequence[str], of_last: bool
    ) -> tuple[list[LoraShare], list[torch.Tensor]]:
        """Return the shares of all trials that add to the linear layers ``names``, and their
        weights.
        """
        shares: list[LoraShare] = []
        flat: list[torch.Tensor] = []
        for trial in self.trials:
            added = trial.share(names, trial.read if of_last else trial.span)
            if added is not None:
                shares.append(added[0])
                flat += added[1]
        return shares, flat
