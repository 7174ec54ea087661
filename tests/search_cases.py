"""Searches whose trials are a formula instead of a training, and the studies they leave."""

import json
import math
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from optuna.storages.journal import JournalFileBackend, JournalStorage

from hydratune.records.files import write_json, write_text
from hydratune.records.run_directory import RunDirectory
from hydratune.records.status import State
from hydratune.sweeps.planning import PlannedJob
from hydratune.sweeps.search.objectives import SearchObjective
from hydratune.sweeps.search.settings import SearchSettings
from hydratune.sweeps.search.space import Dimension, read_space

LOSS = [SearchObjective("val/loss", "min")]


SPACE = ("optimizer.lr=tag(log, interval(1e-5,1e-2))", "adapter.r=4,8")


def space(*overrides: str) -> tuple[list[Dimension], list[str]]:
    return read_space(OverridesParser.create().parse_overrides(list(overrides)))


def search_settings(**values: Any) -> SearchSettings:
    given = {
        "sampler": "random",
        "n_trials": 4,
        "batch": 2,
        "seed": 0,
        "objectives": "val/loss:min",
        "options": {},
    }
    return SearchSettings(
        **{**given, "storage": None, "study_name": None, "params": None, **values}
    )


def load_study(folder: Path) -> optuna.Study:
    """Load the study of a search as the README says."""
    storage = JournalStorage(JournalFileBackend(str(folder / "study.log")))
    return optuna.load_study(study_name=None, storage=storage)


def trial_states(folder: Path) -> list[str]:
    return [trial.state.name for trial in load_study(folder).trials]


def loss(lr: float, r: int) -> float:
    return (math.log10(lr) + 3) ** 2 + r / 100


def formula_runner(delay: float = 0.0) -> Callable[..., int]:
    """Return a function that writes the files of a job without training it. Learning rates above
    5e-3 fail; jobs of rank 8 are halved.
    """

    def run(context: Any, item: PlannedJob) -> int:
        record, settings = item.record, item.settings
        lr, r = settings.optimizer.lr, settings.adapter.r  # type: ignore[attr-defined]
        tries = record.path / "tries"
        record.path.mkdir(parents=True, exist_ok=True)
        with tries.open("a") as stream:
            stream.write(f"{os.getpid()}\n")
        record.start()
        write_text(
            record.config_file, OmegaConf.to_yaml(OmegaConf.structured(settings), resolve=True)
        )
        write_json(record.path / "environment.json", {})
        time.sleep(delay)
        rungs = [[2, 1 + loss(lr, r)], [4, loss(lr, r)]]
        if lr > 5e-3:
            record.end(State.failed, "the loss is not finite")
            return 1
        if r == 8:
            record.update(rungs=rungs[:1], halved={"step": 2, "value": rungs[0][1], "rung": 0})
            record.end(State.stopped, "halved: not among the best at step 2")
            return 0
        record.update(rungs=rungs)
        write_json(
            record.metrics_file,
            {
                "val/loss": loss(lr, r),
                "objective": loss(lr, r),
                "cost/tokens": 1000 * lr,
                "settings": {},
            },
        )
        record.end(State.finished)
        return 0

    return run


def search_words(*more: str, sweeper: str = "random") -> list[str]:
    return [
        "train",
        "-m",
        "debug=smoke",
        f"hydra/sweeper={sweeper}",
        "hydra/launcher=process",
        *SPACE,
        *more,
    ]


def wait_for(
    condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 90
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.02)


def ended_jobs(folder: Path) -> list[Path]:
    return [
        file
        for file in sorted(folder.glob("*/status.json"))
        if json.loads(file.read_text())["state"] in ("finished", "failed", "stopped")
    ]


def assert_study_is_that_of_the_runs(folder: Path, count: int) -> None:
    study = load_study(folder)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * count
    for trial in study.trials:
        record = RunDirectory(folder / str(trial.number))
        assert trial.value == json.loads(record.metrics_file.read_text())["val/loss"]
        settings = OmegaConf.load(record.config_file)
        assert (settings.optimizer.lr, settings.adapter.r) == (
            trial.params["optimizer.lr"],
            trial.params["adapter.r"],
        )
        modules = str(settings.adapter.target_modules).replace("'", "").replace(" ", "")
        assert modules == trial.params.get("adapter.target_modules", modules)
