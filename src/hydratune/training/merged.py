"""Micro-packs of several LoRA trials over one frozen base, computed in one forward and backward.

A short micro-pack costs little more than reading every weight of the base twice, and some thousand calls from Python. Here
the rows of several trials are laid end to end and go through the base together; only what is a trial's own (A, B, scale,
dropout, loss shape) is applied to its stretch of tokens. Rows never see each other, so every trial has the loss and the
gradients of its micro-pack alone, but for rounding: a product of more rows may add up in another order.

A *guest* is one micro-pack in such a pass, the *host* a copy of the base's modules, without any adapter, on the same weights.
"""

import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear as PeftLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch.autograd.function import once_differentiable

from hydratune.data.masking import Encoded
from hydratune.training.blocks import gated_activation, last_mlps, use_lean_blocks
from hydratune.training.elementwise import Elementwise, pieces_here, using
from hydratune.training.lora import SIBLINGS, as_computed, dropout_mask, frozen, no_autocast, pair
from hydratune.training.losses import CHUNK, LossShape, loss_and_gradient
from hydratune.training.packing import pack
from hydratune.training.products import add_times, exact, times, times_transposed

Result = tuple[torch.Tensor, Sequence[torch.Tensor]]  # summed loss, and its gradients


@dataclass(frozen=True, eq=False)
class Adapter:
    """All that is trained in a model, and nothing but plain LoRA on dense linears."""

    layers: Mapping[str, PeftLinear]  # by the name of the module in the base model
    parameters: Sequence[torch.nn.Parameter]  # in the order in which gradients are wanted

    @cached_property
    def order(self) -> dict[int, int]:
        """``id`` of a parameter -> its place among ``parameters``."""
        return {id(p): place for place, p in enumerate(self.parameters)}

    def is_lean(self, autocast: torch.dtype | None) -> bool:
        """Whether all layers are in use, and in the dtypes that ``can_be_lean`` asks for."""
        wanted = autocast or self.parameters[0].dtype
        return all(not (m.disable_adapters or m.merged) and m.base_layer.weight.dtype == wanted for m in self.layers.values())


def adapter_of(base: torch.nn.Module, parameters: Sequence[torch.nn.Parameter]) -> Adapter | None:
    """What is trained in ``base``, into which PEFT put its layers; None if that is not plain LoRA alone."""
    found = {name: module for name, module in base.named_modules() if isinstance(module, BaseTunerLayer)}
    if not found or not all(hasattr(layer, "hydratune_siblings") for layer in found.values()):
        return None
    layers: dict[str, Any] = found
    known = {id(weight) for layer in layers.values() for weight in pair(layer)}
    if known != {id(p) for p in parameters} or any(type(layer.base_layer) is not torch.nn.Linear for layer in layers.values()):
        return None
    return Adapter(layers, parameters)


@dataclass(frozen=True, eq=False)
class Guest:
    """One micro-pack of one trial."""

    adapter: Adapter
    rows: Sequence[Encoded]
    shape: LossShape
    head: torch.Tensor  # (vocabulary, width)
    pieces: Elementwise
    seed: int | None  # of its dropout
    gradients: bool  # or the loss alone
    autocast: torch.dtype | None

    @property
    def tokens(self) -> int:
        return sum(len(row.ids) - 1 for row in self.rows)

    @property
    def drops(self) -> bool:
        """Whether it draws random numbers."""
        return frozen(next(iter(self.adapter.layers.values()))).dropout > 0

    @property
    def kind(self) -> tuple[object, ...]:
        """Guests of one kind can be in one pass."""
        return self.gradients, self.autocast, id(self.pieces), id(self.head)


class MergingPool(Executor):
    """Threads that may compute a guest together with others that wait at the same time, of whatever model."""

    host: "Host | None" = None

    @abstractmethod
    def map_guests(self, work: Callable[..., Any], jobs: Sequence[Any], guests: Sequence[Guest | None]) -> Iterator[Any]:
        """``work`` of every job, as ``map`` does it; where there is a guest, it may be computed by ``host`` instead."""


