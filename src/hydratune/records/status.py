"""status.json: how far a run has come, and why it is not further."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple

from hydratune.settings.secrets import mask

BY_SIGNAL = "interrupted"  # why a run is stopped whose process or sweep was ended by a signal


class State(StrEnum):
    """The value of ``state`` in status.json."""

    waiting = "waiting"
    running = "running"
    finished = "finished"
    failed = "failed"
    stopped = "stopped"


class Outcome(StrEnum):
    """A state together with its reason: what a sweep decides by."""

    no_run = "no run"  # the directory holds none
    waiting = "waiting"  # to be started, or started again
    paused = "paused"  # until its sweep decides whether it continues
    running = "running"
    finished = "finished"
    failed = "failed"
    stopped = "stopped"  # by the user
    halved = "halved"  # stopped by successive halving, because other runs were better
    cannot_share_pack = "cannot share a pack"  # stopped, to be run again alone in a process


class Rung(NamedTuple):
    """What a run reported to its sweep after some steps; None: not a finite number, or no such."""

    step: int
    loss: float | None  # validation loss
    value: float | None = None  # of trainer.monitor, where that is another metric
    interval: tuple[float, float] | None = None  # confidence interval of ``value``

    @classmethod
    def read(cls, entry: list[Any]) -> "Rung":
        """Return an entry of ``rungs`` in status.json."""
        step, loss, *more = entry
        value, interval = (*more, None, None)[:2]
        return cls(step, loss, value, (interval[0], interval[1]) if interval else None)

    def stored(self) -> list[object]:
        """Return the entry of ``rungs`` in status.json."""
        if self.value is None and self.interval is None:
            return [self.step, self.loss]
        return [self.step, self.loss, self.value, list(self.interval) if self.interval else None]


@dataclass(frozen=True)
class Halved:
    """Where successive halving stopped a run."""

    step: int
    value: float | None = None  # validation loss there; None: not a finite number
    rung: int | None = None  # number of the rung, from 0
    monitored: float | None = None  # the metric by which it was judged, where that is no loss


# what does not outlast a new start of the run
_REASONS = ("halved", "paused", "cannot_share_pack")


@dataclass(frozen=True)
class Status:
    """The content of status.json.

    ``content`` is what the file holds, in its order, keys of other versions included; the
    properties read it. A value of the wrong type counts as missing. The methods return a changed
    copy.
    """

    content: Mapping[str, object] = field(default_factory=dict)

    @property
    def state(self) -> State | None:
        """None if there is no run, or a state that this version does not know."""
        value = self.content.get("state")
        return State(value) if isinstance(value, str) and value in set(State) else None

    @property
    def outcome(self) -> Outcome:
        """State and reason in one."""
        if self.state is None:
            return Outcome.no_run
        if self.halved is not None:
            return Outcome.halved
        if self.state is State.stopped and self.cannot_share_pack is not None:
            return Outcome.cannot_share_pack
        if self.state is State.waiting and self.is_paused:
            return Outcome.paused
        return Outcome(self.state.value)

    @property
    def started(self) -> str | None:
        """When the run started first, in ISO 8601 (UTC)."""
        return self._text("started")

    @property
    def error(self) -> str | None:
        """Why the run failed or was stopped, for people; programs read ``outcome``."""
        return self._text("error")

    @property
    def wandb_id(self) -> str | None:
        return self._text("wandb_id")

    @property
    def wandb_url(self) -> str | None:
        """The page of the W&B run; None if there is none, as of an offline run."""
        return self._text("wandb_url")

    @property
    def tries(self) -> int | None:
        """How often the job was started in a pack that was killed; None: never."""
        value = self.content.get("tries")
        return value if isinstance(value, int) else None

    @property
    def is_paused(self) -> bool:
        """Whether the run has stopped, with a checkpoint, for its sweep to decide."""
        return bool(self.content.get("paused"))

    @property
    def cannot_share_pack(self) -> str | None:
        """Why the run has to be alone in its process."""
        return self._text("cannot_share_pack")

    @property
    def halved(self) -> Halved | None:
        """Where successive halving stopped the run."""
        value = self.content.get("halved")
        if not isinstance(value, dict) or not isinstance(value.get("step"), int):
            return None
        loss, rung, monitored = value.get("value"), value.get("rung"), value.get("monitored")
        return Halved(
            value["step"],
            float(loss) if isinstance(loss, (int, float)) else None,
            rung if isinstance(rung, int) else None,
            float(monitored) if isinstance(monitored, (int, float)) else None,
        )

    @property
    def rungs(self) -> tuple[Rung, ...]:
        """The losses that the run has reported to its sweep, in the order of their steps."""
        value = self.content.get("rungs")
        return tuple(map(Rung.read, value)) if isinstance(value, list) else ()

    def _text(self, key: str) -> str | None:
        value = self.content.get(key)
        return value if isinstance(value, str) else None

    def changed(self, **values: object) -> "Status":
        """Return a copy with these keys of the file set."""
        return Status({**self.content, **values})

    def start(self, *, resumed: bool) -> "Status":
        """Return the status of a run that starts.

        ``resumed``: from a checkpoint; then it keeps when it was started first, its W&B run and
        its rungs.
        """
        before = self.content if resumed else {}
        if not resumed and "tries" in self.content:
            before = {"tries": self.content["tries"]}
        kept = {key: value for key, value in before.items() if key not in _REASONS}
        content = {"wandb_id": None, **kept, "state": State.running.value}
        started = (self.started if resumed else None) or _now()
        return Status({**content, "started": started, "ended": None, "error": None})

    def end(self, state: State, error: str | None = None) -> "Status":
        """Return the status of a run that ended; secrets in ``error`` are masked."""
        text = mask(error) if error else None
        return self.changed(state=state.value, ended=_now(), error=text)

    def wait(self) -> "Status":
        """Return the status of a run that will be started again, as if nothing had happened."""
        return self.changed(state=State.waiting.value, error=None)

    def pause(self) -> "Status":
        """Return the status of a run that waits for its sweep to decide."""
        return self.changed(state=State.waiting.value, paused=True)

    def report(self, rung: Rung) -> "Status":
        """Return the status with what was measured at a rung.

        What was reported at later steps, before the run was resumed, is dropped.
        """
        earlier = [own.stored() for own in self.rungs if own.step < rung.step]
        return self.changed(rungs=[*earlier, rung.stored()])

    def halve(self, judged_by: str = "") -> "Status":
        """Return the status of a run that is stopped at its last rung.

        ``judged_by``: the metric by which it was judged and its value, in words, if that is not the
        loss.
        """
        step, loss, value, _ = self.rungs[-1]
        why = f"halved at step {step}"
        if loss is not None:
            numbers = ", ".join(filter(None, [judged_by, f"validation loss {loss:.4f}"]))
            why = f"halved: not among the best at step {step} ({numbers})"
        halved: dict[str, object] = {"step": step, "value": loss, "rung": len(self.rungs) - 1}
        if judged_by:
            halved["monitored"] = value
        return self.changed(halved=halved).end(State.stopped, why)

    def resume_halved(self) -> "Status":
        """Return the status of a run that was halved and is to be continued."""
        return self.changed(halved=None).wait().pause()

    def leave_pack(self, why: str) -> "Status":
        """Return the status of a run that cannot share a pack, and has to run alone."""
        error = f"runs alone: {why}"
        return self.changed(state=State.stopped.value, error=error, cannot_share_pack=why)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
