"""Adding an adapter to a model, and saving and loading what was trained.

That is a PEFT adapter on a frozen base, or parameters of the model itself. PEFT owns the weights
and the files of adapters.
"""

import json
import shutil
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hydratune import digests
from hydratune.adapters import continued, initialisation, targets, trained
from hydratune.adapters.base import LayerAdapter, PeftAdapter, peft_methods
from hydratune.adapters.folder import CARD_FILE, AdapterFolder, BaseModel, name_base
from hydratune.adapters.peft_warnings import hidden_peft_warnings
from hydratune.errors import ConfigError, Problem, RunError
from hydratune.models import turn_ends
from hydratune.models.compute import Compute
from hydratune.models.loading import load_model
from hydratune.settings.adapter import AdapterConfig
from hydratune.settings.model import ModelConfig, Quantization, Source, name_without_path

__all__ = [
    "add_adapter",
    "check",
    "count_parameters",
    "load_tuned",
    "prepare_quantised",
    "save",
]


def add_adapter(
    model: PreTrainedModel,
    adapter: AdapterConfig,
    steps: int = 0,
    start: AdapterFolder | None = None,
) -> PeftModel | PreTrainedModel:
    """Return ``model`` ready for ``steps`` optimizer steps.

    ``start``: an adapter that was trained before, which is trained further. Raises ``ConfigError``
    for settings that this architecture cannot take.
    """
    if start is not None:
        assert isinstance(adapter, PeftAdapter)
        return continued.attach_saved(model, start, adapter)
    if adapter.trains_base:
        _unfreeze(model, adapter.trained_parameters(model))
        return model
    assert isinstance(adapter, PeftAdapter)
    result = _new_adapter(model, adapter, steps)
    if adapter.changes_base():
        result.start = initialisation.start_of(result)
    adapter.initialise_weights(result)
    return result


def _unfreeze(model: PreTrainedModel, names: Container[str]) -> None:
    """Train the parameters of these names."""
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in names:
            parameter.requires_grad_(True)


def _new_adapter(model: PreTrainedModel, adapter: PeftAdapter, steps: int) -> PeftModel:
    """Return ``model`` with an adapter as PEFT starts it.

    Raises ``ConfigError`` if PEFT refuses the settings, or reads a name in another sense.
    """
    expected = (
        targets.expected_modules(model, adapter)
        if isinstance(adapter, LayerAdapter)
        else (set[str](), set[str]())
    )
    with _peft_errors(adapter):
        config = adapter.peft_config(model, steps)
        result = get_peft_model(model, config)  # type: ignore[arg-type]
    assert isinstance(result, PeftModel)
    if isinstance(adapter, LayerAdapter) and not adapter.extra.get("target_parameters"):
        _refuse_other_parts(result, adapter, expected)
    return result


def _refuse_other_parts(
    model: PeftModel, adapter: LayerAdapter, expected: tuple[set[str], set[str]]
) -> None:
    """Raise ``ConfigError`` if PEFT trains other parts than the ``expected`` ones."""
    wrong = trained.differences(model, *expected)
    if wrong:
        why = f"PEFT reads these names otherwise: {'; '.join(wrong[:3])}"
        fix = "give whole names, as model.named_modules() has them"
        raise ConfigError([Problem("adapter.target_modules", adapter.target_modules, why, fix)])


@contextmanager
def _peft_errors(adapter: PeftAdapter) -> Iterator[None]:
    """Raise ``ConfigError`` instead of PEFT's errors."""
    try:
        with hidden_peft_warnings():
            yield
    except (ValueError, TypeError, NotImplementedError) as error:
        why = f"PEFT refuses it: {error}"
        raise ConfigError(
            [Problem("adapter", getattr(adapter, "method", ""), why, "change the setting it names")]
        ) from error


def check(
    model: PreTrainedModel,
    adapter: AdapterConfig,
    steps: int | None = None,
    start: AdapterFolder | None = None,
) -> None:
    """Raise ``ConfigError`` for settings that ``model``, or a run of ``steps``, cannot take.

    ``model`` is not changed. PEFT's config is made only if ``steps`` is given.
    """
    if start is not None:
        assert isinstance(adapter, PeftAdapter)
        continued.check(model, start, adapter)
        return
    problems = list(adapter.model_problems(model, steps))
    if problems:
        raise ConfigError(problems)
    if steps is not None and isinstance(adapter, PeftAdapter):
        with _peft_errors(adapter):
            adapter.peft_config(model, steps)


