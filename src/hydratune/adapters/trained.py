"""The trained parts of a model, by name and count.

They are printed before training, and compared with the parts that the settings name.
"""

from collections.abc import Iterable, Iterator

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper

from hydratune.adapters.base import peft_methods
from hydratune.adapters.skipped_layers import expert_weights
from hydratune.adapters.targets import layer_number
from hydratune.wording import counted, noun_for

_BASE = "base_model.model."
_PARAMETER_ENDS = (".weight", ".bias")


def lines(model: torch.nn.Module) -> list[str]:
    """Return one line for each way in which parts of ``model`` are trained.

    Such a line is ``LoRA on q_proj x30, v_proj x30``.
    """
    named = dict(_parts(model))
    every = {
        number
        for name, _ in model.named_modules()
        if (number := layer_number(name, None)) is not None
    }
    return [f"{how} {_counted(names, every)}".rstrip() for how, names in named.items() if names]


def adapted_layers(model: PeftModel) -> set[str]:
    """Return the names, in the base model, of the layers that PEFT put its adapter on."""
    return {
        name
        for name, module in _own_modules(model)
        if isinstance(module, BaseTunerLayer) and not _inner(name)
    }


def saved_in_full(model: PeftModel) -> set[str]:
    """Return the names, in the base model, of the modules that PEFT trains and saves whole."""
    return {
        name for name, module in _own_modules(model) if isinstance(module, ModulesToSaveWrapper)
    }


def _own_modules(model: PeftModel) -> Iterator[tuple[str, torch.nn.Module]]:
    """Return the modules of the base model inside ``model``, with their names there."""
    return (
        (name.removeprefix(_BASE), module)
        for name, module in model.named_modules()
        if name.startswith(_BASE)
    )


def _inner(name: str) -> bool:
    """Return whether PEFT puts this inside a layer of its own.

    That is the layer as it was, or its single trained tokens.
    """
    return name.endswith((".base_layer", ".token_adapter"))


def _parts(model: torch.nn.Module) -> Iterator[tuple[str, list[str]]]:
    """Yield each way of training, and the names of the parts that are trained so."""
    return _adapter_parts(model) if isinstance(model, PeftModel) else _base_parts(model)


def _base_parts(model: torch.nn.Module) -> Iterator[tuple[str, list[str]]]:
    """Yield the parts of a model without an adapter."""
    parameters = [(name, p.requires_grad) for name, p in model.named_parameters()]
    if all(trained for _, trained in parameters):
        yield "every parameter:", _without_ends(name for name, _ in parameters)
    else:
        yield "in full:", _without_ends(name for name, trained in parameters if trained)


def _adapter_parts(model: PeftModel) -> Iterator[tuple[str, list[str]]]:
    """Yield the parts of a model with an adapter."""
    config = model.peft_config[model.active_adapter]
    method = peft_methods().get(config.peft_type.value)
    title = method.title if method is not None else ""
    if config.is_prompt_learning:
        yield (
            f"{counted(config.num_virtual_tokens, 'virtual token')}"
            f" ({config.peft_type.value.lower()})",
            [""],
        )
    yield f"{title} on", sorted(adapted_layers(model))
    yield "saved in full:", sorted(saved_in_full(model))
    modules = _own_modules(model)
    yield "single tokens of:", [n for n, m in modules if isinstance(m, TrainableTokensWrapper)]
    yield "biases of:", _trained_biases(model)
    yield "not trained: the experts'", _without_base_layers(expert_weights(model))


def _trained_biases(model: PeftModel) -> list[str]:
    """Return the names of the layers of the base model whose biases are trained."""
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    return _without_ends(
        name.removeprefix(_BASE).replace(".base_layer", "")
        for name in names
        if name.endswith("bias") and ".modules_to_save." not in name and "lora_" not in name
    )


def _without_base_layers(names: Iterable[str]) -> list[str]:
    """Return names of parameters as they are in the base model."""
    return [name.removeprefix(_BASE).replace(".base_layer", "") for name in names]


def _without_ends(names: Iterable[str]) -> list[str]:
    """Return the names of the modules that hold these parameters, each once."""

    def cut(name: str) -> str:
        return next((name.removesuffix(end) for end in _PARAMETER_ENDS if name.endswith(end)), name)

    return list(dict.fromkeys(cut(name) for name in names))


def _counted(names: list[str], every: set[int]) -> str:
    """Return the names with their counts, such as ``q_proj x30, model.norm x1``.

    Names in layers are counted by their last part. The layers they are in follow unless these are
    ``every`` layer of the model.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        short = name.rpartition(".")[2] if layer_number(f"{name}.", None) is not None else name
        groups.setdefault(short, []).append(name)
    groups.pop("", None)
    layers = {short: _layer_ranges(some, every) for short, some in groups.items()}
    if len(set(layers.values())) == 1:
        counts = ", ".join(f"{short} x{len(some)}" for short, some in groups.items())
        return counts + next(iter(layers.values()))
    return ", ".join(f"{short} x{len(some)}{layers[short]}" for short, some in groups.items())


def _layer_ranges(names: list[str], every: set[int]) -> str:
    """Return the layers that ``names`` are in, such as ``(layers 0-3)``; empty: ``every`` one."""
    numbers = {number for name in names if (number := layer_number(f"{name}.", None)) is not None}
    return (
        f" ({noun_for(len(numbers), 'layer')} {ranges(numbers)})"
        if numbers and numbers != every
        else ""
    )


def ranges(numbers: Iterable[int]) -> str:
    """Return numbers as ranges: ``0-3, 7`` for 0, 1, 2, 3, 7."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def differences(model: PeftModel, layers: set[str], saved: set[str]) -> list[str]:
    """Describe where PEFT trains other parts than the expected ones.

    ``layers``, ``saved``: the names that are expected to be adapted, and to be saved in full.
    """
    messages: list[str] = []
    for what, actual, expected in (
        ("adapted", adapted_layers(model), layers),
        ("saved in full", saved_in_full(model), saved),
    ):
        messages += [f"{name} would be {what} as well" for name in sorted(actual - expected)]
        messages += [f"{name} would not be {what}" for name in sorted(expected - actual)]
    return messages
