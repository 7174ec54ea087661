"""Composing settings quickly gives what Hydra and OmegaConf would give by themselves."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hydra._internal.hydra import Hydra
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from hydratune.errors import ConfigError
from hydratune.settings.registry import plain
from hydratune.sweeps import launch
from test_config import compose

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def sweeps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of jobs of every sweep that would have been run."""
    counts: list[int] = []

    def run(context: object, folder: object, jobs: Sequence[object], _: object) -> None:
        counts.append(len(jobs))
        raise ConfigError([], prefix="stopped by the test: ")

    monkeypatch.setattr(launch, "run_jobs", run)
    return counts


def test_the_mode_of_hydra_makes_a_sweep(hydratune: Command, sweeps: list[int]) -> None:
    hydratune("train", "debug=smoke", "hydra.mode=MULTIRUN", "seed=0,1")
    assert sweeps == [2]


def test_the_mode_of_hydra_may_stand_in_a_file(
    tmp_path: Path, hydratune: Command, sweeps: list[int]
) -> None:
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    file = tmp_path / "own" / "experiment" / "mine.yaml"
    file.write_text("# @package _global_\nhydra: {mode: MULTIRUN}\n")
    hydratune("train", "--config-dir", "own", "experiment=mine", "debug=smoke")
    assert sweeps == [1]


def test_a_run_is_composed_once(hydratune: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    composed = []
    compose_config = Hydra.compose_config

    def counted(self: Hydra, *args: object, **kwargs: object) -> object:
        composed.append(kwargs.get("overrides"))
        return compose_config(self, *args, **kwargs)

    monkeypatch.setattr(Hydra, "compose_config", counted)
    get_mode = Hydra.get_mode
    assert hydratune("train", "debug=smoke", "data=files", "data.train=none.jsonl")[0] == 2
    assert len(composed) == 1 and Hydra.get_mode is get_mode


def test_hydra_copies_no_schema_of_a_group() -> None:
    compose()  # everything is registered
    stored = ConfigStore.instance().repo
    assert "hydra" in stored and "schema" not in stored


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("experiment=contracts", "model=tiny", "optimizer=muon", "adapter=dora"),
        ("+adapter.rank_pattern={a:8}", "optimizer.lr=1", "evaluation.metrics=[rouge,token_f1]"),
        ("+trainer.callbacks=[timer]", "optimizer.schedule=wsd", "data.schema=null"),
    ],
)
def test_plain_settings_are_those_of_omegaconf(settings: tuple[str, ...]) -> None:
    config = compose(*settings)
    tree = OmegaConf.structured(config)
    assert repr(plain(config)) == repr(OmegaConf.to_container(tree, enum_to_str=True))
