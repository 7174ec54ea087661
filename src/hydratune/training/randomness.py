"""Who draws random numbers in training, and from which generators."""

from collections.abc import Iterator

import torch
from peft.tuners.lora import LoraLayer

from hydratune.training.lean_linears import is_lean


def is_active_dropout(module: torch.nn.Module) -> bool:
    """Return whether ``module`` is some kind of dropout with a probability above 0."""
    return "dropout" in type(module).__name__.lower() and getattr(module, "p", 0.0) > 0


def active_dropouts(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Yield the modules of ``model`` that are dropout with a probability above 0."""
    return filter(is_active_dropout, model.modules())


def drops_attention(model: torch.nn.Module) -> bool:
    """Return whether attention weights are dropped at random while training."""
    config = getattr(model, "config", None)
    if config is not None and hasattr(config, "get_text_config"):
        config = config.get_text_config()
    return bool(getattr(config, "attention_dropout", 0.0))


def other_peft_dropout(model: torch.nn.Module) -> bool:
    """Return whether the adapter of ``model`` has a dropout that is not LoRA's.

    Some methods of PEFT draw it in their own forward (``rank_dropout`` of LoKr), without a module.
    """
    configs = getattr(model, "peft_config", {}).values()
    return any(
        bool(value)
        for config in configs
        for name, value in vars(config).items()
        if name.endswith("dropout") and name != "lora_dropout"
    )


def draws_outside_lora(model: torch.nn.Module) -> bool:
    """Return whether some layer draws from the process's generator, whose order depends on threads:
    dropout other than that of LoRA layers whose forward is replaced.
    """
    if drops_attention(model) or other_peft_dropout(model):
        return True
    of_lora = {
        id(dropout)
        for layer in model.modules()
        if is_lean(layer) and isinstance(layer, LoraLayer)
        for dropout in layer.lora_dropout.values()
    }
    return any(id(dropout) not in of_lora for dropout in active_dropouts(model))


class RandomState:
    """The state of generators at one moment."""

    def __init__(
        self, generator: torch.Generator, device: torch.device, *, of_process: bool
    ) -> None:
        """``of_process``: the process's own generators belong to it as well."""
        self._generator, self._device = generator, device
        self._own = generator.get_state()
        self._process = torch.get_rng_state() if of_process else None
        of_gpu = of_process and device.type == "cuda"
        self._gpu = torch.cuda.get_rng_state(device) if of_gpu else None

    def restore(self) -> None:
        """Set the generators back to it."""
        self._generator.set_state(self._own)
        if self._process is not None:
            torch.set_rng_state(self._process)
        if self._gpu is not None:
            torch.cuda.set_rng_state(self._gpu, self._device)
