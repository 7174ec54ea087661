"""Reading prompts: what all prompts begin with is computed once, and kept once, for all batches.

Such a beginning is a system prompt, a schema, few-shot examples, or the virtual tokens of an
adapter. The prompts of a batch are laid end to end where the model can do that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from hydratune.models.attention import in_one_dtype, supports_packing
from hydratune.models.row_packing import Reading, can_share_cache, row_packing

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Tokens = Sequence[int]
KeysAndValues = tuple[torch.Tensor, torch.Tensor]


class ReservedLayer(DynamicLayer):  # type: ignore[misc] # transformers has no types
    """Keys and values of one layer in one buffer of known size.

    The usual layer copies everything it holds for every new token.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> KeysAndValues:
        """Append (rows, heads, new, width), and return all keys and values.

        They are in the dtype that attention computes in.
        """
        key_states, value_states = _in_dtype_of_attention(key_states, value_states)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.buffers = [
                states.new_empty((*states.shape[:2], self.capacity, states.shape[3]))
                for states in (key_states, value_states)
            ]
            self.length = 0
        start, self.length = self.length, self.length + key_states.shape[2]
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, start : self.length] = states
        self._slice_buffers()
        return self.keys, self.values

    def fill(self, rows: Sequence[KeysAndValues]) -> None:
        """Hold (keys, values) of every row, as if the rows had been padded on the left.

        Each is (heads, own tokens, width).
        """
        rows = [_in_dtype_of_attention(keys, values) for keys, values in rows]
        self.length = max(keys.shape[1] for keys, _ in rows)
        self.lazy_initialization(*(states[None] for states in rows[0]))
        self.buffers = [
            states.new_zeros((len(rows), len(states), self.capacity, states.shape[2]))
            for states in rows[0]
        ]
        for number, row in enumerate(rows):
            for buffer, states in zip(self.buffers, row, strict=True):
                buffer[number, :, self.length - states.shape[1] : self.length] = states
        self._slice_buffers()

    def _slice_buffers(self) -> None:
        self.keys, self.values = (buffer[:, :, : self.length] for buffer in self.buffers)

    def keep_rows(self, rows: torch.Tensor) -> None:
        """Drop all rows but these."""
        self.buffers = [buffer[rows] for buffer in self.buffers]
        self._slice_buffers()


def _in_dtype_of_attention(keys: torch.Tensor, values: torch.Tensor) -> KeysAndValues:
    keys, values = in_one_dtype(keys, values)
    return keys, values


@dataclass(frozen=True)
class KnownTokens:
    """Tokens that a model has read, and their (keys, values) of every layer.

    Keys and values are (1, heads, tokens, width).
    """

    ids: Tokens
    layers: Sequence[KeysAndValues]


