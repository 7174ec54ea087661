"""The options of the launcher ``pack``: how the jobs of a sweep share processes, and halving.

They are defined here once: the Hydra launcher takes its settings (``hydra.launcher.*``) from these
dataclasses, and the process of a pack receives them as JSON. Needs no torch.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from hydratune.cores import cpu_count
from hydratune.errors import ConfigError, Problem, refuse
from hydratune.metric_table import VALIDATION
from hydratune.settings.monitor import LOSS, known_metrics
from hydratune.sweeps.executor_options import ExecutorOptions, executor_options

METRICS = (None, LOSS)
KINDS = ("sync", "asha")


@dataclass
class HalvingOptions:
    """Successive halving: most jobs are stopped early, see ``hydratune.sweeps.halving``."""

    # optimizer steps before the first decision; null: every job is trained to its end
    min_steps: int | None = None
    eta: int = 3  # the best one of so many is trained further
    # by which jobs are judged; null: their trainer.monitor; val/loss: whatever they monitor
    metric: str | None = None
    kind: str = "sync"  # or asha: no job waits for the others

    def __post_init__(self) -> None:
        """Check the options. Raises ``ConfigError`` for wrong values and those without effect."""
        wrong = self._unused() if self.min_steps is None else self._wrong(self.min_steps)
        if wrong:
            raise ConfigError(
                [
                    Problem(f"hydra.launcher.halving.{name}", getattr(self, name), why, fix)
                    for name, (why, fix) in wrong.items()
                ]
            )

    def _unused(self) -> dict[str, tuple[str, str]]:
        why = "no job is halved while min_steps is not set"
        fix = "add hydra.launcher.halving.min_steps=8"
        changed = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
        return dict.fromkeys(changed, (why, fix)) | self._wrong_metric()

    def _wrong_metric(self) -> dict[str, tuple[str, str]]:
        if self.metric in METRICS:
            return {}
        why = "jobs are judged by their trainer.monitor, or by the validation loss"
        metric = self.metric.replace("eval/", f"{VALIDATION}/", 1)
        fix = f"leave it out, and set trainer.monitor={metric}; or set {LOSS}"
        if metric not in known_metrics():
            fix = f"set {LOSS}, or leave it out and set trainer.monitor"
        return {"metric": (why, fix)}

    def _wrong(self, min_steps: int) -> dict[str, tuple[str, str]]:
        """Return option -> (why it is wrong, what to set)."""
        wrong = self._wrong_metric()
        if min_steps < 1:
            wrong["min_steps"] = "a job must be trained before it is judged", "set 1 or more"
        if self.eta < 2:
            why = "the best one of eta jobs is trained further"
            wrong["eta"] = why, "set 2 or more; usual is 3"
        if self.kind not in KINDS:
            wrong["kind"] = "there is no such kind", f"set {' or '.join(KINDS)}"
        return wrong

    @property
    def is_on(self) -> bool:
        return self.min_steps is not None

    @property
    def waits_for_all(self) -> bool:
        """Whether a job is paused at a rung until all jobs have reached it."""
        return self.is_on and self.kind == "sync"

    def rungs(self, total: int) -> list[int]:
        """Return the steps at which a job of ``total`` steps is judged; never its last step."""
        if self.min_steps is None or total <= self.min_steps:
            return []
        count = max(0, math.ceil(math.log(total / self.min_steps, self.eta) - 1e-9))
        return [step for step in self.first_rungs(count) if step < total]

    def first_rungs(self, count: int) -> list[int]:
        """Return the steps of the first ``count`` rungs, however long a job is."""
        return [(self.min_steps or 0) * self.eta**number for number in range(count)]


@dataclass
class PackOptions:
    """How jobs share a process: the options of the launcher ``pack``."""

    pack_size: int | None = None  # jobs of one pack at most; null: all
    # jobs of a pack that run at the same time; null: two more than there are cores
    together: int | None = None
    # seconds without a sign of life after which a job is given up; null: never
    patience: float | None = 1800.0
    # how often a job is tried again whose pack was killed while it ran, the last time alone
    retries: int = 1
    halving: HalvingOptions | None = field(default_factory=HalvingOptions)
    # tokens of one pass over short micro-packs of several jobs; 0: no such pass; null: 512 where
    # no bit of the results depends on it
    merge_tokens: int | None = None
    # copies of the frozen weights in the layout that a CPU reads fastest; null: for several jobs,
    # within 1/8 of the memory
    lay_out: bool | None = None
    executor: ExecutorOptions = field(default_factory=ExecutorOptions)

    def __post_init__(self) -> None:
        """Check the options. Raises ``ConfigError`` for values that are wrong."""
        problems = [
            Problem(f"hydra.launcher.{name}", getattr(self, name), why, fix)
            for name, (why, fix) in self._wrong().items()
        ]
        refuse([*problems, *self.executor.problems()])

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "PackOptions":
        """Return the options in ``values``, as Hydra or JSON give them. Raises ``ConfigError``."""
        halving = HalvingOptions(**(values.get("halving") or {}))
        executor = executor_options(values.get("executor") or {})
        return cls(**{**values, "halving": halving, "executor": executor})

    @property
    def jobs_at_once(self) -> int:
        """How many jobs of a pack run at the same time."""
        return self.together or (self.executor.cores or cpu_count()) + 2

    def size_of_packs(self, jobs: int, parts: int) -> int | None:
        """Return how many of ``jobs`` one pack has at most; None: there is no limit.

        ``parts``: packs that run at the same time.
        """
        return -(-jobs // parts) if self.pack_size is None and parts > 1 else self.pack_size

    @property
    def is_halving(self) -> bool:
        return self.halving is not None and self.halving.is_on

    def _wrong(self) -> dict[str, tuple[str, str]]:
        """Return option -> (why it is wrong, what to set)."""
        wrong = {}
        for name, count in (("pack_size", self.pack_size), ("together", self.together)):
            if count is not None and count < 1:
                wrong[name] = "at least one job has to run", "set 1 or more, or null"
        if self.patience is not None and self.patience <= 0:
            wrong["patience"] = "a job needs some time for each step", "set seconds, or null: never"
        if self.merge_tokens is not None and self.merge_tokens < 0:
            why = "there is no negative number of tokens"
            wrong["merge_tokens"] = why, "set 0 for no such pass, or null"
        if self.retries < 0:
            why = "a job is tried at least once"
            wrong["retries"] = why, "set 0 for no second try, or more"
        return wrong
