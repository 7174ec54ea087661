"""A W&B sweep over an executor: a batch for each pack that can run, the next when one has ended.

Server and executor are played.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from conftest import SMALL
from hydratune.records.sweep import WandbSweep, read_sweep
from hydratune.sweeps.wandb_sweep import run, slots
from hydratune.tracking.wandb_sweep import AgentCommand, CommandKind, StoredSweep
from played_cluster import Cluster, played
from wandb_sweep_cases import sweep_file

Command = Callable[..., tuple[int, str]]
PLACE = WandbSweep("e", "toys", "s")
# rates above 5e-3 fail on the played cluster
RATES = [1e-3, 2e-3, 3e-3, 4e-3, 1e-4, 2e-4, 3e-4, 4e-4]


class Server:
    """Hands out a trial for each rate, then says that the sweep is over."""

    def __init__(self, rates: list[float]) -> None:
        self.rates, self.taken, self.agents = rates, 0, 0

    def create(self, content: Mapping[str, Any], project: str, entity: str | None) -> WandbSweep:
        self.content = content
        return PLACE

    def read(self, place: WandbSweep, key: str) -> StoredSweep:
        is_over = self.taken == len(self.rates)
        state = "FINISHED" if is_over else "RUNNING"
        return StoredSweep(PLACE, dict(self.content), state, "http://x/s")

    def state(self, place: WandbSweep) -> str:
        return "RUNNING"

    def register(self, place: WandbSweep) -> str:
        self.agents += 1
        return f"agent {self.agents}"

    def heartbeat(self, agent: str, run_id: str | None) -> list[AgentCommand]:
        if run_id is not None:
            return []
        if self.taken == len(self.rates):
            return [AgentCommand(CommandKind.exit)]
        self.taken += 1
        parameters = {"optimizer.lr": self.rates[self.taken - 1]}
        return [AgentCommand(CommandKind.run, f"run{self.taken}", parameters)]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster()
    monkeypatch.setattr(slots, "create_executor", played(cluster))
    monkeypatch.setenv("WANDB_MODE", "online")
    return cluster


@pytest.fixture
def driver(
    hydratune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str]]:
    """Return a function that runs ``hydratune sweep`` with batches of two in two slots."""
    words = (
        *("together=2", "hydra/launcher/executor=slurm", "hydra.launcher.executor.at_once=2"),
        f"hydra.sweep.dir={tmp_path}/s",
    )

    def drive(server: Server, *more: str) -> tuple[int, str]:
        monkeypatch.setattr(run, "SweepServer", lambda: server)
        command = ["hydratune", "train", *SMALL, "adapter.r=4"]
        parameters = {"optimizer.lr": {"values": RATES}}
        file = sweep_file(tmp_path, parameters, command=[*command, "${args_no_hyphens}"])
        return hydratune("sweep", str(file), *words, *more)

    return drive


def test_a_batch_begins_when_one_of_the_others_has_ended(
    driver: Callable[..., tuple[int, str]], cluster: Cluster, tmp_path: Path
) -> None:
    server = Server(RATES)
    code, text = driver(server)
    assert code == 0, text
    assert cluster.log == [
        *("trials 0, 1 of W&B sweep s", "trials 2, 3 of W&B sweep s", "end of 2, 3"),
        *("trials 4, 5 of W&B sweep s", "end of 4, 5"),
        *("trials 6, 7 of W&B sweep s", "end of 6, 7", "end of 0, 1", "closed"),
    ]
    assert cluster.most == 2 and server.agents == 4  # those of a batch that ended are used again
    trials = [job.trial for job in read_sweep(tmp_path / "s").values()]
    assert [trial and trial.run_id for trial in trials] == [f"run{n}" for n in range(1, 9)]
    assert "8 finished" in text


@pytest.mark.slow
def test_the_number_of_trials_is_that_of_the_call(
    driver: Callable[..., tuple[int, str]], cluster: Cluster
) -> None:
    server = Server(RATES)
    code, text = driver(server, "count=5")
    assert code == 0 and "5 finished" in text and server.taken == 5, text
    assert "job 4 alone" in cluster.log[3], cluster.log


@pytest.mark.slow
def test_packs_that_outlived_their_driver_are_waited_for(
    driver: Callable[..., tuple[int, str]], cluster: Cluster, tmp_path: Path
) -> None:
    server = Server(RATES)
    cluster.ends = 1
    code, text = driver(server)
    assert code == 1 and "killed" in text
    assert cluster.running == [("0", "1"), ("4", "5")]
    cluster.ends, cluster.log = sys.maxsize, []
    code, text = driver(server)
    assert code == 0 and "8 finished" in text, text
    assert cluster.log == [
        *("end of 4, 5", "trials 6, 7 of W&B sweep s", "end of 6, 7", "end of 0, 1", "closed")
    ]
    tries = [(tmp_path / "s" / str(n) / "tries").read_text().split() for n in range(8)]
    assert [len(of_one) for of_one in tries] == [1] * 8


@pytest.mark.slow
def test_what_was_lost_with_a_driver_is_run_again(
    driver: Callable[..., tuple[int, str]], cluster: Cluster
) -> None:
    server = Server(RATES[:6])
    cluster.ends = 0
    assert driver(server)[0] == 1
    cluster.ends, cluster.log, cluster.running = sys.maxsize, [], []
    code, text = driver(server)
    assert code == 0 and "6 finished" in text, text
    assert cluster.log == [
        *("trials 0, 1 of W&B sweep s", "trials 2, 3 of W&B sweep s", "end of 2, 3"),
        *("trials 4, 5 of W&B sweep s", "end of 4, 5", "end of 0, 1", "closed"),
    ]


@pytest.mark.slow
def test_a_driver_whose_first_trials_have_all_failed_gives_up(
    driver: Callable[..., tuple[int, str]], cluster: Cluster
) -> None:
    server = Server([0.01 + n / 1000 for n in range(30)])
    code, text = driver(server)
    assert code == 1 and text.count("have all failed: this driver ends") == 1, text
    assert server.taken == 8  # six have failed when the batch in the other slot still runs


def test_a_trial_with_a_wrong_setting_fails_alone(
    driver: Callable[..., tuple[int, str]], cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydratune.sweeps.wandb_sweep import trials

    reported: list[str] = []
    monkeypatch.setattr(
        trials, "_report_failed", lambda sweep, held, record: reported.append(held.job.name)
    )
    code, text = driver(Server([1e-3, -1.0, -2.0, -3.0, 2e-3]))
    assert code == 1 and "2 finished, 3 failed" in text, text
    assert reported == ["1", "2", "3"]
    assert cluster.log == ["job 0 alone", "job 4 alone", "end of 4", "end of 0", "closed"]
