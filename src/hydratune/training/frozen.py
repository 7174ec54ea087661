"""Hidden states below the first trained layer: computed once, and kept on disk.

These layers compute the same in every epoch and every trial. With
``adapter.layers_to_transform=[28,29]`` of 30 layers, a step costs little more than the two layers
at the top. The states are computed once per data set, model and depth, and read again by every
later run on the same machine.
"""

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hydratune.cache import build_once, cache_folder
from hydratune.data.encoding.encoded import Encoded
from hydratune.data.rows import stable_hash
from hydratune.training.patches import ModelPatches
from hydratune.training.randomness import active_dropouts, drops_attention

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

StatesOf = Callable[[Sequence[Encoded]], torch.Tensor]  # rows -> states (1, tokens, width)


def decoder_layers(model: "PreTrainedModel | PeftModel") -> torch.nn.ModuleList | None:
    """Return the decoder layers of a transformers model."""
    layers = getattr(model.base_model, "layers", None)
    if not isinstance(layers, torch.nn.ModuleList):
        return None
    return layers if any(module is layers for module in model.modules()) else None


def frozen_layers(model: "PreTrainedModel | PeftModel") -> int:
    """Return how many layers at the bottom, and the embeddings below them, are not trained and draw
    no random numbers.
    """
    layers = decoder_layers(model)
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    if layers is None or drops_attention(model):
        return 0
    if any(id(p) in trained for p in model.get_input_embeddings().parameters()):
        return 0
    count = 0
    for layer in layers:
        if (
            any(id(p) in trained for p in layer.parameters())
            or next(active_dropouts(layer), None) is not None
        ):
            break
        count += 1
    # nothing trained in any layer: there is no layer that the states could enter
    return count if count < len(layers) else 0


class StoredStates:
    """The hidden states that enter the first trained layer, for every token of some rows."""

    def __init__(
        self, model: "PreTrainedModel | PeftModel", layers: int, rows: Sequence[Encoded], file: Path
    ) -> None:
        self.layers = layers
        self._starts: dict[int, int] = {}  # ``id`` of a row -> number of its first token
        position = 0
        for row in rows:
            self._starts[id(row)] = position
            position += len(row.ids) - 1
        width = model.config.get_text_config().hidden_size
        self._states = torch.from_file(
            str(file), shared=False, size=position * width, dtype=model.dtype
        ).view(position, width)
        self._rows = rows  # an id() is only valid while its row is alive

    def states(
        self, parts: Sequence[tuple[Encoded, int, int]], device: torch.device
    ) -> torch.Tensor | None:
        """Return the states (1, tokens, width) of the tokens [first, last) of rows laid end to end;
        None if a row is unknown.
        """
        if any(id(row) not in self._starts for row, _, _ in parts):
            return None
        spans = [
            (self._starts[id(row)] + first, self._starts[id(row)] + last)
            for row, first, last in parts
        ]
        return torch.cat([self._states[first:last] for first, last in spans])[None].to(device)


@dataclass(frozen=True)
class StoreOptions:
    """How states are computed and how much of them is kept."""

    limit: float  # bytes; never more than half of what is free on the disk is written
    micro_tokens: int  # computed at once in each thread, about
    workers: int  # threads
    pool: Executor | None = None  # threads that are used instead
    advance: Callable[[float, float], None] = lambda rows, tokens: None  # reports progress


def stored_states(
    model: "PreTrainedModel | PeftModel",
    rows: Sequence[Encoded],
    identity: str,
    states_of: StatesOf,
    options: StoreOptions,
) -> StoredStates | None:
    """Return the states of ``rows``, from the cache or computed by ``states_of``; None where this
    saves nothing or does not fit.

    ``identity`` names the base model and how it is computed. From here on ``model`` can begin with
    stored states.
    """
    count, layers = frozen_layers(model), decoder_layers(model)
    if not count or not rows or layers is None or not _fits(model, rows, options.limit):
        return None
    ModelPatches(model).use_stored_states(layers, count)
    key = stable_hash(
        [
            identity,
            str(model.dtype),
            count,
            torch.__version__,
            [stable_hash(list(row.ids)) for row in rows],
        ]
    )
    folder = build_once(f"frozen/{key}", lambda target: _build(target, rows, states_of, options))
    return StoredStates(model, count, rows, folder / "states.bin")


def _fits(model: "PreTrainedModel | PeftModel", rows: Sequence[Encoded], limit: float) -> bool:
    width, itemsize = model.config.get_text_config().hidden_size, model.dtype.itemsize
    size = sum(len(row.ids) - 1 for row in rows) * width * itemsize
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    return bool(size <= min(limit, shutil.disk_usage(folder).free / 2))


def _build(
    target: Path, rows: Sequence[Encoded], states_of: StatesOf, options: StoreOptions
) -> None:
    """Compute the states of ``rows`` and write them into the folder ``target``."""
    target.mkdir()
    parts = _parts(rows, options.micro_tokens)

    def compute(part: Sequence[Encoded]) -> torch.Tensor:
        return states_of(part)[0].contiguous().cpu()

    threads: dict[str, Any] = (
        {"initializer": torch.set_num_threads, "initargs": (1,)} if options.workers > 1 else {}
    )
    with (
        ThreadPoolExecutor(options.workers, "frozen", **threads) as own,
        (target / "states.bin").open("wb") as stream,
    ):
        try:
            results = (options.pool or own).map(compute, parts)
            for part, states in zip(parts, results, strict=True):
                stream.write(states.view(torch.uint8).numpy().tobytes())
                options.advance(len(part), sum(len(row.ids) for row in part))
        finally:  # after Ctrl-C the rest is not computed
            own.shutdown(cancel_futures=True)


def _parts(rows: Sequence[Encoded], tokens: int) -> list[list[Encoded]]:
    """Divide ``rows``, in order, into parts of at most ``tokens`` tokens, or one row."""
    parts: list[list[Encoded]] = []
    held = tokens
    for row in rows:
        held += len(row.ids)
        if held > tokens:
            parts.append([])
            held = len(row.ids)
        parts[-1].append(row)
    return parts
