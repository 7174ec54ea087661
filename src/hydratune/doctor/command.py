"""The command ``hydratune doctor``: its options, its checks, and the report."""

import difflib
import json
import locale
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hydratune import __version__
from hydratune.doctor import accounts, hardware, packages, places, runs
from hydratune.doctor.finding import Check, Finding, Level, guarded

HELP = """\
usage: hydratune doctor [network=true] [json=true] [outputs=DIR]

check packages, hardware, disk and accounts; what is wrong, and its remedy

  network=true   also ask the hub and the W&B server whether they answer (5 s each at most)
  json=true      print everything as JSON (also: --json)
  outputs=DIR    the folder with the runs [outputs]

exit codes: 0 nothing stops training, 1 a problem stops training, 2 wrong input
"""
_COLOURS = {Level.ok: "32", Level.note: "36", Level.warning: "33", Level.problem: "31"}
_NARROW = 80  # columns


@dataclass(frozen=True)
class Options:
    """What was typed after ``hydratune doctor``."""

    network: bool = False
    json: bool = False
    outputs: Path = Path("outputs")


def parse_options(words: Sequence[str]) -> Options:
    """Return the options that were typed. Raises ``ValueError`` with what is wrong."""
    given: dict[str, object] = {}
    for word in words:
        name, separator, value = word.removeprefix("--").partition("=")
        if name == "outputs" and value:
            given[name] = Path(value).expanduser()
        elif name in ("network", "json") and value.lower() in ("true", "false", ""):
            if not separator and not word.startswith("--"):
                raise ValueError(f"{word}: give {name}=true")
            given[name] = value.lower() != "false"
        else:
            near = difflib.get_close_matches(name, ("network", "json", "outputs"), n=1)
            hint = f"did you mean {near[0]}?" if near else "hydratune doctor --help lists all"
            raise ValueError(f"{word}: there is no such option or value; {hint}")
    return Options(**given)  # type: ignore[arg-type]  # checked above


def main(words: Sequence[str]) -> int:
    """Run the checks and print what they found. Returns the exit code."""
    if {"-h", "--help"} & set(words):
        print(HELP, end="")
        return 0
    try:
        options = parse_options(words)
    except ValueError as error:
        print(f"hydratune doctor: {error}", file=sys.stderr)
        return 2
    sections = examine(options)
    every = [finding for found in sections.values() for finding in found]
    if options.json:
        print(json.dumps(_as_json(sections), indent=2, default=str))
    else:
        _print(sections)
    return int(any(finding.level is Level.problem for finding in every))


def examine(options: Options) -> dict[str, list[Finding]]:
    """Return what every check finds: title of a section -> findings."""
    probe = hardware.TorchProbe()  # the slowest one works beside the others
    try:
        found = {
            title: [finding for check in checks for finding in guarded(check)]
            for title, checks in _sections(options).items()
        }
        found["hardware"] += guarded(hardware.torch_of(probe))
    finally:
        probe.close()
    return found


def _sections(options: Options) -> dict[str, list[Check]]:
    own = packages
    asked: list[Check] = [accounts.network] if options.network else []
    return {
        "packages": [own.python, own.required_packages, own.missing_extras, hardware.kernels],
        "hardware": [hardware.processor, hardware.memory],
        "folders": [places.outputs_of(options.outputs), places.cache, places.temporary_folder],
        "accounts": [accounts.weights_and_biases, accounts.hub, *asked],
        "terminal": [terminal],
        "runs": [runs.runs_of(options.outputs)],
    }


def terminal() -> Iterator[Finding]:
    """Check the encoding and the width of the terminal."""
    encoding = (sys.stdout.encoding or "").lower()
    columns = shutil.get_terminal_size().columns
    facts = {"encoding": encoding, "columns": columns, "locale": locale.setlocale(locale.LC_CTYPE)}
    if encoding.replace("-", "") != "utf8":
        remedy = "export PYTHONUTF8=1"
        text = f"the encoding is {encoding or 'unknown'}: tables and texts may be shown wrongly"
        yield Finding("encoding", text, Level.warning, remedy, facts)
    else:
        kind = os.environ.get("TERM", "no terminal") if sys.stdout.isatty() else "no terminal"
        yield Finding("terminal", f"{encoding}, {columns} columns, {kind}", facts=facts)
    if sys.stdout.isatty() and columns < _NARROW:
        remedy = f"make it {_NARROW} columns wide"
        yield Finding("width", f"{columns} columns: tables are cut", Level.note, remedy)


def _as_json(sections: dict[str, list[Finding]]) -> dict[str, object]:
    rows = [{"section": title, **asdict(f)} for title, found in sections.items() for f in found]
    return {"hydratune": __version__, "counts": _counts(sections), "findings": rows}


def _counts(sections: dict[str, list[Finding]]) -> dict[str, int]:
    every = [finding.level for found in sections.values() for finding in found]
    return {level.value: every.count(level) for level in Level}


def _print(sections: dict[str, list[Finding]]) -> None:
    print(f"hydratune {__version__}")
    for title, found in sections.items():
        print(f"\n{title}")
        for finding in found:
            _print_finding(finding)
    counts = _counts(sections)
    levels = ("problem", "warning", "note")
    said = ", ".join(f"{counts[level]} {level}{'s' * (counts[level] != 1)}" for level in levels)
    end = "training cannot begin" if counts["problem"] else "nothing stops training"
    print(f"\n{end}: {said}")


def _print_finding(finding: Finding) -> None:
    level = finding.level.value
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        mark = f"\x1b[{_COLOURS[finding.level]}m{level:8}\x1b[0m"
    else:
        mark = f"{level:8}"
    encoding = sys.stdout.encoding or "ascii"
    text = _printable(f"{finding.name}: {finding.text}", encoding)
    width = max(60, min(110, shutil.get_terminal_size((110, 24)).columns))
    lines = textwrap.wrap(text, width - 10, break_long_words=False, break_on_hyphens=False)
    print(f"  {mark}{(chr(10) + ' ' * 12).join(lines)}")
    if finding.remedy:  # in one line, so that it can be copied
        print(f"          remedy: {_printable(finding.remedy, encoding)}")


def _printable(text: str, encoding: str) -> str:
    """Return a text without control characters, in an encoding."""
    shown = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    return shown.encode(encoding, "backslashreplace").decode(encoding)
