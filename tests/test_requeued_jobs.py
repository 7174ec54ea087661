"""Jobs of a pack that are run again, or resumed in place of a job that fails."""

import logging
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from hydratune.errors import Paused, RunError, SweepError
from hydratune.experiment import run as experiment
from hydratune.records.files import write_json, write_text
from hydratune.records.run_directory import RunDirectory
from hydratune.records.status import State
from hydratune.sweeps import pack
from hydratune.sweeps.options import HalvingOptions, PackOptions
from hydratune.sweeps.pack_arguments import PackArguments
from hydratune.sweeps.pack_job import Pack
from hydratune.sweeps.watch import Heartbeat
from hydratune.training.protocols import RungScore
from run_files import states
from test_config import compose


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore what a pack sets for its whole process."""
    monkeypatch.setattr(pack.lightning_trainer, "isolate_rng", pack.lightning_trainer.isolate_rng)
    threads, level = torch.get_num_threads(), logging.root.level
    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    yield
    torch.set_num_threads(threads)
    logging.root.setLevel(level)
    for number, handler in before.items():
        signal.signal(number, handler)


def jobs(folder: Path, *names: str) -> dict[str, RunDirectory]:
    for name in names:
        (folder / name).mkdir()
        write_text(
            PackArguments(folder, names, 1, 1).settings_file(name),
            OmegaConf.to_yaml(OmegaConf.structured(compose("resume=never"))),
        )
    return {name: RunDirectory(folder / name) for name in names}


@pytest.mark.usefixtures("in_this_process")
def test_jobs_that_an_error_of_the_pack_stopped_are_requeued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = jobs(tmp_path, "ends", "works", "breaks")
    for record in records.values():
        record.start()

    def run_job(pack: Pack, settings: Any, heartbeat: Heartbeat) -> None:
        if heartbeat.name == "breaks":
            while records["ends"].read_status().state is not State.stopped:
                time.sleep(0.01)
            raise OSError("the disk is gone")
        if heartbeat.name == "works":
            pack.resources.leave.wait(20)
        heartbeat.record.end(State.stopped, "interrupted by the user")

    monkeypatch.setattr(pack, "run_job", run_job)
    with pytest.raises(SweepError, match="the disk is gone"):
        pack.run(PackArguments(tmp_path, tuple(records), together=3, threads=1))
    assert records["ends"].read_status().state is State.stopped  # before the error
    assert records["works"].read_status().content == {
        **records["works"].read_status().content,
        "state": "waiting",
        "error": None,
    }


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("together", [1, 3])
def test_the_next_best_job_is_resumed_in_place_of_a_winner_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    """The second-best job is resumed first, fails as well, and then the third is resumed. No job
    starts again from the beginning, with resume=never or without.
    """
    losses, done = {"0": 0.3, "1": 0.2, "2": 0.1, "3": 0.4}, []

    def run(settings: Any, record: RunDirectory, context: Any) -> None:
        name, checkpoint = record.path.name, record.checkpoints / "last.ckpt"
        began = int(checkpoint.read_text()) if checkpoint.is_file() else 0
        for step in (step for step in context.schedule.rungs(12) if step > began):
            done.append((name, step))
            record.checkpoints.mkdir(exist_ok=True)
            checkpoint.write_text(str(step))
            if not context.schedule.may_continue(step, RungScore(losses[name])):
                raise Paused
        if name != "0":
            raise RunError("its file cannot be read")
        write_json(record.metrics_file, {"val/loss": losses[name]})

    monkeypatch.setattr(experiment, "run_experiment", run)
    records = jobs(tmp_path, *losses)
    options = PackOptions(halving=HalvingOptions(2))
    pack.run(PackArguments(tmp_path, tuple(losses), together, threads=1, options=options))
    assert states(tmp_path) == {"0": "finished", "1": "failed", "2": "failed", "3": "stopped"}
    assert sorted(done) == [("0", 2), ("0", 6), ("1", 2), ("1", 6), ("2", 2), ("2", 6), ("3", 2)]
    halved = records["3"].read_status().halved
    assert records["0"].read_status().halved is None and halved is not None and halved.step == 2
