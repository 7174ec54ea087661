"""Random and adaptive search.

Most tests replace the training of a trial by a formula; the last ones train.
"""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from filelock import FileLock
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import TrialState

from conftest import SMALL
from hydratune.composition import sweep_name
from hydratune.errors import ConfigError
from hydratune.records.files import write_json, write_text
from hydratune.records.run_directory import RunDirectory
from hydratune.records.status import State
from hydratune.records.sweep import SweepJob, write_sweep
from hydratune.sweeps import job_processes
from hydratune.sweeps.job_processes import wait_for_unfinished
from hydratune.sweeps.planning import PlannedJob
from hydratune.sweeps.search.objectives import SearchObjective, read_objectives
from hydratune.sweeps.search.samplers import make_sampler
from hydratune.sweeps.search.settings import SearchSettings
from hydratune.sweeps.search.space import Dimension, read_space
from hydratune.sweeps.search.study import COMPOSED, open_study

Command = Callable[..., tuple[int, str]]
LOSS = [SearchObjective("val/loss", "min")]
SPACE = ("optimizer.lr=tag(log, interval(1e-5,1e-2))", "adapter.r=4,8")


def space(*overrides: str) -> tuple[list[Dimension], list[str]]:
    return read_space(OverridesParser.create().parse_overrides(list(overrides)))


def wanted(**values: Any) -> SearchSettings:
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


def opened(folder: Path) -> optuna.Study:
    """As the README says."""
    storage = JournalStorage(JournalFileBackend(str(folder / "study.log")))
    return optuna.load_study(study_name=None, storage=storage)


def states(folder: Path) -> list[str]:
    return [trial.state.name for trial in opened(folder).trials]


# --- what is searched


@pytest.mark.parametrize(
    ("text", "distribution"),
    [
        ("interval(1,3)", FloatDistribution(1, 3)),
        ("tag(log, interval(1e-5,1e-2))", FloatDistribution(1e-5, 1e-2, log=True)),
        ("int(interval(4,64))", IntDistribution(4, 64)),
        ("tag(log, int(interval(4,64)))", IntDistribution(4, 64, log=True)),
        ("range(1,5)", IntDistribution(1, 4)),
        ("range(3)", IntDistribution(0, 2)),
        ("range(8,65,8)", IntDistribution(8, 64, step=8)),
        ("range(10,0,-3)", IntDistribution(1, 10, step=3)),
        ("tag(log, range(1,9))", IntDistribution(1, 8, log=True)),
        ("range(0.1,0.5,0.1)", FloatDistribution(0.1, 0.4, step=0.1)),
        ("float(range(1,4))", FloatDistribution(1, 3, step=1)),
        ("4,8", CategoricalDistribution([4, 8])),
        ("choice(1e-4,1)", CategoricalDistribution([1e-4, 1])),
        ("shuffle(4,8)", CategoricalDistribution([4, 8])),
        ("null,true,a b,'c, d'", CategoricalDistribution([None, True, "a b", "c, d"])),
        ("null,'null'", CategoricalDistribution([None, "null"])),
        ("[q_proj,v_proj],null,{a:1}", CategoricalDistribution(["[q_proj,v_proj]", None, "{a:1}"])),
        ("1,true", CategoricalDistribution(["1", "True"])),
    ],
)
def test_every_kind_of_dimension_is_read(text: str, distribution: Any) -> None:
    (found,), fixed = space(f"x={text}", "y=[1,2]")
    assert found.distribution == distribution and fixed == ["y=[1,2]"]
    if isinstance(distribution, CategoricalDistribution):
        assert [type(c) for c in found.distribution.choices] == [
            type(c) for c in distribution.choices
        ]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "text",
    [
        "null,true,1e-4,a b",
        "'null','true','1',plain",
        "[q_proj,v_proj],'[a]',\"it's, so\"",
        "'a=b','${x}',x:y",
        "range(0.1,0.9,0.1)",
    ],
)
def test_an_override_sets_exactly_what_the_study_says(text: str) -> None:
    (found,), _ = space(f"+x={text}")
    (grid,) = OverridesParser.create().parse_overrides([f"+x={text}"])
    written = [
        OverridesParser.create().parse_override(f"+x={value}").value()
        for value in grid.sweep_string_iterator()
    ]
    values = found.corners() if not found.is_range() else [0.1 + 0.1 * k for k in range(8)]
    for value, expected in zip(values, written, strict=True):
        override = OverridesParser.create().parse_override(found.override(value))
        assert override.get_key_element() == "+x" and override.value() == (
            value if found.is_range() else expected
        )


