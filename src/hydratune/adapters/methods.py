"""From the settings of an adapter to PEFT's config of it, one function per method; and what a model
cannot take of it.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import torch
from peft import (
    AdaLoraConfig,
    IA3Config,
    LoraConfig,
    OFTConfig,
    PeftConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    VeraConfig,
)
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hydratune.adapters.targets import (
    elsewhere,
    feedforward,
    for_peft,
    glob_like,
    linear_layers,
    matches,
    saved_for_peft,
    saved_modules,
    short_names,
    targets,
    ties_embeddings,
    unreadable,
    width,
)
from hydratune.errors import ConfigError, Problem
from hydratune.settings.adapter import (
    AdaLoraAdapter,
    Ia3Adapter,
    LayerAdapter,
    LoraAdapter,
    LoraBias,
    OftAdapter,
    PeftAdapter,
    PrefixInit,
    PrefixTuning,
    PromptAdapter,
    PromptInit,
    PromptTuning,
    VeraAdapter,
)

_KINDS: dict[type[PeftAdapter], type[PeftConfig]] = {
    LoraAdapter: LoraConfig,
    AdaLoraAdapter: AdaLoraConfig,
    Ia3Adapter: IA3Config,
    VeraAdapter: VeraConfig,
    OftAdapter: OFTConfig,
    PromptTuning: PromptTuningConfig,
    PrefixTuning: PrefixTuningConfig,
}
_DERIVED = {"task_type", "peft_type", "inference_mode", "auto_mapping", "base_model_name_or_path", "fan_in_fan_out", "peft_version",  # noqa: E501
            "total_step", "token_dim", "num_layers", "num_attention_heads", "tokenizer_name_or_path", "loftq_config",  # noqa: E501
            "ensure_weight_tying"}  # fmt: skip


def changes_base(adapter: object) -> bool:
    """Whether the initialisation moves a part of the base's weights into the adapter."""
    return isinstance(adapter, LoraAdapter) and adapter.init_lora_weights.startswith(
        ("pissa", "olora")
    )


def peft_config(model: PreTrainedModel, adapter: PeftAdapter, steps: int) -> PeftConfig:
    """PEFT's config of ``adapter`` on ``model``, trained for ``steps`` optimizer steps."""
    values: dict[str, Any] = {}
    match adapter:
        case LoraAdapter():
            values = _lora(adapter)
        case AdaLoraAdapter():
            values = _adalora(adapter, steps)
        case Ia3Adapter():
            values = {"feedforward_modules": _feedforward(model, adapter)}
        case VeraAdapter():
            names = ("r", "d_initial", "vera_dropout", "projection_prng_key", "save_projection")
            values = {name: getattr(adapter, name) for name in names}
        case OftAdapter():
            values = {name: getattr(adapter, name) for name in _own(OftAdapter)}
        case PromptTuning():
            values = _prompt_tuning(model, adapter)
        case PrefixTuning():
            values = _prefix_tuning(adapter)
        case _:
            raise AssertionError(type(adapter))
    if isinstance(adapter, LayerAdapter):
        values["target_modules"] = for_peft(model, adapter)
        values["modules_to_save"] = saved_for_peft(model, adapter.modules_to_save)
        if isinstance(adapter, LoraAdapter | AdaLoraAdapter):
            values["ensure_weight_tying"] = bool(tied_modules(model, adapter))
        values["fan_in_fan_out"] = any(isinstance(m, Conv1D) for m in model.modules())
    return _KINDS[type(adapter)](task_type="CAUSAL_LM", **{**values, **adapter.extra})


def _own(kind: type[LayerAdapter]) -> list[str]:
    """Names of the fields that only this method has."""
    shared = {f.name for f in fields(LayerAdapter)} | {"method"}
    return [f.name for f in fields(kind) if f.name not in shared]


def _lora(adapter: LoraAdapter) -> dict[str, Any]:
    start = adapter.init_lora_weights
    return {
        "r": adapter.r,
        "lora_alpha": adapter.lora_alpha,
        "lora_dropout": adapter.lora_dropout,
        "use_rslora": adapter.use_rslora,
        "use_dora": adapter.use_dora,
        # LoftQ's start is computed afterwards, from the weights as they were before quantisation
        "init_lora_weights": True if start.lower() in ("true", "loftq") else start,
        "rank_pattern": dict(adapter.rank_pattern),
        "alpha_pattern": dict(adapter.alpha_pattern),
        "bias": adapter.bias.value,
    }


