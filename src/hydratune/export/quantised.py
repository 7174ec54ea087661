"""form=quantised: the merged model in 8 or 4 bits of bitsandbytes, as transformers loads it."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import AutoModelForCausalLM

from hydratune.errors import RunError
from hydratune.export import merged as merged_form
from hydratune.export.form import Written, in_fp32
from hydratune.export.limits import Exactness
from hydratune.export.opened import OpenedRun
from hydratune.models import loading, turn_ends
from hydratune.settings.export import ExportSettings
from hydratune.settings.model import Quantization

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_EXACTNESS = {Quantization.int8: Exactness.eight_bits, Quantization.nf4: Exactness.four_bits}


def write(
    opened: OpenedRun, merged: "PreTrainedModel | None", config: ExportSettings, to: Path
) -> Written:
    """Write the merged model, load it quantised, and write that into the folder ``to``."""
    assert merged is not None
    with tempfile.TemporaryDirectory(dir=to.parent, prefix=".whole-") as folder:
        merged_form.save(opened, merged, torch.float32, Path(folder))
        model = _quantised(opened, config, Path(folder))
    model.config._name_or_path = ""
    try:
        model.save_pretrained(to)
    except (NotImplementedError, ValueError) as error:
        raise RunError(
            f"the installed bitsandbytes cannot store a model in {config.quantization.value} on"
            f" this machine ({error}); choose form=gguf gguf_type=q8_0, which needs no GPU"
        ) from error
    opened.tokenizer.save_pretrained(to)
    merged.generation_config.save_pretrained(to)
    return Written(_EXACTNESS[config.quantization], facts={"quantization": config.quantization})


def _quantised(opened: OpenedRun, config: ExportSettings, folder: Path) -> "PreTrainedModel":
    """Load a whole model quantised; it computes nothing, which could change its scales."""
    dtype = merged_form.stored_dtype(opened, config)
    return AutoModelForCausalLM.from_pretrained(
        str(folder),
        dtype=dtype,
        device_map={"": str(opened.job.compute.device)},
        quantization_config=loading.bitsandbytes_config(config.quantization, dtype),
        trust_remote_code=opened.unquantised.trust_remote_code,
    )


def load(opened: OpenedRun, folder: Path) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Load the folder by transformers, which reads the quantisation from its config."""
    compute = in_fp32(opened.job.compute)
    model = AutoModelForCausalLM.from_pretrained(
        str(folder),
        dtype=compute.weights,
        device_map={"": str(compute.device)},
        trust_remote_code=opened.unquantised.trust_remote_code,
    )
    model = loading.prepare_model(model, opened.unquantised, compute)
    return model, loading.tokenizer_in(folder, opened.unquantised)


def usage(opened: OpenedRun, config: ExportSettings) -> str:
    """Return how transformers loads the folder."""
    section = turn_ends.card_section(
        opened.tokenizer, "", opened.job.answer_ends, in_vllm=False, is_adapter=False
    )
    return f"It needs the package bitsandbytes (`pip install bitsandbytes`).\n\n{section}"
