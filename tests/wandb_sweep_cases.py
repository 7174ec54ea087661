"""W&B sweeps of toy trials, on the stand-in server of the folder beside the repository."""

import importlib.util
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import SMALL

STAND_IN = Path(__file__).parents[2] / "shared" / "tools" / "wandb_standin.py"
COMMAND = ["hydratune", "train", "tracking=online", *SMALL, "${args_no_hyphens}"]


@pytest.fixture
def server() -> Iterator[Any]:
    """A W&B server on this machine, to which the real client talks."""
    if not STAND_IN.is_file():
        pytest.skip(f"{STAND_IN} is not there")
    spec = importlib.util.spec_from_file_location("wandb_standin", STAND_IN)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with module.StandIn() as started:
        yield started


def sweep_file(folder: Path, parameters: dict[str, Any], **more: Any) -> Path:
    """Write the YAML file of a W&B sweep."""
    content = {
        "project": "toys",
        "program": "hydratune",
        "method": "grid",
        "metric": {"name": "val/loss", "goal": "minimize"},
        "parameters": parameters,
        "command": COMMAND,
        **more,
    }
    file = folder / "toy.yaml"
    file.write_text(yaml.safe_dump({key: v for key, v in content.items() if v is not None}))
    return file


def environment(server: Any, **more: str) -> dict[str, str]:
    """Return the environment of a process whose client talks to ``server``."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    return {**own, **server.env(), "OMP_NUM_THREADS": "1", **more}


def start_driver(server: Any, folder: Path, *words: str, **more: str) -> subprocess.Popen[str]:
    """Start ``hydratune sweep`` in ``folder``."""
    return subprocess.Popen(
        [sys.executable, "-m", "hydratune", "sweep", *words],
        cwd=folder,
        env=environment(server, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_driver(server: Any, folder: Path, *words: str, **more: str) -> tuple[int, str]:
    """Run ``hydratune sweep`` to its end; return (exit code, everything printed)."""
    process = start_driver(server, folder, *words, **more)
    text = process.communicate(timeout=900)[0]
    return process.returncode, text


def sweep_folder(folder: Path) -> Path:
    (found,) = (file.parent for file in folder.glob("outputs/*/sweep.json"))
    return found


def status(run: Path) -> dict[str, Any]:
    file = run / "status.json"
    return dict(json.loads(file.read_text())) if file.is_file() else {}


def runs_of_folder(folder: Path) -> dict[str, str]:
    """Return the id of the run of W&B -> the state of its run directory."""
    return {
        str(status(file.parent)["wandb_id"]): str(status(file.parent)["state"])
        for file in sorted(folder.glob("*/status.json"))
    }


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def press_stop(server: Any, run_id: str) -> None:
    """Press Stop on the page of a run."""
    with urllib.request.urlopen(
        urllib.request.Request(f"{server.url}/_stop/{run_id}", method="POST"), timeout=10
    ) as answer:
        assert answer.status == 200
