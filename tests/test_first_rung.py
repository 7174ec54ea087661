"""A first rung of halving that comes too early is said before the sweep starts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import write_rows
from hydratune.errors import ConfigError
from hydratune.experiment.idle_settings import expected_steps
from hydratune.sweeps import launch
from hydratune.sweeps.first_rung import early_rung
from test_config import compose

Command = Callable[..., tuple[int, str]]
HALVING = "hydra.launcher.halving.min_steps"


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        (["debug=smoke"], 4),
        (["debug=smoke", "trainer.max_steps=null", "trainer.max_epochs=3"], 48),
        (["trainer.max_epochs=2"], 280),  # 280 rows in batches of 2
        (["trainer.accumulate_grad_batches=4"], 35),
        (["trainer.max_steps=9"], 9),
        (["data.overlength=split"], None),
    ],
)
def test_the_steps_of_a_run_are_known_before_it(settings: list[str], steps: int | None) -> None:
    assert expected_steps(compose(*settings)) == steps


def test_a_quarter_of_the_steps_is_late_enough() -> None:
    assert not early_rung(25, 100) and not early_rung(6, 24) and not early_rung(5, 4)
    text = early_rung(24, 100)
    assert "after 24 of about 100 steps (24 %)" in text
    assert f"{HALVING}=25 is 25 %" in text
    assert f"{HALVING}=2 is" in early_rung(1, 7) and not early_rung(2, 7)


@pytest.mark.parametrize("more", [(), ("hydra/sweeper=random", "hydra.sweeper.n_trials=2")])
def test_an_early_rung_is_said_and_the_advice_silences_it(
    hydratune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    def stop(*_: Any) -> None:
        raise ConfigError([], prefix="stopped by the test: ")

    monkeypatch.setattr(launch, "run_jobs", stop)
    monkeypatch.setattr("hydratune.sweeps.search.run.run_batch", stop)
    file = write_rows(tmp_path / "x.jsonl", [{"prompt": "a", "completion": "b"}] * 100)
    words = ("train", "-m", "model=tiny", "data=files", f"data.train={file}", "data.batch_size=2")
    words = (*words, "optimizer.lr=1e-3,1e-4", *more)
    _, text = hydratune(*words, f"{HALVING}=2")
    assert "after 2 of about 40 steps (5 %)" in text and f"{HALVING}=10 is 25 %" in text
    _, text = hydratune(*words, f"{HALVING}=10", "hydra.sweep.dir=other")
    assert "stopped by the test" in text and "so early" not in text
