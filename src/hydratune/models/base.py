"""What model sources have in common that build a folder in the cache."""

from dataclasses import dataclass

from hydratune.errors import HydratuneError, InputError
from hydratune.settings.model import ModelConfig, Source


@dataclass
class CachedModel(ModelConfig):
    """A model that is built once, in the cache folder."""

    def loading_error(self, source: Source, reason: str) -> HydratuneError:
        return InputError(
            f"the model in {source.name} cannot be loaded ({reason}); delete that folder, it is"
            " built again"
        )
