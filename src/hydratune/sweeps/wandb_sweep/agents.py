"""The agents of a driver: they take trials from the W&B sweep, and report that they run."""

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

from hydratune.console import console
from hydratune.errors import RunError
from hydratune.records.sweep import WandbSweep, WandbTrial
from hydratune.tracking.wandb_sweep import CommandKind, SweepNotFoundError, SweepServer

_HEARTBEAT = 5.0  # seconds, as W&B's own agent
_ROUNDS = 3  # questions for further trials before a batch begins that has fewer than it may have


class Agents:
    """One agent for each trial that runs at the same time: the server gives an agent one run."""

    def __init__(self, server: SweepServer, sweep: WandbSweep) -> None:
        self._server, self._sweep = server, sweep
        self._agents: list[str] = []
        self._agent_of: dict[str, str] = {}  # id of a run -> agent to which it was given
        self._reported: set[str] = set()  # ids of the runs in the blocks of ``reporting``
        self.is_over = False  # the sweep hands out no more trials

    def take(self, count: int, trials: list[WandbTrial], busy: Collection[str] = ()) -> None:
        """Append at most ``count`` trials to ``trials``; none if the sweep is over.

        What was taken is there also if this is interrupted. ``busy``: ids of the runs that run, or
        begin with these. If there is none, this waits while the sweep has no trial, because it is
        paused or the server does not answer.
        """
        rounds = 0
        while not self.is_over and len(trials) < count:
            new = self._ask([*busy, *(trial.run_id for trial in trials)])
            trials += new
            if new:
                continue
            rounds += 1
            can_begin = bool(trials) or bool(busy)
            if self.is_over or (can_begin and rounds >= _ROUNDS):
                break
            if not can_begin and rounds == 1:
                state = self._server.state(self._sweep).lower()
                why = f"the sweep is {state}" if state else "the server does not answer"
                console.print(f"[yellow]no trial to run ({why}); waiting, Ctrl-C ends it")
            time.sleep(1.0 if can_begin else _HEARTBEAT)

    def _ask(self, busy: Collection[str]) -> list[WandbTrial]:
        """Return the trial, or more, that an agent is given which has none of the runs ``busy``."""
        agent = self._free_agent(self._agents_of({*busy, *self._reported}).values())
        try:
            commands = self._server.heartbeat(agent, None)
        except SweepNotFoundError:  # the server forgets agents that were silent for long
            self._agents.remove(agent)
            agent = self._free_agent(self._agents)
            try:
                commands = self._server.heartbeat(agent, None)
            except SweepNotFoundError:
                raise RunError(f"the W&B sweep {self._sweep} was deleted") from None
        trials = []
        for command in commands:
            if command.kind is CommandKind.run and command.parameters is not None:
                trials.append(WandbTrial(command.run_id, command.parameters))
                self._agent_of[command.run_id] = agent
            self.is_over |= command.kind is CommandKind.exit
        return trials

    def _agents_of(self, run_ids: Collection[str]) -> dict[str, str]:
        """Return the agent of each run; one that is resumed may be given one now."""
        others = self._reported.difference(run_ids)
        taken = {self._agent_of[i] for i in (*others, *run_ids) if i in self._agent_of}
        for run_id in run_ids:
            if run_id not in self._agent_of:
                self._agent_of[run_id] = self._free_agent(taken)
                taken.add(self._agent_of[run_id])
        return {run_id: self._agent_of[run_id] for run_id in run_ids}

    def _free_agent(self, taken: Collection[str]) -> str:
        """Return an agent that is not ``taken``; it is registered when it is needed."""
        for agent in self._agents:
            if agent not in taken:
                return agent
        self._agents.append(self._server.register(self._sweep))
        return self._agents[-1]

    @contextmanager
    def reporting(
        self,
        run_ids: Sequence[str],
        is_running: Callable[[str], bool],
        stop: Callable[[str], None],
    ) -> Iterator[None]:
        """Report inside the block that these runs are running, and ``stop`` those that W&B stops.

        An agent whose run has ended is silent until the block ends: it would be given another one.
        """
        agents = self._agents_of(run_ids)
        self._reported.update(run_ids)
        ended = threading.Event()

        def report() -> None:
            while not ended.wait(_HEARTBEAT):
                for run_id, agent in agents.items():
                    if is_running(run_id) and not ended.is_set():
                        self._report(run_id, agent, run_ids, stop)

        thread = threading.Thread(target=report, name="W&B agents", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            self._reported.difference_update(run_ids)

    def _report(
        self, run_id: str, agent: str, run_ids: Sequence[str], stop: Callable[[str], None]
    ) -> None:
        try:
            commands = self._server.heartbeat(agent, run_id)
        except SweepNotFoundError:  # it was deleted: what runs is trained to its end
            return
        for command in commands:
            if command.kind is CommandKind.stop and command.run_id in run_ids:
                stop(command.run_id)