# ------------------------------------------------------------------------------------------------- what a guest adds to linears
@dataclass(frozen=True)
class _Share:
    """What one guest adds to linears that read the same input."""

    span: slice  # its tokens
    places: tuple[int, ...]  # which of the linears
    scales: tuple[float, ...]
    dropout: float
    generator: torch.Generator | None


Pairs = Sequence[tuple[torch.Tensor, torch.Tensor]]  # (A, B) of every place of a share


def _low_rank(rows: torch.Tensor, share: _Share, pairs: Pairs) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """x A' of every place, side by side (tokens, sum of ranks), and the dropout masks of x."""
    own, downs = rows[share.span], [a.to(rows.dtype) for a, _ in pairs]
    if not share.dropout:
        return times_transposed(own, torch.cat(downs) if len(downs) > 1 else downs[0]), []
    masks = [dropout_mask(own, share.dropout, share.generator) for _ in pairs]
    keep = 1 / (1 - share.dropout)
    return torch.cat([times_transposed((own * mask).mul_(keep), a) for mask, a in zip(masks, downs, strict=True)], dim=1), masks


def _forward(
    rows: torch.Tensor, linears: Sequence[torch.nn.Linear], shares: Sequence[_Share], pairs: Sequence[Pairs]
) -> tuple[list[torch.Tensor], list[torch.Tensor], list[list[torch.Tensor]]]:
    """(outputs of the linears, x A' of every share, masks of every share) for x (tokens, in)."""
    results = [times_transposed(rows, linear.weight, linear.bias) for linear in linears]
    thins, masks = [], []
    for share, own in zip(shares, pairs, strict=True):
        thin, drawn = _low_rank(rows, share, own)
        for place, scale, (_, b), part in zip(share.places, share.scales, own, thin.split([len(a) for a, _ in own], dim=1), strict=True):
            results[place][share.span].addmm_(part, b.to(rows.dtype).t(), alpha=scale)
        thins.append(thin)
        masks.append(drawn)
    return results, thins, masks


def _outer_gradients(
    outer: Sequence[torch.Tensor | None], shares: Sequence[_Share], pairs: Sequence[Pairs], thins: Sequence[torch.Tensor]
) -> tuple[list[torch.Tensor], list[list[torch.Tensor]]]:
    """(gradients of x A', gradients of B) of every share."""
    d_thins, d_ups = [], []
    for share, own, thin in zip(shares, pairs, thins, strict=True):
        d_thin = torch.zeros_like(thin)
        ups: list[torch.Tensor] = []
        start = 0
        for place, scale, (a, b) in zip(share.places, share.scales, own, strict=True):
            part = slice(start, start := start + len(a))
            dy = outer[place]
            if dy is None:  # this output was not used
                ups.append(torch.zeros_like(b))
                continue
            dy = dy[share.span]
            torch.mul(times(dy, b.to(dy.dtype)), scale, out=d_thin[:, part])
            ups.append(times(thin[:, part].t(), dy).t().mul(scale).to(b.dtype))
        d_thins.append(d_thin)
        d_ups.append(ups)
    return d_thins, d_ups


def _add_to_input(
    d_rows: torch.Tensor,
    shares: Sequence[_Share],
    pairs: Sequence[Pairs],
    masks: Sequence[Sequence[torch.Tensor]],
    d_thins: list[torch.Tensor],
) -> None:
    """Adds to the gradient of x what comes through A."""
    for share, own, drawn, d_thin in zip(shares, pairs, masks, d_thins, strict=True):
        mine, downs = d_rows[share.span], [a.to(d_thin.dtype) for a, _ in own]
        if not drawn:
            mine.addmm_(d_thin, torch.cat(downs) if len(downs) > 1 else downs[0])
            continue
        for part, a, mask in zip(d_thin.split([len(a) for a in downs], dim=1), downs, drawn, strict=True):
            mine.add_((part @ a).mul_(mask), alpha=1 / (1 - share.dropout))


