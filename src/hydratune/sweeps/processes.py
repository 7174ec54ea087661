"""Runs the jobs of a sweep one after the other, each in a process of its own.

Every job is the command a user would type, so a job's folder alone says how to repeat it. Memory is freed between jobs,
and a crash is the crash of one job.
"""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from rich.table import Table

from hydratune import config
from hydratune.checks import configuration_problems, mask
from hydratune.console import console, section
from hydratune.errors import ConfigError, Problem, SweepError
from hydratune.records import RunDirectory
from hydratune.sweeps.records import Job, read_sweep, varying, write_sweep
from hydratune.tracking.ranking import collect, ranking_table

_GRACE = 90.0  # seconds a job has to keep its work after Ctrl-C


@dataclass(frozen=True)
class Planned:
    """A job and its folder."""

    job: Job
    record: RunDirectory


def launch(context: HydraContext, sweep: DictConfig, overrides: Sequence[Sequence[str]], first: int) -> None:
    """Checks every job, then runs those that are not finished yet.

    Raises ``ConfigError`` before anything runs if any job is wrong, ``SweepError`` at the end if any failed.
    """
    folder = Path(str(sweep.hydra.sweep.dir)).absolute()
    try:
        names = _check_all(context, sweep, overrides, first)
    except ConfigError:
        if not read_sweep(folder):
            (folder / "multirun.yaml").unlink(missing_ok=True)
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        raise
    differing = varying([list(job) for job in overrides])
    jobs = [Job(name, tuple(job), vary) for name, job, vary in zip(names, overrides, differing, strict=True)]
    write_sweep(folder, [*(j for name, j in read_sweep(folder).items() if name not in names), *jobs])
    planned = [Planned(job, RunDirectory(folder / job.name)) for job in jobs]
    for stale in planned:  # a folder of another sweep must not be taken for this job's result
        _refuse_other_job(stale)
    console.print(f"[bold]sweep of {len(jobs)} jobs[/]  {_shown(folder)}", soft_wrap=True)
    failed = _run_all(context, planned)
    section("ranking")
    table, best = ranking_table([run for run in collect([folder]) if run.path.name in names])
    console.print(table)
    console.print(best, soft_wrap=True)
    if (folder / "wandb").is_dir():
        console.print(f"W&B         wandb sync --sync-all {_shown(folder / 'wandb')}", soft_wrap=True)
    if failed:
        console.print(_failures(failed))
        raise SweepError(f"{len(failed)} of {len(jobs)} jobs failed; start the same sweep again to run only those")


def _check_all(context: HydraContext, sweep: DictConfig, overrides: Sequence[Sequence[str]], first: int) -> list[str]:
    """Composes and checks every job; returns their folder names."""
    problems: list[Problem] = []
    names = []
    for number, job in enumerate(overrides, first):
        composed = context.config_loader.load_sweep_config(sweep, list(job))
        with open_dict(composed):
            composed.hydra.job.id, composed.hydra.job.num = str(number), number
        names.append(str(composed.hydra.sweep.subdir))
        try:
            task = OmegaConf.masked_copy(composed, [str(k) for k in composed if k != "hydra"])
            found = configuration_problems(config.typed(task, config.TrainConfig))
        except OmegaConfBaseException as error:
            found = [Problem("job", " ".join(job), str(error).splitlines()[0], "see hydratune train --cfg job")]
        problems += [p for p in found if p not in problems]
    if problems:
        raise ConfigError(problems, prefix=f"sweep of {len(overrides)} jobs: ")
    if len(set(names)) < len(names):
        why = "several jobs of this sweep would share a folder"
        raise ConfigError([Problem("hydra.sweep.subdir", names[0], why, "leave it at its default, ${hydra.job.num}")])
    return names


def _refuse_other_job(planned: Planned) -> None:
    stored = planned.record.path / ".hydra" / "overrides.yaml"
    if planned.record.status() and stored.is_file():
        before = {str(o) for o in OmegaConf.load(stored)}
        if before != set(planned.job.overrides):
            raise ConfigError(
                [
                    Problem(
                        "hydra.sweep.dir",
                        planned.record.path.parent,
                        f"job {planned.job.name} there was another one: {' '.join(sorted(before))}",
                        "choose another hydra.sweep.dir, or delete that one",
                    )
                ]
            )


def _run_all(context: HydraContext, planned: Sequence[Planned]) -> list[Planned]:
    """Runs jobs in order; returns those that failed. Raises ``KeyboardInterrupt`` after the running job has kept its work."""
    failed = []
    for number, item in enumerate(planned, 1):
        title = ", ".join(f"{key}={value}" for key, value in item.job.varying.items())
        section(f"job {number} of {len(planned)}: {mask(title)}")
        if item.record.is_finished():
            console.print("finished before; skipped")
            continue
        code = _run_one(context, item)
        if code == 130 or (code != 0 and item.record.status().get("state") == "stopped"):
            raise KeyboardInterrupt
        if code != 0:
            failed.append(item)
            console.print(f"[red]job {number} failed (exit code {code}); the others go on")
    return failed


def _run_one(context: HydraContext, item: Planned) -> int:
    command = [sys.executable, "-m", "hydratune", "train", *_config_dirs(context), *item.job.overrides]
    command += [f'hydra.run.dir="{item.record.path}"']
    environment = {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"}
    item.record.path.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(command, env=environment) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:  # the terminal sent it to the job as well; a kill of this process alone did not
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
            raise
    if code != 0 and not item.record.status().get("error"):
        if not item.record.status():
            item.record.start()
        reason = f"the process was killed by signal {-code}" if code < 0 else f"exit code {code}"
        item.record.update(state="failed", error=f"{reason}; repeat it alone: {shlex.join(['hydratune', 'train', *item.job.overrides])}")
    return code


def _config_dirs(context: HydraContext) -> list[str]:
    """A user's --config-dir, handed on to the jobs."""
    entries = context.config_loader.get_search_path().get_path()
    return [f"--config-dir={e.path.removeprefix('file://')}" for e in entries if e.provider == "command-line" and e.path]


def _failures(failed: Sequence[Planned]) -> Table:
    table = Table(title="failed jobs", title_justify="left", title_style="bold red", header_style="bold")
    for column in ("job", "settings", "reason"):
        table.add_column(column, overflow="fold")
    for item in failed:
        settings = ", ".join(f"{key}={value}" for key, value in item.job.varying.items())
        table.add_row(item.job.name, mask(settings), mask(str(item.record.status().get("error") or "unknown; see run.log")))
    return table


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
