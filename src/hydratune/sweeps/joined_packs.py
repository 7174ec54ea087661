"""Jobs that are added to a sweep while its packs run on a cluster, in packs of their own."""

import time
from collections.abc import Collection, Sequence
from pathlib import Path

from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf
from rich.markup import escape

from hydratune.console import console
from hydratune.errors import HydratuneError
from hydratune.records.run_directory import RunDirectory, RunFile
from hydratune.records.sweep import read_sweep
from hydratune.settings.commands import load
from hydratune.sweeps.job_processes import pack_of_one
from hydratune.sweeps.joining import key_of_driver, offered, take
from hydratune.sweeps.options import PackOptions
from hydratune.sweeps.pack_arguments import PackArguments
from hydratune.sweeps.pack_processes import PackSource
from hydratune.sweeps.planning import PlannedJob, PlannedPack, plan
from hydratune.wording import counted

_MOMENT = 0.5  # seconds in which a command offers all its jobs


class JoinedPacks(PackSource):
    """Gives packs of the jobs that ``hydratune add`` offers to the driver."""

    def __init__(self, context: HydraContext, folder: Path, options: PackOptions) -> None:
        self._context, self._folder, self._options = context, folder, options
        self._key = key_of_driver(options)
        self._seen: list[str] = []  # names of the jobs that were offered at the last look
        self._seen_at = 0.0  # by the monotonic clock: since when these are

    def further(self, busy: Collection[str]) -> Sequence[PlannedPack]:
        return self.meanwhile(busy)

    def meanwhile(self, busy: Collection[str]) -> Sequence[PlannedPack]:
        if not self._all_offered():
            return ()
        taken = [self._job(name) for name in take(self._folder, self._key) if name not in busy]
        jobs = [job for job in taken if job is not None]
        if not jobs:
            return ()
        names = escape(", ".join(job.name for job in jobs))
        console.print(f"job {names} was added, and is run beside the others", soft_wrap=True)
        settings = {number: job.settings for number, job in enumerate(jobs)}
        division = plan(settings, self._options.pack_size)
        packs = [pack_of_one(self._context, jobs[number]) for number in division.alone]
        for numbers in division.packs:
            members = tuple(jobs[number] for number in numbers)
            title = f"added pack: {counted(len(members), 'job')} on one base model"
            packs.append(PlannedPack(title, members, self._options.jobs_at_once))
        return packs

    def _all_offered(self) -> bool:
        """Return whether jobs are offered, and no more have come for a moment."""
        names, now = offered(self._folder, self._key), time.monotonic()
        if names != self._seen:
            self._seen, self._seen_at = names, now
        return bool(names) and now - self._seen_at >= _MOMENT

    def _job(self, name: str) -> PlannedJob | None:
        try:
            return _offered_job(self._folder, name)
        except (HydratuneError, OSError, KeyError) as error:
            why = escape(f"{type(error).__name__}: {error}")
            console.print(
                f"[yellow]job {escape(name)} was added, and cannot be read ({why}): it starts when"
                " the sweep's own jobs have ended",
                soft_wrap=True,
            )
            return None


def _offered_job(folder: Path, name: str) -> PlannedJob:
    """Return a job as the command that offers it has composed it and written it down."""
    record = RunDirectory(folder / name)
    written = record.file(RunFile.hydra)
    composed = OmegaConf.merge(
        *(OmegaConf.load(written / f"{n}.yaml") for n in ("config", "hydra"))
    )
    assert isinstance(composed, DictConfig)
    settings = load(PackArguments.settings_of(folder, name))
    return PlannedJob(read_sweep(folder)[name], record, settings, composed)
