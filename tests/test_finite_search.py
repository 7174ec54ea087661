"""A search over a finite space asks for every point once, and ends when all have been tried."""

from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from hydratune.sweeps import job_processes
from hydratune.sweeps.search.distinct import points_of, size_of_space
from hydratune.sweeps.search.samplers import make_sampler
from hydratune.sweeps.search.study import open_study
from search_cases import formula_runner, load_study, search_settings, space
from test_search_study import LOSS

pytestmark = pytest.mark.usefixtures("packs_here")

Command = Callable[..., tuple[int, str]]
SPACE = ("a=1,2", "b=range(0,3)", "c=range(0.5,1.5,0.25)", "d=x")
SAMPLERS = ("random", "tpe", "nsgaii")


def asked(
    file: Path, count: int, *overrides: str, **values: object
) -> list[optuna.trial.FrozenTrial]:
    """The trials that a sampler asks for, one after the other."""
    dimensions, _ = space(*overrides)
    sampler = make_sampler(search_settings(**values), dimensions, LOSS)
    study = open_study(str(file), "s", sampler, LOSS, {})
    for _ in range(count):
        trial = study.ask()
        for dimension in dimensions:
            dimension.suggest(trial)
        study.tell(trial, float(trial.params["a"]) + float(trial.params["b"]))
    return study.trials


def test_the_size_of_a_space_is_known() -> None:
    assert size_of_space(space(*SPACE)[0]) == 2 * 3 * 4
    assert size_of_space(space("a=int(interval(1,5))", "b=tag(log, int(interval(1,4)))")[0]) == 20
    assert size_of_space(space("a=1,2", "b=interval(0,1)")[0]) is None
    assert size_of_space(space("a=interval(1.0,1.0)", "b=1,2")[0]) == 2


def test_values_have_numbers() -> None:
    for dimension in space("a=1,x,null", "b=range(0,3)", "c=range(0.5,1.5,0.25)")[0]:
        numbers = range(dimension.count() or 0)
        values = [dimension.value(number) for number in numbers]
        assert [dimension.number_of(value) for value in values] == list(numbers)
        assert values[0] == dimension.corners()[0] and values[-1] == dimension.corners()[-1]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_point_is_asked_for_twice(tmp_path: Path, sampler: str) -> None:
    options = {"tpe": {"n_startup_trials": 4}, "nsgaii": {"population_size": 4}}.get(sampler, {})
    trials = asked(tmp_path / "s", 24, *SPACE, sampler=sampler, options=options)
    assert len(points_of(trials, space(*SPACE)[0])) == 24
    again = asked(tmp_path / "again", 24, *SPACE, sampler=sampler, options=options)
    assert [trial.params for trial in trials] == [trial.params for trial in again]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_points_that_are_new_are_those_that_were_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    large = ("a=int(interval(1,100000))", "b=range(0,9)", "c=x", "d=int(interval(1,100000))")
    distinct = asked(tmp_path / "a", 15, *large, sampler=sampler)
    monkeypatch.setattr("hydratune.sweeps.search.samplers.size_of_space", lambda _: None)
    plain = asked(tmp_path / "b", 15, *large, sampler=sampler)
    assert [trial.params for trial in distinct] == [trial.params for trial in plain]


def test_equal_choices_are_refused(hydratune: Command) -> None:
    words = ("train", "-m", "debug=smoke", "hydra/sweeper=random")
    code, text = hydratune(*words, "optimizer.lr=1e-3,0.001,1e-4")
    assert code == 2 and "0.001 is listed twice" in text


@pytest.mark.slow
@pytest.mark.parametrize("sweeper", ["random", pytest.param("optuna", marks=pytest.mark.slow)])
def test_a_search_ends_when_every_point_has_been_tried(
    hydratune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sweeper: str
) -> None:
    monkeypatch.setattr(job_processes, "run_job_process", formula_runner())
    words = [
        *("train", "-m", "debug=smoke", f"hydra/sweeper={sweeper}", "hydra/launcher=process"),
        *("adapter.r=2,4", "optimizer.lr=1e-3,1e-4", "hydra.sweeper.n_trials=9"),
    ]
    code, text = hydratune(*words)
    printed = " ".join(text.split())
    assert code == 0, text
    assert "the space has 4 points, each is tried once: 4 have not been tried, and the search" in (
        printed
    )
    assert "ends after 4 trials instead of 9" in printed
    (folder,) = (tmp_path / "outputs").iterdir()
    points = {tuple(sorted(trial.params.items())) for trial in load_study(folder).trials}
    assert len(points) == len(load_study(folder).trials) == 4
    code, text = hydratune(*words)
    assert code == 0 and "all of them have been tried" in " ".join(text.split())
    assert len(load_study(folder).trials) == 4
