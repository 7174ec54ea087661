"""Choose the client that the settings of a judge ask for."""

from collections.abc import Callable
from pathlib import Path

from hydratune.evaluation.judge.client import Budget, Client
from hydratune.evaluation.judge.server import Server
from hydratune.models.sources.hub import HubModel
from hydratune.models.sources.local import LocalModel
from hydratune.settings.judge import AskingConfig
from hydratune.settings.model import ModelConfig


def make_client(config: AskingConfig, base: Callable[[], ModelConfig], budget: Budget) -> Client:
    """Return the client for a server, or for a model on this machine.

    ``base`` returns the model that ``local=base`` means. Raises ``ConfigError``.
    """
    if config.local is None:
        return Server(config, budget)
    from hydratune.evaluation.judge.local import Local

    if config.local == "base":
        return Local(base(), config, budget)
    path = Path(config.local)
    if path.is_dir():
        return Local(LocalModel(name=path.name, path=str(path)), config, budget)
    return Local(HubModel(name=config.local, id=config.local), config, budget)