def test_a_later_override_replaces_an_earlier_one() -> None:
    dimensions, fixed = space("a=1,2", "b=interval(0,1)", "c=7", "a=3", "c=4,5")
    assert [d.key for d in dimensions] == ["b", "c"] and fixed == ["a=3"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x=glob(*)", "a glob"),
        ("x=range(5,5)", "the range is empty"),
        ("x=range(1,5,-1)", "the range is empty"),
        ("x=range(1,5,0)", "the range is empty"),
        ("x=interval(3,1)", "the range is empty"),
        ("x=interval(0,inf)", "finite"),
        ("x=tag(log, interval(0,1))", "begin above 0"),
        ("x=tag(log, int(interval(-1,4)))", "begin above 0"),
        ("x=tag(log, range(1,9,2))", "no step"),
        ("x=tag(log, choice(1,2))", "no scale"),
        ("x=tag(normal, interval(0,1))", "the tag 'normal'"),
        ("x=4,4", "4 is listed twice"),
        ("x=4", "nothing to search"),
    ],
)
def test_what_spans_nothing_is_refused(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        space(text)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ConfigError, match="3 problems"):
        space("x=glob(*)", "y=interval(3,1)", "z=4,4", "w=1,2")


# --- what for, and how


@pytest.mark.parametrize(
    "given",
    [
        ["val/loss:min", "eval/field_f1:max"],
        {"val/loss": "min", "eval/field_f1": "max"},
        OmegaConf.create(["val/loss:min", "eval/field_f1:max"]),
        OmegaConf.create({"val/loss": "min", "eval/field_f1": "max"}),
    ],
)
def test_objectives_are_read_from_a_list_or_a_mapping(given: Any) -> None:
    assert read_objectives(given) == [*LOSS, SearchObjective("eval/field_f1", "max")]
    assert read_objectives("eval/field_f1/law:max") == [SearchObjective("eval/field_f1/law", "max")]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("val/los:min", "one of: val/loss, "),
        ("val/loss", "val/loss:min or val/loss:max"),
        ("val/loss:down", "its direction must be min or max"),
        ([], "nothing to search for"),
        (["val/loss:min", "val/loss:max"], "twice"),
    ],
)
def test_unclear_objectives_are_refused(given: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        read_objectives(given)


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
def test_what_no_sampler_can_do_is_refused(values: dict[str, Any], why: str) -> None:
    dimensions, _ = space("a=interval(0,1)", "b=1,2")
    with pytest.raises(ConfigError, match=why):
        make_sampler(wanted(**values), dimensions, LOSS)


def drawn(file: Path, parts: Sequence[int], **values: Any) -> list[dict[str, Any]]:
    """Parameters of trials that are asked for by one driver after the other, each as many as
    ``parts`` says.
    """
    dimensions, _ = space(
        "a=interval(0,1)", "b=interval(0,1)", "c=1,2,3", "d=int(interval(0,1000))"
    )
    for part in parts:
        study = open_study(
            str(file), "s", make_sampler(wanted(**values), dimensions, LOSS), LOSS, {}
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
    if sampler != "nsgaii":  # whose children inherit
        assert len({trial["a"] for trial in once}) == 8 and all(
            trial["a"] != trial["b"] for trial in once
        )


def test_adaptive_samplers_learn(tmp_path: Path) -> None:
    for sampler in ("tpe", "cmaes"):
        late = drawn(tmp_path / sampler, [30], sampler=sampler)[20:]
        # 1 for one that draws at random
        assert sum(trial["a"] + trial["b"] for trial in late) / 10 < 0.7, sampler


def test_half_a_line_of_a_killed_driver_is_removed(tmp_path: Path) -> None:
    file = tmp_path / "study.log"
    before = drawn(file, [2])
    with file.open("a") as stream:
        stream.write('{"op_code": 4, "wor')
    assert drawn(file, [1])[:2] == before and len(drawn(file, [])) == 3


def test_half_a_line_of_another_driver_is_removed_while_this_one_works(tmp_path: Path) -> None:
    """Of one whose disk was full, say: whatever this one appended to it could never be read."""
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
    # of a study that was made without
    assert again(**{COMPOSED: ["b=2", "c=1"]})._study_id == again()._study_id
    with pytest.raises(ConfigError, match=r"other settings when composed \(was c=1; is c=3"):
        again(**{COMPOSED: ["b=2", "c=3"]})
    with pytest.raises(
        ConfigError, match="other settings "
    ) as raised:  # what follows from them is not said again
        again(settings=["b=3"], **{COMPOSED: ["b=3", "c=1"]})
    assert COMPOSED not in str(raised.value)
    optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(tmp_path / "t"))), study_name="s"
    ).ask()
    with pytest.raises(ConfigError, match="another program"):
        open_study(str(tmp_path / "t"), "s", optuna.samplers.RandomSampler(), LOSS, {})


