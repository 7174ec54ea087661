"""What the terminal shows while a pack runs: one live table of its jobs, or plain lines where the
output is not a terminal.
"""

import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from hydratune.console import Stage, StageListener, console
from hydratune.records.files import write_json
from hydratune.records.metrics import RunMetrics
from hydratune.records.run_directory import RunDirectory
from hydratune.records.status import Outcome, State, Status
from hydratune.records.sweep import SweepJob, chosen_values, read_sweep
from hydratune.settings.monitor import Monitor
from hydratune.settings.secrets import mask
from hydratune.sweeps.job_table import JobLine, choose, describe, span, summary, table
from hydratune.wording import short_value

PROGRESS_VARIABLE = "HYDRATUNE_PROGRESS"  # file for what a driver elsewhere shows
_STORE_INTERVAL = 2.0  # seconds between two such files
_PLAIN_INTERVAL = 30.0  # seconds between two lines where there is no terminal
_LONGEST_REASON = 160  # characters; the table at the end and status.json have all of it
_OTHER_LINES = 7  # lines of the terminal that are not rows of the table
_WIDE = 110  # columns of a terminal that has room for every column of the table


class ProgressTable:
    """Shows the jobs of a pack and how far they are. Several threads may report to it."""

    def __init__(self, folder: Path, names: Sequence[str], monitor: Monitor | None = None) -> None:
        """``monitor``: by what the jobs are ranked; None: the validation loss."""
        jobs, self.monitor = read_sweep(folder), monitor or Monitor()
        self._folder = folder
        self.lines = {
            name: _line(folder / name, _values(name, jobs), self.monitor) for name in names
        }
        self._lock = threading.Lock()
        self._live: Live | None = None
        if console.is_terminal:
            self._live = Live(get_renderable=self.view, console=console, refresh_per_second=2)
        self._printed_at = self._stored_at = time.monotonic()
        self._file = os.environ.get(PROGRESS_VARIABLE)

    def __enter__(self) -> "ProgressTable":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def add(self, name: str) -> None:
        """Show one more job."""
        values = _values(name, read_sweep(self._folder))
        with self._lock:
            lines = {**self.lines, name: _line(self._folder / name, values, self.monitor)}
            self.lines = lines  # whoever reads the lines meanwhile has the old ones

    def began(self, name: str) -> None:
        """Show that job ``name`` runs; the time for which it was paused does not count."""
        with self._lock:
            line, now = self.lines[name], time.monotonic()
            line.began = line.began + now - line.since if line.state == "paused" else now
            line.state, line.stage, line.reason = "running", Stage(""), ""

    def listener(self, name: str) -> StageListener:
        """Return what takes the progress of job ``name``."""

        def listen(stage: Stage) -> None:
            with self._lock:
                self.lines[name].update(stage, time.monotonic())

        return listen

    def seen(self, name: str) -> str:
        """Return what job ``name`` was doing when it last reported progress."""
        with self._lock:
            stage = self.lines[name].stage
        return f"{stage.title} {100 * stage.fraction:.0f} %" if stage.title else "not yet at work"

    def paused(self, name: str, status: Status) -> None:
        """Show that ``name`` waits for the other jobs at a rung."""
        with self._lock:
            line = self.lines[name]
            step = status.rungs[-1].step if status.rungs else 0
            line.state, line.reason = "paused", f"at step {step}"
            line.since = time.monotonic()

    def ended(self, name: str, status: Status) -> None:
        """Show how ``name`` ended."""
        with self._lock:
            line = self.lines[name]
            line.state = status.state.value if status.state is not None else "?"
            line.took = time.monotonic() - line.began if line.began else 0.0
            line.reason = _reason(status) or line.ended_early
            if self._live is None:
                is_measured = line.best is not None
                best = f", {self.monitor.title} {line.best_text}" if is_measured else ""
                why = f": {line.reason}" if line.reason else ""
                settings = f" ({line.settings})" if line.settings else ""
                end = f"{line.state} after {span(line.took)}{best}{why}"
                console.print(escape(f"job {name}{settings} {end}"), soft_wrap=True)

    def print_progress(self) -> None:
        """Print all jobs in one line, now and then, where there is no terminal.

        Where a driver elsewhere has one, they are stored for it instead.
        """
        if self._file is not None:
            self._store(Path(self._file))
            return
        if self._live is not None or time.monotonic() - self._printed_at < _PLAIN_INTERVAL:
            return
        self._printed_at = time.monotonic()
        with self._lock:
            running = [
                describe(name, line) for name, line in self.lines.items() if line.state == "running"
            ]
            text = "; ".join([summary(self.lines, self._printed_at), *running])
            console.print(escape(text), soft_wrap=True)

    def _store(self, file: Path) -> None:
        now = time.monotonic()
        if now - self._stored_at < _STORE_INTERVAL:
            return
        self._stored_at = now
        with self._lock:
            lines = {name: line.stored(now) for name, line in self.lines.items()}
        write_json(file, lines)

    def take(self, text: str) -> None:
        """Show what the process of a pack has stored."""
        now = time.monotonic()
        with self._lock:
            for name, values in json.loads(text).items():
                self.lines[name] = JobLine.restored(values, now, self.monitor)

    def view(self) -> Group:
        """Return what the terminal shows now."""
        with self._lock:
            now = time.monotonic()
            shown = choose(self.lines, console.height - _OTHER_LINES)
            rows = table(shown, now, wide=console.width >= _WIDE)
            return Group(rows, Text(summary(self.lines, now, shown)))


def _reason(status: Status) -> str:
    """Return in one short line why a job ended."""
    if status.halved is not None:
        return f"halved at step {status.halved.step}"
    reason = " ".join(mask(status.error or "").split())
    return reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]} ..."


def _values(name: str, jobs: Mapping[str, SweepJob]) -> Mapping[str, str]:
    """Return what a job has for the settings that vary in its sweep."""
    return chosen_values(jobs[name], jobs.values()) if name in jobs else {}


def _line(folder: Path, varying: Mapping[str, str], monitor: Monitor) -> JobLine:
    """Return a job as the pack finds it; some have ended before, and count in the halving."""
    record = RunDirectory(folder)
    words = [f"{key.rsplit('.', 1)[-1]}={short_value(value)}" for key, value in varying.items()]
    settings = mask(", ".join(words))
    if record.is_finished():
        best = RunMetrics.read(record.metrics_file).values.get("objective")
        return JobLine(settings, State.finished.value, best=best, monitor=monitor)
    if record.read_status().outcome is Outcome.halved:
        return JobLine(settings, State.stopped.value, monitor=monitor)
    return JobLine(settings, monitor=monitor)
