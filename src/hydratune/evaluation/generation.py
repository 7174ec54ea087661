"""Answers of a model to prompts, and the likelihood of the reference answers.

Prompts that begin alike (a system prompt, a schema, few-shot examples) have that beginning computed
once and kept once, for all rows and batches. A prompt is read once for both its answer and its
reference, laid end to end with the others of its batch where the model can do that. Finished rows
leave the batch.
"""

import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from hydratune.console import Ticker, console, progress
from hydratune.evaluation.constrained import Guide, Guided
from hydratune.models.attention import (
    can_share_prefix,
    in_one_dtype,
    supports_packing,
)
from hydratune.models.compute import (
    as_trained,
    autocast_of,
    deterministic_if_possible,
    is_out_of_memory,
)
from hydratune.models.hardware import cpu_count
from hydratune.models.memory_plan import SCORED_TOGETHER, SCORED_TOKENS, generation_tokens, released
from hydratune.training.arithmetic import Arithmetic, CastWeights
from hydratune.training.lean_linears import lora_weights
from hydratune.training.patches import ModelPatches
from hydratune.training.step import StepContext, computing

NOT_ASKED = "not asked"  # finish_reason where only a likelihood was wanted


@dataclass(frozen=True)
class Answer:
    """What a model said to one prompt, and what it thought of the reference."""

    tokens: tuple[int, ...]  # with the turn-end token, if there is one
    # "stop": the model ended its turn; "length": it was cut at max_new_tokens; or NOT_ASKED
    finish_reason: str
    nll: float  # summed negative log-likelihood (natural logarithm) of the reference answer


