"""The contract between a sweep and the process of a pack: its arguments, files and exit codes.

Needs no torch.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hydratune.settings.monitor import LOSS
from hydratune.sweeps.options import HalvingOptions, PackOptions

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
    parent: int | None = None  # id of the process that started the pack, which ends without it

    @property
    def halving(self) -> HalvingOptions:
        return self.options.halving or HalvingOptions()

    def settings_file(self, name: str) -> Path:
        """Return the file with the settings of a job that is to run."""
        return self.folder / SETTINGS_FOLDER / f"{name}.yaml"

    def command(self) -> list[str]:
        """Return the command that starts the process, which ``parse`` reads again."""
        content = {
            "together": self.together,
            "threads": self.threads,
            "options": asdict(self.options),
            "failed": self.failed,
            "monitor": self.monitor,
            "parent": self.parent,
        }
        process = [sys.executable, "-m", "hydratune.sweeps.pack"]
        return [*process, str(self.folder), json.dumps(content), *self.names]

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> "PackArguments":
        """Return what ``FOLDER JSON NAME...`` says."""
        folder, text, *names = arguments
        content = json.loads(text)
        return cls(
            Path(folder),
            tuple(names),
            content["together"],
            content["threads"],
            PackOptions.from_mapping(content["options"]),
            tuple(content["failed"]),
            content["monitor"],
            content["parent"],
        )
