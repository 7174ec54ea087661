"""A model that a Python program has loaded itself, given to ``hydratune.train(model=...)``."""

from dataclasses import dataclass

from hydratune.errors import HydratuneError, InputError
from hydratune.settings.model import ModelConfig, Source
from hydratune.settings.registry import variant


@variant("model", "loaded")
@dataclass
class LoadedModel(ModelConfig):
    """A model in the memory of a Python program. No file of it is known."""

    source: str = "loaded"
    identity: str = ""  # a hash of its weights

    def locate(self) -> Source:
        raise InputError(
            f"the base model {self.name} was given to hydratune.train(model=...) from memory, and"
            " no file of it is known; hydratune.Run(DIR).load_model(base=MODEL) loads the result"
            " with it"
        )

    def loading_error(self, source: Source, reason: str) -> HydratuneError:
        return InputError(f"the model {self.name} cannot be used ({reason})")
