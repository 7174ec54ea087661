"""Many trials, with processes killed at random every few seconds: nothing is lost or done twice."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from conftest import SMALL
from hydratune import digests
from hydratune.overview.collect import RunView, view_sweep
from hydratune.overview.held_locks import HeldLocks
from hydratune.records.metrics import RunMetrics
from packages_of_tests import install
from sweep_driver import Driver

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc"),
]
RATES = [f"{2 + number}e-4" for number in range(12)]
RANKS = ["1", "2", "3", "4", "5"]
STEPS = 18  # of a trial
WORDS = (
    *(word for word in SMALL if "max_" not in word),
    "data.max_train_rows=24",
    "data.max_validation_rows=4",
    "data.max_test_rows=2",
    "trainer.max_steps=null",
    "trainer.max_epochs=3",
    "trainer.checkpoint_minutes=1e-3",  # 0.06 s
    "trainer.callbacks=[soak]",
    "tracking=disabled",
    f"optimizer.lr={','.join(RATES)}",
    f"adapter.r={','.join(RANKS)}",
    "hydra.launcher.pack_size=15",
    "hydra.launcher.retries=1000",  # kills are no fault of a job
)
RAY = ("hydra/launcher/executor=ray", "hydra.launcher.executor.at_once=2")
PATIENCE = 2400.0  # seconds for the whole sweep
PROJECT = """
[project]
name = "soak-of-tests"
version = "1.0"
[project.entry-points."hydratune.callbacks"]
soak = "soak_of_tests:Soak"
"""
# every optimizer step is a line in the folder of its job; the end of a job a line of its process
CALLBACK = """
import json
import os
import time
from pathlib import Path
import lightning

class Soak(lightning.Callback):
    def on_train_batch_end(self, trainer, module, *args):
        self.write(trainer, "steps.jsonl", {"step": trainer.global_step})

    def on_train_end(self, trainer, module):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        files = len(os.listdir("/proc/self/fd"))
        use = {"at": time.monotonic(), "process": os.getpid(), "files": files}
        self.write(trainer, "use.jsonl", {**use, "bytes": pages * 4096})

    def write(self, trainer, name, content):
        file = os.open(f"{trainer.default_root_dir}/{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(file, (json.dumps(content) + "\\n").encode())
        os.close(file)
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with a package that brings the callback."""
    install(tmp_path / "site", PROJECT, {"soak_of_tests": CALLBACK})
    return tmp_path / "site"


def jobs(folder: Path) -> Mapping[str, RunView]:
    return {job.name: job for job in view_sweep(folder, HeldLocks()).jobs}


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    files = sorted(folder.glob(f"*/{name}"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def disturbed(
    folder: Path, site: Path, words: tuple[str, ...], kills: int, generator: random.Random
) -> Iterator[str]:
    """Run the sweep and kill one of its processes every few seconds; yield which kind it was."""
    deadline, killed = time.monotonic() + PATIENCE, 0

    def start() -> Driver:
        return Driver(folder, *WORDS, *words, PYTHONPATH=path_with(site))

    driver = start()
    try:
        while driver.process.poll() != 0:
            assert time.monotonic() < deadline, driver.log.read_text()
            if driver.process.poll() is not None:
                driver = start()
            while driver.process.poll() is None and not driver.packs():
                time.sleep(0.2)  # it composes the trials
            if generator.random() < 0.8:  # the others are killed while they start
                until_it_trains(driver)
            try:
                driver.process.wait(generator.uniform(0, 8) if killed < kills else 5)
            except subprocess.TimeoutExpired:
                workers = driver.processes_with(f"ray::{folder.name}".encode())
                kinds = {driver.process.pid: "driver", **dict.fromkeys(workers, "worker")}
                kinds |= dict.fromkeys(driver.packs(), "pack")
                if killed < kills:
                    victim = generator.choice(list(kinds))
                    with suppress(ProcessLookupError):
                        os.kill(victim, signal.SIGKILL)
                        killed += 1
                        yield kinds[victim]
    finally:
        if driver.process.poll() is None:
            driver.process.kill()
        driver.process.wait()


def until_it_trains(driver: Driver) -> None:
    """Wait for a step of any job."""
    done, until = len(lines(driver.folder, "steps.jsonl")), time.monotonic() + 60
    while driver.process.poll() is None and time.monotonic() < until:
        if len(lines(driver.folder, "steps.jsonl")) > done:
            return
        time.sleep(0.2)


def path_with(site: Path) -> str:
    return os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.mark.fault(
    "60 trials, and every few seconds kill -9 of a driver, a pack or a Ray worker",
    seen="the same command, typed again, continues",
    kept="exactly 60 finished trials, equal to those of an undisturbed sweep to the last bit",
)
@pytest.mark.parametrize(("words", "kills"), [((), 25), (RAY, 10)], ids=["local", "ray"])
def test_sixty_trials_survive_kills_at_random(
    tmp_path: Path, site: Path, words: tuple[str, ...], kills: int
) -> None:
    if words:
        pytest.importorskip("ray", reason="needs the extra ray: pip install 'hydratune[ray]'")
    calm, soaked = tmp_path / "calm", tmp_path / "soaked"
    Driver(calm, *WORDS, PYTHONPATH=path_with(site)).end()
    temporary = Path("/tmp") / f"soak{os.getpid()}"  # Ray's sockets have short paths
    temporary.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        killed = Counter(disturbed(soaked, site, words, kills, random.Random(0)))
    shutil.rmtree(temporary)
    assert_equal_trials(calm, soaked)
    ideal, computed = len(lines(calm, "steps.jsonl")), len(lines(soaked, "steps.jsonl"))
    assert ideal == STEPS * len(RATES) * len(RANKS)
    assert len(set(steps_by_job(soaked))) == ideal
    assert computed <= 1.1 * ideal
    assert_no_leak(calm)
    print(json.dumps({"killed": killed, "steps": computed, "ideal": ideal}))


def steps_by_job(folder: Path) -> list[tuple[str, int]]:
    return [
        (file.parent.name, json.loads(line)["step"])
        for file in folder.glob("*/steps.jsonl")
        for line in file.read_text().splitlines()
    ]


def assert_equal_trials(calm: Path, soaked: Path) -> None:
    """Assert that all trials of both sweeps finished and are equal to the last bit."""
    expected, found = jobs(calm), jobs(soaked)
    assert len(found) == len(expected) == len(RATES) * len(RANKS)
    assert {job.state for job in found.values()} == {"finished"}
    for name, job in expected.items():
        one, other = (
            RunMetrics.read(view.record.metrics_file).values for view in (job, found[name])
        )
        assert one["val/loss"] == other["val/loss"], name
        files = [view.record.adapter / "adapter_model.safetensors" for view in (job, found[name])]
        assert len(set(map(digests.of_file, files))) == 1, name


def assert_no_leak(folder: Path) -> None:
    """Assert that a process holds no more files and memory after 15 trials than after five."""
    of_process: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for line in sorted(lines(folder, "use.jsonl"), key=lambda line: line["at"]):
        of_process[line["process"]].append(line)
    assert len(of_process) == 4 and all(len(found) == 15 for found in of_process.values())
    for found in of_process.values():
        early, late = found[:5], found[-5:]
        for what, allowed in (("files", 2), ("bytes", 40 * 2**20)):
            most = [max(line[what] for line in part) for part in (early, late)]
            assert most[1] <= most[0] + allowed, (what, found)
