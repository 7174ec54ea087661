"""Faults of the machine around a run: what is seen, and that nothing finished is lost."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import lightning
import pytest

from conftest import SMALL
from fault_table import TESTS, faults
from hydratune.records.metrics import RunMetrics
from hydratune.records.run_directory import RunDirectory
from hydratune.training.resume import TrainerPosition

Command = Callable[..., tuple[int, str]]
NO_MOUNTS = "a file system can only be mounted by root on Linux"


def can_mount() -> bool:
    return sys.platform == "linux" and os.geteuid() == 0


class Disk:
    """A file system in memory, of a given size."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def mount(self, options: str) -> None:
        """Mount it, or mount it again with other options. Skips the test if that is forbidden."""
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode and "mount" not in options:  # the first time
            pytest.skip(f"no file system can be mounted: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr

    def unmount(self) -> None:
        if self.folder.is_mount():  # lazily: the log of the last run may still be open
            subprocess.run(["umount", "-l", str(self.folder)], capture_output=True, check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if not can_mount():
        pytest.skip(NO_MOUNTS)
    disk = Disk(tmp_path / "disk")
    yield disk
    disk.unmount()


@pytest.mark.fault(
    "the disk of the outputs is full, TMPDIR elsewhere",
    seen="exit code 1, and one message with the file and what to do",
    kept="no file is half written; with space, the same command finishes the run",
)
@pytest.mark.parametrize("size", ["8k", "300k", pytest.param("600k", marks=pytest.mark.slow)])
def test_a_run_on_a_full_disk_ends_with_one_message_and_is_finished_later(
    hydratune: Command, disk: Disk, size: str
) -> None:
    disk.mount(f"size={size}")
    words = ("train", *SMALL, "tracking=disabled", f"hydra.run.dir={disk.folder}/run")
    code, text = hydratune(*words)
    assert code == 1 and "No space left on device" in text, text
    assert text.count("hydratune train:") == 1 and "Traceback" not in text
    assert "free some space" in text and str(disk.folder) in text
    disk.mount("remount,size=60m")
    code, text = hydratune(*words)
    record = RunDirectory(disk.folder / "run")
    assert code == 0 and record.is_finished(), text
    assert RunMetrics.read(record.metrics_file).values["val/loss"] > 0


@pytest.mark.fault(
    "the outputs are on a read-only file system",
    seen="exit code 1 before anything is computed, and the setting that chooses another place",
    kept="what is there: `hydratune status` and `hydratune compare html=false` show it",
)
def test_a_read_only_folder_is_refused_at_once(hydratune: Command, disk: Disk) -> None:
    disk.mount("size=60m")
    assert hydratune("train", *SMALL, "tracking=disabled", f"hydra.run.dir={disk.folder}/a")[0] == 0
    for handler in logging.root.handlers:  # which holds the log of the run open, for writing
        handler.close()
    disk.mount("remount,ro")
    code, text = hydratune("train", *SMALL, f"hydra.run.dir={disk.folder}/b")
    assert code in (1, 2) and "Read-only file system" in text and "hydra.run.dir=" in text
    assert "training" not in text.split("Read-only")[0].rpartition("hydratune train:")[0]
    for words in (("evaluate",), ("judge", "local=base")):
        code, text = hydratune(*words, f"run={disk.folder}/a")
        assert code == 2 and f"cannot write into {disk.folder}/a" in text, text
    assert hydratune("status", str(disk.folder))[0] == 0
    assert hydratune("compare", str(disk.folder / "a"), "html=false")[0] == 0


@pytest.mark.fault(
    "the outputs are on another file system than cache and temporary files",
    seen="nothing: files are renamed within their own folder",
    kept="everything",
)
def test_outputs_may_be_on_a_file_system_of_their_own(hydratune: Command, disk: Disk) -> None:
    disk.mount("size=60m")
    code, text = hydratune("train", *SMALL, f"hydra.run.dir={disk.folder}/run")
    assert code == 0 and RunDirectory(disk.folder / "run").is_finished(), text


@pytest.mark.fault(
    "the clock is set back by a day while a run trains",
    seen="nothing: durations are measured by a clock that is never set",
    kept="everything; checkpoints by time are still written",
)
def test_a_clock_that_is_set_back_changes_no_duration(
    hydratune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, write, written = time.time, TrainerPosition.write, 0

    def set_back() -> float:
        return real() - (86_400 if written else 0)

    def count(self: TrainerPosition, trainer: lightning.Trainer) -> None:
        nonlocal written
        write(self, trainer)
        written += 1

    monkeypatch.setattr(time, "time", set_back)
    monkeypatch.setattr(TrainerPosition, "write", count)
    words = ("trainer.checkpoint_minutes=1e-6", "trainer.validations_per_epoch=1")
    words = (*words, "data.batch_size=2", "trainer.max_steps=4", "tracking=disabled")
    code, text = hydratune("train", *SMALL, *words, f"hydra.run.dir={tmp_path}/run")
    assert code == 0, text
    metrics = RunMetrics.read(RunDirectory(tmp_path / "run").metrics_file)
    assert all(seconds >= 0 for seconds in metrics.seconds.values()) and metrics.seconds
    assert metrics.values["cost/tokens_per_second"] > 0 and "-" not in text.split("took")[1][:8]
    assert written == 4


def test_every_row_of_the_table_is_a_test() -> None:
    found = faults()
    assert len(found) > 30 and len({fault.what for fault in found}) == len(found)
    assert all(fault.seen and fault.kept for fault in found)
    assert (TESTS / "test_faults.py").name in {fault.test.partition("::")[0] for fault in found}
