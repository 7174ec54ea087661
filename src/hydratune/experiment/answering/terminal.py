"""Where a chat is typed and shown: a terminal, or lines that come from a pipe.

Without a terminal, every line is a message, every answer is one line of standard output (its line
ends and tabs written as ``\\n`` and ``\\t``), and everything else goes to standard error.
"""

import io
import sys
import termios
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from hydratune import extras
from hydratune.console import console, discard_output, escape_controls, print_error

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession

Show = Callable[[str, str], None]  # (which model, further text of its answer)
_QUOTES = '"""'
_LEFT_FREE = 6  # lines of the terminal below the answers that are being written


class Screen(Protocol):
    """Where a chat is typed and shown."""

    @property
    def is_interactive(self) -> bool:
        """Whether a person types, so that Ctrl-C stops an answer and not the program."""

    @property
    def how_to_write_lines(self) -> str:
        """How a message of several lines is typed."""

    def read(self) -> str | None:
        """Return what was typed; None at the end. Raises ``KeyboardInterrupt``."""

    def say(self, text: str) -> None:
        """Show something that is no answer."""

    def say_after(self, text: str) -> None:
        """Show something about the answer that was just shown."""

    def answering(self, systems: Sequence[str]) -> AbstractContextManager[Show]:
        """Return a context in which the answers of ``systems`` are shown as they are written."""


def open_screen(commands: Sequence[str]) -> Screen:
    """Return the terminal, or the pipe if standard input is no terminal."""
    return Terminal(commands) if sys.stdin is not None and sys.stdin.isatty() else Pipe()


class Pipe:
    """Lines from standard input."""

    is_interactive = False
    how_to_write_lines = "every line of the input is a message"

    def __init__(self) -> None:
        self._is_read = True  # by the program after the pipe of the answers
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="replace")

    def read(self) -> str | None:
        line = sys.stdin.readline() if sys.stdin is not None and self._is_read else ""
        return line.removesuffix("\n") if line else None

    def say(self, text: str) -> None:
        print_error(text)

    def say_after(self, text: str) -> None:
        pass

    @contextmanager
    def answering(self, systems: Sequence[str]) -> Iterator[Show]:
        texts = dict.fromkeys(systems, "")

        def show(system: str, text: str) -> None:
            texts[system] += text

        yield show
        line = "\t".join(text.replace("\n", "\\n").replace("\t", "\\t") for text in texts.values())
        try:
            print(escape_controls(line), flush=True)
        except BrokenPipeError:
            discard_output()
            self._is_read = False


class Terminal:
    """A terminal: with prompt_toolkit where it is installed, else with plain ``input``."""

    is_interactive = True

    def __init__(self, commands: Sequence[str]) -> None:
        self._session = _session(commands) if extras.is_installed("prompt_toolkit") else None
        several = (
            "Alt-Enter begins a new line" if self._session else "a line that ends with \\ goes on"
        )
        self.how_to_write_lines = f"{several}; {_QUOTES} begins and ends a text of several lines"

    def read(self) -> str | None:
        try:
            text = self._line("you> ")
            while self._session is None and text.endswith("\\"):
                text = f"{text[:-1]}\n{self._line('...> ')}"
            if text.lstrip().startswith(_QUOTES):
                return self._quoted(text.lstrip()[len(_QUOTES) :])
        except EOFError:
            return None
        return text

    def _quoted(self, text: str) -> str:
        """Return a text that ends with quotes, or with the end of input."""
        while not text.rstrip().endswith(_QUOTES):
            text = f"{text}\n{self._line('...> ')}"
        return text.rstrip()[: -len(_QUOTES)].strip("\n")

    def _line(self, prompt: str) -> str:
        return str(self._session.prompt(prompt)) if self._session is not None else input(prompt)

    def say(self, text: str) -> None:
        console.print(Text(text), style="dim", soft_wrap=True)

    def say_after(self, text: str) -> None:
        self.say(f"({text})\n")

    @contextmanager
    def answering(self, systems: Sequence[str]) -> Iterator[Show]:
        shown = _side_by_side(systems) if len(systems) > 1 else _as_written(systems[0])
        with _keys_not_shown(), shown as show:
            yield show


@contextmanager
def _keys_not_shown() -> Iterator[None]:
    """Keep what is typed meanwhile off the screen; it is read by the next line of input."""
    try:
        keyboard = sys.stdin.fileno()
        before = termios.tcgetattr(keyboard)
    except (OSError, ValueError, termios.error):  # no terminal
        yield
        return
    silent = [*before]
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(keyboard, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


@contextmanager
def _as_written(system: str) -> Iterator[Show]:
    """Show an answer as it is written."""
    console.print(Text(f"{system}> ", style="bold green"), end="")

    def write(_: str, text: str) -> None:
        console.out(text, end="", highlight=False)

    try:
        yield write
    finally:
        console.out("")


@contextmanager
def _side_by_side(systems: Sequence[str]) -> Iterator[Show]:
    """Show the answers of several models in columns; the end of a long one while it is written."""
    texts = {system: Text() for system in systems}

    def table(lines: int | None) -> Table:
        grid = Table.grid(expand=True, padding=0)
        for _ in systems:
            grid.add_column(ratio=1)
        width = max(10, console.width // len(systems) - 4)
        cells = []
        for system, text in texts.items():
            wrapped = text.wrap(console, width) if lines else [text]
            shown = Text("\n").join(wrapped[-lines:] if lines else wrapped)
            cells.append(Panel(shown, title=system, title_align="left"))
        grid.add_row(*cells)
        return grid

    height = max(3, console.height - _LEFT_FREE)
    with Live(console=console, refresh_per_second=8, transient=True) as live:

        def show(system: str, text: str) -> None:
            texts[system].append(text)
            live.update(table(height))

        live.update(table(height))
        yield show
    console.print(table(None))


def _session(commands: Sequence[str]) -> "PromptSession[str]":
    """Return an input line with a history, completion of commands, and Alt-Enter for a new line."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    completer = WordCompleter([name.partition(" ")[0] for name in commands], sentence=True)
    return PromptSession(completer=completer, key_bindings=keys, complete_while_typing=False)
