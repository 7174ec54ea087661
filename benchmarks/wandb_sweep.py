"""Compare `hydratune sweep`, which trains the trials of a W&B sweep together, with `wandb agent`.

    python benchmarks/wandb_sweep.py --server ../shared/tools/wandb_standin.py
                                     8 trials of the toy model; a quarter of an hour on 2 cores
    python benchmarks/wandb_sweep.py --server FILE model=smollm2_135m trainer.max_steps=8
                                     the same on the real model

The server is a stand-in on this machine (a Python file with a class StandIn); the client is the
real one. Measured are whole commands: wall seconds from the start to the end, and CPU-seconds of
all their processes. Then a bayes sweep, and a grid of which one trial is stopped on its page while
the driver is killed and started again: which runs are there in the end, and in which state?
"""

import argparse
import importlib.util
import json
import os
import resource
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

WORDS = (
    "debug=smoke",
    "trainer.precision=32-true",
    "trainer.max_steps=16",
    "trainer.max_epochs=100",
    "evaluation.baselines=[]",
)
RATES, RANKS = [3e-4, 1e-3, 3e-3, 1e-2], [4, 8]
LONG = 1_000_000  # steps of a trial that ends only because it is stopped


class Bench:
    """Sweeps on one server, in one folder."""

    def __init__(self, server: Any, folder: Path, words: Sequence[str]) -> None:
        self.server, self.folder, self.words = server, folder, words
        own = {key: v for key, v in os.environ.items() if not key.startswith("WANDB_")}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environment = {**own, **server.env(), "PATH": path}
        self.log = (folder / "log.txt").open("w")

    def file(self, name: str, parameters: dict[str, Any], **more: Any) -> Path:
        """Write the file of a sweep."""
        content = {
            "project": name,
            "program": "hydratune",
            "method": "grid",
            "metric": {"name": "val/loss", "goal": "minimize"},
            "parameters": parameters,
            "command": ["hydratune", "train", "tracking=online", *self.words, "${args_no_hyphens}"],
            **more,
        }
        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(content, sort_keys=False))
        return file

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment, stdout=self.log, stderr=self.log
        )

    def measured(self, *command: str) -> dict[str, float]:
        """Run a command; return the seconds that it took."""
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        code = self.start(*command).wait()
        wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        assert code == 0, f"{command} ended with {code}; see {self.log.name}"
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return {"wall": round(wall, 1), "cpu": round(cpu, 1)}

    def driver(self, file: Path, *words: str) -> list[str]:
        return [sys.executable, "-m", "hydratune", "sweep", file.name, *words]

    def agent(self, file: Path) -> list[str]:
        """Create the sweep of a file by the client; return the command of its agent."""
        done = subprocess.run(
            ["wandb", "sweep", file.name],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return ["wandb", "agent", done.stderr.partition("wandb agent ")[2].split()[0]]

    def states(self, project: str) -> dict[str, int]:
        return dict(Counter(str(run["state"]) for run in self.server.runs(project=project)))

    def losses(self, project: str) -> dict[str, float]:
        """Return parameters -> validation loss of the runs of a project."""
        runs = self.server.runs(project=project)
        keys = ("optimizer.lr", "adapter.r")
        return {str([r["config"][k] for k in keys]): r["summary"]["val/loss"] for r in runs}


def load_server(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location("wandb_standin", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.StandIn().start()


def compare_grids(bench: Bench) -> dict[str, Any]:
    """Run the same grid by both commands, one after the other."""
    grid = {"optimizer.lr": {"values": RATES}, "adapter.r": {"values": RANKS}}
    packed = bench.measured(*bench.driver(bench.file("packed", grid), "together=8"))
    in_turn = bench.measured(*bench.agent(bench.file("agent", grid)))
    ours, theirs = bench.losses("packed"), bench.losses("agent")
    assert ours.keys() == theirs.keys() and len(ours) == len(RATES) * len(RANKS)
    difference = max(abs(ours[key] - theirs[key]) for key in ours)
    return {
        "hydratune sweep, together=8": {**packed, "states": bench.states("packed")},
        "wandb agent, in turn": {**in_turn, "states": bench.states("agent")},
        "times as fast": round(in_turn["wall"] / packed["wall"], 2),
        "largest difference of val/loss": difference,
    }


def run_bayes(bench: Bench) -> dict[str, Any]:
    """Run a bayes sweep of eight trials in two batches."""
    rate = {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2}
    ranges = {"optimizer.lr": rate, "adapter.r": {"values": RANKS}}
    file = bench.file("bayes", ranges, method="bayes", run_cap=8)
    seconds = bench.measured(*bench.driver(file, "together=4"))
    return {**seconds, "states": bench.states("bayes")}


def stop_and_kill(bench: Bench) -> dict[str, Any]:
    """Stop one trial of eight, kill the driver, and start it again."""
    steps = [16, 17, 18, 19, 100, 101, 102, LONG]
    parameters = {
        "trainer.max_steps": {"values": steps},
        "trainer.max_epochs": {"value": LONG},
        "trainer.checkpoint_minutes": {"value": 0.02},
        "trainer.validations_per_epoch": {"value": 1},
    }
    file = bench.file("killed", parameters)
    command = bench.driver(file, "together=8", "hydra.launcher.together=8")
    process = bench.start(*command)
    while len(bench.server.runs(project="killed", state="finished")) < 3:
        assert process.poll() is None, f"see {bench.log.name}"
        time.sleep(0.5)
    (long,) = (
        run
        for run in bench.server.runs(project="killed")
        if run["config"]["trainer"]["max_steps"] == LONG
    )
    request = urllib.request.Request(f"{bench.server.url}/_stop/{long['id']}", method="POST")
    urllib.request.urlopen(request, timeout=10).close()
    while bench.server.run(name=long["id"])["state"] != "killed":
        assert process.poll() is None, f"see {bench.log.name}"
        time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = bench.states("killed")
    ids = {run["id"] for run in bench.server.runs(project="killed")}
    seconds = bench.measured(*command)
    runs = bench.server.runs(project="killed")
    return {
        "states when the driver was killed": before,
        "states in the end": bench.states("killed"),
        "the same runs": {run["id"] for run in runs} == ids,
        "steps logged twice": sum(map(_repeated_steps, runs)),
        "second driver": seconds,
    }


def _repeated_steps(run: dict[str, Any]) -> int:
    """Return how many steps a run has logged more than once, after its last checkpoint."""
    steps = [row["trainer/global_step"] for row in run["history"] if "train/loss" in row]
    return len(steps) - len(set(steps))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--server", type=Path, required=True, help="file of the stand-in server")
    parser.add_argument("--folder", type=Path, default=Path("outputs/bench/wandb_sweep"))
    parser.add_argument("--parts", default="grid,bayes,killed", help="what is measured")
    parser.add_argument("words", nargs="*", help="settings of all trials")
    args = parser.parse_args()
    folder = args.folder / time.strftime("%Y-%m-%d_%H-%M-%S")
    folder.mkdir(parents=True)
    bench = Bench(load_server(args.server), folder.resolve(), [*WORDS, *args.words])
    parts = {"grid": compare_grids, "bayes": run_bayes, "killed": stop_and_kill}
    results = {}
    for name in args.parts.split(","):
        results[name] = parts[name](bench)
        print(json.dumps({name: results[name]}, indent=1), flush=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
