"""A cluster that is played: its packs write what a formula says instead of training."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hydratune.sweeps.executors.executor import EndedPack
from hydratune.sweeps.options import PackOptions
from hydratune.sweeps.planning import PlannedJob, PlannedPack
from search_cases import formula_runner

RUN = formula_runner()


@dataclass
class Cluster:
    """A cluster whose last pack ends first; packs outlive the command that submitted them."""

    running: list[tuple[str, ...]] = field(default_factory=list)  # names of the jobs of each pack
    log: list[str] = field(default_factory=list)
    most: int = 0  # packs that ran at a time
    ends: int = sys.maxsize  # packs after whose end the command is killed
    alone: tuple[str, ...] = ()  # jobs that their pack cannot run


class Executor:
    """Runs packs on a ``Cluster``."""

    def __init__(self, cluster: Cluster, jobs: Mapping[str, PlannedJob]) -> None:
        self.cluster = cluster
        left = [tuple(jobs[name] for name in names) for names in cluster.running]
        self.packs = [PlannedPack("left", some, 1) for some in left]

    def free(self) -> int:
        return sys.maxsize

    def submit(self, packs: Sequence[PlannedPack]) -> None:
        for pack in packs:
            self.packs.append(pack)
            self.cluster.log.append(f"{pack.title}{' alone' if pack.command else ''}")
        self._note()

    def running(self) -> Sequence[PlannedPack]:
        return self.packs

    def ended(self) -> Sequence[EndedPack]:
        if self.cluster.ends == 0:
            raise RuntimeError("killed")
        self.cluster.ends -= 1
        pack = self.packs.pop()
        for job in pack.jobs:
            if job.name in self.cluster.alone and not pack.command:
                job.record.start()
                job.record.change_status(lambda status: status.leave_pack("it draws numbers"))
            else:
                RUN(None, job)
        self.cluster.log.append(f"end of {', '.join(job.name for job in pack.jobs)}")
        self._note()
        return [EndedPack(pack, 0)]

    def cancel(self) -> None:
        self.packs.clear()

    def close(self) -> None:
        self.cluster.log.append("closed")

    def _note(self) -> None:
        names = [tuple(job.name for job in pack.jobs) for pack in self.packs]
        self.cluster.running, self.cluster.most = names, max(self.cluster.most, len(names))


def played(cluster: Cluster) -> Callable[..., Executor]:
    """Return what creates an executor on ``cluster``."""
    pytest.importorskip("submitit")

    def create(
        _: Path, options: PackOptions, gpus: Sequence[str], jobs: Mapping[str, PlannedJob]
    ) -> Executor:
        return Executor(cluster, jobs)

    return create
