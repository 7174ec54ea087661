"""Start the W&B run (or whatever the settings choose) that mirrors a run."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from rich.markup import escape

from hydratune.console import console, is_redirected
from hydratune.experiment.context import RunContext
from hydratune.records.run_directory import RunDirectory
from hydratune.records.sweep import SweepJob, read_sweep, read_wandb_sweep
from hydratune.settings.commands import TrainConfig
from hydratune.settings.data import DataConfig
from hydratune.settings.registry import plain
from hydratune.settings.secrets import mask
from hydratune.settings.tracking import LONGEST_TAG, TEXT_SETTINGS, TrackingMode
from hydratune.tracking.environment import git_commit
from hydratune.tracking.start import start_tracker, wandb_mode
from hydratune.tracking.tracker import WANDB_PAGE, Tracker
from hydratune.tracking.wandb_agent import AgentTrial, trial_of_agent

_LONGEST_NAME = 128  # characters, of runs and groups of W&B
_COMMIT_DIGITS = 7
# the setting that names the data of a source, for those that can be of any content
_NAME_OF_DATA = {"files": "train", "hub": "id", "prepared": "path"}


def track_run(config: TrainConfig, record: RunDirectory, context: RunContext) -> Tracker:
    """Start a W&B run, or continue that of an interrupted run, and print its address.

    In a sweep, also in one of W&B's, it is named after the settings that vary, and grouped by the
    sweep.
    """
    path = record.path
    jobs, sweep = read_sweep(path.parent), read_wandb_sweep(path.parent)
    folder, group, name = path, None, f"{config.name}-{path.name}"
    if path.name in jobs:
        folder, group = path.parent, path.parent.name if sweep is None else sweep.group
        name = name_of_job(path.name, jobs, log_text=config.tracking.log_text)
    elif (trial := _trial(config)) is not None:
        group = trial.group
        name = name_of_trial(trial, log_text=config.tracking.log_text) or name
        _warn_of_texts(trial, log_text=config.tracking.log_text)
    driven = jobs[path.name].trial if path.name in jobs else None
    resumes = record.checkpoint_to_resume() is not None
    tracker = start_tracker(
        config.tracking,
        plain(config),
        folder=folder,
        group=cut(group) if group is not None else None,
        name=cut(name),
        job_type="train",
        tags=tags_of(config),
        is_job=path.name in jobs,
        resumed_id=record.read_status().wandb_id if resumes else None,
        on_stop=context.schedule.stop,
        run_folder=path,
        sweep=sweep,
        trial=driven,
    )
    record.update(wandb_id=tracker.id, **address(tracker))
    _print_pages(tracker, context, is_driven=driven is not None)
    return tracker


def address(tracker: Tracker) -> dict[str, str]:
    """Return the page of a W&B run as status.json keeps it; empty for a run without one."""
    page = tracker.pages.get(WANDB_PAGE)
    return {"wandb_url": page} if page else {}


def _trial(config: TrainConfig) -> AgentTrial | None:
    """Return the trial of a W&B sweep that this process runs, if it runs one."""
    mode = wandb_mode(config.tracking)
    if mode in (TrackingMode.disabled.value, TrackingMode.tensorboard.value):
        return None
    return trial_of_agent(ask_server=mode == TrackingMode.online.value)


def _warn_of_texts(trial: AgentTrial, *, log_text: bool) -> None:
    """Say that the server has the texts of a W&B sweep, which its own agent also sends."""
    texts = [key for key in trial.values if key.rpartition(".")[2] in TEXT_SETTINGS]
    if texts and not log_text:
        console.print(
            f"[yellow]{', '.join(texts)}: W&B's server has these texts, because they are in the"
            " definition of its sweep; tracking.log_text=false cannot keep them on this machine",
            soft_wrap=True,
        )


def _print_pages(tracker: Tracker, context: RunContext, *, is_driven: bool) -> None:
    """Print where the run can be watched; for the jobs of a pack also once on the terminal.

    ``is_driven``: ``hydratune sweep`` runs it, and has printed the address of the W&B sweep.
    """
    lines = page_lines(tracker)
    for line in lines:
        console.print(line, soft_wrap=True)
    if is_redirected():
        for line in lines[1 : 2 if is_driven else None]:  # of the group, which all jobs share

            def show(line: str = line) -> None:
                console.print_on_terminal(line)

            context.resources.shared(f"shown: {line}", show)


def page_lines(tracker: Tracker) -> list[str]:
    """Return the addresses of a run, its group and its sweep, one a line."""
    return [escape(f"{label:<11} {page}") for label, page in tracker.pages.items()]


def name_of_job(job: str, jobs: Mapping[str, SweepJob], *, log_text: bool) -> str:
    """Return the name of a job on W&B: the settings that vary, with the values that it has.

    With ``log_text=False`` a text for the model is "text 1", "text 2", ..., numbered in the sweep.
    """
    keys = jobs[job].varying
    choices = {
        key: tuple(other.varying[key] for other in jobs.values() if key in other.varying)
        for key in keys
    }
    return _name(keys, choices, log_text=log_text) or job


def name_of_trial(trial: AgentTrial, *, log_text: bool) -> str:
    """Return the name of a trial of a W&B sweep, as ``name_of_job`` does; "" if nothing is set."""
    return _name(trial.varying, trial.choices or {}, log_text=log_text)


def _name(
    varying: Mapping[str, str], choices: Mapping[str, tuple[str, ...]], *, log_text: bool
) -> str:
    """Return ``lr=0.001, r=8`` for these settings; ``choices`` are the values in the sweep."""
    parts = []
    for key, value in varying.items():
        name = key.rpartition(".")[2]
        shown = value
        if name in TEXT_SETTINGS and not log_text:
            texts = list(dict.fromkeys(choices.get(key, ())))
            shown = f"text {texts.index(value) + 1}" if value in texts else "a text"
        parts.append(f"{name}={shown}")
    return ", ".join(parts)


def tags_of(config: TrainConfig) -> list[str]:
    """Return the tags of a run: its model, data, adapter, and the commit of this program."""
    adapter = str(plain(config.adapter)["method"])
    tags = [config.model.name, name_of_data(config.data), adapter, short_commit()]
    return [mask(tag)[:LONGEST_TAG] for tag in tags if tag]


def name_of_data(data: DataConfig) -> str:
    """Return what the data are called: a file, a folder, a data set of the hub, or the source."""
    settings = plain(data)
    source = str(settings["source"])
    name = str(settings.get(_NAME_OF_DATA.get(source, ""), source))
    return name if source == "hub" else Path(name).stem


@cache
def short_commit() -> str:
    """Return the first digits of the commit of this program; "" if it is not in a repository."""
    return str(git_commit(Path(__file__).parent).get("commit", ""))[:_COMMIT_DIGITS]


def cut(name: str) -> str:
    """Return a name as long as W&B allows."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}..."
