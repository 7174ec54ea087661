"""What the terminal shows: one rich console, one kind of progress bar; plain lines where there is
no terminal.

Row ids, names of files and whatever a model writes may hold control characters, with which they
could move the cursor, set the title, or turn a line around. Everything printed goes through
``plain``, which writes those out.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.text import Text

# .paper: what this thread prints goes there; .told: how its work goes on is told there
_thread = threading.local()


_CONTROLS = [
    n for n in range(160) if (n < 32 and n not in (9, 10)) or n > 126
]  # C0 without tab and line feed, DEL, C1: ECMA-48
_TURNS = [
    0x2028,
    0x2029,
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
]  # line ends of Unicode, bidirectional overrides
_SHOWN = {n: f"\\x{n:02x}" for n in _CONTROLS} | {
    n: f"\\u{n:04x}" for n in (*_TURNS, *range(0xD800, 0xE000))
}


def plain(text: str) -> str:
    """``text`` with control characters, overrides of the direction of writing and lone surrogates
    written out: ``\\x1b``.
    """
    return text.translate(_SHOWN)


def complain(text: str) -> None:
    """Prints ``text``, an error message, to standard error."""
    print(plain(text), file=sys.stderr, flush=True)


class LineFormatter(logging.Formatter):
    """For run.log, which people look at in a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return plain(super().format(record))


class _Plain(Console):
    """Shows every text through ``plain``; colours and cursor movements of rich's own are no text,
    so they stay.
    """

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(plain(segment.text), segment.style)


class _Terminal(_Plain):
    """Whoever stops reading (head, a closed pager) stops reading; the work goes on."""

    def print(self, *objects: Any, **options: Any) -> None:
        paper: Console | None = getattr(_thread, "paper", None)
        if paper is not None:
            paper.print(*objects, **options)
        else:
            super().print(*objects, **options)

    def on_broken_pipe(self) -> None:
        silence()


def silence() -> None:
    """Nobody reads what is printed from now on: a closed pipe, a closed terminal."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(nowhere, number)
    os.close(nowhere)


_SIZED = sys.stdout.isatty() or "COLUMNS" in os.environ  # a log file has no width of its own
console = _Terminal(highlight=False, width=None if _SIZED else 110)
_PLAIN_INTERVAL = 15.0  # seconds between two progress lines where there is no terminal


@dataclass(frozen=True)
class Stage:
    """How far a piece of work is."""

    title: str
    done: float = 0.0  # steps
    total: int = 0  # not positive: unknown
    speed: float = 0.0  # amount per second
    numbers: Mapping[str, float] = field(default_factory=dict)  # the latest of each: loss, val loss
    before: float = 0.0  # steps that were done before it began

    @property
    def share(self) -> float:
        return min(1.0, self.done / self.total) if self.total > 0 else 0.0

    def left(self, elapsed: float) -> float | None:
        """Seconds to its end, ``elapsed`` after it began; None as long as too little is done to
        tell.
        """
        here = self.done - self.before
        return (
            elapsed / here * max(0.0, self.total - self.done)
            if self.total > 0 and here > 0.02 * self.total
            else None
        )


Told = Callable[[Stage], None]


@contextmanager
def printing_to(stream: IO[str], told: Told) -> Iterator[None]:
    """What this thread prints goes to ``stream`` instead of the terminal, and the progress of its
    work to ``told``.
    """
    _thread.paper, _thread.told = _Plain(file=stream, highlight=False, width=110), told
    try:
        yield
    finally:
        _thread.paper = _thread.told = None


class _Speed(ProgressColumn):
    """Tokens per second, or MB/s for a download."""

    def render(self, task: Task) -> Text:
        unit, count = task.fields["unit"], task.fields["amount"]
        elapsed = task.elapsed or 0.0
        return Text(
            f"{count / elapsed:,.0f} {unit}/s" if elapsed > 0 and count else "", style="cyan"
        )


class Ticker:
    """Progress of one piece of work:

    ``advance`` by steps done and by an amount (tokens, MB) for the speed.
    """

    def __init__(self, title: str, total: int, unit: str, progress: Progress | None) -> None:
        self.title, self.total, self.unit = title, total, unit
        self._progress = progress
        self._task = (
            progress.add_task(title, total=total, unit=unit, amount=0, note="")
            if progress
            else None
        )
        self._done, self._amount, self._start, self._lock = (
            0.0,
            0.0,
            time.monotonic(),
            threading.Lock(),
        )
        self._before, self._numbers = 0.0, dict[str, float]()
        self._last = self._start
        self._told: Told | None = getattr(_thread, "told", None)
        if self._told is not None:
            self._told(Stage(title, 0.0, total))

    def advance(self, steps: float, amount: float = 0, **numbers: float) -> None:
        """Steps may be parts of one; ``numbers`` are shown by their names until they change.

        Several threads may call this.
        """
        with self._lock:
            self._numbers.update({name.replace("_", " "): value for name, value in numbers.items()})
            self._advance(steps, amount)

    def go_on(self, steps: float) -> None:
        """So many were done when this began."""
        with self._lock:
            self._before = steps
            self._advance(steps, 0)

    def _advance(self, steps: float, amount: float) -> None:
        self._done, self._amount = self._done + steps, self._amount + amount
        note = ", ".join(f"{name} {value:.4f}" for name, value in self._numbers.items())
        if abs(self._done - self.total) < 1e-6:  # parts do not add up to the last digit
            self._done = self.total
        if self._told is not None:
            elapsed = time.monotonic() - self._start
            per_second = self._amount / elapsed if elapsed > 0 else 0.0
            self._told(
                Stage(
                    self.title,
                    self._done,
                    self.total,
                    per_second,
                    dict(self._numbers),
                    self._before,
                )
            )
        elif self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=self._done, amount=self._amount, note=note)
        elif time.monotonic() - self._last > _PLAIN_INTERVAL or (
            steps and self._done == self.total
        ):
            self._last = time.monotonic()
            elapsed = self._last - self._start
            here = self._done - self._before
            left = f", {elapsed / here * (self.total - self._done):.0f} s left" if here > 0 else ""
            speed = (
                f", {self._amount / elapsed:,.0f} {self.unit}/s"
                if elapsed > 0 and self._amount
                else ""
            )
            remaining = left if self._done < self.total else f", took {elapsed:.0f} s"
            console.print(
                f"{self.title}:"
                f" {int(self._done)}/{self.total}{speed}{remaining}{', ' + note if note else ''}"
            )


@contextmanager
def progress(
    title: str, total: int, unit: str = "tokens", *, quiet: bool = False
) -> Iterator[Ticker]:
    """A bar with speed and remaining time while the block runs; ``quiet`` shows nothing (other
    ranks, tests).
    """
    if quiet or not console.is_terminal or getattr(_thread, "told", None) is not None:
        ticker = Ticker(title, total, unit, None)
        if quiet:
            ticker._last = float("inf")
            ticker.total = -1
        yield ticker
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Speed(),
        TimeElapsedColumn(),
        TextColumn("left"),
    )
    with Progress(
        *columns,
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        speed_estimate_period=600,
    ) as bars:
        yield Ticker(title, total, unit, bars)


def section(title: str) -> None:
    console.rule(Text(title, style="bold"), align="left", style="dim")
