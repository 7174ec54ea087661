"""A run on Weights & Biases.

Only this module and the other ``wandb_*`` import wandb, inside functions.
"""

import functools
import json
import logging
import os
import secrets
import shutil
import string
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, ParamSpec
from urllib.parse import quote

from rich.markup import escape

from hydratune import digests
from hydratune.console import console, relative_path
from hydratune.data.rows import stable_hash
from hydratune.metric_table import OBJECTIVE, lower_is_better
from hydratune.records.files import read_json
from hydratune.records.predictions import Prediction
from hydratune.records.run_directory import HistoryRow
from hydratune.records.sweep import WandbSweep
from hydratune.settings.monitor import LOSS
from hydratune.settings.registry import flat
from hydratune.settings.secrets import mask
from hydratune.settings.tracking import TrackingConfig
from hydratune.tracking.tracker import WANDB_PAGE
from hydratune.tracking.typed_command import shown_as_typed, typed_command
from hydratune.tracking.wandb_agent import outside_of_sweep
from hydratune.tracking.wandb_baselines import (
    JOB_TYPE,
    name_of_baseline,
    split_baselines,
    store_once,
)
from hydratune.tracking.wandb_logger import guard
from hydratune.tracking.wandb_options import RunNames, run_options, without_texts
from hydratune.wording import counted

if TYPE_CHECKING:
    from wandb.sdk.wandb_run import Run as WandbRun

log = logging.getLogger(__name__)
Parameters = ParamSpec("Parameters")
MOST_PREDICTIONS = 200  # rows of the W&B table
_INCOMPLETE = "not-sent"  # a file that marks the folder of a run of which the server lacks a part
_PAGE = "page"  # a file with the address of a run's group, in the folder of an online run
_GROUP = "W&B group"  # the label of that address
_MEASURED_BY = ("name", "model", "data", "evaluation")  # settings that decide a baseline's results
_STEP = "trainer/global_step"
# A trial that was stopped did not fail: W&B shows the exit code 255 as "killed", others as "failed"
_INTERRUPTED, _KILLED = 130, 255
_LOGGED = ("train/loss", LOSS, "lr", "tokens", "tokens_per_second", "grad_norm", "val/*")
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

    def __init__(
        self,
        run: "WandbRun",
        config: TrackingConfig,
        names: RunNames,
        settings: Mapping[str, object],
    ) -> None:
        from lightning.pytorch.loggers import WandbLogger

        self.run, self.config, self.names, self.settings = run, config, names, settings
        self.logger = guard(WandbLogger(experiment=run), self.mark_incomplete)
        self.id: str | None = run.id
        self.hint = f"wandb sync {self._shown_folder}" if run.offline else str(run.url or "")
        self.pages: Mapping[str, str] = _pages(run)
        self._writes_log = config.log_console and config.log_text
        if page := self.pages.get(_GROUP):
            (self._folder / _PAGE).write_text(page, "utf-8")
        for name in _LOGGED:
            summary = "min" if lower_is_better(name) else "last"
            run.define_metric(name, step_metric=_STEP, summary=summary)

    @never_fatal
    def log_facts(self, facts: Mapping[str, object]) -> None:
        self.run.config.update({"facts": dict(facts)}, allow_val_change=True)

    def write_log(self, text: str) -> None:
        """Add what the run printed to its console log, unless texts must stay on this machine."""
        if self._writes_log and text.strip():
            # a report would be written to the log as well
            with suppress(Exception):
                self.run.write_logs(mask(text).rstrip("\n"))

    @never_fatal
    def log_summary(self, metrics: Mapping[str, float]) -> None:
        """Log the final metrics, each once.

        In a sweep the results of the base model go to a run of their own. The validation loss is
        stored under its own name; W&B's sweeps need it as ``objective`` as well.
        """
        own, baselines = split_baselines(metrics)
        as_measured = {key: value for key, value in metrics.items() if key not in own}
        place = self._folder.parent
        if not self.run.sweep_id and own.get(OBJECTIVE) == own.get(LOSS):
            own.pop(OBJECTIVE, None)
        self.run.summary.update(own)
        if not baselines:
            return
        if self.names.is_job:
            store_once(place, baselines, self._start_baseline)
        elif self.run.sweep_id:
            with outside_of_sweep():
                store_once(place, baselines, self._start_baseline, self._is_baseline_stored)
        else:
            self.run.summary.update(as_measured)

    def _start_baseline(self, system: str, key: str) -> "WandbRun":
        """Start the run that holds the results of the base model for the whole sweep.

        It is no trial of a W&B sweep, which would count it and compare it with the others. Drivers
        that share one, from different folders, write the same run: its id is a hash of the sweep
        and of ``key``, the hash of the results.
        """
        import wandb

        sweep = self._wandb_sweep
        run_id = _new_id() if sweep is None else _id_of_baseline(sweep, key)
        resume: Literal["allow"] | None = None if self.run.offline or sweep is None else "allow"
        name = name_of_baseline(str(flat(self.settings).get("model.name")), system)
        adapter = flat(self.settings).get("adapter.method")
        tags = tuple(tag for tag in self.names.tags if tag != adapter)
        names = replace(
            self.names, name=name, job_type=JOB_TYPE, tags=tags, sweep=sweep, trial=None
        )
        measured = {k: v for k, v in self.settings.items() if k in _MEASURED_BY}
        options = run_options(self.config, measured, names, None)
        mode: Literal["offline", "online"] = "offline" if self.run.offline else "online"
        with _command_as_typed():
            return wandb.init(mode=mode, id=run_id, resume=resume, **options)

    @property
    def _wandb_sweep(self) -> WandbSweep | None:
        """The W&B sweep of which the run is a trial."""
        if self.names.sweep is not None or not self.run.sweep_id:
            return self.names.sweep
        return WandbSweep(self.run.entity, self.run.project, self.run.sweep_id)

    def _is_baseline_stored(self, key: str) -> bool:
        """Return whether a trial of the same W&B sweep has stored the results with this hash.

        False if the server does not answer.
        """
        sweep = self._wandb_sweep
        if sweep is None or self.run.offline:
            return False
        import wandb

        filters = {"name": _id_of_baseline(sweep, key), "state": "finished"}
        with suppress(Exception):  # the client raises its own errors, requests' and Go's
            project = f"{sweep.entity}/{sweep.project}"
            return bool(len(wandb.Api(timeout=20).runs(project, filters=filters, per_page=1)))
        return False

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
            texts = {} if self.config.log_text else _files_without_texts(folder)
            if texts:  # the digests are those of the file with the text
                files.pop(digests.INDEX, None)
            self._log_artifact(f"adapter-{self.run.id}", "model", files, ["best"], texts)

    def _log_artifact(
        self,
        name: str,
        kind: str,
        files: Mapping[str, Path],
        aliases: list[str],
        contents: Mapping[str, str] | None = None,
    ) -> None:
        """Log files by name; ``contents`` take the place of those of the same name."""
        import wandb

        artifact = wandb.Artifact(name, type=kind)
        for file_name, file in files.items():
            if contents and file_name in contents:
                with artifact.new_file(file_name, encoding="utf-8") as stored:
                    stored.write(contents[file_name])
            else:
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


