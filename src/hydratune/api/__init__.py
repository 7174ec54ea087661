"""The Python API: what the commands do, from a script or a notebook.

Its names are those of the package itself: ``hydratune.train``, ``hydratune.Run`` and so on, which
import this package when they are first used.
"""

from hydratune.api.comparing import Comparison, compare
from hydratune.api.composing import compose
from hydratune.api.run import Run, load_runs
from hydratune.api.sweeping import Sweep, sweep
from hydratune.api.training import train

__all__ = ["Comparison", "Run", "Sweep", "compare", "compose", "load_runs", "sweep", "train"]