def _adalora(adapter: AdaLoraAdapter, steps: int) -> dict[str, Any]:
    begin, end = adalora_phases(adapter, steps)
    names = (
        "init_r",
        "target_r",
        "lora_alpha",
        "lora_dropout",
        "deltaT",
        "beta1",
        "beta2",
        "orth_reg_weight",
    )
    return {
        **{name: getattr(adapter, name) for name in names},
        "tinit": begin,
        "tfinal": end,
        "total_step": steps,
    }


def adalora_phases(adapter: AdaLoraAdapter, steps: int) -> tuple[int, int]:
    """(optimizer steps at full rank, optimizer steps at the end with ranks fixed) of a run of
    ``steps``. Raises ``ConfigError``.
    """
    begin = adapter.tinit if adapter.tinit is not None else steps // 10
    end = adapter.tfinal if adapter.tfinal is not None else steps // 5
    if begin + end >= steps:
        key, value = (
            ("adapter.tinit", adapter.tinit)
            if adapter.tinit
            else ("adapter.tfinal", adapter.tfinal)
        )
        why = (
            f"the run has {steps} optimizer steps: tinit={begin} and tfinal={end} leave none to"
            " reduce the ranks"
        )
        raise ConfigError(
            [Problem(key, value, why, "lower adapter.tinit and adapter.tfinal, or train longer")]
        )
    return begin, end


def _feedforward(model: PreTrainedModel, adapter: Ia3Adapter) -> list[str]:
    """PEFT wants them to be some of its target_modules, written alike."""
    chosen, written = targets(model, adapter), for_peft(model, adapter)
    patterns = feedforward(model, adapter)
    names = [name for name in chosen if any(matches(name, pattern) for pattern in patterns)]
    if isinstance(written, str) or set(written) >= set(names):
        return names
    return [short for short in written if any(n == short or n.endswith(f".{short}") for n in names)]


def _prompt_tuning(model: PreTrainedModel, adapter: PromptTuning) -> dict[str, Any]:
    text = adapter.prompt_tuning_init is PromptInit.TEXT
    return {
        "num_virtual_tokens": adapter.num_virtual_tokens,
        "prompt_tuning_init": adapter.prompt_tuning_init.value,
        "prompt_tuning_init_text": adapter.prompt_tuning_init_text if text else None,
        "tokenizer_name_or_path": model.name_or_path if text else None,
    }


def _prefix_tuning(adapter: PrefixTuning) -> dict[str, Any]:
    return {
        "num_virtual_tokens": adapter.num_virtual_tokens,
        "prefix_projection": adapter.prefix_projection,
        "encoder_hidden_size": adapter.encoder_hidden_size,
        "init_weights": (
            None if adapter.init_weights is PrefixInit.random else adapter.init_weights.value
        ),
    }


# ----------------------------------------------------------------------------------------- refusals
def problems(
    model: PreTrainedModel, adapter: PeftAdapter, steps: int | None = None
) -> Iterator[Problem]:
    """What ``model``, or a run of ``steps``, cannot take of ``adapter``; raises ``ConfigError``
    where one mistake hides the others.
    """
    unknown = list(_unknown_extra(adapter))
    if unknown:
        raise ConfigError(unknown)
    if isinstance(adapter, PromptAdapter):
        yield from _window(model, adapter)
    if not isinstance(adapter, LayerAdapter):
        return
    chosen = targets(model, adapter)
    yield from _modules_to_save(model, adapter, chosen)
    yield from _extra_names(model, adapter.extra)
    yield from _tied_head(model, adapter, chosen)
    if isinstance(adapter, LoraAdapter):
        yield from _lora_problems(model, adapter, chosen)
    if isinstance(adapter, AdaLoraAdapter):
        yield from _rank("adapter.init_r", adapter.init_r, chosen)
        if steps is not None:
            adalora_phases(adapter, steps)
    if isinstance(adapter, OftAdapter):
        yield from _oft_blocks(adapter, chosen)
    if isinstance(adapter, Ia3Adapter):
        for pattern in feedforward(model, adapter) if adapter.feedforward_modules else ():
            if not any(matches(name, pattern) for name in chosen):
                why = f"{pattern} is none of the target layers"
                fix = f"some of: {short_names(list(chosen))}"
                yield Problem("adapter.feedforward_modules", adapter.feedforward_modules, why, fix)


def _unknown_extra(adapter: PeftAdapter) -> Iterator[Problem]:
    kind = _KINDS[type(adapter)]
    own = {f.name for f in fields(adapter)}
    known = {f.name: f for f in fields(kind) if f.name not in own | _DERIVED}
    for key, value in adapter.extra.items():
        if key in own:
            yield Problem(
                f"adapter.extra.{key}",
                value,
                "this is a setting of its own",
                f"set adapter.{key}={value}",
            )
        elif key not in known:
            why = f"PEFT's {kind.__name__} has no such field, or it follows from other settings"
            yield Problem(f"adapter.extra.{key}", value, why, f"one of: {', '.join(sorted(known))}")
        else:
            want = type(known[key].default)
            if want in (bool, int, float) and not (
                type(value) is want or (want is float and type(value) is int)
            ):
                yield Problem(
                    f"adapter.extra.{key}",
                    value,
                    f"PEFT wants {want.__name__}",
                    "correct the value",
                )


