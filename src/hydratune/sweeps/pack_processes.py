"""The packs of a sweep as processes: started, dealt out to GPUs, interrupted; what a killed one
left goes on in another.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from omegaconf import OmegaConf
from rich.text import Text

from hydratune.console import console, section
from hydratune.experiment.frame import write_hydra_files
from hydratune.records.files import write_text
from hydratune.records.run_directory import State
from hydratune.sweeps.planning import GOES_ON, SETTINGS, Packing, Planned, without_hydra
from hydratune.sweeps.retries import Again, Death, after

_GRACE = 90.0  # seconds a job has to keep its work after Ctrl-C


@dataclass(frozen=True)
class Pack:
    """Jobs that are to share a process."""

    title: str
    items: tuple[Planned, ...]
    together: int
    lost: tuple[str, ...] = ()  # of these, the names of those that have failed: they only count


@dataclass
class _Running:
    """A pack at work."""

    pack: Pack
    process: "subprocess.Popen[bytes]"
    gpu: str | None
    relay: threading.Thread | None = None  # hands on what it prints


def work_off(folder: Path, packs: Sequence[Pack], packing: Packing, gpus: Sequence[str]) -> None:
    """Runs packs one after the other, or one on each of ``gpus``, and what is left of those that
    were killed.

    Raises ``KeyboardInterrupt`` after all jobs have kept their work.
    """
    queue, running = deque(packs), list[_Running]()
    free: list[str | None] = [*gpus] or [None]
    tries: dict[str, int] = {}
    try:
        while queue or running:
            while queue and free:
                pack = queue.popleft()
                section(pack.title)
                running.append(_start_pack(folder, pack, packing, free.pop(0), beside=len(gpus)))
            ended = next((one for one in running if one.process.poll() is not None), None)
            if ended is None:
                time.sleep(0.1)
                continue
            running.remove(ended)
            free.append(ended.gpu)
            _forget_settings(folder, [ended.pack])
            if ended.relay is not None:
                ended.relay.join()
            if ended.process.returncode == 130:
                _settle(ended.pack.items, State.stopped, "interrupted by the user")
                raise KeyboardInterrupt
            queue.extend(_what_is_left(ended.pack, ended.process.returncode, tries, packing))
    except KeyboardInterrupt:
        _interrupt([one.process for one in running])
        for pack in (*(one.pack for one in running), *queue):
            _settle(pack.items, State.stopped, "interrupted by the user")
        raise
    finally:
        _forget_settings(folder, [one.pack for one in running])


def _start_pack(
    folder: Path, pack: Pack, packing: Packing, gpu: str | None, beside: int
) -> _Running:
    """Starts its process; on one of several GPUs (``beside`` of them) it sees that one alone, and
    what it prints is marked.
    """
    for item in pack.items:
        if item.record.is_finished() or item.job.name in pack.lost:
            continue
        # else it only runs if a better one fails
        if packing.halving is None or "halved" not in item.record.status():
            item.record.path.mkdir(parents=True, exist_ok=True)
            if item.record.status():
                item.record.update(state=State.waiting.value, error=None)
            write_hydra_files(
                item.record, without_hydra(item.composed), item.composed.hydra, item.job.overrides
            )
        write_text(
            folder / SETTINGS / f"{item.job.name}.yaml",
            OmegaConf.to_yaml(OmegaConf.structured(item.settings), resolve=True),
        )
    options = {
        "together": pack.together,
        "workers": max(1, cores() // max(1, beside)),
        "halving": asdict(packing.halving) if packing.halving else None,
        "patience": packing.patience,
        "lost": pack.lost,
        "merge_tokens": packing.merge_tokens,
        "lay_out": packing.lay_out,
        "driver": os.getpid(),
    }
    names = [item.job.name for item in pack.items]
    command = [
        sys.executable,
        "-m",
        "hydratune.sweeps.pack",
        str(folder),
        json.dumps(options),
        *names,
    ]
    if gpu is None:
        return _Running(pack, subprocess.Popen(command), None)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": gpu}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    relay = threading.Thread(
        target=_relay, args=(process, pack.title.partition(":")[0]), daemon=True
    )
    relay.start()
    return _Running(pack, process, gpu, relay)


def _relay(process: "subprocess.Popen[bytes]", title: str) -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            console.print(
                Text(f"{title} | {line.decode(errors='replace').rstrip()}"), soft_wrap=True
            )


def _what_is_left(pack: Pack, code: int, tries: dict[str, int], packing: Packing) -> list[Pack]:
    """The packs that go on with what an ended one left; ``tries``, how often jobs were tried, is
    kept up to date.
    """
    items = {item.job.name: item for item in pack.items}
    states = {
        name: item.record.status().get("state", State.waiting.value) for name, item in items.items()
    }
    at_work, waiting = (
        [name for name, state in states.items() if state == wanted.value]
        for wanted in (State.running, State.waiting)
    )
    title = pack.title.partition(":")[0].partition(" of ")[0].removesuffix(", again")
    if not at_work and not waiting:
        return _substitutes(pack, title) if code and packing.halving is not None else []
    if code == 0:
        _settle(
            pack.items,
            State.failed,
            "its pack ended before it did; see pack.log in the sweep's folder",
        )
        return []
    if code == GOES_ON:
        packs = [Again((*at_work, *waiting), pack.together)]
    else:
        console.print(
            f"[red]{title} ended early:"
            f" {how(code)}{', often for want of memory' if code == -signal.SIGKILL else ''}"
        )
        packs = _after_death(
            items,
            Death(at_work, waiting, pack.together, one_pack=packing.halving is not None),
            code,
            tries,
            packing,
        )
    if not packs and packing.halving is not None:
        return _substitutes(pack, title)
    failed = _failed(pack)
    result = []
    for again in packs:
        names = list(items) if packing.halving is not None else again.names
        count = f"{len(again.names)} job{'s' if len(again.names) > 1 else ''}"
        result.append(
            Pack(
                f"{title}, again: {count}",
                tuple(items[name] for name in names),
                again.together,
                failed,
            )
        )
    return result


def _failed(pack: Pack) -> tuple[str, ...]:
    return tuple(
        item.job.name
        for item in pack.items
        if item.record.status().get("state") == State.failed.value
    )


def _substitutes(pack: Pack, title: str) -> list[Pack]:
    """One more pack if jobs failed that none of those knew who left early: the next best have their
    places.
    """
    failed = _failed(pack)
    if set(failed) <= set(pack.lost) or not any(
        "halved" in item.record.status() for item in pack.items
    ):
        return []
    return [
        Pack(
            f"{title}, again: for the places of jobs that failed", pack.items, pack.together, failed
        )
    ]


def _after_death(
    items: Mapping[str, Planned], death: Death, code: int, tries: dict[str, int], packing: Packing
) -> list[Again]:
    """Writes down what a death means for each job; returns the packs that go on."""
    suspects = death.at_work or death.waiting
    for name in suspects:
        tries[name] = tries.get(name, 0) + 1
    packs, lost = after(death, tries, packing.retries)
    for name in lost:
        count = f"{tries[name]} times" if tries[name] > 1 else "once"
        why = (
            f"its pack ended {count} while it ran ({how(code)};"
            f" hydra.launcher.retries={packing.retries}); see pack.log"
        )
        _settle([items[name]], State.failed, why)
        items[name].record.update(tries=tries[name])
    again = [name for name in suspects if name not in lost]
    for name in again:
        if items[name].record.status():
            items[name].record.update(state=State.waiting.value, tries=tries[name] + 1)
    if again:
        console.print(f"[yellow]tried again: {', '.join(again)}", soft_wrap=True)
    return packs


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _forget_settings(folder: Path, packs: Sequence[Pack]) -> None:
    """Others may have theirs in the same folder."""
    for item in (item for pack in packs for item in pack.items):
        (folder / SETTINGS / f"{item.job.name}.yaml").unlink(missing_ok=True)
    with suppress(OSError):
        (folder / SETTINGS).rmdir()


def _settle(items: Sequence[Planned], state: State, why: str) -> None:
    """Whoever a pack left without an end gets this one."""
    for item in items:
        if item.record.status().get("state") in (State.running.value, State.waiting.value):
            item.record.end(state, why)
        elif not item.record.status() and state is State.failed:
            item.record.start()
            item.record.end(state, why)


def wait(process: "subprocess.Popen[bytes]") -> int:
    """The exit code. After Ctrl-C the process has some time to keep its work."""
    try:
        return process.wait()
    except KeyboardInterrupt:
        _interrupt([process])
        raise


def _interrupt(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    """The terminal sent Ctrl-C to them as well; a kill of this process alone did not.

    An impatient second one changes nothing.
    """
    here = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if here else None
    try:
        for process in processes:
            process.send_signal(signal.SIGINT)
        until = time.monotonic() + _GRACE
        for process in processes:
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)


def how(code: int) -> str:
    return f"the process was killed by signal {-code}" if code < 0 else f"exit code {code}"
