"""Start the program: make this folder importable as the package ``sandbox``, and nothing else."""

import importlib
import sys
from pathlib import Path

if __name__ == "__main__":
    parent = str(Path(__file__).resolve().parents[1])
    sys.path.insert(0, parent)
    judge = importlib.import_module("sandbox.judge")
    sys.path.remove(parent)
    judge.main()
