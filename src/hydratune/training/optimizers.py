"""Which parameters learn how fast, and the optimizer that moves them.

Implementations are torch's, bitsandbytes' and transformers'. Where one does not fit every parameter
(Muon is for hidden matrices only), two work as one, so that Lightning, the schedule and checkpoints
see a single optimizer.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from hydratune.errors import ConfigError, Problem
from hydratune.settings.checks import paged_on_cpu
from hydratune.settings.commands import TrainConfig
from hydratune.settings.optimizer import (
    AdafactorOptimizer,
    AdamW8bitOptimizer,
    AdamWOptimizer,
    Lion8bitOptimizer,
    LionOptimizer,
    MuonOptimizer,
    OptimizerConfig,
    PagedAdamW8bitOptimizer,
    PagedAdamWOptimizer,
    SgdOptimizer,
)

_LAYER = re.compile(r"(?:^|\.)(\d+)\.")  # the first number in a parameter's name
_LORA_B = re.compile(r"\blora_(embedding_)?B\b")
Group = dict[str, Any]  # one of torch's parameter groups


def check_machine(config: TrainConfig, accelerator: str) -> None:
    """Raises ``ConfigError`` for an optimizer that cannot work on ``accelerator`` ("gpu" or "cpu")."""  # noqa: E501
    if (
        isinstance(config.optimizer, PagedAdamWOptimizer | PagedAdamW8bitOptimizer)
        and accelerator == "cpu"
    ):
        raise ConfigError([paged_on_cpu(config.optimizer)])


def check(model: torch.nn.Module, config: OptimizerConfig) -> None:
    """Raises ``ConfigError`` for rates of parameters that ``model`` does not train: they would
    change nothing.
    """
    names = [name for name, _ in _trained(model)]
    shown = ", ".join([*names[:2], *names[-1:]])
    problems = []
    for key in ("lr_groups", "weight_decay_groups"):
        for pattern, factor in getattr(config, key).items():
            if not any(re.search(pattern, name) for name in names):
                why = "no trained parameter has this in its name"
                problems.append(
                    Problem(f"optimizer.{key}.{pattern}", factor, why, f"names are such as {shown}")
                )
    if config.loraplus_lr_ratio is not None and not any(map(_LORA_B.search, names)):
        why = "this adapter trains no matrix B of LoRA"
        problems.append(
            Problem(
                "optimizer.loraplus_lr_ratio",
                config.loraplus_lr_ratio,
                why,
                "set it to null, or adapter=lora",
            )
        )
    if config.layer_lr_decay is not None and not any(map(_LAYER.search, names)):
        why = "no trained parameter is in a numbered layer of the model"
        problems.append(
            Problem("optimizer.layer_lr_decay", config.layer_lr_decay, why, "set it to null")
        )
    if problems:
        raise ConfigError(problems)


def build(model: torch.nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer of all that ``model`` trains, on the device where it is now.

    Raises ``ConfigError`` as ``check`` does.
    """
    check(model, config)
    if isinstance(config, MuonOptimizer):
        hidden = _hidden_matrices(model)
        matrices = _groups(model, config, lambda parameter: id(parameter) in hidden)
        rest = _groups(model, config, lambda parameter: id(parameter) not in hidden)
        optimizers = [_muon(matrices, config)] if matrices else []
        optimizers += [_adamw(rest, config)] if rest else []
        return optimizers[0] if len(optimizers) == 1 else Together(optimizers)
    groups = _groups(model, config)
    match config:
        case (
            AdamW8bitOptimizer()
            | PagedAdamWOptimizer()
            | PagedAdamW8bitOptimizer()
            | LionOptimizer()
        ):
            return _bitsandbytes(groups, config)
        case AdamWOptimizer():
            return _adamw(groups, config)
        case AdafactorOptimizer():
            return _adafactor(groups, config)
        case SgdOptimizer():
            return _without_unscaling(
                torch.optim.SGD(
                    groups,
                    lr=config.lr,
                    momentum=config.momentum,
                    nesterov=config.nesterov,
                    fused=_can_fuse(groups),
                )
            )
    raise TypeError(type(config).__name__)


def _adamw(groups: list[Group], config: AdamWOptimizer | MuonOptimizer) -> torch.optim.Optimizer:
    betas = (config.betas[0], config.betas[1])
    return _without_unscaling(
        torch.optim.AdamW(
            groups, lr=config.lr, betas=betas, eps=config.eps, fused=_can_fuse(groups)
        )
    )


def _muon(groups: list[Group], config: MuonOptimizer) -> torch.optim.Optimizer:
    return torch.optim.Muon(
        groups,
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        ns_steps=config.ns_steps,
        adjust_lr_fn=config.adjust_lr_fn.value,
    )


def _adafactor(groups: list[Group], config: AdafactorOptimizer) -> torch.optim.Optimizer:
    from transformers.optimization import Adafactor as Implementation

    return Implementation(
        groups,
        lr=config.lr,
        clip_threshold=config.clip_threshold,
        decay_rate=config.decay_rate,
        beta1=config.beta1,
        scale_parameter=config.scale_parameter,
        relative_step=False,  # the schedule is ours
    )


