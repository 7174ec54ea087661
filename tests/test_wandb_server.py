"""What a W&B server receives, read through the client's public API. Needs a server on this machine,
and skips without one: HYDRATUNE_TEST_WANDB=http://127.0.0.1:PORT, WANDB_API_KEY and WANDB_ENTITY.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from conftest import SMALL

SERVER = os.environ.get("HYDRATUNE_TEST_WANDB", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SERVER, reason="HYDRATUNE_TEST_WANDB names no server on this machine"),
]


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    """A project for this test; the client in this process and in those it starts uses the
    server.
    """
    assert urllib.parse.urlparse(SERVER).hostname in ("127.0.0.1", "localhost"), (
        "tests talk to this machine only"
    )
    name = f"test-{request.node.name[:40]}-{os.getpid()}"
    monkeypatch.setenv("WANDB_BASE_URL", SERVER)
    monkeypatch.setenv("WANDB_PROJECT", name)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    yield f"{os.environ.get('WANDB_ENTITY', '')}/{name}".lstrip("/")


def separate_environment(**more: str) -> dict[str, str]:
    """Return the environment of a process with its own client, because the client of this process
    is already running.
    """
    return {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"} | more


def call(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env=separate_environment(**environment),
        capture_output=True,
        text=True,
        check=False,
    )


def hydratune(folder: Path, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return call(folder, sys.executable, "-m", "hydratune", *args, **environment)


def client(*args: str) -> list[str]:
    return [str(Path(sys.executable).parent / "wandb"), *args]


def runs(project: str) -> list[Any]:
    import wandb

    return list(wandb.Api().runs(project))


def wandb_id(run: Path) -> str:
    return str(json.loads((run / "status.json").read_text())["wandb_id"])


def clients_left() -> list[str]:
    processes = subprocess.run(
        ["pgrep", "-f", "wandb-core"], capture_output=True, text=True, check=False
    )
    return processes.stdout.split()


def test_a_sweep_live(tmp_path: Path, project: str) -> None:
    before = clients_left()
    words = (
        "tracking=online",
        "tracking.log_adapter=true",
        "tracking.log_data=true",
        "tracking.log_predictions=true",
    )
    done = hydratune(
        tmp_path, "train", "-m", *SMALL, *words, "seed=1,2", f"hydra.sweep.dir={tmp_path}/live"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    time.sleep(5)
    assert clients_left() == before
    by_id = {run.id: run for run in runs(project)}
    assert len(by_id) == 2 and all(
        run.state == "finished" and run.group == "live" for run in by_id.values()
    )
    for job in "01":
        run = by_id[wandb_id(tmp_path / "live" / job)]
        metrics = json.loads((tmp_path / "live" / job / "metrics.json").read_text())
        assert run.summary["objective"] == pytest.approx(metrics["objective"])
        # numbers in nested settings
        assert run.config["facts"]["trainable_parameters"] > 0 and run.config["optimizer"]["lr"] > 0
        kinds = {artifact.type: artifact for artifact in run.logged_artifacts()}
        assert kinds.keys() >= {"model", "dataset"} and "best" in kinds["model"].aliases
    import wandb

    adapter = (
        wandb.Api()
        .artifact(f"{project}/adapter-{wandb_id(tmp_path / 'live' / '0')}:best")
        .download(root=str(tmp_path / "got"))
    )
    theirs, ours = (
        Path(folder) / "adapter_model.safetensors"
        for folder in (adapter, tmp_path / "live" / "0" / "adapter")
    )
    assert theirs.read_bytes() == ours.read_bytes()
    done = hydratune(tmp_path, "compare", "live", "html=false", "--to-wandb")
    assert done.returncode == 0 and "W&B report" in done.stdout, done.stdout + done.stderr


def test_a_failed_run_is_marked(tmp_path: Path, project: str) -> None:
    done = hydratune(
        tmp_path,
        "train",
        "-m",
        *SMALL,
        "tracking=online",
        "adapter.r=4,9999",
        f"hydra.sweep.dir={tmp_path}/s",
    )
    assert done.returncode == 1
    assert sorted(run.state for run in runs(project)) == ["failed", "finished"]


def test_a_run_synced_later_equals_an_online_run(tmp_path: Path, project: str) -> None:
    for name in ("offline", "online"):
        done = hydratune(
            tmp_path,
            "train",
            "-m",
            *SMALL,
            f"tracking={name}",
            "seed=1,2",
            f"hydra.sweep.dir={tmp_path}/{name}",
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert len(runs(project)) == 2
    assert call(tmp_path, *client("sync", "offline/wandb")).returncode == 0
    by_id = {run.id: run for run in runs(project)}
    for job in "01":
        offline, online = (by_id[wandb_id(tmp_path / name / job)] for name in ("offline", "online"))
        assert (
            (offline.state, offline.name)
            == (online.state, online.name)
            == ("finished", f"seed={int(job) + 1}")
        )
        losses = [
            [row["train/loss"] for row in run.scan_history(keys=["train/loss"])]
            for run in (offline, online)
        ]
        assert losses[0] == losses[1] and len(losses[0]) == 2
        assert offline.summary["val/loss"] == online.summary["val/loss"]


def test_an_interrupted_run_is_resumed_with_its_id(tmp_path: Path, project: str) -> None:
    words = (
        *SMALL,
        "tracking=online",
        "trainer.max_steps=null",
        "trainer.checkpoint_minutes=0.001",
        f"hydra.run.dir={tmp_path}/run",
    )
    long = (*words, "trainer.max_epochs=400", "trainer.validations_per_epoch=1")
    process = subprocess.Popen(
        [sys.executable, "-m", "hydratune", "train", *long],
        cwd=tmp_path,
        env=separate_environment(),
        stdout=subprocess.DEVNULL,
    )
    while not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(2)
    process.kill()
    process.wait()
    first = wandb_id(tmp_path / "run")
    process = subprocess.Popen(
        [sys.executable, "-m", "hydratune", "train", *long],
        cwd=tmp_path,
        env=separate_environment(),
        stdout=subprocess.DEVNULL,
    )
    assert process.wait(300) == 0
    assert wandb_id(tmp_path / "run") == first
    (run,) = runs(project)
    assert run.id == first and run.state == "finished"
    steps = {
        row["trainer/global_step"]
        for row in run.scan_history(keys=["train/loss", "trainer/global_step"])
    }
    assert steps == set(range(1, max(steps) + 1))


class Line:
    """A connection to the server that can be cut."""

    def __init__(self) -> None:
        there = urllib.parse.urlparse(SERVER)
        self.to = (there.hostname or "", there.port or 80)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        self.open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                ours, _ = self.listening.accept()
                theirs = socket.create_connection(self.to)
            except OSError:
                return
            self.open += [ours, theirs]
            for source, target in ((ours, theirs), (theirs, ours)):
                threading.Thread(target=self._pass_on, args=(source, target), daemon=True).start()

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket) -> None:
        try:
            while content := source.recv(65536):
                target.sendall(content)
        except OSError:
            pass

    def cut(self) -> None:
        self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()
        for connection in self.open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


def test_a_server_that_stops_delays_a_run_by_a_minute_and_no_data_is_lost(
    tmp_path: Path, project: str
) -> None:
    line = Line()
    words = (
        *SMALL,
        "tracking=online",
        "trainer.max_steps=60",
        "trainer.max_epochs=60",
        f"hydra.sweep.dir={tmp_path}/s",
        "seed=1,2",
    )
    command = [sys.executable, "-m", "hydratune", "train", "-m", *words]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        env=separate_environment(WANDB_BASE_URL=line.url),
    )
    while len(list(tmp_path.glob("s/wandb/run-*"))) < 2 or not all(
        (tmp_path / "s" / job / "history.csv").is_file() for job in "01"
    ):
        assert process.poll() is None
        time.sleep(0.05)
    line.cut()
    began = time.monotonic()
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and time.monotonic() - began < 150
    hint = next(text for text in printed.splitlines() if "wandb sync" in text)
    assert "lacks 2 runs" in hint
    words = hint.partition("wandb sync ")[2].partition("#")[0].split()
    assert call(tmp_path, *client("sync", *words)).returncode == 0
    by_id = {run.id: run for run in runs(project)}
    for job in "01":
        run = by_id[wandb_id(tmp_path / "s" / job)]
        assert run.state == "finished" and len(list(run.scan_history(keys=["train/loss"]))) == 60


def test_a_wandb_sweep(tmp_path: Path, project: str) -> None:
    import wandb
    import yaml

    command = ["${env}", "hydratune", "train", *SMALL, "tracking=online", "${args_no_hyphens}"]
    sweep = {
        "program": "hydratune",
        "method": "grid",
        "metric": {"name": "objective", "goal": "minimize"},
        "parameters": {"optimizer.lr": {"values": [1e-3, 3e-3]}},
        "command": command,
    }
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    created = call(
        tmp_path, *client("sweep", "--project", project.split("/")[-1], "sweep.yaml"), PATH=path
    )
    name = (created.stdout + created.stderr).partition("wandb agent ")[2].split()[0]
    assert call(tmp_path, *client("agent", name), PATH=path).returncode == 0
    best = wandb.Api().sweep(name).best_run()
    ours = {
        wandb_id(file.parent): json.loads(file.read_text())["objective"]
        for file in tmp_path.glob("outputs/*/*/metrics.json")
    }
    assert len(ours) == 2 and best.id == min(ours, key=lambda run: ours[run])
