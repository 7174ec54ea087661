"""Likelihood of running text: every token given those before it, in windows that a model can read.

A text begins after the token that opens texts for its tokenizer, so its first token is predicted as
well. One that is longer than the window is read in several spans, which predict every token
once. This is lm-eval's rolling log-likelihood, except that there the stride is always the window.
Logits are handed to a function batch by batch: those of a whole corpus would not fit into memory.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from hydratune.console import progress
from hydratune.evaluation.batches import run_batches
from hydratune.models.attention import NAME, supports_packing
from hydratune.models.compute import as_trained, deterministic_if_possible
from hydratune.models.row_packing import Reading, row_packing

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# tokens of one forward pass, unless a single span has more: their logits have to fit
_BATCH_TOKENS = 1024
# (number of a span, fp32 logits of its targets (targets, vocabulary))
Visit = Callable[[int, torch.Tensor], None]


@dataclass(frozen=True)
class ScoredSpan:
    """``target`` is predicted; ``context``, at least one token, is only read."""

    context: tuple[int, ...]
    target: tuple[int, ...]

    @property
    def inputs(self) -> tuple[int, ...]:
        """What the model reads: all tokens but the last one."""
        return (*self.context, *self.target[:-1])


@dataclass(frozen=True)
class TextScore:
    """How likely a model finds a text."""

    log_likelihood: float  # summed over tokens, natural logarithm
    tokens: int
    bytes: int  # of its UTF-8

    @property
    def nll(self) -> float:
        """Negative log-likelihood per token, in nats."""
        return -self.log_likelihood / self.tokens if self.tokens else 0.0

    @property
    def perplexity(self) -> float:
        """Per token: comparable only between models with the same tokenizer."""
        return math.exp(min(self.nll, 700.0))

    @property
    def bits_per_byte(self) -> float:
        """Comparable between tokenizers."""
        return -self.log_likelihood / math.log(2) / self.bytes if self.bytes else 0.0

    def __add__(self, other: "TextScore") -> "TextScore":
        return TextScore(
            self.log_likelihood + other.log_likelihood,
            self.tokens + other.tokens,
            self.bytes + other.bytes,
        )


def opening_token(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return the token before a text: begin-of-text, or where there is none, end-of-text."""
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    return int(begin if begin is not None else end)


def windows(
    tokens: Sequence[int], opening: int, window: int, stride: int | None = None
) -> list[ScoredSpan]:
    """Return spans of at most ``window`` input tokens that predict each of ``tokens`` once.

    All but the first predict ``stride`` tokens each (the last one fewer) after as much context as
    fits; None: ``window``. Smaller strides give every token more context and take longer.
    """
    sequence, done, spans = (opening, *tokens), 0, []
    while done < len(tokens):
        end = min(len(tokens), done + (window if done == 0 or stride is None else stride))
        start = max(0, end - window) if done else 0
        spans.append(ScoredSpan(sequence[start : done + 1], sequence[done + 1 : end + 1]))
        done = end
    return spans


def read(
    model: "PreTrainedModel",
    spans: Sequence[ScoredSpan],
    visit: Visit,
    *,
    pad: int,
    batch_size: int = 8,
    padding_side: str = "left",
    title: str = "",
    quiet: bool = False,
    pool: Executor | None = None,
) -> None:
    """Call ``visit`` once for every span, in any order and from several threads.

    For the threads and ``pool`` see ``run_batches``. How the spans of a batch are laid out, see
    ``_Layout``.
    """
    model.eval()
    spans = list(spans)
    layout = _Layout(model, pad, padding_side)
    batches = _batches(spans, 1 if layout.one_by_one else batch_size)

    @torch.inference_mode()
    def work(numbers: Sequence[int]) -> None:
        with as_trained(model):
            deterministic_if_possible(lambda: read_batch(numbers))

    def read_batch(numbers: Sequence[int]) -> None:
        part = [spans[number] for number in numbers]
        for number, logits in zip(numbers, layout.logits(part), strict=True):
            visit(number, logits.float())
        ticker.advance(len(part), sum(len(span.inputs) for span in part))

    with progress(title, len(spans), quiet=quiet) as ticker:
        run_batches(work, batches, layout.device, pool)


def _batches(spans: Sequence[ScoredSpan], at_most: int) -> list[list[int]]:
    """Return the numbers of the spans of each batch, which have about the same length.

    A batch has at most ``at_most`` spans and ``_BATCH_TOKENS`` tokens.
    """
    batches: list[list[int]] = []
    # the longest first: threads end together
    for number in sorted(range(len(spans)), key=lambda i: -len(spans[i].inputs)):
        longest = len(spans[batches[-1][0]].inputs) if batches else 0
        rows = len(batches[-1]) if batches else at_most
        if rows == at_most or (rows + 1) * longest > _BATCH_TOKENS:
            batches.append([])
        batches[-1].append(number)
    return batches


