"""The settings of every model source, and the interface of ``hydratune.models.sources``."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

from omegaconf import MISSING

from hydratune import extras
from hydratune.errors import HydratuneError, Problem
from hydratune.settings.paths import path_setting


class Quantization(StrEnum):
    """How the frozen base is stored."""

    none = "none"  # not quantised
    nf4 = "nf4"  # 4-bit NormalFloat with double quantisation (QLoRA, arXiv:2305.14314)
    int8 = "int8"  # LLM.int8() (arXiv:2208.07339)


@dataclass(frozen=True)
class Source:
    """What ``from_pretrained`` is given, and how the same weights are recognised again."""

    name: str  # a folder or a hub id
    revision: str | None
    identity: str  # checksum, commit or folder


def name_without_path(name: str) -> str:
    """Return the name of a model folder, or the hub id if the folder is one of the hub's cache.

    A hub id stays as it is.
    """
    if not Path(name).is_absolute() and not Path(name).is_dir():
        return name
    folder = Path(name).resolve()
    if folder.parent.name == "snapshots":  # of the hub's cache: models--ORG--NAME/snapshots/COMMIT
        kind, *parts = folder.parents[1].name.split("--")
        if kind == "models" and parts:
            return "/".join(parts)
    return Path(name).absolute().name or folder.name


@dataclass
class ModelConfig:
    """The base model.

    A subclass is one module of ``hydratune.models.sources`` with its settings, its rules and the
    way to its weights. It is registered by ``@variant("model", NAME)``, and has a field ``source``
    with that name.
    """

    # whether the model has an id on the Hugging Face hub instead of a folder here
    on_hub: ClassVar[bool] = False

    name: str = MISSING  # what the model is called in tables and in W&B
    licence: str = "unknown"  # as its publisher states it; check it before you ship
    context_window: int | None = None  # tokens; null: what the model's own config says
    # a Jinja file; plain, for a base model without one; or tools, for a model whose own writes no
    # tool calls; null: the tokenizer's own
    chat_template: str | None = path_setting(None)
    quantization: Quantization = Quantization.none  # how the frozen weights of the base are stored
    # run code from the model's repository; leave it off unless you have read that code
    trust_remote_code: bool = False
    # an adapter that is trained further: a run directory, its adapter/, or a folder that PEFT
    # wrote; null: a new adapter
    adapter: str | None = path_setting(None)

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong with the settings, before the model is located."""
        yield from self.own_problems()
        if self.quantization is not Quantization.none:
            key = "model.quantization"
            yield from extras.missing("bitsandbytes", key, self.quantization.value)
        template = self.chat_template
        if template not in (None, "plain", "tools") and not Path(str(template)).is_file():
            fix = "give a Jinja file, or plain, or tools, or null"
            yield Problem("model.chat_template", template, "no such file", fix)

    def own_problems(self) -> Iterator[Problem]:
        """Yield what is wrong with the settings that only this source has."""
        yield from ()

    def locate(self) -> Source:
        """Return where the model is, after making it available unless it is on the hub.

        Raises ``InputError`` if it cannot be made available.
        """
        raise NotImplementedError(type(self).__name__)

    def folder_at_hand(self) -> Path | None:
        """Return the folder with the model's config and tokenizer if it is on this machine already.

        Nothing is downloaded or unpacked for it.
        """
        return None

    def hub_name(self) -> str | None:
        """Return the id on the hub of the model whose sizes and licence these are."""
        return None

    def loaded_identity(self, source: Source, commit: str | None) -> str:
        """Return what identifies the loaded weights; ``commit`` is that of a hub model."""
        return source.identity

    def public_name(self, source: Source) -> str:
        """Return what other machines know the model by: an id on the hub, or its folder's name.

        An adapter folder and its model card name the base model so, and no path of this machine.
        """
        return name_without_path(source.name)

    def loading_error(self, source: Source, reason: str) -> HydratuneError:
        """Return the error of a model that cannot be loaded."""
        raise NotImplementedError(type(self).__name__)

    def own_name(self) -> tuple[str, str]:
        """Return the setting by which a user names the model, and its value."""
        return "model", self.name
