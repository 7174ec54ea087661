"""The commands ``hydratune status`` and ``hydratune stop``: their options and what they do."""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape

from hydratune.console import console, escape_controls, print_error
from hydratune.errors import HydratuneError, InputError, RunError
from hydratune.overview import stopping, terminal
from hydratune.overview.collect import RunView, SweepView, find, view_run, view_sweep
from hydratune.overview.held_locks import HeldLocks
from hydratune.records.files import Json
from hydratune.records.run_directory import RunDirectory
from hydratune.records.sweep import SWEEP_FILE

STATUS_HELP = """\
usage: hydratune status [DIR] [all=true] [json=true]

what runs where, since when, how far it is, the best so far, and what was lost

  DIR            a sweep, a run, or a folder of them [outputs]
  all=true       list all of a folder, not only the newest
  json=true      print everything as JSON (also: --json)

A run is lost if its status says that it runs and no process of this machine works on it.
exit codes: 0 done, 1 something was lost or cannot be read, 2 wrong input
"""
STOP_HELP = """\
usage: hydratune stop SWEEP [JOB ...]
       hydratune stop RUN

end jobs of a sweep, or a run of this machine; their work is kept

  JOB            names of jobs, as hydratune status SWEEP shows them; without any, all of them

A job ends after its optimizer step and writes a checkpoint; the command of the sweep, typed again,
resumes it. Jobs of a cluster are ended in the same way, where they run.
"""
_SHOWN = 20  # runs and sweeps of a folder


@dataclass(frozen=True)
class Options:
    """What was typed after ``hydratune status``."""

    folder: Path = Path("outputs")
    all: bool = False
    json: bool = False


def parse_options(words: Sequence[str]) -> Options:
    """Return the options that were typed. Raises ``InputError``."""
    given: dict[str, object] = {}
    for word in words:
        name, separator, value = word.removeprefix("--").partition("=")
        is_flag = word.startswith("--") and not separator
        if name in ("all", "json") and (is_flag or value.lower() in ("true", "false")):
            given[name] = is_flag or value.lower() == "true"
        elif name in ("all", "json") and separator:
            raise InputError(f"{word}: give {name}=true or {name}=false")
        elif not separator and not word.startswith("-") and "folder" not in given:
            given["folder"] = Path(word).expanduser()
        elif not separator and not word.startswith("-"):
            raise InputError(f"{word}: give one folder; hydratune status {word} shows this one")
        else:
            near = difflib.get_close_matches(name, ("all", "json"), n=1)
            hint = f"did you mean {near[0]}=true?" if near else "hydratune status --help lists all"
            raise InputError(f"{word}: there is no such option; {hint}")
    return Options(**given)  # type: ignore[arg-type]  # checked above


def status(words: Sequence[str]) -> int:
    """Run ``hydratune status``; return its exit code."""
    if {"-h", "--help"} & set(words):
        print(STATUS_HELP, end="")
        return 0
    try:
        options = parse_options(words)
        return _status(options)
    except HydratuneError as error:
        print_error(f"hydratune status: {error}")
        return error.exit_code


def _status(options: Options) -> int:
    folder, locks = options.folder, HeldLocks()
    if folder.is_file():
        raise InputError(f"{folder} is a file: give its folder, {folder.parent}")
    if not folder.is_dir():
        fix = "give the folder of a sweep or of a run"
        if folder == Path("outputs"):
            fix = "hydratune train makes it; give another folder if the runs are elsewhere"
        raise InputError(f"{folder}: there is no such folder; {fix}")
    views: list[RunView | SweepView] = []
    unreadable: dict[Path, str] = {}  # sweeps -> why; the others are shown all the same
    for found, is_sweep in find(folder):
        try:
            views.append(view_sweep(found, locks) if is_sweep else view_run(found, locks))
        except RunError as error:
            unreadable[found] = str(error)
    if not views and not unreadable:
        raise InputError(f"{folder}: neither a run nor a sweep is in it")
    _print(views, unreadable, options)
    return 1 if unreadable else _exit_code(views)


def _print(
    views: Sequence[RunView | SweepView], unreadable: Mapping[Path, str], options: Options
) -> None:
    """Print the runs and sweeps, and why others cannot be read."""
    if options.json:
        problems = [
            {"sweep": str(sweep), "state": "unreadable", "error": why}
            for sweep, why in unreadable.items()
        ]
        print(json.dumps([*map(_content, views), *problems], indent=2))
        return
    for part in _parts(views, options):
        console.print(part, soft_wrap=isinstance(part, str))
    for why in unreadable.values():
        console.print(f"[red]{escape(escape_controls(why))}", soft_wrap=True)


def _parts(views: Sequence[RunView | SweepView], options: Options) -> Iterator[object]:
    """Yield what is printed of runs and sweeps."""
    if len(views) == 1 and isinstance(views[0], SweepView):
        yield from terminal.sweep_text(views[0])
    elif len(views) == 1 and isinstance(views[0], RunView):
        yield from terminal.run_text(views[0])
    elif views:
        yield from terminal.list_text(views, len(views) if options.all else _SHOWN)


def _exit_code(views: Sequence[RunView | SweepView]) -> int:
    jobs = [job for view in views for job in (view.jobs if isinstance(view, SweepView) else [view])]
    return 1 if any(job.state in ("lost", "unreadable") for job in jobs) else 0


def _content(view: RunView | SweepView) -> dict[str, Json]:
    """Return what ``json=true`` prints of a run or a sweep."""
    if isinstance(view, SweepView):
        best = view.best()
        return {
            "sweep": str(view.folder),
            "process": view.driver,
            "states": view.counts(),
            "monitor": str(view.monitor),
            "best": None if best is None else best.name,
            "jobs": [_content(job) for job in view.jobs],
        }
    return {
        "run": str(view.record.path),
        "state": view.state,
        "varying": dict(view.varying),
        "since": view.since,
        "host": view.host or None,
        "process": view.process,
        "cluster_job": view.submitted or None,
        "step": view.last.get("step"),
        "train/loss": view.last.get("train/loss"),
        "val/loss": view.measured.get("val/loss", view.last.get("val/loss")),
        "error": view.problem or view.status.error,
    }


def stop(words: Sequence[str]) -> int:
    """Run ``hydratune stop``; return its exit code."""
    if not words or {"-h", "--help"} & set(words):
        print(STOP_HELP, end="")
        return 0 if words else 2
    try:
        folder, names = Path(words[0]).expanduser(), list(words[1:])
        if (folder / SWEEP_FILE).is_file():
            lines = stopping.stop_jobs(view_sweep(folder, HeldLocks()), names)
        elif RunDirectory(folder).status_file.is_file():
            if names:
                raise InputError(f"{folder} is one run and has no jobs; leave out {names[0]}")
            lines = stopping.stop_run(view_run(folder, HeldLocks()))
        else:
            raise InputError(
                f"{folder}: neither a sweep nor a run; hydratune status lists those of outputs"
            )
        for line in lines:
            console.print(line, soft_wrap=True)
    except HydratuneError as error:
        print_error(f"hydratune stop: {error}")
        return error.exit_code
    return 0
