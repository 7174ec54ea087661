"""Answers of a model to prompts, and the likelihood of the reference answers.

A prompt is read once for both its answer and its reference. Rows whose answer has ended leave the
batch.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers import DynamicCache
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from hydratune.console import Ticker, progress
from hydratune.evaluation.batches import HalvingBatches, batches_of, run_batches
from hydratune.evaluation.constrained import Guide, Guided
from hydratune.evaluation.prompt_reader import PromptReader, ReservedLayer, Tokens
from hydratune.evaluation.sampling import Sampling
from hydratune.models.compute import as_trained, autocast_of, deterministic_if_possible
from hydratune.models.memory_plan import SCORED_TOGETHER, SCORED_TOKENS, generation_tokens
from hydratune.models.row_packing import Reading
from hydratune.training.arithmetic import Arithmetic, CastWeights
from hydratune.training.lean_linears import lora_weights
from hydratune.training.patches import ModelPatches
from hydratune.training.step import StepContext, computing

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NOT_ASKED = "not asked"  # finish_reason where only a likelihood was computed


@dataclass(frozen=True)
class Answer:
    """What a model answered to one prompt, and how likely it finds the reference."""

    tokens: tuple[int, ...]  # with the turn-end token, if there is one
    # "stop": the model ended its turn; "length": it was cut at max_new_tokens; or NOT_ASKED
    finish_reason: str
    # summed negative log-likelihood (natural logarithm) of the reference answer; 0 without one
    nll: float


def answer(
    model: "PreTrainedModel",
    prompts: Sequence[Tokens],
    references: Sequence[Tokens],
    *,
    stop: frozenset[int],
    pad: int,
    max_new_tokens: int,
    batch_size: int,
    title: str,
    batch_tokens: int | None = None,
    quiet: bool = False,
    pool: Executor | None = None,
    guide: Guide | None = None,
    sampling: Sampling | None = None,
    received: Callable[[Mapping[int, Answer]], None] | None = None,
    done: frozenset[int] = frozenset(),
) -> list[Answer]:
    """Return answers to ``prompts`` and the likelihood of ``references``, in order.

    With ``max_new_tokens=0`` only the likelihood is computed; a reference may be empty. The model
    computes as in its training steps. A batch has at most ``batch_size`` rows and ``batch_tokens``
    tokens (None: as many as memory allows); where memory runs out, batches are halved once. For the
    threads and ``pool`` see ``run_batches``. ``guide`` says which tokens an answer may have;
    likelihoods are without it. ``sampling``: how tokens are drawn; None: greedily.

    ``received`` is called with answers, by the numbers of their prompts, as soon as they end;
    several threads may call it, and twice for an answer where memory ran out. The prompts with the
    numbers ``done`` are not answered, and have no answer in the result.
    """
    model.eval()
    if not prompts:
        return []
    reader = _read_beginning(model, prompts, pad, pool)
    # padding after virtual tokens would count in a layer's window
    in_batches = reader.virtual is None and reader.reading is Reading.batches
    at_most = batch_size if in_batches else 1
    limit = batch_tokens or generation_tokens(model)
    on_gpu = reader.device.type != "cpu"
    copied = 1 / model.config.get_text_config().num_hidden_layers if on_gpu else 0.0
    batches = batches_of(prompts, references, max_new_tokens, at_most, limit, copied)
    batches = [asked for batch in batches if (asked := [i for i in batch if i not in done])]
    answering = _Answering(reader, prompts, references, stop, max_new_tokens, guide)
    with progress(title, len(prompts), quiet=quiet) as ticker, ModelPatches(model) as patches:
        patches.use_fast_linears()
        answering.ticker, answering.sampling, answering.received = ticker, sampling, received
        if done:
            ticker.resume_at(len(prompts) - sum(map(len, batches)))
        run_batches(answering.work, batches, reader.device, pool, answering.abandoned.set)
    return [answering.results[i] for i in range(len(prompts)) if i in answering.results]


def _read_beginning(
    model: "PreTrainedModel", prompts: Sequence[Tokens], pad: int, pool: Executor | None
) -> PromptReader:
    """Read what all prompts begin with, on a thread of ``pool`` where there is one."""

    @torch.inference_mode()
    def read() -> PromptReader:
        with as_trained(model):
            return deterministic_if_possible(lambda: PromptReader(model, prompts, pad))

    (reader,) = [read()] if pool is None else pool.map(lambda call: call(), [read])
    return reader


class _Answering:
    """The answers to all prompts, batch by batch; ``work`` may be called from several threads."""

    ticker: Ticker
    sampling: Sampling | None = None
    received: Callable[[Mapping[int, Answer]], None] | None = None

    def __init__(
        self,
        reader: PromptReader,
        prompts: Sequence[Tokens],
        references: Sequence[Tokens],
        stop: frozenset[int],
        max_new_tokens: int,
        guide: Guide | None,
    ) -> None:
        self.reader, self.prompts, self.references = reader, prompts, references
        self.stop, self.max_new_tokens, self.guide = stop, max_new_tokens, guide
        self.results: dict[int, Answer] = {}
        self.abandoned = threading.Event()  # set once no thread waits for further answers
        weights = CastWeights(lora_weights(reader.whole), autocast_of(reader.whole))
        self.step = StepContext(arithmetic=Arithmetic(weights=weights, fast=True))
        self.work = HalvingBatches(self._answer_as_trained, reader.device)

    @torch.inference_mode()
    def _answer_as_trained(self, numbers: Sequence[int]) -> None:
        with as_trained(self.reader.whole), computing(self.step):
            deterministic_if_possible(lambda: self._answer(numbers))

    def _answer(self, numbers: Sequence[int]) -> None:
        """Answer the prompts of one batch, and store the results by their numbers."""
        prompts = [self.prompts[i] for i in numbers]
        targets = [self.references[i] for i in numbers]
        capacity = max(self.max_new_tokens, *map(len, targets))
        logits, mask, cache = self.reader.read(prompts, capacity)
        prefix = len(self.reader.prefix)
        self.ticker.advance(0, sum(len(prompt) - prefix for prompt in prompts))
        if self.reader.plain_layers:
            at_once = SCORED_TOGETHER // 2 if self.work.halved.is_set() else SCORED_TOGETHER
            losses = _score(self.reader, logits, mask, cache, targets, at_once)
        else:
            pairs = zip(prompts, targets, strict=True)
            losses = [_score_without_cache(self.reader, *pair) for pair in pairs]
        self.ticker.advance(0, sum(map(len, targets)))
        finish = "length" if self.max_new_tokens else NOT_ASKED

        def keep(rows: Sequence[int], answers: Sequence[Sequence[int]]) -> None:
            """Store the answers of some rows of the batch."""
            for row in rows:
                tokens = answers[row]
                reason = "stop" if tokens and tokens[-1] in self.stop else finish
                self.results[numbers[row]] = Answer(tuple(tokens), reason, losses[row])
            if self.received is not None and rows and not self.abandoned.is_set():
                self.received({numbers[row]: self.results[numbers[row]] for row in rows})

        self._decode(numbers, logits, mask, cache, keep)

    def _decode(
        self,
        numbers: Sequence[int],
        logits: torch.Tensor,
        mask: torch.Tensor,
        cache: DynamicCache,
        keep: Callable[[Sequence[int], Sequence[Sequence[int]]], None],
    ) -> None:
        """Hand the tokens of each row to ``keep`` when it ends, turn-end included.

        ``logits`` are those of the first token, (rows, vocabulary). Ends early when abandoned.
        """
        answers: list[list[int]] = [[] for _ in range(mask.shape[0])]
        sampling = self.sampling
        generators = [sampling.generator(n) for n in numbers] if sampling is not None else []
        matchers = [self.guide.row() for _ in answers] if self.guide is not None else None
        in_batch = list(range(len(answers)))  # rows that ended may stay for a while
        ended: set[int] = set()
        for position in range(self.max_new_tokens):
            if matchers is not None:
                logits = self._masked(logits, answers, matchers, in_batch)
            tokens = self._choose(logits, [generators[row] for row in in_batch if generators])
            new = []
            for row, token in zip(in_batch, tokens.tolist(), strict=True):
                if row in ended:
                    continue
                answers[row].append(token)
                if matchers is not None:
                    matchers[row].take(token)
                if token in self.stop:
                    new.append(row)
            keep(new, answers)
            ended.update(new)
            going = [i for i, row in enumerate(in_batch) if row not in ended]
            self._advance(position, len(new), len(going))
            if not going or position + 1 == self.max_new_tokens or self.abandoned.is_set():
                break
            if _is_worth_shrinking(len(going), len(in_batch)):
                rows = torch.tensor(going, device=mask.device)
                _keep_rows(cache, rows)
                in_batch, tokens, mask = [in_batch[i] for i in going], tokens[rows], mask[rows]
            mask = torch.cat([mask, mask.new_ones((len(in_batch), 1))], dim=1)
            logits = self.reader.step(tokens[:, None], mask, cache, last=1)[:, -1]
        keep([row for row in range(len(answers)) if row not in ended], answers)

    def _choose(self, logits: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Return the next token of each row, from logits (rows, vocabulary)."""
        if self.sampling is None:
            return logits.argmax(dim=-1)
        pairs = zip(logits, generators, strict=True)
        drawn = [self.sampling.draw(scores, generator) for scores, generator in pairs]
        return torch.tensor(drawn, device=logits.device)

    def _has_ended(self, tokens: Sequence[int]) -> bool:
        return bool(self.stop.intersection(tokens))

    def _advance(self, position: int, ended: int, going: int) -> None:
        """Report progress: a row that ends brings the rest of its share of the work."""
        written = position / self.max_new_tokens  # share that was reported before this token
        self.ticker.advance(ended * (1 - written) + going / self.max_new_tokens, going)

    def _masked(
        self,
        logits: torch.Tensor,
        answers: Sequence[Sequence[int]],
        matchers: Sequence[Guided],
        in_batch: Sequence[int],
    ) -> torch.Tensor:
        """Return logits (rows, vocabulary) of the tokens that may come next; else -inf.

        A row that has ended may have any token.
        """
        anything = torch.ones(logits.shape[1], dtype=torch.bool)
        allowed = torch.stack(
            [
                anything if self._has_ended(answers[row]) else matchers[row].allowed()
                for row in in_batch
            ]
        )
        return logits.masked_fill(~allowed.to(logits.device), -torch.inf)


