"""Starts the packs of a sweep as processes, one after the other or one on each GPU, and again with
what is left of those that were killed.
"""

import os
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf
from rich.text import Text

from hydratune.console import console, section
from hydratune.cores import cpu_count
from hydratune.experiment.lifecycle import write_hydra_files
from hydratune.records.files import write_text
from hydratune.records.status import Outcome, State, Status
from hydratune.sweeps.options import PackOptions
from hydratune.sweeps.pack_arguments import SETTINGS_FOLDER, PackArguments
from hydratune.sweeps.planning import PlannedJob, PlannedPack, without_hydra
from hydratune.sweeps.processes import INTERRUPTED, Process, interrupt
from hydratune.sweeps.retries import packs_for_unfinished, set_end
from hydratune.tracking.typed_command import environment_with_command


@dataclass
class _RunningPack:
    pack: PlannedPack
    arguments: PackArguments
    process: Process
    gpu: str | None
    output_thread: threading.Thread | None = None  # prints what the process prints


def run_packs(
    folder: Path, packs: Sequence[PlannedPack], options: PackOptions, gpus: Sequence[str]
) -> None:
    """Run packs one after the other, or one on each of ``gpus``, and what is left of killed ones.

    Raises ``KeyboardInterrupt`` after all jobs have saved their work.
    """
    queue, running = deque(packs), list[_RunningPack]()
    free_gpus: list[str | None] = [*gpus] or [None]
    tries: dict[str, int] = {}  # how often each job was tried
    try:
        while queue or running:
            while queue and free_gpus:
                pack = queue.popleft()
                section(pack.title)
                threads = max(1, cpu_count() // max(1, len(gpus)))
                running.append(_start(folder, pack, options, free_gpus.pop(0), threads))
            ended = next((pack for pack in running if pack.process.poll() is not None), None)
            if ended is None:
                time.sleep(0.1)
                continue
            running.remove(ended)
            free_gpus.append(ended.gpu)
            _remove_settings(ended)
            if ended.output_thread is not None:
                ended.output_thread.join()
            code = ended.process.returncode
            if code == INTERRUPTED:
                set_end(ended.pack.jobs, State.stopped, "interrupted by the user")
                raise KeyboardInterrupt
            queue.extend(packs_for_unfinished(ended.pack, code, tries, options))
    except KeyboardInterrupt:
        interrupt([pack.process for pack in running])
        for planned in (*(pack.pack for pack in running), *queue):
            set_end(planned.jobs, State.stopped, "interrupted by the user")
        raise
    finally:
        for pack_left in running:
            _remove_settings(pack_left)


def _start(
    folder: Path, pack: PlannedPack, options: PackOptions, gpu: str | None, threads: int
) -> _RunningPack:
    """Start the process of a pack.

    With ``gpu`` it sees this one of several GPUs only, and the lines it prints are marked with the
    name of the pack.
    """
    names = tuple(job.name for job in pack.jobs)
    arguments = PackArguments(
        folder,
        names,
        pack.together,
        threads,
        options,
        pack.failed,
        pack.jobs[0].settings.trainer.monitor,
        os.getpid(),
    )
    for job in pack.jobs:
        if not job.record.is_finished() and job.name not in pack.failed:
            _prepare(job, arguments, options)
    command, environment = arguments.command(), environment_with_command(os.environ)
    if gpu is None:
        process = subprocess.Popen(command, env=environment)
        return _RunningPack(pack, arguments, process, None)
    environment["CUDA_VISIBLE_DEVICES"] = gpu
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    title = pack.title.partition(":")[0]
    thread = threading.Thread(target=_print_output, args=(process, title), daemon=True)
    thread.start()
    return _RunningPack(pack, arguments, process, gpu, thread)


def _prepare(job: PlannedJob, arguments: PackArguments, options: PackOptions) -> None:
    """Write the settings of a job for the process of its pack, and what Hydra writes for a job.

    A job that was stopped early by halving only runs if a better one fails, so its record stays.
    """
    record = job.record
    if not (options.is_halving and job.status.outcome is Outcome.halved):
        record.path.mkdir(parents=True, exist_ok=True)
        if job.status.outcome is not Outcome.no_run:
            record.change_status(Status.wait)
        composed = job.composed
        write_hydra_files(record, without_hydra(composed), composed.hydra, job.job.overrides)
    text = OmegaConf.to_yaml(OmegaConf.structured(job.settings), resolve=True)
    write_text(arguments.settings_file(job.name), text)


def _remove_settings(pack: _RunningPack) -> None:
    """Remove the settings written for a pack; other packs may have theirs in the same folder."""
    for name in pack.arguments.names:
        pack.arguments.settings_file(name).unlink(missing_ok=True)
    with suppress(OSError):
        (pack.arguments.folder / SETTINGS_FOLDER).rmdir()


def _print_output(process: Process, title: str) -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            text = line.decode(errors="replace").rstrip()
            console.print(Text(f"{title} | {text}"), soft_wrap=True)
