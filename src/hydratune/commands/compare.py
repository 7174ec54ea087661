"""hydratune compare DIR...: rank the runs of sweep or run directories."""

import sys
from collections.abc import Sequence
from pathlib import Path

from hydratune.console import console
from hydratune.errors import HydratuneError
from hydratune.tracking.ranking import collect, ranking_table


def main(args: Sequence[str]) -> int:
    """Returns the exit code."""
    if not args or args[0] in ("-h", "--help"):
        print("usage: hydratune compare DIR [DIR ...]\n\nDIR is a sweep directory, a run directory, or a folder of run directories.")
        return 0 if args else 2
    try:
        runs = collect([Path(arg) for arg in args])
        table, best = ranking_table(runs)
    except HydratuneError as error:
        print(f"hydratune compare: {error}", file=sys.stderr)
        return error.exit_code
    console.print(table)
    if best:
        console.print(best, soft_wrap=True)
    return 0
