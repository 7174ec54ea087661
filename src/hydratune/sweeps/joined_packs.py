"""Jobs that are added to a sweep while its packs run on a cluster, in packs of their own."""

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
from hydratune.sweeps.joining import key_of_driver, take
from hydratune.sweeps.options import PackOptions
from hydratune.sweeps.pack_arguments import PackArguments
from hydratune.sweeps.pack_processes import PackSource
from hydratune.sweeps.planning import PlannedJob, PlannedPack, plan
from hydratune.wording import counted


class JoinedPacks(PackSource):
    """Gives packs of the jobs that ``hydratune add`` offers to the driver."""

    def __init__(self, context: HydraContext, folder: Path, options: PackOptions) -> None:
        self._context, self._folder, self._options = context, folder, options
        self._key = key_of_driver(options)

    def further(self, busy: Collection[str]) -> Sequence[PlannedPack]:
        return self.meanwhile(busy)

    def meanwhile(self, busy: Collection[str]) -> Sequence[PlannedPack]:
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