def test_a_database_holds_a_study_as_well(tmp_path: Path) -> None:
    place = f"sqlite:///{tmp_path}/study.db"
    open_study(place, "s", optuna.samplers.RandomSampler(), LOSS, {}).ask()
    assert len(open_study(place, "s", optuna.samplers.RandomSampler(), LOSS, {}).trials) == 1
    with pytest.raises(ConfigError, match=r"hydra\.sweeper\.storage"):
        open_study("nothing://x", "s", optuna.samplers.RandomSampler(), LOSS, {})


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


# --- the driver, with a formula for a trial


def loss(lr: float, r: int) -> float:
    return (math.log10(lr) + 3) ** 2 + r / 100


def instead_of_training(delay: float = 0.0) -> Callable[..., int]:
    """Runs no job, but leaves what one leaves. A rate above 5e-3 fails; rank 8 was halved."""

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


@pytest.fixture
def formula(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_processes, "run_job_process", instead_of_training())


def search(*more: str, sweeper: str = "random") -> list[str]:
    return [
        "train",
        "-m",
        "debug=smoke",
        f"hydra/sweeper={sweeper}",
        "hydra/launcher=process",
        *SPACE,
        *more,
    ]


@pytest.mark.usefixtures("formula")
def test_a_search_runs_as_many_trials_as_asked_for_and_goes_on_with_more(
    hydratune: Command, tmp_path: Path
) -> None:
    code, text = hydratune(*search("hydra.sweeper.n_trials=4", "hydra.sweeper.batch=3"))
    (folder,) = (tmp_path / "outputs").iterdir()
    trials = opened(folder).trials
    assert [trial.number for trial in trials] == list(range(4)) and len(
        list(folder.glob("*/status.json"))
    ) == 4
    expected = [
        TrialState.FAIL if t.params["optimizer.lr"] > 5e-3 else t.params["adapter.r"]
        for t in trials
    ]
    assert [t.state for t in trials] == [
        e if e is TrialState.FAIL else TrialState(1 if e == 4 else 2) for e in expected
    ]
    assert {t.state for t in trials} == {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}
    for trial in trials:
        settings = OmegaConf.load(folder / str(trial.number) / "config.yaml")
        assert (
            settings.optimizer.lr == trial.params["optimizer.lr"]
            and settings.adapter.r == trial.params["adapter.r"]
        )
        assert trial.user_attrs["run"] == str(folder / str(trial.number))
        value = loss(trial.params["optimizer.lr"], trial.params["adapter.r"])
        if trial.state is TrialState.COMPLETE:
            assert trial.values == [value] and trial.intermediate_values == {2: 1 + value, 4: value}
        if trial.state is TrialState.PRUNED:
            assert trial.values == [1 + value] and trial.intermediate_values == {2: 1 + value}
            assert trial.user_attrs["reason"] == "halved: not among the best at step 2"
        if trial.state is TrialState.FAIL:
            assert trial.user_attrs["reason"] == "the loss is not finite"
    failed = states(folder).count("FAIL")
    assert code == 1 and f"{failed} of 4 trials failed" in text and text.count("failed trials") == 1
    assert text.count("ranking by validation loss") == 1 and text.count("best: ") == 1
    assert f"best: outputs/{folder.name}/{opened(folder).best_trial.number} " in text

    before = {file: file.stat().st_mtime_ns for file in folder.glob("*/status.json")}
    opened(folder).ask()  # as if a driver had been killed before the trial had parameters
    assert hydratune(*search("hydra.sweeper.n_trials=6", "resume=auto"))[0] == 1
    assert len(opened(folder).trials[4].params) == 2 and "RUNNING" not in states(folder)
    assert len(states(folder)) == 6 and list((tmp_path / "outputs").iterdir()) == [folder]
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert [trial.params for trial in opened(folder).trials[:4]] == [
        trial.params for trial in trials
    ]

    code, text = hydratune(
        "train", "-m", "debug=smoke", "adapter.r=4,8", f"hydra.sweep.dir={folder}"
    )
    assert code == 2 and "the trials of a search are in this folder" in text
    code, text = hydratune(*search("adapter.r=4,8,16", f"hydra.sweep.dir={folder}"))
    assert code == 2 and "other ranges or choices" in text and "(4, 8, 16)" in text
    assert len(states(folder)) == 6