class _Reserved(DynamicLayer):  # type: ignore[misc]
    """Keys and values in one buffer of known size.

    The usual layer copies everything it holds for every new token.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends (rows, heads, new, width) and returns everything held so far, in the dtype that
        attention computes in.
        """
        key_states, value_states = in_one_dtype(key_states, value_states)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.buffers = [
                s.new_empty((*s.shape[:2], self.capacity, s.shape[3]))
                for s in (key_states, value_states)
            ]
            self.length = 0
        start, self.length = self.length, self.length + key_states.shape[2]
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, start : self.length] = states
        self._show()
        return self.keys, self.values

    def hold(self, rows: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Takes (keys, values) of every row, (heads, own tokens, width), as if they had been padded
        on the left.
        """
        rows = [in_one_dtype(*row) for row in rows]  # type: ignore[misc]
        self.length = max(keys.shape[1] for keys, _ in rows)
        self.lazy_initialization(*(states[None] for states in rows[0]))
        self.buffers = [
            s.new_zeros((len(rows), len(s), self.capacity, s.shape[2])) for s in rows[0]
        ]
        for number, row in enumerate(rows):
            for buffer, states in zip(self.buffers, row, strict=True):
                buffer[number, :, self.length - states.shape[1] : self.length] = states
        self._show()

    def _show(self) -> None:
        self.keys, self.values = (buffer[:, :, : self.length] for buffer in self.buffers)

    def keep_rows(self, rows: torch.Tensor) -> None:
        self.buffers = [buffer[rows] for buffer in self.buffers]
        self._show()


class _Reader:
    """A model that has read what comes before all prompts, and reads batches from there on.

    That is an adapter's virtual tokens, and the prefix all prompts share. Where the model's
    attention can keep one copy for all rows they are no part of a row's own cache; elsewhere every
    row, alone in its batch, begins with the virtual tokens.
    """

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], pad: int) -> None:
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.whole, self.pad, self.device = model, pad, next(model.parameters()).device
        self.plain_layers = all(
            type(layer) is DynamicLayer for layer in DynamicCache(config=base.config).layers
        )
        virtual = _virtual_tokens(model)
        # which has read the virtual tokens once and for all
        self.model = model if virtual is None else base
        shares = can_share_prefix(base)
        self.packs = shares and supports_packing(base) is None
        self.prefix = common_prefix(prompts) if shares else []
        self.virtual = None if shares else virtual
        self.shared_tokens = 0
        self.options: dict[str, Any] = {}
        if shares and (self.prefix or virtual is not None):
            cache = virtual if virtual is not None else DynamicCache(config=base.config)
            if self.prefix:
                ids = torch.tensor([self.prefix], device=self.device)
                self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            shared: list[tuple[torch.Tensor, torch.Tensor]] = []
            for layer in cache.layers:
                keys, values = in_one_dtype(layer.keys, layer.values)
                shared.append((keys, values))
            self.options = {"shared_prefix": shared}
            self.shared_tokens = cache.get_seq_length()

    def cache(self, capacity: int) -> DynamicCache:
        """For ``capacity`` tokens per row; layers with a window of their own keep transformers'
        kind.
        """
        cache = DynamicCache(config=self.model.config)
        if self.plain_layers:
            cache.layers = [_Reserved(capacity) for _ in cache.layers]
        return cache

    def opened(self, rows: int, capacity: int) -> DynamicCache:
        """A cache for ``capacity`` tokens of each row's own, after the virtual tokens that no
        shared prefix holds.
        """
        if self.virtual is None:
            return self.cache(capacity)
        cache = self.cache(self.virtual.get_seq_length() + capacity)
        for index, layer in enumerate(self.virtual.layers):
            cache.update(
                layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1), index
            )
        return cache

    def read(
        self, prompts: Sequence[Sequence[int]], capacity: int
    ) -> tuple[torch.Tensor, torch.Tensor, DynamicCache]:
        """(logits of what follows, mask, cache with room for ``capacity`` more tokens) of one batch
        of prompts.
        """
        ids, mask = self.left_padded(prompts)
        longest = ids.shape[1]
        if not self.packs:
            cache = self.opened(len(prompts), longest + capacity)
            return self.step(ids, mask, cache, last=1)[:, -1], mask, cache
        lengths = tuple(len(prompt) - len(self.prefix) for prompt in prompts)
        own = DynamicCache(config=self.model.config)
        logits = self.model(
            input_ids=ids[mask.bool()][None],
            attention_mask=torch.zeros(
                1, 1, 1, 1, dtype=torch.bool, device=self.device
            ),  # 4-D: handed through, and ignored
            position_ids=torch.cat(
                [torch.arange(length, device=self.device) for length in lengths]
            )[None]
            + self.shared_tokens,
            past_key_values=own,
            use_cache=True,
            logits_to_keep=torch.tensor(lengths, device=self.device).cumsum(0) - 1,
            row_lengths=lengths,
            **self.options,
        ).logits[0]
        cache = self.cache(longest + capacity)
        for held, layer in zip(own.layers, cache.layers, strict=True):
            layer.hold(
                list(
                    zip(
                        *(states[0].split(lengths, dim=1) for states in (held.keys, held.values)),
                        strict=True,
                    )
                )
            )
            held.keys = held.values = None
        return logits, mask, cache

    def left_padded(self, prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """(ids, mask) of the prompts' own parts, (rows, longest); the mask also covers what the
        cache begins with.
        """
        own = [prompt[len(self.prefix) :] for prompt in prompts]
        longest = max(map(len, own))
        opened = [1] * (self.virtual.get_seq_length() if self.virtual is not None else 0)
        ids = [[*[self.pad] * (longest - len(o)), *o] for o in own]
        mask = [[*opened, *[0] * (longest - len(o)), *[1] * len(o)] for o in own]
        return torch.tensor(ids, device=self.device), torch.tensor(mask, device=self.device)

    def step(
        self, ids: torch.Tensor, mask: torch.Tensor, cache: DynamicCache, *, last: int
    ) -> torch.Tensor:
        """Reads ``ids`` (rows, new), which ``mask`` (rows, held + new) ends with; logits of the
        ``last`` tokens (0: all).
        """
        positions = (self.shared_tokens + mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        logits: torch.Tensor = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=last,
            **self.options,
        ).logits
        return logits


def _virtual_tokens(model: Any) -> DynamicCache | None:
    """Keys and values of the virtual tokens that an adapter puts before every row, (1, heads,
    tokens, width) per layer.
    """
    settings = getattr(model, "active_peft_config", None)
    if settings is None or not settings.is_prompt_learning:
        return None
    prompt = model.get_prompt(batch_size=1)
    if not isinstance(prompt, torch.Tensor):  # prefix tuning trains keys and values themselves
        return prompt
    base = model.get_base_model()
    cache = DynamicCache(config=base.config)
    base(
        inputs_embeds=prompt.to(base.dtype), past_key_values=cache, use_cache=True, logits_to_keep=1
    )
    return cache


def common_prefix(prompts: Sequence[Sequence[int]]) -> list[int]:
    """The tokens all prompts begin with, leaving every prompt at least one of its own."""
    first, last = min(map(list, prompts)), max(map(list, prompts))
    limit = min(len(p) for p in prompts) - 1
    length = 0
    while length < limit and first[length] == last[length]:
        length += 1
    return list(first[:length])


def even_batches(count: int, at_most: int) -> list[range]:
    """``count`` rows in as few batches of at most ``at_most`` as possible, all of about the same
    size.
    """
    batches = -(-count // at_most)
    edges = [count * i // batches for i in range(batches + 1)]
    return [range(a, b) for a, b in itertools.pairwise(edges)]


def batches_of(
    prompts: Sequence[Sequence[int]],
    references: Sequence[Sequence[int]],
    max_new_tokens: int,
    at_most: int,
    tokens: int,
    copied: float = 0.0,
) -> list[list[int]]:
    """Numbers of the prompts that are answered together, the shortest first: at most ``at_most``
    rows in a batch.

    A batch holds its longest prompt and answer for each of its rows; where that is more than
    ``tokens``, it is divided evenly, down to one row. What all prompts begin with is held once; for
    each row counts the part ``copied`` of it, which a GPU copies while it reads the prompts, one
    layer at a time.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    shared = len(common_prefix(prompts))
    result: list[list[int]] = []
    for batch in even_batches(len(order), at_most):
        numbers = [order[i] for i in batch]
        longest = (
            max(len(prompts[i]) for i in numbers)
            - shared
            + max(max_new_tokens, *(len(references[i]) for i in numbers))
        )
        fitting = max(1, int(tokens / (longest + copied * shared)))
        result += [[numbers[i] for i in part] for part in even_batches(len(numbers), fitting)]
    return result


class _InHalves:
    """Works on batches; where memory runs out, on the halves of that batch and of every later one."""  # noqa: E501

    def __init__(self, work: Callable[[Sequence[int]], None], device: torch.device) -> None:
        self.work, self.device = work, device
        self.halved = threading.Event()

    def __call__(self, numbers: Sequence[int]) -> None:
        if not self.halved.is_set():
            try:
                self.work(numbers)
                return
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or len(numbers) == 1:
                    raise
            self.halved.set()  # here the error is gone, and what it kept alive
            released(self.device)
            console.print(
                f"[yellow]out of memory with {len(numbers)} answers at once: batches are halved"
                " from here on"
            )
        for half in even_batches(len(numbers), -(-len(numbers) // 2)):
            self.work([numbers[i] for i in half])


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
    batch_tokens: int | None = None,
    quiet: bool = False,
    pool: Executor | None = None,
    guide: Guide | None = None,
) -> list[Answer]:
    """Greedy answers to ``prompts`` and the likelihood of ``references``, in order; 0
    ``max_new_tokens``: the likelihood alone.

    The model computes as in its training steps. On a CPU several batches run side by side, each on
    one thread: matrices this small do not keep two threads busy. A batch has at most ``batch_size``
    rows and ``batch_tokens`` tokens (None: as many as memory allows); where memory does not suffice
    even so, batches are halved once. Threads are its own, or those of ``pool``, which then compute
    everything. ``guide`` says which tokens an answer may have; likelihoods are those without it.
    """
    model.eval()
    if not prompts:
        return []

    @torch.inference_mode()
    def read_beginning() -> _Reader:
        with as_trained(model):
            return deterministic_if_possible(lambda: _Reader(model, prompts, pad))

    (reader,) = (
        pool.map(lambda read: read(), [read_beginning]) if pool is not None else [read_beginning()]
    )
    # padding after virtual tokens would count in a layer's window
    together = batch_size if reader.virtual is None else 1
    limit = batch_tokens or generation_tokens(model)
    # of the prefix, for each row
    copied = (
        0.0 if reader.device.type == "cpu" else 1 / model.config.get_text_config().num_hidden_layers
    )
    batches = batches_of(prompts, references, max_new_tokens, together, limit, copied)
    results: dict[int, Answer] = {}
    abandoned = threading.Event()
    weights = CastWeights(lora_weights(model), autocast_of(model))
    step = StepContext(arithmetic=Arithmetic(weights=weights, fast=True))

    @torch.inference_mode()
    def work_on(numbers: Sequence[int]) -> None:
        with as_trained(model), computing(step):
            deterministic_if_possible(lambda: answer_batch(numbers))

    def answer_batch(numbers: Sequence[int]) -> None:
        targets = [references[i] for i in numbers]
        logits, mask, cache = reader.read(
            [prompts[i] for i in numbers], max(max_new_tokens, *map(len, targets))
        )
        ticker.advance(0, sum(len(prompts[i]) - len(reader.prefix) for i in numbers))
        losses = (
            _score(
                reader,
                logits,
                mask,
                cache,
                targets,
                SCORED_TOGETHER // 2 if work.halved.is_set() else SCORED_TOGETHER,
            )
            if reader.plain_layers
            else [_score_alone(reader, prompts[i], references[i]) for i in numbers]
        )
        ticker.advance(0, sum(map(len, targets)))
        guided = [guide.row() for _ in numbers] if guide is not None else None
        answers = _decode(
            reader, logits, mask, cache, stop, max_new_tokens, ticker, abandoned, guided
        )
        for number, tokens, nll in zip(numbers, answers, losses, strict=True):
            finish = "length" if max_new_tokens else NOT_ASKED
            results[number] = Answer(
                tuple(tokens), "stop" if tokens and tokens[-1] in stop else finish, nll
            )

    work = _InHalves(work_on, reader.device)
    workers = min(len(batches), cpu_count()) if reader.device.type == "cpu" else 1
    with progress(title, len(prompts), quiet=quiet) as ticker, ModelPatches(model) as patches:
        patches.use_fast_linears()
        if pool is not None:
            list(pool.map(work, batches))
        elif workers == 1:
            for batch in batches:
                work(batch)
        else:
            threads = torch.get_num_threads()
            with ThreadPoolExecutor(
                workers, "answer", initializer=torch.set_num_threads, initargs=(1,)
            ) as pool:
                try:
                    list(pool.map(work, batches))
                finally:  # after Ctrl-C nobody waits for the answers that are still being written
                    abandoned.set()
                    pool.shutdown(cancel_futures=True)
                    torch.set_num_threads(threads)
    return [results[i] for i in range(len(prompts))]


def _score(
    reader: _Reader,
    logits: torch.Tensor,
    mask: torch.Tensor,
    cache: DynamicCache,
    targets: Sequence[Sequence[int]],
    at_once: int,
) -> list[float]:
    """Summed NLL of each target after the prompts in ``cache``, whose last token gave ``logits``
    (rows, vocabulary).

    The logits of ``at_once`` rows exist at a time, fewer where targets are long.
    """
    losses: list[torch.Tensor] = []
    together = max(1, min(at_once, SCORED_TOKENS // max(1, *map(len, targets))))
    for start in range(0, len(targets), together):
        rows = slice(start, start + together)
        part = targets[rows]
        longest = max(map(len, part))
        inputs = torch.tensor(
            [[*t[:-1], *[reader.pad] * (longest - len(t))] for t in part], device=mask.device
        )
        scores = logits[rows, None]
        if longest > 1:
            copied = reader.cache(mask.shape[1] + longest)
            for index, layer in enumerate(cache.layers):
                copied.update(layer.keys[rows], layer.values[rows], index)
            seen = torch.cat([mask[rows], torch.ones_like(inputs)], dim=1)
            scores = torch.cat([scores, reader.step(inputs, seen, copied, last=0)], dim=1)
        for row, target in enumerate(part):
            likelihoods = torch.log_softmax(scores[row, : len(target)].float(), dim=-1)
            wanted = likelihoods.gather(1, torch.tensor(target, device=mask.device)[:, None])
            losses.append(-wanted.double().sum())
    scored: list[float] = torch.stack(losses).tolist()  # one wait for the device, not one a row
    return scored


def _score_alone(reader: _Reader, prompt: Sequence[int], target: Sequence[int]) -> float:
    """Summed NLL of ``target`` by one forward without a cache: for layers whose cache forgets what
    left their window.
    """
    ids = torch.tensor([[*prompt, *target[:-1]]], device=reader.device)
    logits = reader.whole(input_ids=ids, use_cache=False, logits_to_keep=len(target)).logits[0]
    likelihoods = torch.log_softmax(logits.float(), dim=-1)
    return (
        -likelihoods.gather(1, torch.tensor(target, device=reader.device)[:, None])
        .double()
        .sum()
        .item()
    )


def _decode(
    reader: _Reader,
    logits: torch.Tensor,
    mask: torch.Tensor,
    cache: DynamicCache,
    stop: frozenset[int],
    max_new_tokens: int,
    ticker: Ticker,
    abandoned: threading.Event,
    guided: Sequence[Guided] | None = None,
) -> list[list[int]]:
    """Greedy tokens of each row, turn-end included.

    Rows that ended leave the batch. Stops when ``abandoned``.
    """
    answers: list[list[int]] = [[] for _ in range(mask.shape[0])]
    alive = list(range(mask.shape[0]))  # rows in the batch; those that ended may stay for a while
    unfinished = len(alive)
    for position in range(max_new_tokens):
        if guided is not None:
            logits = _narrowed(
                logits, [None if stop.intersection(answers[row]) else guided[row] for row in alive]
            )
        tokens = logits.argmax(dim=-1)
        for row, token in zip(alive, tokens.tolist(), strict=True):
            answers[row].append(token)
            if guided is not None:
                guided[row].take(token)
        going = [i for i, row in enumerate(alive) if not stop.intersection(answers[row])]
        # a row's share of the work that was counted before this token
        written = position / max_new_tokens
        ended = unfinished - len(going)
        ticker.advance(ended * (1 - written) + len(going) / max_new_tokens, len(going))
        unfinished = len(going)
        if not going or position + 1 == max_new_tokens or abandoned.is_set():
            break
        # moving memory costs as well
        if len(going) < len(alive) and (len(going) <= 0.8 * len(alive) or len(alive) <= 8):
            rows = torch.tensor(going, device=mask.device)
            for layer in cache.layers:
                (
                    layer.keep_rows(rows)
                    if isinstance(layer, _Reserved)
                    else layer.batch_select_indices(rows)
                )
            alive, tokens, mask = [alive[i] for i in going], tokens[rows], mask[rows]
        mask = torch.cat([mask, mask.new_ones((len(alive), 1))], dim=1)
        logits = reader.step(tokens[:, None], mask, cache, last=1)[:, -1]
    return [_until_stop(tokens, stop) for tokens in answers]


def _narrowed(logits: torch.Tensor, guided: Sequence[Guided | None]) -> torch.Tensor:
    """Logits (rows, vocabulary) of what each row may say next; None: whatever it likes, for it has
    ended.
    """
    anything = torch.ones(logits.shape[1], dtype=torch.bool)
    allowed = torch.stack([one.allowed() if one is not None else anything for one in guided])
    return logits.masked_fill(~allowed.to(logits.device), -torch.inf)


def _until_stop(tokens: list[int], stop: frozenset[int]) -> list[int]:
    end = next((i for i, token in enumerate(tokens) if token in stop), len(tokens))
    return tokens[: end + 1]
