"""The settings of hydratune for other Python programs: importing this module registers them.

Then Hydra composes them as ``hydratune train`` does::

    from hydra import compose, initialize_config_dir
    from hydratune.config import CONF, settings

    with initialize_config_dir(str(CONF), version_base="1.3"):
        train = settings(compose("train", ["model=tiny", "optimizer.lr=1e-3"]))
    train.check()  # ConfigError with every problem
"""

from omegaconf import DictConfig

from hydratune.composition.resolvers import CONF, register
from hydratune.settings.commands import TrainConfig
from hydratune.settings.registry import typed

__all__ = ["CONF", "TrainConfig", "settings"]

register()


def settings(composed: DictConfig) -> TrainConfig:
    """Return the composed settings of ``train`` with their types.

    Raises OmegaConf's errors for wrong types, and ``ConfigError`` for a variant that is unknown.
    """
    return typed(composed, TrainConfig)