@pytest.mark.usefixtures("formula")
def test_several_objectives_end_in_a_pareto_front(hydratune: Command, tmp_path: Path) -> None:
    words = search(
        "adapter.r=4",
        "hydra.sweeper.objectives=[val/loss:min,cost/tokens:min]",
        "hydra.sweeper.n_trials=4",
        sweeper="optuna",
    )
    code, text = hydratune(
        *words, "optimizer.lr=tag(log, interval(1e-5,4e-3))", f"hydra.sweep.dir={tmp_path}/sweep"
    )
    assert code == 0, text
    best = opened(tmp_path / "sweep").best_trials
    assert len(best) > 1 and opened(tmp_path / "sweep").metric_names == ["val/loss", "cost/tokens"]
    front = text.split("Pareto front")[1]
    assert all(f"sweep/{trial.number} " in front for trial in best)
    assert "best: " not in text


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["adapter.r=interval(4,8)"], "adapter.r"),
        (["adapter.r=4", "optimizer.lr=1e-3"], "nothing to search"),
        (["hydra.sweeper.objectives=accuracy:max"], "one of: val/loss"),
        (["hydra/sweeper=basic"], "add hydra/sweeper=optuna"),
        (["hydra/launcher=basic"], "hydra/launcher=pack"),
        (["hydra.sweep.subdir=trial"], "hydra.sweep.subdir"),
    ],
)
def test_a_search_that_cannot_work_is_refused_before_the_first_trial(
    hydratune: Command, tmp_path: Path, more: list[str], why: str
) -> None:
    code, text = hydratune(*search(*more, f"hydra.sweep.dir={tmp_path}/sweep"))
    assert code == 2 and why in text, text
    assert not (tmp_path / "sweep").exists()