def count_parameters(model: torch.nn.Module) -> tuple[int, int]:
    """Return the numbers of trainable and of all parameters; a byte holds two 4-bit weights."""

    def size(p: torch.nn.Parameter) -> int:
        return p.numel() * (2 * p.element_size() if hasattr(p, "quant_storage") else 1)

    sizes = [(size(p), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes)


def save(
    model: PeftModel | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    ends: Sequence[int] = (),
    base: BaseModel | None = None,
    card: str | None = None,
) -> None:
    """Write a PEFT adapter folder, or after full fine-tuning a Hugging Face model folder.

    The folder is written as a whole or not at all. ``ends``: tokens at which an answer ends, for
    ``generation_config.json``; empty: as model and tokenizer declare them. ``base``: what the
    folder calls the base model; None: by the name without the path that it was loaded from.
    ``card``: the content of README.md; None: PEFT's, with where an answer ends. Raises
    ``RunError``.
    """
    own = model.get_base_model() if isinstance(model, PeftModel) else model
    ends = ends or sorted(turn_ends.turn_ends(tokenizer, own.generation_config))
    generation = turn_ends.generation_config(own, tokenizer, ends)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        if isinstance(model, PeftModel):
            base = base or BaseModel(name_without_path(own.name_or_path))
            _save_adapter(model, temporary)
            name_base(temporary, base, own.name_or_path)
        else:
            # beside the weights, where ``from_pretrained`` reads it
            model.generation_config = generation
            model.save_pretrained(temporary)
        generation.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        _write_card(temporary, model, tokenizer, ends, base, card)
        digests.seal(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise RunError(
            f"cannot write {folder} ({error}); free some space and start again"
        ) from error


def _write_card(
    folder: Path,
    model: PeftModel | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    ends: Sequence[int],
    base: BaseModel | None,
    card: str | None,
) -> None:
    """Write README.md, or name the base and the ends of answers in the one that PEFT wrote."""
    file = folder / CARD_FILE
    if card is not None:
        file.write_text(card, "utf-8")
    elif isinstance(model, PeftModel) and base is not None and file.is_file():
        loaded_from = model.get_base_model().name_or_path
        method = peft_methods()[model.peft_config[model.active_adapter].peft_type.value]
        written = file.read_text("utf-8").replace(loaded_from, base.name).rstrip()
        section = turn_ends.card_section(tokenizer, base.name, ends, in_vllm=method.runs_in_vllm)
        file.write_text(f"{written}\n\n{section}", "utf-8")


def _save_adapter(model: PeftModel, folder: Path) -> None:
    """Write the adapter for the untouched base, the same bytes in every process."""
    config = model.peft_config[model.active_adapter]
    peft_methods()[config.peft_type.value].before_saving(model)
    # the base's embeddings are trained by modules_to_save at most
    model.save_pretrained(folder, save_embedding_layers=False)
    start = getattr(model, "start", None)
    if start is not None:
        initialisation.rewrite_for_original_base(model, start, folder)
    _sort_sets(config, folder / "adapter_config.json")


def _sort_sets(config: PeftConfig, file: Path) -> None:
    """Sort the sets in PEFT's file, such as ``target_modules``.

    PEFT writes them in an order that changes with every process.
    """
    content = json.loads(file.read_text("utf-8"))
    for name, value in content.items():
        if isinstance(value, list) and isinstance(getattr(config, name, None), set | frozenset):
            content[name] = sorted(value)
    file.write_text(json.dumps(content, indent=2, sort_keys=True), "utf-8")


def load_tuned(
    model: ModelConfig, adapter: AdapterConfig, source: Source, folder: Path, compute: Compute
) -> PeftModel | PreTrainedModel:
    """Load the fine-tuned model of a run, from its base and its adapter folder, on its device.

    Raises ``RunError`` if the folder is damaged.
    """
    if (damage := digests.damaged(folder)) is not None:
        raise RunError(damage)
    if adapter.trains_base:
        return load_model(model, Source(str(folder), None, ""), compute)
    base = prepare_quantised(load_model(model, source, compute), model.quantization)
    with hidden_peft_warnings():
        return PeftModel.from_pretrained(base, str(folder), torch_device=str(compute.device)).eval()


def prepare_quantised(model: PreTrainedModel, quantization: Quantization) -> PreTrainedModel:
    """Freeze all parameters, and return ``model``.

    On CPUs with AVX512-BF16, bitsandbytes repacks 4-bit weights at the first evaluation, rounding
    their scales: evaluating would change the model that is trained. That is switched off. The
    layers that stay unquantised keep the base's precision: norms in fp32 (as for fp16 training)
    would hand fp32 to an output head in bf16. They are also views of the file that was mapped into
    memory, and would keep all of it there: they are copied.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    if quantization is not Quantization.none:
        for parameter in model.parameters():
            if parameter.device.type == "cpu" and parameter.is_floating_point():
                parameter.data = parameter.data.clone()
        for module in model.modules():
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
    return model
