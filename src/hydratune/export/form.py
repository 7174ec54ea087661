"""What every form of an export has: how it is written, and how it is loaded back."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from hydratune.export.limits import Exactness
from hydratune.export.opened import OpenedRun
from hydratune.models import loading
from hydratune.models.compute import Compute
from hydratune.settings.export import ExportSettings
from hydratune.settings.model import Source

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_BITS = {torch.float32: Exactness.exact}


@dataclass(frozen=True)
class Written:
    """What a form has written."""

    exactness: Exactness
    # what a reader of the card must know of it, beside how it is loaded
    notes: list[str] = field(default_factory=list)
    # further facts for parity.json
    facts: dict[str, object] = field(default_factory=dict)


class Form(Protocol):
    """One form: a module of this package."""

    def write(
        self, opened: OpenedRun, merged: "PreTrainedModel | None", config: ExportSettings, to: Path
    ) -> Written:
        """Write the model into the folder ``to``, which exists."""

    def load(
        self, opened: OpenedRun, folder: Path
    ) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
        """Load what was written, with its own tokenizer, as its users do."""

    def usage(self, opened: OpenedRun, config: ExportSettings) -> str:
        """Return the section of the card that says how it is used."""


def in_fp32(compute: Compute) -> Compute:
    """Return the same device with weights in fp32, without mixed precision."""
    return Compute(compute.accelerator, compute.device, "32-true", torch.float32)


def load_folder(opened: OpenedRun, folder: Path) -> "PreTrainedModel":
    """Load a whole model from ``folder`` in fp32, on the device of the run."""
    source = Source(str(folder), None, "")
    return loading.load_model(opened.unquantised, source, in_fp32(opened.job.compute))


def exactness_of(opened: OpenedRun, dtype: torch.dtype) -> Exactness:
    """Return how exactly weights stored as ``dtype`` can repeat the run's model.

    On a base in 4 or 8 bits the run itself computes with rounded weights and products.
    """
    if opened.has_quantised_base:
        return _worse(_BITS.get(dtype, Exactness.half), _of_base(opened))
    return _BITS.get(dtype, Exactness.half)


def _of_base(opened: OpenedRun) -> Exactness:
    from hydratune.settings.model import Quantization

    is_int8 = opened.job.config.model.quantization is Quantization.int8
    return Exactness.eight_bits if is_int8 else Exactness.half


def _worse(one: Exactness, other: Exactness) -> Exactness:
    return max(one, other, key=lambda exactness: exactness.limits.mean_kl)