def tied_modules(model: PreTrainedModel, adapter: LayerAdapter) -> list[str]:
    """Those of ``modules_to_save`` that are the embeddings and the output head in one matrix."""
    if not ties_embeddings(model):
        return []
    shared = [
        n
        for n, m in model.named_modules()
        if m is model.get_input_embeddings() or m is model.get_output_embeddings()
    ]
    return [
        pattern
        for pattern, found in saved_modules(model, adapter.modules_to_save).items()
        if set(found) & set(shared)
    ]


def _modules_to_save(
    model: PreTrainedModel, adapter: LayerAdapter, chosen: Mapping[str, torch.nn.Module]
) -> Iterator[Problem]:
    key = "adapter.modules_to_save"
    names = [name for name, _ in model.named_modules() if name]
    wrong = [*unreadable(key, adapter.modules_to_save)]
    if wrong:
        yield from wrong
        return
    yield from glob_like(key, adapter.modules_to_save, names)
    for pattern, found in saved_modules(model, adapter.modules_to_save).items():
        if not any(matches(name, pattern) for name in names):
            ends = [n for n in names if n.endswith(pattern)]
            why = f"this model has no module called {pattern}"
            if ends:
                why += f"; PEFT would train the {len(ends)} modules whose names end so"
                fix = f"name what you mean: {short_names(ends)}"
            else:
                fix = (
                    "some of:"
                    f" {short_names([n for n in names if not n[-1].isdigit()])}{elsewhere(model, [pattern])}"  # noqa: E501
                )
            yield Problem(key, adapter.modules_to_save, why, fix)
        elif any(target == n or target.startswith(f"{n}.") for n in found for target in chosen):
            why, fix = (
                f"{pattern} is, or holds, a target of the adapter",
                "leave it to one of the two",
            )
            yield Problem(key, adapter.modules_to_save, why, fix)
    tied = tied_modules(model, adapter)
    if tied and not isinstance(adapter, LoraAdapter | AdaLoraAdapter):
        why = (
            f"{', '.join(tied)}: this model's embeddings and output head are one matrix, which PEFT"
            " can train beside LoRA only"
        )
        yield Problem(key, adapter.modules_to_save, why, "take it out, or set adapter=lora")


def _tied_head(
    model: PreTrainedModel, adapter: LayerAdapter, chosen: Mapping[str, torch.nn.Module]
) -> Iterator[Problem]:
    head = next(
        (name for name, module in chosen.items() if module is model.get_output_embeddings()), None
    )
    if head is not None and ties_embeddings(model):
        why = (
            f"{head} and the embeddings are one matrix in this model: merged, the adapter would"
            " change both"
        )
        fix = (
            f"leave {head} out; to train both in full: adapter=lora"
            f" adapter.modules_to_save=[{head}]"
        )
        yield Problem("adapter.target_modules", adapter.target_modules, why, fix)


def _window(model: PreTrainedModel, adapter: PromptAdapter) -> Iterator[Problem]:
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    if window and adapter.num_virtual_tokens >= window:
        why = (
            f"layers of this model see {window} tokens, so the virtual tokens would be out of sight"
        )
        yield Problem(
            "adapter.num_virtual_tokens",
            adapter.num_virtual_tokens,
            why,
            f"set fewer than {window}",
        )


def _rank(
    key: str, r: int, chosen: Mapping[str, torch.nn.Module], *, everywhere: bool = False
) -> Iterator[Problem]:
    """A rank above the width of all the layers; or ``everywhere``: above that of any."""
    widths = [min(width(module)) for module in chosen.values()]
    limit = min(widths) if everywhere else max(widths)
    if r > limit:
        why = f"no target layer is wider than {limit}, so a higher rank adds nothing"
        if everywhere:
            why = (
                f"a target layer is only {limit} wide, and this start takes a part of rank r out of"
                " every layer"
            )
        yield Problem(key, r, why, f"set {key}={limit} or less")


