"""Runs the jobs of a sweep: in packs that share a process and a base model, or one after the other
in processes of their own.

Every job is the command a user would type, so a job's folder alone says how to repeat it. Memory is
freed between packs, and a crash is the crash of one pack.
"""

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException
from rich.markup import escape
from rich.table import Table

from hydratune.adapters.folder import adopt
from hydratune.comparison.outputs import end_of_sweep
from hydratune.console import console, relative_path, section
from hydratune.errors import ConfigError, Problem, SweepError
from hydratune.experiment.interrupts import listen
from hydratune.records.files import read_json
from hydratune.records.run_directory import RunDirectory, State, alone
from hydratune.records.status import Outcome
from hydratune.records.sweep import Job, read_study, read_sweep, varying, write_sweep
from hydratune.settings.commands import Resume, TrainConfig, load
from hydratune.settings.data import FilesData
from hydratune.settings.registry import typed
from hydratune.settings.secrets import mask
from hydratune.sweeps.gpus import visible_gpus
from hydratune.sweeps.pack_processes import Pack, cores, how, wait, work_off
from hydratune.sweeps.planning import SETTINGS, Packing, Planned, plan, without_hydra
from hydratune.tracking import environment
from hydratune.tracking.wandb import sync_command

_KEPT = ".multirun.yaml"  # of the last sweep that was not refused
# in the folder of a sweep
_OURS = (
    "",
    "wandb",
    "comparison",
    "sweep.json",
    "multirun.yaml",
    "pack.log",
    "study.log",
    "study.log.sha256",
    "digests.json",
)


def launch(
    context: HydraContext,
    sweep: DictConfig,
    overrides: Sequence[Sequence[str]],
    first: int,
    packing: Packing | None = None,
) -> None:
    """Checks every job, then runs those that are not finished yet; without ``packing`` each in a
    process of its own.

    Raises ``ConfigError`` before anything runs if any job is wrong, ``SweepError`` at the end if
    any failed.
    """
    folder = Path(str(sweep.hydra.sweep.dir)).absolute()
    try:
        planned = _check_all(context, sweep, overrides, first)
    except Exception:  # Hydra wrote multirun.yaml before we were asked
        if not read_sweep(folder):
            (folder / "multirun.yaml").unlink(missing_ok=True)
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        raise
    names = {item.job.name for item in planned}
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        try:
            _refuse_study(folder)
            for item in planned:  # what lies there must not be taken for this job's result
                refuse_other_job(item)
                refuse_other_halving(item, packing)
        except ConfigError:
            _put_back(folder)
            raise
        shutil.rmtree(folder / SETTINGS, ignore_errors=True)  # of a driver that was killed
        if (folder / "multirun.yaml").is_file():
            shutil.copyfile(folder / "multirun.yaml", folder / _KEPT)
        write_sweep(
            folder,
            [
                *(j for name, j in read_sweep(folder).items() if name not in names),
                *(item.job for item in planned),
            ],
        )
        console.print(
            f"[bold]sweep of {len(planned)} jobs[/]  {escape(str(relative_path(folder)))}",
            soft_wrap=True,
        )
        failed = run_jobs(context, folder, planned, packing)
    stopped = [
        item.job.name
        for item in planned
        if item.record.status().get("state") == State.stopped.value
    ]
    stopped = [name for name in stopped if "halved" not in RunDirectory(folder / name).status()]
    if stopped:  # one by one, in W&B; Ctrl-C ends the sweep
        console.print(
            f"[yellow]stopped by the user: job {', '.join(stopped)}; the same command again goes on"
            " with it"
        )
    section("ranking")
    end_of_sweep(folder, names)
    print_wandb_hint(folder)
    if failed:
        console.print(
            failures(
                [
                    (item.job, str(item.record.status().get("error") or "unknown; see run.log"))
                    for item in failed
                ],
                "failed jobs",
            )
        )
        raise SweepError(
            f"{len(failed)} of {len(planned)} jobs failed; start the same sweep again to run only"
            " those"
        )


def run_jobs(
    context: HydraContext, folder: Path, planned: Sequence[Planned], packing: Packing | None
) -> list[Planned]:
    """Runs those of ``planned`` that are not finished; returns those that still are not at the end."""  # noqa: E501
    listen()
    for item in planned:
        wait_for_left(item.record)
    return (
        _run_all(context, planned)
        if packing is None
        else _run_packs(context, folder, planned, packing)
    )


