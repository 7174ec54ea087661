"""Drivers of a search that are killed, or share a study."""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from hydratune.records.run_directory import RunDirectory
from hydratune.sweeps.job_processes import wait_for_unfinished
from search_cases import ended_jobs, load_study, search_words, trial_states, wait_for


def driver(folder: Path, *more: str, delay: float = 0.2) -> subprocess.Popen[str]:
    """Start a search in a separate process, with a formula for a trial."""
    words = [*search_words(*more, sweeper="optuna"), f"hydra.sweep.dir={folder}"]
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import search_cases; from"
        " hydratune.sweeps import job_processes\njob_processes.run_job_process ="
        f" search_cases.formula_runner({delay})\nfrom hydratune.cli import main;"
        f" sys.exit(main({words!r}))"
    )
    command = [sys.executable, "-c", code]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder.parent
    )


@pytest.mark.fault(
    "kill -9 of the driver of a search",
    seen="no process is left; the same command continues",
    kept="all finished trials",
)
@pytest.mark.slow
def test_a_killed_driver_leaves_nothing_running_and_nothing_is_repeated(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    words = ("hydra.sweeper.n_trials=5", "hydra.sweeper.batch=2")
    with driver(folder, *words, delay=0.4) as first:
        wait_for(lambda: len(ended_jobs(folder)) == 3, first)
        first.send_signal(signal.SIGKILL)
    before = trial_states(folder)
    assert len(before) == 4 and "RUNNING" in before
    params = [trial.params for trial in load_study(folder).trials]
    done = {file: file.stat().st_mtime_ns for file in ended_jobs(folder)}
    with driver(folder, *words, delay=0) as second:
        text = second.communicate(timeout=90)[0]
    assert second.returncode in (0, 1), text
    assert len(trial_states(folder)) == 5 and "RUNNING" not in trial_states(folder)
    assert [trial.params for trial in load_study(folder).trials][:4] == params
    assert {file: file.stat().st_mtime_ns for file in done} == done
    tries = [len((folder / str(n) / "tries").read_text().split()) for n in range(5)]
    # the fourth may have been killed before it began
    assert tries in ([1, 1, 1, 2, 1], [1, 1, 1, 1, 1])


def test_a_run_that_outlived_its_driver_is_waited_for(tmp_path: Path) -> None:
    wait_for_unfinished(RunDirectory(tmp_path / "none"))
    child = FileLock(tmp_path / ".lock", thread_local=False)  # a thread stands for a process
    child.acquire()
    timer = threading.Timer(0.3, child.release)
    timer.start()
    wait_for_unfinished(RunDirectory(tmp_path))
    assert timer.finished.is_set() and not child.is_locked


@pytest.mark.fault(
    "the same search is started twice",
    seen="trials are divided among the two",
    kept="everything; no trial runs twice",
)
@pytest.mark.slow
def test_two_drivers_share_a_study(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    with driver(folder, "hydra.sweeper.n_trials=6", "hydra.sweeper.batch=2") as first:
        with driver(folder, "hydra.sweeper.n_trials=6", "hydra.sweeper.batch=2") as second:
            texts = [process.communicate(timeout=120)[0] for process in (first, second)]
    assert first.returncode in (0, 1) and second.returncode in (0, 1), texts
    assert len(trial_states(folder)) == 6 and "RUNNING" not in trial_states(folder)
    pids = [(folder / str(n) / "tries").read_text().split() for n in range(6)]
    assert all(len(tries) == 1 for tries in pids) and len({tries[0] for tries in pids}) == 2
    assert sorted(json.loads((folder / "sweep.json").read_text())["jobs"]) == [
        str(n) for n in range(6)
    ]
