"""Answers of a model to prompts, and the likelihood of the reference answers, in batches that share a prompt prefix.

Prompts that begin alike (a system prompt, a schema, few-shot examples) have that beginning computed once and kept as
keys and values; every batch continues from it. Rows of a batch are padded between the prefix and their own part.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, GenerationConfig
from transformers.cache_utils import DynamicLayer
from transformers.generation.streamers import BaseStreamer

from hydratune.console import Ticker, progress


_SCORED_TOGETHER = 8  # rows


@dataclass(frozen=True)
class Answer:
    """What a model said to one prompt, and what it thought of the reference."""

    tokens: tuple[int, ...]  # with the turn-end token, if there is one
    finish_reason: str  # "stop": the model ended its turn; "length": it was cut at max_new_tokens
    nll: float  # summed negative log-likelihood (natural logarithm) of the reference answer


class _Counter(BaseStreamer):
    """Tells the progress bar about every token of every row."""

    def __init__(self, ticker: Ticker) -> None:
        self.ticker, self.prompt_seen = ticker, False

    def put(self, value: torch.Tensor) -> None:
        if self.prompt_seen:
            self.ticker.advance(0, value.numel())
        self.prompt_seen = True

    def end(self) -> None:
        pass


class _Reserved(DynamicLayer):
    """Keys and values in one buffer of known size. The usual layer copies everything it holds for every new token."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends (rows, heads, new, width) and returns everything held so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.buffers = [s.new_empty((*s.shape[:2], self.capacity, s.shape[3])) for s in (key_states, value_states)]
            self.length = 0
        start, self.length = self.length, self.length + key_states.shape[2]
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, start : self.length] = states
        self.keys, self.values = (buffer[:, :, : self.length] for buffer in self.buffers)
        return self.keys, self.values


def _empty_cache(model: Any, capacity: int) -> DynamicCache:
    """A cache for ``capacity`` tokens per row; layers with a window of their own keep transformers' kind."""
    cache = DynamicCache(config=model.config)
    if all(type(layer) is DynamicLayer for layer in cache.layers):
        cache.layers = [_Reserved(capacity) for _ in cache.layers]
    return cache


class _Prefixed:
    """A model and the prefix all its prompts share, computed once."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], pad: int) -> None:
        self.model, self.pad = model, pad
        self.prefix = common_prefix(prompts)
        self.device = next(model.parameters()).device
        self.cache: DynamicCache | None = None
        if self.prefix:
            self.cache = _empty_cache(model, len(self.prefix))
            ids = torch.tensor([self.prefix], device=self.device)
            model(input_ids=ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1)

    def batch(self, rows: Sequence[Sequence[int]], new_tokens: int) -> tuple[torch.Tensor, torch.Tensor, DynamicCache]:
        """(ids, mask, cache): prefix, padding, own part; ids and mask are (rows, length) with the prefix included."""
        start = len(self.prefix)
        longest = max(len(row) for row in rows)
        gaps = [longest - len(row) for row in rows]
        ids = [[*self.prefix, *[self.pad] * gap, *row[start:]] for row, gap in zip(rows, gaps, strict=True)]
        mask = [[*[1] * start, *[0] * gap, *[1] * (len(row) - start)] for row, gap in zip(rows, gaps, strict=True)]
        cache = _empty_cache(self.model, longest + new_tokens)
        if self.cache is not None:
            for index, layer in enumerate(self.cache.layers):
                cache.update(*(t.expand(len(rows), -1, -1, -1) for t in (layer.keys, layer.values)), index)
        return torch.tensor(ids, device=self.device), torch.tensor(mask, device=self.device), cache


def common_prefix(prompts: Sequence[Sequence[int]]) -> list[int]:
    """The tokens all prompts begin with, leaving every prompt at least one of its own."""
    first, last = min(prompts), max(prompts)
    limit = min(len(p) for p in prompts) - 1
    length = 0
    while length < limit and first[length] == last[length]:
        length += 1
    return list(first[:length])


@torch.inference_mode()
def answer(
    model: Any,
    prompts: Sequence[Sequence[int]],
    references: Sequence[Sequence[int]],
    *,
    stop: frozenset[int],
    pad: int,
    max_new_tokens: int,
    batch_size: int,
    title: str,
    quiet: bool = False,
) -> list[Answer]:
    """Greedy answers to ``prompts`` and the likelihood of ``references``, in order; a prompt is read once for both."""
    model.eval()
    settings = GenerationConfig(
        do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=sorted(stop), pad_token_id=pad, use_cache=True, repetition_penalty=1.0
    )
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    results: dict[int, Answer] = {}
    prefixed = _Prefixed(model, prompts, pad)
    with progress(title, len(prompts), quiet=quiet) as ticker:
        for start in range(0, len(order), batch_size):
            numbers = order[start : start + batch_size]
            targets = [references[i] for i in numbers]
            ids, mask, cache = prefixed.batch([prompts[i] for i in numbers], max(max_new_tokens, max(map(len, targets))))
            losses = _read_and_score(model, ids, mask, cache, targets, len(prefixed.prefix))
            ticker.advance(0, int(mask[:, len(prefixed.prefix) :].sum()) + sum(map(len, targets)))
            output = model.generate(
                input_ids=ids, attention_mask=mask, past_key_values=cache, generation_config=settings, streamer=_Counter(ticker)
            )
            for number, tokens, nll in zip(numbers, output[:, ids.shape[1] :].tolist(), losses, strict=True):
                end = next((i for i, token in enumerate(tokens) if token in stop), None)
                kept = tokens if end is None else tokens[: end + 1]
                results[number] = Answer(tuple(kept), "length" if end is None else "stop", nll)
            ticker.advance(len(numbers))
    return [results[i] for i in range(len(prompts))]


def _read_and_score(
    model: Any, ids: torch.Tensor, mask: torch.Tensor, cache: DynamicCache, targets: Sequence[Sequence[int]], prefix: int
) -> list[float]:
    """Reads the prompts into ``cache``, all but their last token, and returns the summed NLL of each target after them.

    ``ids`` and ``mask`` are (rows, prompt) with the prefix, which ``cache`` already holds.
    """
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    length = ids.shape[1] - 1
    if length > prefix:
        model(
            input_ids=ids[:, prefix:-1],
            attention_mask=mask[:, :-1],
            position_ids=positions[:, prefix:-1],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
    losses: list[float] = []
    for start in range(0, len(targets), _SCORED_TOGETHER):  # the logits of more rows would not fit small machines
        rows = slice(start, start + _SCORED_TOGETHER)
        part = targets[rows]
        longest = max(map(len, part))
        inputs = torch.tensor([[*t[:-1], *[0] * (longest - len(t))] for t in part], device=ids.device).reshape(len(part), -1)
        inputs = torch.cat([ids[rows, -1:], inputs], dim=1)
        steps = torch.arange(longest, device=ids.device)
        cut = _empty_cache(model, length + longest)
        for index, layer in enumerate(cache.layers if length else []):
            cut.update(layer.keys[rows], layer.values[rows], index)
        logits = model(
            input_ids=inputs,
            attention_mask=torch.cat([mask[rows, :-1], torch.ones_like(inputs)], dim=1),
            position_ids=positions[rows, -1:] + steps,
            past_key_values=cut,
            use_cache=True,
        ).logits
        for row, target in enumerate(part):
            scores = torch.log_softmax(logits[row, : len(target)].float(), dim=-1)
            wanted = scores.gather(1, torch.tensor(target, device=scores.device)[:, None])
            losses.append(-wanted.double().sum().item())
    return losses
