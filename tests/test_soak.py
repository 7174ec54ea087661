"""Many trials, with processes killed at random every few seconds: nothing is lost or done twice."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from conftest import SMALL
from hydratune import digests
from hydratune.overview.collect import RunView, view_sweep
from hydratune.overview.held_locks import HeldLocks
from hydratune.records.metrics import RunMetrics

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc"),
]
RATES = [f"{2 + number}e-4" for number in range(12)]
RANKS = ["1", "2", "3", "4", "5"]
WORDS = (
    *(word for word in SMALL if "max_" not in word),
    "data.max_train_rows=24",
    "data.max_validation_rows=4",
    "data.max_test_rows=2",
    "trainer.max_steps=null",
    "trainer.max_epochs=3",
    "trainer.checkpoint_minutes=1e-3",  # 0.06 s
    "tracking=disabled",
    f"optimizer.lr={','.join(RATES)}",
    f"adapter.r={','.join(RANKS)}",
    "hydra.launcher.pack_size=15",
    "hydra.launcher.retries=1000",  # kills are no fault of a job
)
KILLS = 25
PATIENCE = 1800.0  # seconds for the whole sweep


def start(folder: Path) -> "subprocess.Popen[bytes]":
    log = (folder.parent / f"{folder.name}.log").open("ab")
    command = [sys.executable, "-m", "hydratune", "train", "-m", *WORDS]
    with log:
        return subprocess.Popen(
            [*command, f"hydra.sweep.dir={folder}"], stdout=log, stderr=subprocess.STDOUT
        )


def processes(folder: Path) -> list[int]:
    """Return the processes, beside this one, that were started for a sweep."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().decode("utf-8", "replace")
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if str(folder) in line and state != "Z" and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


def jobs(folder: Path) -> Mapping[str, RunView]:
    return {job.name: job for job in view_sweep(folder, HeldLocks()).jobs}


def disturbed(folder: Path, generator: random.Random) -> Iterator[str]:
    """Run the sweep and kill one of its processes every few seconds; yield which kind it was."""
    deadline, kills = time.monotonic() + PATIENCE, 0
    driver = start(folder)
    try:
        while driver.poll() is None or driver.returncode != 0:
            assert time.monotonic() < deadline, (folder.parent / f"{folder.name}.log").read_text()
            if driver.poll() is not None:
                driver = start(folder)
            while driver.poll() is None and len(processes(folder)) < 2:
                time.sleep(0.2)  # it composes the trials
            try:
                driver.wait(generator.uniform(2, 10) if kills < KILLS else 5)
            except subprocess.TimeoutExpired:
                if kills < KILLS:
                    victim = generator.choice(processes(folder) or [driver.pid])
                    os.kill(victim, signal.SIGKILL)
                    kills += 1
                    yield "driver" if victim == driver.pid else "pack"
    finally:
        if driver.poll() is None:
            driver.kill()


@pytest.mark.fault(
    "60 trials, and every few seconds kill -9 of a driver or a pack",
    seen="the same command, typed again, continues",
    kept="exactly 60 finished trials, equal to those of an undisturbed sweep to the last bit",
)
def test_sixty_trials_survive_kills_at_random(tmp_path: Path) -> None:
    calm, soaked = tmp_path / "calm", tmp_path / "soaked"
    assert start(calm).wait(PATIENCE) == 0, (tmp_path / "calm.log").read_text()
    killed = list(disturbed(soaked, random.Random(0)))
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
    assert not processes(soaked)
    print(json.dumps({"killed": {kind: killed.count(kind) for kind in ("driver", "pack")}}))
