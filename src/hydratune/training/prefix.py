"""A prefix that several rows share: computed once, read by many micro-packs, its gradients
collected from all of them.

The prefix is laid before the rows of the first micro-pack of its group. Every other micro-pack
reads the keys and values of its layers, cut off from its graph, and runs its own backward pass down
to them; the first micro-pack then goes backward with their sum. Layer by layer: a micro-pack may
read layer 3 while the first is at layer 4, and the first may go back through layer 9 while the last
micro-pack is at layer 8. So nobody waits long, and the sums run in a fixed order all the same. That
needs a backward pass to be able to wait for another one: on a GPU, where all of them run in one
thread, the first micro-pack goes backward only once every gradient is there
(``wait_for_gradients``).

Gradients are delivered and summed in fp32, whatever keys and values are stored in.
"""

import threading
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from hydratune.training.products import exact

Pair = tuple[
    torch.Tensor, torch.Tensor
]  # keys and values of one layer, (1, key heads, prefix, width)


class Prefix:
    """Keys and values of every layer, as they become known; and their gradients, as the other
    micro-packs deliver them.
    """

    def __init__(self, packs: int) -> None:
        self._packs = packs  # that read it, and deliver
        self._news = threading.Condition()
        self._pairs: dict[int, Pair] = {}  # by number of layer
        self._gradients: dict[
            int, list[dict[int, torch.Tensor]]
        ] = {}  # by layer, for key and value: by pack
        self._failed = False

    # ----------------------------------------------------------------- the micro-pack that holds it
    def record(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> Pair:
        """Called by the attention of every layer with the prefix's keys and values; it goes on with
        what is returned.
        """
        if torch.is_grad_enabled() and self._packs:
            key, value = _Collected.apply(key, value, self, layer)  # type: ignore[no-untyped-call]
        with self._news:
            assert layer not in self._pairs, "what was delivered for this layer would be lost"
            self._pairs[layer] = key.detach(), value.detach()
            self._gradients[layer] = [{}, {}]
            self._news.notify_all()
        return key, value

    def fail(self) -> None:
        """Something went wrong in some thread: nobody waits any longer."""
        with self._news:
            self._failed = True
            self._news.notify_all()

    # ----------------------------------------------------------------------------------- the others
    def pair(self, layer: int) -> Pair:
        """Waits until the prefix has come to ``layer``."""
        with self._news:
            self._news.wait_for(lambda: self._failed or layer in self._pairs)
            if layer not in self._pairs:
                raise RuntimeError("the prefix could not be computed")
            return self._pairs[layer]

    def deliver(self, layer: int, which: int, pack: int, gradient: torch.Tensor) -> None:
        with self._news:
            self._gradients[layer][which][pack] = gradient
            self._news.notify_all()

    def wait_for_gradients(self) -> None:
        """Waits until every other micro-pack has delivered the gradients of every layer."""
        with self._news:
            self._news.wait_for(lambda: self._failed or self._is_complete())
            if not self._is_complete():
                raise RuntimeError("a micro-pack could not be computed")

    def _is_complete(self) -> bool:
        return all(
            len(delivered) == self._packs for both in self._gradients.values() for delivered in both
        )

    def collected(self, layer: int, which: int) -> torch.Tensor:
        """Sum of what all micro-packs delivered, in the order of the packs. Waits for them."""
        delivered = self._gradients[layer][which]
        with self._news:
            self._news.wait_for(lambda: self._failed or len(delivered) == self._packs)
            if len(delivered) < self._packs:
                raise RuntimeError("a micro-pack could not be computed")
        total = delivered.pop(0)
        for pack in range(1, self._packs):
            total = total + delivered.pop(pack)
        return total


class View:
    """What one micro-pack sees of a prefix; indexed by number of layer."""

    def __init__(self, prefix: Prefix, pack: int) -> None:
        self.prefix, self.pack = prefix, pack
        self.leaves: list[
            torch.Tensor
        ] = []  # gradients must be asked for these: that delivers them

    def __getitem__(self, layer: int) -> Pair:
        key, value = self.prefix.pair(layer)
        if not torch.is_grad_enabled():
            return key, value
        leaves = exact(key.detach()).requires_grad_(), exact(value.detach()).requires_grad_()
        for which, leaf in enumerate(leaves):
            leaf.register_hook(
                lambda gradient, which=which: self.prefix.deliver(layer, which, self.pack, gradient)
            )
        self.leaves += leaves
        return leaves


class _Collected(torch.autograd.Function):
    """Keys and values unchanged; on the way back, the gradients that the micro-packs delivered are
    added.
    """

    @staticmethod
    def forward(
        ctx: Any, key: torch.Tensor, value: torch.Tensor, prefix: Prefix, layer: int
    ) -> Pair:
        ctx.prefix, ctx.layer = prefix, layer
        return key.view_as(key), value.view_as(value)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, d_key: torch.Tensor, d_value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, None, None]:  # type: ignore[override]
        key, value = (ctx.prefix.collected(ctx.layer, which) for which in (0, 1))
        return (
            (exact(d_key) + key).to(d_key.dtype),
            (exact(d_value) + value).to(d_value.dtype),
            None,
            None,
        )
