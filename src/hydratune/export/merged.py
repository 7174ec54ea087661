"""form=merged: a whole model as safetensors, which transformers loads without PEFT."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from transformers import AutoConfig

from hydratune.errors import RunError
from hydratune.export.form import Written, exactness_of, load_folder
from hydratune.export.opened import OpenedRun
from hydratune.models import loading, turn_ends
from hydratune.settings.export import ExportSettings, StoredType

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_SHARD = "5GB"  # size of a file of weights, as on the hub


def write(
    opened: OpenedRun, merged: "PreTrainedModel | None", config: ExportSettings, to: Path
) -> Written:
    """Write weights, tokenizer, chat template and generation config into the folder ``to``."""
    assert merged is not None
    dtype = stored_dtype(opened, config)
    save(opened, merged, dtype, to)
    exactness = exactness_of(opened, dtype)
    return Written(exactness, facts={"dtype": str(dtype).removeprefix("torch.")})


def save(opened: OpenedRun, model: "PreTrainedModel", dtype: torch.dtype, to: Path) -> None:
    """Write a model in fp32 as ``dtype``. Raises ``RunError`` if there is no space."""
    weights = _converted(model.state_dict(), dtype)
    before = model.config.dtype
    model.config.dtype = dtype
    model.config._name_or_path = ""  # no path of this machine
    model.generation_config = turn_ends.generation_config(
        model, opened.tokenizer, opened.job.answer_ends
    )
    try:
        model.save_pretrained(to, state_dict=weights, max_shard_size=_SHARD)
        opened.tokenizer.save_pretrained(to)
    except (RuntimeError, SafetensorError) as error:
        raise RunError(f"the weights cannot be written ({error}); free some space") from error
    finally:
        model.config.dtype = before
    model.generation_config.save_pretrained(to)
    _write_dtype(to / "config.json", dtype)


def _write_dtype(file: Path, dtype: torch.dtype) -> None:
    """Correct the number format in a config: transformers writes that of the model in memory."""
    content = json.loads(file.read_text("utf-8"))
    for part in (content, *content.values()):
        if isinstance(part, dict) and "dtype" in part:
            part["dtype"] = str(dtype).removeprefix("torch.")
    file.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _converted(weights: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return weights as ``dtype``; what was one tensor under two names is one again.

    transformers stores such a tensor, as embeddings that are the output head, only once.
    """
    once: dict[tuple[int, torch.Size], torch.Tensor] = {}
    result = {}
    for name, tensor in weights.items():
        key = (tensor.data_ptr(), tensor.shape)
        if key not in once:
            once[key] = tensor.cpu().to(dtype) if tensor.is_floating_point() else tensor.cpu()
        result[name] = once[key]
    return result


def stored_dtype(opened: OpenedRun, config: ExportSettings) -> torch.dtype:
    """Return the number format of the weights that are written."""
    if config.dtype is not StoredType.auto:
        return getattr(torch, config.dtype.value)
    source = opened.job.source
    base = AutoConfig.from_pretrained(
        source.name,
        revision=source.revision,
        trust_remote_code=opened.job.config.model.trust_remote_code,
    )
    dtype = base.get_text_config().dtype or base.dtype
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype, None)
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def load(opened: OpenedRun, folder: Path) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Load the model by transformers, without PEFT, in fp32."""
    return load_folder(opened, folder), loading.tokenizer_in(folder, opened.unquantised)


def usage(opened: OpenedRun, config: ExportSettings) -> str:
    """Return how transformers and vLLM load the folder."""
    section = turn_ends.card_section(
        opened.tokenizer, "", opened.job.answer_ends, in_vllm=False, is_adapter=False
    )
    return f"{section}\nAs a server: `hydratune serve export=FOLDER`, or `vllm serve FOLDER`.\n"