def _inner_gradients(
    rows: torch.Tensor,
    shares: Sequence[_Share],
    pairs: Sequence[Pairs],
    masks: Sequence[Sequence[torch.Tensor]],
    d_thins: list[torch.Tensor],
) -> list[list[torch.Tensor]]:
    """Gradients of A of every share."""
    results = []
    for share, own, drawn, d_thin in zip(shares, pairs, masks, d_thins, strict=True):
        mine, sizes = rows[share.span], [len(a) for a, _ in own]
        if drawn:
            parts = [
                times(part.t(), mine * mask).mul_(1 / (1 - share.dropout))
                for part, mask in zip(d_thin.split(sizes, dim=1), drawn, strict=True)
            ]
        else:
            parts = list(times(d_thin.t(), mine).split(sizes))
        results.append([part.to(a.dtype) for part, (a, _) in zip(parts, own, strict=True)])
    return results


def _paired(shares: Sequence[_Share], flat: Sequence[torch.Tensor]) -> list[Pairs]:
    """A, B, A, B, ... of all places of all shares -> by share."""
    ahead = iter(zip(flat[::2], flat[1::2], strict=True))
    return [[next(ahead) for _ in share.places] for share in shares]


def _flat(d_downs: Sequence[Sequence[torch.Tensor]], d_ups: Sequence[Sequence[torch.Tensor]]) -> Iterator[torch.Tensor]:
    for downs, ups in zip(d_downs, d_ups, strict=True):
        for d_a, d_b in zip(downs, ups, strict=True):
            yield d_a
            yield d_b


def _saved(ctx: Any, first: int) -> tuple[list[torch.Tensor], list[Pairs], list[torch.Tensor], list[list[torch.Tensor]]]:
    """What ``save_for_backward`` was given: ``first`` tensors, the flat pairs, x A' of every share, masks of every share."""
    saved = list(ctx.saved_tensors)
    count = first + 2 * sum(len(share.places) for share in ctx.shares)
    thins, rest = saved[count : count + len(ctx.shares)], iter(saved[count + len(ctx.shares) :])
    masks = [[next(rest) for _ in share.places] if share.dropout else [] for share in ctx.shares]
    return saved[:first], _paired(ctx.shares, saved[first:count]), thins, masks


