"""The type of what PyTorch passes to the forward and backward of an autograd function."""

from typing import Generic, TypeVarTuple

import torch
from torch.autograd.function import FunctionCtx

Saved = TypeVarTuple("Saved")


class Context(FunctionCtx, Generic[*Saved]):
    """The ``ctx`` of a function that saves tensors of the types ``Saved``.

    It only types what PyTorch's own object has, and is never created. A function that stores more
    in its ``ctx`` declares that in a subclass.
    """

    saved_tensors: tuple[*Saved]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: torch.Tensor | None) -> None:
        """Save ``tensors``, which the backward pass finds in ``saved_tensors``."""
        raise NotImplementedError
