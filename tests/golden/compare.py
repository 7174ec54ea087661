"""Compare what hydratune computes on a commit and in the working tree, to the last bit.

    python tests/golden/compare.py --base COMMIT [--only NAME ...] [--real] [--list]

Runs the same commands with the source of COMMIT (in a temporary git worktree) and with that of the
working tree, with the same Python and an equal environment, and prints one line for each value
that differs. The results of the base are kept in outputs/golden/, so that a second comparison with
the same commit runs the working tree alone. Exit code: 0 equal, 1 different, 2 wrong use.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from golden.commands import COMMANDS, REAL, Command, Step
from golden.execution import (
    LOG,
    GoldenError,
    Result,
    Runner,
    environment_key,
    git,
    key_of,
    run_all,
    stored,
    worktree,
)
from golden.outcome import Difference, Place, compare_folders, most_per_file

ROOT = Path(__file__).resolve().parents[2]
STORE = ROOT / "outputs" / "golden"
_MODELS = Path.home() / ".cache" / "hydratune" / "models"  # where --real takes its model from
console = Console(highlight=False)


@dataclass(frozen=True)
class Compared:
    """A command, its two results and what differs between them."""

    command: Command
    base: Result
    new: Result
    differences: tuple[Difference, ...]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options. Exits with code 2 if they are wrong."""
    parser = argparse.ArgumentParser(
        description="Compare what hydratune computes on a commit and in the working tree."
    )
    parser.add_argument("--base", metavar="COMMIT", help="the commit to compare with")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these commands alone")
    parser.add_argument("--real", action="store_true", help="on SmolLM2-135M instead of the toy")
    parser.add_argument("--list", action="store_true", help="list the commands and end")
    parser.add_argument("--keep", metavar="DIR", help="keep the working tree's results there")
    parser.add_argument("--fresh", action="store_true", help="run the base again")
    parser.add_argument("--jobs", type=int, default=2, help="commands at a time (default: 2)")
    return parser.parse_args(arguments)


def chosen(only: Sequence[str] | None, real: bool) -> list[Command]:
    """Return the commands to run, with those that they use. Raises ``GoldenError``."""
    commands = {command.name: command for command in COMMANDS}
    if real:
        commands = {c.name: on_real_model(c) for c in COMMANDS if not c.toy_only}
    unknown = [name for name in only or () if name not in commands]
    if unknown:
        raise GoldenError(f"--only {unknown[0]}: no such command; one of {', '.join(commands)}")
    some = [commands[name] for name in only or commands]
    return with_used(some, list(commands.values()))


def on_real_model(command: Command) -> Command:
    """Return ``command`` with its training steps on the default model."""

    def changed(step: Step) -> Step:
        if step.arguments[0] != "train":
            return step
        return replace(step, arguments=(*step.arguments, *REAL))

    return replace(command, steps=tuple(map(changed, command.steps)))


def resolve(commit: str) -> str:
    """Return the full hash of a commit. Raises ``GoldenError`` if there is no such commit."""
    try:
        return git(
            ROOT, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}"
        )
    except GoldenError:
        raise GoldenError(f"--base {commit}: no such commit in {ROOT}") from None


def run_with_progress(
    runner: Runner, commands: Sequence[Command], jobs: int, side: str
) -> dict[str, Result]:
    """Run ``commands``, store their results, print a line with the seconds of each as it ends."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(commands))
        ended: list[Command] = []

        def show() -> None:
            waiting = [command.name for command in commands if command not in ended]
            text = f"{side}: {len(ended)} of {len(commands)}, now {', '.join(waiting[:jobs])}"
            progress.update(task, completed=len(ended), description=text)

        def done(command: Command, result: Result) -> None:
            if result.is_complete(command):
                result.store()
            ended.append(command)
            progress.console.print(f"{side:<12} {command.name:<14} {result.seconds:>6.1f} s")
            show()

        show()
        return run_all(runner, commands, jobs, done)


def base_results(
    commands: Sequence[Command], commit: str, options: argparse.Namespace
) -> dict[str, Result]:
    """Return the base's results: stored ones, and those that are missing run now."""
    root = STORE / commit[:12] / environment_key()
    root.mkdir(parents=True, exist_ok=True)
    names = folder_names(commands)
    with FileLock(root / ".lock"):
        results: dict[str, Result] = {}
        for name, folder in names.items():
            result = None if options.fresh else stored(root / folder)
            if result is not None:
                results[name] = result
        if results:
            console.print(f"base         {len(results)} results of an earlier run are used")
        missing = [command for command in commands if command.name not in results]
        if missing:
            results |= run_base(with_used(missing, commands), commit, root, options)
        return results


def run_base(
    commands: Sequence[Command], commit: str, root: Path, options: argparse.Namespace
) -> dict[str, Result]:
    """Run ``commands`` with the source of ``commit``. Raises ``GoldenError`` if one fails."""
    with worktree(ROOT, commit) as tree:
        runner = Runner(tree, root, folder_names(commands), models(options.real))
        runner.check_tree()
        results = run_with_progress(runner, commands, options.jobs, "base")
    for command in commands:
        refuse_failure(command, results[command.name])
    return results