class MergedLinears(torch.autograd.Function):
    """What ``LoraFunction`` is for one adapter: linears that read the same x (1, tokens, in), with every guest's A and B on its tokens."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, linears: Sequence[torch.nn.Linear], shares: Sequence[_Share], *flat: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        ctx.set_materialize_grads(False)
        rows = x[0]
        results, thins, masks = _forward(rows, linears, shares, _paired(shares, flat))
        ctx.save_for_backward(rows, *flat, *thins, *(mask for drawn in masks for mask in drawn))
        ctx.linears, ctx.shares = linears, shares
        return tuple(y[None] for y in results)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        (rows,), pairs, thins, masks = _saved(ctx, 1)
        outputs = [dy[0] if dy is not None else None for dy in outer]
        d_thins, d_ups = _outer_gradients(outputs, ctx.shares, pairs, thins)
        d_x: torch.Tensor | None = None
        if ctx.needs_input_grad[0]:
            for dy, linear in zip(outputs, ctx.linears, strict=True):
                if dy is not None:
                    d_x = times(dy, linear.weight) if d_x is None else add_times(d_x, dy, linear.weight)
            assert d_x is not None
            _add_to_input(d_x, ctx.shares, pairs, masks, d_thins)
        d_downs = _inner_gradients(rows, ctx.shares, pairs, masks, d_thins)
        return (d_x[None] if d_x is not None else None, None, None, *_flat(d_downs, d_ups))


class MergedDown(torch.autograd.Function):
    """What ``GatedDown`` is for one adapter: the last linear of a gated MLP, which keeps gate and up, not their product."""

    @staticmethod
    def forward(
        ctx: Any,
        gate: torch.Tensor,
        up: torch.Tensor,
        activation: str,
        linear: torch.nn.Linear,
        shares: Sequence[_Share],
        *flat: torch.Tensor,
    ) -> torch.Tensor:
        pieces = pieces_here()
        rows = pieces.gated(gate, up, activation)[0]
        (result,), thins, masks = _forward(rows, [linear], shares, _paired(shares, flat))
        ctx.save_for_backward(gate, up, *flat, *thins, *(mask for drawn in masks for mask in drawn))
        ctx.activation, ctx.linear, ctx.shares, ctx.pieces = activation, linear, shares, pieces
        return result[None]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        (gate, up), pairs, thins, masks = _saved(ctx, 2)
        d_thins, d_ups = _outer_gradients([dy[0]], ctx.shares, pairs, thins)
        d_rows = times(dy[0], ctx.linear.weight)
        _add_to_input(d_rows, ctx.shares, pairs, masks, d_thins)
        rows, d_gate, d_up = ctx.pieces.gated_gradient(d_rows[None], gate, up, ctx.activation)
        return d_gate, d_up, None, None, None, *_flat(_inner_gradients(rows[0], ctx.shares, pairs, masks, d_thins), d_ups)


class MergedHeadLoss(torch.autograd.Function):
    """What ``HeadLoss`` is for one loss shape: the summed loss of every guest (guests,), whose positions follow each other."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, counts: Sequence[int], shapes: Sequence[LossShape]
    ) -> torch.Tensor:
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(hidden) if wanted else None
        losses = torch.empty(len(targets), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
        stretches = _stretches(counts, shapes)
        for start in range(0, len(targets), CHUNK):
            stop = min(start + CHUNK, len(targets))
            logits = exact(times_transposed(hidden[start:stop], weight))
            for first, last, shape in stretches:
                part = slice(max(first, start), min(last, stop))
                if part.start < part.stop:  # its logits become their gradient
                    losses[part], _ = loss_and_gradient(logits[part.start - start : part.stop - start], targets[part], shape, wanted)
            if gradient is not None:
                gradient[start:stop] = times(logits.to(weight.dtype), weight)
        ctx.save_for_backward(gradient)
        ctx.counts = counts
        return torch.stack([part.sum() for part in losses.split(list(counts))])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scales: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None, None]:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        each = scales.to(gradient.dtype).repeat_interleave(torch.tensor(ctx.counts, device=scales.device))
        return gradient * each[:, None], None, None, None, None


def _stretches(counts: Sequence[int], shapes: Sequence[LossShape]) -> list[tuple[int, int, LossShape]]:
    """(first position, the one after the last, shape) where neighbouring guests have one loss shape."""
    found: list[tuple[int, int, LossShape]] = []
    end = 0
    for count, shape in zip(counts, shapes, strict=True):
        start = found.pop()[0] if found and found[-1][2] == shape else end
        end += count
        found.append((start, end, shape))
    return found


# ----------------------------------------------------------------------------------------------------------------- one pass
@dataclass
class _Stay:
    """A guest during a pass."""

    guest: Guest
    span: slice  # of all tokens
    read: slice  # of the positions at which the last MLP is computed
    generator: torch.Generator | None
    leaves: list[torch.Tensor]  # one for every parameter: two micro-packs of one trial want a gradient each

    def share(self, names: Sequence[str], span: slice) -> tuple[_Share, list[torch.Tensor]] | None:
        """What it adds to the linears ``names``; None if it adds nothing."""
        layers = [(place, layer) for place, name in enumerate(names) if (layer := self.guest.adapter.layers.get(name)) is not None]
        if not layers:
            return None
        own = [frozen(layer) for _, layer in layers]
        order = self.guest.adapter.order
        weights = [self.leaves[order[id(weight)]] for _, layer in layers for weight in pair(layer)]
        places, scales = tuple(place for place, _ in layers), tuple(o.scale for o in own)
        return _Share(span, places, scales, own[0].dropout, self.generator), weights


