"""What the terminal shows while a pack runs: one live table of its jobs, or plain lines where there
is no terminal.
"""

import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from hydratune.console import Stage, Told, console
from hydratune.records.files import read_json
from hydratune.records.run_directory import RunDirectory, State
from hydratune.records.sweep import read_sweep
from hydratune.settings.secrets import mask

_PLAIN_INTERVAL = 30.0  # seconds between two lines where there is no terminal
_LONGEST_REASON = 160  # letters; the table at the end and status.json have all of it
_AROUND = 7  # lines of the terminal that are not rows of the table
_WIDE = 110  # columns of a terminal that takes everything
_STYLES = {"finished": "green", "failed": "red", "stopped": "yellow", "running": "bold"}
_TRAINING = "training"  # the stage that takes longest, and says how far a job is


@dataclass
class Line:
    """One job. Times are those of ``time.monotonic``."""

    settings: str
    state: str = "waiting"
    stage: Stage = field(default_factory=lambda: Stage(""))
    began: float = 0.0
    since: float = 0.0  # when its stage began
    trained: float | None = None  # when it was through with training
    took: float | None = None
    loss: float | None = None
    best: float | None = None  # lowest validation loss so far
    reason: str = ""

    def tell(self, stage: Stage, now: float) -> None:
        if self.stage.title != stage.title:
            self.since = now
            self.trained = now if self.stage.title == _TRAINING else self.trained
        self.stage = stage
        self.loss = stage.numbers.get("loss", self.loss)
        found = [value for value in (self.best, stage.numbers.get("val loss")) if value is not None]
        self.best = min(found, default=None)


