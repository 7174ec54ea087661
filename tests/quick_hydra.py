"""Hydra composes with what it has read and merged before, which takes half of the time in tests.

Hydra reads and parses every file, makes every schema, and merges all of them, again for each
composition.
"""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository, IConfigRepository
from hydra.core.default_element import ResultDefault
from omegaconf import DictConfig, OmegaConf

CONF = str(Path(__file__).parents[1] / "conf")
# where nothing changes during the tests: Hydra's own settings, the schemas, conf/
_UNCHANGED = ("pkg://hydra.conf", "hydratune-schemas://", f"file://{CONF}")


@contextmanager
def quick_hydra() -> Iterator[None]:
    """Keep what Hydra has read and merged. A search path with other folders is read as ever."""
    stored: dict[Any, bytes] = {}
    load, choices = ConfigRepository.load_config, defaults_list._create_interpolation_map
    merge = ConfigLoaderImpl._compose_config_from_defaults_list

    def unchanged_paths(repository: IConfigRepository) -> list[str]:
        """Return the search path, or nothing if it has folders whose files may change."""
        paths = [source.full_path() for source in repository.get_sources()]
        other = any(path.startswith("file://") and path not in _UNCHANGED for path in paths)
        return [] if other else paths

    def merged(
        self: ConfigLoaderImpl, defaults: list[ResultDefault], repo: IConfigRepository
    ) -> DictConfig:
        if not (paths := unchanged_paths(repo)):
            return merge(self, defaults, repo)
        key = (*(str(vars(default)) for default in defaults), *paths)
        if key not in stored:
            stored[key] = pickle.dumps(merge(self, defaults, repo))
        config: DictConfig = pickle.loads(stored[key])
        return config

    def load_config(self: ConfigRepository, config_path: str) -> Any:
        if not (paths := unchanged_paths(self)):
            return load(self, config_path)
        key = (config_path, *paths)
        if key not in stored:
            result = load(self, config_path)
            if result is None or not result.path.startswith(_UNCHANGED):
                return result
            stored[key] = pickle.dumps(result)
        return pickle.loads(stored[key])

    def interpolation_map(overrides: Any, defaults: list[Any], self_added: bool) -> Any:
        """Return the choices only where a default refers to one."""
        values = [str(vars(default).get(name)) for default in defaults for name in vars(default)]
        if any("${" in value for value in values):
            return choices(overrides, defaults, self_added)
        return OmegaConf.create({})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConfigRepository, "load_config", load_config)
        patch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", merged)
        patch.setattr(defaults_list, "_create_interpolation_map", interpolation_map)
        yield
