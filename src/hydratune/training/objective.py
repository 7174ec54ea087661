"""The training objective: summed cross-entropy of the trained tokens, and its gradients.

Rows are laid end to end in *micro-packs* of a bounded number of tokens; each is one forward and backward. On a CPU the
micro-packs are dealt to worker threads with one intra-op thread each, because two threads on one matrix of this size
waste a third of two cores. Sums run in a fixed order, so the result does not depend on which thread was faster.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from hydratune.data.masking import Encoded
from hydratune.models.attention import supports_packing


@dataclass(frozen=True)
class Pack:
    """Rows laid end to end; the last token of a row is only ever a target, never an input."""

    input_ids: torch.Tensor  # (1, tokens)
    position_ids: torch.Tensor  # (1, tokens), from 0 in every row
    row_lengths: tuple[int, ...]
    predicts: torch.Tensor  # (targets,) positions whose next token is trained
    targets: torch.Tensor  # (targets,)


def pack(rows: Sequence[Encoded], device: torch.device | None = None) -> Pack:
    """Lays ``rows`` end to end."""
    ids: list[int] = []
    positions: list[int] = []
    predicts: list[int] = []
    targets: list[int] = []
    for row in rows:
        start, length = len(ids), len(row.ids) - 1
        ids += row.ids[:-1]
        positions += range(length)
        predicts += [start + i for i in range(length) if row.trained[i + 1]]
        targets += [row.ids[i + 1] for i in range(length) if row.trained[i + 1]]
    return Pack(
        torch.tensor([ids], device=device),
        torch.tensor([positions], device=device),
        tuple(len(row.ids) - 1 for row in rows),
        torch.tensor(predicts, device=device),
        torch.tensor(targets, device=device),
    )


def micro_packs(rows: Sequence[Encoded], budget: int, at_least: int = 1) -> list[list[Encoded]]:
    """Deals ``rows`` into packs of at most ``budget`` tokens (a longer row is a pack of its own), evenly by tokens.

    ``at_least`` packs are made where there are rows enough, so that every worker has one. Longest rows are dealt first.
    """
    total = sum(len(row.ids) for row in rows)
    count = min(len(rows), max(at_least, -(-total // budget)))
    while True:
        packs: list[list[Encoded]] = [[] for _ in range(count)]
        sizes = [0] * count
        for row in sorted(rows, key=lambda row: -len(row.ids)):
            smallest = sizes.index(min(sizes))
            packs[smallest].append(row)
            sizes[smallest] += len(row.ids)
        if count == len(rows) or all(size <= budget or len(p) == 1 for size, p in zip(sizes, packs, strict=True)):
            return packs
        count += 1


class SummedCrossEntropy(torch.autograd.Function):
    """sum(cross_entropy(logits, targets)) in fp32, with the gradient made in the forward, in the logits' own memory.

    logits (targets, vocabulary) are overwritten: nobody else may need them.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        scores = logits.float()  # the same memory if it is fp32 already
        scores.sub_(scores.amax(dim=1, keepdim=True))  # exp() of large numbers would cost digits
        index = targets[:, None]
        wanted = scores.gather(1, index)
        normaliser = torch.logsumexp(scores, dim=1, keepdim=True)
        loss = (normaliser - wanted).sum()
        if ctx.needs_input_grad[0]:
            gradient = scores.sub_(normaliser).exp_()
            gradient.scatter_add_(1, index, torch.full_like(wanted, -1.0))
            ctx.save_for_backward(gradient.to(logits.dtype))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        return gradient.mul_(scale), None


def packed_loss(model: PreTrainedModel, packed: Pack) -> torch.Tensor:
    """Summed cross-entropy of the trained tokens. Logits exist only where a token is trained."""
    logits = model(
        input_ids=packed.input_ids,
        position_ids=packed.position_ids,
        attention_mask=_no_mask(packed.input_ids.device),
        row_lengths=packed.row_lengths,
        use_cache=False,
        logits_to_keep=packed.predicts,
    ).logits[0]
    loss: torch.Tensor = SummedCrossEntropy.apply(logits, packed.targets)  # type: ignore[no-untyped-call]
    return loss


