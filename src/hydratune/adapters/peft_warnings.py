"""Warnings of PEFT that say nothing to a user of this program."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_HANDLED = (
    "The following rank_pattern keys.*lora_E",  # its own file of AdaLoRA's ranks
    # its conversion of PiSSA, which is not used
    "Using Rank-Stabilized LoRA with rank_pattern",
    "Specified to not (save|load) vera_A",  # adapter.save_projection=false says it
)


@contextmanager
def hidden_peft_warnings() -> Iterator[None]:
    """Hide PEFT's warnings about coming versions of transformers and about cases handled here."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*is_gradient_checkpointing", category=FutureWarning
        )
        for message in _HANDLED:
            warnings.filterwarnings("ignore", message=message)
        yield
