"""Training, generation and packs of trials run where only PyTorch, Lightning, transformers, PEFT
and Hydra are installed.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SCRIPT = """
import pkgutil, sys, threading
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import pytest

import without_packages

without_packages.hide()
for name in without_packages.DISTRIBUTIONS.values():
    try:
        import_module(name)
    except ModuleNotFoundError:
        continue
    raise AssertionError(f"{name} was to be hidden")

modules = ["settings", "experiment.run", "data.encoding.encoder", "data.datamodule"]
modules += ["evaluation.generation", "sweeps.worker_pool", "sweeps.pack", "commands.train"]
for package in ("models", "training"):
    folder = str(Path(import_module(f"hydratune.{package}").__file__).parent)
    modules += [f"{package}.{module.name}" for module in pkgutil.iter_modules([folder])]
for module in modules:
    import_module(f"hydratune.{module}")

sys.path.insert(0, sys.argv[1])
import torch
from gpu_model import TOY_CHECKED, ComputeDevice, build, fit, ours, random_rows

from hydratune.evaluation.generation import answer
from hydratune.records.run_directory import RunDirectory
from hydratune.sweeps.pack_resources import JobWorkers, PackResources
from hydratune.sweeps.watch import Heartbeat

place = ComputeDevice(torch.device("cpu"))
config = place.settings("data.batch_size=2")
rows = random_rows(4, TOY_CHECKED, 20, 24, config)
model = ours(build(TOY_CHECKED, place, torch.float32), config)
alone = fit(model, rows, config, place)

base = build(TOY_CHECKED, place, torch.float32)
resources = PackResources(2)
heartbeats = [Heartbeat(RunDirectory(Path(f"trial{n}")), resources.leave) for n in range(2)]
trials = [ours(resources.own(base, heartbeat), config) for heartbeat in heartbeats]
pools = [JobWorkers(resources, heartbeat, threading.Event()) for heartbeat in heartbeats]
with ThreadPoolExecutor(2) as threads:
    trained = lambda trial, pool: fit(trial, rows, config, place, pool=pool)
    packed = list(threads.map(trained, trials, pools))
resources.workers.close()
assert len(alone.losses) == 2 and all(fitted.losses == alone.losses for fitted in packed)
options = {"stop": frozenset(), "pad": 0, "max_new_tokens": 3, "batch_size": 1, "title": ""}
(said,) = answer(model, [[5, 6, 7]], [[8, 9]], **options)
assert len(said.tokens) == 3
loaded = {name for name in without_packages.DISTRIBUTIONS.values() if name in sys.modules}
assert not loaded, loaded
print("trained")
"""


@pytest.mark.slow
def test_training_generation_and_packs_need_none_of_the_packages_of_other_commands(
    cache: Path,
) -> None:
    """They run in a process that cannot import these packages."""
    search = os.pathsep.join([str(TESTS), *sys.path])
    command = [sys.executable, "-c", SCRIPT, str(TESTS.parent / "benchmarks")]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": search},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "trained" in done.stdout, done.stderr[-3000:]