def with_used(some: Sequence[Command], commands: Sequence[Command]) -> list[Command]:
    """Return ``some`` and the commands that they use, in the order of ``commands``."""
    names = {command.name for command in some}
    for command in reversed(commands):  # a used command stands before its user
        if command.name in names:
            names |= set(command.uses)
    return [command for command in commands if command.name in names]


def refuse_failure(command: Command, result: Result) -> None:
    """Raise ``GoldenError`` if the base did not end as its steps should."""
    if result.is_complete(command):
        return
    log = result.folder / LOG
    last = "\n".join(log.read_text(errors="replace").splitlines()[-15:]) if log.is_file() else ""
    expected = [step.exit_code for step in command.steps]
    why = result.problem or f"exit codes {list(result.exit_codes)} instead of {expected}"
    raise GoldenError(f"the base itself fails at {command.name}: {why} ({log})\n{last}")


def folder_names(commands: Sequence[Command]) -> dict[str, str]:
    """Return command -> name of the folder of its results."""
    by_name = {command.name: command for command in commands}
    return {name: f"{name}-{key_of(command, by_name)}" for name, command in by_name.items()}


def sources(tree: Path) -> list[tuple[str, int, int]]:
    """Return (path, time of change, bytes) of every file that decides what is computed."""
    files = [path for name in ("src", "conf", "sweeps") for path in (tree / name).rglob("*")]
    return sorted(
        (str(path), path.stat().st_mtime_ns, path.stat().st_size)
        for path in files
        if path.is_file() and path.suffix != ".pyc"
    )


def models(real: bool) -> Path | None:
    """Return the folder of downloaded models, which both trees use with --real."""
    if not real:
        return None
    own = os.environ.get("HYDRATUNE_CACHE")
    folder = Path(own) / "models" if own else _MODELS
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def compared(command: Command, base: Result, new: Result) -> Compared:
    """Compare the two results of one command."""
    if base.exit_codes != new.exit_codes:
        shown = [str(list(result.exit_codes)) for result in (base, new)]
        codes = Difference(new.problem or f"exit codes ({new.folder / LOG})", "", *shown)
        return Compared(command, base, new, (codes,))
    base_place, new_place = (Place(r.folder, [(r.root, "<results>")]) for r in (base, new))
    folders = (*command.folders, "cache")
    found = compare_folders(base_place, new_place, folders, command.ignored)
    return Compared(command, base, new, tuple(found))


def report(all_compared: Sequence[Compared]) -> int:
    """Print every difference and the closing table; return the exit code."""
    for one in all_compared:
        for line in most_per_file(one.differences, one.command.name):
            console.print(line, style="red", markup=False, soft_wrap=True)
    table = Table("command", "what", header_style="bold")
    for heading in ("base, s", "new, s", "equal?"):
        table.add_column(heading, justify="right")
    for one in all_compared:
        count = len(one.differences)
        mark = "[green]equal" if not count else f"[bold red]{count} difference{'s' * (count > 1)}"
        seconds = [f"{result.seconds:.1f}" for result in (one.base, one.new)]
        table.add_row(one.command.name, one.command.title, *seconds, mark)
    console.print(table)
    different = [one.command.name for one in all_compared if one.differences]
    if different:
        console.print(f"[bold red]different: {', '.join(different)}", soft_wrap=True)
        return 1
    console.print(f"[green]all {len(all_compared)} commands are equal to the last bit")
    return 0


def list_commands() -> None:
    """Print the names of all commands and what each is for."""
    table = Table("name", "what", "steps", "--real", header_style="bold")
    for command in COMMANDS:
        real = "no" if command.toy_only else "yes"
        table.add_row(command.name, command.title, str(len(command.steps)), real)
    console.print(table)


def run(options: argparse.Namespace) -> int:
    """Run both sides and compare them; return the exit code. Raises ``GoldenError``."""
    if options.base is None:
        raise GoldenError("--base COMMIT is missing: the commit to compare with, for example HEAD")
    if options.jobs < 1:
        raise GoldenError(f"--jobs {options.jobs}: give 1 or more")
    commands, commit = chosen(options.only, options.real), resolve(options.base)
    with ExitStack() as stack:
        base = base_results(commands, commit, options)
        if options.keep:
            root = Path(options.keep).resolve()
            root.mkdir(parents=True, exist_ok=True)
        else:
            root = Path(tempfile.mkdtemp(prefix="golden-new-"))
            stack.callback(shutil.rmtree, root, ignore_errors=True)
        runner = Runner(ROOT, root, folder_names(commands), models(options.real))
        runner.check_tree()
        before = sources(ROOT)
        new = run_with_progress(runner, commands, options.jobs, "working tree")
        if sources(ROOT) != before:
            raise GoldenError("src or conf changed while the commands ran; start again")
        return report([compared(c, base[c.name], new[c.name]) for c in commands])


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 0 equal, 1 different, 2 wrong use, 130 interrupted."""
    options = parse(arguments)
    if options.list:
        list_commands()
        return 0
    signal.signal(signal.SIGTERM, _interrupt)  # the worktree is removed then, too
    try:
        return run(options)
    except GoldenError as error:
        Console(stderr=True, highlight=False).print(
            str(error), style="red", markup=False, soft_wrap=True
        )
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
