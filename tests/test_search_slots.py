"""Searches over an executor: a batch for each pack that can run, the next when one has ended."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hydratune.sweeps.search import slots
from played_cluster import Cluster, played
from search_cases import load_study, trial_states

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster()
    monkeypatch.setattr(slots, "create_executor", played(cluster))
    return cluster


def words(folder: Path, *more: str, trials: int = 8) -> list[str]:
    return [
        *("train", "-m", "debug=smoke", "hydra/sweeper=optuna", "hydra/launcher=pack"),
        *("hydra/launcher/executor=slurm", "hydra.launcher.executor.at_once=2"),
        *("hydra.sweeper.batch=2", f"hydra.sweeper.n_trials={trials}", f"hydra.sweep.dir={folder}"),
        *("adapter.r=4", "optimizer.lr=tag(log, interval(1e-5,4e-3))", *more),
    ]


def test_a_batch_begins_when_one_of_the_others_has_ended(
    hydratune: Command, tmp_path: Path, cluster: Cluster
) -> None:
    code, text = hydratune(*words(tmp_path / "s"))
    assert code == 0, text
    assert cluster.log == [
        *("trials 0, 1 of 8", "trials 2, 3 of 8", "end of 2, 3"),
        *("trials 4, 5 of 8", "end of 4, 5", "trials 6, 7 of 8", "end of 6, 7", "end of 0, 1"),
        "closed",
    ]
    assert cluster.most == 2 and trial_states(tmp_path / "s") == ["COMPLETE"] * 8
    code, text = hydratune(*words(tmp_path / "s"))
    assert code == 0 and cluster.log[-1] == "closed" and len(cluster.log) == 9  # nothing to run


@pytest.mark.slow
def test_a_batch_of_several_packs_takes_as_many_slots(
    hydratune: Command, tmp_path: Path, cluster: Cluster
) -> None:
    more = ("hydra.sweeper.batch=4", "hydra.launcher.pack_size=2")
    halving = (*more, "hydra.launcher.halving.min_steps=2")  # with which a batch is one pack
    assert hydratune(*words(tmp_path / "halving", *halving))[0] == 0
    assert cluster.log[:2] == ["trials 0, 1, 2, 3 of 8", "trials 4, 5, 6, 7 of 8"]
    cluster.log, cluster.most = [], 0
    code, text = hydratune(*words(tmp_path / "s", *more))
    assert code == 0, text
    assert cluster.most == 2 and cluster.log[:5] == [
        *("trials 0, 1 of 8", "trials 2, 3 of 8", "end of 2, 3", "end of 0, 1"),
        "trials 4, 5 of 8",
    ]


@pytest.mark.parametrize("halving", [(), ("hydra.launcher.halving.min_steps=2",)])
@pytest.mark.slow
def test_packs_that_outlived_their_driver_are_waited_for(
    hydratune: Command, tmp_path: Path, cluster: Cluster, halving: tuple[str, ...]
) -> None:
    cluster.ends = 1
    code, text = hydratune(*words(tmp_path / "s", *halving))
    assert code == 1 and "killed" in text
    assert trial_states(tmp_path / "s") == [*["RUNNING"] * 2, *["COMPLETE"] * 2, *["RUNNING"] * 2]
    assert cluster.running == [("0", "1"), ("4", "5")]
    cluster.ends, cluster.log = sys.maxsize, []
    code, text = hydratune(*words(tmp_path / "s", *halving))
    assert code == 0, text
    assert cluster.log == [
        *("end of 4, 5", "trials 6, 7 of 8", "end of 6, 7", "end of 0, 1", "closed")
    ]
    assert trial_states(tmp_path / "s") == ["COMPLETE"] * 8
    assert all(
        len((tmp_path / "s" / str(number) / "tries").read_text().split()) == 1
        for number in range(8)
    )


@pytest.mark.slow
def test_what_was_lost_with_a_driver_is_run_again_in_its_batches(
    hydratune: Command, tmp_path: Path, cluster: Cluster
) -> None:
    cluster.ends = 0
    code, text = hydratune(*words(tmp_path / "s"))
    assert code == 1 and "killed" in text
    cluster.ends, cluster.log, cluster.running = sys.maxsize, [], []
    assert hydratune(*words(tmp_path / "s", trials=5))[0] == 0
    assert cluster.log == [
        *("trials 0, 1 of 5", "trials 2, 3 of 5", "end of 2, 3"),
        *("job 4 alone", "end of 4", "end of 0, 1", "closed"),
    ]
    assert load_study(tmp_path / "s").trials[4].user_attrs["batch"] == 4


@pytest.mark.slow
def test_a_trial_that_cannot_share_its_process_runs_alone(
    hydratune: Command, tmp_path: Path, cluster: Cluster
) -> None:
    cluster.alone = ("1",)
    code, text = hydratune(*words(tmp_path / "s", trials=2))
    assert code == 0, text
    assert cluster.log == ["trials 0, 1 of 2", "end of 0, 1", "job 1 alone", "end of 1", "closed"]
    assert trial_states(tmp_path / "s") == ["COMPLETE"] * 2
