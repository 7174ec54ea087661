"""The job of a cluster that runs a pack, run by submitit on this machine."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hydratune.records.run_directory import RunDirectory
from hydratune.settings.secrets import without_secrets
from hydratune.signals import kept_from_children
from hydratune.sweeps.executors.slurm_job import PackJob, result_file
from hydratune.sweeps.stop_requests import request_stop

SAVES = """
import os, signal, sys, time
parent = sys.argv[1]
if os.path.exists(parent):
    sys.exit(0)
with open(parent + ".part", "w") as stream:
    stream.write(str(os.getppid()))
os.rename(parent + ".part", parent)
time.sleep(0.5)
signal.signal(signal.SIGUSR2, lambda *_: sys.exit(75))
time.sleep(600)
"""


def test_a_job_that_is_to_leave_saves_and_starts_again(tmp_path: Path) -> None:
    """The pack takes time before it listens: what submitit's process gets meanwhile is sent
    again.
    """
    submitit = pytest.importorskip("submitit")
    executor = submitit.LocalExecutor(tmp_path, max_num_timeout=1)
    executor.update_parameters(timeout_min=10, stderr_to_stdout=True)
    parent = tmp_path / "parent"
    command = [sys.executable, "-S", "-c", SAVES, str(parent)]
    job = executor.submit(PackJob(command, str(tmp_path)))
    deadline = time.monotonic() + 120
    while not parent.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(int(parent.read_text()), signal.SIGUSR2)
    job._process.wait(120)
    (file,) = tmp_path.glob("*_result.json")
    assert json.loads(file.read_text()) == {"code": 0}
    assert "Requeued job" in str(job.stdout())


@pytest.mark.parametrize("is_asked_before", [False, True])
def test_a_job_alone_is_stopped_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_asked_before: bool
) -> None:
    """The process of a pack looks for requests itself, that of a single job does not."""
    monkeypatch.setattr("hydratune.sweeps.executors.slurm_job._job_id", lambda: "7")
    job = RunDirectory(tmp_path / "0")
    if is_asked_before:
        request_stop(tmp_path, "0")
    code = (
        "import pathlib, signal, sys, time; signal.signal(signal.SIGUSR2, lambda *_: sys.exit(75));"
        f" pathlib.Path({str(tmp_path / 'begun')!r}).touch(); time.sleep(600)"
    )
    before = signal.getsignal(signal.SIGTERM)

    def ask() -> None:
        while not (tmp_path / "begun").exists():
            time.sleep(0.05)
        request_stop(tmp_path, "0")  # it is not interrupted before it runs
        time.sleep(0.5)
        job.path.mkdir()
        job.start()

    thread = threading.Thread(target=ask)
    if not is_asked_before:
        thread.start()
    PackJob([sys.executable, "-S", "-c", code], str(tmp_path), str(job.path))()
    signal.signal(signal.SIGTERM, before)
    code_of_end = 130 if is_asked_before else 75
    assert json.loads(result_file(tmp_path, "7").read_text()) == {"code": code_of_end}
    assert (tmp_path / "begun").exists() is not is_asked_before


def test_a_process_that_is_killed_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hydratune.sweeps.executors.slurm_job._job_id", lambda: "7")
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    before = signal.getsignal(signal.SIGTERM)
    PackJob([sys.executable, "-S", "-c", code], str(tmp_path))()
    signal.signal(signal.SIGTERM, before)
    assert json.loads(result_file(tmp_path, "7").read_text()) == {"code": -9}


def test_a_process_that_a_run_needs_at_its_end_outlives_the_signal() -> None:
    """Slurm signals all processes of a job. W&B's would be gone when a run saves its work."""
    code = "import time; print(flush=True); time.sleep(60)"
    with kept_from_children("SIGTERM", "SIGUSR2"):
        kept = subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE)
    ended = subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE)
    with kept, ended:
        for process in (kept, ended):
            assert process.stdout is not None and process.stdout.readline()
            process.terminate()
        assert ended.wait(20) == -signal.SIGTERM and kept.poll() is None
        kept.kill()


def test_variables_with_secrets_are_left_out() -> None:
    kept = without_secrets({"HOME": "/home/me", "X": "hf_" + "a" * 24, "URL": "http://a:b@c"})
    assert kept == {"HOME": "/home/me"}