def wait_for_left(record: RunDirectory) -> None:
    """Waits for a run whose driver was killed: it leaves by itself, or comes to its end."""
    if not record.path.is_dir():
        return
    lock, said = FileLock(record.path / ".lock"), False
    while True:
        try:
            with lock.acquire(timeout=0):
                return
        except Timeout:
            if not said:
                console.print(
                    f"{record.path.name} is still being run by a process of an earlier call;"
                    " waiting for it"
                )
            said = True
            time.sleep(0.5)


def print_wandb_hint(folder: Path) -> None:
    if command := sync_command(folder):
        console.print(f"W&B         {escape(command)}", soft_wrap=True)


def _check_all(
    context: HydraContext, sweep: DictConfig, overrides: Sequence[Sequence[str]], first: int
) -> list[Planned]:
    """Composes and checks every job. Raises ``ConfigError`` with what is wrong in any of them."""
    checked = [
        check_job(context, sweep, number, job) for number, job in enumerate(overrides, first)
    ]
    problems: list[Problem] = []
    for _, found in checked:
        problems += [p for p in found if p not in problems]
    if problems:
        raise ConfigError(problems, prefix=f"sweep of {len(overrides)} jobs: ")
    planned = [item for item, _ in checked if item is not None]
    names = [item.job.name for item in planned]
    why = "several jobs of this sweep would share a folder" if len(set(names)) < len(names) else ""
    odd = [
        name for name in names if Path(name).name != name or name.startswith(".") or name in _OURS
    ]
    why = (
        "a job is one folder in the sweep's folder, not a path, and none of the sweep's own files"
        if odd
        else why
    )
    if why:
        raise ConfigError(
            [
                Problem(
                    "hydra.sweep.subdir", names[0], why, "leave it at its default, ${hydra.job.num}"
                )
            ]
        )
    differing = varying([list(job) for job in overrides])
    return [
        replace(item, job=replace(item.job, varying=own))
        for item, own in zip(planned, differing, strict=True)
    ]


def _put_back(folder: Path) -> None:
    """Hydra wrote multirun.yaml before we were asked; what was there is worth more than what was
    refused.
    """
    if (folder / _KEPT).is_file():
        shutil.copyfile(folder / _KEPT, folder / "multirun.yaml")


def refuse_other_halving(item: Planned, packing: Packing | None) -> None:
    """Raises ``ConfigError`` if the job was judged at other steps: it would be compared with what
    others had at theirs.
    """
    judged = [step for step, _ in item.record.status().get("rungs") or []]
    if (
        packing is None
        or packing.halving is None
        or not judged
        or item.settings.resume is Resume.force
    ):
        return
    wanted = [
        packing.halving.min_steps * packing.halving.eta**number for number in range(len(judged))
    ]
    if judged != wanted:
        why = (
            f"job {item.job.name} was judged after {', '.join(map(str, judged))} steps, and now it"
            f" would be after {wanted[0]}"
        )
        fix = "halve as before, not at all, or in another hydra.sweep.dir"
        raise ConfigError(
            [
                Problem(
                    "hydra.launcher.halving",
                    f"min_steps {packing.halving.min_steps}, eta {packing.halving.eta}",
                    why,
                    fix,
                )
            ]
        )


def check_job(
    context: HydraContext, sweep: DictConfig, number: int, job: Sequence[str]
) -> tuple[Planned | None, list[Problem]]:
    """(job ``number`` of a sweep as it is run, what is wrong with it).

    Raises Hydra's errors for what cannot be composed.
    """
    composed = context.config_loader.load_sweep_config(sweep, list(job))
    with open_dict(composed):
        composed.hydra.job.id, composed.hydra.job.num = str(number), number
    name = str(composed.hydra.sweep.subdir)
    try:
        settings = typed(without_hydra(composed), TrainConfig)
    except OmegaConfBaseException as error:
        return None, [
            Problem(
                "job", " ".join(job), str(error).splitlines()[0], "see hydratune train --cfg job"
            )
        ]
    settings.name = settings.name or str(composed.hydra.runtime.choices["data"])
    if settings.resume is Resume.extend:
        why, fix = (
            "it trains one finished run further, and this is a sweep",
            "leave -m out, and name the run: hydra.run.dir=DIR",
        )
        return None, [Problem("resume", "extend", why, fix)]
    try:
        adopt(settings, job)
    except ConfigError as error:
        return None, list(error.problems)
    record = RunDirectory(Path(str(sweep.hydra.sweep.dir)).absolute() / name)
    planned = Planned(Job(name, tuple(job), {}), record, settings, composed)
    return planned, list(settings.problems())


