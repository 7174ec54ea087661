"""The agents of a driver of a W&B sweep, with a scripted server."""

import threading
from collections.abc import Collection, Iterator
from typing import Any

import pytest

from hydratune.errors import RunError
from hydratune.records.sweep import WandbSweep, WandbTrial
from hydratune.sweeps.wandb_sweep import agents as agents_module
from hydratune.sweeps.wandb_sweep.agents import Agents
from hydratune.sweeps.wandb_sweep.run import describe_call
from hydratune.tracking.wandb_sweep import AgentCommand, CommandKind, SweepNotFoundError

SWEEP = WandbSweep("e", "p", "s")
EXIT = [AgentCommand(CommandKind.exit)]


def run(name: str) -> list[AgentCommand]:
    return [AgentCommand(CommandKind.run, name, {"seed": 1})]


class ScriptedServer:
    """Answers heartbeats in the order of a script; then that the sweep is over."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.registered = list(answers), 0
        self.heartbeats: list[tuple[str, str | None]] = []
        self.stops: set[str] = set()

    def register(self, sweep: WandbSweep) -> str:
        self.registered += 1
        return f"agent {self.registered}"

    def state(self, sweep: WandbSweep) -> str:
        return "PAUSED"

    def heartbeat(self, agent: str, run_id: str | None) -> list[AgentCommand]:
        self.heartbeats.append((agent, run_id))
        if run_id is not None:
            return [AgentCommand(CommandKind.stop, run_id)] if run_id in self.stops else []
        answer = self.answers.pop(0) if self.answers else EXIT
        if answer is None:
            raise SweepNotFoundError
        return list(answer)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(agents_module, "_HEARTBEAT", 0.01)
    monkeypatch.setattr(agents_module.time, "sleep", lambda seconds: None)
    yield


def agents(*answers: Any) -> tuple[Agents, ScriptedServer]:
    server = ScriptedServer(*answers)
    return Agents(server, SWEEP), server  # type: ignore[arg-type]  # what a driver uses of it


def taken(asked: Agents, count: int, busy: Collection[str] = ()) -> list[str]:
    """Return the ids of the runs that are taken."""
    trials: list[WandbTrial] = []
    asked.take(count, trials, busy)
    return [trial.run_id for trial in trials]


def test_each_trial_has_an_agent_of_its_own_which_is_used_again() -> None:
    asked, server = agents(run("a"), run("b"), run("c"))
    assert taken(asked, 2) == ["a", "b"] and server.registered == 2
    assert taken(asked, 2) == ["c"]  # and the sweep is over
    assert server.registered == 2 and asked.is_over and taken(asked, 2) == []


def test_a_batch_begins_without_the_trials_that_do_not_come() -> None:
    asked, _ = agents(run("a"), [], [], [], run("b"))
    assert taken(asked, 3) == ["a"]


def test_an_agent_may_be_given_several_trials() -> None:
    asked, server = agents([*run("a"), *run("b")])
    assert taken(asked, 2) == ["a", "b"] and server.registered == 1
    seen = threading.Event()
    server.stops = {"b"}
    with asked.reporting(["a", "b"], lambda run_id: True, lambda run_id: seen.set()):
        assert seen.wait(10)
    assert {agent for agent, run_id in server.heartbeats if run_id} == {"agent 1"}


def test_trials_that_are_resumed_leave_the_other_agents_free() -> None:
    asked, server = agents(run("c"), [], [], [])
    assert taken(asked, 2, busy=["a", "b"]) == ["c"]
    assert server.registered == 4  # two have resumed trials, and one gets none
    asked, server = agents([], [], [])
    assert taken(asked, 1, busy=["a"]) == []  # it does not wait: there is something to run


def test_runs_of_several_batches_have_agents_of_their_own() -> None:
    """While a batch runs, those of another one, resumed or new, are not given its agents."""
    asked, server = agents(run("c"), run("d"), run("e"))
    with asked.reporting(["a", "b"], lambda run_id: True, lambda run_id: None):
        assert taken(asked, 1) == ["c"]
        with asked.reporting(["c", "x"], lambda run_id: True, lambda run_id: None):
            assert server.registered == 4
    used = {run_id: agent for agent, run_id in server.heartbeats if run_id}
    assert len({*used.values()}) == len(used)
    assert taken(asked, 2) == ["d", "e"] and server.registered == 4  # all are free again


def test_a_paused_sweep_is_waited_for(capfd: pytest.CaptureFixture[str]) -> None:
    asked, _ = agents(*[[]] * 10, run("a"))
    assert taken(asked, 1) == ["a"]
    assert capfd.readouterr().out.count("the sweep is paused") == 1


def test_an_agent_that_the_server_has_forgotten_is_registered_again() -> None:
    asked, server = agents(None, run("a"))
    assert taken(asked, 1) == ["a"] and server.registered == 2


def test_a_deleted_sweep_ends_the_driver() -> None:
    asked, _ = agents(None, None)
    with pytest.raises(RunError, match="was deleted"):
        taken(asked, 1)


def test_only_the_runs_that_run_are_reported_and_stopped() -> None:
    asked, server = agents()
    server.stops = {"b"}
    stopped: list[str] = []
    seen = threading.Event()

    def stop(run_id: str) -> None:
        stopped.append(run_id)
        seen.set()

    with asked.reporting(["a", "b"], lambda run_id: run_id == "b", stop):
        assert seen.wait(10)
    assert set(stopped) == {"b"} and {run_id for _, run_id in server.heartbeats} == {"b"}
    count = len(server.heartbeats)
    threading.Event().wait(0.1)
    assert len(server.heartbeats) <= count + 1


def test_what_was_taken_is_not_lost_if_the_server_goes_away() -> None:
    asked, _ = agents(run("a"), None, None)
    trials: list[WandbTrial] = []
    with pytest.raises(RunError):
        asked.take(2, trials)
    assert [trial.run_id for trial in trials] == ["a"]


@pytest.mark.parametrize(
    ("resumed", "had_ended", "has_file", "line"),
    [
        ([], False, True, ""),
        (["3"], False, True, "resumed in this call: trial 3"),
        (
            ["1", "2"],
            True,
            True,
            "resumed in this call: trials 1, 2; the sweep had ended before and handed out no new"
            " trials; hydra.sweep.dir=DIR makes a new sweep of this file",
        ),
        (
            [],
            True,
            False,
            "nothing was run in this call; the sweep had ended before and handed out no new trials",
        ),
    ],
)
def test_what_a_call_did_beside_new_trials(
    resumed: list[str], had_ended: bool, has_file: bool, line: str
) -> None:
    assert describe_call(resumed, had_ended=had_ended, has_file=has_file) == line
