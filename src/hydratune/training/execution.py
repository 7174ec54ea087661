"""The passes of a plan: forward and backward of every micro-pack, in one thread or several.

On a CPU the micro-packs are computed by worker threads with one intra-op thread each, because two
threads on one matrix of this size waste a third of two cores. Results come in the order of the
plan, so sums of them do not depend on which thread was faster.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, InvalidStateError
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import TypeVar

import torch

from hydratune.models.compute import has_one_autograd_thread
from hydratune.training.arithmetic import Arithmetic
from hydratune.training.losses import LossOptions
from hydratune.training.mergeable import MergeableBatch, MergingPool, Result, TrialAdapter
from hydratune.training.micro_pack_loss import MicroPackLoss
from hydratune.training.plan import MicroPack
from hydratune.training.prefix import Prefix, View
from hydratune.training.step import StepContext

Output = TypeVar("Output")
Work = tuple[Callable[[int], Result | None], int]  # a function, and the number of its micro-pack


@dataclass(frozen=True)
class PassOptions:
    """How all passes of one plan are computed."""

    loss_options: LossOptions
    arithmetic: Arithmetic
    # gradients of these are computed; None: the loss alone
    parameters: Sequence[torch.nn.Parameter] | None
    autocast: torch.dtype | None = None


class Execution:
    """Computes the micro-packs of one plan, once."""

    def __init__(
        self, loss: MicroPackLoss, plan: Sequence[MicroPack], options: PassOptions
    ) -> None:
        self.loss, self.plan, self.options = loss, plan, options
        self.device = loss.model.device
        self._prefixes = {
            micro.group: Prefix(micro.readers) for micro in plan if micro.holds_prefix
        }
        self._views = {
            number: View(self._prefixes[micro.group], micro.reader)
            for number, micro in enumerate(plan)
            if micro.reader is not None
        }
        # losses of the micro-packs that hold a prefix: they go backward after all others
        self._held = {
            number: Future[torch.Tensor]()
            for number, micro in enumerate(plan)
            if micro.holds_prefix
        }

    def work(self) -> list[Work]:
        """Return the functions to call, in this order.

        Micro-packs that hold a prefix go forward first and backward last, so no pass waits for one
        that has not begun.
        """
        others = [number for number in range(len(self.plan)) if number not in self._held]
        return [
            *((self._begin, number) for number in self._held),
            *((self._finish, number) for number in others),
            *((self._finish, number) for number in self._held),
        ]

    def results(self, pool: Executor | None, merging: "Merging | None" = None) -> Iterator[Result]:
        """Yield (loss, gradients) of every micro-pack, computed by ``pool``, or by this thread.

        Without ``options.parameters`` there are no gradients. Those that hold a prefix come last.
        """
        work = self.work()
        outputs: Iterator[Result]
        if pool is None or not work:
            outputs = itertools.starmap(self._guarded, work)
        elif merging is not None:
            batches = [merging.batch_of(self.plan[number], self) for _, number in work]
            outputs = merging.pool.map_mergeable(self._guarded_elsewhere, work, batches)
        else:
            outputs = pool.map(self._guarded_elsewhere, *zip(*work, strict=True))
        return itertools.islice(self._until_failure(outputs), len(self._held), None)

    def _until_failure(self, outputs: Iterator[Output]) -> Iterator[Output]:
        try:
            yield from outputs
        except BaseException:  # perhaps of a pass that never began: it could not give up itself
            self._give_up()
            raise

    def _give_up(self) -> None:
        """Wake all passes that wait for another one: it will not come."""
        for future in self._held.values():
            future.cancel()
        for prefix in self._prefixes.values():
            prefix.fail()

    def _guarded(self, compute: Callable[[int], Output], number: int) -> Output:
        try:
            with torch.set_grad_enabled(self.options.parameters is not None):
                return compute(number)
        except BaseException:
            self._give_up()
            raise

    def _guarded_elsewhere(self, compute: Callable[[int], Output], number: int) -> Output:
        """Do it in a worker thread, under the autocast of the thread that asked for it."""
        autocast: AbstractContextManager[object] = nullcontext()
        if self.options.autocast is not None:
            autocast = torch.autocast(self.device.type, dtype=self.options.autocast)
        with autocast:
            return self._guarded(compute, number)

    # --------------------------------------------------------------------------- one micro-pack
    def _forward(self, number: int) -> torch.Tensor:
        micro, options = self.plan[number], self.options
        generator = (
            None if micro.seed is None else torch.Generator(self.device).manual_seed(micro.seed)
        )
        step = StepContext(generator, options.arithmetic)
        holds = self._prefixes[micro.group] if micro.holds_prefix else None
        return self.loss(
            micro, options.loss_options, step, holds=holds, view=self._views.get(number)
        )

    def _begin(self, number: int) -> None:
        """Forward pass of a micro-pack that holds a prefix."""
        loss = self._forward(number)
        with suppress(InvalidStateError):  # another pass failed meanwhile
            self._held[number].set_result(loss)

    def _finish(self, number: int) -> Result:
        """Forward pass, unless it has begun, and backward pass."""
        # Others may have read all of a prefix, and be done, while its own forward pass still has
        # its head to compute.
        held, parameters = self._held.get(number), self.options.parameters
        loss = held.result() if held is not None else self._forward(number)
        if parameters is None:
            return loss, ()
        if held is not None and has_one_autograd_thread(self.device):
            self._prefixes[self.plan[number].group].wait_for_gradients()
        leaves = self._views[number].leaves if number in self._views else []
        # no token may have reached an expert, and no text reaches layers for images
        gradients = torch.autograd.grad(loss, [*parameters, *leaves], allow_unused=True)
        own = zip(gradients, parameters, strict=False)  # those of leaves follow
        return loss.detach(), tuple(torch.zeros_like(p) if g is None else g for g, p in own)


@dataclass(frozen=True)
class Merging:
    """Offers micro-packs of one model to a pool that computes those of several in one pass."""

    pool: MergingPool
    adapter: TrialAdapter

    def batch_of(self, micro: MicroPack, execution: Execution) -> MergeableBatch | None:
        """Return ``micro`` for a pass with others; None if its own model has to compute it."""
        loss, options, replica = execution.loss, execution.options, self.pool.replica
        if replica is None or loss.head is None or loss.stored is not None or micro.prefix:
            return None
        tokens = sum(len(row.ids) - 1 for row in micro.rows)
        if (
            not self.pool.merges(tokens)
            or not self.adapter.can_merge(options.autocast)
            or not replica.supports(options.autocast)
        ):
            return None
        return MergeableBatch(
            self.adapter,
            micro.rows,
            options.loss_options,
            loss.head,
            options.arithmetic.elementwise,
            micro.seed,
            options.parameters is not None,
            options.autocast,
            loss.loss_positions,
        )
