"""Micro-packs of several LoRA trials over one frozen base, computed in one forward and backward.

A short micro-pack costs little more than reading every weight of the base twice, and some thousand
calls from Python. Here the rows of several trials are laid end to end and go through the base
together; only what is a trial's own (A, B, scale, dropout, loss shape) is applied to its stretch of
tokens. Rows never see each other, so every trial has the loss and the gradients of its micro-pack
alone: to the last bit where products are steady (``hydratune.training.products``), else but for
rounding.

A *guest* is one micro-pack in such a pass, the *host* a copy of the base's modules, without any
adapter, on the same weights.
"""

import logging
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from peft.tuners.lora import Linear as PeftLinear
from peft.tuners.tuners_utils import BaseTunerLayer

from hydratune.data.encoding.encoded import Encoded
from hydratune.models.memory_plan import CPU_LOSS_POSITIONS
from hydratune.training.blocks import GatedDown, gated_activation, last_mlps, use_lean_blocks
from hydratune.training.elementwise import Elementwise, using
from hydratune.training.lora import (
    SIBLINGS,
    Frozen,
    LoraFunction,
    Share,
    as_computed,
    frozen,
    is_lean,
    is_still,
    no_autocast,
    pair,
    share_of,
)
from hydratune.training.losses import HeadLoss, LossShape
from hydratune.training.packing import pack
from hydratune.training.products import is_steady

log = logging.getLogger(__name__)
_ROWS = 512  # on which products are tried
Result = tuple[torch.Tensor, Sequence[torch.Tensor]]  # summed loss, and its gradients


@dataclass(frozen=True, eq=False)
class Adapter:
    """All that is trained in a model, and nothing but plain LoRA on dense linears."""

    layers: Mapping[str, PeftLinear]  # by the name of the module in the base model
    parameters: Sequence[torch.nn.Parameter]  # in the order in which gradients are wanted

    @cached_property
    def first(self) -> str:
        """The first layer, by the name of its first sibling: what stands before it is computed as
        in the base model.
        """
        parent, _, leaf = next(iter(self.layers)).rpartition(".")
        return f"{parent}.{next((names[0] for names in SIBLINGS if leaf in names), leaf)}"

    @cached_property
    def order(self) -> dict[int, int]:
        """``id`` of a parameter -> its place among ``parameters``."""
        return {id(p): place for place, p in enumerate(self.parameters)}

    def is_lean(self, autocast: torch.dtype | None) -> bool:
        """Whether all layers are in use, and in the dtypes that ``can_be_lean`` asks for."""
        wanted = autocast or self.parameters[0].dtype
        return all(
            not (m.disable_adapters or m.merged) and m.base_layer.weight.dtype == wanted
            for m in self.layers.values()
        )


def adapter_of(base: torch.nn.Module, parameters: Sequence[torch.nn.Parameter]) -> Adapter | None:
    """What is trained in ``base``, into which PEFT put its layers; None if that is not plain LoRA
    alone.
    """
    found = {
        name: module for name, module in base.named_modules() if isinstance(module, BaseTunerLayer)
    }
    if not found or not all(map(is_lean, found.values())):
        return None
    layers: dict[str, Any] = found
    known = {id(weight) for layer in layers.values() for weight in pair(layer)}
    if known != {id(p) for p in parameters} or any(
        type(layer.base_layer) is not torch.nn.Linear for layer in layers.values()
    ):
        return None
    return Adapter(layers, parameters)


@dataclass(frozen=True, eq=False)
class MergeableBatch:
    """One micro-pack of one trial."""

    adapter: Adapter
    rows: Sequence[Encoded]
    shape: LossShape
    head: torch.Tensor  # (vocabulary, width)
    pieces: Elementwise
    seed: int | None  # of its dropout
    gradients: bool  # or the loss alone
    autocast: torch.dtype | None
    positions: int = CPU_LOSS_POSITIONS  # trained tokens whose logits exist at once

    @property
    def tokens(self) -> int:
        return sum(len(row.ids) - 1 for row in self.rows)

    @property
    def kind(self) -> tuple[object, ...]:
        """Guests of one kind can be in one pass."""
        return (
            self.gradients,
            self.autocast,
            id(self.pieces),
            id(self.head),
            self.adapter.first,
            self.positions,
        )


class MergingPool(Executor):
    """Threads that may compute a guest together with others that wait at the same time, of whatever
    model.
    """

    host: "BaseReplica | None" = None

    def welcomes(self, tokens: int) -> bool:
        """Whether a micro-pack of so many tokens would be computed together with others."""
        return True

    @abstractmethod
    def map_guests(
        self, work: Callable[..., Any], jobs: Sequence[Any], guests: Sequence[MergeableBatch | None]
    ) -> Iterator[Any]:
        """``work`` of every job, as ``map`` does it; where there is a guest, it may be computed by
        ``host`` instead.
        """