def _files_without_texts(folder: Path) -> dict[str, str]:
    """Return the files of an adapter folder with texts for a model, by name, without these texts.

    Prompt tuning keeps the text that its embeddings began with, which loading does not need.
    """
    config = read_json(folder / "adapter_config.json")
    sent = without_texts(config)
    return {"adapter_config.json": json.dumps(sent, indent=2)} if sent != config else {}


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
        lost = f"  # the server did not answer: it lacks {counted(count, 'run')}"
    option = "--include-online " if has_online else ""
    return f"wandb sync {option}{relative_path(folder / 'wandb')}{lost}"


def sweep_page(folder: Path) -> str | None:
    """Return the address of the runs of a sweep on the server; None if it has none of them."""
    pages = sorted((folder / "wandb").glob(f"run-*/{_PAGE}"))
    return pages[-1].read_text("utf-8") if pages else None


def _id_of_baseline(sweep: WandbSweep, key: str) -> str:
    return stable_hash([str(sweep), key])[:12]


def _pages(run: "WandbRun") -> dict[str, str]:
    """Return the addresses of a run, its group and its sweep; empty for a run that is offline."""
    if run.offline or not run.url:
        return {}
    group = f"{run.project_url}/groups/{quote(run.group, safe='')}" if run.group else ""
    pages = {WANDB_PAGE: run.url, _GROUP: group, "W&B sweep": run.sweep_url or ""}
    return {label: page for label, page in pages.items() if page}


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
    options = run_options(config, settings, names, on_stop)
    trial_id = names.trial.run_id if names.trial else None
    run_id = resumed_id or trial_id or os.environ.get("WANDB_RUN_ID") or _new_id()
    resume: Literal["allow"] | None = "allow" if resumed_id and mode == "online" else None
    try:
        with _command_as_typed():
            run = wandb.init(
                mode=mode,  # type: ignore[arg-type]  # it may be any text of WANDB_MODE
                id=run_id,
                resume=resume,
                **options,
            )
    except Exception as error:  # the client raises its own, requests' and Go's errors
        reason = mask(str(error))
        log.warning("W&B is not reachable (%s); the run is kept offline", reason)
        first_line = escape(reason.splitlines()[0])
        console.print(f"[yellow]W&B is not reachable ({first_line}); the run is kept offline")
        if not resumed_id:  # wandb sync would send the empty beginning as a run of its own
            for folder in (names.folder / "wandb").glob(f"run-*-{run_id}"):
                shutil.rmtree(folder, ignore_errors=True)
        # the client does not release the first id
        with _command_as_typed():
            run = wandb.init(mode="offline", id=_new_id(), **options)
        tracker = WandbTracker(run, config, names, settings)
        tracker.mark_incomplete()
        return tracker
    return WandbTracker(run, config, names, settings)


def _command_as_typed() -> AbstractContextManager[None]:
    """Return a block in which the client reads the command's arguments as they were typed."""
    command = typed_command()
    return nullcontext() if command is None else shown_as_typed(command[1])


def _new_id() -> str:
    """Return an id like those of the client, so that the folder of a run is known beforehand."""
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8))
