"""The training objective: summed cross-entropy of the trained tokens, and its gradients.

Rows are laid end to end in *micro-packs* of a bounded number of tokens; each is one forward and
backward. What several rows of a batch begin with is computed once (``Prefix``). On a CPU the
micro-packs are dealt to worker threads with one intra-op thread each, because two threads on one
matrix of this size waste a third of two cores. Sums run in a fixed order, so the result does not
depend on which thread was faster.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, InvalidStateError, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from transformers import PreTrainedModel

from hydratune.console import console
from hydratune.data.encoding.encoded import Encoded
from hydratune.models import hardware
from hydratune.models.attention import can_share_prefix, supports_packing
from hydratune.models.compute import (
    as_trained,
    deterministic_if_possible,
    has_one_autograd_thread,
    is_out_of_memory,
    sent,
)
from hydratune.models.memory_plan import CPU_LOSS_POSITIONS, prefix_share, released
from hydratune.training.blocks import only_needed
from hydratune.training.elementwise import EAGER, Elementwise, using
from hydratune.training.frozen import FrozenBottom, frozen_bottom
from hydratune.training.lora import (
    CastWeights,
    drawing,
    drops,
    generator_here,
    lora_weights,
    using_cast,
)
from hydratune.training.losses import PLAIN, HeadLoss, LogitLoss, LossShape
from hydratune.training.merged import Adapter, MergeableBatch, MergingPool, adapter_of
from hydratune.training.packing import Alike, Pack, alike, micro_packs, pack
from hydratune.training.prefix import Prefix, View

Gradients = Sequence[torch.Tensor]
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Work:
    """One micro-pack."""

    rows: Sequence[Encoded]
    skip: int = 0  # tokens of the prefix
    holds: Prefix | None = None  # the prefix stands before these rows
    view: View | None = None  # or another micro-pack holds it
    seed: int | None = None  # of what is drawn at random in it


class Objective:
    """Losses and gradients of one model on rows, by micro-packs and worker threads."""

    def __init__(
        self,
        model: Any,
        *,
        micro_tokens: int,
        workers: int,
        loss_positions: int = CPU_LOSS_POSITIONS,
        shape: LossShape = PLAIN,
        share: bool = True,
        neftune_alpha: float = 0.0,
        checkpointing: bool = False,
        pieces: Elementwise = EAGER,
        pool: Executor | None = None,
        seed: int = 0,
    ) -> None:
        """``workers``: by how many threads the rows are split. The threads are its own, or those of
        ``pool``, which it may share with other objectives: what is computed is the same.
        ``loss_positions``: trained tokens whose logits exist at once. ``seed``: of what is drawn at
        random in training.
        """
        base: PreTrainedModel = (
            model.get_base_model() if hasattr(model, "get_base_model") else model
        )
        # PEFT's own forward puts them in front
        prompts = base is not model and model.active_peft_config.is_prompt_learning
        self.model = model if prompts else base
        self.unpackable = (
            "the adapter puts virtual tokens before every row"
            if prompts
            else supports_packing(base)
        )
        self.micro_tokens, self.workers, self.loss_positions = micro_tokens, workers, loss_positions
        self._halved = False
        # Of a shared prefix, what a GPU's attention copies for each row.
        self._copied = (
            0.0 if base.device.type == "cpu" else prefix_share(base.config.get_text_config())
        )
        self.shape, self.neftune_alpha = shape, neftune_alpha
        self.share = (
            share and self.unpackable is None and can_share_prefix(base) and not checkpointing
        )
        self.checkpointing, self.pieces = checkpointing, pieces
        if checkpointing:
            # its name before 5.23
            enable = (
                getattr(base, "activation_checkpointing_enable", None)
                or base.gradient_checkpointing_enable
            )
            enable({"use_reentrant": False})
        self._head = _plain_head(base) if self.unpackable is None else None
        self.bottom: FrozenBottom | None = None
        self._parameters: list[torch.nn.Parameter] | None = None
        self._lora_weights = lora_weights(self.model)
        self._dropout = [m for m in self.model.modules() if drops(m)]
        self._attention_drops = bool(
            getattr(base.config.get_text_config(), "attention_dropout", 0.0)
        )
        self.threads = torch.get_num_threads()  # intra-op, of this thread, when no worker is busy
        self.generator = torch.Generator().manual_seed(seed)
        self._shared, self._pool = pool, pool
        self._adapter = self._merged_adapter(base)

    def __enter__(self) -> "Objective":
        """Starts the worker threads; without them micro-packs are computed one after the other.

        This thread then only adds up: with more than one intra-op thread it would wait for cores
        the workers keep busy.
        """
        if self.workers > 1 and self._shared is None:
            torch.set_num_threads(1)
            self._pool = ThreadPoolExecutor(
                self.workers, "objective", initializer=torch.set_num_threads, initargs=(1,)
            )
        if self._pool is not None:
            self._pool.submit(
                self.pieces.warm_up, self.model.dtype
            ).result()  # or every worker would compile the same
        return self

    def __exit__(self, *exception: object) -> None:
        if self._pool is not None and self._shared is None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
            torch.set_num_threads(self.threads)

    def _merged_adapter(self, base: torch.nn.Module) -> Adapter | None:
        """What is trained, if its micro-packs can be computed together with those of other
        objectives of the pool.
        """
        host = self._pool.host if isinstance(self._pool, MergingPool) else None
        if host is None or self._head is None or self.checkpointing or self.neftune_alpha:
            return None
        adapter = adapter_of(base, self.parameters())
        return adapter if adapter is not None and host.takes(adapter) else None

    def _guest(
        self, work: _Work, autocast: torch.dtype | None, gradients: bool
    ) -> MergeableBatch | None:
        """``work`` for a pass with others, or None: it has to be computed by this model."""
        host = self._pool.host if isinstance(self._pool, MergingPool) else None
        if (
            host is None
            or self._adapter is None
            or self._head is None
            or self.bottom is not None
            or work.skip
        ):
            return None
        tokens = sum(len(row.ids) - 1 for row in work.rows)
        assert isinstance(self._pool, MergingPool)
        if (
            not self._pool.welcomes(tokens)
            or not self._adapter.is_lean(autocast)
            or not host.serves(autocast)
        ):
            return None
        shape = self.shape if gradients else PLAIN
        return MergeableBatch(
            self._adapter,
            work.rows,
            shape,
            self._head,
            self.pieces,
            work.seed,
            gradients,
            autocast,
            self.loss_positions,
        )

    def parameters(self) -> list[torch.nn.Parameter]:
        """What is trained.

        Looked for once: walking through all modules takes longer than a small layer.
        """
        if self._parameters is None:
            self._parameters = [p for p in self.model.parameters() if p.requires_grad]
        return self._parameters

    def keep_bottom(
        self,
        rows: Sequence[Encoded],
        identity: str,
        limit: float,
        advance: Callable[[float, float], None],
    ) -> int:
        """Computes the layers that no training changes once for ``rows``, see ``frozen_bottom``;
        returns how many.
        """
        if (
            self.unpackable is None
            and self._head is not None
            and not self.checkpointing
            and not self.neftune_alpha
        ):

            @torch.no_grad()
            def run(part: Sequence[Encoded]) -> None:
                with as_trained(self.model):
                    deterministic_if_possible(lambda: self._loss(_Work(part), PLAIN))

            sizes = {"together": self.micro_tokens, "workers": self.workers}
            self.bottom = frozen_bottom(
                self.model, rows, identity, limit, run, advance, **sizes, pool=self._shared
            )
        return self.bottom.layers if self.bottom is not None else 0

    def gradients(self, rows: Sequence[Encoded]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """(summed loss, its gradient for every trainable parameter), without touching ``.grad``.

        Where memory does not suffice, micro-packs are halved once and everything is computed again,
        from the same random numbers.
        """
        return self._in_halves_if_it_must(lambda: self._gradients(rows))

    def _in_halves_if_it_must(self, compute: Callable[[], Result]) -> Result:
        reset = self._random_numbers()
        try:
            return deterministic_if_possible(compute, reset)
        except (RuntimeError, MemoryError) as error:  # RuntimeError: CUDA's out of memory
            if self._halved or not is_out_of_memory(error):
                raise
        self._halve()  # here the error is gone, and the tensors that it kept
        reset()
        return deterministic_if_possible(compute, reset)

    def _random_numbers(self) -> Callable[[], None]:
        """What sets the generators that may be drawn from back to where they are now; in a pack
        those of the process are nobody's.
        """
        drawn, device = self.generator.get_state(), self.model.device
        alone, on_gpu = self._shared is None, device.type == "cuda"
        of_process = torch.get_rng_state() if alone else None
        of_device = torch.cuda.get_rng_state(device) if alone and on_gpu else None

        def reset() -> None:
            self.generator.set_state(drawn)
            if of_process is not None:
                torch.set_rng_state(of_process)
            if of_device is not None:
                torch.cuda.set_rng_state(of_device, device)

        return reset

    def _halve(self) -> None:
        self._halved = True
        before, self.micro_tokens = self.micro_tokens, max(1, self.micro_tokens // 2)
        released(self.model.device)
        console.print(
            f"[yellow]out of memory: micro-packs of {self.micro_tokens:,} tokens from here on"
            f" instead of {before:,}; what did not fit is computed again."
            f" trainer.micro_tokens={self.micro_tokens} avoids it",
            soft_wrap=True,
        )

    def peak_of_a_step(self, tokens: int) -> int:
        """Most bytes that the device held during a training step of ``tokens`` made-up tokens in
        one micro-pack.

        Computed at once by one thread of the pool, so that what others compute there is not
        counted. Changes nothing.
        """
        config = self.model.config.get_text_config()
        length = min(tokens, 512, getattr(config, "max_position_embeddings", None) or 512)
        row = Encoded(
            tuple(i % config.vocab_size for i in range(length + 1)),
            tuple(2 * i > length for i in range(length + 1)),
        )
        rows = [row] * max(1, tokens // length)
        modes = {module: module.training for module in self.model.modules()}
        before, self.micro_tokens = self.micro_tokens, 2 * tokens
        share, self.share = self.share, False
        pool, self._pool = self._pool, None
        self.model.train()

        def step() -> int:
            with as_trained(self.model):
                return hardware.peak_during(
                    lambda: deterministic_if_possible(lambda: self._gradients(rows)),
                    self.model.device,
                )

        reset = self._random_numbers()
        try:
            (peak,) = pool.map(lambda measure: measure(), [step]) if pool is not None else [step()]
            return peak
        finally:
            reset()
            self.micro_tokens, self.share, self._pool = before, share, pool
            for module, mode in modes.items():
                module.training = mode

    def _gradients(self, rows: Sequence[Encoded]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        parameters = self.parameters()
        draws = self._draws()
        # A layer that is computed twice must draw twice the same: then only the global
        # generator will do.
        seed = (
            int(torch.randint(2**62, (), generator=self.generator).item())
            if draws and not self.checkpointing
            else None
        )
        plan = self._plan(rows, self.share and not draws, seed)
        total = torch.zeros((), device=self.model.device)
        sums: list[torch.Tensor] = []
        for loss, gradients in self._run(plan, parameters):
            total = total + loss
            if sums:
                torch._foreach_add_(sums, list(gradients))
            else:
                sums = list(gradients)
        return total, sums or [torch.zeros_like(p) for p in parameters]

    @torch.no_grad()
    def loss(self, rows: Sequence[Encoded]) -> torch.Tensor:
        """Summed cross-entropy, whatever is added to it in training; where memory does not suffice,
        as in ``gradients``.
        """
        return self._in_halves_if_it_must(lambda: self._loss_of(rows))

    def _loss_of(self, rows: Sequence[Encoded]) -> torch.Tensor:
        parts = [loss for loss, _ in self._run(self._plan(rows, self.share, None), None)]
        return torch.stack(parts).sum() if parts else torch.zeros((), device=self.model.device)

    def _draws(self) -> bool:
        """Whether training draws random numbers (dropout, noise), which no two rows may share."""
        return (
            self.neftune_alpha > 0
            or (self._attention_drops and self.model.training)
            or any(m.training for m in self._dropout)
        )

    def _plan(self, rows: Sequence[Encoded], share: bool, seed: int | None) -> list[_Work]:
        works: list[_Work] = []
        rows = [row for row in rows if True in row.loss_mask[1:]]  # the others add nothing
        for group in alike(rows) if share else [Alike(tuple(rows), 0)] if rows else []:
            padded = self.unpackable is not None
            packs = micro_packs(
                group.rows,
                self.micro_tokens,
                self.workers,
                group.prefix,
                padded=padded,
                copied=self._copied,
            )
            prefix = Prefix(len(packs) - 1) if group.prefix else None
            for number, part in enumerate(packs):
                view = View(prefix, number - 1) if prefix is not None and number else None
                drawn = None if seed is None else seed + len(works)
                works.append(
                    _Work(part, group.prefix, prefix if number == 0 else None, view, drawn)
                )
        return works

    def _hidden(
        self, packed: Pack, parts: Sequence[tuple[Encoded, int, int]], **options: Any
    ) -> torch.Tensor:
        """Last hidden states (tokens, width), right where a token is predicted.

        ``parts`` are what was packed: row, first token, and the one after the last.
        """
        known = self.bottom is not None and self.bottom.knows([row for row, _, _ in parts])
        entering = (
            self.bottom.entering(parts, self.model.device)
            if self.bottom is not None and known
            else nullcontext()
        )
        with entering, nullcontext() if self.checkpointing else only_needed(packed.predicts):
            hidden: torch.Tensor = self.model.base_model(
                **self._inputs(packed), **options
            ).last_hidden_state
        return hidden[0]

    def _inputs(self, packed: Pack) -> dict[str, Any]:
        inputs = packed.inputs()
        if self.neftune_alpha > 0 and torch.is_grad_enabled():
            inputs["inputs_embeds"] = self._noisy(inputs.pop("input_ids"), packed.row_lengths)
        return inputs

    def _noisy(self, ids: torch.Tensor, row_lengths: Sequence[int]) -> torch.Tensor:
        """Embeddings with uniform noise of at most alpha / sqrt(length of the row * width):

        NEFTune (arXiv:2310.05914).
        """
        embedded: torch.Tensor = self.model.get_input_embeddings()(ids)
        (lengths,) = sent(
            [[length for length in row_lengths for _ in range(length)]], embedded.device
        )  # of every token's row
        largest = self.neftune_alpha / (lengths * embedded.shape[-1]).sqrt()
        noise = torch.empty_like(embedded).uniform_(-1, 1, generator=generator_here())
        return embedded + noise * largest[:, None]

    def _loss(self, work: _Work, shape: LossShape) -> torch.Tensor:
        """Summed loss of a micro-pack."""
        if self.unpackable is not None:
            return padded_loss(self.model, work.rows, shape)
        packed = pack(work.rows, self.model.device, work.skip, prefix=work.holds is not None)
        options: dict[str, Any] = {"shared_prefix": work.view} if work.view is not None else {}
        if work.holds is not None:
            options["record"] = work.holds.record
        if self._head is not None:
            parts = [(row, work.skip, len(row.ids) - 1) for row in work.rows]
            parts = [(work.rows[0], 0, work.skip), *parts] if work.holds is not None else parts
            hidden = self._hidden(packed, parts, **options)[packed.predicts]
            losses: torch.Tensor = HeadLoss.apply(
                hidden,
                self._head,
                packed.targets,
                (len(packed.targets),),
                (shape,),
                self.loss_positions,
            )  # type: ignore[no-untyped-call]
            return losses[0]
        logits = self.model(
            **self._inputs(packed), logits_to_keep=packed.predicts, **options
        ).logits[0]
        result: torch.Tensor = LogitLoss.apply(logits, packed.targets, shape)  # type: ignore[no-untyped-call]
        return result

    def _run(
        self, works: Sequence[_Work], parameters: list[torch.nn.Parameter] | None
    ) -> Iterator[tuple[torch.Tensor, Gradients]]:
        """(loss, gradients) of every micro-pack; without ``parameters`` the loss alone.

        Micro-packs that hold a prefix go forward first and backward last, so nobody waits for what
        has not been begun.
        """
        device = self.model.device
        one_thread = has_one_autograd_thread(device)
        autocast: AbstractContextManager[Any] = nullcontext()
        cast = (
            torch.get_autocast_dtype(device.type)
            if torch.is_autocast_enabled(device.type)
            else None
        )
        if self._pool is not None and cast is not None:  # it belongs to a thread: hand it on
            autocast = torch.autocast(device.type, dtype=cast)
        weights = CastWeights(self._lora_weights, cast)
        holding = [number for number, work in enumerate(works) if work.holds is not None]
        others = [number for number, work in enumerate(works) if work.holds is None]
        held = {
            number: Future[torch.Tensor]() for number in holding
        }  # losses of the micro-packs that wait for the others

        def forward(work: _Work) -> torch.Tensor:
            generator = (
                None if work.seed is None else torch.Generator(device).manual_seed(work.seed)
            )
            with drawing(generator), using(self.pieces), using_cast(weights):
                return self._loss(work, self.shape if parameters is not None else PLAIN)

        def begin(number: int) -> None:
            loss = forward(works[number])
            with suppress(InvalidStateError):  # another piece failed meanwhile
                held[number].set_result(loss)

        def finish(number: int) -> tuple[torch.Tensor, Gradients]:
            # Others may have read all of a prefix, and be done, while its own forward
            # pass still has its head to compute.
            loss = held[number].result() if number in held else forward(works[number])
            if parameters is None:
                return loss, ()
            holds, view = works[number].holds, works[number].view
            if holds is not None and one_thread:
                holds.wait_for_gradients()
            leaves = view.leaves if view is not None else []
            return (
                loss.detach(),
                torch.autograd.grad(loss, [*parameters, *leaves])[: len(parameters)],
            )

        def guarded(job: Callable[[int], Any], number: int) -> Any:
            try:
                with autocast, torch.set_grad_enabled(parameters is not None):
                    return job(number)
            except BaseException:
                give_up()
                raise

        def give_up() -> None:
            """Nobody waits any longer."""
            for future in held.values():
                future.cancel()
            for work in works:
                if work.holds is not None:
                    work.holds.fail()

        def results(every: Iterator[Any]) -> Iterator[Any]:
            try:
                yield from every
            except (
                BaseException
            ):  # of a piece that never began, perhaps: then it could not say so itself
                give_up()
                raise

        jobs = [
            *((begin, n) for n in holding),
            *((finish, n) for n in others),
            *((finish, n) for n in holding),
        ]
        if isinstance(self._pool, MergingPool) and self._adapter is not None:
            guests = [self._guest(works[n], cast, parameters is not None) for _, n in jobs]
            every = self._pool.map_guests(guarded, jobs, guests)
        elif self._pool is not None and jobs:
            every = self._pool.map(guarded, *zip(*jobs, strict=True))
        else:
            every = itertools.starmap(guarded, jobs)
        return itertools.islice(results(every), len(holding), None)


def _plain_head(model: PreTrainedModel) -> torch.Tensor | None:
    """The output weight (vocabulary, width) if logits are nothing but hidden states times it, and
    it is not trained.
    """
    head: Any = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear or head.bias is not None or head.weight.requires_grad:
        return None
    if not torch.is_floating_point(head.weight) or model.base_model is model:
        return None
    ids = torch.arange(3, device=model.device)[None]
    modes = {module: module.training for module in model.modules()}
    model.eval()  # two passes with dropout would differ
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits
        expected = head(model.base_model(input_ids=ids, use_cache=False).last_hidden_state)
    for module, mode in modes.items():
        module.training = mode
    return head.weight if logits.shape == expected.shape and torch.equal(logits, expected) else None


def padded_loss(
    model: PreTrainedModel, rows: Sequence[Encoded], shape: LossShape = PLAIN
) -> torch.Tensor:
    """The same for models that cannot lay rows end to end: right-padded batch, full logits."""
    device = next(model.parameters()).device
    longest = max(len(row.ids) for row in rows) - 1
    ids = torch.tensor(
        [[*row.ids[:-1], *[0] * (longest - len(row.ids) + 1)] for row in rows], device=device
    )
    mask = torch.tensor(
        [[1] * (len(row.ids) - 1) + [0] * (longest - len(row.ids) + 1) for row in rows],
        device=device,
    )
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[
        :, -longest:
    ]  # virtual tokens stand before
    where = [
        (number, i)
        for number, row in enumerate(rows)
        for i in range(len(row.ids) - 1)
        if row.loss_mask[i + 1]
    ]
    targets = torch.tensor([rows[number].ids[i + 1] for number, i in where], device=device)
    number, position = torch.tensor(where, device=device).unbind(1)
    loss: torch.Tensor = LogitLoss.apply(logits[number, position], targets, shape)  # type: ignore[no-untyped-call]
    return loss


class Handover(torch.autograd.Function):
    """A loss whose gradients are already known:

    ``loss.backward()`` delivers them to the parameters.
    """

    @staticmethod
    def forward(
        ctx: Any, loss: torch.Tensor, gradients: list[torch.Tensor], *parameters: torch.Tensor
    ) -> torch.Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, scale: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        dtypes = {g.dtype for g in ctx.gradients}
        if len(dtypes) == 1:
            return (None, None, *torch._foreach_mul(ctx.gradients, scale.to(*dtypes)))
        return (None, None, *(g * scale.to(g.dtype) for g in ctx.gradients))
