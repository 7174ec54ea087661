"""The trial that finds how a model takes rows laid end to end, and how it reads prompts.

What a model's config says is not trusted beyond the architectures in ``PROVEN``: a few rows of
random tokens are computed end to end and each alone, and a way whose logits differ is not taken.
"""

import inspect
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch
from transformers import DynamicCache, PreTrainedModel

from hydratune.models import row_mixers
from hydratune.models.attention import NAME, KeysAndValues, supports_packing
from hydratune.models.compute import nothing_refused
from hydratune.models.row_packing import (
    OUR_ATTENTION,
    Level,
    Reading,
    RowPacking,
    packed_inputs,
    row_packing,
)

# their packed losses and gradients are compared with those of padded batches by fast tests, with
# windows shorter than the rows
PROVEN = frozenset(
    ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3_text", "phi3", "gpt_neox", "smollm3"]
)
_LENGTHS = (9, 4, 13)  # rows of the trial
_LARGEST_DIFFERENCE = 1e-3  # of the logits of a row, relative to their size, in fp32
_LARGEST_IN_HALF = 0.1  # the same in 16-bit numbers, and for quantised weights


class UnsupportedModelError(Exception):
    """The model cannot be trained as a causal language model; the message says why."""


def choose(model: PreTrainedModel) -> RowPacking:
    """Prepare ``model`` for rows laid end to end in the fastest way that is right, and store it.

    Raises ``UnsupportedModelError`` for a model whose logits cannot be computed from tokens alone,
    or that reads the tokens which it has to predict.
    """
    config = model.config.get_text_config()
    missing = [n for n in ("hidden_size", "num_hidden_layers") if not hasattr(config, n)]
    if missing:  # of several models in one: what is computed at once is decided by these
        names = ", ".join(missing)
        raise UnsupportedModelError(f"the config of {type(model).__name__} has no {names}")
    kind = str(getattr(model.config, "model_type", ""))
    if (kind in PROVEN and supports_packing(model) is None) or model.device.type == "meta":
        packing = row_packing(model)
        if packing.level is Level.attention:
            model.set_attn_implementation(NAME)
    else:
        with nothing_refused():
            packing = _Trial(model).choose()
    model.hydratune_packing = packing  # type: ignore[assignment]  # a module takes any attribute
    return packing