@pytest.mark.usefixtures("formula")
def test_a_trial_that_the_checks_refuse_fails_alone(hydratune: Command, tmp_path: Path) -> None:
    """Each setting is right by itself, but not both together."""
    given = (
        "train",
        "-m",
        "debug=smoke",
        "hydra/sweeper=random",
        "hydra/launcher=process",
        "adapter.r=4",
    )
    fractions = (
        "data=files",
        "data.train=rows.jsonl",
        "data.validation_fraction=0.1,0.6",
        "data.test_fraction=0.1,0.6",
    )
    (tmp_path / "rows.jsonl").write_text("{}\n")
    code, text = hydratune(
        *given,
        *fractions,
        "optimizer.lr=1e-3",
        "hydra.sweeper.n_trials=5",
        f"hydra.sweep.dir={tmp_path}/sweep",
    )
    trials = opened(tmp_path / "sweep").trials
    wrong = [
        trial
        for trial in trials
        if trial.params["data.validation_fraction"] + trial.params["data.test_fraction"] > 1
    ]
    assert 0 < len(wrong) < 5 and [t.number for t in trials if t.state is TrialState.FAIL] == [
        t.number for t in wrong
    ]
    assert all("leave nothing to train on" in trial.user_attrs["reason"] for trial in wrong)
    assert code == 1 and f"{len(wrong)} of 5 trials failed" in text


def test_a_search_does_not_move_into_the_folder_of_a_grid(
    hydratune: Command, tmp_path: Path
) -> None:
    write_sweep(tmp_path / "sweep", [SweepJob("0", ("adapter.r=4",), {})])
    code, text = hydratune(*search(f"hydra.sweep.dir={tmp_path}/sweep"))
    assert code == 2 and "another sweep" in text
    assert not (tmp_path / "sweep" / "study.log").exists()


def driver(folder: Path, *more: str, delay: float = 0.2) -> subprocess.Popen[str]:
    """A search in a process of its own, with a formula for a trial."""
    words = [*search(*more, sweeper="optuna"), f"hydra.sweep.dir={folder}"]
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_search; from"
        " hydratune.sweeps import job_processes\njob_processes.run_job_process ="
        f" test_search.instead_of_training({delay})\nfrom hydratune.cli import main;"
        f" sys.exit(main({words!r}))"
    )
    command = [sys.executable, "-c", code]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder.parent
    )


def wait_for(
    condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 90
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.02)


def ended(folder: Path) -> list[Path]:
    return [
        file
        for file in sorted(folder.glob("*/status.json"))
        if json.loads(file.read_text())["state"] in ("finished", "failed", "stopped")
    ]


