"""The models of the catalogue as options ``model=NAME``, as Hydra finds them.

They are made from its table, with the settings of ``model=hub``. Files of ``conf/model/`` come
before it, and so does a folder of the user (``--config-dir``).
"""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from hydratune.models.catalogue.entries import SHORT_NAMES, UNKNOWN, ModelFacts, models
from hydratune.models.sources.hub import HubModel

_SCHEME = "hydratune-models"
GROUP = "model"


def register() -> None:
    """Make the models known to Hydra."""
    for plugin in (CatalogueOptions, CatalogueOptionsPath):
        Plugins.instance().register(plugin)


def settings_of(facts: ModelFacts) -> HubModel:
    """Return the settings of a model of the catalogue."""
    return HubModel(
        name=facts.short_name,
        id=facts.hub_id,
        licence=facts.licence or UNKNOWN,
        context_window=facts.context_window,
    )


class CatalogueOptions(ConfigSource):
    """The options, as ``model/NAME``."""

    @staticmethod
    def scheme() -> str:
        return _SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        if not self.is_config(config_path):
            raise ConfigLoadError(f"there is no model {config_path}")
        config = OmegaConf.structured(settings_of(models()[_name(config_path)]))
        return ConfigResult("hydratune", self.full_path(), config, {"package": None})

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return config_path.strip("/") == GROUP

    def is_config(self, config_path: str) -> bool:
        return config_path.strip("/").startswith(f"{GROUP}/") and _name(config_path) in models()

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        if results_filter is ObjectType.GROUP or not self.is_group(config_path):
            return []
        return sorted(models())


class CatalogueOptionsPath(SearchPathPlugin):
    """Adds the models to the places where Hydra looks for settings."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("hydratune models", f"{_SCHEME}://")


def _name(path: str) -> str:
    """Return ``qwen3_8b`` of ``model/qwen3_8b.yaml``, and the full name of a short one."""
    name = path.strip("/").removeprefix(f"{GROUP}/").removesuffix(".yaml")
    return SHORT_NAMES.get(name, name)
