"""Starts of LoRA that depend on the base's weights, and what must be remembered of them."""

import copy
import math
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from hydratune.errors import ConfigError, Problem

WEIGHTS = "adapter_model.safetensors"


def loftq(model: PeftModel) -> None:
    """Start LoRA as the best approximation, of its rank, of what 4-bit quantisation lost
    (arXiv:2310.08659, one step).

    The quantised base stays as it is, so the saved adapter fits the same base quantised anew.
    PEFT's own function needs a GPU. Raises ``ConfigError`` if the weights before quantisation are
    not on this machine.
    """
    from bitsandbytes.functional import dequantize_4bit
    from peft.tuners.lora import Linear4bit  # only where bitsandbytes is

    files = _tensor_files(model.get_base_model())
    layers = {
        name.removeprefix("base_model.model."): m
        for name, m in model.named_modules()
        if isinstance(m, Linear4bit)
    }
    prefix = f"{model.get_base_model().base_model_prefix}."
    for name, layer in layers.items():
        key = next(
            (k for k in (f"{name}.weight", f"{name}.weight".removeprefix(prefix)) if k in files),
            None,
        )
        if key is None:
            raise _no_originals(
                f"{name}.weight is in no *.safetensors file of {model.name_or_path}"
            )
        with safe_open(files[key], "pt") as stored:
            original = stored.get_tensor(key).to(layer.weight.device, torch.float32)
        with torch.no_grad():
            lost = original - dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
            u, s, v = torch.linalg.svd(lost, full_matrices=False)
            for adapter in layer.active_adapters:
                r, root = layer.r[adapter], (s / layer.scaling[adapter]).sqrt()
                layer.lora_A[adapter].weight.copy_(root[:r, None] * v[:r])
                layer.lora_B[adapter].weight.copy_(u[:, :r] * root[:r])


def _tensor_files(base: PreTrainedModel) -> dict[str, Path]:
    """Return the file of every stored tensor, by the tensor's name."""
    folder = Path(base.name_or_path)
    if not folder.is_dir():
        try:
            commit = getattr(base.config, "_commit_hash", None)
            folder = Path(
                snapshot_download(base.name_or_path, revision=commit, local_files_only=True)
            )
        except (LocalEntryNotFoundError, ValueError) as error:
            raise _no_originals(f"{base.name_or_path} is not on this machine") from error
    files: dict[str, Path] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as stored:
            files |= dict.fromkeys(stored.keys(), file)
    return files


def _no_originals(why: str) -> ConfigError:
    """Return the error for a base whose weights before quantisation cannot be read."""
    fix = "use a model with *.safetensors files, or set adapter.init_lora_weights=true"
    return ConfigError(
        [
            Problem(
                "adapter.init_lora_weights",
                "loftq",
                f"it needs the weights before quantisation: {why}",
                fix,
            )
        ]
    )


def start_of(model: PeftModel) -> dict[str, torch.Tensor]:
    """Return the low-rank factors as they are now, by the names they are saved with."""
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {
        name: tensor.detach().cpu().clone()
        for name, tensor in state.items()
        if ".lora_A." in name or ".lora_B." in name
    }


def rewrite_for_original_base(
    model: PeftModel, start: dict[str, torch.Tensor], folder: Path
) -> None:
    """Rewrite a saved adapter for the untouched base, with twice the rank.

    The start of the adapter was taken out of the base it was trained on.

    W = W' + s B0 A0 at the start and the trained layer is W' + s B A = W + s (B A - B0 A0) = W + s
    [B, -B0] [A; A0]. PEFT's own conversion loses all other trained tensors (modules_to_save,
    biases, DoRA's magnitudes).
    """
    tensors = load_file(folder / WEIGHTS)
    for name, first in start.items():
        parts = (
            [tensors[name], first.to(tensors[name].dtype)]
            if ".lora_A." in name
            else [tensors[name], -first.to(tensors[name].dtype)]
        )
        tensors[name] = torch.cat(parts, dim=0 if ".lora_A." in name else 1).contiguous()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = copy.deepcopy(model.peft_config[model.active_adapter])
    # keeps the scale alpha / r, or alpha / sqrt(r)
    factor = math.sqrt(2) if config.use_rslora else 2
    config.r, config.lora_alpha = 2 * config.r, factor * config.lora_alpha
    config.rank_pattern = {name: 2 * r for name, r in config.rank_pattern.items()}
    config.alpha_pattern = {name: factor * alpha for name, alpha in config.alpha_pattern.items()}
    config.init_lora_weights, config.inference_mode = True, True
    config.save_pretrained(folder)
