"""Weights & Biases: the only module that imports wandb.

The run directory is the record; this mirrors it.
"""

import functools
import logging
import os
import secrets
import shutil
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, Protocol

from rich.markup import escape

from hydratune.console import console
from hydratune.errors import HydratuneError, RunError
from hydratune.settings.secrets import mask
from hydratune.settings.tracking import TrackingConfig, TrackingMode
from hydratune.tracking.tensorboard import TensorBoardTracker

log = logging.getLogger(__name__)
Parameters = ParamSpec("Parameters")
PREDICTION_ROWS = 200  # at most, in the W&B table
_PATIENCE = 30  # seconds for an answer
_NOT_SENT = "not-sent"  # a file in the folder of a run
TEXTS = ("system_prompt", "prompt_tuning_init_text", "user_prompt")  # settings


class Tracker(Protocol):
    """Where a run is mirrored."""

    logger: Any  # a Lightning logger, or False
    id: str | None
    hint: str  # what to type to see it

    def facts(self, facts: Mapping[str, Any]) -> None: ...
    def summary(self, metrics: Mapping[str, float]) -> None: ...
    def predictions(self, rows: Sequence[Mapping[str, Any]]) -> None: ...
    def data(self, files: Sequence[Path]) -> None: ...
    def adapter(self, folder: Path) -> None: ...
    def again(self, rows: Sequence[Mapping[str, Any]]) -> None: ...
    def finish(self, exit_code: int) -> None: ...


class NoTracker:
    """Tracking switched off: no request, no folder, no import."""

    logger: Any = False
    id: str | None = None
    hint = ""

    def facts(self, facts: Mapping[str, Any]) -> None:
        pass

    def summary(self, metrics: Mapping[str, float]) -> None:
        pass

    def predictions(self, rows: Sequence[Mapping[str, Any]]) -> None:
        pass

    def data(self, files: Sequence[Path]) -> None:
        pass

    def adapter(self, folder: Path) -> None:
        pass

    def again(self, rows: Sequence[Mapping[str, Any]]) -> None:
        pass

    def finish(self, exit_code: int) -> None:
        pass