@dataclass
class _Stay:
    """A guest during a pass."""

    guest: MergeableBatch
    span: slice  # of all tokens
    read: slice  # of the positions at which the last MLP is computed
    generator: torch.Generator | None
    leaves: list[
        torch.Tensor
    ]  # one for every parameter: two micro-packs of one trial want a gradient each

    def share(self, names: Sequence[str], span: slice) -> tuple[Share, list[torch.Tensor]] | None:
        """What it adds to the linears ``names``; None if it adds nothing."""
        layers = [
            (place, layer)
            for place, name in enumerate(names)
            if (layer := self.guest.adapter.layers.get(name)) is not None
        ]
        if not layers:
            return None
        order = self.guest.adapter.order
        weights = [self.leaves[order[id(weight)]] for _, layer in layers for weight in pair(layer)]
        return share_of(layers, self.generator, span), weights


def _settled(
    guests: Sequence[MergeableBatch], counts: Sequence[int], device: torch.device
) -> list[_Stay]:
    """Where the tokens of every guest are, and the positions that predict something:

    ``counts`` of each.
    """
    stays: list[_Stay] = []
    start = reads = 0
    for guest, count in zip(guests, counts, strict=True):
        span, read = (
            slice(start, start := start + guest.tokens),
            slice(reads, reads := reads + count),
        )
        generator = None if guest.seed is None else torch.Generator(device).manual_seed(guest.seed)
        leaves = [p.detach().requires_grad_(guest.gradients) for p in guest.adapter.parameters]
        stays.append(_Stay(guest, span, read, generator, leaves))
    return stays


@dataclass
class _Pass:
    """What the host's layers need to know of the pass that this thread computes."""

    stays: list[_Stay]
    tokens: int
    # positions at which the last MLP is computed: no other layer reads what it writes
    read: torch.Tensor
    # by group: x, outputs not yet asked for
    held: dict[int, tuple[torch.Tensor, dict[int, torch.Tensor]]] = field(default_factory=dict)

    def outputs(
        self,
        x: torch.Tensor,
        names: Sequence[str],
        linears: Sequence[Frozen],
        *,
        of_last: bool = False,
    ) -> Sequence[torch.Tensor]:
        """Outputs of ``linears`` for one x; ``of_last``: where the last MLP is computed."""
        computed = self._checked(as_computed(x), of_last)
        shares, flat = self._shares(names, of_last)
        with no_autocast(x.device.type):
            results: tuple[torch.Tensor, ...] = LoraFunction.apply(computed, linears, shares, *flat)  # type: ignore[no-untyped-call]
        return results

    def down(
        self,
        gate: torch.Tensor,
        up: torch.Tensor,
        activation: str,
        name: str,
        linear: Frozen,
        *,
        of_last: bool,
    ) -> torch.Tensor:
        shares, flat = self._shares([name], of_last)
        with no_autocast(gate.device.type):
            result: torch.Tensor = GatedDown.apply(
                self._checked(gate, of_last), up, activation, linear, shares, *flat
            )  # type: ignore[no-untyped-call]
        return result

    def _checked(self, x: torch.Tensor, of_last: bool) -> torch.Tensor:
        expected = (1, len(self.read) if of_last else self.tokens)
        if x.shape[:-1] != expected:
            raise RuntimeError(
                f"a layer reads {tuple(x.shape[:-1])} tokens, not {expected}: whose they are cannot"
                " be said"
            )
        return x

    def _shares(
        self, names: Sequence[str], of_last: bool
    ) -> tuple[list[Share], list[torch.Tensor]]:
        found = [
            share
            for stay in self.stays
            if (share := stay.share(names, stay.read if of_last else stay.span)) is not None
        ]
        return [share for share, _ in found], [weight for _, weights in found for weight in weights]


_thread = threading.local()  # .passing: the pass that is computed


def _passing() -> _Pass | None:
    return getattr(_thread, "passing", None)


@dataclass
class _Group:
    """Linears of the host that read the same input: the first one called computes them all."""

    names: list[str]
    linears: list[torch.nn.Linear]

    @cached_property
    def frozen(self) -> list[Frozen]:
        return list(map(frozen, self.linears))

    def output(self, place: int, x: torch.Tensor) -> torch.Tensor:
        passing = _passing()
        if passing is None:
            return torch.nn.Linear.forward(self.linears[place], x)
        read, outputs = passing.held.pop(id(self), (None, {}))
        if read is not x or place not in outputs:
            outputs = dict(enumerate(passing.outputs(x, self.names, self.frozen)))
        mine = outputs.pop(place)
        if outputs:
            passing.held[id(self)] = (x, outputs)
        return mine


@dataclass
class _Mlp:
    """A gated MLP of the host."""

    module: Any
    names: tuple[str, str, str]  # of gate, up, down
    activation: str
    is_last: bool

    def output(self, x: torch.Tensor) -> torch.Tensor:
        passing = _passing()
        if passing is None:
            result: torch.Tensor = type(self.module).forward(self.module, x)
            return result
        read = x[:, passing.read] if self.is_last else x
        gate_proj, up_proj, down_proj = (
            frozen(getattr(self.module, part)) for part in ("gate_proj", "up_proj", "down_proj")
        )
        gate, up = passing.outputs(read, self.names[:2], (gate_proj, up_proj), of_last=self.is_last)
        y = passing.down(gate, up, self.activation, self.names[2], down_proj, of_last=self.is_last)
        return (
            x.new_zeros(x.shape, dtype=y.dtype).index_copy(1, passing.read, y)
            if self.is_last
            else y
        )


