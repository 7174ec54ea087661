"""Sweeps over a real Slurm of this machine: equal to local ones, whatever dies in between."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import sweep_driver
from conftest import SHARED, SMALL
from run_files import offline_environment, states
from search_cases import SPACE, assert_study_is_that_of_the_runs
from sweep_driver import LOOPBACK, SECONDS, assert_same_curves, assert_same_sweep

pytestmark = pytest.mark.slow
SCRIPTS = SHARED / "tools" / "slurm"  # SLURM_CONF of a running cluster is used instead
RUN = (
    *(s for s in SMALL if not s.startswith(("data.batch_size", "trainer.max_steps"))),
    "data.max_train_rows=9",
    "data.batch_size=1",
    "trainer.max_steps=null",
)
SLURM = ("hydra/launcher/executor=slurm", "hydra.launcher.executor.at_once=2")
CANARY = "canary-52e9a07c1d"
SEARCH = (*SPACE, "hydra/sweeper=optuna", "hydra.sweeper.n_trials=6")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a Slurm with two nodes of a core each."""
    pytest.importorskip("submitit")
    if shutil.which("sinfo") is None:
        pytest.skip("Slurm is not installed: apt-get install slurm-wlm munge")
    if "SLURM_CONF" in os.environ:
        yield {"SLURM_CONF": os.environ["SLURM_CONF"]}
        return
    if not (SCRIPTS / "start_slurm.sh").is_file() or os.geteuid() != 0:
        pytest.skip("no Slurm runs (SLURM_CONF), and none can be started here")
    folder = tmp_path_factory.mktemp("cluster")
    with (folder / "start.log").open("w") as log:
        command = [str(SCRIPTS / "start_slurm.sh"), str(folder), "2"]
        subprocess.run(command, stdout=log, stderr=log, check=True, timeout=120)
    yield {"SLURM_CONF": str(folder / "slurm.conf")}
    subprocess.run([str(SCRIPTS / "stop_slurm.sh"), str(folder)], check=True, timeout=60)


class Driver(sweep_driver.Driver):
    """The command of a sweep, with the Slurm of the test around it."""

    def __init__(self, folder: Path, cluster: dict[str, str], *words: str) -> None:
        super().__init__(folder, *words, **cluster, WANDB_API_KEY=CANARY)
        self.environment = offline_environment(**cluster)

    def slurm(self, *command: str) -> str:
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout


@pytest.mark.fault(
    "kill -9 of a pack on Slurm, and scancel of another",
    seen="the first is submitted again, the runs of the second say stopped",
    kept="all checkpoints; the same command ends like an undisturbed sweep",
)
def test_halving_over_slurm_equals_local_with_workers_killed(
    tmp_path: Path, cluster: dict[str, str]
) -> None:
    """A pack is killed in the first round, and a job is cancelled in a later one."""
    words = (
        *(*RUN, "trainer.max_epochs=8", "optimizer.lr=1e-4,1e-3,1e-2,3e-2", "adapter.r=2,4,8"),
        "hydra.launcher.halving.min_steps=18",
    )
    local = Driver(tmp_path / "local", cluster, *words)
    local.until(lambda: any(local.steps(n) > 3 for n in range(12)))
    assert local.addresses() <= LOOPBACK
    os.kill(local.packs()[0], signal.SIGKILL)
    assert "tried again" in local.end()

    first = Driver(tmp_path / "slurm", cluster, *words, *SLURM)
    first.until(lambda: any(first.steps(n) > 3 for n in range(12)))
    assert first.addresses() <= LOOPBACK
    os.kill(first.packs()[0], signal.SIGKILL)
    first.until(lambda: any(first.steps(n) > 20 for n in range(12)))
    packs = json.loads((first.folder / "slurm" / "packs.json").read_text())["packs"]
    first.slurm("scancel", packs[0]["job_id"])
    text = first.end()
    assert "tried again" in text and "stopped by the user" in text
    assert "jobs do not get" in text and "WANDB_API_KEY" in text
    second = Driver(tmp_path / "slurm", cluster, *words, *SLURM)
    second.end()
    assert_same_sweep(second.folder, local.folder)

    words = (*words, *SLURM, "hydra.launcher.halving.kind=asha")
    third = Driver(tmp_path / "asha", cluster, *words)
    third.until(lambda: any(third.steps(n) > 20 for n in range(12)))
    third.process.kill()  # its packs continue
    third.process.wait()
    text = Driver(tmp_path / "asha", cluster, *words).end()
    assert "12 of 12 jobs in 2 packs, judged together" in text and "submitted before" in text
    assert "finished" in states(third.folder).values()
    assert_same_curves(third.folder, local.folder)
    places = [second.folder, Path(cluster["SLURM_CONF"]).parent]
    files = [file for place in places for file in place.rglob("*") if file.is_file()]
    assert not [file for file in files if CANARY.encode() in file.read_bytes()]


