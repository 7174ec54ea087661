"""A model on the Hugging Face hub."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from omegaconf import MISSING

from hydratune.errors import ConfigError, HydratuneError, Problem
from hydratune.settings.model import ModelConfig, Source
from hydratune.settings.registry import variant


@variant("model", "hub")
@dataclass
class HubModel(ModelConfig):
    """A model on the Hugging Face hub."""

    on_hub: ClassVar[bool] = True

    source: str = "hub"
    id: str = MISSING  # ORG/NAME
    revision: str | None = None  # commit, tag or branch; null: main

    def locate(self) -> Source:
        identity = f"hub:{self.id}@{self.revision or 'main'}"
        return Source(self.id, self.revision, identity)

    def folder_at_hand(self) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        file = try_to_load_from_cache(self.id, "config.json", revision=self.revision)
        return Path(file).parent if isinstance(file, str) else None

    def hub_name(self) -> str | None:
        return self.id

    def loaded_identity(self, source: Source, commit: str | None) -> str:
        return f"hub:{self.id}@{commit}" if commit else source.identity

    def public_name(self, source: Source) -> str:
        return self.id

    def loading_error(self, source: Source, reason: str) -> HydratuneError:
        fix = (
            "check the name, the network, and for a gated model your access and HF_TOKEN; or"
            " download it and use model=local model.path=DIR"
        )
        return ConfigError([Problem("model.id", source.name, f"cannot be loaded ({reason})", fix)])

    def own_name(self) -> tuple[str, str]:
        return "model.id", self.id