class BaseReplica:
    """The base model without any adapter, which computes guests.

    Several threads may do so at the same time.
    """

    def __init__(self, base: Any, *, steadily: bool = False) -> None:
        """``base``: modules that nobody else uses, on the weights that all trials share.
        ``steadily``: serves only where no bit of a guest's numbers depends on its company.
        """
        self._base, self._steadily = base, steadily
        self._linears: dict[str, torch.nn.Linear] | None = None
        self._steady: dict[torch.dtype, bool] = {}
        self._preparing = threading.Lock()

    def takes(self, adapter: Adapter) -> bool:
        """Whether every layer of ``adapter`` stands on a linear of this very base, which is frozen."""  # noqa: E501
        with self._preparing:
            if self._linears is None:  # not before: adding the first adapter froze the base
                # of a job that is just finding out that it runs alone
                if any(p.requires_grad for p in self._base.parameters()):
                    return False
                self._linears = self._prepared(next(iter(adapter.parameters)).device)
        here = self._linears
        return all(
            name in here and layer.base_layer.weight is here[name].weight
            for name, layer in adapter.layers.items()
        )

    def serves(self, autocast: torch.dtype | None) -> bool:
        """Whether guests may be computed in this dtype, or that of the base."""
        if not self._steadily:
            return True
        dtype = autocast or self._base.dtype
        with self._preparing:
            if dtype not in self._steady:
                linears, head = (
                    [m.weight for m in (self._linears or {}).values()],
                    self._base.get_output_embeddings().weight,
                )
                self._steady[dtype] = is_steady(linears, dtype, _ROWS) and is_steady(
                    [head], dtype, CPU_LOSS_POSITIONS, of_head=True
                )
                if not self._steady[dtype]:
                    log.info(
                        "no micro-packs are computed together: in products in %s on this machine,"
                        " rows depend on their company",
                        dtype,
                    )
            return self._steady[dtype]

    def _prepared(self, device: torch.device) -> dict[str, torch.nn.Linear]:
        base = self._base.to(device).eval()
        names = {id(module): name for name, module in base.named_modules()}
        linears = {
            name: m
            for name, m in base.named_modules()
            if is_still(m) and m is not base.get_output_embeddings()
        }
        use_lean_blocks(base)
        last = last_mlps(base)
        left = dict(linears)
        for module in base.modules():
            children = {
                name: child for name, child in module.named_children() if names[id(child)] in left
            }
            if (
                hasattr(module, "gate_proj")
                and (activation := gated_activation(module, is_still)) is not None
            ):
                gate, up, down = (
                    names[id(getattr(module, part))]
                    for part in ("gate_proj", "up_proj", "down_proj")
                )
                module.forward = _Mlp(
                    module, (gate, up, down), activation, id(module) in last
                ).output
                left = {name: m for name, m in left.items() if name not in (gate, up, down)}
                continue
            groups = [
                [children.pop(name) for name in together]
                for together in SIBLINGS
                if all(name in children for name in together)
            ]
            for members in [*groups, *([child] for child in children.values())]:
                group = _Group([names[id(m)] for m in members], members)
                for place, member in enumerate(members):
                    member.forward = partial(group.output, place)
        return linears

    def run(self, guests: Sequence[MergeableBatch]) -> list[Result]:
        """(summed loss, gradients of all parameters in their order) of every guest; all are of one
        kind.
        """
        first = guests[0]
        device = first.head.device
        packed = pack([row for guest in guests for row in guest.rows], device)
        counts = [sum(sum(row.loss_mask[1:]) for row in guest.rows) for guest in guests]
        stays = _settled(guests, counts, device)
        autocast: AbstractContextManager[Any] = nullcontext()
        if first.autocast is not None:
            autocast = torch.autocast(device.type, dtype=first.autocast)
        _thread.passing = _Pass(stays, packed.input_ids.shape[1], packed.predicts)
        try:
            with using(first.pieces), autocast, torch.set_grad_enabled(first.gradients):
                hidden = self._base.base_model(**packed.inputs()).last_hidden_state[0][
                    packed.predicts
                ]
                losses = HeadLoss.apply(
                    hidden,
                    first.head,
                    packed.targets,
                    counts,
                    [guest.shape for guest in guests],
                    first.positions,
                )  # type: ignore[no-untyped-call]
                if not first.gradients:
                    return [(loss, ()) for loss in losses.unbind()]
                leaves = [leaf for stay in stays for leaf in stay.leaves]
                ahead = iter(torch.autograd.grad(losses.sum(), leaves))
                return [
                    (loss, [next(ahead) for _ in stay.leaves])
                    for loss, stay in zip(losses.detach().unbind(), stays, strict=True)
                ]
        finally:
            _thread.passing = None
