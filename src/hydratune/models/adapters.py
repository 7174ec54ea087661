"""What is trained: PEFT adapters on a frozen base, or the whole model. PEFT owns configuration, weights and files."""

import shutil
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hydratune.config import AdapterConfig, FullFinetune, LoraAdapter, ModelConfig, Quantization
from hydratune.errors import ConfigError, Problem, RunError
from hydratune.models.sources import Source, load_model
from hydratune.training.blocks import use_lean_blocks
from hydratune.training.lora import use_lean_forward


def add_adapter(model: PreTrainedModel, adapter: AdapterConfig) -> PeftModel | PreTrainedModel:
    """``model`` ready for training. Raises ``ConfigError`` for settings this architecture cannot take."""
    if isinstance(adapter, FullFinetune):
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        return model
    assert isinstance(adapter, LoraAdapter)
    everything = adapter.target_modules == ["all-linear"]
    targets: str | list[str] = "all-linear" if everything else adapter.target_modules
    try:
        config = LoraConfig(
            r=adapter.r,
            lora_alpha=adapter.lora_alpha,  # type: ignore[arg-type]
            lora_dropout=adapter.lora_dropout,
            target_modules=targets,
            use_rslora=adapter.use_rslora,
            task_type="CAUSAL_LM",
            **{"fan_in_fan_out": any(isinstance(m, Conv1D) for m in model.modules()), **adapter.extra},
        )
        with warnings.catch_warnings():  # PEFT reads a property that transformers is renaming
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
            result = get_peft_model(model, config)  # type: ignore[arg-type]
    except (ValueError, TypeError) as error:
        raise ConfigError([Problem("adapter", "lora", f"PEFT refuses it: {error}", "change the setting it names")]) from error
    assert isinstance(result, PeftModel)
    use_lean_forward(result)
    use_lean_blocks(result)
    return result


def check(model: PreTrainedModel, adapter: AdapterConfig) -> None:
    """Raises ``ConfigError`` for settings that this architecture cannot take, before anything is computed."""
    if not isinstance(adapter, LoraAdapter):
        return
    known = {f.name for f in fields(LoraConfig)} - {f.name for f in fields(LoraAdapter)} - {"task_type", "inference_mode"}
    why, fix = "PEFT's LoraConfig has no such field (or it is a setting of its own here)", f"one of: {', '.join(sorted(known))}"
    unknown = [Problem(f"adapter.extra.{key}", value, why, fix) for key, value in adapter.extra.items() if key not in known]
    if unknown:
        raise ConfigError(unknown)
    kinds = {f.name: type(f.default) for f in fields(LoraConfig) if isinstance(f.default, bool | int | float)}
    wrong = {k: v for k, v in adapter.extra.items() if k in kinds and not (type(v) is kinds[k] or (kinds[k] is float and type(v) is int))}
    if wrong:
        raise ConfigError(
            [Problem(f"adapter.extra.{k}", v, f"PEFT wants {kinds[k].__name__}", "correct the value") for k, v in wrong.items()]
        )
    everything = adapter.target_modules == ["all-linear"]
    head = model.get_output_embeddings() if everything else None  # only trained if it is named
    linears = {name: m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear | Conv1D) and m is not head}
    names = sorted({name.rsplit(".", 1)[-1] for name in linears})
    if not everything:
        missing = [t for t in adapter.target_modules if not any(n == t or n.endswith(f".{t}") for n in linears)]
        if missing:
            why = f"this model has no layer called {', '.join(missing)}"
            raise ConfigError([Problem("adapter.target_modules", adapter.target_modules, why, f"its linear layers: {', '.join(names)}")])
    chosen = [m for n, m in linears.items() if everything or any(n == t or n.endswith(f".{t}") for t in adapter.target_modules)]
    if not chosen:
        raise ConfigError([Problem("adapter.target_modules", adapter.target_modules, "this model has no linear layer", "set adapter=none")])
    widest = max(min(_width(m)) for m in chosen)
    if adapter.r > widest:
        why = f"no target layer is wider than {widest}, so a higher rank adds nothing"
        raise ConfigError([Problem("adapter.r", adapter.r, why, f"set adapter.r={widest} or less")])


def _width(layer: torch.nn.Module) -> tuple[int, int]:
    """(in, out) of a linear layer; a quantised one no longer shows it in its weight."""
    if isinstance(layer, torch.nn.Linear):
        return layer.in_features, layer.out_features
    assert isinstance(layer, Conv1D)
    return layer.nx, layer.nf


def count_parameters(model: torch.nn.Module) -> tuple[int, int]:
    """(trainable, all)."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes)


def save(model: PeftModel | PreTrainedModel, tokenizer: Any, folder: Path) -> None:
    """A PEFT adapter folder, or after full fine-tuning a Hugging Face model folder; whole or not at all. Raises ``RunError``."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise RunError(f"cannot write {folder} ({error}); free some space and start again") from error


def load_tuned(model: ModelConfig, adapter: AdapterConfig, source: Source, folder: Path, dtype: torch.dtype) -> Any:
    """The fine-tuned model of a run, from its base and its adapter folder."""
    if isinstance(adapter, FullFinetune):
        return load_model(model, Source(str(folder), None, ""), dtype)
    base = load_model(model, source, dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        return PeftModel.from_pretrained(base, str(folder)).eval()


def prepare_quantised(model: PreTrainedModel, quantization: Quantization) -> PreTrainedModel:
    """Freezes everything; a quantised base also keeps its small unquantised layers in fp32.

    On CPUs with AVX512-BF16, bitsandbytes repacks 4-bit weights at the first evaluation, rounding their scales: evaluating
    would change the model that is trained. That is switched off.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    if quantization is not Quantization.none:
        for module in model.modules():
            if "norm" in type(module).__name__.lower():
                module.float()
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
    return model
