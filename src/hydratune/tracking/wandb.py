"""A run on Weights & Biases.

Only this module, ``wandb_server`` and ``wandb_file`` import wandb, inside functions.
"""

import functools
import logging
import os
import secrets
import shutil
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec

from rich.markup import escape

from hydratune.console import console, relative_path
from hydratune.metric_table import lower_is_better
from hydratune.records.predictions import Prediction
from hydratune.records.run_directory import HistoryRow
from hydratune.records.sweep import WandbSweep, WandbTrial
from hydratune.settings.secrets import mask
from hydratune.settings.tracking import TEXT_SETTINGS, TrackingConfig

if TYPE_CHECKING:
    from wandb.sdk.wandb_run import Run as WandbRun

log = logging.getLogger(__name__)
Parameters = ParamSpec("Parameters")
MOST_PREDICTIONS = 200  # rows of the W&B table
_INCOMPLETE = "not-sent"  # a file that marks the folder of a run of which the server lacks a part
_STEP = "trainer/global_step"
# A trial that was stopped did not fail: W&B shows the exit code 255 as "killed", others as "failed"
_INTERRUPTED, _KILLED = 130, 255
_LOGGED = ("train/loss", "val/loss", "lr", "tokens", "tokens_per_second", "grad_norm", "sample/*")
_PREDICTION_COLUMNS = (
    "id",
    "prompt",
    "prediction",
    "reference",
    "finish_reason",
    "nll",
    "exact_match",
)


