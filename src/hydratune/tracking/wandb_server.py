"""Questions to a W&B server: which project runs go to, and which runs it has."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from hydratune.errors import HydratuneError, RunError
from hydratune.settings.secrets import mask
from hydratune.settings.tracking import TrackingConfig

_TIMEOUT = 30  # seconds for an answer
_FIX = "is WANDB_API_KEY set, and the server there?"


@dataclass(frozen=True)
class Project:
    """A project on a server."""

    entity: str
    project: str

    def __str__(self) -> str:
        return f"{self.entity}/{self.project}"


def project_of(project: object, entity: object) -> Project:
    """Return the project that runs with these settings go to.

    Raises ``RunError`` if no server answers, or nobody is logged in.
    """
    with explain_errors("W&B cannot be asked"):
        import wandb

        owner = os.environ.get("WANDB_ENTITY") or entity
        owner = owner or wandb.Api(timeout=_TIMEOUT).default_entity
    name = os.environ.get("WANDB_PROJECT") or project or TrackingConfig.project
    return Project(str(owner), str(name))


def ids_on_server(project: Project, ids: Sequence[str]) -> set[str]:
    """Return which of these runs the server has. Raises ``RunError``."""
    with explain_errors(f"{project} cannot be read"):
        import wandb

        try:
            filters = {"name": {"$in": list(ids)}}
            runs = wandb.Api(timeout=_TIMEOUT).runs(str(project), filters=filters)
            return {run.id for run in runs} & set(ids)
        except ValueError:  # there is no such project yet
            return set()


@contextmanager
def explain_errors(what: str) -> Iterator[None]:
    """Turn any error of the client in the block into a ``RunError`` that begins with ``what``."""
    import wandb

    wandb.setup(wandb.Settings(silent=True))
    try:
        yield
    except HydratuneError:
        raise
    except Exception as error:  # the client raises its own, requests' and Go's errors
        reason = mask(str(error)).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(f"{what}: {reason}; {_FIX}") from error
