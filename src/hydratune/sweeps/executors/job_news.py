"""What the records of jobs say that run elsewhere, one line for each that has ended."""

from collections.abc import Iterable

from rich.markup import escape

from hydratune.console import console
from hydratune.errors import RunError
from hydratune.records.metrics import RunMetrics
from hydratune.records.status import Outcome
from hydratune.records.sweep import chosen_values, read_sweep
from hydratune.settings.secrets import mask
from hydratune.sweeps.planning import PlannedJob

_COLOURS = {Outcome.finished: "green", Outcome.failed: "red"}
# stopped: it left its machine and is queued again; if not, the end of the sweep says so
_SILENT = (Outcome.no_run, Outcome.waiting, Outcome.stopped)


class JobNews:
    """Prints how jobs have begun, paused and ended since the last time."""

    def __init__(self, jobs: Iterable[PlannedJob]) -> None:
        self._jobs = list(jobs)
        self._seen = {job.name: _outcome(job) for job in self._jobs}

    def add(self, jobs: Iterable[PlannedJob]) -> None:
        """Also print what becomes of these jobs, as of those of the next trials of a search."""
        new = [job for job in jobs if job.name not in self._seen]
        self._jobs += new
        self._seen |= {job.name: _outcome(job) for job in new}

    def print_changes(self) -> None:
        for job in self._jobs:
            outcome = _outcome(job)
            if outcome is None or outcome == self._seen[job.name]:
                continue
            self._seen[job.name] = outcome
            if outcome not in _SILENT:
                text = escape(mask(_described(job, outcome)))
                colour = _COLOURS.get(outcome, "dim")
                console.print(f"[{colour}]{text}[/]", soft_wrap=True)


def _outcome(job: PlannedJob) -> Outcome | None:
    """Return what the job's folder says; None if it is being written on another machine."""
    try:
        return job.status.outcome
    except RunError:
        return None


def _described(job: PlannedJob, outcome: Outcome) -> str:
    values = chosen_values(job.job, read_sweep(job.record.path.parent).values())
    settings = ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in values.items())
    settings = f" ({settings})" if settings else ""
    text = f"job {job.name}{settings} {'is ' if outcome is Outcome.running else ''}{outcome}"
    status = job.status
    if outcome is Outcome.finished and job.record.is_finished():
        loss = RunMetrics.read(job.record.metrics_file).values.get("val/loss")
        return text if loss is None else f"{text}, validation loss {loss:.4f}"
    if outcome is Outcome.paused and status.rungs and status.rungs[-1].loss is not None:
        rung = status.rungs[-1]
        return f"{text} at step {rung.step}, validation loss {rung.loss:.4f}"
    if outcome is Outcome.halved:  # its reason begins with this word
        return text.removesuffix(outcome) + (status.error or outcome)
    return f"{text}: {status.error}" if status.error else text
