"""A prefix that several rows share: computed once, read by many micro-packs.

The prefix is computed in front of the rows of the first micro-pack of its group. Every other
micro-pack reads the keys and values of its layers, detached from its graph, and runs its own
backward pass down to them; the first micro-pack then goes backward with the sum of their gradients.
This happens layer by layer: a micro-pack may read layer 3 while the first computes layer 4, and the
first may go back through layer 9 while the last micro-pack is at layer 8. So no pass waits long,
and the sums still run in a fixed order. It requires that a backward pass can wait for another one:
on a GPU, where all of them run in one thread, the first micro-pack goes backward only after all
gradients are delivered (``wait_for_gradients``).

Gradients are delivered and summed in fp32, whatever the dtype of keys and values.
"""

import threading

import torch
from torch.autograd.function import once_differentiable

from hydratune.models.autograd import Context
from hydratune.training.products import at_least_fp32

# keys and values of one layer, (1, key heads, prefix, width)
Pair = tuple[torch.Tensor, torch.Tensor]


class Prefix:
    """Keys and values of every layer, and their gradients, exchanged between threads."""

    def __init__(self, readers: int) -> None:
        """``readers``: micro-packs that read it, and deliver gradients."""
        self._readers = readers
        self._news = threading.Condition()
        self._pairs: dict[int, Pair] = {}  # by number of layer
        # by layer, for key and value: by number of reader
        self._gradients: dict[int, list[dict[int, torch.Tensor]]] = {}
        self._failed = False

    # -------------------------------------------- called by the micro-pack that holds the prefix
    def record(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> Pair:
        """Store the prefix's keys and values of ``layer``; its attention continues with those that
        are returned.
        """
        if torch.is_grad_enabled() and self._readers:
            key, value = _Collected.apply(key, value, self, layer)  # type: ignore[no-untyped-call]
        with self._news:
            assert layer not in self._pairs, "gradients delivered for this layer would be lost"
            self._pairs[layer] = key.detach(), value.detach()
            self._gradients[layer] = [{}, {}]
            self._news.notify_all()
        return key, value

    def fail(self) -> None:
        """Note that a pass failed: passes that wait for another one raise ``RuntimeError``."""
        with self._news:
            self._failed = True
            self._news.notify_all()

    # ------------------------------------------------------------- called by the other micro-packs
    def pair(self, layer: int) -> Pair:
        """Return keys and values of ``layer``, after waiting until they are computed."""
        with self._news:
            self._news.wait_for(lambda: self._failed or layer in self._pairs)
            if layer not in self._pairs:
                raise RuntimeError("the prefix could not be computed")
            return self._pairs[layer]

    def deliver(self, layer: int, which: int, reader: int, gradient: torch.Tensor) -> None:
        """Hand over the gradient of the keys (``which`` 0) or values (1) of ``layer``."""
        with self._news:
            self._gradients[layer][which][reader] = gradient
            self._news.notify_all()

    def wait_for_gradients(self) -> None:
        """Wait until every other micro-pack has delivered the gradients of every layer."""
        with self._news:
            self._news.wait_for(lambda: self._failed or self._is_complete())
            if not self._is_complete():
                raise RuntimeError("a micro-pack could not be computed")

    def _is_complete(self) -> bool:
        return all(
            len(delivered) == self._readers
            for both in self._gradients.values()
            for delivered in both
        )

    def collected(self, layer: int, which: int) -> torch.Tensor:
        """Wait for the gradients of all readers, and return their sum in the order of readers."""
        delivered = self._gradients[layer][which]
        with self._news:
            self._news.wait_for(lambda: self._failed or len(delivered) == self._readers)
            if len(delivered) < self._readers:
                raise RuntimeError("a micro-pack could not be computed")
        total = delivered.pop(0)
        for reader in range(1, self._readers):
            total = total + delivered.pop(reader)
        return total


class View:
    """A prefix as one micro-pack reads it; indexed by number of layer."""

    def __init__(self, prefix: Prefix, reader: int) -> None:
        self.prefix, self.reader = prefix, reader
        # the backward pass must compute gradients of these: that delivers them
        self.leaves: list[torch.Tensor] = []

    def __getitem__(self, layer: int) -> Pair:
        key, value = self.prefix.pair(layer)
        if not torch.is_grad_enabled():
            return key, value
        leaves = (
            at_least_fp32(key.detach()).requires_grad_(),
            at_least_fp32(value.detach()).requires_grad_(),
        )
        for which, leaf in enumerate(leaves):
            leaf.register_hook(
                lambda gradient, which=which: self.prefix.deliver(
                    layer, which, self.reader, gradient
                )
            )
        self.leaves += leaves
        return leaves


class _CollectedContext(Context[()]):
    prefix: Prefix
    layer: int


class _Collected(torch.autograd.Function):
    """Returns keys and values unchanged; the backward pass adds the gradients that the other
    micro-packs delivered.
    """

    @staticmethod
    def forward(
        ctx: _CollectedContext, key: torch.Tensor, value: torch.Tensor, prefix: Prefix, layer: int
    ) -> Pair:
        ctx.prefix, ctx.layer = prefix, layer
        return key.view_as(key), value.view_as(value)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: _CollectedContext, d_key: torch.Tensor, d_value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, None, None]:  # type: ignore[override]
        key, value = (ctx.prefix.collected(ctx.layer, which) for which in (0, 1))
        return (
            (at_least_fp32(d_key) + key).to(d_key.dtype),
            (at_least_fp32(d_value) + value).to(d_value.dtype),
            None,
            None,
        )
