"""Sweeps over a real Ray of this machine: equal to local ones, whatever dies in between."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import SMALL
from hydratune.sweeps.stop_requests import request_stop
from run_files import states
from search_cases import SPACE, assert_study_is_that_of_the_runs
from sweep_driver import LOOPBACK, Driver, assert_same_curves, assert_same_sweep
from test_joining import add

pytestmark = pytest.mark.slow
RUN = (
    *(s for s in SMALL if not s.startswith(("data.batch_size", "trainer.max_steps"))),
    "data.max_train_rows=9",
    "data.batch_size=1",
    "trainer.max_steps=null",
)
RAY = ("hydra/launcher/executor=ray", "hydra.launcher.executor.at_once=2")
CANARY = "canary-93b1f07e6a"


@pytest.fixture(autouse=True)
def ray() -> None:
    pytest.importorskip("ray", reason="needs the extra ray: pip install 'hydratune[ray]'")


def until_gone(driver: Driver) -> None:
    deadline = time.monotonic() + 120
    while (left := driver.processes()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left


def ray_workers(driver: Driver) -> list[int]:
    return driver.processes_with(f"ray::{driver.folder.name}".encode())


@pytest.mark.fault(
    "kill -9 of a Ray worker, and of a pack on Ray",
    seen="its jobs are tried again",
    kept="all checkpoints; the ranking is that of an undisturbed sweep",
)
def test_halving_over_ray_equals_local_with_a_worker_and_a_pack_killed(tmp_path: Path) -> None:
    words = (
        *(*RUN, "trainer.max_epochs=4", "optimizer.lr=1e-4,1e-3,1e-2,3e-2", "adapter.r=2,4,8"),
        "hydra.launcher.halving.min_steps=9",
    )
    temporary = Path("/tmp") / f"rt{os.getpid()}"  # Ray's sockets have short paths
    temporary.mkdir()
    here = Driver(tmp_path / "ray", *words, *RAY, WANDB_API_KEY=CANARY, TMPDIR=str(temporary))
    here.until(lambda: any(here.steps(n) > 3 for n in range(12)) and len(ray_workers(here)) == 2)
    assert here.addresses() and here.addresses() <= LOOPBACK
    stored = [file for file in temporary.rglob("*") if file.is_file()]
    assert stored and not [f for f in stored if CANARY.encode() in f.read_bytes()]
    os.kill(ray_workers(here)[0], signal.SIGKILL)
    here.until(lambda: any(here.steps(n) > 10 for n in range(12)) and here.packs())
    os.kill(here.packs()[0], signal.SIGKILL)
    text = here.end()
    assert "its Ray worker died" in text and "killed by signal 9" in text
    assert text.count("tried again") == 2
    until_gone(here)
    assert not list(temporary.glob("ht-ray-*"))
    shutil.rmtree(temporary)  # W&B leaves files of killed processes
    files = [file for file in here.folder.rglob("*") if file.is_file()]
    assert not [file for file in files if CANARY.encode() in file.read_bytes()]

    local = Driver(tmp_path / "local", *words)
    local.end()
    assert_same_sweep(here.folder, local.folder)
    assert ranking(text) == ranking(local.log.read_text())

    asha = Driver(tmp_path / "asha", *words, *RAY, "hydra.launcher.halving.kind=asha")
    asha.until(lambda: any(asha.steps(n) > 10 for n in range(12)) and asha.packs())
    os.kill(asha.packs()[0], signal.SIGKILL)
    text = asha.end()
    assert "12 of 12 jobs in 2 packs, judged together" in text and "tried again" in text
    assert "finished" in states(asha.folder).values()
    assert_same_curves(asha.folder, local.folder)


def ranking(text: str) -> str:
    """Return the first table of the ranking, in which there are no costs."""
    return text.partition("\nranking by")[2].partition("\non the test rows")[0]


@pytest.mark.fault(
    "kill -9 of the driver of a sweep on Ray",
    seen="no process is left; the same command continues",
    kept="everything until the last checkpoint",
)
def test_a_killed_driver_leaves_nothing_running_and_the_same_command_resumes(
    tmp_path: Path,
) -> None:
    words = (*RUN, "trainer.max_epochs=4", "seed=0,1", "trainer.checkpoint_minutes=null", *RAY)
    words = (*words, "hydra.launcher.pack_size=2")
    temporary = Path("/tmp") / f"rk{os.getpid()}"
    temporary.mkdir()
    first = Driver(tmp_path / "ray", *words, TMPDIR=str(temporary))
    first.until(lambda: first.steps(0) > 3 and first.steps(1) > 3)
    assert list(temporary.glob("ht-ray-*"))
    first.process.kill()
    first.process.wait()
    until_gone(first)
    assert not list(temporary.glob("ht-ray-*"))
    shutil.rmtree(temporary)
    done = first.steps(0)
    text = Driver(tmp_path / "ray", *words).end()
    assert "ranking" in text
    assert "resumed after step" in (tmp_path / "ray" / "0" / "run.log").read_text()
    assert done > 3
    local = Driver(tmp_path / "local", *words[: -len(RAY) - 1])
    local.end()
    assert_same_sweep(tmp_path / "ray", local.folder)


@pytest.mark.fault(
    "Ctrl-C while packs train on Ray",
    seen="exit code 130, every job says stopped",
    kept="everything until the last step",
)
def test_ctrl_c_saves_the_jobs(tmp_path: Path) -> None:
    words = (*RUN, "trainer.max_epochs=12", "seed=0,1", "trainer.checkpoint_minutes=null", *RAY)
    driver = Driver(tmp_path / "ray", *words, "hydra.launcher.pack_size=2")
    driver.until(lambda: driver.steps(0) > 3 and driver.steps(1) > 3)
    driver.process.send_signal(signal.SIGINT)
    driver.end(130)
    until_gone(driver)
    for job in ("0", "1"):
        assert '"stopped"' in (tmp_path / "ray" / job / "status.json").read_text()
        assert list((tmp_path / "ray" / job / "checkpoints").glob("*.ckpt"))


def test_a_search_runs_a_batch_in_each_slot(tmp_path: Path) -> None:
    words = (*RUN, *SPACE, "hydra/sweeper=optuna", "hydra.sweeper.n_trials=6", *RAY)
    driver = Driver(tmp_path / "ray", *words, "trainer.max_epochs=2", "hydra.sweeper.batch=2")
    driver.until(lambda: len(ray_workers(driver)) == 2 and len(driver.packs()) == 2)
    text = driver.end()
    assert [f"trials {n}, {n + 1} of 6" in text for n in (0, 2, 4)] == [True] * 3
    assert_study_is_that_of_the_runs(tmp_path / "ray", 6)
    until_gone(driver)


def test_an_added_job_runs_beside_the_others(tmp_path: Path) -> None:
    words = (*RUN, "trainer.max_epochs=40", "optimizer.lr=1e-3,1e-2", *RAY)
    driver = Driver(tmp_path / "ray", *words, "hydra.launcher.pack_size=2")
    driver.until(lambda: driver.steps(0) > 3)
    lines = add(driver.folder, "optimizer.lr=3e-3,5e-3", "like=0", "trainer.max_epochs=6")
    assert " ".join(lines.split()).count("is taken by the command that runs the sweep") == 2, lines
    history = driver.folder / "a1-1" / "history.csv"
    driver.until(lambda: history.is_file() and len(history.read_text().splitlines()) > 3)
    request_stop(driver.folder, "a1-1")
    driver.until(lambda: states(driver.folder).get("a1-1") == "stopped")
    driver.until(lambda: states(driver.folder).get("a1-0") == "finished")
    assert states(driver.folder)["0"] == "running"
    text = driver.end()
    assert "job a1-0, a1-1 was added, and is run beside the others" in text
    assert "jobs were added while the sweep ran" not in text
    assert "a1-0" in ranking(text) and "stopped" in ranking(text)
    until_gone(driver)


# lets nodes be at the loopback address, which `ray start` replaces by that of the machine
NODE = """
import ray._private.services as services
services.get_node_ip_address = lambda address=None: "127.0.0.1"
from ray.scripts.scripts import main
main()
"""
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "RAY_USAGE_STATS_ENABLED": "0"}


class Nodes:
    """The nodes of a Ray cluster on the loopback address."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.temporary = folder, Path("/tmp") / f"rn{os.getpid()}"
        self.started: list[subprocess.Popen[bytes]] = []
        self.address = f"127.0.0.1:{free_ports(1)[0]}"

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        names = ("dashboard-agent-grpc", "dashboard-agent-listen", "runtime-env-agent")
        names = (*names, "metrics-export")
        ports = [f"--{n}-port={p}" for n, p in zip(names, free_ports(4), strict=True)]
        log = self.folder / f"node{len(self.started)}.log"
        place = f"--address={self.address}"
        if not self.started:
            port = self.address.partition(":")[2]
            options = (*options, f"--temp-dir={self.temporary}", "--include-dashboard=false")
            place = f"--head --port={port}"
        with log.open("w") as output:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-c", NODE, "start", "--block", *place.split()),
                    *("--node-ip-address=127.0.0.1", f"--object-store-memory={80 * 2**20}"),
                    *(*options, *ports),
                ],
                env={**os.environ, **TOKEN, "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300"},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.started.append(process)
        deadline = time.monotonic() + 300
        while "Ray runtime started" not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert "Ray runtime started" in log.read_text(), log.read_text()
        return process


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path)
    nodes.start("--num-cpus=0")
    yield nodes
    for process in reversed(nodes.started):
        process.terminate()
    for process in nodes.started:
        process.wait(60)
    shutil.rmtree(nodes.temporary, ignore_errors=True)