class WholeRow(DynamicCache):  # type: ignore[misc] # transformers has no types
    """One row that a model without a usable cache reads again for every token."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: torch.Tensor | None = None  # (1, tokens) read so far


class PromptReader:
    """A model that has read what comes before all prompts, and reads batches from there on.

    Where the model's attention can share one copy with all rows (``shared_tokens`` of them), the
    beginning is no part of a row's own cache. Elsewhere every row, alone in its batch, begins with
    the virtual tokens of the adapter.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        prompts: Sequence[Tokens],
        pad: int,
        known: KnownTokens | None = None,
    ) -> None:
        """Read what all prompts begin with; what is ``known`` of it is not read again."""
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.whole, self.pad, self.device = model, pad, next(model.parameters()).device
        self.plain_layers = row_packing(base).reading is not Reading.whole_rows and all(
            type(layer) is DynamicLayer for layer in DynamicCache(config=base.config).layers
        )
        virtual = _virtual_tokens(model)
        self.model = model if virtual is None else base  # the virtual tokens are in the cache
        shares = can_share_cache(base)
        self.packs = shares and supports_packing(base) is None
        self.prefix = common_prefix(prompts) if shares else []
        self.reading = row_packing(base).reading
        self.virtual = None if shares else virtual
        self.shared_tokens = 0
        self.options: dict[str, list[KeysAndValues]] = {}
        if shares and (self.prefix or virtual is not None):
            cache = virtual if virtual is not None else DynamicCache(config=base.config)
            self._read_prefix(cache, known if virtual is None else None)
            shared = [_in_dtype_of_attention(layer.keys, layer.values) for layer in cache.layers]
            self.options = {"shared_prefix": shared}
            self.shared_tokens = cache.get_seq_length()

    def _read_prefix(self, cache: DynamicCache, known: KnownTokens | None) -> None:
        held = 0
        if known is not None:
            held = _common_length(self.prefix, known.ids)
            for index, layer in enumerate(known.layers if held else ()):
                cache.update(*(states[:, :, :held] for states in layer), index)
        if self.prefix[held:]:
            ids = torch.tensor([self.prefix[held:]], device=self.device)
            self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)

    def cache(self, capacity: int) -> DynamicCache:
        """Return a cache for ``capacity`` tokens per row.

        Layers with a window of their own keep the kind that transformers gives them.
        """
        if self.reading is Reading.whole_rows:
            return WholeRow()
        cache = DynamicCache(config=self.model.config)
        if self.plain_layers:
            cache.layers = [ReservedLayer(capacity) for _ in cache.layers]
        return cache

    def _opened_cache(self, rows: int, capacity: int) -> DynamicCache:
        """Return a cache for ``capacity`` tokens per row that holds the unshared virtual tokens."""
        if self.virtual is None:
            return self.cache(capacity)
        cache = self.cache(self.virtual.get_seq_length() + capacity)
        for index, layer in enumerate(self.virtual.layers):
            keys, values = (s.expand(rows, -1, -1, -1) for s in (layer.keys, layer.values))
            cache.update(keys, values, index)
        return cache

    def read(
        self, prompts: Sequence[Tokens], capacity: int
    ) -> tuple[torch.Tensor, torch.Tensor, DynamicCache]:
        """Read one batch of prompts.

        Returns (logits of the next token, mask, cache with room for ``capacity`` more tokens).
        """
        ids, mask = self.left_padded(prompts)
        longest = ids.shape[1]
        if not self.packs:
            cache = self._opened_cache(len(prompts), longest + capacity)
            return self.step(ids, mask, cache, last=1)[:, -1], mask, cache
        lengths = tuple(len(prompt) - len(self.prefix) for prompt in prompts)
        packed = DynamicCache(config=self.model.config)
        logits = self._read_packed(ids[mask.bool()][None], lengths, packed)
        cache = self.cache(longest + capacity)
        for held, layer in zip(packed.layers, cache.layers, strict=True):
            both = [states[0].split(lengths, dim=1) for states in (held.keys, held.values)]
            layer.fill(list(zip(*both, strict=True)))
            held.keys = held.values = None  # free the memory of one layer at a time
        return logits, mask, cache

    def _read_packed(
        self, ids: torch.Tensor, lengths: tuple[int, ...], cache: DynamicCache
    ) -> torch.Tensor:
        """Read rows of ``lengths`` tokens laid end to end; return logits (rows, vocabulary)."""
        positions = torch.cat([torch.arange(length, device=self.device) for length in lengths])
        ignored_mask = torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=self.device)  # 4-D: as is
        logits: torch.Tensor = self.model(
            input_ids=ids,
            attention_mask=ignored_mask,
            position_ids=positions[None] + self.shared_tokens,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=torch.tensor(lengths, device=self.device).cumsum(0) - 1,
            row_lengths=lengths,
            **self.options,
        ).logits[0]
        return logits

    def known_tokens(
        self, prompt: Tokens, answer: Tokens, cache: DynamicCache
    ) -> KnownTokens | None:
        """Return what was read of one prompt and its answer, for a reader of a longer prompt.

        ``cache`` is the one that ``read`` returned for ``prompt``. None: its layers cannot be cut.
        """
        if "shared_prefix" not in self.options or _virtual_tokens(self.whole) is not None:
            return None
        layers = [
            (torch.cat([keys, own.keys], dim=2), torch.cat([values, own.values], dim=2))
            for (keys, values), own in zip(self.options["shared_prefix"], cache.layers, strict=True)
        ]
        count = layers[0][0].shape[2]
        return KnownTokens([*prompt, *answer][:count], layers)

    def left_padded(self, prompts: Sequence[Tokens]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (ids, mask) of the prompts without their common prefix, both (rows, longest).

        The mask also covers the virtual tokens that the cache begins with.
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
        """Read ``ids`` (rows, new) after those in ``cache``; return logits of the ``last`` tokens.

        ``mask`` is (rows, held + new); ``last=0`` returns the logits of all new tokens.
        """
        if isinstance(cache, WholeRow):
            cache.ids = ids if cache.ids is None else torch.cat([cache.ids, ids], dim=1)
            ones = torch.ones_like(cache.ids)
            output = self.model(input_ids=cache.ids, attention_mask=ones, use_cache=False)
            new: torch.Tensor = output.logits[:, -(last or ids.shape[1]) :]
            return new
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


def _virtual_tokens(model: "PreTrainedModel") -> DynamicCache | None:
    """Return keys and values of the virtual tokens that an adapter puts before every row.

    They are (1, heads, tokens, width) per layer; None where the adapter has none.
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


def _common_length(a: Tokens, b: Tokens) -> int:
    """Return with how many equal tokens two sequences begin."""
    pairs = zip(a, b, strict=False)
    return next((n for n, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))


def common_prefix(prompts: Sequence[Tokens]) -> list[int]:
    """Return the tokens all prompts begin with, leaving every prompt at least one of its own."""
    first, last = min(map(list, prompts)), max(map(list, prompts))
    limit = min(len(p) for p in prompts) - 1
    length = 0
    while length < limit and first[length] == last[length]:
        length += 1
    return list(first[:length])
