"""form=adapter: the adapter by itself, as PEFT and vLLM load it onto the base model."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from peft import PeftModel

from hydratune.adapters import attach
from hydratune.adapters.base import PeftAdapter
from hydratune.adapters.peft_warnings import hidden_peft_warnings
from hydratune.digests import INDEX
from hydratune.errors import RunError
from hydratune.export.form import Written
from hydratune.export.limits import Exactness
from hydratune.export.opened import OpenedRun
from hydratune.models import loading, turn_ends
from hydratune.settings.adapter import AdapterConfig
from hydratune.settings.export import ExportSettings
from hydratune.settings.registry import variant_name

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def write(
    opened: OpenedRun, merged: "PreTrainedModel | None", config: ExportSettings, to: Path
) -> Written:
    """Copy the adapter of the run, which is in PEFT's format already."""
    for file in sorted(opened.adapter_folder.iterdir()):
        refuse_link(file)
        if file.is_file() and file.name != INDEX:
            shutil.copyfile(file, to / file.name)
    obstacle = vllm_obstacle(opened.job.config.adapter)
    facts: dict[str, object] = {"vllm": obstacle or True}
    return Written(Exactness.exact, notes=[_in_vllm(obstacle)], facts=facts)


def refuse_link(file: Path) -> None:
    """Raise ``RunError`` for a link out of the folder: what it leads to would be given away."""
    if not file.resolve().is_relative_to(file.parent.resolve()):
        raise RunError(
            f"{file} leads out of its folder, to {file.resolve()}, which would be copied into the"
            " export; remove the link, or put the file itself in its place"
        )


def vllm_obstacle(adapter: AdapterConfig) -> str | None:
    """Return why vLLM cannot load an adapter with these settings, or None."""
    if not isinstance(adapter, PeftAdapter) or not adapter.runs_in_vllm:
        return f"adapters of this method ({variant_name('adapter', adapter)})"
    if "dora" in adapter.variant_names():
        return "DoRA"
    if getattr(adapter, "modules_to_save", None):
        return "adapters with modules trained in full (adapter.modules_to_save)"
    if str(getattr(adapter, "bias", "none")) != "none":
        return "adapters with trained biases (adapter.bias)"
    return None


def _in_vllm(obstacle: str | None) -> str:
    """Return whether vLLM loads the adapter, in a sentence."""
    if obstacle is None:
        return "vLLM loads this adapter with `--enable-lora`."
    return f"vLLM cannot load {obstacle}: PEFT can; or export the run with form=merged."


def load(opened: OpenedRun, folder: Path) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Load the base model again, and the adapter onto it by PEFT."""
    job = opened.job
    base = attach.prepare_quantised(
        loading.load_model(job.config.model, job.source, job.compute), job.config.model.quantization
    )
    with hidden_peft_warnings():
        model = PeftModel.from_pretrained(base, str(folder), torch_device=str(job.compute.device))
    return model.eval(), loading.tokenizer_in(folder, opened.unquantised)


def usage(opened: OpenedRun, config: ExportSettings) -> str:
    """Return how PEFT and, where it can, vLLM load the adapter."""
    job = opened.job
    base = job.config.model.public_name(job.source)
    in_vllm = vllm_obstacle(job.config.adapter) is None
    return turn_ends.card_section(opened.tokenizer, base, job.answer_ends, in_vllm=in_vllm)
