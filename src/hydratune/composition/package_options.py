"""Options of config groups that installed packages bring, as Hydra finds them.

An option is the settings of its class, so a package needs no YAML. Hydra asks for it by its name,
and the package is imported then. A folder of the user (``--config-dir``) comes first.
"""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin

from hydratune.composition.schemas import defaults_of
from hydratune.settings import packages
from hydratune.settings.registry import brought_variants, variant_class

_SCHEME = "hydratune-packages"
_GROUPS = ("adapter", "data", "optimizer")


def register() -> None:
    """Make the options known to hydratune's own commands."""
    for plugin in (PackageOptions, PackageOptionsPath):
        Plugins.instance().register(plugin)


def option_names(group: str) -> list[str]:
    """Return the options of a group that packages and Python code bring, sorted."""
    return brought_variants(group) if group in _GROUPS else []


class PackageOptions(ConfigSource):
    """The options, as ``adapter/NAME`` and as the schema ``schema/adapter/NAME``."""

    @staticmethod
    def scheme() -> str:
        return _SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        """Return the settings of an option. Raises ``ConfigError`` if they cannot be imported."""
        if not self.is_config(config_path):
            raise ConfigLoadError(f"there is no option {config_path}")
        group, name = _group_and_name(config_path)
        schema = variant_class(group, name)
        return defaults_of(schema, packages.owner(group, name), self.full_path())

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return _group(config_path) in _GROUPS

    def is_config(self, config_path: str) -> bool:
        group, name = _group_and_name(config_path)
        return group in _GROUPS and name in option_names(group)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        if results_filter is ObjectType.GROUP:
            return []
        return option_names(_group(config_path))


class PackageOptionsPath(SearchPathPlugin):
    """Adds the options to the places where Hydra looks for settings."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("hydratune packages", f"{_SCHEME}://")


def _group(path: str) -> str:
    return path.strip("/").removeprefix("schema/")


def _group_and_name(path: str) -> tuple[str, str]:
    """Split ``schema/adapter/haiku.yaml`` into (``adapter``, ``haiku``)."""
    group, _, name = _group(path).rpartition("/")
    return group, name.removesuffix(".yaml")
