"""Tokenizers and models of every source, loaded in the same way.

A source ends in a folder or a hub name, which ``transformers`` loads by its usual way.
"""

import copy
import logging
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, GenerationConfig
from transformers.utils import logging as transformers_logging

from hydratune import extras, hub
from hydratune.data.encoding.tokenizing import adds_begin
from hydratune.data.reader import Reader
from hydratune.errors import ConfigError, Problem
from hydratune.models.tools_template import tools_template
from hydratune.models.turn_ends import add_missing_eos, turn_ends
from hydratune.settings.model import ModelConfig, Quantization, Source

if TYPE_CHECKING:
    import torch
    from transformers import (
        BitsAndBytesConfig,
        PretrainedConfig,
        PreTrainedModel,
        PreTrainedTokenizerBase,
    )

    from hydratune.models.compute import Compute

log = logging.getLogger(__name__)
# one line break between turns: two could merge into one token, or not, depending on what follows
PLAIN_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ m['content'] + eos_token + '\n' }}"
    "{% else %}{{ m['content'] | trim + '\n' }}{% endif %}{% endfor %}"
)
# torch's own message advises to load it nevertheless
NAMES_CODE = "its weights are a pickle that names code to run, which is refused"
Loaded = TypeVar("Loaded", covariant=True)
Module = TypeVar("Module", bound="torch.nn.Module")


class _AutoClass(Protocol[Loaded]):
    """One of transformers' classes with ``from_pretrained``."""

    def from_pretrained(self, name: str, /, **options: Any) -> Loaded: ...


def locate(model: ModelConfig) -> Source:
    """Return where the model is, after making it available unless it is on the hub.

    Raises ``InputError`` if it cannot be made available.
    """
    if model.on_hub:
        hub.use_cache_if_silent()
    else:  # a download deserves a progress bar
        transformers_logging.disable_progress_bar()
    return model.locate()


def load_tokenizer(model: ModelConfig, source: Source) -> "PreTrainedTokenizerBase":
    """Return the tokenizer with the configured chat template and a padding token.

    Raises ``ConfigError`` without a template.
    """
    return prepare_tokenizer(_from_pretrained(AutoTokenizer, model, source), model)


def tokenizer_in(folder: Path, model: ModelConfig) -> "PreTrainedTokenizerBase":
    """Return the tokenizer that was saved in ``folder`` with the fine-tuned ``model``."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        str(folder), trust_remote_code=model.trust_remote_code
    )
    return tokenizer


def prepare_tokenizer(
    tokenizer: "PreTrainedTokenizerBase", model: ModelConfig
) -> "PreTrainedTokenizerBase":
    """Give a tokenizer the configured chat template and a padding token, and return it.

    Raises ``ConfigError`` without a template.
    """
    if model.chat_template == "plain":
        tokenizer.chat_template = plain_template(tokenizer)
    elif model.chat_template == "tools":
        tokenizer.chat_template = tools_template(tokenizer)
    elif model.chat_template is not None:
        tokenizer.chat_template = Path(model.chat_template).read_text("utf-8")
    if tokenizer.chat_template is None:
        why = f"{model.name} is a base model: its tokenizer has no chat template"
        fix = "set model.chat_template=plain, or give a Jinja file"
        raise ConfigError([Problem("model.chat_template", None, why, fix)])
    add_missing_eos(tokenizer)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def plain_template(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return the built-in chat template, which begins as the tokenizer begins a text."""
    return ("{{ bos_token }}" if adds_begin(tokenizer) else "") + PLAIN_TEMPLATE


def load_model(model: ModelConfig, source: Source, compute: "Compute") -> "PreTrainedModel":
    """Return the base model in evaluation mode, loaded onto its device and in its final dtype."""
    from transformers import AutoModelForCausalLM  # slow: hydratune prepare needs no model

    options: dict[str, object] = {"dtype": compute.weights}
    quantised = model.quantization is not Quantization.none
    # on a CPU, bitsandbytes would take the first GPU unless it is named
    if compute.device.type != "cpu" or quantised:
        options["device_map"] = {"": str(compute.device)}
    if quantised:
        options["quantization_config"] = bitsandbytes_config(model.quantization, compute.weights)
    loaded: PreTrainedModel = _from_pretrained(AutoModelForCausalLM, model, source, **options)
    return prepare_model(loaded, model, compute)