def never_fatal(method: Callable[Parameters, None]) -> Callable[Parameters, None]:
    """The run directory is the record: a mirror that breaks is reported, and ends nothing."""

    @functools.wraps(method)
    def guarded(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        try:
            method(*args, **kwargs)
        except Exception as error:  # the client raises its own, requests' and Go's errors
            log.warning("W&B: %s failed (%s)", method.__name__, mask(str(error)))
            console.print(
                f"[yellow]W&B: {method.__name__} failed ({escape(mask(str(error)))}); the run"
                " directory has everything"
            )

    return guarded


class WandbTracker:
    """One W&B run."""

    def __init__(self, run: Any, config: TrackingConfig) -> None:
        from lightning.pytorch.loggers import WandbLogger

        self.run, self.config = run, config
        self.logger: Any = WandbLogger(experiment=run)
        self.id: str | None = run.id
        self.hint = f"wandb sync {_shown(self._folder)}" if run.offline else str(run.url or "")
        for name in (
            "train/loss",
            "val/loss",
            "lr",
            "tokens",
            "tokens_per_second",
            "grad_norm",
            "sample/*",
        ):
            run.define_metric(
                name,
                step_metric="trainer/global_step",
                summary="min" if name.endswith("loss") else "last",
            )

    @never_fatal
    def facts(self, facts: Mapping[str, Any]) -> None:
        self.run.config.update({"facts": dict(facts)}, allow_val_change=True)

    @never_fatal
    def summary(self, metrics: Mapping[str, float]) -> None:
        self.run.summary.update(dict(metrics))

    @never_fatal
    def predictions(self, rows: Sequence[Mapping[str, Any]]) -> None:
        if not self.config.log_predictions:
            return
        import wandb

        columns = ["id", "prompt", "prediction", "reference", "finish_reason", "nll", "exact_match"]
        table = wandb.Table(columns=columns)
        for row in rows[:PREDICTION_ROWS]:
            prompt = "\n".join(turn["content"] for turn in row["prompt"])
            values = (
                row["id"],
                prompt,
                row["prediction"],
                row["reference"],
                row["finish_reason"],
                row["nll"],
                row["scores"].get("exact_match"),
            )
            table.add_data(*values)
        self.run.log({"predictions": table})

    @never_fatal
    def data(self, files: Sequence[Path]) -> None:
        if self.config.log_data:
            told = [file for file in files if self.config.log_text or file.suffix == ".json"]
            self._artifact(f"data-{self.run.id}", "dataset", {file.name: file for file in told}, [])

    @never_fatal
    def adapter(self, folder: Path) -> None:
        if self.config.log_adapter:
            files = {
                file.relative_to(folder).as_posix(): file
                for file in sorted(folder.rglob("*"))
                if file.is_file()
            }
            self._artifact(f"adapter-{self.run.id}", "model", files, ["best"])

    def _artifact(
        self, name: str, kind: str, files: Mapping[str, Path], aliases: list[str]
    ) -> None:
        import wandb

        artifact = wandb.Artifact(name, type=kind)
        for file_name, file in files.items():
            artifact.add_file(str(file), name=file_name)
        self.run.log_artifact(artifact, aliases=aliases)

    @never_fatal
    def again(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """History of the time before an interruption: of a server's run what it did not get;
        offline all, in new files for the old.
        """
        last = -1
        if self.run.offline:
            for left in self._folder.parent.glob(f"offline-run-*-{self.run.id}"):
                if left != self._folder:
                    shutil.rmtree(left, ignore_errors=True)
        elif isinstance(there := self.run.summary.get("trainer/global_step"), (int, float)):
            last = int(there)
        for row in (row for row in rows if row["step"] > last):
            values = {key: value for key, value in row.items() if key not in ("step", "epoch")}
            self.logger.log_metrics(values, step=row["step"])

    @never_fatal
    def finish(self, exit_code: int) -> None:
        try:
            self.run.finish(exit_code=exit_code)
        except (
            Exception
        ) as error:  # TimeoutError, or what the client stumbles over while it makes one
            log.warning("W&B: the server does not have all of this run (%s)", mask(str(error)))
            self.not_sent()

    def not_sent(self) -> None:
        """The server does not have all of this run, though it should."""
        (self._folder / _NOT_SENT).touch()
        self.hint = (
            f"wandb sync --include-online {_shown(self._folder)}  # the server did not answer in"
            " the end"
        )
        if self.run.offline:
            self.hint = f"wandb sync {_shown(self._folder)}  # the server did not answer"

    @property
    def _folder(self) -> Path:
        return Path(self.run.dir).parent


def to_send(folder: Path) -> str | None:
    """What to type to send every run of a sweep that the server does not have; None where there is
    none. Imports no client.
    """
    left = [
        run for run in (folder / "wandb").glob("*run-*-*") if not any(run.glob("*.wandb.synced"))
    ]
    online = [
        run for run in left if not run.name.startswith("offline-") and (run / _NOT_SENT).exists()
    ]
    offline = [run for run in left if run.name.startswith("offline-")]
    if not online and not offline:
        return None
    lost = len(online) + sum((run / _NOT_SENT).exists() for run in offline)
    told = f"  # the server did not answer: it lacks {lost} run{'s' * (lost > 1)}" if lost else ""
    return f"wandb sync {'--include-online ' if online else ''}{_shown(folder / 'wandb')}{told}"


@dataclass(frozen=True)
class Place:
    """A project on a server."""

    entity: str
    project: str

    def __str__(self) -> str:
        return f"{self.entity}/{self.project}"


def place(project: object, entity: object) -> Place:
    """Where runs with these settings go.

    Raises ``RunError`` where no server answers, or nobody is logged in.
    """
    with answering("W&B cannot be asked"):
        import wandb

        owner = (
            os.environ.get("WANDB_ENTITY") or entity or wandb.Api(timeout=_PATIENCE).default_entity
        )
    return Place(
        str(owner), str(os.environ.get("WANDB_PROJECT") or project or TrackingConfig.project)
    )


def on_server(place: Place, ids: Sequence[str]) -> set[str]:
    """Which of these runs a server has."""
    with answering(f"{place} cannot be read"):
        import wandb

        try:
            found = wandb.Api(timeout=_PATIENCE).runs(
                str(place), filters={"name": {"$in": list(ids)}}
            )
            return {run.id for run in found} & set(ids)
        except ValueError:  # there is no such project yet
            return set()


@contextmanager
def answering(
    what: str, fix: str = "is WANDB_API_KEY set, and the server there?"
) -> Iterator[None]:
    """Turns whatever the client raises into a ``RunError``."""
    import wandb

    wandb.setup(wandb.Settings(silent=True))
    try:
        yield
    except HydratuneError:
        raise
    except Exception as error:  # the client raises its own, requests' and Go's errors
        reason = mask(str(error)).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(f"{what}: {reason}; {fix}") from error


def _shown(folder: Path) -> Path:
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def start(
    config: TrackingConfig,
    values: Mapping[str, Any],
    *,
    folder: Path,
    group: str | None,
    name: str,
    job_type: str,
    known: str | None = None,
    on_stop: Callable[[], None] | None = None,
    run_folder: Path | None = None,
) -> Tracker:
    """Begins the W&B run of a job. ``values`` is the resolved configuration as plain nested values.

    ``known`` is the id of the run that an interrupted job had: it goes on. Offline,
    ``Tracker.again`` puts its new files in the place of the old ones. ``on_stop`` is called when
    the user presses Stop in W&B; None: as Ctrl-C. ``run_folder`` is where TensorBoard's files go.
    ``WANDB_MODE`` wins over ``tracking.mode``, unless that is TensorBoard. A server that does not
    answer costs 20 s, then the run is kept offline.
    """
    if config.mode is TrackingMode.tensorboard:
        return TensorBoardTracker(run_folder or folder, values)
    mode = os.environ.get("WANDB_MODE") or config.mode.value
    mode = "offline" if mode == "dryrun" else mode  # its older name
    if mode == TrackingMode.disabled.value:
        return NoTracker()
    import wandb

    options: dict[str, Any] = {
        "project": os.environ.get("WANDB_PROJECT") or config.project,
        "entity": os.environ.get("WANDB_ENTITY") or config.entity,
        "dir": str(folder),
        "group": group,
        "job_type": job_type,
        "name": name,
        "tags": config.tags,
        "config": _masked(dict(values) if config.log_text else _without_texts(dict(values))),
        "id": known or os.environ.get("WANDB_RUN_ID") or _new_id(),
        **({"resume": "allow"} if known and mode == "online" else {}),
        "reinit": "create_new",
        "settings": wandb.Settings(
            console="off",
            save_code=False,
            finish_timeout=60,
            finish_timeout_raises=True,
            init_timeout=20,
            silent=True,
            disable_git=True,
            stop_fn=on_stop,
            x_disable_meta=not config.log_text,  # the command line is part of it
        ),
    }
    wandb.setup(
        wandb.Settings(silent=True)
    )  # else the login speaks before the settings of a run count
    try:
        run = wandb.init(mode=mode, **options)  # type: ignore[arg-type]
    except (
        Exception
    ) as error:  # the client raises its own, requests' and Go's errors for an absent server
        log.warning("W&B is not reachable (%s); the run is kept offline", mask(str(error)))
        console.print(
            f"[yellow]W&B is not reachable ({escape(mask(str(error)).splitlines()[0])}); the run is"
            " kept offline"
        )
        for left in (folder / "wandb").glob(f"run-*-{options['id']}") if not known else ():
            shutil.rmtree(
                left, ignore_errors=True
            )  # an empty beginning, which wandb sync would send as a run of its own
        options = {key: value for key, value in options.items() if key != "resume"} | {
            "id": _new_id()
        }  # the client keeps the first one
        tracker = WandbTracker(wandb.init(mode="offline", **options), config)
        tracker.not_sent()
        return tracker
    return WandbTracker(run, config)


def _new_id() -> str:
    """As the client makes them, so that the folders of a run can be told before it began."""
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8))


def _without_texts(values: dict[str, Any]) -> dict[str, Any]:
    """Settings without those that are texts for a model."""
    told = {key: "not sent" if key in TEXTS and value else value for key, value in values.items()}
    return {
        key: _without_texts(value) if isinstance(value, dict) else value
        for key, value in told.items()
    }


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _masked(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_masked(inner) for inner in value]
    return mask(value) if isinstance(value, str) else value
