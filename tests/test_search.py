"""Random and adaptive search through the command line.

Most tests replace the training of a trial by a formula; the last ones train.
"""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from omegaconf import OmegaConf
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import TrialState

from conftest import SMALL
from hydratune.records.sweep import SweepJob, write_sweep
from hydratune.sweeps import job_processes
from search_cases import (
    SPACE,
    assert_study_is_that_of_the_runs,
    ended_jobs,
    formula_runner,
    load_study,
    loss,
    search_words,
    trial_states,
    wait_for,
)

pytestmark = pytest.mark.usefixtures("packs_here")

Command = Callable[..., tuple[int, str]]
SHARES_AND_HALVING = ("data.train_share=0.5,1", "hydra.launcher.halving.min_steps=2")


@pytest.fixture
def formula(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_processes, "run_job_process", formula_runner())


@pytest.mark.usefixtures("formula")
def test_a_search_runs_n_trials_and_continues_when_n_is_raised(
    hydratune: Command, tmp_path: Path
) -> None:
    code, text = hydratune(*search_words("hydra.sweeper.n_trials=4", "hydra.sweeper.batch=3"))
    (folder,) = (tmp_path / "outputs").iterdir()
    trials = load_study(folder).trials
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
    failed = trial_states(folder).count("FAIL")
    assert code == 1 and f"{failed} of 4 trials failed" in text and text.count("failed trials") == 1
    assert text.count("ranking by validation loss") == 1 and text.count("best: ") == 1
    assert f"best: outputs/{folder.name}/{load_study(folder).best_trial.number} " in text

    before = {file: file.stat().st_mtime_ns for file in folder.glob("*/status.json")}
    load_study(folder).ask()  # as after a driver that was killed before the trial had parameters
    assert hydratune(*search_words("hydra.sweeper.n_trials=6", "resume=auto"))[0] == 1
    assert len(load_study(folder).trials[4].params) == 2 and "RUNNING" not in trial_states(folder)
    assert len(trial_states(folder)) == 6 and list((tmp_path / "outputs").iterdir()) == [folder]
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert [trial.params for trial in load_study(folder).trials[:4]] == [
        trial.params for trial in trials
    ]

    code, text = hydratune(
        "train", "-m", "debug=smoke", "adapter.r=4,8", f"hydra.sweep.dir={folder}"
    )
    assert code == 2 and "the trials of a search are in this folder" in text
    code, text = hydratune(*search_words("adapter.r=4,8,16", f"hydra.sweep.dir={folder}"))
    assert code == 2 and "other ranges or choices" in text and "(4, 8, 16)" in text
    assert len(trial_states(folder)) == 6


@pytest.mark.usefixtures("formula")
def test_several_objectives_end_in_a_pareto_front(hydratune: Command, tmp_path: Path) -> None:
    words = search_words(
        "adapter.r=4",
        "hydra.sweeper.objectives=[val/loss:min,cost/tokens:min]",
        "hydra.sweeper.n_trials=4",
        sweeper="optuna",
    )
    code, text = hydratune(
        *words, "optimizer.lr=tag(log, interval(1e-5,4e-3))", f"hydra.sweep.dir={tmp_path}/sweep"
    )
    assert code == 0, text
    best = load_study(tmp_path / "sweep").best_trials
    assert len(best) > 1 and load_study(tmp_path / "sweep").metric_names == [
        "val/loss",
        "cost/tokens",
    ]
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
        (["hydra/launcher=pack", *SHARES_AND_HALVING], "set hydra.launcher.halving.min_steps=null"),
    ],
)
def test_a_search_that_cannot_work_is_refused_before_the_first_trial(
    hydratune: Command, tmp_path: Path, more: list[str], why: str
) -> None:
    code, text = hydratune(*search_words(*more, f"hydra.sweep.dir={tmp_path}/sweep"))
    assert code == 2 and why in text, text
    assert not (tmp_path / "sweep").exists()


@pytest.mark.usefixtures("formula")
def test_a_trial_that_the_checks_refuse_fails_alone(hydratune: Command, tmp_path: Path) -> None:
    """Each setting is valid by itself, but not together with the other."""
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
    trials = load_study(tmp_path / "sweep").trials
    wrong = [
        trial
        for trial in trials
        if trial.params["data.validation_fraction"] + trial.params["data.test_fraction"] > 1
    ]
    assert 0 < len(wrong) < 5 and [t.number for t in trials if t.state is TrialState.FAIL] == [
        t.number for t in wrong
    ]
    assert all("leave nothing to train on" in trial.user_attrs["reason"] for trial in wrong)
    assert code == 1 and f"{len(wrong)} of 4 trials failed" in text


def test_a_search_in_the_folder_of_a_grid_is_refused(hydratune: Command, tmp_path: Path) -> None:
    write_sweep(tmp_path / "sweep", [SweepJob("0", ("adapter.r=4",), {})])
    code, text = hydratune(*search_words(f"hydra.sweep.dir={tmp_path}/sweep"))
    assert code == 2 and "another sweep" in text
    assert not (tmp_path / "sweep" / "study.log").exists()


@pytest.mark.usefixtures("formula")
def test_a_driver_in_another_folder_keeps_its_trials(hydratune: Command, tmp_path: Path) -> None:
    """That driver may be on another machine, where its locks are."""
    file = tmp_path / "shared.log"
    words = search_words(f"hydra.sweeper.storage={file}", "hydra.sweeper.study_name=both")
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
            lambda: len(ended_jobs(folder)) >= 1 and len(list(folder.glob("*/history.csv"))) >= 2,
            first,
        )
        first.send_signal(signal.SIGKILL)
    assert "RUNNING" in trial_states(folder)
    finished = {
        file: file.stat().st_mtime_ns
        for file in ended_jobs(folder)
        if "finished" in file.read_text()
    }
    again = subprocess.run(
        [*command, f"hydra.sweep.dir={folder}"], capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert {file: file.stat().st_mtime_ns for file in finished} == finished
    ours, theirs = (
        [(t.state.name, t.params, t.values, t.intermediate_values) for t in load_study(path).trials]
        for path in (folder, undisturbed)
    )
    assert ours == theirs and len(ours) == 6
    assert {state for state, *_ in ours} == (
        {"COMPLETE"} if halving == "null" else {"COMPLETE", "PRUNED"}
    )
