"""The contract between a sweep and the process of a pack: its arguments, files and exit codes.

Needs no torch.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hydratune.settings.monitor import LOSS
from hydratune.sweeps.options import HalvingOptions, PackOptions
from hydratune.sweeps.planning import PlannedPack

SETTINGS_FOLDER = ".pack"  # in that of the sweep: the settings of the jobs that packs are to run
NEEDS_NEW_PACK = 75  # exit code of a pack that cannot continue, but whose unfinished jobs can


@dataclass(frozen=True)
class PackArguments:
    """The arguments of the process of a pack."""

    folder: Path  # of the sweep
    names: tuple[str, ...]  # of the jobs; those that ended before only count in the halving
    together: int  # jobs that run at the same time
    threads: int  # that compute, unless there is a GPU
    options: PackOptions = field(default_factory=PackOptions)
    failed: tuple[str, ...] = ()  # names of jobs that have failed and only count in the halving
    monitor: str = LOSS  # ``trainer.monitor`` of the jobs, by which halving judges them
    # id of the process that started the pack, which ends without it; 0: found out by the pack;
    # None: the pack is ended by others
    parent: int | None = None
    # by the job of a cluster that is queued again: the pack then saves its jobs and continues later
    is_requeued: bool = False
    # names of jobs -> rungs that halving has let them pass; None: the pack itself decides
    passed: Mapping[str, int] | None = None
    # names of all jobs that are judged together, in their order; empty: they are those of the pack
    group: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        folder: Path,
        pack: PlannedPack,
        options: PackOptions,
        threads: int,
        *,
        parent: int | None,
        is_requeued: bool = False,
    ) -> "PackArguments":
        """Return the arguments of the process that runs ``pack`` of the sweep in ``folder``."""
        return cls(
            folder,
            tuple(job.name for job in pack.jobs),
            pack.together,
            threads,
            options,
            pack.failed,
            pack.jobs[0].settings.trainer.monitor,
            parent,
            is_requeued,
            pack.passed,
            pack.group,
        )

    @property
    def halving(self) -> HalvingOptions:
        return self.options.halving or HalvingOptions()

    def settings_file(self, name: str) -> Path:
        """Return the file with the settings of a job that is to run."""
        return self.settings_of(self.folder, name)

    @staticmethod
    def settings_of(folder: Path, name: str) -> Path:
        """Return the file with the settings of a job of the sweep in ``folder``."""
        return folder / SETTINGS_FOLDER / f"{name}.yaml"

    def command(self) -> list[str]:
        """Return the command that starts the process, which ``parse`` reads again."""
        content = {
            "together": self.together,
            "threads": self.threads,
            "options": {k: v for k, v in asdict(self.options).items() if k != "executor"},
            "failed": self.failed,
            "monitor": self.monitor,
            "parent": self.parent,
            "is_requeued": self.is_requeued,
            "passed": None if self.passed is None else dict(self.passed),
            "own": self.names if self.group else None,
        }
        process = [sys.executable, "-m", "hydratune.sweeps.pack"]
        return [*process, str(self.folder), json.dumps(content), *(self.group or self.names)]

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> "PackArguments":
        """Return what ``FOLDER JSON NAME...`` says."""
        folder, text, *names = arguments
        content = json.loads(text)
        own = content["own"]
        return cls(
            Path(folder),
            tuple(names if own is None else own),
            content["together"],
            content["threads"],
            PackOptions.from_mapping(content["options"]),
            tuple(content["failed"]),
            content["monitor"],
            os.getppid() if content["parent"] == 0 else content["parent"],
            content["is_requeued"],
            content["passed"],
            () if own is None else tuple(names),
        )
