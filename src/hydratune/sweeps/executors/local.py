"""Packs as processes of this machine: one after the other, or one on each GPU."""

import os
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.text import Text

from hydratune.console import console, section
from hydratune.cores import cpu_count
from hydratune.sweeps.executors.executor import EndedPack
from hydratune.sweeps.options import PackOptions
from hydratune.sweeps.pack_arguments import PackArguments
from hydratune.sweeps.planning import PlannedPack
from hydratune.sweeps.processes import Process, interrupt
from hydratune.tracking.typed_command import environment_with_command


@dataclass
class _RunningPack:
    pack: PlannedPack
    process: Process
    gpu: str | None
    output_thread: threading.Thread | None = None  # prints what the process prints


class LocalExecutor:
    """Runs a pack on each of ``gpus``, or one pack at a time."""

    def __init__(self, folder: Path, options: PackOptions, gpus: Sequence[str]) -> None:
        self._folder, self._options = folder, options
        self._threads = max(1, cpu_count() // max(1, len(gpus)))
        self._free_gpus: list[str | None] = [*gpus] or [None]
        self._running: list[_RunningPack] = []

    def free(self) -> int:
        return len(self._free_gpus)

    def submit(self, packs: Sequence[PlannedPack]) -> None:
        for pack in packs:
            section(pack.title)
            self._running.append(self._start(pack, self._free_gpus.pop(0)))

    def running(self) -> Sequence[PlannedPack]:
        return [running.pack for running in self._running]

    def ended(self) -> Sequence[EndedPack]:
        ended = next((pack for pack in self._running if pack.process.poll() is not None), None)
        if ended is None:
            return []
        self._running.remove(ended)
        self._free_gpus.append(ended.gpu)
        if ended.output_thread is not None:
            ended.output_thread.join()
        return [EndedPack(ended.pack, ended.process.returncode)]

    def cancel(self) -> None:
        interrupt([pack.process for pack in self._running])

    def close(self) -> None:
        """Do nothing: processes end with the process that started them."""

    def _start(self, pack: PlannedPack, gpu: str | None) -> _RunningPack:
        """Start the process of a pack.

        With ``gpu`` it sees this one of several GPUs only, and the lines it prints are marked with
        the name of the pack.
        """
        arguments = PackArguments.of(
            self._folder, pack, self._options, self._threads, parent=os.getpid()
        )
        command, environment = arguments.command(), environment_with_command(os.environ)
        if gpu is None:
            return _RunningPack(pack, subprocess.Popen(command, env=environment), None)
        environment["CUDA_VISIBLE_DEVICES"] = gpu
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        title = pack.title.partition(":")[0]
        thread = threading.Thread(target=_print_output, args=(process, title), daemon=True)
        thread.start()
        return _RunningPack(pack, process, gpu, thread)


def _print_output(process: Process, title: str) -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            text = line.decode(errors="replace").rstrip()
            console.print(Text(f"{title} | {text}"), soft_wrap=True)