def _bitsandbytes(
    groups: list[Group], config: AdamWOptimizer | LionOptimizer
) -> torch.optim.Optimizer:
    import bitsandbytes

    kinds = {
        AdamW8bitOptimizer: bitsandbytes.optim.AdamW8bit,
        PagedAdamWOptimizer: bitsandbytes.optim.PagedAdamW32bit,
        PagedAdamW8bitOptimizer: bitsandbytes.optim.PagedAdamW8bit,
        LionOptimizer: bitsandbytes.optim.Lion32bit,
        Lion8bitOptimizer: bitsandbytes.optim.Lion8bit,
    }
    more = {"eps": config.eps} if isinstance(config, AdamWOptimizer) else {}
    return kinds[type(config)](
        groups, lr=config.lr, betas=(config.betas[0], config.betas[1]), **more
    )


def _can_fuse(groups: list[Group]) -> bool:
    """Whether torch has one kernel per parameter: on a CPU it takes half the time of AdamW's usual
    dozen, for large ones a sixth.
    """
    return all(
        p.device.type in ("cpu", "cuda") and p.is_floating_point()
        for group in groups
        for p in group["params"]
    )


def _without_unscaling(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Lightning refuses to clip for a fused optimizer under mixed precision: it might unscale fp16
    gradients itself.

    There is no fp16 here (bf16 needs no loss scaling), so nothing is unscaled.
    """
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    return optimizer


def _trained(model: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    return [
        (name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad
    ]


def _groups(
    model: torch.nn.Module,
    config: OptimizerConfig,
    chosen: Callable[[torch.nn.Parameter], bool] = lambda _: True,
) -> list[Group]:
    """The chosen trained parameters by what they have in common; ``lr_factor`` is a group's rate
    over ``config.lr``.
    """
    factors = learning_rate_factors(model, config)
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in _trained(model):
        if chosen(parameter):
            groups.setdefault((factors[name], _weight_decay(name, parameter, config)), []).append(
                parameter
            )
    return [
        {"params": parameters, "lr": config.lr * factor, "lr_factor": factor, "weight_decay": decay}
        for (factor, decay), parameters in groups.items()
    ]


def learning_rate_factors(model: torch.nn.Module, config: OptimizerConfig) -> dict[str, float]:
    """Every trained parameter's learning rate over ``config.lr``, by name."""
    layers = 1 + max(
        (int(found[1]) for name, _ in model.named_parameters() if (found := _LAYER.search(name))),
        default=-1,
    )
    inputs = tuple(f"{name}." for name, _ in _embeddings(model))
    factors = {}
    for name, _ in _trained(model):
        factor = _first_match(config.lr_groups, name, 1.0)
        if config.loraplus_lr_ratio is not None and _LORA_B.search(name):
            factor *= config.loraplus_lr_ratio
        if config.layer_lr_decay is not None:
            found = _LAYER.search(name)
            below = (
                layers - 1 - int(found[1]) if found else layers if name.startswith(inputs) else 0
            )
            factor *= config.layer_lr_decay**below
        factors[name] = factor
    return factors


def _weight_decay(name: str, parameter: torch.nn.Parameter, config: OptimizerConfig) -> float:
    usual = 1.0 if parameter.ndim > 1 or config.decay_norms_and_biases else 0.0
    return config.weight_decay * _first_match(config.weight_decay_groups, name, usual)


def _first_match(patterns: Mapping[str, float], name: str, otherwise: float) -> float:
    return next(
        (factor for pattern, factor in patterns.items() if re.search(pattern, name)), otherwise
    )


def _embeddings(model: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """Embedding layers, those that PEFT has wrapped included."""
    return [
        (n, m)
        for n, m in model.named_modules()
        if isinstance(getattr(m, "base_layer", m), torch.nn.Embedding)
    ]


def _hidden_matrices(model: torch.nn.Module) -> set[int]:
    """ids of the matrices Muon is for: two dimensions, neither embedding nor output head."""
    ends = [module for _, module in _embeddings(model)] + [model.get_output_embeddings()]  # type: ignore[operator]
    outside = {id(p) for module in ends if module is not None for p in module.parameters()}
    return {id(p) for p in model.parameters() if p.ndim == 2 and id(p) not in outside}


class Together(torch.optim.Optimizer):
    """Several optimizers, of different parameters, that step as one.

    Groups and state are shared with them, not copied.
    """

    def __init__(self, optimizers: list[torch.optim.Optimizer]) -> None:
        self.optimizers = optimizers
        super().__init__(
            [group for optimizer in optimizers for group in optimizer.param_groups], {}
        )
        self._share()

    def _share(self) -> None:
        start = 0
        for optimizer in self.optimizers:
            end = start + len(optimizer.param_groups)
            optimizer.param_groups, optimizer.state = self.param_groups[start:end], self.state
            start = end

    def step(self, closure: Any = None) -> Any:
        """One step of each, after a single evaluation of ``closure``."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def load_state_dict(self, state_dict: Any) -> None:
        """Puts the loaded groups and state, which are new objects, into each."""
        super().load_state_dict(state_dict)
        self._share()
