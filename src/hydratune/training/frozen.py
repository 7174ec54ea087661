"""Layers below the first trained one compute the same in every epoch and every trial: what they
compute is kept on disk.

With ``adapter.layers_to_transform=[28,29]`` of 30 layers, a step then costs little more than the
two layers at the top. The hidden states are made once per data set, model and depth, and found
again by every later run on the same machine.
"""

import shutil
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from hydratune.cache import built, cache_folder
from hydratune.data.encoding.encoded import Encoded
from hydratune.data.rows import stable_hash

# .states: what enters the first trained layer; .wanted: stop there and show it
_thread = threading.local()


class _Reached(Exception):
    """Ends a forward pass at the first trained layer."""

    def __init__(self, states: torch.Tensor) -> None:
        self.states = states


def _layers(model: Any) -> tuple[str, torch.nn.ModuleList] | None:
    """(name, decoder layers) of a transformers model."""
    found = getattr(model.base_model, "layers", None)
    name = (
        next((name for name, m in model.named_modules() if m is found), None)
        if isinstance(found, torch.nn.ModuleList)
        else None
    )
    return (name, found) if name is not None and isinstance(found, torch.nn.ModuleList) else None


def frozen_layers(model: Any) -> int:
    """How many layers at the bottom, and the embeddings below them, are not trained and draw no
    random numbers.
    """
    layers = _layers(model)
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    if getattr(model.config.get_text_config(), "attention_dropout", 0.0):
        return 0
    if layers is None or any(id(p) in trained for p in model.get_input_embeddings().parameters()):
        return 0
    count = 0
    for layer in layers[1]:
        if any(id(p) in trained for p in layer.parameters()) or any(
            getattr(m, "p", 0.0) for m in layer.modules()
        ):
            break
        count += 1
    # nothing trained in any layer: there is nothing to hand the states to
    return count if count < len(layers[1]) else 0


class FrozenBottom:
    """Hidden states that enter the first trained layer, for every token of the given rows."""

    def __init__(self, model: Any, layers: int, rows: Sequence[Encoded], file: Path) -> None:
        self.layers, self._starts = layers, {}
        position = 0
        for row in rows:
            self._starts[id(row)] = position
            position += len(row.ids) - 1
        width = model.config.get_text_config().hidden_size
        self._states = torch.from_file(
            str(file), shared=False, size=position * width, dtype=model.dtype
        ).view(position, width)
        self._rows = rows  # an id() is only good while its row is alive
        _make_skippable(model, layers)

    def knows(self, rows: Sequence[Encoded]) -> bool:
        return all(id(row) in self._starts for row in rows)

    @contextmanager
    def entering(
        self, parts: Sequence[tuple[Encoded, int, int]], device: torch.device
    ) -> Iterator[None]:
        """In this thread, the model begins with the stored states of tokens [first, last) of rows
        laid end to end.
        """
        spans = [
            (self._starts[id(row)] + first, self._starts[id(row)] + last)
            for row, first, last in parts
        ]
        _thread.states = torch.cat([self._states[first:last] for first, last in spans])[None].to(
            device
        )
        try:
            yield
        finally:
            _thread.states = None


def _bytes_needed(model: Any, rows: Sequence[Encoded]) -> int:
    return (
        sum(len(row.ids) - 1 for row in rows)
        * model.config.get_text_config().hidden_size
        * model.dtype.itemsize
    )


def frozen_bottom(
    model: Any,
    rows: Sequence[Encoded],
    identity: str,
    limit: float,
    run: Callable[[Sequence[Encoded]], Any],
    advance: Callable[[float, float], None],
    *,
    together: int,
    workers: int,
    pool: Executor | None = None,
) -> FrozenBottom | None:
    """The states of ``rows``, from the cache or computed by ``run``, which takes rows end to end;
    None where nothing is gained.

    ``identity`` names the base model and how it is computed. Not more than ``limit`` bytes are
    written, and never more than half of what is free on the disk. About ``together`` tokens are
    computed at once in each of ``workers`` threads, or those of ``pool``.
    """
    layers, size = frozen_layers(model), _bytes_needed(model, rows)
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    if not layers or not rows or size > min(limit, shutil.disk_usage(folder).free / 2):
        return None
    _make_skippable(model, layers)
    key = stable_hash(
        [
            identity,
            str(model.dtype),
            layers,
            torch.__version__,
            [stable_hash(list(row.ids)) for row in rows],
        ]
    )

    def states(part: Sequence[Encoded]) -> torch.Tensor:
        _thread.wanted = True
        try:
            run(part)
        except _Reached as reached:
            return reached.states[0].contiguous().cpu()
        finally:
            _thread.wanted = False
        raise AssertionError("the model has no such layer")

    def build(target: Path) -> None:
        target.mkdir()
        parts = _parts(rows, together)
        options: dict[str, Any] = (
            {"initializer": torch.set_num_threads, "initargs": (1,)} if workers > 1 else {}
        )
        with (
            ThreadPoolExecutor(workers, "frozen", **options) as own,
            (target / "states.bin").open("wb") as stream,
        ):
            try:
                for part, found in zip(parts, (pool or own).map(states, parts), strict=True):
                    stream.write(found.view(torch.uint8).numpy().tobytes())
                    advance(len(part), sum(len(row.ids) for row in part))
            finally:  # after Ctrl-C nobody waits for the rest
                own.shutdown(cancel_futures=True)

    return FrozenBottom(model, layers, rows, built(f"frozen/{key}", build) / "states.bin")


def _parts(rows: Sequence[Encoded], tokens: int) -> list[list[Encoded]]:
    """``rows`` in order, in parts of at most ``tokens`` tokens, or one row."""
    parts: list[list[Encoded]] = []
    held = tokens
    for row in rows:
        held += len(row.ids)
        if held > tokens:
            parts.append([])
            held = len(row.ids)
        parts[-1].append(row)
    return parts


def _make_skippable(model: Any, count: int) -> None:
    """Lets the layers below number ``count`` be skipped, and that one begin with given states."""
    found = _layers(model)
    assert found is not None
    for number, layer in enumerate(found[1][: count + 1]):
        if not hasattr(layer, "hydratune_first"):
            layer.hydratune_first = number == count  # type: ignore[assignment]
            layer.hydratune_forward = layer.forward  # type: ignore[assignment]
            layer.forward = types.MethodType(_forward, layer)  # type: ignore[method-assign, assignment]


def _forward(self: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    states = getattr(_thread, "states", None)
    if self.hydratune_first:
        if getattr(_thread, "wanted", False):
            raise _Reached(hidden_states)
        return self.hydratune_forward(hidden_states if states is None else states, *args, **kwargs)
    return (
        self.hydratune_forward(hidden_states, *args, **kwargs) if states is None else hidden_states
    )