def prepare_model(
    loaded: "PreTrainedModel", model: ModelConfig, compute: "Compute"
) -> "PreTrainedModel":
    """Choose how rows are packed for a loaded model, and return it in evaluation mode.

    Raises ``ConfigError`` for a model that is no causal language model.
    """
    from hydratune.models.compute import remember_autocast  # these import torch's model classes
    from hydratune.models.packing_trial import UnsupportedModelError, choose

    try:
        choose(loaded)
    except UnsupportedModelError as error:
        key, value = model.own_name()
        page = "docs/reference/architectures.md"
        fix = f"choose a causal language model; {page} lists what can be trained"
        raise ConfigError([Problem(key, value, str(error), fix)]) from error
    remember_autocast(loaded, compute.autocast)
    return loaded.eval()


def with_same_tensors(model: Module) -> Module:
    """Return a copy of the modules of ``model`` that holds the same tensors.

    An adapter changes modules, never a frozen tensor.
    """
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def identified(source: Source, model: ModelConfig, loaded: "PreTrainedModel") -> Source:
    """Return ``source`` with an identity that is equal only for equal weights.

    It has the commit that a hub model was really loaded from, and the quantisation.
    """
    identity = model.loaded_identity(source, getattr(loaded.config, "_commit_hash", None))
    if model.quantization is not Quantization.none:
        identity += f"+{model.quantization}"
    return replace(source, identity=identity)


def turn_end_ids(tokenizer: "PreTrainedTokenizerBase", model: "PreTrainedModel") -> frozenset[int]:
    """Return every token that ends generation for this model."""
    return turn_ends(tokenizer, model.generation_config)


def context_window(model: ModelConfig, loaded: "PreTrainedModel") -> int:
    """Return how many tokens the model can read.

    The smaller of the numbers in the settings and in the model's own config counts.
    """
    return _window(model, loaded.config)


def _window(model: ModelConfig, config: "PretrainedConfig") -> int:
    own = getattr(config.get_text_config(), "max_position_embeddings", None)
    return min(limit for limit in (own, model.context_window, 2**31) if limit is not None)


def load_config(model: ModelConfig, source: Source) -> "PretrainedConfig":
    """Return the config of a model. Raises ``InputError``."""
    config: PretrainedConfig = _from_pretrained(AutoConfig, model, source)
    return config


def load_reader(model: ModelConfig, source: Source | None = None) -> Reader:
    """Return tokenizer, turn ends and context window, as ``load_model`` would find them.

    No weights are loaded. ``source``: where the files are; None: where the settings say, to which
    they are downloaded. Raises ``InputError``.
    """
    source = source or locate(model)
    tokenizer = load_tokenizer(model, source)
    config = load_config(model, source)
    try:
        generation = GenerationConfig.from_pretrained(source.name, revision=source.revision)
    except OSError:  # without that file, the model's config says how it generates
        generation = GenerationConfig.from_model_config(config)
    rows = int(config.get_text_config().vocab_size)
    pad_within(tokenizer, rows)
    return Reader(tokenizer, turn_ends(tokenizer, generation), _window(model, config), rows)


def reader_of(
    model: ModelConfig, tokenizer: "PreTrainedTokenizerBase", loaded: "PreTrainedModel"
) -> Reader:
    """Return the same as ``load_reader`` for a model that is loaded."""
    embeddings = loaded.get_input_embeddings()
    assert embeddings is not None
    rows = int(embeddings.weight.shape[0])
    pad_within(tokenizer, rows)
    return Reader(tokenizer, turn_end_ids(tokenizer, loaded), context_window(model, loaded), rows)


def pad_within(tokenizer: "PreTrainedTokenizerBase", rows: int) -> None:
    """Pad with the end-of-text token if the model has no embedding for the padding token.

    Such padding tokens are common. ``rows``: of the embeddings.
    """
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    if pad is not None and pad >= rows and end is not None and end < rows:
        tokenizer.pad_token = tokenizer.eos_token


def _from_pretrained(
    kind: _AutoClass[Loaded], model: ModelConfig, source: Source, **options: object
) -> Loaded:
    if model.trust_remote_code:
        log.warning("model.trust_remote_code=true: code that comes with %s may run", source.name)
    try:
        return kind.from_pretrained(
            source.name,
            revision=source.revision,
            trust_remote_code=model.trust_remote_code,
            **options,
        )
    except UnpicklingError as error:
        raise model.loading_error(source, NAMES_CODE) from error
    except (OSError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise model.loading_error(source, reason) from error


def bitsandbytes_config(kind: Quantization, dtype: "torch.dtype") -> "BitsAndBytesConfig":
    """Return how bitsandbytes stores a model; ``dtype``: in which a 4-bit one computes."""
    from transformers import BitsAndBytesConfig

    extras.require("bitsandbytes", f"model.quantization={kind}")
    if kind is Quantization.int8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
