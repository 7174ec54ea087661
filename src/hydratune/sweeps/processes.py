"""Runs the jobs of a sweep: in packs that share a process and a base model, or one after the other in processes of their own.

Every job is the command a user would type, so a job's folder alone says how to repeat it. Memory is freed between packs,
and a crash is the crash of one pack.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from rich.markup import escape
from rich.table import Table

from hydratune import config
from hydratune.checks import configuration_problems, mask
from hydratune.console import console, section
from hydratune.errors import ConfigError, Problem, SweepError
from hydratune.records import RunDirectory, State, alone, read_json, write_text
from hydratune.run import interrupt, write_hydra_files
from hydratune.sweeps.halving import Halving
from hydratune.sweeps.planning import RUNS_ALONE, SETTINGS, plan
from hydratune.sweeps.records import Job, read_sweep, varying, write_sweep
from hydratune.tracking import environment
from hydratune.tracking.ranking import collect, ranking_table

_GRACE = 90.0  # seconds a job has to keep its work after Ctrl-C


@dataclass(frozen=True)
class Planned:
    """A job, its folder and what it is run with."""

    job: Job
    record: RunDirectory
    settings: config.TrainConfig
    composed: DictConfig


@dataclass(frozen=True)
class Packing:
    """How jobs share a process."""

    size: int | None = None  # jobs in a pack at most; None: as many as there are
    together: int | None = None  # jobs of a pack that run at the same time; None: two more than cores
    halving: Halving | None = None  # who leaves early; None: nobody
    merge_tokens: int | None = None  # tokens of a pass that serves short micro-packs of several jobs; None: by device; 0: no such pass


def launch(
    context: HydraContext, sweep: DictConfig, overrides: Sequence[Sequence[str]], first: int, packing: Packing | None = None
) -> None:
    """Checks every job, then runs those that are not finished yet; without ``packing`` each in a process of its own.

    Raises ``ConfigError`` before anything runs if any job is wrong, ``SweepError`` at the end if any failed.
    """
    folder = Path(str(sweep.hydra.sweep.dir)).absolute()
    try:
        names, configs, composed = _check_all(context, sweep, overrides, first)
    except Exception:  # Hydra wrote multirun.yaml before we were asked
        if not read_sweep(folder):
            (folder / "multirun.yaml").unlink(missing_ok=True)
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        raise
    differing = varying([list(job) for job in overrides])
    jobs = [Job(name, tuple(job), vary) for name, job, vary in zip(names, overrides, differing, strict=True)]
    everything = zip(jobs, configs, composed, strict=True)
    planned = [Planned(job, RunDirectory(folder / job.name), settings, own) for job, settings, own in everything]
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        for item in planned:  # what lies there must not be taken for this job's result
            _refuse_other_job(item, item.settings)
        write_sweep(folder, [*(j for name, j in read_sweep(folder).items() if name not in names), *jobs])
        signal.signal(signal.SIGTERM, interrupt)
        console.print(f"[bold]sweep of {len(jobs)} jobs[/]  {_shown(folder)}", soft_wrap=True)
        failed = _run_all(context, planned) if packing is None else _run_packs(context, folder, planned, packing)
    section("ranking")
    table, best = ranking_table([run for run in collect([folder]) if run.path.name in names])
    console.print(table)
    console.print(best.replace(f"{Path.cwd()}/", ""), soft_wrap=True)
    if any((folder / "wandb").glob("offline-run-*")):
        console.print(f"W&B         wandb sync --sync-all {_shown(folder / 'wandb')}", soft_wrap=True)
    if failed:
        console.print(_failures(failed))
        raise SweepError(f"{len(failed)} of {len(jobs)} jobs failed; start the same sweep again to run only those")


def _check_all(
    context: HydraContext, sweep: DictConfig, overrides: Sequence[Sequence[str]], first: int
) -> tuple[list[str], list[config.TrainConfig], list[DictConfig]]:
    """Composes and checks every job; returns their folder names, settings, and what Hydra composed."""
    problems: list[Problem] = []
    names = []
    configs = []
    everything = []
    for number, job in enumerate(overrides, first):
        composed = context.config_loader.load_sweep_config(sweep, list(job))
        with open_dict(composed):
            composed.hydra.job.id, composed.hydra.job.num = str(number), number
        names.append(str(composed.hydra.sweep.subdir))
        everything.append(composed)
        try:
            settings = config.typed(without_hydra(composed), config.TrainConfig)
            settings.name = settings.name or str(composed.hydra.runtime.choices["data"])
            configs.append(settings)
            found = configuration_problems(settings)
        except OmegaConfBaseException as error:
            found = [Problem("job", " ".join(job), str(error).splitlines()[0], "see hydratune train --cfg job")]
        problems += [p for p in found if p not in problems]
    if problems:
        raise ConfigError(problems, prefix=f"sweep of {len(overrides)} jobs: ")
    why = "several jobs of this sweep would share a folder" if len(set(names)) < len(names) else ""
    why = "a job is one folder in the sweep's folder, not a path" if any(Path(n).name != n for n in names) else why
    if why:
        raise ConfigError([Problem("hydra.sweep.subdir", names[0], why, "leave it at its default, ${hydra.job.num}")])
    return names, configs, everything


def without_hydra(composed: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(composed, [str(k) for k in composed if k != "hydra"])


def _refuse_other_job(planned: Planned, settings: config.TrainConfig) -> None:
    """Raises ``ConfigError`` if the job's folder holds a run with other settings, or a finished one on older data files."""
    record = planned.record
    if not record.status() or not record.config_file.is_file():
        return
    why = ""
    if replace(config.load(record.config_file), resume=settings.resume) != settings:
        why = f"job {planned.job.name} was run there with other settings (see its config.yaml)"
    elif isinstance(settings.data, config.FilesData) and record.is_finished():
        files = [Path(p) for p in (settings.data.train, settings.data.validation, settings.data.test) if p]
        changed = [str(p) for p in files if p.stat().st_mtime > record.config_file.stat().st_mtime]
        why = f"job {planned.job.name} is finished, but {', '.join(changed)} changed since" if changed else ""
    if not why and record.is_finished() and settings.resume is not config.Resume.force:
        changed = environment.changes(read_json(record.path / "environment.json"))
        fix = "resume=force compares them all the same; or choose another hydra.sweep.dir"
        if changed:
            why = f"job {planned.job.name} is finished, and since then {'; '.join(changed)}: the others would not compare with it"
            raise ConfigError([Problem("hydra.sweep.dir", record.path.parent, why, fix)])
    if why:
        raise ConfigError([Problem("hydra.sweep.dir", record.path.parent, why, "choose another hydra.sweep.dir, or delete that one")])


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
            console.print(f"[red]job {number} failed ({_how(code)}); the others go on")
    return failed


