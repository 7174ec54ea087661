"""The runs of a folder as their records show them now."""

import csv
import heapq
import io
import json
import math
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from hydratune.bounds import load_yaml
from hydratune.errors import HydratuneError, RunError
from hydratune.overview.held_locks import HeldLocks, this_host
from hydratune.records.files import Json
from hydratune.records.run_directory import RunDirectory
from hydratune.records.status import Outcome, Status
from hydratune.records.sweep import (
    HYDRA_FILE,
    SWEEP_FILE,
    SweepJob,
    WandbSweep,
    chosen_values,
    read_sweep,
    read_wandb_sweep,
)
from hydratune.settings.monitor import Monitor
from hydratune.sweeps.added_jobs import ADDED_FILE, added_words, words_of_sweep
from hydratune.sweeps.executors.submitted import SUBMITTED_FILE, submitted_ids

_DEPTH = 3  # folders between the given one and a run
_TAIL = 4096  # bytes at the end of history.csv that are read


class Life(StrEnum):
    """What is known of the process of a run."""

    none = ""  # the run has ended, or has not begun
    alive = "alive"
    lost = "lost"  # it ended without a word
    elsewhere = "elsewhere"  # on another machine, which cannot be asked from here


@dataclass(frozen=True)
class RunView:
    """A run, or a job of a sweep, at one time."""

    record: RunDirectory
    status: Status
    locks: HeldLocks = field(repr=False, compare=False)
    varying: Mapping[str, str] = field(default_factory=dict)
    submitted: str = ""  # the job of a cluster to which it was given
    problem: str = ""  # why its status cannot be read

    @property
    def name(self) -> str:
        return self.record.path.name

    @cached_property
    def process(self) -> int | None:
        """The process of this machine that works in its directory; 0: of unknown number."""
        return self.locks.process(self.record.path)

    @property
    def host(self) -> str:
        """The machine on which it was started last; "" if an older version started it."""
        value = self.status.content.get("host")
        return value if isinstance(value, str) else ""

    @cached_property
    def life(self) -> Life:
        """What is known of its process."""
        if self.status.outcome is not Outcome.running:
            return Life.none
        if self.process is not None:
            return Life.alive
        if self.submitted or self.host not in ("", this_host()):
            return Life.elsewhere
        return Life.lost

    @property
    def state(self) -> str:
        """Its state in a word or two."""
        if self.problem:
            return "unreadable"
        if self.life is Life.lost:
            return "lost"
        if self.status.outcome is Outcome.no_run:
            return "submitted" if self.submitted else "waiting"
        return self.status.outcome.value

    @property
    def where(self) -> str:
        """Where it runs."""
        if self.life in (Life.none, Life.lost):
            return f"job {self.submitted}" if self.submitted else ""
        if self.submitted:
            return f"job {self.submitted}{f' on {self.host}' if self.host else ''}"
        if self.life is Life.elsewhere:
            return self.host
        return f"process {self.process}" if self.process else "this machine"

    @property
    def since(self) -> str | None:
        """When it started, or ended, in ISO 8601."""
        ended = self.status.content.get("ended")
        return ended if isinstance(ended, str) else self.status.started

    @cached_property
    def last(self) -> Mapping[str, float]:
        """The last numbers of its history.csv by column; empty if there are none."""
        return _last_numbers(self.record.history_file)

    @cached_property
    def measured(self) -> Mapping[str, Json]:
        """The content of metrics.json of a finished run; empty without it."""
        try:
            found: Json = json.loads(self.record.metrics_file.read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def value(self, monitor: Monitor) -> float | None:
        """Return the metric that is monitored, as it was measured last.

        For a job that waits at a rung, or was halved there, that is what it is judged by.
        """
        if self.status.rungs and self.status.outcome in (Outcome.halved, Outcome.paused):
            rung = self.status.rungs[-1]
            return rung.loss if monitor.is_loss else rung.value
        for source in (self.measured, self.last):
            value = source.get(monitor.metric)
            if isinstance(value, (int, float)):
                return float(value)
        return None


@dataclass(frozen=True)
class SweepView:
    """A sweep at one time."""

    folder: Path
    jobs: tuple[RunView, ...]
    driver: int | None  # the process that runs it on this machine; 0: of unknown number

    @cached_property
    def settings(self) -> Mapping[str, Json]:
        """The content of its multirun.yaml; empty if that cannot be read."""
        return _settings(self.folder / HYDRA_FILE)

    @cached_property
    def monitor(self) -> Monitor:
        """The metric by which its jobs are compared."""
        return _monitor(self.settings)

    @property
    def wandb_sweep(self) -> WandbSweep | None:
        """The W&B sweep whose trials it holds, if it holds any."""
        return read_wandb_sweep(self.folder)

    @property
    def typed(self) -> list[str]:
        """What was typed after ``hydratune train -m`` to start it; empty if unknown."""
        return words_of_sweep(self.folder) or _typed(self.settings)

    @property
    def added(self) -> list[list[str]]:
        """What was typed to add jobs, each time."""
        return added_words(self.folder)

    def counts(self) -> dict[str, int]:
        """Return how many jobs have each state, those that need attention first."""
        return counts(self.jobs)

    def best(self) -> RunView | None:
        """Return the job with the best value of the monitored metric so far."""
        best: tuple[float, RunView] | None = None
        for job in self.jobs:
            value = job.value(self.monitor)
            if value is None or not math.isfinite(value):
                continue
            if best is None or self.monitor.is_better(value, best[0]):
                best = value, job
        return best[1] if best else None

    @property
    def is_unfinished(self) -> bool:
        """Whether jobs are left that no process and no cluster works on."""
        left = ("waiting", "lost", "stopped", "failed", "paused")
        return self.driver is None and any(job.state in left for job in self.jobs)


_ORDER = ("lost", "unreadable", "failed", "running", "paused", "submitted", "waiting", "stopped")


def counts(runs: "tuple[RunView, ...] | list[RunView]") -> dict[str, int]:
    """Return how many runs have each state, those that need attention first."""
    states = [run.state for run in runs]
    order = [*_ORDER, *sorted(set(states) - set(_ORDER))]
    return {state: states.count(state) for state in order if state in states}


def view_run(folder: Path, locks: HeldLocks) -> RunView:
    """Return the run in ``folder``."""
    return _view(folder, locks, {}, "")


def view_sweep(folder: Path, locks: HeldLocks) -> SweepView:
    """Return the sweep in ``folder``. Raises ``RunError`` if its files cannot be read."""
    with _readable(folder, SWEEP_FILE):
        jobs: Mapping[str, SweepJob] = read_sweep(folder)
        read_wandb_sweep(folder)
    with _readable(folder, ADDED_FILE):
        words_of_sweep(folder), added_words(folder)
    with _readable(folder, SUBMITTED_FILE):
        ids = submitted_ids(folder)
    views = tuple(
        _view(folder / name, locks, chosen_values(job, jobs.values()), ids.get(name, ""))
        for name, job in jobs.items()
    )
    return SweepView(folder, views, locks.process(folder))


@contextmanager
def _readable(sweep: Path, file: str) -> Iterator[None]:
    """Raise ``RunError`` if ``file``, which is read in the block, is not as it was written."""
    hint = f"hydratune status {shlex.quote(str(sweep))}/JOB shows a job of the sweep"
    try:
        yield
    except HydratuneError as error:  # it names the file
        raise RunError(str(error)) from error
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise RunError(f"{sweep / file} is not as hydratune writes it ({why}); {hint}") from error


def _view(folder: Path, locks: HeldLocks, varying: Mapping[str, str], submitted: str) -> RunView:
    record, status, problem = RunDirectory(folder), Status(), ""
    try:  # without the check of its digest, which would read a second file for each run
        content = json.loads(record.status_file.read_bytes())
        if isinstance(content, dict):
            status = Status(content)
        else:
            problem = f"{record.status_file} holds no object"
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError, RecursionError) as error:
        problem = f"{record.status_file} cannot be read: {error}"
    return RunView(record, status, locks, varying, submitted, problem)


