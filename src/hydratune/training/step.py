"""What the layers of a model need to know of the pass that is computed: the step context.

The caller of a pass makes a ``StepContext`` and passes it on as an argument. The replaced forwards
of layers (``hydratune.training.patches``) are called by transformers, whose calls have no
argument for it. For them alone, ``computing`` makes the context the current one of the thread that
executes the forward pass, and they ask for it by ``current_step``. This is the only state of a
thread in training. Autograd functions get what they need as arguments and never ask: a backward
pass may run in another thread (on a GPU it always does), after the context has ended.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from hydratune.training.arithmetic import STANDARD, Arithmetic
from hydratune.training.merged_pass import MergedPass


@dataclass(frozen=True)
class StepContext:
    """How one forward pass is computed, besides the weights and the tokens."""

    # dropout and embedding noise draw from it; None: the generator of the process
    generator: torch.Generator | None = None
    arithmetic: Arithmetic = STANDARD
    # positions of the last layer that are read: its MLP is computed there alone
    needed: torch.Tensor | None = None
    # hidden states (1, tokens, width) that enter the first trained layer: those below are skipped
    entering: torch.Tensor | None = None
    # the pass ends at the first trained layer by raising ``TrainedLayerReached``
    stops_at_trained: bool = False
    merged: MergedPass | None = None  # the pass computes rows of several trials


class TrainedLayerReached(Exception):
    """Ends a forward pass at the first trained layer."""

    def __init__(self, states: torch.Tensor) -> None:
        self.states = states  # (1, tokens, width) that would enter it


class _CurrentStep(threading.local):
    """The step context of the thread."""

    context = StepContext()


_current = _CurrentStep()


def current_step() -> StepContext:
    """Return the context of the pass that this thread computes."""
    return _current.context


@contextmanager
def computing(context: StepContext) -> Iterator[None]:
    """Make ``context`` the current one of this thread during a forward pass."""
    before = _current.context
    _current.context = context
    try:
        yield
    finally:
        _current.context = before
