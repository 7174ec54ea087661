"""The adapter becomes part of the weights: a model that needs no PEFT."""

from typing import TYPE_CHECKING, cast

import torch
from peft import PeftModel

from hydratune.adapters.peft_warnings import hidden_peft_warnings
from hydratune.errors import RunError
from hydratune.export.opened import OpenedRun
from hydratune.settings.registry import variant_name

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def merge(opened: OpenedRun) -> "PreTrainedModel":
    """Return the fine-tuned model as one model in fp32; ``opened.model`` is used up by that.

    An adapter on a quantised base is merged into what that base computes with: its weights, put
    back into floating point. Raises ``RunError`` for an adapter that PEFT cannot merge.
    """
    if opened.job.config.adapter.trains_base:
        return opened.model.float()
    model = opened.model
    if opened.has_quantised_base:
        base = dequantised(cast("PreTrainedModel", opened.job.model))
        with hidden_peft_warnings():
            model = PeftModel.from_pretrained(base, str(opened.adapter_folder))
    try:
        with hidden_peft_warnings():
            merged = model.merge_and_unload()
    except (AttributeError, NotImplementedError, ValueError, TypeError) as error:
        method = variant_name("adapter", opened.job.config.adapter)
        raise RunError(
            f"PEFT cannot merge this adapter ({method}: {error}); form=adapter writes it by itself"
        ) from error
    _untie_if_different(merged)
    return merged.float()


def dequantised(model: "PreTrainedModel") -> "PreTrainedModel":
    """Return a model of bitsandbytes with the weights it computes with, in fp32."""
    plain = model.dequantize().to(torch.float32)
    if hasattr(plain.config, "quantization_config"):
        del plain.config.quantization_config
    for name in ("hf_quantizer", "quantization_method"):
        if hasattr(plain, name):
            setattr(plain, name, None)
    plain.is_quantized = False
    return plain


def _untie_if_different(model: "PreTrainedModel") -> None:
    """Store the output head by itself where it is no longer equal to the embeddings."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    config = model.config.get_text_config()
    if head is None or embeddings is None or not config.tie_word_embeddings:
        return
    if head.weight is embeddings.weight or torch.equal(head.weight, embeddings.weight):
        return
    config.tie_word_embeddings = model.config.tie_word_embeddings = False
