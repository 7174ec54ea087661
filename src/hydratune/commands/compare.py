"""hydratune compare DIR...: rank runs, test which are tied, show what each setting did; or hold one
run against another.
"""

import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from hydratune.comparison import closing, gate
from hydratune.comparison.compared import compare, measured
from hydratune.comparison.entries import chance
from hydratune.comparison.exports import kinds_of
from hydratune.comparison.names import criterion
from hydratune.comparison.ranking import shown
from hydratune.comparison.runs import UNREADABLE, Run, collect, read
from hydratune.console import print_error, console
from hydratune.errors import HydratuneError, InputError
from hydratune.metric_table import title

_HELP = """\
usage: hydratune compare DIR [DIR ...] [option=value ...]
       hydratune compare baseline=DIR candidate=DIR [fail_if=...]

DIR is a sweep directory, a run directory, or a folder of run directories. Where those are not at hand, what W&B's client
wrote will do: a wandb directory, the folder of one run in it, or a .wandb file; these hold no answers, so nothing is paired.

options:
  metric=NAME          rank by this metric of metrics.json instead of the validation loss
  mode=min|max         whether less or more of it is better, where that is not known
  pareto=[X,Y]         weigh these two metrics against each other
  confidence=0.95      of intervals and tests
  output=DIR           where the page goes; else comparison/ in the sweep, or outputs/comparison for several directories
  html=false           no page
  to_wandb=true        also a report and a saved view on the W&B server, which has the runs (--to-wandb is the same)
  export=csv,latex     also csv, parquet, markdown, latex, png, svg, or all of them

a check for scripts, exit code 1 if the candidate is worse:
  fail_if='eval/field_f1<-0.02, val/loss>+1%'    candidate less baseline; without it: significantly worse on the same test rows
  certain=true         fail only if the whole interval of a difference is beyond the limit
"""  # noqa: E501
_OPTIONS = (
    "metric",
    "mode",
    "pareto",
    "confidence",
    "baseline",
    "candidate",
    "fail_if",
    "certain",
    "output",
    "html",
    "export",
    "to_wandb",
)
_CHECKS = ("baseline", "candidate", "fail_if", "certain", "confidence")


def main(args: Sequence[str]) -> int:
    """Returns the exit code."""
    if not args or {"-h", "--help"} & set(args):
        print(_HELP, end="")
        return 0 if args else 2
    try:
        folders, options = _read(args)
        if "baseline" in options or "candidate" in options:
            return _gate(folders, options)
        return _compare(folders, options)
    except HydratuneError as error:
        print_error(f"hydratune compare: {error}")
        return error.exit_code


def _read(args: Sequence[str]) -> tuple[list[Path], dict[str, str]]:
    """(directories, options). A directory's own name may hold "="."""
    folders: list[Path] = []
    options: dict[str, str] = {}
    for arg in ("to_wandb=true" if arg == "--to-wandb" else arg for arg in args):
        key, sign, value = arg.partition("=")
        if key in _OPTIONS and sign and not Path(arg).exists():
            options[key] = value
        elif sign and not Path(arg).exists():
            near = difflib.get_close_matches(key, _OPTIONS, n=1)
            hint = f"did you mean {near[0]}=?" if near else f"options: {', '.join(_OPTIONS)}"
            raise InputError(f"{arg}: no such option or directory; {hint}")
        elif arg.startswith("-"):
            raise InputError(f"{arg}: no such option; hydratune compare --help lists them")
        else:
            folders.append(Path(arg))
    return folders, options