def _settled(guests: Sequence[Guest], predicts: Sequence[torch.Tensor]) -> tuple[list[_Stay], torch.Tensor]:
    """Where the tokens of every guest are, and at which positions the last MLP is computed: those that predict something.

    A guest with dropout has all of its tokens computed, and draws as many numbers as alone.
    """
    stays: list[_Stay] = []
    read: list[torch.Tensor] = []
    start = reads = 0
    for guest, mine in zip(guests, predicts, strict=True):
        span = slice(start, start := start + guest.tokens)
        positions = torch.arange(span.start, span.stop, device=mine.device) if guest.drops else mine
        generator = None if guest.seed is None else torch.Generator(mine.device).manual_seed(guest.seed)
        leaves = [p.detach().requires_grad_(guest.gradients) for p in guest.adapter.parameters]
        stays.append(_Stay(guest, span, slice(reads, reads := reads + len(positions)), generator, leaves))
        read.append(positions)
    return stays, torch.cat(read)


@dataclass
class _Pass:
    """What the host's layers need to know of the pass that this thread computes."""

    stays: list[_Stay]
    tokens: int
    read: torch.Tensor  # positions at which the last MLP is computed: no other layer reads what it writes
    held: dict[int, tuple[torch.Tensor, dict[int, torch.Tensor]]] = field(default_factory=dict)  # by group: x, outputs not yet asked for

    def outputs(
        self, x: torch.Tensor, names: Sequence[str], linears: Sequence[torch.nn.Linear], *, of_last: bool = False
    ) -> Sequence[torch.Tensor]:
        """Outputs of ``linears`` for one x; ``of_last``: where the last MLP is computed."""
        computed = self._checked(as_computed(x), of_last)
        shares, flat = self._shares(names, of_last)
        with no_autocast(x.device.type):
            if not shares:
                return [F.linear(computed, linear.weight, linear.bias) for linear in linears]
            results: tuple[torch.Tensor, ...] = MergedLinears.apply(computed, linears, shares, *flat)  # type: ignore[no-untyped-call]
        return results

    def down(
        self, gate: torch.Tensor, up: torch.Tensor, activation: str, name: str, linear: torch.nn.Linear, *, of_last: bool
    ) -> torch.Tensor:
        shares, flat = self._shares([name], of_last)
        with no_autocast(gate.device.type):
            result: torch.Tensor = MergedDown.apply(self._checked(gate, of_last), up, activation, linear, shares, *flat)  # type: ignore[no-untyped-call]
        return result

    def _checked(self, x: torch.Tensor, of_last: bool) -> torch.Tensor:
        expected = (1, len(self.read) if of_last else self.tokens)
        if x.shape[:-1] != expected:
            raise RuntimeError(f"a layer reads {tuple(x.shape[:-1])} tokens, not {expected}: whose they are cannot be said")
        return x

    def _shares(self, names: Sequence[str], of_last: bool) -> tuple[list[_Share], list[torch.Tensor]]:
        found = [share for stay in self.stays if (share := stay.share(names, stay.read if of_last else stay.span)) is not None]
        return [share for share, _ in found], [weight for _, weights in found for weight in weights]


_thread = threading.local()  # .passing: the pass that is computed


def _passing() -> _Pass | None:
    return getattr(_thread, "passing", None)


@dataclass
class _Group:
    """Linears of the host that read the same input: the first one called computes them all."""

    names: list[str]
    linears: list[torch.nn.Linear]

    def output(self, place: int, x: torch.Tensor) -> torch.Tensor:
        passing = _passing()
        if passing is None:
            return torch.nn.Linear.forward(self.linears[place], x)
        read, outputs = passing.held.pop(id(self), (None, {}))
        if read is not x or place not in outputs:
            outputs = dict(enumerate(passing.outputs(x, self.names, self.linears)))
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
        parts = self.module.gate_proj, self.module.up_proj
        gate, up = passing.outputs(read, self.names[:2], parts, of_last=self.is_last)
        y = passing.down(gate, up, self.activation, self.names[2], self.module.down_proj, of_last=self.is_last)
        return x.new_zeros(x.shape, dtype=y.dtype).index_copy(1, passing.read, y) if self.is_last else y


