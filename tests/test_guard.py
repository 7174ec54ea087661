"""A process that ends with the one that asked for it, after it has saved its work."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hydratune.sweeps.executors import guard
from hydratune.sweeps.executors.guard import GuardedProcess, read_result

SAVES = """
import os, signal, sys, time
from pathlib import Path
def save(*_):
    Path("saved").touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
Path("pid.part").write_text(str(os.getpid()))
os.rename("pid.part", "pid")
time.sleep(600)
"""
STARTER = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(Path(guard.__file__).parent)!r})
from guard import GuardedProcess
here = Path.cwd()
command = [sys.executable, "-S", "-c", {SAVES!r}]
process = GuardedProcess(command, here / "log", here / "result.json", {{}}, here)
time.sleep(600)
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kills and asks /proc")


def until(file: Path) -> str:
    deadline = time.monotonic() + 60
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return file.read_text()


def started(folder: Path, code: str) -> GuardedProcess:
    command = [sys.executable, "-S", "-c", code]
    return GuardedProcess(command, folder / "log", folder / "result.json", {"A": "b"}, folder)


def test_output_and_exit_code_are_kept(tmp_path: Path) -> None:
    process = started(tmp_path, "import os; print(os.environ['A']); raise SystemExit(3)")
    assert process.poll(60) == 3 and read_result(tmp_path / "result.json") == 3
    assert (tmp_path / "log").read_text() == "b\n"


def test_a_signal_is_a_negative_code(tmp_path: Path) -> None:
    process = started(tmp_path, "import os; os.kill(os.getpid(), 9)")
    assert process.poll(60) == -signal.SIGKILL == process.end()


def test_a_process_that_is_ended_saves_its_work(tmp_path: Path) -> None:
    process = started(tmp_path, SAVES)
    until(tmp_path / "pid")
    assert process.poll() is None
    assert process.end() == 75 and (tmp_path / "saved").exists()


def test_a_process_outlives_a_killed_starter_to_save_its_work(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", STARTER], cwd=tmp_path) as starter:
        number = int(until(tmp_path / "pid"))
        starter.kill()
    until(tmp_path / "result.json")
    assert read_result(tmp_path / "result.json") == 75 and (tmp_path / "saved").exists()
    assert not Path(f"/proc/{number}").exists()


def test_a_process_does_not_outlive_its_guard(tmp_path: Path) -> None:
    process = started(tmp_path, SAVES)
    number = int(until(tmp_path / "pid"))
    status = Path(f"/proc/{number}/status").read_text()
    parent = int(status.partition("PPid:")[2].split()[0])
    os.kill(parent, signal.SIGKILL)
    assert process.poll(60) == -signal.SIGKILL
    deadline = time.monotonic() + 60
    while Path(f"/proc/{number}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{number}").exists() and not (tmp_path / "saved").exists()


def test_a_process_that_does_not_leave_is_killed(tmp_path: Path) -> None:
    """The file of the guard is run by another one, whose patience is shorter."""
    script = tmp_path / "impatient.py"
    script.write_text(
        Path(guard.__file__).read_text().replace("TIME_TO_SAVE = 90.0", "TIME_TO_SAVE = 0.2")
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guard, "__file__", str(script))
        ignores = SAVES.replace(
            "signal.signal(signal.SIGTERM, save)", "signal.signal(15, signal.SIG_IGN)"
        )
        process = started(tmp_path, ignores)
        until(tmp_path / "pid")
        assert process.end() == -signal.SIGKILL
