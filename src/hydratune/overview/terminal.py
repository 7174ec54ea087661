"""What ``hydratune status`` prints."""

import re
import shlex
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from hydratune.console import escape_controls, relative_path
from hydratune.overview.collect import (
    Life,
    RunView,
    SweepView,
    counts,
    newest,
    started_in,
)
from hydratune.records.status import BY_SIGNAL
from hydratune.settings.monitor import Monitor
from hydratune.settings.overrides import quoted_value
from hydratune.settings.secrets import mask
from hydratune.wording import counted, short_value, short_values

_COLOURS = {"running": "cyan", "finished": "green", "failed": "red", "lost": "red"}
_FOLDER_SETTING = "hydra.sweep.dir="
_LONGEST_REASON = 70  # characters


def list_text(runs: Sequence[RunView | SweepView], shown: int) -> Iterator[object]:
    """Yield what is printed of a folder with runs and sweeps, of which ``shown`` are listed."""
    sweeps = [run for run in runs if isinstance(run, SweepView)]
    single = [run for run in runs if isinstance(run, RunView)]
    every = [*single, *(job for sweep in sweeps for job in sweep.jobs)]
    yield (
        f"{counted(len(sweeps), 'sweep')}, {counted(len(single), 'single run')}:"
        f" {_states(counts(every))}"
    )
    table = Table("folder", "state", "since", "where", "validation loss", highlight=False)
    table.columns[-1].justify = "right"
    for run in newest(list(runs), shown):
        table.add_row(*_row_of_sweep(run) if isinstance(run, SweepView) else _row_of_run(run))
    yield table
    if len(runs) > shown:
        yield f"[dim]the newest {shown} of {len(runs)}; all=true shows all"


def _row_of_sweep(sweep: SweepView) -> list[str]:
    best, since = sweep.best(), [job.since or "" for job in sweep.jobs]
    value = best.value(sweep.monitor) if best is not None else None
    where = f"process {sweep.driver}" if sweep.driver else ""
    name = "" if sweep.monitor.is_loss else f"{sweep.monitor.title} "
    return [
        f"{_shown(sweep.folder)} [dim](sweep)",
        _states(sweep.counts()),
        _when(max(since, default=None)),
        where,
        f"{name}{value:.4f}" if value is not None else "",
    ]


def _row_of_run(run: RunView) -> list[str]:
    value = run.value(Monitor())
    return [
        _shown(run.record.path),
        _coloured(run.state),
        _when(run.since),
        escape(run.where),
        f"{value:.4f}" if value is not None else "",
    ]


def sweep_text(sweep: SweepView) -> Iterator[object]:
    """Yield what is printed of a sweep."""
    yield (
        f"[bold]{_shown(sweep.folder)}[/]: sweep of {counted(len(sweep.jobs), 'job')}:"
        f" {_states(sweep.counts())}"
    )
    yield _table_of_jobs(sweep.jobs, sweep.monitor)
    if (best := sweep.best()) is not None:
        yield (
            f"best so far: {escape(best.name)}{_settings_of(best)}: {sweep.monitor.title}"
            f" {best.value(sweep.monitor):.4f}"
        )
    yield from _problems(sweep.jobs)
    if sweep.is_unfinished:
        yield from _how_to_continue(sweep)


def run_text(run: RunView) -> Iterator[object]:
    """Yield what is printed of one run."""
    yield _table_of_jobs([run], Monitor())
    yield from _problems([run])
    if run.state in ("lost", "failed", "stopped", "waiting"):
        place = escape(shlex.quote(f"hydra.run.dir={run.record.shown}"))
        yield f"continue    the command of the run, with {place}"


def _table_of_jobs(jobs: Sequence[RunView], monitor: Monitor) -> Table:
    keys = list(dict.fromkeys(key for job in jobs for key in job.varying))
    names = [key.rpartition(".")[2] for key in keys]
    settings = [
        name if names.count(name) == 1 else key for key, name in zip(keys, names, strict=True)
    ]
    heads = ["job" if keys else "run", *settings, "state", "since", "where", "step", "loss"]
    table = Table(*map(escape, heads), highlight=False)
    table.add_column(escape(monitor.title), justify="right")
    shown = {key: short_values(job.varying.get(key, "") for job in jobs) for key in keys}
    for job in jobs:
        step, loss, value = job.last.get("step"), job.last.get("train/loss"), job.value(monitor)
        table.add_row(
            escape(_plain(job.name)),
            *(escape(_plain(shown[key][job.varying.get(key, "")])) for key in keys),
            _coloured(job.state),
            _when(job.since),
            escape(job.where),
            f"{step:.0f}" if step is not None else "",
            f"{loss:.4f}" if loss is not None else "",
            f"{value:.4f}" if value is not None else "",
        )
    return table


