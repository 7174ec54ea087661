"""``hydratune.sweep``: several runs, as ``hydratune train -m`` makes them."""

import os
import signal
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from hydratune.api.comparing import Comparison, compare
from hydratune.api.composing import Settings, words_of
from hydratune.api.rows import named_as_given
from hydratune.api.run import Run, load_runs
from hydratune.composition.resolvers import sweep_name
from hydratune.console import relative_path
from hydratune.errors import InputError, RunError, SweepError
from hydratune.records.sweep import read_sweep
from hydratune.settings.overrides import value_text
from hydratune.wording import counted

if TYPE_CHECKING:
    from hydratune.api.rows import Rows

# by which a notebook asks programs for colours and live tables, as if it was a terminal
_TERMINAL_VARIABLES = ("FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
_KEPT = 40  # last lines of the output, in which an error is found


class Sweep:
    """The directory of a sweep, read."""

    def __init__(self, path: str | Path) -> None:
        """Open the sweep directory ``path``. Raises ``RunError`` if it holds no sweep."""
        self.path = Path(path).expanduser().absolute()
        if not read_sweep(self.path):
            raise RunError(f"{path}: no sweep in it (no sweep.json); give its directory")

    @property
    def runs(self) -> list[Run]:
        """The runs of the jobs that have started."""
        return load_runs(self.path)

    @property
    def best(self) -> Run | None:
        """The best run; None if the runs cannot be ranked."""
        return self.compare().best

    def compare(self, metric: str | None = None, mode: str | None = None) -> Comparison:
        """Return the comparison of its runs, see ``hydratune.compare``."""
        return compare(self.path, metric=metric, mode=mode)

    def __repr__(self) -> str:
        jobs = counted(len(read_sweep(self.path)), "job")
        return f"Sweep({str(relative_path(self.path))!r}, {jobs})"


def sweep(
    settings: Settings, *, data: "Rows | None" = None, directory: str | Path | None = None
) -> Sweep:
    """Train several runs that share the base model, and return the sweep.

    It is ``hydratune train -m`` in a process of its own, whose output is printed here. The same
    sweep, started again, runs only what is missing.

    Args:
        settings: as on the command line: ``"optimizer.lr=1e-4,1e-3 adapter.r=4,16"``, or a mapping
            ``{"optimizer.lr": [1e-4, 1e-3], "adapter.r": [4, 16]}``.
        data: rows in memory, see ``train``.
        directory: of the sweep; by default one below ``outputs`` that is the same for the same
            settings.

    Raises ``InputError`` if settings are wrong (nothing was run), ``SweepError`` if runs failed,
    ``KeyboardInterrupt`` if the sweep is interrupted; what was trained is saved.
    """
    words = words_of(settings, data, is_sweep=True)
    own = next((word for word in words if word.startswith("hydra.sweep.dir=")), None)
    if own is not None and directory is not None:
        raise InputError(f"directory: {own} names another; leave one of them out")
    if directory is None and own is not None:
        directory = own.partition("=")[2]
    words = [word for word in words if word != own]
    place = Path(directory if directory is not None else Path("outputs") / _name(words))
    words.append(f"hydra.sweep.dir={value_text('hydra.sweep.dir', str(place))}")
    with named_as_given():
        _run_command(["train", "-m", *words])
    return Sweep(place)


def _name(words: list[str]) -> str:
    """Return the name of the folder of a sweep: equal for equal settings, in any project folder."""
    words = [word.replace(f"{Path.cwd()}/", "") for word in words]
    typed = dict(word.partition("=")[::2] for word in words)
    return sweep_name(typed.get("name") or typed.get("data") or "sweep", words, None)


def _run_command(words: list[str]) -> None:
    """Run a command in a process of its own, and print its output as it comes."""
    command = [sys.executable, "-m", "hydratune", *words]
    environment = {k: v for k, v in os.environ.items() if k not in _TERMINAL_VARIABLES}
    last: deque[str] = deque(maxlen=_KEPT)
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        env=environment,
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                last.append(line)
                print(line, end="", flush=True)
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            for line in process.stdout:
                print(line, end="", flush=True)
            raise
    if process.returncode == 0:
        return
    text = "".join(last).rpartition("\nhydratune train: ")[2].strip()
    if process.returncode == 130:
        raise KeyboardInterrupt
    raise InputError(text) if process.returncode == InputError.exit_code else SweepError(text)