def _compare(folders: Sequence[Path], options: Mapping[str, str]) -> int:
    if not folders:
        raise InputError("nothing to compare: give a sweep or run directory from outputs/")
    for name in ("fail_if", "certain"):
        if name in options:
            raise InputError(f"{name}: belongs to baseline=DIR candidate=DIR")
    html = _truth("html", options.get("html", "true"))
    to_wandb = _truth("to_wandb", options.get("to_wandb", "false"))
    kinds = kinds_of(options["export"]) if "export" in options else []
    runs = collect(folders)
    if all(run.state == UNREADABLE for run in runs):
        raise InputError(
            "nothing here can be read:"
            f" {runs[0].error}{f' (and {len(runs) - 1} more)' if len(runs) > 1 else ''}"
        )
    finished = any(run.objective is not None for run in runs)
    by = criterion(options.get("metric"), options.get("mode"), measured(runs) if finished else None)
    compared = compare(
        runs, by, pareto=_pair(options.get("pareto")), confidence=_confidence(options)
    )
    for part in shown(compared):
        console.print(part, soft_wrap=isinstance(part, str))
    if html:
        closing.page(
            compared,
            place(folders, options.get("output")),
            ", ".join(folder.absolute().name for folder in folders),
        )
    if kinds:
        closing.exports(compared, place(folders, options.get("output")), kinds)
    if to_wandb:
        closing.to_wandb(
            compared,
            place(folders, options.get("output")),
            ", ".join(folder.absolute().name for folder in folders),
        )
    return 0


def place(folders: Sequence[Path], output: str | None) -> Path:
    """Where pages and tables go."""
    if output is not None:
        return Path(output).expanduser()
    if len(folders) > 1:
        return Path("outputs/comparison")
    return (folders[0] if folders[0].is_dir() else folders[0].parent) / "comparison"


def _gate(folders: Sequence[Path], options: Mapping[str, str]) -> int:
    missing = [name for name in ("baseline", "candidate") if name not in options]
    if missing or folders:
        raise InputError(
            "a check needs baseline=DIR and candidate=DIR, and nothing else to compare"
        )
    if strange := [name for name in options if name not in _CHECKS]:
        raise InputError(
            f"{strange[0]}: a check of two runs has no such option; it takes {', '.join(_CHECKS)}"
        )
    baseline, candidate = (_run(name, options[name]) for name in ("baseline", "candidate"))
    certain = _truth("certain", options.get("certain", "false"))
    confidence = _confidence(options)
    checked = gate.check(
        baseline, candidate, options.get("fail_if"), certain=certain, confidence=confidence
    )
    table = Table(title_justify="left", header_style="bold")
    for column in (
        "metric",
        "baseline",
        "candidate",
        f"difference, {100 * confidence:.4g} %",
        "p",
        "fails if",
        "",
    ):
        table.add_column(
            column, justify="right" if column in ("baseline", "candidate", "p") else "left"
        )
    for one in checked:
        found = one.difference
        interval = f" {escape(found.interval_text('+.4f'))}" if found else ""
        change = one.candidate - one.baseline
        values = (
            f"{one.baseline:.4f}",
            f"{one.candidate:.4f}",
            f"{change:+.4f}{interval}" if math.isfinite(change) else "-",
        )
        mark = "[bold red]FAIL" if one.failed else "[green]ok"
        table.add_row(
            escape(title(one.metric)),
            *values,
            chance(found.p).removeprefix("= ") if found else "-",
            escape(one.limit),
            mark,
        )
    console.print(table)
    failed = any(one.failed for one in checked)
    console.print(f"[{'red' if failed else 'green'}]{escape(gate.sentence(checked))}")
    return 1 if failed else 0


def _run(name: str, folder: str) -> Run:
    path = Path(folder)
    if not (path / "status.json").is_file():
        raise InputError(f"{name}: {folder} is no run directory (no status.json)")
    run = read(path)
    if run.damaged:
        raise InputError(f"{name}: {run.damaged[0]}")
    return run


def _pair(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    names = [name.strip() for name in text.strip("[]").split(",") if name.strip()]
    if len(names) != 2:
        raise InputError(
            f"pareto = {text}: give two metrics of metrics.json, pareto=[val/loss,cost/cpu_seconds]"
        )
    return names[0], names[1]


def _confidence(options: Mapping[str, str]) -> float:
    text = options.get("confidence", "0.95")
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.5 <= value < 1:
        raise InputError(f"confidence = {text}: give a number from 0.5 to below 1, usual 0.95")
    return value


def _truth(name: str, text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise InputError(f"{name} = {text}: give true or false")
    return text.lower() == "true"