def test_a_killed_driver_leaves_nothing_running_and_nothing_is_repeated(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    words = ("hydra.sweeper.n_trials=5", "hydra.sweeper.batch=2")
    with driver(folder, *words, delay=0.4) as first:
        wait_for(lambda: len(ended(folder)) == 3, first)
        first.send_signal(signal.SIGKILL)
    before = states(folder)
    assert len(before) == 4 and "RUNNING" in before
    params = [trial.params for trial in opened(folder).trials]
    done = {file: file.stat().st_mtime_ns for file in ended(folder)}
    with driver(folder, *words, delay=0) as second:
        text = second.communicate(timeout=90)[0]
    assert second.returncode in (0, 1), text
    assert len(states(folder)) == 5 and "RUNNING" not in states(folder)
    assert [trial.params for trial in opened(folder).trials][:4] == params
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


@pytest.mark.usefixtures("formula")
def test_a_driver_in_another_folder_keeps_its_trials(hydratune: Command, tmp_path: Path) -> None:
    """It may be on another machine, where its locks are."""
    file = tmp_path / "shared.log"
    words = search(f"hydra.sweeper.storage={file}", "hydra.sweeper.study_name=both")
    code, text = hydratune(*words, "hydra.sweeper.n_trials=2", f"hydra.sweep.dir={tmp_path}/one")
    assert code in (0, 1), text
    study = optuna.load_study(
        study_name="both", storage=JournalStorage(JournalFileBackend(str(file)))
    )
    study.ask().set_user_attr("run", str(tmp_path / "one" / "2"))
    code, text = hydratune(*words, "hydra.sweeper.n_trials=4", f"hydra.sweep.dir={tmp_path}/two")
    assert (
        code in (0, 1)
        and not (tmp_path / "two" / "2").exists()
        and (tmp_path / "two" / "3").is_dir()
    ), text
    assert [trial.state.name for trial in study.get_trials()][2] == "RUNNING"


def test_two_drivers_share_a_study(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    with driver(folder, "hydra.sweeper.n_trials=6", "hydra.sweeper.batch=2") as first:
        with driver(folder, "hydra.sweeper.n_trials=6", "hydra.sweeper.batch=2") as second:
            texts = [process.communicate(timeout=120)[0] for process in (first, second)]
    assert first.returncode in (0, 1) and second.returncode in (0, 1), texts
    assert len(states(folder)) == 6 and "RUNNING" not in states(folder)
    pids = [(folder / str(n) / "tries").read_text().split() for n in range(6)]
    assert all(len(tries) == 1 for tries in pids) and len({tries[0] for tries in pids}) == 2
    assert sorted(json.loads((folder / "sweep.json").read_text())["jobs"]) == [
        str(n) for n in range(6)
    ]


# --- with training


def assert_study_is_that_of_the_runs(folder: Path, count: int) -> None:
    study = opened(folder)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * count
    for trial in study.trials:
        record = RunDirectory(folder / str(trial.number))
        assert trial.value == json.loads(record.metrics_file.read_text())["val/loss"]
        settings = OmegaConf.load(record.config_file)
        assert (settings.optimizer.lr, settings.adapter.r) == (
            trial.params["optimizer.lr"],
            trial.params["adapter.r"],
        )
        assert (
            str(settings.adapter.target_modules).replace("'", "").replace(" ", "")
            == trial.params["adapter.target_modules"]
        )


TRAINED = (*SPACE, "adapter.target_modules=[q_proj,v_proj],[up_proj]", "hydra/launcher=pack")


@pytest.mark.slow
def test_tpe_over_a_pack_of_real_runs(hydratune: Command, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    options = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=6", "hydra.sweeper.batch=6")
    code, text = hydratune("train", "-m", *SMALL, *TRAINED, *options, f"hydra.sweep.dir={folder}")
    assert code == 0, text
    assert text.count("6 jobs on one base model") == 1 and text.count("\nbest: ") == 1
    assert_study_is_that_of_the_runs(folder, 6)


@pytest.mark.slow
@pytest.mark.parametrize("halving", ["null", "{min_steps: 2, eta: 2}"])
def test_a_killed_search_over_packs_ends_like_an_undisturbed_one(
    tmp_path: Path, halving: str
) -> None:
    settings = (
        *SMALL[:1],
        *(s for s in SMALL[1:] if not s.startswith("trainer.max_steps")),
        "trainer.max_epochs=20",
    )
    options = (
        "hydra.sweeper.n_trials=6",
        "hydra.sweeper.batch=3",
        "+hydra.sweeper.options.n_startup_trials=3",
    )
    words = [
        *settings,
        *TRAINED,
        "hydra/sweeper=optuna",
        *options,
        f"hydra.launcher.halving={halving}",
    ]
    command = [sys.executable, "-m", "hydratune", "train", "-m", *words]
    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "killed"
    done = subprocess.run(
        [*command, f"hydra.sweep.dir={undisturbed}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with subprocess.Popen(
        [*command, f"hydra.sweep.dir={folder}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as first:
        wait_for(
            lambda: len(ended(folder)) >= 1 and len(list(folder.glob("*/history.csv"))) >= 2, first
        )
        first.send_signal(signal.SIGKILL)
    assert "RUNNING" in states(folder)
    finished = {
        file: file.stat().st_mtime_ns for file in ended(folder) if "finished" in file.read_text()
    }
    again = subprocess.run(
        [*command, f"hydra.sweep.dir={folder}"], capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert {file: file.stat().st_mtime_ns for file in finished} == finished
    ours, theirs = (
        [(t.state.name, t.params, t.values, t.intermediate_values) for t in opened(path).trials]
        for path in (folder, undisturbed)
    )
    assert ours == theirs and len(ours) == 6
    assert {state for state, *_ in ours} == (
        {"COMPLETE"} if halving == "null" else {"COMPLETE", "PRUNED"}
    )
