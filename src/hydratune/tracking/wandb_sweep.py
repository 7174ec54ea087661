"""A sweep on a W&B server: read, created, and asked for trials as W&B's own agent asks.

The protocol is that of the client (``wandb agent``): an agent is registered for the sweep, and
with every heartbeat it says which run it has; the answer is a run to start, a run to stop, or that
the sweep is over. The server gives an agent a run only if it has none, so a driver that runs
several trials at a time registers an agent for each.
"""

import logging
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from hydratune.errors import ConfigError, InputError, Problem, RunError
from hydratune.records.files import Json
from hydratune.records.sweep import WandbSweep
from hydratune.settings.secrets import mask

_TIMEOUT = 20  # seconds for an answer
_PART = r"[^/\s]+"
_URL = re.compile(rf"https?://.*?/({_PART})/({_PART})/sweeps/({_PART}?)(?:[?#].*)?")


class SweepNotFoundError(Exception):
    """The server no longer has the sweep, or the agent."""


class CommandKind(StrEnum):
    """What an agent is to do."""

    run = "run"  # or, on the server's side, to resume a run: it has the same parameters
    stop = "stop"
    exit = "exit"  # the sweep is over


@dataclass(frozen=True)
class AgentCommand:
    """An answer to a heartbeat."""

    kind: CommandKind
    run_id: str = ""
    parameters: Mapping[str, Json] | None = None  # of a run to start


@dataclass(frozen=True)
class StoredSweep:
    """A sweep as the server has it."""

    place: WandbSweep
    content: Mapping[str, Json]  # its configuration
    state: str  # PENDING, RUNNING, PAUSED, STOPPED, CANCELED or FINISHED
    url: str


def parse_sweep(text: str) -> tuple[str | None, str | None, str]:
    """Return (entity, project, id) of ``id``, ``project/id``, ``entity/project/id`` or the URL.

    Raises ``ValueError`` for anything else.
    """
    url = _URL.fullmatch(text.strip())
    parts = list(url.groups()) if url else text.strip().split("/")
    if len(parts) > 3 or not all(re.fullmatch(_PART, part) for part in parts):
        raise ValueError(text)
    entity, project, name = [None, None, *parts][-3:]
    assert name is not None
    return entity, project, name


class SweepServer:
    """The W&B server, asked through the client."""

    def __init__(self) -> None:
        """Connect. Raises ``InputError`` without a key, ``RunError`` if no server answers."""
        import wandb

        wandb.setup(wandb.Settings(silent=True))
        # a heartbeat that is not answered is sent again; the client would log a traceback
        logging.getLogger("wandb.apis.public.sweeps").setLevel(logging.CRITICAL + 1)
        try:
            self._api = wandb.Api(timeout=_TIMEOUT)
            self._default_entity = self._api.default_entity
        except wandb.errors.UsageError as error:
            raise InputError(
                "a W&B sweep needs its server, and there is no API key: type wandb login, or set"
                " WANDB_API_KEY"
            ) from error
        except Exception as error:  # the client raises its own, requests' and Go's errors
            raise RunError(_refusal(error)) from error
        # the runs start clients of their own, which must outlive this process
        os.environ.pop("WANDB_SERVICE", None)

    def place(self, name: str, project: str, entity: str | None) -> WandbSweep:
        """Return where the sweep ``name`` is; without an entity, that of the account."""
        return WandbSweep(str(entity or self._default_entity), project, name)

    def read(self, place: WandbSweep, key: str) -> StoredSweep:
        """Return the sweep. Raises ``ConfigError`` about the setting ``key`` if there is none."""
        try:
            sweep = self._api.sweep(f"{place.entity}/{place.project}/{place.id}")
            return StoredSweep(place, dict(sweep.config or {}), str(sweep.state), str(sweep.url))
        except Exception as error:
            if "could not find" not in str(error).lower():
                raise RunError(_refusal(error)) from error
            why = f"{place.entity}/{place.project} has no such sweep on {self._host}"
            fix = "give ENTITY/PROJECT/ID, as in the address of its page"
            raise ConfigError([Problem(key, place.id, why, fix)]) from error

    def create(self, content: Mapping[str, Json], project: str, entity: str | None) -> WandbSweep:
        """Create a sweep. Raises ``InputError`` if the server refuses it."""
        from wandb.apis.public.sweeps import _upsert_sweep

        try:
            made, warnings = _upsert_sweep(
                self._api, dict(content), project=project, entity=entity or self._default_entity
            )
        except Exception as error:
            raise InputError(f"W&B did not create the sweep: {_reason(error)}") from error
        for warning in warnings or ():
            logging.getLogger(__name__).warning("W&B on the sweep: %s", warning)
        owner = (made.get("project") or {}).get("entity") or {}
        return self.place(str(made["name"]), project, owner.get("name") or entity)

    def register(self, place: WandbSweep) -> str:
        """Register an agent and return its id."""
        from wandb.apis.public.sweeps import _register_agent

        try:
            agent = _register_agent(
                self._api,
                socket.gethostname(),
                sweep_id=place.id,
                project=place.project,
                entity=place.entity,
            )
        except Exception as error:
            raise RunError(_refusal(error)) from error
        return str(agent["id"])

    def heartbeat(self, agent: str, run_id: str | None) -> list[AgentCommand]:
        """Say which run an agent has (None: none), and return what it is to do.

        Without an answer of the server that is nothing. Raises ``SweepNotFoundError``.
        """
        import wandb
        from wandb.apis.public.sweeps import _agent_heartbeat

        try:
            answers = _agent_heartbeat(self._api, agent, {}, {run_id: True} if run_id else {})
        except wandb.sdk.sweeps.SweepNotFoundError as error:
            raise SweepNotFoundError(str(error)) from error
        return [command for answer in answers if (command := _command(answer)) is not None]

    def state(self, place: WandbSweep) -> str:
        """Return the state of the sweep; "" if the server does not answer."""
        from wandb.apis.public.sweeps import _get_sweep_state

        try:
            state = _get_sweep_state(
                self._api, place.id, entity=place.entity, project=place.project
            )
        except Exception:  # as above
            return ""
        return str(state)

    @property
    def _host(self) -> str:
        return str(self._api.settings["base_url"])


def _command(answer: Mapping[str, Json]) -> AgentCommand | None:
    """Return what an answer asks for; None for what this version does not know."""
    kind = answer.get("type")
    if kind in ("run", "resume"):
        arguments = answer.get("args") or {}
        parameters = {name: argument["value"] for name, argument in arguments.items()}
        return AgentCommand(CommandKind.run, str(answer["run_id"]), parameters)
    if kind in (CommandKind.stop, CommandKind.exit):
        return AgentCommand(CommandKind(kind), str(answer.get("run_id") or ""))
    return None


def _refusal(error: Exception) -> str:
    server = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    return (
        f"the W&B server {server} cannot be used: {_reason(error)}; is it there, and is"
        " WANDB_API_KEY one of its keys?"
    )


def _reason(error: Exception) -> str:
    text = mask(str(error)).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
