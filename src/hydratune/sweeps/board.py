"""What the terminal shows while a pack runs: one live table of its jobs, or plain lines where there is no terminal."""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.live import Live
from rich.markup import escape
from rich.table import Table

from hydratune.checks import mask
from hydratune.console import Told, console
from hydratune.sweeps.records import read_sweep

_PLAIN_INTERVAL = 30.0  # seconds between two lines where there is no terminal
_LONGEST_REASON = 160  # letters; the table at the end and status.json have all of it
_STYLES = {"finished": "green", "failed": "red", "stopped": "yellow", "running": "bold"}


@dataclass
class _Line:
    settings: str
    state: str = "waiting"
    stage: str = ""
    done: float = 0.0
    speed: float = 0.0
    began: float = 0.0
    since: float = 0.0  # when its stage began
    took: float | None = None
    reason: str = ""


class Board:
    """Jobs of a pack and how far they are. Several threads may tell it."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        jobs = read_sweep(folder)
        self.lines = {name: _Line(_settings(jobs[name].varying) if name in jobs else "") for name in names}
        self._lock = threading.Lock()
        self._live = Live(get_renderable=self.table, console=console, refresh_per_second=2) if console.is_terminal else None
        self._said = time.monotonic()

    def __enter__(self) -> "Board":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def began(self, name: str) -> None:
        with self._lock:
            line = self.lines[name]
            line.state, line.began = "running", time.monotonic()

    def teller(self, name: str) -> Told:
        """Takes the progress of job ``name``."""

        def told(title: str, done: float, speed: float) -> None:
            with self._lock:
                line = self.lines[name]
                if line.stage != title:
                    line.stage, line.since = title, time.monotonic()
                line.done, line.speed = done, speed
            self._say_something()

        return told

    def paused(self, name: str, status: Mapping[str, Any]) -> None:
        """``name`` waits for the verdict on the others."""
        with self._lock:
            line = self.lines[name]
            step, value = (status.get("rungs") or [[0, None]])[-1]
            line.state, line.reason = "paused", f"step {step}" + (f", validation loss {value:.4f}" if value is not None else "")

    def ended(self, name: str, status: Mapping[str, Any]) -> None:
        with self._lock:
            line = self.lines[name]
            line.state, line.took = str(status.get("state", "?")), time.monotonic() - (line.began or time.monotonic())
            line.reason = " ".join(mask(str(status.get("error") or "")).split())
            line.reason = line.reason if len(line.reason) <= _LONGEST_REASON else f"{line.reason[:_LONGEST_REASON]} ..."
            if self._live is None:
                why = f": {line.reason}" if line.reason else ""
                console.print(f"job {name} ({escape(line.settings)}) {line.state} after {line.took:.0f} s{escape(why)}", soft_wrap=True)

    def _say_something(self) -> None:
        with self._lock:
            if self._live is not None or time.monotonic() - self._said < _PLAIN_INTERVAL:
                return
            self._said = time.monotonic()
            states = [line.state for line in self.lines.values()]
            running = "; ".join(f"job {n}: {ln.stage} {100 * ln.done:.0f} %" for n, ln in self.lines.items() if ln.state == "running")
            ended = len([s for s in states if s not in ("waiting", "running")])
            console.print(f"{ended} of {len(states)} jobs ended; {escape(running)}", soft_wrap=True)

    def table(self) -> Table:
        table = Table(header_style="bold")
        for column in ("job", "settings", "state", "doing", "", "tokens/s", "left"):
            table.add_column(column, justify="left" if column in ("job", "settings", "state", "doing") else "right")
        with self._lock:
            for name, line in self.lines.items():
                running = line.state == "running"
                elapsed = time.monotonic() - line.since
                left = f"{elapsed / line.done * (1 - line.done):.0f} s" if running and line.done > 0.02 else ""
                doing = line.stage if running else line.reason
                share, speed = (f"{100 * line.done:.0f} %", f"{line.speed:,.0f}") if running else ("", "")
                took = f"{line.took:.0f} s" if line.took is not None else left
                cells = (escape(line.settings), line.state, escape(doing), share, speed, took)
                table.add_row(name, *cells, style=_STYLES.get(line.state, "dim"))
        return table


def _settings(varying: Mapping[str, str]) -> str:
    return mask(", ".join(f"{key.rsplit('.', 1)[-1]}={value}" for key, value in varying.items()))
