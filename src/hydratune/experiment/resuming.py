"""The checkpoint from which a run is resumed, and what must be unchanged for that.

A checkpoint holds the ``identity`` of the run that wrote it. A run is resumed only from a
checkpoint of the same identity, so that its results are those of an uninterrupted run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape

from hydratune.adapters import continued
from hydratune.console import console
from hydratune.errors import ConfigError, Problem
from hydratune.experiment import extension
from hydratune.experiment.job import Job
from hydratune.records.files import Json
from hydratune.records.run_directory import RunDirectory
from hydratune.settings import used_parts
from hydratune.settings.commands import Resume
from hydratune.settings.monitor import Monitor
from hydratune.settings.registry import defaults, flat, plain
from hydratune.tracking import environment
from hydratune.training import resume, schedules
from hydratune.training.schedules import total_steps
from hydratune.training.task import Checkpoint
from hydratune.training.validation import patience_of
from hydratune.wording import counted

# the groups of settings that decide what is trained
_TRAINED_BY = ("seed", "model", "data", "adapter", "optimizer", "trainer")
_ANSWERED = ("task", "metrics", "max_new_tokens", "validation_rows")  # what answers depend on
_FREE = "trainer.checkpoint_minutes"  # a setting of them that does not
# with which a run is resumed
_UNCHANGED = ("training data", "base model", "starting adapter", "parts of packages")


def identity(job: Job) -> dict[str, Json]:
    """Return what must be unchanged for a run to be resumed: settings, rows, base, versions."""
    settings = {
        key: str(value)
        for key, value in flat(plain(job.config)).items()
        if key.split(".")[0] in _TRAINED_BY and key != _FREE
    }
    if not Monitor.read(job.config.trainer.monitor).is_loss:  # answers choose the best checkpoint
        settings |= {f"evaluation.{k}": str(getattr(job.config.evaluation, k)) for k in _ANSWERED}
    splits = job.data_facts["splits"]
    start: dict[str, Json] = {}
    if job.start is not None:
        start = {"starting adapter": continued.facts(job.start)["sha256"]}
    if parts := used_parts.facts(job.config, training_only=True):
        start["parts of packages"] = parts
    return {
        **start,
        "settings": settings,
        "training data": [splits[name]["tokens_hash"] for name in ("train", "validation")],
        "base model": str(job.source.identity),
        "code": environment.code_hash(),
        "versions": environment.versions(),
    }


def find_checkpoint(job: Job, record: RunDirectory) -> Checkpoint | None:
    """Return the checkpoint from which this run is resumed, or None if it starts anew.

    Raises ``ConfigError`` if the checkpoint is not one of this run.
    """
    stored = resume.load(record.checkpoints)
    extending = job.config.resume is Resume.extend
    if stored is None:
        if extending:
            raise _nothing_to_extend(job, record)
        return None
    file, checkpoint = stored
    if job.config.adapter.resume_obstacle:
        console.print(f"[yellow]{job.config.adapter.resume_obstacle}: the run begins anew")
        return None
    changes = _compare(job, checkpoint["made_of"])
    if changes.settings or changes.surroundings:
        raise _changed(job, record, changes)
    if "ranks" not in checkpoint:
        raise _older_format(job, file)
    step, total = checkpoint["place"]["step"], total_steps(job.config, len(job.train))
    if changes.length:
        _lengthen(job, checkpoint, total)
    console.print(
        f"[bold]resumed after step {step}[/] of {total}, from {escape(str(file))}", soft_wrap=True
    )
    return checkpoint


@dataclass(frozen=True)
class _Changes:
    """What differs from the time when the checkpoint was written, in words."""

    length: list[str]  # settings of a run that is extended: they may differ
    settings: list[str]  # all other settings
    surroundings: list[str]  # rows, base model, versions; ignored with ``resume=force``


def _compare(job: Job, before: Mapping[str, Json]) -> _Changes:
    """Compare the job with the identity ``before`` that the checkpoint holds.

    A setting that did not exist when it was written counts as at its default.
    """
    now = identity(job)
    new = now["settings"]
    unset = {key: str(value) for key, value in defaults(job.config).items() if key in new}
    old = {**unset, **before["settings"]}
    settings = [
        f"{key} was {old.get(key)} and is {new.get(key)}"
        for key in {**old, **new}
        if str(old.get(key)) != str(new.get(key))
    ]
    length: list[str] = []
    if job.config.resume is Resume.extend:
        length = [change for change in settings if change.startswith(extension.LENGTH)]
    surroundings: list[str] = []
    if job.config.resume is not Resume.force:
        surroundings = [
            f"the {what} changed" for what in _UNCHANGED if before.get(what) != now.get(what)
        ]
        surroundings += environment.changes(before, now)
    others = [change for change in settings if change not in length]
    return _Changes(length, others, surroundings)


def _problem(job: Job, why: str, fix: str) -> ConfigError:
    return ConfigError([Problem("resume", job.config.resume.value, why, fix)])


def _nothing_to_extend(job: Job, record: RunDirectory) -> ConfigError:
    why = f"there is no checkpoint in {record.checkpoints} from which it could be trained further"
    return _problem(job, why, extension.begin_from(record))


def _changed(job: Job, record: RunDirectory, changes: _Changes) -> ConfigError:
    extending = job.config.resume is Resume.extend
    listed = "; ".join([*changes.settings, *changes.surroundings])
    run = "this" if extending else "an interrupted"
    why = f"{run} run is there, and since then {listed}"
    if extending:
        return _problem(job, why, f"bring it back; or {extension.begin_from(record)}")
    force = "" if changes.settings else ", resume=force resumes it nevertheless"
    fix = f"resume=never begins anew{force}; or choose another hydra.run.dir"
    return _problem(job, why, fix)


def _older_format(job: Job, file: Path) -> ConfigError:
    why = f"{file} was written by an older hydratune, in another format"
    fix = (
        "resume=never begins anew; to resume it, use the version that wrote it (environment.json"
        " says which)"
    )
    return _problem(job, why, fix)


def _lengthen(job: Job, checkpoint: Checkpoint, total: int) -> None:
    """Turn ``checkpoint``, of a shorter run, into one of this run of ``total`` steps.

    Raises ``ConfigError`` if this run is not longer.
    """
    done = checkpoint["place"]["step"]
    if total <= done:
        why = f"the run has taken {counted(done, 'optimizer step')}, and this would be {total}"
        fix = "raise trainer.max_epochs, and trainer.max_steps if it is set"
        raise ConfigError([Problem("resume", "extend", why, fix)])
    for state in checkpoint["callbacks"].values():
        if isinstance(state, dict) and "wait_count" in state:  # early stopping starts anew
            patience = patience_of(job.config.trainer)
            state |= {"wait_count": 0, "stopped_epoch": 0, "patience": patience}
    optimizer = job.config.optimizer
    rate = optimizer.lr * schedules.learning_rate_factor(optimizer, total)(done)
    before = resume.history(checkpoint)[-1]["lr"]
    console.print(
        f"the learning rate follows the {optimizer.schedule.value} schedule of all {total} steps"
        f" from here: it had {before:.3g} at step {done} and has {rate:.3g} at the next"
    )