def find(root: Path) -> Iterator[tuple[Path, bool]]:
    """Yield (folder, whether it is a sweep) of the runs and sweeps below ``root``."""
    yield from _find(root, _DEPTH)


def _find(folder: Path, depth: int) -> Iterator[tuple[Path, bool]]:
    if (folder / SWEEP_FILE).is_file():
        yield folder, True
        return
    if RunDirectory(folder).status_file.is_file():
        yield folder, False
        return
    if depth:
        try:
            below = [path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."]
        except OSError:
            return
        for path in below:
            yield from _find(path, depth - 1)


def newest(runs: "list[RunView | SweepView]", count: int) -> "list[RunView | SweepView]":
    """Return the runs and sweeps that were changed last, the newest first."""
    return heapq.nlargest(count, runs, key=_changed)


def _changed(run: "RunView | SweepView") -> str:
    if isinstance(run, SweepView):
        return max((job.since or "" for job in run.jobs), default="")
    return run.since or ""


def _last_numbers(file: Path) -> dict[str, float]:
    """Return the last number in every column of a CSV file, of which only the ends are read."""
    try:
        with file.open("rb") as stream:
            header = stream.readline()
            stream.seek(0, io.SEEK_END)
            start = max(len(header), stream.tell() - _TAIL)
            stream.seek(start)
            tail = stream.read()
    except OSError:
        return {}
    if start > len(header):
        tail = tail.partition(b"\n")[2]  # the first row may be cut
    names, *rows = csv.reader((header + tail).decode("utf-8", "replace").splitlines())
    found: dict[str, float] = {}
    for row in rows:
        for name, text in zip(names, row, strict=False):
            with suppress(ValueError):
                found[name] = float(text)
    return found


def _settings(file: Path) -> Mapping[str, Json]:
    """Return the settings of a sweep as Hydra wrote them; empty if they cannot be read."""
    try:
        content: Json = OmegaConf.to_container(load_yaml(file), resolve=False)
    except (HydratuneError, OmegaConfBaseException, YAMLError, OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _monitor(settings: Mapping[str, Json]) -> Monitor:
    text = _at(settings, "trainer", "monitor")
    for override in _typed(settings):
        if override.startswith("trainer.monitor="):
            text = override.partition("=")[2]
    try:
        return Monitor.read(text) if isinstance(text, str) else Monitor()
    except ValueError:
        return Monitor()


def _typed(settings: Mapping[str, Json]) -> list[str]:
    """Return what was typed after ``hydratune train -m`` to start a sweep; empty if unknown."""
    words: list[str] = []
    for part in ("task", "hydra"):
        found = _at(settings, "hydra", "overrides", part)
        words += map(str, found) if isinstance(found, list) else ()
    return [word for word in words if not word.startswith("hydra.mode=")]


def started_in(settings: Mapping[str, Json]) -> str:
    """Return the folder in which a sweep was started; "" if unknown."""
    found = _at(settings, "hydra", "runtime", "cwd")
    return found if isinstance(found, str) else ""


def _at(content: Json, *keys: str) -> Json:
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content
