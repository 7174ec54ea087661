"""Linear layers that ``all-linear`` skips, because PEFT cannot adapt them by their names.

``all-linear`` then means all others, whose names are given to PEFT one by one. Expert weights that
are one parameter of three dimensions are no linear layers, and are not trained either unless
``adapter.extra.target_parameters`` names them.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from peft.utils import transformers_weight_conversion as peft_conversion
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hydratune.adapters.base import LayerAdapter

# PEFT refuses these (``_check_lora_target_modules_mamba``): fused kernels read their weights
_STATE_SPACES = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")
# parts of a model that text does not pass through
_READS_NO_TEXT = re.compile(
    r"(^|\.)(vision|visual|audio|image|speech|multi_modal|mm_|embed_vision|embed_audio)\w*\."
)


def skipped(
    model: "PreTrainedModel", adapter: "LayerAdapter", linears: Mapping[str, torch.nn.Module]
) -> set[str]:
    """Return the names among ``linears`` that PEFT cannot adapt or would read otherwise, and those
    that no text passes through.
    """
    ends = _names_read_otherwise(model, adapter)
    return {
        name
        for name, module in linears.items()
        if name.rpartition(".")[2] in ends or _READS_NO_TEXT.search(name) or _computes_more(module)
    }


def takes_more(
    model: "PreTrainedModel", adapter: "LayerAdapter", linears: Mapping[str, torch.nn.Module]
) -> bool:
    """Return whether PEFT's own ``all-linear`` would take more than ours."""
    return bool(_names_read_otherwise(model, adapter)) or bool(skipped(model, adapter, linears))


def _names_read_otherwise(model: "PreTrainedModel", adapter: "LayerAdapter") -> set[str]:
    """Return the last parts of names that PEFT refuses, or takes for experts.

    In some architectures that once had a linear layer for each expert, PEFT reads ``gate_proj`` as
    the weights of all experts, also where a dense layer or a shared expert is called so.
    """
    kind = str(getattr(model.config, "model_type", ""))
    if adapter.peft_type in ("LORA", "ADALORA") and kind in _STATE_SPACES:
        return {"out_proj"}
    if adapter.peft_type != "LORA" or get_checkpoint_conversion_mapping(kind) is None:
        return set()
    base = peft_conversion._MODEL_TO_CONVERSION_PATTERN.get(kind, "")
    return set(peft_conversion._MOE_TARGET_MODULE_MAPPING.get(base, {}))


def _computes_more(module: torch.nn.Module) -> bool:
    """Return whether a layer of an architecture's own class computes more than a product, such as
    a router that returns the chosen experts.
    """
    kind = type(module)
    own = kind.__module__.startswith("transformers.models.")
    if not own or not isinstance(module, torch.nn.Linear) or module.weight.is_meta:
        return False
    if kind.forward is torch.nn.Linear.forward:
        return False
    with torch.no_grad():
        x = torch.eye(1, module.in_features, dtype=module.weight.dtype, device=module.weight.device)
        product = torch.nn.functional.linear(x, module.weight, module.bias)
        try:
            output = module(x)
        except RuntimeError:  # it wants another shape, such as groups of columns
            return True
    return not isinstance(output, torch.Tensor) or not torch.equal(output, product)


def expert_weights(model: torch.nn.Module) -> list[str]:
    """Return the names of the parameters that hold the weights of several experts and are not
    trained.
    """
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.dim() == 3
        and not parameter.requires_grad
        and "experts" in name
        and "lora" not in name
        and not _is_adapted(model, name)
    ]


def _is_adapted(model: torch.nn.Module, name: str) -> bool:
    """Return whether PEFT adapts the parameter called ``name``."""
    owner, _, last = name.rpartition(".")
    while owner.endswith(".base_layer"):
        owner = owner.removesuffix(".base_layer")
        if getattr(model.get_submodule(owner), "parameter_name", None) == last:
            return True
    return False
