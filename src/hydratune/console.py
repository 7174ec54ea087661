"""Terminal output: one rich console, one kind of progress bar, plain lines without a terminal.

Row ids, file names and model output may contain control characters, which could move the cursor,
set the window title or reverse the direction of writing. Everything that is printed passes through
``escape_controls``, which shows such characters as text.
"""

import io
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
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

# What ``redirect_output`` sets for the thread of one job of a pack: .console is where its output
# goes, .listener receives the progress of its work. ``copied_output`` sets .copy there.
_thread = threading.local()

_TAB, _LINE_FEED = 9, 10
# C0 without tab and line feed, DEL and C1 (ECMA-48)
_CONTROLS = [n for n in range(160) if (n < 32 and n not in (_TAB, _LINE_FEED)) or n > 126]
# Unicode's line ends, and characters that override the direction of writing
_OVERRIDES = [0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_SURROGATES = range(0xD800, 0xE000)
_ESCAPES = {n: f"\\x{n:02x}" for n in _CONTROLS}
_ESCAPES |= {n: f"\\u{n:04x}" for n in (*_OVERRIDES, *_SURROGATES)}


def escape_controls(text: str) -> str:
    """Return ``text`` with control characters, direction overrides and lone surrogates escaped.

    An escape character, for example, becomes the four characters ``\\x1b``.
    """
    return text.translate(_ESCAPES)


def print_error(text: str) -> None:
    """Print an error message to standard error."""
    print(escape_controls(text), file=sys.stderr, flush=True)


def relative_path(path: Path) -> Path:
    """Return ``path`` relative to the current directory if it lies in it, otherwise as it is."""
    absolute, here = path.absolute(), Path.cwd()
    return absolute.relative_to(here) if absolute.is_relative_to(here) else path


class LineFormatter(logging.Formatter):
    """Formats records of run.log, which people read in a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return escape_controls(super().format(record))


class LogFile(logging.FileHandler):
    """The file run.log. A full disk costs lines of it, and neither the run nor the terminal."""

    has_ended = False

    def close(self) -> None:
        self.has_ended = True
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; after the end none: the class would open the file again."""
        if not self.has_ended:
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Drop a record that cannot be written."""


class _EscapingConsole(Console):
    """A console that escapes every text; the colours and cursor movements of rich itself stay."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            escaped = Segment(escape_controls(segment.text), segment.style)
            yield segment if segment.control else escaped


class _Terminal(_EscapingConsole):
    """The console of the process; a reader that stops reading (head, a pager) does not stop it."""

    copy: Console | None = None  # where what is printed goes as well, unless it is redirected

    def print(self, *objects: Any, **options: Any) -> None:
        redirected: Console | None = getattr(_thread, "console", None)
        if redirected is not None:
            redirected.print(*objects, **options)
            copy: Console | None = getattr(_thread, "copy", None)
        else:
            super().print(*objects, **options)
            copy = self.copy
        if copy is not None:
            copy.print(*objects, **options)

    def print_on_terminal(self, text: str) -> None:
        """Print a line on the terminal, even from the thread of a job of a pack."""
        super().print(text, soft_wrap=True)

    def on_broken_pipe(self) -> None:
        discard_output()


def discard_output() -> None:
    """Discard all further output, because the pipe or the terminal it goes to was closed."""
    null = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(null, descriptor)
    os.close(null)


_FILE_WIDTH = 110  # columns, where the output is a log file, which has no width of its own
_HAS_WIDTH = sys.stdout.isatty() or "COLUMNS" in os.environ
# In a notebook, plain text: one output of a cell instead of one for every line. Its kernel asks
# programs for colours (FORCE_COLOR), as if it was a terminal.
_IS_NOTEBOOK = "ipykernel" in sys.modules
console = _Terminal(
    highlight=False,
    width=None if _HAS_WIDTH else _FILE_WIDTH,
    force_jupyter=False,
    force_terminal=False if _IS_NOTEBOOK else None,
)
_PLAIN_INTERVAL = 15.0  # seconds between two progress lines where there is no terminal
_LEAST_FRACTION = 0.02  # of the work that must be done before the remaining time is estimated
_UNKNOWN_TOTAL = -1  # steps


@dataclass(frozen=True)
class Stage:
    """How far one piece of work has come."""

    title: str
    done: float = 0.0  # steps
    total: int = 0  # steps; unknown if it is not positive
    speed: float = 0.0  # amount per second
    # latest values: loss, validation loss
    numbers: Mapping[str, float] = field(default_factory=dict)
    resumed_at: float = 0.0  # steps that were done before this process began
    ended_early: str = ""  # why it ended before its last step

    @property
    def fraction(self) -> float:
        """The part of the work that is done, from 0 to 1; 0 if the total is unknown."""
        return min(1.0, self.done / self.total) if self.total > 0 else 0.0

    def seconds_left(self, elapsed: float) -> float | None:
        """Return the estimated remaining seconds, ``elapsed`` seconds after the work began.

        None if too little has been done for an estimate, or the total is unknown.
        """
        done_here = self.done - self.resumed_at
        if self.total <= 0 or done_here <= _LEAST_FRACTION * self.total:
            return None
        return elapsed / done_here * max(0.0, self.total - self.done)


StageListener = Callable[[Stage], None]


@contextmanager
def redirect_output(stream: IO[str], listener: StageListener) -> Iterator[None]:
    """Send what this thread prints to ``stream``, and the progress of its work to ``listener``."""
    _thread.console = _EscapingConsole(
        file=stream, highlight=False, width=_FILE_WIDTH, force_jupyter=False
    )
    _thread.listener = listener
    try:
        yield
    finally:
        _thread.console = _thread.listener = None


class _TextStream(io.TextIOBase):
    """A stream that hands every text to a function."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write

    def write(self, text: str) -> int:
        self._write(text)
        return len(text)


@contextmanager
def copied_output(write: Callable[[str], object]) -> Iterator[None]:
    """Also hand what is printed inside the block to ``write``, as plain text.

    In the thread of a job of a pack this is what the thread prints, otherwise what the process
    prints.
    """
    copy = _EscapingConsole(
        file=_TextStream(write),  # type: ignore[arg-type]  # a stream of text
        highlight=False,
        width=_FILE_WIDTH,
        force_terminal=False,
        force_jupyter=False,
        no_color=True,
    )
    if getattr(_thread, "console", None) is not None:
        _thread.copy = copy
    else:
        console.copy = copy
    try:
        yield
    finally:
        if getattr(_thread, "copy", None) is copy:
            _thread.copy = None
        if console.copy is copy:
            console.copy = None


def is_redirected() -> bool:
    """Return whether the output of this thread does not go to the terminal."""
    return getattr(_thread, "console", None) is not None


class _Speed(ProgressColumn):
    """Tokens per second, or MB/s for a download."""

    def render(self, task: Task) -> Text:
        unit, amount = task.fields["unit"], task.fields["amount"]
        elapsed = task.elapsed or 0.0
        if elapsed <= 0 or not amount:
            return Text("")
        return Text(f"{amount / elapsed:,.0f} {unit}/s", style="cyan")


class Ticker:
    """Reports the progress of one piece of work: to a listener, a progress bar, or in plain lines.

    ``unit`` is what the speed is counted in (tokens, MB). Several threads may call its methods.
    """

    def __init__(
        self, title: str, total: int, unit: str, bars: Progress | None, *, quiet: bool = False
    ) -> None:
        self.title, self.unit, self.quiet = title, unit, quiet
        self.total = _UNKNOWN_TOTAL if quiet else total
        self._bars = bars
        self._task = None
        if bars is not None:
            self._task = bars.add_task(title, total=total, unit=unit, amount=0, note="")
        self._lock = threading.Lock()
        self._ended_early = ""
        self._done = self._amount = self._resumed_at = 0.0
        self._numbers: dict[str, float] = {}
        self._texts: dict[str, str] = {}  # name of a number -> how it is written
        self._start = self._last_line = time.monotonic()
        self._last = (0.0, "")  # what the last line said
        self._listener: StageListener | None = getattr(_thread, "listener", None)
        if self._listener is not None:
            self._listener(Stage(title, 0.0, total))

    def advance(
        self,
        steps: float,
        amount: float = 0,
        written: Callable[[float], str] = "{:.4f}".format,
        **numbers: float,
    ) -> None:
        """Count ``steps`` (which may be fractions) and an ``amount`` for the speed.

        ``numbers`` are shown under their names until they are given again, as ``written`` returns
        them.
        """
        with self._lock:
            texts = {name.replace("_", " "): written(value) for name, value in numbers.items()}
            self._texts.update(texts)
            self._numbers.update({name.replace("_", " "): value for name, value in numbers.items()})
            self._advance(steps, amount)

    def end_early(self, why: str) -> None:
        """Tell the listener why the work ended before its last step."""
        with self._lock:
            self._ended_early = why
            if self._listener is not None:
                self._listener(self._stage())

    def resume_at(self, steps: float) -> None:
        """Count ``steps`` that were done before this process began, without effect on the speed."""
        with self._lock:
            self._resumed_at = steps
            self._advance(steps, 0)

    def _advance(self, steps: float, amount: float) -> None:
        self._done, self._amount = self._done + steps, self._amount + amount
        if abs(self._done - self.total) < 1e-6:  # fractions do not add up to the last digit
            self._done = self.total
        if self._listener is not None:
            self._listener(self._stage())
        elif self._bars is not None and self._task is not None:
            note = self._note()
            self._bars.update(self._task, completed=self._done, amount=self._amount, note=note)
        elif not self.quiet and time.monotonic() - self._last_line > _PLAIN_INTERVAL:
            self._print_line()

    def close(self) -> None:
        """Print the last line, with the numbers that came after the last step."""
        prints = self._listener is None and self._bars is None and not self.quiet
        if prints and self._done and self._done == self.total and self._last != self._state():
            self._print_line()

    def _state(self) -> tuple[float, str]:
        """Return what a line says, apart from times."""
        return self._done, self._note()

    def _stage(self) -> Stage:
        elapsed = time.monotonic() - self._start
        speed = self._amount / elapsed if elapsed > 0 else 0.0
        numbers = dict(self._numbers)
        done, early = self._resumed_at, self._ended_early
        return Stage(self.title, self._done, self.total, speed, numbers, done, early)

    def _note(self) -> str:
        return ", ".join(f"{name} {text}" for name, text in self._texts.items())

    def _print_line(self) -> None:
        self._last_line, self._last = time.monotonic(), self._state()
        elapsed, done_here = self._last_line - self._start, self._done - self._resumed_at
        parts = [f"{self.title}: {int(self._done)}/{self.total}"]
        if elapsed > 0 and self._amount:
            parts.append(f"{self._amount / elapsed:,.0f} {self.unit}/s")
        if self._done >= self.total:
            parts.append(f"took {elapsed:.0f} s")
        elif done_here > 0:
            parts.append(f"{elapsed / done_here * (self.total - self._done):.0f} s left")
        console.print(", ".join([*parts, *filter(None, [self._note()])]))


@contextmanager
def progress(
    title: str, total: int, unit: str = "tokens", *, quiet: bool = False
) -> Iterator[Ticker]:
    """Show a progress bar with speed and remaining time while the block runs.

    ``quiet`` shows nothing (other ranks of a distributed run, tests).
    """
    has_listener = getattr(_thread, "listener", None) is not None
    if quiet or not console.is_terminal or has_listener:
        ticker = Ticker(title, total, unit, None, quiet=quiet)
        yield ticker
        ticker.close()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Speed(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, speed_estimate_period=600) as bars:
        yield Ticker(title, total, unit, bars)


def section(title: str) -> None:
    """Print a heading across the terminal."""
    console.rule(Text(title, style="bold"), align="left", style="dim")
