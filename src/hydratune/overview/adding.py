"""``hydratune add``: further jobs for a sweep, from the base model or from a job's adapter."""

import difflib
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from hydratune.console import print_error
from hydratune.errors import HydratuneError, InputError
from hydratune.overview.collect import SweepView, view_sweep
from hydratune.overview.held_locks import HeldLocks
from hydratune.records.sweep import SWEEP_FILE, SweepJob, read_study, read_sweep
from hydratune.settings.overrides import quoted_value
from hydratune.settings.registry import override_key
from hydratune.sweeps.added_jobs import forget_refused, number_of
from hydratune.sweeps.joining import joining

HELP = """\
usage: hydratune add SWEEP SETTING=VALUE[,VALUE ...] ... [like=JOB] [from=JOB]

further jobs for a sweep: they are ranked with its own, and in the same W&B group

  SETTING=VALUE  as of hydratune train -m; every setting that varies in the sweep needs a value
  like=JOB       all other settings are those of this job
  from=JOB       likewise, and training begins from its adapter instead of from the base model

If a process runs the sweep, they join its pack where they can share its base model and data; on a
cluster the command that waits for the sweep submits them at once, beside the others. What cannot
join starts when the sweep's own jobs have ended. If no command waits, they are run by this one,
where the sweep's own run. The same words, typed again, are the same jobs: what is
finished is not run again.
"""
_OWN = ("hydra.sweep", "hydra.mode", "hydra/sweeper", "hydra.run")  # settings that are not repeated


def add(words: Sequence[str]) -> int:
    """Run ``hydratune add``; return its exit code."""
    if len(words) < 2 or {"-h", "--help"} & set(words):
        print(HELP, end="")
        return 0 if {"-h", "--help"} & set(words) else 2
    try:
        folder = Path(words[0]).expanduser()
        if not (folder / SWEEP_FILE).is_file():
            raise InputError(f"{folder} is no sweep; hydratune status lists those of outputs")
        view = view_sweep(folder, HeldLocks())
        settings = _settings_of_jobs(view, words[1:])
        is_waiting = view.driver is not None
        number = number_of(folder, words[1:], view.typed, is_waiting=is_waiting)
    except HydratuneError as error:
        print_error(f"hydratune add: {error}")
        return error.exit_code
    with joining() if is_waiting else nullcontext():
        code = _run(view, settings, number)
    if code == InputError.exit_code and not _has_jobs(folder, number):
        forget_refused(folder, number)
    return code


def _has_jobs(folder: Path, number: int) -> bool:
    """Return whether jobs were added under ``number``, now or before."""
    return any(name.startswith(f"a{number}-") for name in read_sweep(folder))


def _run(view: SweepView, settings: Sequence[str], number: int) -> int:
    """Run jobs, or offer them to the process that runs the sweep; return the exit code."""
    from hydratune.composition import run_command

    return run_command(
        "train",
        [
            "-m",
            *settings,
            *_launcher(view, settings),
            f"hydra.sweep.dir={quoted_value(str(view.folder))}",
            f"hydra.sweep.subdir=a{number}-${{hydra.job.num}}",
            "hydra.sweeper.params=null",
        ],
        shown="add",
    )


def _settings_of_jobs(view: SweepView, words: Sequence[str]) -> list[str]:
    """Return the settings of train for the new jobs. Raises ``InputError``."""
    if view.wandb_sweep is not None or read_study(view.folder):
        kind = "W&B chooses its trials" if view.wandb_sweep else "Optuna chooses its trials"
        raise InputError(f"{view.folder}: {kind}; a further one is asked for by its own command")
    sources = [word for word in words if word.partition("=")[0] in ("like", "from")]
    new = [word for word in words if word not in sources]
    _refuse_unclear(sources, new)
    jobs = read_sweep(view.folder)
    option, _, name = "".join(sources).partition("=")
    chosen = _job(view, jobs, name) if option else None
    given = {override_key(word) for word in new}
    varying = {key for job in jobs.values() for key in job.varying}
    if chosen is None and (left := sorted(varying - given)):
        listed = " and ".join(left)
        raise InputError(
            f"{listed} vary in this sweep: give a value of each, such as {left[0]}="
            f"{_example(jobs, left[0])}, or like=JOB for those of a job"
            if len(left) > 1
            else f"{listed} varies in this sweep: give a value, such as {left[0]}="
            f"{_example(jobs, left[0])}, or like=JOB for that of a job"
        )
    source = chosen or next(iter(jobs.values()))
    left_out = given if chosen is not None else given | varying
    kept = [word for word in source.overrides if override_key(word) not in left_out]
    if option == "from":
        kept = [word for word in kept if override_key(word) != "model.adapter"]
        kept.append(f"model.adapter={quoted_value(str(_adapter(view.folder, source)))}")
    return [*kept, *new]


def _refuse_unclear(sources: Sequence[str], new: Sequence[str]) -> None:
    """Raise ``InputError`` if words cannot be meant: ``sources``, like=JOB and from=JOB, or ``new``
    settings.
    """
    for word in (*sources, *new):
        if not word.partition("=")[2] and word in sources:
            raise InputError(f"{word}: give the name of a job, such as {word.partition('=')[0]}=0")
        if "=" not in word:
            raise InputError(f"{word}: give SETTING=VALUE")
        if override_key(word).startswith(_OWN):
            raise InputError(
                f"{word}: jobs are added in the folder of their sweep, one for each value; leave"
                " it out"
            )
    if len(sources) > 1:
        raise InputError(f"{' '.join(sources)}: give one of these, for all other settings")
    if sources and sources[0].startswith("like=") and not new:
        raise InputError(f"{sources[0]}: give a setting too, or the job would be the same again")


def _job(view: SweepView, jobs: dict[str, SweepJob], name: str) -> SweepJob:
    if name not in jobs:
        near = difflib.get_close_matches(name, jobs, n=1)
        hint = f"did you mean {near[0]}?" if near else f"jobs: {', '.join(jobs)}"
        raise InputError(f"{name}: {view.folder} has no such job; {hint}")
    return jobs[name]


def _adapter(folder: Path, job: SweepJob) -> Path:
    adapter = (folder / job.name / "adapter").resolve()
    if not adapter.is_dir():
        raise InputError(
            f"from={job.name}: it has no adapter yet; like={job.name} begins from the base model"
        )
    return adapter


def _example(jobs: dict[str, SweepJob], key: str) -> str:
    return next(job.varying[key] for job in jobs.values() if key in job.varying)


def _launcher(view: SweepView, settings: Sequence[str]) -> list[str]:
    """Return how the sweep's own jobs were launched, as far as nothing else was typed."""
    given = {override_key(word) for word in settings}
    words = [word for word in view.typed if override_key(word).startswith("hydra")]
    return [
        word
        for word in words
        if not override_key(word).startswith(_OWN) and override_key(word) not in given
    ]