def never_fatal(method: Callable[Parameters, None]) -> Callable[Parameters, None]:
    """Report an error of ``method`` instead of raising it: tracking must not end a run."""

    @functools.wraps(method)
    def guarded(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        try:
            method(*args, **kwargs)
        except Exception as error:  # the client raises errors of its own, of requests and of Go
            reason = mask(str(error))
            log.warning("W&B: %s failed (%s)", method.__name__, reason)
            console.print(
                f"[yellow]W&B: {method.__name__} failed ({escape(reason)}); the run directory has"
                " everything"
            )

    return guarded


class WandbTracker:
    """Mirrors one run on W&B."""

    def __init__(self, run: "WandbRun", config: TrackingConfig) -> None:
        from lightning.pytorch.loggers import WandbLogger

        self.run, self.config = run, config
        self.logger = WandbLogger(experiment=run)
        self.id: str | None = run.id
        self.hint = f"wandb sync {self._shown_folder}" if run.offline else str(run.url or "")
        for name in _LOGGED:
            summary = "min" if lower_is_better(name) else "last"
            run.define_metric(name, step_metric=_STEP, summary=summary)

    @never_fatal
    def log_facts(self, facts: Mapping[str, object]) -> None:
        self.run.config.update({"facts": dict(facts)}, allow_val_change=True)

    @never_fatal
    def log_summary(self, metrics: Mapping[str, float]) -> None:
        self.run.summary.update(dict(metrics))

    @never_fatal
    def log_predictions(self, rows: Sequence[Prediction]) -> None:
        if not self.config.log_predictions:
            return
        import wandb

        table = wandb.Table(columns=list(_PREDICTION_COLUMNS))
        for row in rows[:MOST_PREDICTIONS]:
            prompt = "\n".join(turn["content"] for turn in row["prompt"])
            values = {**row, "prompt": prompt, "exact_match": row["scores"].get("exact_match")}
            table.add_data(*(values[column] for column in _PREDICTION_COLUMNS))
        self.run.log({"predictions": table})

    @never_fatal
    def log_data_reports(self, files: Sequence[Path]) -> None:
        """Log the reports on the data; those with texts of rows only if texts may be sent."""
        if self.config.log_data:
            allowed = [f for f in files if self.config.log_text or f.suffix == ".json"]
            self._log_artifact(f"data-{self.run.id}", "dataset", {f.name: f for f in allowed}, [])

    @never_fatal
    def log_adapter(self, folder: Path) -> None:
        if self.config.log_adapter:
            paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            files = {path.relative_to(folder).as_posix(): path for path in paths}
            self._log_artifact(f"adapter-{self.run.id}", "model", files, ["best"])

    def _log_artifact(
        self, name: str, kind: str, files: Mapping[str, Path], aliases: list[str]
    ) -> None:
        import wandb

        artifact = wandb.Artifact(name, type=kind)
        for file_name, file in files.items():
            artifact.add_file(str(file), name=file_name)
        self.run.log_artifact(artifact, aliases=aliases)

    @never_fatal
    def restore_history(self, rows: Sequence[HistoryRow]) -> None:
        """Log the steps before an interruption.

        Online these are the steps that the server lacks; offline all steps, in new files that
        replace the old ones.
        """
        last = -1
        if self.run.offline:
            for folder in self._folder.parent.glob(f"offline-run-*-{self.run.id}"):
                if folder != self._folder:
                    shutil.rmtree(folder, ignore_errors=True)
        elif isinstance(step := self.run.summary.get(_STEP), int | float):
            last = int(step)
        for row in (row for row in rows if row["step"] > last):
            values = {key: value for key, value in row.items() if key not in ("step", "epoch")}
            self.logger.log_metrics(values, step=int(row["step"]))

    @never_fatal
    def finish(self, exit_code: int) -> None:
        if exit_code == _INTERRUPTED and self.run.sweep_id is not None:
            exit_code = _KILLED
        try:
            self.run.finish(exit_code=exit_code)
        except Exception as error:  # TimeoutError, or an error of the client while it makes one
            reason = mask(str(error))
            log.warning("W&B: the server does not have all of this run (%s)", reason)
            self.mark_incomplete()

    def mark_incomplete(self) -> None:
        """Record that the server lacks a part of this run, though it should have all of it."""
        (self._folder / _INCOMPLETE).touch()
        command = f"wandb sync --include-online {self._shown_folder}"
        self.hint = f"{command}  # the server did not answer in the end"
        if self.run.offline:
            self.hint = f"wandb sync {self._shown_folder}  # the server did not answer"

    @property
    def _folder(self) -> Path:
        return Path(self.run.dir).parent

    @property
    def _shown_folder(self) -> Path:
        return relative_path(self._folder)


def sync_command(folder: Path) -> str | None:
    """Return the command that sends every run of a sweep that the server lacks.

    None if there is no such run. The client is not imported.
    """
    runs = (folder / "wandb").glob("*run-*-*")
    unsent = [run for run in runs if not any(run.glob("*.wandb.synced"))]
    offline = [run for run in unsent if run.name.startswith("offline-")]
    incomplete = [run for run in unsent if (run / _INCOMPLETE).exists()]
    has_online = any(run not in offline for run in incomplete)
    if not has_online and not offline:
        return None
    count, lost = len(incomplete), ""
    if count:
        lost = f"  # the server did not answer: it lacks {count} run{'s' * (count > 1)}"
    option = "--include-online " if has_online else ""
    return f"wandb sync {option}{relative_path(folder / 'wandb')}{lost}"


@dataclass(frozen=True)
class RunNames:
    """How a run appears on W&B, and where its files go."""

    folder: Path  # the client's files go into its subfolder wandb
    group: str | None  # the sweep
    name: str
    job_type: str
    sweep: WandbSweep | None = None  # the W&B sweep of which the run is a trial
    trial: WandbTrial | None = None


def start_run(
    config: TrackingConfig,
    mode: str,
    settings: Mapping[str, object],
    names: RunNames,
    *,
    resumed_id: str | None,
    on_stop: Callable[[], None] | None,
) -> WandbTracker:
    """Begin or resume a W&B run in ``mode`` online or offline.

    The other arguments are those of ``start_tracker``. If no server answers within 20 s, the run is
    kept offline.
    """
    import wandb

    # without it the client's login prints lines before the settings of a run apply
    wandb.setup(wandb.Settings(silent=True))
    options = _options(config, settings, names, on_stop)
    trial_id = names.trial.run_id if names.trial else None
    run_id = resumed_id or trial_id or os.environ.get("WANDB_RUN_ID") or _new_id()
    resume: Literal["allow"] | None = "allow" if resumed_id and mode == "online" else None
    try:
        # the mode may be any text of WANDB_MODE
        run = wandb.init(mode=mode, id=run_id, resume=resume, **options)  # type: ignore[arg-type]
    except Exception as error:  # the client raises its own, requests' and Go's errors
        reason = mask(str(error))
        log.warning("W&B is not reachable (%s); the run is kept offline", reason)
        first_line = escape(reason.splitlines()[0])
        console.print(f"[yellow]W&B is not reachable ({first_line}); the run is kept offline")
        if not resumed_id:  # wandb sync would send the empty beginning as a run of its own
            for folder in (names.folder / "wandb").glob(f"run-*-{run_id}"):
                shutil.rmtree(folder, ignore_errors=True)
        # the client does not release the first id
        tracker = WandbTracker(wandb.init(mode="offline", id=_new_id(), **options), config)
        tracker.mark_incomplete()
        return tracker
    return WandbTracker(run, config)


def _options(
    config: TrackingConfig,
    settings: Mapping[str, object],
    names: RunNames,
    on_stop: Callable[[], None] | None,
) -> dict[str, Any]:
    """Return the arguments of ``wandb.init`` that do not depend on whether a server answers."""
    import wandb

    sent = settings if config.log_text else _without_texts(settings)
    client = wandb.Settings(
        console="off",
        save_code=False,
        finish_timeout=60,
        finish_timeout_raises=True,
        init_timeout=20,
        silent=True,
        disable_git=True,
        stop_fn=on_stop,
        x_disable_meta=not config.log_text,  # the command line is part of it
    )
    project, entity = os.environ.get("WANDB_PROJECT"), os.environ.get("WANDB_ENTITY")
    if names.sweep is not None and names.trial is not None:
        project, entity, client.sweep_id = names.sweep.project, names.sweep.entity, names.sweep.id
        sent = _with_parameters(sent, names.trial.parameters)
    return {
        "project": project or config.project,
        "entity": entity or config.entity,
        "dir": str(names.folder),
        "group": names.group,
        "job_type": names.job_type,
        "name": names.name,
        "tags": config.tags,
        "config": _masked(sent),
        "reinit": "create_new",
        "settings": client,
    }


def _with_parameters(
    settings: Mapping[str, object], parameters: Mapping[str, object]
) -> dict[str, object]:
    """Return settings with the parameters of a W&B sweep, as the server has chosen them.

    The server finds a parameter in a run under its own name only, ``optimizer.lr`` or ``adapter``.
    The settings of a group that is a parameter keep their dotted names.
    """
    result = dict(settings)
    for key, value in parameters.items():
        group = settings.get(key)
        if isinstance(group, dict) and isinstance(value, dict):
            value = {**group, **value}
        elif isinstance(group, dict):
            result |= {f"{key}.{name}": setting for name, setting in group.items()}
        result[key] = value
    return result


def _new_id() -> str:
    """Return an id like those of the client, so that the folder of a run is known beforehand."""
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8))


def _without_texts(settings: Mapping[str, object]) -> dict[str, object]:
    """Return settings with "not sent" in the place of texts for a model."""
    kept = {k: "not sent" if k in TEXT_SETTINGS and v else v for k, v in settings.items()}
    return {k: _without_texts(v) if isinstance(v, dict) else v for k, v in kept.items()}


def _masked(value: object) -> object:
    """Return settings with all secrets in them masked."""
    if isinstance(value, Mapping):
        return {key: _masked(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_masked(inner) for inner in value]
    return mask(value) if isinstance(value, str) else value
