"""The Python API: what the commands do, from a script or a notebook.

Its names are those of the package itself: ``hydratune.train``, ``hydratune.Run`` and so on, which
import this package when they are first used.

``hydratune.lean_imports``, with which commands start faster, is not installed here: the process is
the user's, and what PEFT, torchmetrics and transformers import in it, and what a notebook that
imports them itself finds in them, must not depend on whether hydratune was used first.
"""

from hydratune.api.comparing import Comparison, compare
from hydratune.api.composing import compose
from hydratune.api.run import Run, load_runs
from hydratune.api.sweeping import Sweep, sweep
from hydratune.api.training import train

__all__ = ["Comparison", "Run", "Sweep", "compare", "compose", "load_runs", "sweep", "train"]
