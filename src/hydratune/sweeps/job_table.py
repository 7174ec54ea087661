"""The jobs of a pack as a table and in words: pure functions of what is known of each job."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table
from rich.text import Text

from hydratune.console import Stage
from hydratune.metric_format import with_unit
from hydratune.settings.monitor import Monitor
from hydratune.wording import counted

_STYLES = {"finished": "green", "failed": "red", "stopped": "yellow", "running": "bold"}
_TRAINING = "training"  # the stage that takes longest, and says how far a job is
_TEXT_COLUMNS = ("job", "settings", "state", "doing")
_BEST = "best"  # its title names the metric
_NUMBER_COLUMNS = ("", "step", "loss", _BEST, "tokens/s", "time")
_WIDE_COLUMNS = ("state", "step", "tokens/s")  # not shown in a narrow terminal
_LEAST_ROWS = 3
_TIMES = ("began", "since", "trained")  # of a line; nothing, or 0: not yet


@dataclass
class JobLine:
    """What is known of one job. Times are those of ``time.monotonic``."""

    settings: str
    state: str = "waiting"
    stage: Stage = field(default_factory=lambda: Stage(""))
    began: float = 0.0
    since: float = 0.0  # when its stage began, or when it was paused
    trained: float | None = None  # when its training ended
    took: float | None = None  # seconds, once it has ended
    loss: float | None = None
    best: float | None = None  # best value so far of ``monitor``
    reason: str = ""  # why it has its state
    ended_early: str = ""  # why its training ended before the last step
    monitor: Monitor = field(default_factory=Monitor)

    def update(self, stage: Stage, now: float) -> None:
        """Take over the progress that the job reports.

        Work without a title, such as answers to validation rows, is a part of the stage before it.
        """
        if not stage.title:
            return
        if self.stage.title != stage.title:
            self.since = now
            self.trained = now if self.stage.title == _TRAINING else self.trained
        self.stage = stage
        self.ended_early = stage.ended_early or self.ended_early
        self.loss = stage.numbers.get("loss", self.loss)
        value = stage.numbers.get(self.monitor.title)
        if value is not None and (self.best is None or self.monitor.is_better(value, self.best)):
            self.best = value

    @property
    def best_text(self) -> str:
        """The best value with its unit; empty if there is none."""
        return "" if self.best is None else with_unit(self.monitor.metric, self.best)

    @property
    def can_be_best(self) -> bool:
        """False for a job that failed, was stopped or was not validated yet."""
        return self.state not in ("failed", "stopped") and self.best is not None

    @property
    def cost(self) -> float:
        """A number that is lower for a better job."""
        best = self.best or 0.0
        return best if self.monitor.lower else -best

    def stored(self, now: float) -> dict[str, Any]:
        """Return the line as plain values, for another process; times are ages at ``now``."""
        values = {name: value for name, value in asdict(self).items() if name != "monitor"}
        return {**values, **{name: now - values[name] for name in _TIMES if values[name]}}

    @classmethod
    def restored(cls, values: Mapping[str, Any], now: float, monitor: Monitor) -> "JobLine":
        """Return the line of which ``stored`` made ``values``."""
        times = {name: now - values[name] for name in _TIMES if values[name]}
        stage = Stage(**values["stage"])
        return cls(**{**values, **times, "stage": stage, "monitor": monitor})

    def seconds_left_in_stage(self, now: float) -> float | None:
        return self.stage.seconds_left(now - self.since)


def choose(lines: Mapping[str, JobLine], room: int) -> dict[str, JobLine]:
    """Return the ``room`` most interesting jobs, in their order: those that run, failed, are the
    best, or come next.
    """
    names: dict[str, list[str]] = {"running": [], "failed": [], "waiting": [], "others": []}
    for name, line in lines.items():
        names[line.state if line.state in names else "others"].append(name)
    failed, waiting = names["failed"], names["waiting"]
    best = sorted(names["others"], key=lambda name: (not lines[name].can_be_best, lines[name].cost))
    order = [*names["running"], *failed[-3:], *best[:5], *waiting, *best[5:], *failed]
    chosen = set(list(dict.fromkeys(order))[: max(_LEAST_ROWS, room)])
    return {name: line for name, line in lines.items() if name in chosen}


def table(lines: Mapping[str, JobLine], now: float, *, wide: bool) -> Table:
    """Return a table with a row of one line for each job; ``wide``: with every column."""
    titles = [
        title for title in (*_TEXT_COLUMNS, *_NUMBER_COLUMNS) if wide or title not in _WIDE_COLUMNS
    ]
    result = Table(header_style="bold")
    for title in titles:
        can_wrap = title in ("settings", "doing")
        is_text = title in _TEXT_COLUMNS
        shown = _best_title(lines.values()) if wide and title == _BEST else title
        result.add_column(shown, justify="left" if is_text else "right", no_wrap=not can_wrap)
    for name, line in lines.items():
        cells = {"job": name, **_cells(line, now, wide=wide)}
        row = [Text(cells[title], no_wrap=True, overflow="ellipsis") for title in titles]
        result.add_row(*row, style=_STYLES.get(line.state, "dim"))
    return result


def _best_title(lines: Iterable[JobLine]) -> str:
    """Return the title of the best values: with the metric, if it is the same one for all jobs."""
    titles = {line.monitor.title.replace("validation", "val") for line in lines}
    return f"best {titles.pop()}" if len(titles) == 1 else "best"


def _cells(line: JobLine, now: float, *, wide: bool) -> dict[str, str]:
    """Return the text in every column but that of the name."""
    is_running, stage = line.state == "running", line.stage
    doing = (stage.title or "starting") if is_running else line.reason
    if not wide and not is_running:  # there is no column of states
        doing = f"{line.state}: {line.reason}" if line.reason else line.state
    seconds_left = line.seconds_left_in_stage(now)
    time = span(line.took) if line.took is not None else ""
    if is_running and seconds_left is not None:
        time = f"{span(seconds_left)} left"
    return {
        "settings": line.settings,
        "state": line.state,
        "doing": doing,
        "": f"{100 * stage.fraction:.0f} %" if is_running else "",
        "step": f"{int(stage.done)}/{stage.total}" if is_running and stage.total > 0 else "",
        "loss": f"{line.loss:.4f}" if line.loss is not None else "",
        _BEST: line.best_text,
        "tokens/s": f"{stage.speed:,.0f}" if is_running and stage.speed else "",
        "time": time,
    }


def summary(
    lines: Mapping[str, JobLine], now: float, shown: Mapping[str, JobLine] | None = None
) -> str:
    """Return all jobs in one line; ``shown`` are those that have a row of their own."""
    states = [line.state for line in lines.values()]
    waiting, running, paused, failed = (
        states.count(state) for state in ("waiting", "running", "paused", "failed")
    )
    ended = len(states) - waiting - running - paused
    parts = [
        f"{ended} of {counted(len(states), 'job')} ended{f' ({failed} failed)' if failed else ''}"
    ]
    if running or waiting or paused:
        text = f"{running} running, {waiting} waiting"
        parts.append(f"{text}, {paused} paused until all are judged" if paused else text)
    seconds = time_left(list(lines.values()), now)
    if seconds is not None and (running or waiting):
        parts.append(f"about {span(seconds)} left")
    candidates = {name: line for name, line in lines.items() if line.can_be_best}
    if candidates:
        name = min(candidates, key=lambda name: (candidates[name].cost, name))
        parts.append(f"best so far: job {name} ({lines[name].settings}) {lines[name].best_text}")
    if shown is not None and len(shown) < len(lines):
        hidden = [line.state for name, line in lines.items() if name not in shown]
        counts = [f"{hidden.count(state)} {state}" for state in dict.fromkeys(hidden)]
        parts.append(f"not shown: {', '.join(counts)}")
    return "; ".join(parts)


def describe(name: str, line: JobLine) -> str:
    """Return one running job in words."""
    stage = line.stage
    text = f"job {name}: {stage.title or 'starting'}"
    if stage.title:
        steps = f" ({int(stage.done)}/{stage.total})" if stage.total > 0 else ""
        text += f" {100 * stage.fraction:.0f} %{steps}"
    parts = [text]
    parts += [f"loss {line.loss:.4f}"] if line.loss is not None else []
    parts += [f"best {line.monitor.title} {line.best_text}"] if line.best is not None else []
    parts += [f"{stage.speed:,.0f} tokens/s"] if stage.speed else []
    return ", ".join(parts)


def time_left(lines: Sequence[JobLine], now: float) -> float | None:
    """Return the estimated seconds until all jobs have ended; None as long as there is no estimate.

    A job that trains continues at its speed so far, and then takes as long as the ended ones took
    after their training. A job that does not train yet takes as long as the ended ones, or as the
    others will.
    """
    running = [line for line in lines if line.state == "running"]
    ended = [line for line in lines if line.state in ("finished", "stopped")]
    totals = [line.took for line in ended if line.took is not None]
    after_training = [
        line.took - (line.trained - line.began)
        for line in ended
        if line.took is not None and line.trained is not None
    ]
    tail = statistics.fmean(after_training) if after_training else 0.0
    estimates = [_seconds_left(line, now, tail) for line in running]
    if not totals:
        pairs = zip(running, estimates, strict=True)
        totals = [
            now - line.began + seconds_left
            for line, seconds_left in pairs
            if seconds_left is not None
        ]
    if not totals:
        return None
    usual = statistics.fmean(totals)
    seconds = [
        max(0.0, usual - (now - line.began)) if seconds_left is None else seconds_left
        for line, seconds_left in zip(running, estimates, strict=True)
    ]
    waiting = usual * sum(line.state == "waiting" for line in lines)
    return max([(sum(seconds) + waiting) / max(1, len(running)), *seconds])


def _seconds_left(line: JobLine, now: float, tail: float) -> float | None:
    """Return the estimate for one running job; ``tail``: seconds a job takes after its training."""
    if line.trained is not None:
        return max(0.0, tail - (now - line.trained))
    seconds_left = line.seconds_left_in_stage(now)
    return (
        seconds_left + tail if seconds_left is not None and line.stage.title == _TRAINING else None
    )


def span(seconds: float) -> str:
    """Return a time as a person would say it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
