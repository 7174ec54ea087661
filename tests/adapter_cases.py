"""The tiny model with an adapter, trained for some steps, and as plain PEFT loads it."""

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from hydratune.adapters import attach
from hydratune.data.encoding.encoded import Encoded
from hydratune.models import loading
from hydratune.models.compute import on_cpu
from hydratune.models.sources.tiny import TinyModel
from hydratune.settings.model import Quantization
from hydratune.training.adalora import RankAllocation
from hydratune.training.objective import Objective
from hydratune.training.patches import with_lean_layers


def original(tiny: Any, quantization: Quantization = Quantization.none) -> Any:
    """Return the untouched base, loaded by plain transformers."""
    from transformers import BitsAndBytesConfig

    options: dict[str, Any] = {"dtype": torch.float32}
    if quantization is Quantization.nf4:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        )
    if quantization is Quantization.int8:
        options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
    model = AutoModelForCausalLM.from_pretrained(tiny[1].name, **options)
    for module in model.modules():
        # bitsandbytes would round the scales of 4-bit weights
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model.eval()


def reloaded(folder: Path, tiny: Any, quantization: Quantization = Quantization.none) -> Any:
    """Return the tuned model as a user without this package loads it."""
    if not (folder / "adapter_config.json").is_file():
        return AutoModelForCausalLM.from_pretrained(folder).eval()
    return PeftModel.from_pretrained(original(tiny, quantization), str(folder)).eval()


def examples(count: int = 4) -> list[Encoded]:
    generator = torch.Generator().manual_seed(0)
    rows = []
    for i in range(count):
        length = 9 + 5 * i
        ids = torch.randint(1, 900, (length,), generator=generator).tolist()
        rows.append(Encoded(tuple(ids), tuple(j > length // 2 for j in range(length))))
    return rows


def prepared(
    tiny: Any, adapter: Any, quantization: Quantization = Quantization.none, steps: int = 6
) -> Any:
    """Return the tiny model with ``adapter``, not yet trained."""
    settings = TinyModel(name="tiny", context_window=2048, quantization=quantization)
    model = attach.prepare_quantised(loading.load_model(settings, tiny[1], on_cpu()), quantization)
    attach.check(model, adapter, steps)
    torch.manual_seed(0)
    return with_lean_layers(attach.add_adapter(model, adapter, steps))


def train(model: Any, steps: int) -> list[float]:
    """Train ``steps`` steps with Adam; return the losses."""
    objective = Objective(model, micro_tokens=1000, workers=1)
    parameters = objective.parameters()
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    allocation = (
        RankAllocation(model)
        if "AdaLora" in type(getattr(model, "base_model", None)).__name__
        else None
    )
    losses = []
    model.train()
    for step in range(1, steps + 1):
        loss, gradients = objective.gradients(examples())
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        if allocation:
            allocation.on_before_optimizer_step()
        optimizer.step()
        if allocation:
            model.base_model.update_and_allocate(step)
        losses.append(loss.item())
    model.eval()
    return losses


IDS = torch.arange(5, 40)[None]
