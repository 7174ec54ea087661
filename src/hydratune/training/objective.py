"""The training objective: summed cross-entropy of the trained tokens, and its gradients.

Rows are divided into micro-packs of a bounded number of tokens (``plan.py``). Each is one forward
and backward pass (``execution.py``), which computes the loss of its rows laid end to end
(``micro_pack_loss.py``, ``losses.py``). Sums run in a fixed order, so the result does not depend on
which thread was faster.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import torch

from hydratune.console import console
from hydratune.data.encoding.encoded import Encoded
from hydratune.errors import ConfigError, Problem
from hydratune.models import hardware
from hydratune.models.compute import as_trained, deterministic_if_possible, is_out_of_memory
from hydratune.models.memory_plan import CPU_LOSS_POSITIONS, prefix_share, release_memory
from hydratune.models.row_packing import can_share_prefix
from hydratune.training.arithmetic import Arithmetic, CastWeights
from hydratune.training.elementwise import EAGER, Elementwise
from hydratune.training.execution import Execution, Merging, PassOptions
from hydratune.training.frozen import StoreOptions, stored_states
from hydratune.training.lean_linears import lora_weights
from hydratune.training.losses import PLAIN, LossOptions
from hydratune.training.mergeable import MergingPool, Result
from hydratune.training.merged import trial_adapter
from hydratune.training.micro_pack_loss import MicroPackLoss
from hydratune.training.plan import MicroPack, PlanOptions, plan
from hydratune.training.randomness import RandomState, active_dropouts, drops_attention

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

Output = TypeVar("Output")


class Objective:
    """Losses and gradients of one model on rows, by micro-packs and worker threads."""

    def __init__(
        self,
        model: "PreTrainedModel | PeftModel",
        *,
        micro_tokens: int,
        workers: int,
        loss_positions: int = CPU_LOSS_POSITIONS,
        loss_options: LossOptions = PLAIN,
        share: bool = True,
        neftune_alpha: float = 0.0,
        checkpointing: bool = False,
        elementwise: Elementwise = EAGER,
        pool: Executor | None = None,
        seed: int = 0,
    ) -> None:
        """``workers``: by how many threads the rows are split. The threads are its own, or those of
        ``pool``, which it may share with other objectives: what is computed is the same.
        ``loss_positions``: trained tokens whose logits exist at once. ``seed``: of what is drawn at
        random in training.
        """
        self.micro_pack_loss = MicroPackLoss(model, loss_positions, neftune_alpha, checkpointing)
        base, self.model = self.micro_pack_loss.base, self.micro_pack_loss.model
        self.micro_tokens, self.workers = micro_tokens, workers
        self.loss_options, self.elementwise = loss_options, elementwise
        self.share = (
            share and self.padding_reason is None and can_share_prefix(base) and not checkpointing
        )
        # of a shared prefix, what a GPU's attention copies for each row
        of_gpu = base.device.type != "cpu"
        self.copied = prefix_share(base.config.get_text_config()) if of_gpu else 0.0
        if checkpointing:
            _checkpoint_activations(base)
        self.lora_weights = lora_weights(self.model)
        self._parameters: list[torch.nn.Parameter] | None = None
        self._dropouts = list(active_dropouts(self.model))
        self._drops_attention = drops_attention(base)
        self._was_split = False
        self.threads = torch.get_num_threads()  # intra-op, of this thread, when no worker is busy
        self.generator = torch.Generator().manual_seed(seed)
        self._shared, self._pool = pool, pool
        self._merging = self._merging_in(pool)

    def _merging_in(self, pool: Executor | None) -> Merging | None:
        """Return how micro-packs are offered to ``pool``; None if they cannot be computed together
        with those of others.
        """
        loss = self.micro_pack_loss
        if not isinstance(pool, MergingPool) or pool.replica is None:
            return None
        if loss.head is None or loss.checkpointing or loss.neftune_alpha:
            return None
        if loss.packing.row_by_row or not loss.packing.ends_once:
            return None
        adapter = trial_adapter(loss.base, self.parameters())
        if adapter is None or not pool.replica.accepts(adapter):
            return None
        return Merging(pool, adapter)

    @property
    def padding_reason(self) -> str | None:
        """Why rows are padded and not packed; None: they are packed."""
        return self.micro_pack_loss.padding_reason

    @property
    def loss_positions(self) -> int:
        """Trained tokens whose logits exist at once."""
        return self.micro_pack_loss.loss_positions

    @loss_positions.setter
    def loss_positions(self, positions: int) -> None:
        self.micro_pack_loss.loss_positions = positions

    def __enter__(self) -> "Objective":
        """Start the worker threads; without them micro-packs are computed one after the other.

        This thread then only adds up: with more than one intra-op thread it would wait for cores
        that the workers keep busy.
        """
        if self.workers > 1 and self._shared is None:
            torch.set_num_threads(1)
            self._pool = ThreadPoolExecutor(
                self.workers, "objective", initializer=torch.set_num_threads, initargs=(1,)
            )
        if self._pool is not None:  # once, or every worker would compile the same
            self._pool.submit(self.elementwise.warm_up, self.model.dtype).result()
        return self

    def __exit__(self, *exception: object) -> None:
        if isinstance(self._pool, ThreadPoolExecutor) and self._shared is None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
            torch.set_num_threads(self.threads)

    def parameters(self) -> list[torch.nn.Parameter]:
        """Return what is trained.

        Looked for once: walking through all modules takes longer than a small layer.
        """
        if self._parameters is None:
            self._parameters = [p for p in self.model.parameters() if p.requires_grad]
        return self._parameters

    def store_frozen_layers(
        self,
        rows: Sequence[Encoded],
        identity: str,
        limit: float,
        advance: Callable[[float, float], None],
    ) -> int:
        """Compute once for ``rows`` what the layers below the first trained one compute, see
        ``stored_states``; return how many layers these are.
        """
        loss = self.micro_pack_loss
        if loss.head is None or loss.checkpointing or loss.neftune_alpha:
            return 0
        if not loss.packing.enters_anywhere:
            return 0
        options = StoreOptions(limit, self.micro_tokens, self.workers, self._shared, advance)
        loss.stored = stored_states(self.model, rows, identity, loss.states_below, options)
        return loss.stored.layers if loss.stored is not None else 0

    # ------------------------------------------------------------------------- loss and gradients
    def gradients(self, rows: Sequence[Encoded]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the summed loss and its gradient for every trainable parameter; ``.grad`` is not
        touched.

        Where memory does not suffice, micro-packs are split in two once and everything is computed
        again, from the same random numbers.
        """
        return self._split_if_necessary(lambda: self._gradients(rows))

    def _gradients(self, rows: Sequence[Encoded]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        parameters, draws = self.parameters(), self.draws()
        seed = None
        # A layer that is computed twice must draw the same twice: only the process's generator
        # does that.
        if draws and not self.micro_pack_loss.checkpointing:
            seed = int(torch.randint(2**62, (), generator=self.generator).item())
        total = torch.zeros((), device=self.model.device)
        sums: list[torch.Tensor] = []
        for loss, gradients in self._results(self.plan(rows, seed=seed, draws=draws), parameters):
            total = total + loss
            if sums:
                torch._foreach_add_(sums, list(gradients))
            else:
                sums = list(gradients)
        return total, sums or [torch.zeros_like(p) for p in parameters]

    @torch.no_grad()
    def loss(self, rows: Sequence[Encoded]) -> torch.Tensor:
        """Return the summed cross-entropy, without what is added to it in training; where memory
        does not suffice, as in ``gradients``.
        """
        return self._split_if_necessary(lambda: self._loss(rows))

    def _loss(self, rows: Sequence[Encoded]) -> torch.Tensor:
        parts = [loss for loss, _ in self._results(self.plan(rows), None)]
        return torch.stack(parts).sum() if parts else torch.zeros((), device=self.model.device)

    def draws(self) -> bool:
        """Return whether a training step draws random numbers (dropout, noise), which no two rows
        may share.
        """
        return (
            self.micro_pack_loss.neftune_alpha > 0
            or (self._drops_attention and self.model.training)
            or any(dropout.training for dropout in self._dropouts)
        )

    def plan(
        self, rows: Sequence[Encoded], *, seed: int | None = None, draws: bool = False
    ) -> list[MicroPack]:
        """Return the micro-packs of ``rows``; none shares a prefix if the step ``draws``."""
        options = PlanOptions(
            self.micro_tokens, self.workers, self.padding_reason is not None, self.copied
        )
        return plan(rows, options, share=self.share and not draws, seed=seed)

    def _results(
        self, plan: Sequence[MicroPack], parameters: list[torch.nn.Parameter] | None
    ) -> Iterator[Result]:
        kind = self.model.device.type
        autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        arithmetic = Arithmetic(self.elementwise, CastWeights(self.lora_weights, autocast))
        loss_options = self.loss_options if parameters is not None else PLAIN
        options = PassOptions(loss_options, arithmetic, parameters, autocast)
        merging = self._merging if self._pool is not None else None
        return Execution(self.micro_pack_loss, plan, options).results(self._pool, merging)

    # ----------------------------------------------------------------------------- limited memory
    def _random_state(self) -> RandomState:
        """Return the present state of the generators that may be drawn from.

        In a pack the generators of the process do not belong to any run.
        """
        return RandomState(self.generator, self.model.device, of_process=self._shared is None)

    def _split_if_necessary(self, compute: Callable[[], Output]) -> Output:
        state = self._random_state()
        try:
            return deterministic_if_possible(compute, state.restore)
        except (RuntimeError, MemoryError) as error:  # RuntimeError: CUDA's out of memory
            if self._was_split or not is_out_of_memory(error):
                raise
        self._split_micro_packs()  # here the error is gone, and the tensors that it kept
        state.restore()
        return deterministic_if_possible(compute, state.restore)

    def _split_micro_packs(self) -> None:
        self._was_split = True
        before, self.micro_tokens = self.micro_tokens, max(1, self.micro_tokens // 2)
        release_memory(self.model.device)
        console.print(
            f"[yellow]out of memory: micro-packs of {self.micro_tokens:,} tokens from here on"
            f" instead of {before:,}; what did not fit is computed again."
            f" trainer.micro_tokens={self.micro_tokens} avoids it",
            soft_wrap=True,
        )

    def peak_of_a_step(self, tokens: int) -> int:
        """Return the most bytes that the device held during a training step of ``tokens`` made-up
        tokens in one micro-pack.

        Computed at once by one thread of the pool, so that nothing else that is computed there is
        counted. Changes nothing.
        """
        rows = self._made_up_rows(tokens)
        pool = self._pool

        def step() -> int:
            with as_trained(self.model):
                return hardware.peak_during(
                    lambda: deterministic_if_possible(lambda: self._gradients(rows)),
                    self.model.device,
                )

        with self._in_one_micro_pack(2 * tokens):
            (peak,) = pool.map(lambda work: work(), [step]) if pool is not None else [step()]
            return peak

    def _made_up_rows(self, tokens: int) -> list[Encoded]:
        config = self.model.config.get_text_config()
        length = min(tokens, 512, getattr(config, "max_position_embeddings", None) or 512)
        row = Encoded(
            tuple(i % config.vocab_size for i in range(length + 1)),
            tuple(2 * i > length for i in range(length + 1)),
        )
        return [row] * max(1, tokens // length)

    @contextmanager
    def _in_one_micro_pack(self, micro_tokens: int) -> Iterator[None]:
        """Compute training steps in the thread that asks for them, and undo what they change."""
        before = self.micro_tokens, self.share, self._pool
        modes = {module: module.training for module in self.model.modules()}
        state = self._random_state()
        self.micro_tokens, self.share, self._pool = micro_tokens, False, None
        self.model.train()
        try:
            yield
        finally:
            state.restore()
            self.micro_tokens, self.share, self._pool = before
            for module, mode in modes.items():
                module.training = mode


def _checkpoint_activations(base: "PreTrainedModel") -> None:
    """Have layers computed again in the backward pass."""
    enable = (
        getattr(base, "activation_checkpointing_enable", None)
        or base.gradient_checkpointing_enable  # its name before 5.23
    )
    try:
        enable({"use_reentrant": False})
    except ValueError as error:  # the architecture cannot
        key, fix = "trainer.gradient_checkpointing", "set trainer.gradient_checkpointing=false"
        raise ConfigError([Problem(key, True, str(error), fix)]) from error