@pytest.mark.fault(
    "a node of a Ray cluster is lost",
    seen="its packs begin again on another node",
    kept="everything until the last checkpoint",
)
def test_a_pack_whose_node_is_lost_is_begun_again_on_another(tmp_path: Path, nodes: Nodes) -> None:
    """No job has a retry, and none is used up."""
    spot = ("--num-cpus=1", '--resources={"spot":1}')
    words = (*RUN, "trainer.max_epochs=4", "seed=0,1", "hydra.launcher.retries=0")
    words = (*words, "hydra.launcher.pack_size=2")
    node = nodes.start(*spot)
    own = (f"hydra.launcher.executor.address={nodes.address}",)
    own = (*own, "+hydra.launcher.executor.resources.spot=1", RAY[0])
    variables = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "WANDB_API_KEY": CANARY, **TOKEN}
    driver = Driver(tmp_path / "ray", *words, *own, **variables)
    driver.until(lambda: driver.steps(0) > 3 and driver.steps(1) > 3)
    os.killpg(node.pid, signal.SIGKILL)
    nodes.start(*spot)
    text = driver.end()
    assert "lost its node (1 of 20); begun again" in text
    assert "packs do not get WANDB_API_KEY" in text
    local = Driver(tmp_path / "local", *words)
    local.end()
    assert_same_sweep(driver.folder, local.folder)
    stored = [f for place in (driver.folder, nodes.temporary) for f in place.rglob("*")]
    assert not [f for f in stored if f.is_file() and CANARY.encode() in f.read_bytes()]
