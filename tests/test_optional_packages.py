"""Training, generation and packs of trials run where only PyTorch, Lightning, transformers, PEFT and Hydra are installed."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent
SCRIPT = """
import pkgutil, sys, threading
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import without_packages

without_packages.hide()
for name in without_packages.DISTRIBUTIONS.values():
    try:
        import_module(name)
    except ModuleNotFoundError:
        continue
    raise AssertionError(f"{name} was to be hidden")

modules = ["config", "run", "data.masking", "data.datamodule", "evaluation.generation", "sweeps.crew", "sweeps.pack", "commands.train"]
for package in ("models", "training"):
    folder = str(Path(import_module(f"hydratune.{package}").__file__).parent)
    modules += [f"{package}.{module.name}" for module in pkgutil.iter_modules([folder])]
for module in modules:
    import_module(f"hydratune.{module}")

sys.path.insert(0, sys.argv[1])
import torch
from workloads import settings

from hydratune.data.masking import Encoded
from hydratune.evaluation.generation import answer
from hydratune.models import adapters, sources
from hydratune.records import RunDirectory
from hydratune.sweeps.pack import JobCrew, Premises
from hydratune.sweeps.watch import Pulse
from hydratune.training.fit import fit

folder = Path(sys.argv[2])
config = settings(["model=tiny", "data.batch_size=2", "trainer.cpu_workers=1"])
base = sources.load_model(config.model, sources.resolve(config.model), torch.float32)
rows = [Encoded(tuple(range(5, 25 + n)), (*[False] * 10, *[True] * (10 + n))) for n in range(4)]


def trained(model, name, pool=None):
    options = {"accelerator": "cpu", "precision": "32-true", "logger": None, "pool": pool}
    (folder / name).mkdir()
    return fit(model, rows, rows[:1], config, RunDirectory(folder / name), **options)


premises = Premises(2)
pulses = [Pulse(RunDirectory(folder / f"trial{n}"), premises.asked) for n in range(2)]
trials = [adapters.add_adapter(premises.own(base, pulse), config.adapter) for pulse in pulses]
crews = [JobCrew(premises, pulse, threading.Event()) for pulse in pulses]
with ThreadPoolExecutor(2) as threads:
    packed = list(threads.map(trained, trials, ("trial0", "trial1"), crews))
premises.threads.dismiss()
model = adapters.add_adapter(base, config.adapter)
alone = trained(model, "alone")
assert len(alone.history) == 2 and all(len(fitted.history) == 2 for fitted in packed)
(said,) = answer(model, [[5, 6, 7]], [[8, 9]], stop=frozenset(), pad=0, max_new_tokens=3, batch_size=1, title="")
assert len(said.tokens) == 3
loaded = {name for name in without_packages.DISTRIBUTIONS.values() if name in sys.modules}
assert not loaded, loaded
print("trained", premises.threads.merged)
"""


def test_training_generation_and_packs_need_none_of_the_packages_of_other_commands(cache: Path, tmp_path: Path) -> None:
    """In a process that cannot find them."""
    search = os.pathsep.join([str(TESTS), *sys.path])
    command = [sys.executable, "-c", SCRIPT, str(TESTS.parent / "benchmarks"), str(tmp_path)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": search}, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "trained" in done.stdout, done.stderr[-3000:]
