"""Which parameters learn how fast: parameter groups with their learning rates and weight decay."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from hydratune.errors import Problem, refuse
from hydratune.settings.optimizer import OptimizerConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LAYER = re.compile(r"(?:^|\.)(\d+)\.")  # the first number in a parameter's name
_LORA_B = re.compile(r"\blora_(embedding_)?B\b")


# One of torch's parameter groups, with params, lr, weight_decay, and as lr_factor its rate over
# that of the settings. The type is the one that torch's optimizers accept.
ParameterGroup = dict[str, Any]


def build_optimizer(model: torch.nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Return the optimizer of all that ``model`` trains, on the device where it is now.

    The groups of an optimizer of a package get the ``lr_factor`` that ours have. Raises
    ``ConfigError`` as ``refuse_unused_rates`` does.
    """
    refuse_unused_rates(model, config)
    optimizer = config.build(model)
    for group in optimizer.param_groups:
        group.setdefault("lr_factor", group["lr"] / config.lr)
    return optimizer


def refuse_unused_rates(model: torch.nn.Module, config: OptimizerConfig) -> None:
    """Raise ``ConfigError`` for rates of parameters that ``model`` does not train.

    They would have no effect.
    """
    refuse(_unused_rates([name for name, _ in _trained(model)], config))


def _unused_rates(names: list[str], config: OptimizerConfig) -> Iterator[Problem]:
    """Yield the settings that have no effect on parameters with these ``names``."""
    examples = ", ".join([*names[:2], *names[-1:]])
    for key in ("lr_groups", "weight_decay_groups"):
        for pattern, factor in getattr(config, key).items():
            if not any(re.search(pattern, name) for name in names):
                why = "no trained parameter has this in its name"
                fix = f"names are such as {examples}"
                yield Problem(f"optimizer.{key}.{pattern}", factor, why, fix)
    if config.loraplus_lr_ratio is not None and not any(map(_LORA_B.search, names)):
        why, fix = "this adapter trains no matrix B of LoRA", "set it to null, or adapter=lora"
        yield Problem("optimizer.loraplus_lr_ratio", config.loraplus_lr_ratio, why, fix)
    if config.layer_lr_decay is not None and not any(map(_LAYER.search, names)):
        why = "no trained parameter is in a numbered layer of the model"
        yield Problem("optimizer.layer_lr_decay", config.layer_lr_decay, why, "set it to null")


def parameter_groups(
    model: torch.nn.Module,
    config: OptimizerConfig,
    is_chosen: Callable[[torch.nn.Parameter], bool] = lambda _: True,
) -> list[ParameterGroup]:
    """Return the chosen trained parameters, grouped by learning rate and weight decay."""
    factors = learning_rate_factors(model, config)
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in _trained(model):
        if is_chosen(parameter):
            key = (factors[name], _weight_decay(name, parameter, config))
            groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "lr": config.lr * factor, "lr_factor": factor, "weight_decay": decay}
        for (factor, decay), parameters in groups.items()
    ]


def learning_rate_factors(model: torch.nn.Module, config: OptimizerConfig) -> dict[str, float]:
    """Return every trained parameter's learning rate over ``config.lr``, by name."""
    numbers = [_layer_number(name) for name, _ in model.named_parameters()]
    layers = 1 + max((number for number in numbers if number is not None), default=-1)
    embeddings = tuple(f"{name}." for name, _ in _embeddings(model))
    factors = {}
    for name, _ in _trained(model):
        factor = _first_match(config.lr_groups, name, 1.0)
        if config.loraplus_lr_ratio is not None and _LORA_B.search(name):
            factor *= config.loraplus_lr_ratio
        if config.layer_lr_decay is not None:
            number = _layer_number(name)
            if number is not None:
                layers_above = layers - 1 - number
            else:
                layers_above = layers if name.startswith(embeddings) else 0
            factor *= config.layer_lr_decay**layers_above
        factors[name] = factor
    return factors


def hidden_matrices(model: torch.nn.Module) -> set[int]:
    """Return the ids of the matrices Muon is for.

    They have two dimensions, and are neither embedding nor output head.
    """
    causal: PreTrainedModel = model  # type: ignore[assignment]  # a module by its declaration only
    outer = [module for _, module in _embeddings(model)] + [causal.get_output_embeddings()]
    excluded = {id(p) for module in outer if module is not None for p in module.parameters()}
    return {id(p) for p in model.parameters() if p.ndim == 2 and id(p) not in excluded}


def _trained(model: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def _layer_number(name: str) -> int | None:
    match = _LAYER.search(name)
    return int(match[1]) if match else None


def _weight_decay(name: str, parameter: torch.nn.Parameter, config: OptimizerConfig) -> float:
    default = 1.0 if parameter.ndim > 1 or config.decay_norms_and_biases else 0.0
    return config.weight_decay * _first_match(config.weight_decay_groups, name, default)


def _first_match(patterns: Mapping[str, float], name: str, default: float) -> float:
    matches = (factor for pattern, factor in patterns.items() if re.search(pattern, name))
    return next(matches, default)


def _embeddings(model: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """Return the embedding layers by name, including those that PEFT has wrapped."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(getattr(module, "base_layer", module), torch.nn.Embedding)
    ]