class _Layout:
    """How a model reads a batch: laid end to end where it can do that, else padded.

    A model with virtual tokens before every row reads spans one by one.
    """

    def __init__(self, model: "PreTrainedModel", pad: int, side: str) -> None:
        self.model, self.pad, self.left = model, pad, side == "left"
        self.base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.device = next(model.parameters()).device
        settings = getattr(model, "active_peft_config", None)
        self.one_by_one = (settings is not None and settings.is_prompt_learning) or row_packing(
            self.base
        ).reading is not Reading.batches
        self.packs = (
            not self.one_by_one
            and self.base.config._attn_implementation == NAME
            and supports_packing(self.base) is None
        )

    def logits(self, spans: Sequence[ScoredSpan]) -> Sequence[torch.Tensor]:
        """Return the logits of each passage's targets, (targets, vocabulary)."""
        if self.packs:
            return self._packed(spans)
        if not self.one_by_one:
            return self._padded(spans)
        (only,) = spans
        ids = torch.tensor([only.inputs], device=self.device)
        output = self.model(input_ids=ids, use_cache=False, logits_to_keep=len(only.target))
        return [output.logits[0, -len(only.target) :]]

    def _packed(self, spans: Sequence[ScoredSpan]) -> Sequence[torch.Tensor]:
        lengths = tuple(len(span.inputs) for span in spans)
        ends = torch.tensor(lengths).cumsum(0).tolist()
        targets = [
            torch.arange(end - len(span.target), end) for end, span in zip(ends, spans, strict=True)
        ]
        ids = [token for span in spans for token in span.inputs]
        positions = torch.cat([torch.arange(length, device=self.device) for length in lengths])
        ignored_mask = torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=self.device)  # 4-D: as is
        logits: torch.Tensor = self.base(
            input_ids=torch.tensor([ids], device=self.device),
            attention_mask=ignored_mask,
            position_ids=positions[None],
            use_cache=False,
            logits_to_keep=torch.cat(targets).to(self.device),
            row_lengths=lengths,
        ).logits[0]
        return logits.split([len(span.target) for span in spans])

    def _padded(self, spans: Sequence[ScoredSpan]) -> list[torch.Tensor]:
        longest = max(len(span.inputs) for span in spans)

        def padded(rows: Sequence[Sequence[int]], filler: int) -> torch.Tensor:
            rests = [[filler] * (longest - len(row)) for row in rows]
            both = zip(rests, rows, strict=True)
            filled = [[*rest, *row] if self.left else [*row, *rest] for rest, row in both]
            return torch.tensor(filled, device=self.device)

        mask = padded([[1] * len(span.inputs) for span in spans], 0)
        targets = [len(span.target) for span in spans]
        logits: torch.Tensor = self.base(
            input_ids=padded([span.inputs for span in spans], self.pad),
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            use_cache=False,
            logits_to_keep=max(targets) if self.left else 0,
        ).logits
        if self.left:
            return [row[len(row) - n :] for row, n in zip(logits, targets, strict=True)]
        ends = [len(span.inputs) for span in spans]
        return [row[end - n : end] for row, end, n in zip(logits, ends, targets, strict=True)]


def token_log_likelihoods(
    model: "PreTrainedModel", spans: Sequence[ScoredSpan], **options: Any
) -> list[torch.Tensor]:
    """Return the natural logarithm of every target's probability, span by span.

    For ``options`` see ``read``.
    """
    likelihoods: dict[int, torch.Tensor] = {}

    def keep(number: int, logits: torch.Tensor) -> None:
        target = torch.tensor(spans[number].target, device=logits.device)[:, None]
        likelihoods[number] = torch.log_softmax(logits, dim=-1).gather(1, target)[:, 0].cpu()

    read(model, spans, keep, **options)
    return [likelihoods[number] for number in range(len(spans))]


def score_texts(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[str],
    *,
    window: int,
    stride: int | None = None,
    **options: Any,
) -> list[TextScore]:
    """Return one score for every text; for ``options`` see ``read``."""
    encoded: list[list[int]] = []
    if texts:
        encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False).input_ids
    opening = opening_token(tokenizer)
    parts = [windows(tokens, opening, window, stride) for tokens in encoded]
    spans = [span for part in parts for span in part]
    likelihoods = iter(token_log_likelihoods(model, spans, **options))
    scores = []
    for text, tokens, part in zip(texts, encoded, parts, strict=True):
        total = sum(float(next(likelihoods).double().sum()) for _ in part)
        scores.append(TextScore(total, len(tokens), len(text.encode())))
    return scores
