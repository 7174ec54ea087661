"""The dataclasses of settings, as Hydra finds them: ``schema/COMMAND`` and ``schema/GROUP/NAME``.

Hydra's ConfigStore would do as well, but Hydra copies all of it whenever it composes.
"""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from hydratune.settings.commands import COMMANDS
from hydratune.settings.registry import all_variants, is_own

_SCHEME = "hydratune-schemas"


def register() -> None:
    """Make the schemas known to Hydra."""
    for plugin in (Schemas, SchemasPath):
        Plugins.instance().register(plugin)


class Schemas(ConfigSource):
    """The complete settings of every command, and the variants of every group of this package.

    In a defaults list: ``/schema/train@_here_`` and ``/schema/adapter@_here_: lora``.
    """

    @staticmethod
    def scheme() -> str:
        return _SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        schema = _schema(config_path)
        if schema is None:
            raise ConfigLoadError(f"there is no schema {config_path}")
        return defaults_of(schema, "hydratune", self.full_path())

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        path = config_path.strip("/")
        return path == "schema" or path.removeprefix("schema/") in all_variants()

    def is_config(self, config_path: str) -> bool:
        return _schema(config_path) is not None

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Return nothing: nobody chooses a schema on a command line."""
        return []


class SchemasPath(SearchPathPlugin):
    """Adds the schemas to the places where Hydra looks for settings."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("hydratune", f"{_SCHEME}://")


def defaults_of(schema: type, provider: str, path: str) -> ConfigResult:
    """Return a dataclass as what Hydra reads from a file: its fields with their defaults."""
    config = OmegaConf.structured(schema)
    return ConfigResult(provider=provider, path=path, config=config, header={"package": None})


def _schema(path: str) -> type | None:
    """Return the class that a path such as ``schema/adapter/lora.yaml`` names."""
    parts = path.strip("/").removesuffix(".yaml").split("/")
    if parts[0] != "schema":
        return None
    if len(parts) == 2:
        return COMMANDS.get(parts[1])
    variants = all_variants().get(parts[1], {}) if len(parts) == 3 else {}
    found = variants.get(parts[-1])
    return found if found is not None and is_own(found) else None