def _problems(jobs: Sequence[RunView]) -> Iterator[str]:
    """Yield why jobs failed, were lost, were stopped by their cluster, or cannot be read."""
    stopped: dict[str, list[str]] = {}  # reason -> names
    for job in jobs:
        name = escape(_plain(job.name))
        if job.problem:
            yield f"[red]{name}: {escape(_plain(job.problem))}; hydratune compare leaves it out"
        elif job.life is Life.lost:
            number = job.status.content.get("pid")
            process = f"process {number}" if number else "its process"
            yield f"[red]{name}: lost: {process} ended without a word; its checkpoints are kept"
        elif job.state == "failed" and job.status.error:
            yield f"[red]{name}: failed: {escape(_cut(_plain(mask(job.status.error))))}"
        elif job.state == "stopped" and job.status.error not in (None, "", BY_SIGNAL):
            stopped.setdefault(str(job.status.error), []).append(name)
        elif job.life is Life.elsewhere and not job.submitted:
            yield (
                f"[dim]{name}: started on {escape(job.host)}, which cannot be asked from here"
                " whether it still runs"
            )
    for why, names in stopped.items():
        yield f"[yellow]{', '.join(names)}: stopped: {escape(_plain(mask(why)))}"


def _how_to_continue(sweep: SweepView) -> Iterator[str]:
    """Yield the command that runs what is left of a sweep that no process works on."""
    if sweep.wandb_sweep is not None:
        yield f"continue    hydratune sweep {escape(_plain(str(sweep.wandb_sweep)))}"
        return
    words = list(sweep.typed)
    if not words:
        yield "continue    type the command of the sweep again, with its hydra.sweep.dir"
        return
    place = started_in(sweep.settings)
    typed = [word.partition("=")[2] for word in words if word.startswith(_FOLDER_SETTING)]
    if not typed or (Path(place) / typed[-1].strip("'\"")).resolve() != sweep.folder.resolve():
        # none was given, or the folder was moved since
        words = [word for word in words if not word.startswith(_FOLDER_SETTING)]
        folder = str(sweep.folder.resolve())
        plain = re.fullmatch(r"[\w./-]+", folder)
        words.append(f"{_FOLDER_SETTING}{folder if plain else quoted_value(folder)}")
    before = ""
    if place and Path(place) != Path.cwd():
        before = f"cd {shlex.quote(place)} && "
    commands = [f"{before}hydratune train -m {shlex.join(words)}"]
    added = [shlex.join(["hydratune", "add", str(sweep.folder), *w]) for w in sweep.added]
    for command in [*commands, *added]:
        yield f"continue    {escape(_plain(command))}"


def _settings_of(job: RunView) -> str:
    if not job.varying:
        return ""
    parts = (f"{key.rpartition('.')[2]}={short_value(value)}" for key, value in job.varying.items())
    return f" ({escape(_plain(', '.join(parts)))})"


def _states(states: dict[str, int]) -> str:
    return ", ".join(
        f"[{_COLOURS.get(state, 'default')}]{number} {state}[/]" for state, number in states.items()
    )


def _coloured(state: str) -> str:
    return f"[{_COLOURS.get(state, 'default')}]{escape(state)}[/]"


def _shown(folder: Path) -> str:
    return escape(_plain(str(relative_path(folder))))


def _plain(text: str) -> str:
    return escape_controls(text.replace("\n", " "))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_REASON else f"{text[: _LONGEST_REASON - 3]}..."


def _when(text: str | None) -> str:
    """Return a time in ISO 8601 as people say it; as it is, if it is none."""
    try:
        then = datetime.fromisoformat(text or "")
    except ValueError:
        return escape(_plain(text or ""))
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    minutes = int((datetime.now(UTC) - then).total_seconds() // 60)
    for size, word in ((2 * 24 * 60, ""), (2 * 60, "h"), (1, "min")):
        if minutes >= size:
            if not word:
                return then.astimezone().strftime("%Y-%m-%d %H:%M")
            return f"{minutes // 60 if word == 'h' else minutes} {word} ago"
    return "now" if minutes >= 0 else then.astimezone().strftime("%Y-%m-%d %H:%M")
