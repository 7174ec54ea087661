"""hydratune compare DIR...: rank runs, or check a candidate against a baseline.

A comparison tests which runs are tied with the best and shows what each setting did. A check ends
with exit code 1 if the candidate is worse.
"""

from collections.abc import Sequence

from rich.markup import escape

from hydratune.comparison import gate, outputs
from hydratune.comparison.collect import collect_runs
from hydratune.comparison.comparison import compare
from hydratune.comparison.criterion import parse_criterion
from hydratune.comparison.exports import parse_kinds
from hydratune.comparison.fronts import measured_metrics
from hydratune.comparison.options import Options, parse_options
from hydratune.comparison.runs import UNREADABLE
from hydratune.comparison.terminal import render
from hydratune.console import console, print_error
from hydratune.errors import HydratuneError, InputError

_HELP = """\
usage: hydratune compare DIR [DIR ...] [option=value ...]
       hydratune compare baseline=DIR candidate=DIR [fail_if=...]

DIR is a sweep directory, a run directory, or a folder of run directories. If these are not at
hand, files of W&B's client can be given: a wandb directory, the folder of one run in it, or a
.wandb file. They hold no answers, so no test rows are paired.

options:
  metric=NAME          rank by this metric of metrics.json instead of the validation loss
  mode=min|max         whether lower or higher values are better, if that is not known
  pareto=[X,Y]         weigh these two metrics against each other
  confidence=0.95      of intervals and tests
  output=DIR           where the page is written; the default is comparison/ in the sweep, or
                       outputs/comparison for several directories
  html=false           write no page
  to_wandb=true        also write a report and a saved view on the W&B server, which has the runs
                       (--to-wandb is the same)
  export=csv,latex     also write csv, parquet, markdown, latex, png, svg, or all of them

a check for scripts, with exit code 1 if the candidate is worse:
  fail_if='eval/field_f1<-0.02, val/loss>+1%'
                       limits of candidate less baseline; without them, a candidate fails that is
                       significantly worse on the same test rows
  certain=true         fail only if the whole interval of a difference is beyond the limit
"""


def main(args: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    if not args or {"-h", "--help"} & set(args):
        print(_HELP, end="")
        return 0 if args else 2
    try:
        options = parse_options(args)
        if options.is_check:
            return _check(options)
        _compare(options)
        return 0
    except HydratuneError as error:
        print_error(f"hydratune compare: {error}")
        return error.exit_code


def _compare(options: Options) -> None:
    """Compare runs, print the result and write the page and what else was asked for."""
    options.require_comparison()
    html, to_wandb = options.flag("html", default=True), options.flag("to_wandb", default=False)
    kinds = parse_kinds(options.texts["export"]) if "export" in options.texts else []
    outputs.require_packages(kinds, html=html and "html" in options.texts, to_wandb=to_wandb)
    runs = collect_runs(options.folders)
    if all(run.state == UNREADABLE for run in runs):
        more = f" (and {len(runs) - 1} more)" if len(runs) > 1 else ""
        raise InputError(f"nothing here can be read: {runs[0].error}{more}")
    has_finished = any(run.objective is not None for run in runs)
    measured = measured_metrics(runs) if has_finished else None
    by = parse_criterion(options.texts.get("metric"), options.texts.get("mode"), measured)
    compared = compare(runs, by, pareto=options.pareto, confidence=options.confidence)
    for part in render(compared):
        console.print(part, soft_wrap=isinstance(part, str))
    if html:
        outputs.write_page(compared, options.output, options.name)
    if kinds:
        outputs.write_exports(compared, options.output, kinds)
    if to_wandb:
        outputs.publish_to_wandb(compared, options.output, options.name)


def _check(options: Options) -> int:
    """Check a candidate against a baseline; return 1 if it fails."""
    options.require_check()
    baseline, candidate = (
        gate.read_checked_run(name, options.texts[name]) for name in ("baseline", "candidate")
    )
    fail_if, confidence = options.texts.get("fail_if"), options.confidence
    certain = options.flag("certain", default=False)
    checked = gate.check_candidate(
        baseline, candidate, fail_if, certain=certain, confidence=confidence
    )
    console.print(gate.results_table(checked, confidence))
    failed = any(metric.failed for metric in checked)
    console.print(f"[{'red' if failed else 'green'}]{escape(gate.summarise(checked))}")
    return 1 if failed else 0