def _refuse_study(folder: Path) -> None:
    """Raises ``ConfigError`` if a search lives in ``folder``: its directories are numbered by the
    trials of its study.
    """
    if read_study(folder):
        fix = "choose another hydra.sweep.dir"
        raise ConfigError(
            [Problem("hydra.sweep.dir", folder, "the trials of a search are in this folder", fix)]
        )


def refuse_other_job(planned: Planned) -> None:
    """Raises ``ConfigError`` if the job's folder holds a run with other settings, or a finished one
    on older data files.
    """
    record, settings = planned.record, planned.settings
    if not record.status() or not record.config_file.is_file():
        return
    why = ""
    if replace(load(record.config_file), resume=settings.resume) != settings:
        why = f"job {planned.job.name} was run there with other settings (see its config.yaml)"
    elif isinstance(settings.data, FilesData) and record.is_finished():
        files = [
            Path(p)
            for p in (settings.data.train, settings.data.validation, settings.data.test)
            if p
        ]
        changed = [str(p) for p in files if p.stat().st_mtime > record.config_file.stat().st_mtime]
        why = (
            f"job {planned.job.name} is finished, but {', '.join(changed)} changed since"
            if changed
            else ""
        )
    if why:
        raise ConfigError(
            [
                Problem(
                    "hydra.sweep.dir",
                    record.path.parent,
                    why,
                    "choose another hydra.sweep.dir, or delete that one",
                )
            ]
        )
    if record.is_finished():
        refuse_changed([record], settings.resume)


def refuse_changed(finished: Sequence[RunDirectory], resume: Resume) -> None:
    """Raises ``ConfigError`` if code or versions are not what finished runs were made with, unless
    forced; ``RunError`` for damage.
    """
    for record in finished:
        read_json(record.metrics_file)  # which the others are to be compared with
    for record in finished if resume is not Resume.force else ():
        changed = environment.changes(read_json(record.path / "environment.json"))
        fix = "resume=force compares them all the same; or choose another hydra.sweep.dir"
        if changed:
            why = (
                f"job {record.path.name} is finished, and since then {'; '.join(changed)}: the"
                " others would not compare with it"
            )
            raise ConfigError([Problem("hydra.sweep.dir", record.path.parent, why, fix)])


def _run_all(context: HydraContext, planned: Sequence[Planned]) -> list[Planned]:
    """Runs jobs in order; returns those that failed.

    Raises ``KeyboardInterrupt`` after the running job has kept its work.
    """
    failed = []
    for number, item in enumerate(planned, 1):
        title = ", ".join(f"{key}={value}" for key, value in item.job.varying.items())
        section(f"job {number} of {len(planned)}: {mask(title)}")
        if item.record.is_finished():
            console.print("finished before; skipped")
            continue
        if item.record.status().get("state") == State.failed.value:
            console.print("failed before; tried again")
        # raises KeyboardInterrupt if this process was asked to leave as well
        code = _run_one(context, item)
        if code == 130:
            console.print(f"[yellow]job {number} was stopped; the others go on")
        elif code != 0:
            failed.append(item)
            console.print(f"[red]job {number} failed ({how(code)}); the others go on")
    return failed