def _run_packs(context: HydraContext, folder: Path, planned: Sequence[Planned], packing: Packing) -> list[Planned]:
    """Runs jobs in packs, and those that cannot share one by one; returns those that failed."""
    finished = {number for number, item in enumerate(planned) if item.record.is_finished()}
    halved = {number for number, item in enumerate(planned) if packing.halving is not None and "halved" in item.record.status()}
    if finished or halved:
        early = f", {len(halved)} left early" if halved else ""
        console.print(f"{len(finished)} of {len(planned)} jobs finished before{early}; skipped")
    ended = finished | halved
    # All jobs are planned, so that a pack has the same members however often the sweep is started.
    chosen = plan({number: item.settings for number, item in enumerate(planned)}, packing.size)
    for count, numbers in enumerate(chosen.packs, 1):
        left = [number for number in numbers if number not in ended]
        if left:
            section(f"pack {count} of {len(chosen.packs)}: {len(left)} job{'s' if len(left) > 1 else ''} on one base model")
            members = numbers if packing.halving is not None else left
            _run_pack(folder, [planned[number] for number in members], packing)
    alone = {planned[number].job.name: why for number, why in chosen.alone.items() if number not in ended}
    for number in (number for numbers in chosen.packs for number in numbers):
        item = planned[number]
        error = str(item.record.status().get("error") or "")
        if error.startswith(RUNS_ALONE):
            alone[item.job.name] = error.removeprefix(f"{RUNS_ALONE}: ")
    for name, why in alone.items():
        console.print(f"[dim]job {escape(name)} runs alone: {escape(why)}", soft_wrap=True)
    if alone:
        _run_all(context, [item for item in planned if item.job.name in alone])
    stopped = [item.job.name for item in planned if item.record.status().get("state") == State.stopped.value]
    stopped = [name for name in stopped if "halved" not in RunDirectory(folder / name).status()]
    if stopped:  # one by one, in W&B; Ctrl-C ends the sweep
        console.print(f"[yellow]stopped by the user: job {', '.join(stopped)}; the same command again goes on with it")
    return [item for item in planned if not item.record.is_finished() and item.record.status().get("state") != State.stopped.value]