def _lora_problems(
    model: PreTrainedModel, adapter: LoraAdapter, chosen: Mapping[str, torch.nn.Module]
) -> Iterator[Problem]:
    yield from _rank("adapter.r", adapter.r, chosen, everywhere=changes_base(adapter))
    if adapter.use_dora and any(
        hasattr(m, "state") and hasattr(m.weight, "SCB") and m.weight.device.type == "cpu"
        for m in chosen.values()
    ):
        why = "on a CPU, PEFT's DoRA loses the scales of an 8-bit base"
        yield Problem(
            "adapter.use_dora",
            True,
            why,
            "set model.quantization=nf4, or adapter=lora, or train on a GPU",
        )
    for field in ("rank_pattern", "alpha_pattern"):
        decided: set[str] = set()
        yield from glob_like(f"adapter.{field}", getattr(adapter, field), chosen, _in_pattern)
        for pattern, value in getattr(adapter, field).items():
            own = {n: m for n, m in chosen.items() if _in_pattern(n, pattern)}
            if not own:
                why, fix = (
                    "no target layer has this name",
                    f"the target layers: {short_names(list(chosen))}",
                )
                yield Problem(f"adapter.{field}.{pattern}", value, why, fix)
            elif not [n for n in own if n not in decided]:
                first = next(
                    p for p in getattr(adapter, field) if any(_in_pattern(n, p) for n in own)
                )
                why = (
                    f"every layer it names has its value from the earlier {first}: of several that"
                    " match, the first counts"
                )
                yield Problem(
                    f"adapter.{field}.{pattern}",
                    value,
                    why,
                    f"put {pattern} before {first}, or take it out",
                )
            elif field == "rank_pattern":
                yield from _rank(
                    f"adapter.rank_pattern.{pattern}", value, own, everywhere=changes_base(adapter)
                )
            decided |= set(own)
    biased = (
        chosen.values() if adapter.bias is LoraBias.lora_only else linear_layers(model).values()
    )
    if adapter.bias is not LoraBias.none and all(
        getattr(module, "bias", None) is None for module in biased
    ):
        yield Problem(
            "adapter.bias",
            adapter.bias.value,
            "the layers of this model have no bias",
            "set adapter.bias=none",
        )


def _in_pattern(name: str, pattern: str) -> bool:
    """As PEFT matches the keys of ``rank_pattern`` and ``alpha_pattern``."""
    return re.match(rf"(.*\.)?({pattern})$", name) is not None


def _extra_names(model: PreTrainedModel, extra: Mapping[str, Any]) -> Iterator[Problem]:
    """Names and numbers in PEFT's own fields that mean nothing on ``model``, which PEFT warns of at
    most.
    """
    parameters = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    wanted = extra.get("target_parameters")
    for name in wanted if isinstance(wanted, list | tuple) else ():
        if not any(parameter == name or parameter.endswith(f".{name}") for parameter in parameters):
            near = sorted({".".join(p.split(".")[-2:]) for p in parameters})
            why = f"this model has no parameter called {name}"
            yield Problem(
                "adapter.extra.target_parameters", wanted, why, f"some of: {', '.join(near)}"
            )
    tokens = extra.get("trainable_token_indices")
    if tokens is None:
        return
    key = "adapter.extra.trainable_token_indices"
    by_layer = tokens if isinstance(tokens, Mapping) else {"embed_tokens": tokens}
    modules = [name for name, _ in model.named_modules(remove_duplicate=False)]
    rows = model.get_input_embeddings().weight.shape[0]
    for layer, ids in by_layer.items():
        if isinstance(tokens, Mapping) and not any(
            name == layer or name.endswith(f".{layer}") for name in modules
        ):
            embeddings = next(
                n for n, m in model.named_modules() if m is model.get_input_embeddings()
            )
            yield Problem(
                key,
                layer,
                f"this model has no module called {layer}",
                f"the embeddings are {embeddings}",
            )
        wrong = [
            i for i in ids if not (isinstance(i, int) and not isinstance(i, bool) and 0 <= i < rows)
        ]
        if wrong or not ids:
            why = (
                f"{wrong[0]} is no row of the embeddings, which have {rows:,}"
                if wrong
                else "no token is named, so none would be trained"
            )
            yield Problem(key, list(ids), why, f"give numbers of tokens, from 0 to {rows - 1}")


def _oft_blocks(adapter: OftAdapter, chosen: Mapping[str, torch.nn.Module]) -> Iterator[Problem]:
    common = math.gcd(*(width(module)[0] for module in chosen.values()))
    if adapter.oft_block_size > 0 and common % adapter.oft_block_size:
        sizes = ", ".join(
            str(size) for size in range(2, min(common, 512) + 1) if common % size == 0
        )
        why = "it must divide the input width of every target layer"
        yield Problem(
            "adapter.oft_block_size",
            adapter.oft_block_size,
            why,
            f"one of: {sizes or 'none; choose fewer layers'}",
        )