def _run_packs(
    context: HydraContext, folder: Path, planned: Sequence[Planned], packing: Packing
) -> list[Planned]:
    """Runs jobs in packs, and those that cannot share one by one; returns those that failed."""
    finished = {number for number, item in enumerate(planned) if item.record.is_finished()}
    halved = {
        number
        for number, item in enumerate(planned)
        if packing.halving is not None and "halved" in item.record.status()
    }
    if finished or halved:
        early = f", {len(halved)} left early" if halved else ""
        console.print(f"{len(finished)} of {len(planned)} jobs finished before{early}; skipped")
    ended = finished | halved
    again = [
        item.job.name for item in planned if item.record.status().get("state") == State.failed.value
    ]
    for item in planned:
        if "tries" in item.record.status() and not item.record.is_finished():
            item.record.update(tries=1)  # whoever starts a sweep again wants them tried again
    if again:
        console.print(
            f"{len(again)} of {len(planned)} jobs failed before and are tried again:"
            f" {', '.join(again)}",
            soft_wrap=True,
        )
    if packing.halving is not None and len({item.settings.seed for item in planned}) > 1:
        console.print(
            "[yellow]halving judges every seed by itself: a mean over seeds is then one over those"
            " that were left",
            soft_wrap=True,
        )
    gpus = (
        []
        if all(item.settings.trainer.accelerator == "cpu" for item in planned)
        else visible_gpus()
    )
    size = packing.pack_size or (
        -(-len(planned) // len(gpus)) if len(gpus) > 1 and packing.halving is None else None
    )
    # All jobs are planned, so that a pack has the same members however often the sweep is started.
    chosen = plan({number: item.settings for number, item in enumerate(planned)}, size)
    packs = []
    for count, numbers in enumerate(chosen.packs, 1):
        left = [number for number in numbers if number not in ended]
        if left:
            members = numbers if packing.halving is not None else left
            title = (
                f"pack {count} of {len(chosen.packs)}: {len(left)}"
                f" job{'s' if len(left) > 1 else ''} on one base model"
            )
            packs.append(
                Pack(
                    title,
                    tuple(planned[number] for number in members),
                    packing.together or cores() + 2,
                )
            )
    work_off(folder, packs, packing, gpus if len(gpus) > 1 else [])
    alone = {
        planned[number].job.name: why for number, why in chosen.alone.items() if number not in ended
    }
    for number in (number for numbers in chosen.packs for number in numbers):
        item = planned[number]
        status = item.record.read_status()
        if status.outcome is Outcome.cannot_share_pack:
            alone[item.job.name] = str(status.cannot_share_pack)
    for name, why in alone.items():
        console.print(f"[dim]job {escape(name)} runs alone: {escape(why)}", soft_wrap=True)
    if alone:
        _run_all(context, [item for item in planned if item.job.name in alone])
    return [
        item
        for item in planned
        if not item.record.is_finished()
        and item.record.status().get("state") != State.stopped.value
    ]


def _run_one(context: HydraContext, item: Planned) -> int:
    command = [
        sys.executable,
        "-m",
        "hydratune",
        "train",
        *_config_dirs(context),
        *item.job.overrides,
    ]
    command += [f'hydra.run.dir="{item.record.path}"']
    environment = {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"}
    item.record.path.mkdir(parents=True, exist_ok=True)
    code = wait(subprocess.Popen(command, env=environment))
    if code != 0 and not item.record.status().get("error"):
        if not item.record.status():
            item.record.start()
        item.record.update(
            state="failed",
            error=(
                f"{how(code)}; repeat it alone:"
                f" {shlex.join(['hydratune', 'train', *item.job.overrides])}"
            ),
        )
    return code


def _config_dirs(context: HydraContext) -> list[str]:
    """A user's --config-dir and hydra.searchpath, handed on to the jobs."""
    entries = context.config_loader.get_search_path().get_path()
    own = [
        f"--config-dir={e.path.removeprefix('file://')}"
        for e in entries
        if e.provider == "command-line" and e.path
    ]
    more = [e.path for e in entries if e.provider == "hydra.searchpath in command-line" and e.path]
    return [*own, *([f"hydra.searchpath=[{','.join(more)}]"] if more else [])]


def failures(failed: Sequence[tuple[Job, str]], title: str) -> Table:
    """Jobs and why they failed."""
    table = Table(title=title, title_justify="left", title_style="bold red", header_style="bold")
    for column in ("job", "settings", "reason"):
        table.add_column(column, overflow="fold")
    for job, reason in failed:
        settings = ", ".join(f"{key}={value}" for key, value in job.varying.items())
        table.add_row(job.name, escape(mask(settings)), escape(mask(reason)))
    return table