@pytest.mark.fault(
    "Slurm preempts a job",
    seen="it queues itself again",
    kept="everything until its last step",
)
def test_a_preempted_job_is_resumed_after_the_step(tmp_path: Path, cluster: dict[str, str]) -> None:
    words = (*RUN, "trainer.max_epochs=12", "seed=0,1", "trainer.checkpoint_minutes=null")
    words = (*words, "trainer.validations_per_epoch=1")
    driver = Driver(tmp_path / "slurm", cluster, *words, *SLURM, "hydra.launcher.pack_size=2")
    driver.until(lambda: driver.steps(0) > 5 and driver.steps(1) > 5)
    driver.slurm("scancel", "--signal=USR2", driver.slurm("squeue", "-h", "-o", "%A").split()[0])
    driver.end()
    log = next((driver.folder / "slurm").glob("*_log.out")).read_text()
    assert "Requeued job" in log
    assert "resumed after step" in (driver.folder / "0" / "run.log").read_text()
    local = Driver(tmp_path / "local", cluster, *words)
    local.end()
    assert_same_sweep(driver.folder, local.folder)


@pytest.mark.fault(
    "the time limit of a job of Slurm",
    seen="it queues itself again",
    kept="everything until its last step",
)
def test_a_job_at_its_time_limit_is_resumed(tmp_path: Path, cluster: dict[str, str]) -> None:
    words = (*RUN, "trainer.max_epochs=200", "seed=0,1", "trainer.checkpoint_minutes=null")
    words = (*words, "trainer.validations_per_epoch=1", "hydra.launcher.pack_size=2")
    limit = ("hydra.launcher.executor.minutes=2", "hydra.launcher.executor.seconds_to_save=70")
    driver = Driver(tmp_path / "slurm", cluster, *words, *SLURM, *limit)
    driver.end()
    log = next((driver.folder / "slurm").glob("*_log.out")).read_text()
    assert "Requeued job" in log and "timed-out" in log
    assert "resumed after step" in (driver.folder / "0" / "run.log").read_text()
    assert set(states(driver.folder).values()) == {"finished"}


def test_a_command_that_does_not_wait_is_typed_again(
    tmp_path: Path, cluster: dict[str, str]
) -> None:
    words = (*RUN, "trainer.max_epochs=1", "seed=0,1", *SLURM)
    words = (*words, "hydra.launcher.executor.wait=false")
    text = Driver(tmp_path / "sweep", cluster, *words).end()
    assert "the jobs run without this command" in text and "ranking" not in text
    deadline = time.monotonic() + SECONDS
    while "ranking" not in text and time.monotonic() < deadline:
        time.sleep(20)
        text = Driver(tmp_path / "sweep", cluster, *words).end()
    assert set(states(tmp_path / "sweep").values()) == {"finished"}
    assert len(list((tmp_path / "sweep" / "slurm").glob("*_submission.sh"))) == 1


@pytest.mark.fault(
    "kill -9 of the driver of a search on Slurm",
    seen="its jobs continue; the same command waits for them",
    kept="all trials; none runs twice",
)
def test_a_search_waits_for_the_jobs_of_a_driver_that_was_killed(
    tmp_path: Path, cluster: dict[str, str]
) -> None:
    words = (*RUN, *SEARCH, "trainer.max_epochs=4", "hydra.sweeper.batch=2", *SLURM)
    first = Driver(tmp_path / "search", cluster, *words)
    first.until(lambda: first.steps(0) > 3 and first.steps(2) > 3)  # two batches at a time
    assert not first.steps(4)
    first.process.kill()
    first.process.wait()
    text = Driver(tmp_path / "search", cluster, *words).end()
    assert "submitted before" in text and text.count("\nbest: ") == 1
    assert states(tmp_path / "search") == {str(number): "finished" for number in range(6)}
    assert_study_is_that_of_the_runs(tmp_path / "search", 6)
    logs = list((tmp_path / "search" / "slurm").glob("*_log.out"))
    assert len(logs) == 3  # one for each batch
