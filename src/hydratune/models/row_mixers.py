"""Layers that mix tokens, called once for every row of rows laid end to end.

Attention with sinks, soft-capping or chunks, convolutions and recurrent states would see the
neighbouring rows. So the forward of such a module is replaced by one that calls it for each row
alone, with the part of every argument that belongs to the row; all other modules compute all rows
at once. Masks are those that the model itself makes for one long row: a row's mask is the corner of
them that begins at its first token, which is right for sliding windows and chunks too.

The row lengths arrive as the keyword argument ``row_lengths`` where the model hands keyword
arguments on to its layers, else by ``rows_end_to_end``.
"""

import inspect
import itertools
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

# names of modules that mix tokens, as attribute or class; norms and dropouts beside them do not
_MIXES = re.compile(
    r"attn|attention|mixer|mamba|conv|delta|mlstm|slstm|recurrent|temporal|ssm|rwkv|retention"
)
_DOES_NOT_MIX = re.compile(r"norm|drop|scale|gate$|_fn$")
_MASK = re.compile(r"mask|bias|alibi")  # arguments between pairs of tokens, (..., tokens, tokens)
_OTHER_INPUTS = re.compile(r"vision|visual|audio|image|encoder\.")


class _Current(threading.local):
    """The row lengths of the pass that this thread computes."""

    lengths: tuple[int, ...] | None = None


_current = _Current()


@contextmanager
def rows_end_to_end(lengths: tuple[int, ...]) -> Iterator[None]:
    """Tell the replaced forwards of this thread that the pass has rows of these lengths."""
    before = _current.lengths
    _current.lengths = lengths
    try:
        yield
    finally:
        _current.lengths = before


@dataclass(eq=False)
class RowMixer:
    """Holds the forward of a module that mixes tokens."""

    own: Callable[..., object]  # the forward that the module had before

    def __post_init__(self) -> None:
        self.names = [
            parameter.name
            for parameter in inspect.signature(self.own).parameters.values()
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        ]

    def forward(self, *args: object, **kwargs: object) -> object:
        """Return what the module returns for each row alone, laid end to end."""
        lengths = kwargs.pop("row_lengths", None) or _current.lengths
        if not isinstance(lengths, tuple):
            return self.own(*args, **kwargs)
        tokens, start, outputs = sum(lengths), 0, []
        with _nothing_laid_end_to_end():  # a mixer may be inside a layer that is one, too
            for length in lengths:
                row = _Row(tokens, start, length)
                own_kwargs = {name: row.part(value, name) for name, value in kwargs.items()}
                named = itertools.zip_longest(args, self.names[: len(args)], fillvalue="")
                own_args = [row.part(value, str(name)) for value, name in named]
                outputs.append(self.own(*own_args, **own_kwargs))
                start += length
        return _joined(outputs, lengths)


@contextmanager
def _nothing_laid_end_to_end() -> Iterator[None]:
    before = _current.lengths
    _current.lengths = None
    try:
        yield
    finally:
        _current.lengths = before


@dataclass(frozen=True)
class _Row:
    """One row among ``tokens`` tokens."""

    tokens: int
    start: int
    length: int

    def part(self, value: object, name: str) -> object:
        """Return what of the argument ``name`` belongs to the row; what has no dimension of tokens
        as it is.
        """
        if isinstance(value, torch.Tensor):
            return self._part_of(value, name)
        if type(value) is tuple:
            return tuple(self.part(item, name) for item in value)
        if type(value) is list:
            return [self.part(item, name) for item in value]
        if type(value) is dict:
            return {key: self.part(item, str(key)) for key, item in value.items()}
        return value

    def _part_of(self, tensor: torch.Tensor, name: str) -> torch.Tensor:
        shape = tensor.shape
        # by its name: a width may happen to equal the number of tokens
        if len(shape) >= 2 and shape[-1] == shape[-2] == self.tokens and _MASK.search(name):
            return tensor[..., : self.length, : self.length]
        axis = _token_axis(tensor, self.tokens)
        return tensor if axis is None else tensor.narrow(axis, self.start, self.length)


def _token_axis(tensor: torch.Tensor, tokens: int) -> int | None:
    """Return the dimension of the tokens.

    It is the last one of numbers of tokens and positions. Of states it is the second one (rows,
    tokens, ...) before all others, unless these have no dimension of rows.
    """
    shape, axes = tensor.shape, list(range(tensor.dim()))
    if not (tensor.is_floating_point() or tensor.is_complex()):
        order = axes[::-1]
    elif len(shape) == 2 and shape[0] != 1:
        order = axes
    else:
        order = [*axes[1:2], *axes[:1], *axes[2:]]
    return next((axis for axis in order if shape[axis] == tokens), None)


def _joined(outputs: Sequence[object], lengths: Sequence[int]) -> object:
    """Lay what a module returned for each row end to end.

    Attention weights (..., tokens, tokens) have no such form: None stands for them.
    """
    first = outputs[0]
    if isinstance(first, torch.Tensor):
        tensors = [output for output in outputs if isinstance(output, torch.Tensor)]
        axes = range(first.dim())
        shapes = list(zip(tensors, lengths, strict=True))
        fitting = [a for a in axes if all(tensor.shape[a] == n for tensor, n in shapes)]
        if len(fitting) > 1 and first.dim() == 4:
            return None
        order = sorted(fitting, key=lambda axis: (axis != 1, axis))
        return torch.cat(tensors, dim=order[0]) if order else first
    if isinstance(first, tuple | list):
        items = [output for output in outputs if isinstance(output, tuple | list)]
        return tuple(_joined(parts, lengths) for parts in zip(*items, strict=True))
    return first


def replace(module: torch.nn.Module) -> None:
    """Have ``module`` computed row by row, see ``RowMixer``."""
    vars(module)["forward"] = RowMixer(module.forward).forward


def restore(module: torch.nn.Module) -> None:
    """Give every module inside ``module`` the forward back that ``replace`` replaced."""
    for part in module.modules():
        mixer = getattr(vars(part).get("forward"), "__self__", None)
        if isinstance(mixer, RowMixer):
            if getattr(mixer.own, "__func__", None) is type(part).forward:
                del vars(part)["forward"]
            else:
                vars(part)["forward"] = mixer.own


def decoder_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the layers of ``model``: what the outermost lists of modules hold, without those that
    read images or sounds.
    """
    lists: dict[str, torch.nn.ModuleList] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in lists)
        if isinstance(module, torch.nn.ModuleList) and not inside:
            lists[name] = module
    of_text = [modules for name, modules in lists.items() if not _OTHER_INPUTS.search(name)]
    return [layer for modules in of_text or lists.values() for layer in modules]


def mixers_of(layer: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the modules of a decoder layer that mix tokens, judged by their names."""
    return [
        child
        for name, child in layer.named_children()
        if _MIXES.search(f"{name} {type(child).__name__}".lower())
        and not _DOES_NOT_MIX.search(name.lower())
    ]