def padded_loss(model: PreTrainedModel, rows: Sequence[Encoded]) -> torch.Tensor:
    """The same for models that cannot lay rows end to end: right-padded batch, full logits."""
    device = next(model.parameters()).device
    longest = max(len(row.ids) for row in rows) - 1
    ids = torch.tensor([[*row.ids[:-1], *[0] * (longest - len(row.ids) + 1)] for row in rows], device=device)
    mask = torch.tensor([[1] * (len(row.ids) - 1) + [0] * (longest - len(row.ids) + 1) for row in rows], device=device)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, -longest:]  # virtual tokens stand before
    losses = []
    for i, row in enumerate(rows):
        where = torch.tensor([p for p in range(len(row.ids) - 1) if row.trained[p + 1]], device=device)
        targets = torch.tensor(row.ids, device=device)[where + 1]
        losses.append(F.cross_entropy(logits[i, where].float(), targets, reduction="sum"))
    return torch.stack(losses).sum()


def _no_mask(device: torch.device) -> torch.Tensor:
    """A 4-D mask is handed through to the attention function untouched, which ignores it: nothing is built."""
    return torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=device)


class Objective:
    """Losses and gradients of one model on rows, by micro-packs and worker threads."""

    def __init__(self, model: Any, *, micro_tokens: int, workers: int) -> None:
        base: PreTrainedModel = model.get_base_model() if hasattr(model, "get_base_model") else model
        prompts = base is not model and model.active_peft_config.is_prompt_learning  # PEFT's own forward puts them in front
        self.model = model if prompts else base
        self.unpackable = "the adapter puts virtual tokens before every row" if prompts else supports_packing(base)
        self.micro_tokens, self.workers = micro_tokens, workers
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> "Objective":
        """Starts the worker threads; without them micro-packs are computed one after the other."""
        if self.workers > 1:
            self._pool = ThreadPoolExecutor(self.workers, "objective", initializer=torch.set_num_threads, initargs=(1,))
        return self

    def __exit__(self, *exception: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def parameters(self) -> list[torch.nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def _loss(self, rows: Sequence[Encoded]) -> torch.Tensor:
        if self.unpackable is not None:
            return padded_loss(self.model, rows)
        return packed_loss(self.model, pack(rows, self.model.device))

    def gradients(self, rows: Sequence[Encoded]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """(summed loss, its gradient for every trainable parameter), without touching ``.grad``."""
        parameters = self.parameters()
        total = torch.zeros((), device=self.model.device)
        sums: list[torch.Tensor] = []
        for loss, grads in self._map(micro_packs(rows, self.micro_tokens, self.workers), True):
            total = total + loss
            sums = list(grads) if not sums else [s.add_(g) for s, g in zip(sums, grads, strict=True)]
        return total, sums or [torch.zeros_like(p) for p in parameters]

    @torch.no_grad()
    def loss(self, rows: Sequence[Encoded]) -> torch.Tensor:
        """Summed loss."""
        parts = [loss for loss, _ in self._map(micro_packs(rows, self.micro_tokens, self.workers), False)]
        return torch.stack(parts).sum() if parts else torch.zeros((), device=self.model.device)

    def _map(self, packs: Sequence[Sequence[Encoded]], with_gradients: bool) -> Iterator[tuple[torch.Tensor, Sequence[torch.Tensor]]]:
        def work(rows: Sequence[Encoded]) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
            with autocast, torch.set_grad_enabled(with_gradients):
                loss = self._loss(rows)
                grads = torch.autograd.grad(loss, self.parameters()) if with_gradients else ()
            return loss.detach(), grads

        device = self.model.device.type
        autocast: AbstractContextManager[Any] = nullcontext()
        if self._pool is None or len(packs) < 2:
            return map(work, packs)
        if torch.is_autocast_enabled(device):  # autocast belongs to a thread: hand it on
            autocast = torch.autocast(device, dtype=torch.get_autocast_dtype(device))
        return self._pool.map(work, packs)


class Handover(torch.autograd.Function):
    """A loss whose gradients are already known: ``loss.backward()`` delivers them to the parameters."""

    @staticmethod
    def forward(ctx: Any, loss: torch.Tensor, gradients: list[torch.Tensor], *parameters: torch.Tensor) -> torch.Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, scale: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        return (None, None, *(g * scale.to(g.dtype) for g in ctx.gradients))
