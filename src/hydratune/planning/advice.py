"""Warnings about settings that rarely work, and a first sweep, each with its source."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from hydratune.planning.memory import Memory, Needs, Place, optimizer_kind
from hydratune.settings.adapter import AdapterConfig
from hydratune.settings.data import Level
from hydratune.settings.model import ModelConfig, Quantization
from hydratune.wording import counted

_TINKER = (
    "thinking-machines-lab/tinker-cookbook, hyperparam_utils.get_lr: the best of a sweep on Tulu 3,"
    " batches of 128, 780 steps"
)
_REGRET = (
    "Schulman et al. 2025, LoRA Without Regret (thinkingmachines.ai/blog/lora): the best rate of"
    " LoRA is about 10 times that of full fine-tuning"
)
_QLORA = "README of artidoro/qlora: 1e-4 for models larger than 13B"
_OWN = "measured by this project: SmolLM2-135M on the contracts (README.md)"
# published best rates of LoRA for models of the catalogue
_PUBLISHED = {
    "Qwen/Qwen3-32B": 3e-4,
    "Qwen/Qwen3-4B-Instruct-2507": 1e-3,
    "Qwen/Qwen3-8B": 1e-3,
    "Qwen/Qwen3.5-27B": 3e-4,
    "Qwen/Qwen3.5-4B": 3e-4,
    "meta-llama/Llama-3.1-8B-Instruct": 3e-4,
    "meta-llama/Llama-3.3-70B-Instruct": 3e-4,
    "openai/gpt-oss-20b": 1e-4,
}
_SMALL = 0.5e9  # parameters, below which the project's own sweep is nearest
_MIDDLE, _LARGE = 4.5e9, 13e9
_APART = 5.0  # times the published rate, beyond which a rate is said to be unusual
_FEW_STEPS, _SHORT_RUN = 20, 100
_MANY_EPOCHS = 5
_SCALES = (0.25, 8.0)  # of alpha / r


@dataclass(frozen=True)
class Rate:
    """A learning rate with which to begin, and who says so."""

    value: float
    source: str
    is_published: bool


@dataclass(frozen=True)
class Warn:
    """A setting that rarely works."""

    text: str
    source: str
    level: Level = Level.warn


@dataclass(frozen=True)
class FirstSweep:
    """A sweep with which to begin."""

    command: str  # as it is typed
    why: str
    source: str


def usual_rate(needs: Needs) -> Rate:
    """Return the learning rate with which to begin, by adapter and size of the model."""
    adapter, size = needs.config.adapter, needs.structure.parameters
    facts = needs.structure.facts
    if optimizer_kind(needs.config.optimizer) not in _LIKE_ADAM:
        return Rate(needs.config.optimizer.lr, "no rule was found for this optimizer", False)
    if not _is_lora(adapter) and not adapter.trains_base:
        return Rate(needs.config.optimizer.lr, "no rule was found for this adapter", False)
    published = _PUBLISHED.get(facts.hub_id) if facts is not None else None
    value, source = _by_size(size)
    if published is not None:
        value, source = published, _TINKER
    quantised = needs.config.model.quantization.value != "none"
    if quantised and size > _LARGE and published is None:
        value, source = 1e-4, _QLORA
    if adapter.trains_base:
        return Rate(value / 10, f"{_REGRET}; {source}", True)
    return Rate(value, source, True)


_LIKE_ADAM = ("adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit")


def _by_size(parameters: int) -> tuple[float, str]:
    """Return the rate of LoRA for models of about this size."""
    if parameters < _SMALL:
        return 2e-3, _OWN
    if parameters < _MIDDLE:
        return 1e-3, f"{_TINKER} (Llama 3.2 1B and 3B, Qwen3 4B)"
    if parameters < _LARGE:
        return 5e-4, f"{_TINKER} (Llama 3.1 8B 3e-4, Qwen3 8B 1e-3)"
    return 3e-4, f"{_TINKER} (Qwen3 32B, Llama 3.3 70B)"


def _is_lora(adapter: AdapterConfig) -> bool:
    return getattr(adapter, "method", "") == "lora"


def warnings(needs: Needs, steps: int) -> list[Warn]:
    """Return what is unusual about the settings of a run of ``steps`` optimizer steps."""
    return [*_rate_warnings(needs), *_scale_warnings(needs), *_step_warnings(needs, steps)]


def _rate_warnings(needs: Needs) -> Iterator[Warn]:
    usual, rate = usual_rate(needs), needs.config.optimizer.lr
    if not usual.is_published:
        return
    times = rate / usual.value
    if 1 / _APART <= times <= _APART:
        return
    word = "above" if times > 1 else "below"
    factor = times if times > 1 else 1 / times
    times_text = f"{factor:.3g}" if factor < 1000 else f"{factor:,.0f}"
    yield Warn(
        f"optimizer.lr={rate:g} is {times_text} times {word} the usual {usual.value:g} for this"
        f" adapter and a model of {needs.structure.parameters / 1e9:.3g}B parameters",
        usual.source,
    )


def _scale_warnings(needs: Needs) -> Iterator[Warn]:
    adapter = needs.config.adapter
    if not _is_lora(adapter):
        return
    r, alpha = getattr(adapter, "r"), getattr(adapter, "lora_alpha")  # noqa: B009
    rank_stabilised = bool(getattr(adapter, "use_rslora", False))
    scale = alpha / (r**0.5 if rank_stabilised else r)
    low, high = _SCALES
    if low <= scale <= high:
        return
    form = "lora_alpha / sqrt(r)" if rank_stabilised else "lora_alpha / r"
    source = "arXiv:2312.03732" if rank_stabilised else "arXiv:2106.09685, section 4.1"
    yield Warn(
        f"LoRA's change is multiplied by {form} = {scale:.3g}, which acts like a learning rate"
        f" {'above' if scale > high else 'below'} optimizer.lr; usual: adapter.lora_alpha={2 * r}",
        f"{source} for the scale; that {low:g} to {high:g} is usual is a rule of thumb",
    )


def _step_warnings(needs: Needs, steps: int) -> Iterator[Warn]:
    config, rows = needs.config, needs.rows.train_rows
    if steps < _FEW_STEPS:
        yield Warn(
            f"only {counted(steps, 'optimizer step')}: the learning rate hardly leaves its warm-up;"
            " more trainer.max_epochs, or a smaller data.batch_size",
            "a rule of thumb, without a published source",
        )
    elif steps < _SHORT_RUN and _is_lora(config.adapter):
        yield Warn(
            f"{counted(steps, 'optimizer step')}: for so short a run the best rate of LoRA is about"
            " 1.5 times higher, since B starts at zero",
            _REGRET.partition(":")[0] + ": 15 instead of 10 times that of full fine-tuning",
            Level.off,
        )
    if config.trainer.max_epochs > _MANY_EPOCHS and config.trainer.max_steps is None:
        yield Warn(
            f"trainer.max_epochs={config.trainer.max_epochs} over {counted(rows, 'row')}: later"
            " epochs often raise the validation loss; trainer.early_stopping_patience=3 ends"
            " training then",
            "a rule of thumb; the run report compares training with validation loss",
        )


def first_sweep(needs: Needs, overrides: Sequence[str]) -> FirstSweep:
    """Return a sweep over three learning rates around the usual one, with what was typed."""
    usual = usual_rate(needs)
    rates = ",".join(_short(usual.value * factor) for factor in (1 / 3, 1.0, 3.0))
    kept = [o for o in overrides if not o.lstrip("+").startswith(("optimizer.lr=", "sweep="))]
    words = ["hydratune", "train", "-m", *kept, f"optimizer.lr={rates}", "evaluation.baselines=[]"]
    command = " ".join(map(shlex.quote, dict.fromkeys(words)))
    why = (
        "three learning rates around the usual one, a factor of three apart; the same data and seed"
    )
    return FirstSweep(command, why, usual.source)


def _short(rate: float) -> str:
    """Return a rate in one digit, or in two if the first is 1, so that steps stay alike."""
    return f"{rate:.2g}" if f"{rate:e}".startswith("1") else f"{rate:.1g}"


def memory_warnings(needs: Needs, place: Place) -> Iterator[Warn]:
    """Say what would need less, if a run does not fit into the memory of ``place``."""
    memory = needs.at(place)
    if memory.fits is False and place.memory is not None:
        yield Warn(
            f"{place.name} has {place.memory / 2**30:.3g} GiB and the run needs"
            f" {memory.total / 2**30:.3g}: {_smaller(needs, memory)}",
            "memory by part, as planned",
        )


def _smaller(needs: Needs, memory: Memory) -> str:
    """Return settings with which less memory is needed, by the part that takes most."""
    part = max(memory.parts, key=lambda name: memory.parts[name])
    if memory.total > sum(memory.parts.values()) and part != "weights":
        return "answers take most; a smaller evaluation.batch_size"
    if part in ("activations", "logits", "stored states"):
        longest = f"={memory.longest_row}" if memory.longest_row else ""
        return f"trainer.gradient_checkpointing=true, or a shorter data.max_length{longest}"
    if part in ("optimizer", "gradients", "adapter"):
        return "adapter=lora" if needs.config.adapter.trains_base else "a smaller adapter.r"
    model = needs.config.model
    if model.quantization is not Quantization.none:
        return "a smaller model (hydratune configs model shows sizes)"
    quantised = replace(needs, config=replace(needs.config, model=_in_four_bits(model)))
    smaller = quantised.at(memory.place)
    text = f"model.quantization=nf4 needs {smaller.total / 2**30:.3g} GiB"
    return text if smaller.fits else f"{text}; a smaller model (hydratune configs model) needs less"


def _in_four_bits(model: ModelConfig) -> ModelConfig:
    return replace(model, quantization=Quantization.nf4)
