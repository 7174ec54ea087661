"""What of a model is trained, by name and count: said before training, and compared with what was
asked for.
"""

from collections.abc import Iterable, Iterator

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper

from hydratune.adapters.targets import layer_number

_BASE = "base_model.model."
_PARAMETER_ENDS = (".weight", ".bias")


def lines(model: torch.nn.Module) -> list[str]:
    """One line for each way in which parts of ``model`` are trained, such as ``LoRA on q_proj x30,
    v_proj x30``.
    """
    named = dict(_parts(model))
    every = {
        number
        for name, _ in model.named_modules()
        if (number := layer_number(name, None)) is not None
    }
    return [f"{how} {_counted(names, every)}".rstrip() for how, names in named.items() if names]


def adapted_layers(model: PeftModel) -> set[str]:
    """Names, in the base model, of the layers that PEFT put its adapter on."""
    return {
        name
        for name, module in _own_modules(model)
        if isinstance(module, BaseTunerLayer) and not _inner(name)
    }


def saved_in_full(model: PeftModel) -> set[str]:
    """Names, in the base model, of the modules that PEFT trains and saves whole."""
    return {
        name for name, module in _own_modules(model) if isinstance(module, ModulesToSaveWrapper)
    }


def _own_modules(model: PeftModel) -> Iterator[tuple[str, torch.nn.Module]]:
    return (
        (name.removeprefix(_BASE), module)
        for name, module in model.named_modules()
        if name.startswith(_BASE)
    )


def _inner(name: str) -> bool:
    """What PEFT puts inside a layer of its own: the layer as it was, and single trained tokens."""
    return name.endswith((".base_layer", ".token_adapter"))


def _parts(model: torch.nn.Module) -> Iterator[tuple[str, list[str]]]:
    if not isinstance(model, PeftModel):
        parameters = [(name, p.requires_grad) for name, p in model.named_parameters()]
        if all(trained for _, trained in parameters):
            yield "every parameter:", _without_ends(name for name, _ in parameters)
        else:
            yield "in full:", _without_ends(name for name, trained in parameters if trained)
        return
    config = model.peft_config[model.active_adapter]
    title = {
        "LORA": "LoRA",
        "ADALORA": "AdaLoRA",
        "IA3": "(IA)3",
        "VERA": "VeRA",
        "OFT": "OFT",
    }.get(config.peft_type.value, "")
    if config.is_prompt_learning:
        yield f"{config.num_virtual_tokens} virtual tokens ({config.peft_type.value.lower()})", [""]
    yield f"{title} on", sorted(adapted_layers(model))
    yield "saved in full:", sorted(saved_in_full(model))
    yield (
        "single tokens of:",
        [
            name
            for name, module in _own_modules(model)
            if isinstance(module, TrainableTokensWrapper)
        ],
    )
    biases = [
        n
        for n, p in model.named_parameters()
        if p.requires_grad and n.endswith("bias") and ".modules_to_save." not in n
    ]
    yield (
        "biases of:",
        _without_ends(
            name.removeprefix(_BASE).replace(".base_layer", "")
            for name in biases
            if "lora_" not in name
        ),
    )


def _without_ends(names: Iterable[str]) -> list[str]:
    def cut(name: str) -> str:
        return next((name.removesuffix(end) for end in _PARAMETER_ENDS if name.endswith(end)), name)

    return list(dict.fromkeys(cut(name) for name in names))


def _counted(names: list[str], every: set[int]) -> str:
    """``q_proj x30, model.norm x1``: names in layers by their last part, with the layers they are
    in unless it is all of them.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        short = name.rpartition(".")[2] if layer_number(f"{name}.", None) is not None else name
        groups.setdefault(short, []).append(name)
    groups.pop("", None)
    told = {short: _where(some, every) for short, some in groups.items()}
    if len(set(told.values())) == 1:
        return ", ".join(f"{short} x{len(some)}" for short, some in groups.items()) + next(
            iter(told.values())
        )
    return ", ".join(f"{short} x{len(some)}{told[short]}" for short, some in groups.items())


def _where(names: list[str], every: set[int]) -> str:
    numbers = {number for name in names if (number := layer_number(f"{name}.", None)) is not None}
    return (
        f" (layer{'s' if len(numbers) > 1 else ''} {ranges(numbers)})"
        if numbers and numbers != every
        else ""
    )


def ranges(numbers: Iterable[int]) -> str:
    """``0-3, 7`` for 0, 1, 2, 3, 7."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def differences(model: PeftModel, layers: set[str], saved: set[str]) -> list[str]:
    """What PEFT trains and nobody asked for, or the other way round, in words; ``layers`` and
    ``saved``: names that are meant.
    """
    told: list[str] = []
    for what, got, wanted in (
        ("adapted", adapted_layers(model), layers),
        ("saved in full", saved_in_full(model), saved),
    ):
        told += [f"{name} would be {what} as well" for name in sorted(got - wanted)]
        told += [f"{name} would not be {what}" for name in sorted(wanted - got)]
    return told