def _run_pack(folder: Path, items: Sequence[Planned], packing: Packing) -> None:
    """One pack, in a process. Raises ``KeyboardInterrupt`` after its jobs have kept their work."""
    for item in items:
        if item.record.is_finished() or ("halved" in item.record.status() and packing.halving is not None):
            continue
        item.record.path.mkdir(parents=True, exist_ok=True)
        if item.record.status():
            item.record.update(state=State.waiting.value, error=None)
        write_hydra_files(item.record, without_hydra(item.composed), item.composed.hydra, item.job.overrides)
        write_text(folder / SETTINGS / f"{item.job.name}.yaml", OmegaConf.to_yaml(OmegaConf.structured(item.settings), resolve=True))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    together = packing.together or cores + 2
    options = {"together": together, "workers": cores, "halving": asdict(packing.halving) if packing.halving else None}
    options["merge_tokens"] = packing.merge_tokens
    command = [sys.executable, "-m", "hydratune.sweeps.pack", str(folder), json.dumps(options), *(item.job.name for item in items)]
    try:
        code = _wait(subprocess.Popen(command))
    except KeyboardInterrupt:
        _settle(items, State.stopped, "interrupted by the user")
        raise
    finally:
        shutil.rmtree(folder / SETTINGS, ignore_errors=True)
    if code == 130:
        _settle(items, State.stopped, "interrupted by the user")
        raise KeyboardInterrupt
    _settle(items, State.failed, f"its pack ended before it did ({_how(code)}); see {folder}/pack.log")


def _settle(items: Sequence[Planned], state: State, why: str) -> None:
    """Whoever a pack left without an end gets this one."""
    for item in items:
        if item.record.status().get("state") in (State.running.value, State.waiting.value):
            item.record.end(state, why)
        elif not item.record.status() and state is State.failed:
            item.record.start()
            item.record.end(state, why)


def _run_one(context: HydraContext, item: Planned) -> int:
    command = [sys.executable, "-m", "hydratune", "train", *_config_dirs(context), *item.job.overrides]
    command += [f'hydra.run.dir="{item.record.path}"']
    environment = {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"}
    item.record.path.mkdir(parents=True, exist_ok=True)
    code = _wait(subprocess.Popen(command, env=environment))
    if code != 0 and not item.record.status().get("error"):
        if not item.record.status():
            item.record.start()
        item.record.update(
            state="failed", error=f"{_how(code)}; repeat it alone: {shlex.join(['hydratune', 'train', *item.job.overrides])}"
        )
    return code


def _wait(started: subprocess.Popen[bytes]) -> int:
    """The exit code. After Ctrl-C the process has some time to keep its work."""
    with started as process:
        try:
            return process.wait()
        except KeyboardInterrupt:  # the terminal sent it to the process as well; a kill of this one alone did not
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
            raise


def _how(code: int) -> str:
    return f"the process was killed by signal {-code}" if code < 0 else f"exit code {code}"


def _config_dirs(context: HydraContext) -> list[str]:
    """A user's --config-dir and hydra.searchpath, handed on to the jobs."""
    entries = context.config_loader.get_search_path().get_path()
    own = [f"--config-dir={e.path.removeprefix('file://')}" for e in entries if e.provider == "command-line" and e.path]
    more = [e.path for e in entries if e.provider == "hydra.searchpath in command-line" and e.path]
    return [*own, *([f"hydra.searchpath=[{','.join(more)}]"] if more else [])]


def _failures(failed: Sequence[Planned]) -> Table:
    table = Table(title="failed jobs", title_justify="left", title_style="bold red", header_style="bold")
    for column in ("job", "settings", "reason"):
        table.add_column(column, overflow="fold")
    for item in failed:
        settings = ", ".join(f"{key}={value}" for key, value in item.job.varying.items())
        reason = mask(str(item.record.status().get("error") or "unknown; see run.log"))
        table.add_row(item.job.name, escape(mask(settings)), escape(reason))
    return table


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