class Board:
    """Jobs of a pack and how far they are. Several threads may tell it."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        jobs = read_sweep(folder)
        self.lines = {
            name: _line(folder / name, jobs[name].varying if name in jobs else {}) for name in names
        }
        self._lock = threading.Lock()
        self._live = (
            Live(get_renderable=self.view, console=console, refresh_per_second=2)
            if console.is_terminal
            else None
        )
        self._said = time.monotonic()

    def __enter__(self) -> "Board":
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

    def began(self, name: str) -> None:
        with self._lock:
            line, now = self.lines[name], time.monotonic()
            line.began = line.began + now - line.since if line.state == "paused" else now
            line.state, line.stage, line.reason = "running", Stage(""), ""

    def teller(self, name: str) -> Told:
        """Takes the progress of job ``name``."""

        def told(stage: Stage) -> None:
            with self._lock:
                self.lines[name].tell(stage, time.monotonic())

        return told

    def seen(self, name: str) -> str:
        """What job ``name`` was doing when it was last heard of."""
        with self._lock:
            stage = self.lines[name].stage
        return f"{stage.title} {100 * stage.share:.0f} %" if stage.title else "not yet at work"

    def paused(self, name: str, status: Mapping[str, Any]) -> None:
        """``name`` waits for the verdict on the others."""
        with self._lock:
            line = self.lines[name]
            step, _ = (status.get("rungs") or [[0, None]])[-1]
            line.state, line.reason = "paused", f"at step {step}"
            line.since = time.monotonic()

    def ended(self, name: str, status: Mapping[str, Any]) -> None:
        with self._lock:
            line = self.lines[name]
            line.state, line.took = (
                str(status.get("state", "?")),
                time.monotonic() - line.began if line.began else 0.0,
            )
            halved = status.get("halved")
            line.reason = (
                f"halved at step {halved.get('step')}"
                if halved
                else " ".join(mask(str(status.get("error") or "")).split())
            )
            line.reason = (
                line.reason
                if len(line.reason) <= _LONGEST_REASON
                else f"{line.reason[:_LONGEST_REASON]} ..."
            )
            if self._live is None:
                loss = f", val loss {line.best:.4f}" if line.best is not None else ""
                why = f": {line.reason}" if line.reason else ""
                text = (
                    f"job {name} ({line.settings}) {line.state} after {span(line.took)}{loss}{why}"
                )
                console.print(escape(text), soft_wrap=True)

    def say(self) -> None:
        """Where there is no terminal, everything in one line, now and then."""
        if self._live is not None or time.monotonic() - self._said < _PLAIN_INTERVAL:
            return
        self._said = time.monotonic()
        with self._lock:
            running = [
                plain(name, line) for name, line in self.lines.items() if line.state == "running"
            ]
            console.print(
                escape("; ".join([summary(self.lines, self._said), *running])), soft_wrap=True
            )

    def view(self) -> Group:
        with self._lock:
            now = time.monotonic()
            shown = choose(self.lines, console.height - _AROUND)
            return Group(
                table(shown, now, wide=console.width >= _WIDE),
                Text(summary(self.lines, now, shown)),
            )


def choose(lines: Mapping[str, Line], room: int) -> dict[str, Line]:
    """The jobs worth a row if there is no ``room`` for all: running, failed, the best, then what
    comes next; in their order.
    """
    failed = [name for name, line in lines.items() if line.state == "failed"]
    others = {
        name: line
        for name, line in lines.items()
        if line.state not in ("running", "failed", "waiting")
    }
    best = sorted(others, key=lambda name: (_beaten(others[name]), others[name].best or 0.0))
    order = [name for name, line in lines.items() if line.state == "running"]
    order += [
        *failed[-3:],
        *best[:5],
        *(name for name, line in lines.items() if line.state == "waiting"),
        *best[5:],
        *failed,
    ]
    chosen = set(list(dict.fromkeys(order))[: max(3, room)])
    return {name: line for name, line in lines.items() if name in chosen}


def table(lines: Mapping[str, Line], now: float, *, wide: bool) -> Table:
    """One row of one line for each. A narrow terminal does without what can be spared."""
    result = Table(header_style="bold")
    wanted = {"state": wide, "step": wide, "tokens/s": wide}
    titles = (
        "job",
        "settings",
        "state",
        "doing",
        "",
        "step",
        "loss",
        "best val",
        "tokens/s",
        "time",
    )
    texts = ("job", "settings", "state", "doing")
    for title in titles:
        if wanted.get(title, True):
            result.add_column(
                title,
                justify="left" if title in texts else "right",
                no_wrap=title not in ("settings", "doing"),
            )
    for name, line in lines.items():
        running, stage = line.state == "running", line.stage
        rest = line.stage.left(now - line.since)
        doing = (stage.title or "starting") if running else line.reason
        doing = (
            doing
            if wide or running
            else f"{line.state}: {line.reason}"
            if line.reason
            else line.state
        )
        cells = {
            "job": name,
            "settings": line.settings,
            "state": line.state,
            "doing": doing,
            "": f"{100 * stage.share:.0f} %" if running else "",
            "step": f"{int(stage.done)}/{stage.total}" if running and stage.total > 0 else "",
            "loss": _number(line.loss),
            "best val": _number(line.best),
            "tokens/s": f"{stage.speed:,.0f}" if running and stage.speed else "",
            "time": (
                f"{span(rest)} left"
                if running and rest is not None
                else span(line.took)
                if line.took is not None
                else ""
            ),
        }
        row = [
            Text(cells[title], no_wrap=True, overflow="ellipsis")
            for title in titles
            if wanted.get(title, True)
        ]
        result.add_row(*row, style=_STYLES.get(line.state, "dim"))
    return result


def summary(lines: Mapping[str, Line], now: float, shown: Mapping[str, Line] | None = None) -> str:
    """All jobs in one line; ``shown`` are those of which more is to be seen."""
    states = [line.state for line in lines.values()]
    waiting, running, paused, failed = (
        states.count(state) for state in ("waiting", "running", "paused", "failed")
    )
    parts = [
        f"{len(states) - waiting - running - paused} of {len(states)} jobs"
        f" ended{f' ({failed} failed)' if failed else ''}"
    ]
    going = [f"{running} running, {waiting} waiting"] if running or waiting or paused else []
    parts += (
        [", ".join([*going, f"{paused} paused until all are judged"] if paused else going)]
        if going
        else []
    )
    left = time_left(list(lines.values()), now)
    parts += [f"about {span(left)} left"] if left is not None and (running or waiting) else []
    best = min(
        ((ln.best, name) for name, ln in lines.items() if ln.best is not None and not _beaten(ln)),
        default=None,
    )
    parts += (
        [f"best so far: job {best[1]} ({lines[best[1]].settings}) {best[0]:.4f}"] if best else []
    )
    hidden = [line.state for name, line in lines.items() if shown is not None and name not in shown]
    parts += (
        [
            "not shown:"
            f" {', '.join(f'{hidden.count(state)} {state}' for state in dict.fromkeys(hidden))}"
        ]
        if hidden
        else []
    )
    return "; ".join(parts)


def plain(name: str, line: Line) -> str:
    """One running job in words."""
    stage = line.stage
    steps = f" ({int(stage.done)}/{stage.total})" if stage.total > 0 else ""
    parts = [
        f"job {name}: {stage.title or 'starting'}"
        + (f" {100 * stage.share:.0f} %{steps}" if stage.title else "")
    ]
    parts += [f"loss {line.loss:.4f}"] if line.loss is not None else []
    parts += [f"best val {line.best:.4f}"] if line.best is not None else []
    parts += [f"{stage.speed:,.0f} tokens/s"] if stage.speed else []
    return ", ".join(parts)


def time_left(lines: Sequence[Line], now: float) -> float | None:
    """Seconds until all have ended; None as long as nothing tells.

    A job that trains goes on as it went so far, and then takes as long as the ended ones after
    their training. Whoever has not begun to train will take as long as the ended ones, or as the
    others will.
    """
    ended = [
        line for line in lines if line.state in ("finished", "stopped") and line.took is not None
    ]
    after = [
        line.took - (line.trained - line.began)
        for line in ended
        if line.took is not None and line.trained is not None
    ]
    tail = statistics.fmean(after) if after else 0.0
    running = [line for line in lines if line.state == "running"]
    rests: list[float | None] = []
    for line in running:
        rest = line.stage.left(now - line.since)
        if line.trained is not None:
            rests.append(max(0.0, tail - (now - line.trained)))
        else:
            rests.append(
                rest + tail if line.stage.title == _TRAINING and rest is not None else None
            )
    whole = [line.took for line in ended if line.took is not None]
    whole = whole or [
        now - line.began + rest
        for line, rest in zip(running, rests, strict=True)
        if rest is not None
    ]
    if not whole:
        return None
    usual = statistics.fmean(whole)
    known = [
        max(0.0, usual - (now - ln.began)) if rest is None else rest
        for ln, rest in zip(running, rests, strict=True)
    ]
    waiting = usual * sum(line.state == "waiting" for line in lines)
    return max([(sum(known) + waiting) / max(1, len(running)), *known])


def span(seconds: float) -> str:
    """As a person would say it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _beaten(line: Line) -> bool:
    """Never the best: what failed, or was stopped."""
    return line.state in ("failed", "stopped") or line.best is None


def _number(value: float | None) -> str:
    return f"{value:.4f}" if value is not None else ""


def _line(folder: Path, varying: Mapping[str, str]) -> Line:
    """A job as the pack finds it: some have ended before, and count in the halving."""
    record = RunDirectory(folder)
    settings = mask(
        ", ".join(f"{key.rsplit('.', 1)[-1]}={value}" for key, value in varying.items())
    )
    if record.is_finished():
        return Line(
            settings, State.finished.value, best=read_json(record.metrics_file).get("objective")
        )
    return Line(settings, State.stopped.value) if "halved" in record.status() else Line(settings)