def _is_worth_shrinking(going: int, rows: int) -> bool:
    """Return whether rows that ended should leave the batch: moving memory has a cost as well."""
    return going < rows and (going <= 0.8 * rows or rows <= 8)


def _keep_rows(cache: DynamicCache, rows: torch.Tensor) -> None:
    for layer in cache.layers:
        if isinstance(layer, ReservedLayer):
            layer.keep_rows(rows)
        elif isinstance(layer, LinearAttentionCacheLayerMixin):  # has no other way
            layer.reorder_cache(rows)
        else:
            layer.batch_select_indices(rows)


def _score(
    reader: PromptReader,
    logits: torch.Tensor,
    mask: torch.Tensor,
    cache: DynamicCache,
    targets: Sequence[Tokens],
    at_once: int,
) -> list[float]:
    """Return the summed NLL of each target after the prompts in ``cache``.

    ``logits`` (rows, vocabulary) are those of the first token. The logits of ``at_once`` rows exist
    at a time, of fewer where targets are long.
    """
    losses: list[torch.Tensor] = []
    if not any(targets):
        return [0.0] * len(targets)
    together = max(1, min(at_once, SCORED_TOKENS // max(1, *map(len, targets))))
    for start in range(0, len(targets), together):
        rows = slice(start, start + together)
        part = targets[rows]
        longest = max(map(len, part))
        padded = [[*t[:-1], *[reader.pad] * (longest - max(1, len(t)))] for t in part]
        inputs = torch.tensor(padded, device=mask.device)
        scores = logits[rows, None]
        if longest > 1:
            copied = reader.cache(mask.shape[1] + longest)
            for index, layer in enumerate(cache.layers):
                copied.update(layer.keys[rows], layer.values[rows], index)
            seen = torch.cat([mask[rows], torch.ones_like(inputs)], dim=1)
            scores = torch.cat([scores, reader.step(inputs, seen, copied, last=0)], dim=1)
        losses += [_nll(scores[row, : len(target)], target) for row, target in enumerate(part)]
    scored: list[float] = torch.stack(losses).tolist()  # waits for the device once, not per row
    return scored


def _score_without_cache(reader: PromptReader, prompt: Tokens, target: Tokens) -> float:
    """Return the summed NLL of ``target`` by one forward pass without a cache.

    For layers whose cache forgets what has left their window.
    """
    if not target:
        return 0.0
    ids = torch.tensor([[*prompt, *target[:-1]]], device=reader.device)
    logits = reader.whole(input_ids=ids, use_cache=False, logits_to_keep=len(target)).logits[0]
    return _nll(logits[-len(target) :], target).item()


def _nll(logits: torch.Tensor, target: Tokens) -> torch.Tensor:
    """Return the NLL of ``target``, summed in fp64, from logits (tokens, vocabulary)."""
    if not target:
        return logits.new_zeros((), dtype=torch.double)
    likelihoods = torch.log_softmax(logits.float(), dim=-1)
    chosen = likelihoods.gather(1, torch.tensor(target, device=logits.device)[:, None])
    return -chosen.double().sum()