class _Trial:
    """Compares rows laid end to end with each row alone."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.implementation = model, model.config._attn_implementation
        vocabulary = int(model.config.get_text_config().vocab_size)
        low = min(10, vocabulary - 1)
        generator = torch.Generator().manual_seed(0)
        self.rows = [
            torch.randint(low, vocabulary, (1, n), generator=generator).to(model.device)
            for n in _LENGTHS
        ]

    @torch.no_grad()
    def choose(self) -> RowPacking:
        modes = {module: module.training for module in self.model.modules()}
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        try:
            self.model.train()  # some models read more than tokens in training
            with torch.random.fork_rng(devices):
                self._alone(self.rows[0])
            self.model.eval()
            self.expected = [self._alone(row) for row in self.rows]
            self._check_causality()
            packing = self._first_right()
            calls = self._calls_of_last_layer()
            enters = calls == 1 and self._enters_in_the_middle()
            return replace(
                packing, ends_once=calls == 1, enters_anywhere=enters, reading=self._reading()
            )
        finally:
            for module, mode in modes.items():
                module.training = mode

    def _alone(self, row: torch.Tensor) -> torch.Tensor:
        try:
            inputs = {"input_ids": row, "attention_mask": torch.ones_like(row)}
            logits = self.model(**inputs, use_cache=False).logits[0]
        except Exception as error:  # whatever a model's own code raises
            raise UnsupportedModelError(
                f"{type(self.model).__name__} computes no logits from tokens alone"
                f" ({type(error).__name__}: {_one_line(error)})"
            ) from error
        if not isinstance(logits, torch.Tensor) or logits.shape[0] != row.shape[1]:
            raise UnsupportedModelError(
                f"{type(self.model).__name__} does not compute the logits of a next token for"
                " every token"
            )
        return logits

    def _check_causality(self) -> None:
        half = _LENGTHS[-1] // 2
        short, expected = self._alone(self.rows[-1][:, :half]), self.expected[-1][:half]
        equal = [self._equal(*pair) for pair in zip(short.split(1), expected.split(1), strict=True)]
        # rounding to 16 bits may send a token to another expert
        tolerated = 0 if self._is_exact() else half // 2
        if equal.count(False) > tolerated:
            raise UnsupportedModelError(
                f"{type(self.model).__name__} reads the tokens that it has to predict, so its loss"
                " would mean nothing (encoders need is_decoder=true in their config.json)"
            )

    def _equal(self, logits: torch.Tensor, expected: torch.Tensor) -> bool:
        """Return whether the logits (tokens, vocabulary) of a row are those expected."""
        if logits.shape != expected.shape or not torch.isfinite(logits).all():
            return False
        logits, expected = logits.float(), expected.float()
        size = (expected - expected.mean(dim=-1, keepdim=True)).norm(dim=-1)
        error = (logits - expected).norm(dim=-1) / size.clamp_min(1e-30)
        largest = _LARGEST_DIFFERENCE if self._is_exact() else _LARGEST_IN_HALF
        return bool((error <= largest).all())

    def _is_exact(self) -> bool:
        """Return whether the model computes in fp32."""
        return self.model.dtype is torch.float32 and not getattr(self.model, "is_quantized", False)

    def _first_right(self) -> RowPacking:
        why = ""
        for prepare, packing in self._ways():
            prepare()
            why = self._fault(packing) or ""
            if not why:
                if packing.level is Level.attention:
                    shares, reads = self._shares_prefix()
                    return replace(packing, shares_prefix=shares, reads_cache=reads)
                return packing
            self._undo()
        reason = f"{type(self.model).__name__} {why or 'has no list of layers'}"
        return RowPacking(Level.padded, reason)

    def _ways(self) -> list[tuple[Callable[[], None], RowPacking]]:
        model, ways = self.model, []
        if supports_packing(model) is None:
            ways.append((self._use_our_attention, RowPacking(Level.attention)))
        other = _layers_beside_attention(model)
        if other:

            def hybrid() -> None:
                self._use_our_attention()
                self._replace([m for layer in other for m in row_mixers.mixers_of(layer)])

            ways.append((hybrid, RowPacking(Level.hybrid)))
        layers = row_mixers.decoder_layers(model)
        mixers = [row_mixers.mixers_of(layer) for layer in layers]
        if layers and all(mixers):
            flat = [mixer for group in mixers for mixer in group]
            ways.append((lambda: self._replace(flat), RowPacking(Level.mixers)))
            without = RowPacking(Level.mixers, by_argument=False)
            ways.append((lambda: self._replace(flat), without))
        if layers:
            ways.append((lambda: self._replace(layers), RowPacking(Level.layers)))
            without = RowPacking(Level.layers, by_argument=False)
            ways.append((lambda: self._replace(layers), without))
        takes_any = any(
            parameter.kind is parameter.VAR_KEYWORD
            for parameter in inspect.signature(model.forward).parameters.values()
        )
        return [way for way in ways if takes_any or not way[1].by_argument]

    def _use_our_attention(self) -> None:
        self.model.set_attn_implementation(NAME)

    def _replace(self, modules: Sequence[torch.nn.Module]) -> None:
        for module in modules:
            row_mixers.replace(module)

    def _undo(self) -> None:
        row_mixers.restore(self.model)
        if self.model.config._attn_implementation != self.implementation:
            self.model.set_attn_implementation(self.implementation)

    def _fault(self, packing: RowPacking) -> str | None:
        """Return what is wrong with the logits of rows laid end to end in this way."""
        ids = torch.cat(self.rows, dim=1)
        positions = torch.cat([torch.arange(n, device=ids.device) for n in _LENGTHS])[None]
        inputs = packed_inputs(ids, positions, _LENGTHS, packing)
        context = nullcontext() if packing.by_argument else row_mixers.rows_end_to_end(_LENGTHS)
        try:
            with context:
                logits = self.model(**inputs).logits[0]
        except Exception as error:  # whatever a model's own code raises
            return f"cannot take rows end to end ({type(error).__name__}: {_one_line(error)})"
        parts = logits.split(list(_LENGTHS)) if len(logits) == sum(_LENGTHS) else []
        same = [self._equal(*pair) for pair in zip(parts, self.expected, strict=bool(parts))]
        if same and all(same):
            return None
        return "computes other logits for rows laid end to end than for each row alone"

    def _reading(self) -> Reading:
        ids = torch.zeros(len(_LENGTHS), max(_LENGTHS), dtype=torch.long, device=self.model.device)
        mask = torch.zeros_like(ids)
        for number, (row, length) in enumerate(zip(self.rows, _LENGTHS, strict=True)):
            ids[number, -length:], mask[number, -length:] = row[0], 1
        if self._continues(ids, mask, self.expected):
            return Reading.batches
        last = self.rows[-1]
        alone = self._continues(last, torch.ones_like(last), self.expected[-1:])
        return Reading.rows if alone else Reading.whole_rows

    def _continues(
        self, ids: torch.Tensor, mask: torch.Tensor, expected: Sequence[torch.Tensor]
    ) -> bool:
        """Return whether the last token of every row, read after a cache of those before it, has
        the expected logits.
        """
        cache = DynamicCache(config=self.model.config)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        try:
            for span in (slice(0, -1), slice(-1, None)):
                output = self.model(
                    input_ids=ids[:, span],
                    attention_mask=mask[:, : ids.shape[1] - 1] if span.start == 0 else mask,
                    position_ids=positions[:, span],
                    past_key_values=cache,
                    use_cache=True,
                )
        except Exception:  # whatever a model's own code raises
            return False
        pairs = zip(output.logits, expected, strict=True)
        return all(self._equal(logits[-1:], known[-1:]) for logits, known in pairs)

    def _calls_of_last_layer(self) -> int:
        layers, calls = row_mixers.decoder_layers(self.model), []
        if not layers:
            return 0
        handle = layers[-1].register_forward_hook(lambda *_: calls.append(1))
        self._alone(self.rows[0])
        handle.remove()
        return len(calls)

    def _enters_in_the_middle(self) -> bool:
        """Return whether the layers below the middle one can be skipped once it gets the hidden
        states that entered it before.
        """
        layers, row = row_mixers.decoder_layers(self.model), self.rows[-1]
        middle = len(layers) // 2
        states: list[object] = []

        def replaced(module: torch.nn.Module, args: tuple[object, ...]) -> tuple[object, ...]:
            if not states:
                states.append(args[0])
            return (states[0], *args[1:])

        handle = layers[middle].register_forward_pre_hook(replaced)
        forwards = [vars(layer).get("forward") for layer in layers[:middle]]
        try:
            self._alone(row)
            for layer in layers[:middle]:
                vars(layer)["forward"] = lambda hidden_states, *args, **kwargs: hidden_states
            return self._equal(self._alone(row), self.expected[-1])
        except (UnsupportedModelError, IndexError):  # the layers below do more than pass states on
            return False
        finally:
            handle.remove()
            for layer, forward in zip(layers, forwards, strict=False):
                vars(layer).pop("forward", None)
                if forward is not None:
                    vars(layer)["forward"] = forward

    def _shares_prefix(self) -> tuple[bool, bool]:
        """Return whether every layer calls our attention once, so that one copy of a common
        beginning can serve all rows; and whether with the keys and values that a cache holds.
        """
        seen: dict[int, list[KeysAndValues]] = {}

        def record(layer: int, key: torch.Tensor, value: torch.Tensor) -> KeysAndValues:
            seen.setdefault(layer, []).append((key, value))
            return key, value

        row, prefix = self.rows[-1], _LENGTHS[-1] // 2
        lengths = (prefix, _LENGTHS[-1] - prefix)
        positions = torch.arange(_LENGTHS[-1], device=row.device)[None]
        inputs = packed_inputs(row, positions, lengths, OUR_ATTENTION)
        cache = DynamicCache(config=self.model.config)
        try:
            logits = self.model(**inputs, record=record).logits[0]
        except Exception:  # whatever a model's own code raises
            return False, False
        shares = (
            self._equal(logits, self.expected[-1])
            and sorted(seen) == list(range(len(cache.layers)))
            and all(len(pairs) == 1 for pairs in seen.values())
        )
        if not shares:
            return False, False
        try:
            self.model(input_ids=row[:, :prefix], past_key_values=cache, use_cache=True)
            held = [(layer.keys, layer.values) for layer in cache.layers]
            return True, all(
                seen[number][0][part].shape == pair[part].shape
                for number, pair in enumerate(held)
                for part in (0, 1)
            )
        except Exception:  # the same
            return True, False


def _layers_beside_attention(model: PreTrainedModel) -> list[torch.nn.Module]:
    """Return the decoder layers whose mixers are something else than the attention that ours
    replaces; none where ours replaces no attention of the model.
    """
    config = model.config.get_text_config()
    layers, kinds = row_mixers.decoder_layers(model), getattr(config, "layer_types", None) or []
    own = ("full_attention", "sliding_attention")
    if (
        not getattr(model, "_supports_attention_backend", False)
        or getattr(config, "attn_logit_softcapping", None)
        or any(name.endswith("sinks") for name, _ in model.named_parameters())
        or len(kinds) != len(layers)
        or not any(kind in own for kind in kinds)
    ):
        return []
    return [layer for layer, kind in zip(layers, kinds, strict=True) if kind not in own]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]
