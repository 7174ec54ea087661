"""Samplers, and the study in which a search stores its trials."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend, JournalStorage

from hydratune.composition import sweep_name
from hydratune.errors import ConfigError
from hydratune.sweeps.search.objectives import SearchObjective
from hydratune.sweeps.search.samplers import make_sampler
from hydratune.sweeps.search.study import COMPOSED, open_storage, open_study
from search_cases import LOSS, search_settings, space


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"n_trials": 0}, "hydra.sweeper.n_trials = 0"),
        ({"batch": 0}, "hydra.sweeper.batch = 0"),
        ({"seed": -1}, "hydra.sweeper.seed = -1"),
        ({"sampler": "bayes"}, "one of: tpe, cmaes, nsgaii, random"),
        ({"sampler": "cmaes"}, "two ranges"),
        ({"sampler": "tpe", "options": {"startup": 3}}, "one of: .*n_startup_trials"),
        ({"sampler": "nsgaii", "options": {"population_size": 1}}, "population_size"),
    ],
)
def test_settings_that_a_sampler_cannot_use_are_refused(values: dict[str, Any], why: str) -> None:
    dimensions, _ = space("a=interval(0,1)", "b=1,2")
    with pytest.raises(ConfigError, match=why):
        make_sampler(search_settings(**values), dimensions, LOSS)


def drawn(file: Path, parts: Sequence[int], **values: Any) -> list[dict[str, Any]]:
    """Return the parameters of trials that several drivers, one after the other, ask for; ``parts``
    holds the number of trials of each driver.
    """
    dimensions, _ = space(
        "a=interval(0,1)", "b=interval(0,1)", "c=1,2,3", "d=int(interval(0,1000))"
    )
    for part in parts:
        study = open_study(
            str(file), "s", make_sampler(search_settings(**values), dimensions, LOSS), LOSS, {}
        )
        for _ in range(part):
            trial = study.ask()
            for dimension in dimensions:
                dimension.suggest(trial)
            study.tell(trial, trial.params["a"] + trial.params["b"])
    return [
        trial.params
        for trial in open_study(str(file), "s", optuna.samplers.RandomSampler(), LOSS, {}).trials
    ]


@pytest.mark.parametrize("sampler", ["random", "tpe", "cmaes", "nsgaii"])
def test_the_same_seed_draws_the_same_trials_however_often_it_is_interrupted(
    tmp_path: Path, sampler: str
) -> None:
    options = {"tpe": {"n_startup_trials": 3}, "nsgaii": {"population_size": 3}}.get(sampler, {})
    once = drawn(tmp_path / "a", [8], sampler=sampler, options=options)
    assert once == drawn(tmp_path / "b", [3, 1, 4], sampler=sampler, options=options)
    assert once != drawn(tmp_path / "c", [8], sampler=sampler, options=options, seed=1)
    if sampler != "nsgaii":  # whose trials inherit values of earlier trials
        assert len({trial["a"] for trial in once}) == 8 and all(
            trial["a"] != trial["b"] for trial in once
        )


def test_adaptive_samplers_learn(tmp_path: Path) -> None:
    for sampler in ("tpe", "cmaes"):
        late = drawn(tmp_path / sampler, [30], sampler=sampler)[20:]
        # random sampling has a mean of 1
        assert sum(trial["a"] + trial["b"] for trial in late) / 10 < 0.7, sampler


def test_an_incomplete_line_of_a_killed_driver_is_removed(tmp_path: Path) -> None:
    file = tmp_path / "study.log"
    before = drawn(file, [2])
    with file.open("a") as stream:
        stream.write('{"op_code": 4, "wor')
    assert drawn(file, [1])[:2] == before and len(drawn(file, [])) == 3


def test_an_incomplete_line_of_another_driver_is_removed_while_this_driver_works(
    tmp_path: Path,
) -> None:
    """For example, the other driver's disk was full. Lines that this driver appended to an
    incomplete line could never be read.
    """
    study = open_study(str(tmp_path / "s"), "s", optuna.samplers.RandomSampler(), LOSS, {})
    study.tell(study.ask(), 0.5)
    with (tmp_path / "s").open("a") as stream:
        stream.write('{"op_code": 4, "wor')
    study.tell(study.ask(), 0.25)
    assert [trial.value for trial in study.trials] == [0.5, 0.25]
    assert (
        len(open_study(str(tmp_path / "s"), "s", optuna.samplers.RandomSampler(), LOSS, {}).trials)
        == 2
    )


def test_other_ranges_settings_or_objectives_are_another_study(tmp_path: Path) -> None:
    def again(objective: str = "min", **span: list[str]) -> optuna.Study:
        given = {"ranges or choices": ["a: 1"], "settings": ["b=2"], **span}
        return open_study(
            str(tmp_path / "s"),
            "s",
            optuna.samplers.RandomSampler(),
            [SearchObjective("val/loss", objective)],
            given,
        )

    assert again()._study_id == again()._study_id
    with pytest.raises(ConfigError, match=r"other settings \(was b=2; is b=3"):
        again(settings=["b=3"])
    with pytest.raises(ConfigError, match=r"other ranges or choices \(was a: 1"):
        again(**{"ranges or choices": []})
    with pytest.raises(ConfigError, match="other objectives"):
        again("max")
    # the study was created without these
    assert again(**{COMPOSED: ["b=2", "c=1"]})._study_id == again()._study_id
    with pytest.raises(ConfigError, match=r"other settings when composed \(was c=1; is c=3"):
        again(**{COMPOSED: ["b=2", "c=3"]})
    with pytest.raises(
        ConfigError, match="other settings "
    ) as raised:  # the composed settings that follow from them are not listed again
        again(settings=["b=3"], **{COMPOSED: ["b=3", "c=1"]})
    assert COMPOSED not in str(raised.value)
    optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(tmp_path / "t"))), study_name="s"
    ).ask()
    with pytest.raises(ConfigError, match="another program"):
        open_study(str(tmp_path / "t"), "s", optuna.samplers.RandomSampler(), LOSS, {})


def test_a_study_can_be_stored_in_a_database(tmp_path: Path) -> None:
    place = f"sqlite:///{tmp_path}/study.db"
    open_study(place, "s", optuna.samplers.RandomSampler(), LOSS, {}).ask()
    assert len(open_study(place, "s", optuna.samplers.RandomSampler(), LOSS, {}).trials) == 1
    with pytest.raises(ConfigError, match=r"hydra\.sweeper\.storage"):
        open_study("nothing://x", "s", optuna.samplers.RandomSampler(), LOSS, {})
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"storage = .*/file/x\n.*\n.*a file that can be written"):
        open_study(f"{tmp_path}/file/x", "s", optuna.samplers.RandomSampler(), LOSS, {})


def test_a_database_that_does_not_answer_is_said() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(ConfigError, match="start the database, or correct the URL"):
        open_storage("postgresql+psycopg://u@127.0.0.1:1/d")


def test_more_trials_are_the_same_search_another_seed_is_not() -> None:
    def name(**values: Any) -> str:
        return sweep_name(
            "data",
            ["a=1,2", *values.pop("more", [])],
            None,
            {"n_trials": 3, "batch": 4, "seed": 0, **values},
        )

    assert name() == name(n_trials=13, batch=2) == name(more=["resume=force"])
    assert (
        len(
            {
                name(),
                name(seed=1),
                name(sampler="tpe"),
                name(objectives="val/loss:min"),
                sweep_name("data", ["a=1,2"], None),
            }
        )
        == 5
    )