class Host:
    """The base model without any adapter, which computes guests. Several threads may do so at the same time."""

    def __init__(self, base: Any) -> None:
        """``base``: modules that nobody else uses, on the weights that all trials share."""
        self._base = base
        self._linears: dict[str, torch.nn.Linear] | None = None
        self._preparing = threading.Lock()

    def takes(self, adapter: Adapter) -> bool:
        """Whether every layer of ``adapter`` stands on a linear of this very base, which is frozen."""
        with self._preparing:
            if self._linears is None:  # not before: adding the first adapter froze the base
                self._linears = self._prepared(next(iter(adapter.parameters)).device)
        here = self._linears
        return all(name in here and layer.base_layer.weight is here[name].weight for name, layer in adapter.layers.items())

    def _prepared(self, device: torch.device) -> dict[str, torch.nn.Linear]:
        base = self._base.to(device).eval()
        if any(p.requires_grad for p in base.parameters()):
            return {}
        names = {id(module): name for name, module in base.named_modules()}
        linears = {name: m for name, m in base.named_modules() if _is_dense(m) and m is not base.get_output_embeddings()}
        use_lean_blocks(base)
        last = last_mlps(base)
        left = dict(linears)
        for module in base.modules():
            children = {name: child for name, child in module.named_children() if names[id(child)] in left}
            if hasattr(module, "gate_proj") and (activation := gated_activation(module, _is_dense)) is not None:
                gate, up, down = (names[id(getattr(module, part))] for part in ("gate_proj", "up_proj", "down_proj"))
                module.forward = _Mlp(module, (gate, up, down), activation, id(module) in last).output
                left = {name: m for name, m in left.items() if name not in (gate, up, down)}
                continue
            groups = [[children.pop(name) for name in together] for together in SIBLINGS if all(name in children for name in together)]
            for members in [*groups, *([child] for child in children.values())]:
                group = _Group([names[id(m)] for m in members], members)
                for place, member in enumerate(members):
                    member.forward = partial(group.output, place)
        return linears

    def run(self, guests: Sequence[Guest]) -> list[Result]:
        """(summed loss, gradients of all parameters in their order) of every guest; all are of one kind."""
        first = guests[0]
        device = first.head.device
        packed = pack([row for guest in guests for row in guest.rows], device)
        counts = [sum(sum(row.trained[1:]) for row in guest.rows) for guest in guests]
        stays, read = _settled(guests, packed.predicts.split(counts))
        autocast: AbstractContextManager[Any] = nullcontext()
        if first.autocast is not None:
            autocast = torch.autocast(device.type, dtype=first.autocast)
        _thread.passing = _Pass(stays, packed.input_ids.shape[1], read)
        try:
            with using(first.pieces), autocast, torch.set_grad_enabled(first.gradients):
                hidden = self._base.base_model(**packed.inputs()).last_hidden_state[0][packed.predicts]
                losses = MergedHeadLoss.apply(hidden, first.head, packed.targets, counts, [guest.shape for guest in guests])  # type: ignore[no-untyped-call]
                if not first.gradients:
                    return [(loss, ()) for loss in losses.unbind()]
                leaves = [leaf for stay in stays for leaf in stay.leaves]
                ahead = iter(torch.autograd.grad(losses.sum(), leaves))
                return [(loss, [next(ahead) for _ in stay.leaves]) for loss, stay in zip(losses.detach().unbind(), stays, strict=True)]
        finally:
            _thread.passing = None


def _is_dense(module: Any) -> bool:
    return type(module) is torch.nn.Linear and "forward" not in vars(module) and torch.is_floating_point(module.weight)
