"""What becomes of the unfinished jobs of a pack that was killed or could not continue. Needs no
torch.
"""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rich.markup import escape

from hydratune.console import console
from hydratune.records.status import Outcome, State
from hydratune.sweeps.options import PackOptions
from hydratune.sweeps.pack_arguments import NEEDS_NEW_PACK
from hydratune.sweeps.planning import PlannedJob, PlannedPack
from hydratune.sweeps.processes import describe_exit
from hydratune.wording import counted


@dataclass(frozen=True)
class KilledPack:
    """A pack whose process was killed; the jobs, given by their names, had not ended."""

    running: Sequence[str]  # jobs that were running when it was killed
    waiting: Sequence[str]  # jobs that were not
    together: int  # how many jobs it ran at the same time
    is_halving: bool = False  # then its jobs are judged together, and stay in one pack


@dataclass(frozen=True)
class RetriedPack:
    """A pack of jobs that a killed one left unfinished."""

    names: tuple[str, ...]
    together: int


def plan_retries(
    killed: KilledPack, tries: Mapping[str, int], retries: int
) -> tuple[list[RetriedPack], list[str]]:
    """Return (the packs that run next, the jobs that have failed for good).

    ``tries``: how often each job was tried, this time included. Waiting jobs run as planned. A
    running job may be the cause: it is tried again in packs of half the size, and alone in the last
    of its ``retries``, so that no job fails for good because of another one. A pack that was killed
    before any job was running is tried again unchanged.
    """
    suspects = list(killed.running or killed.waiting)
    failed = [name for name in suspects if tries[name] > retries]
    again = [name for name in suspects if name not in failed]
    others = [name for name in killed.waiting if name not in suspects]
    if not killed.running:
        return ([RetriedPack(tuple(again), killed.together)] if again else []), failed
    last = [name for name in again if tries[name] == retries]
    half = max(1, min(killed.together, len(suspects)) // 2)
    if killed.is_halving:
        names = (*again, *others)
        return ([RetriedPack(names, 1 if last else half)] if names else []), failed
    rest = [name for name in again if name not in last]
    packs = [RetriedPack(tuple(others), killed.together)] if others else []
    starts = range(0, len(rest), half)
    packs += [RetriedPack(tuple(rest[start : start + half]), half) for start in starts]
    return [*packs, *(RetriedPack((name,), 1) for name in last)], failed


def packs_for_unfinished(
    pack: PlannedPack, code: int, tries: dict[str, int], options: PackOptions, why: str = ""
) -> list[PlannedPack]:
    """Return the packs that run what an ended one, with exit ``code``, left unfinished.

    ``tries``, how often each job was tried, is kept up to date, and so are the records of the jobs.
    ``why``: how it ended, in words, where the exit code does not say so.
    """
    jobs = {job.name: job for job in pack.jobs}
    states = {name: job.status.state or State.waiting for name, job in jobs.items()}
    running = [name for name, state in states.items() if state is State.running]
    waiting = [name for name, state in states.items() if state is State.waiting]
    together = options.is_halving and pack.passed is None  # the pack judges its jobs itself
    if pack.passed is not None:  # jobs that have reached their rung
        waiting = [name for name in waiting if not _has_reached_rung(jobs[name], pack.passed)]
    title = pack.title.partition(":")[0].partition(" of ")[0].removesuffix(", again")
    if not running and not waiting:
        return _pack_of_substitutes(pack, title) if code and together else []
    if code == 0:
        early = "its pack ended before it did; see pack.log in the sweep's folder"
        set_end([jobs[name] for name in (*running, *waiting)], State.failed, early)
        return []
    if code == NEEDS_NEW_PACK:
        retried = [RetriedPack((*running, *waiting), pack.together)]
    else:
        memory = ", often because memory ran out" if code == -signal.SIGKILL else ""
        why = why or describe_exit(code)
        console.print(f"[red]{title} ended early: {escape(why)}{memory}", soft_wrap=True)
        killed = KilledPack(running, waiting, pack.together, together)
        retried = _retry(jobs, killed, why, tries, options)
    if not retried and together:
        return _pack_of_substitutes(pack, title)
    failed, packs = _failed(pack), []
    for again in retried:
        names = list(jobs) if together else again.names
        count = counted(len(again.names), "job")
        members = tuple(jobs[name] for name in names)
        packs.append(
            replace(
                pack,
                title=f"{title}, again: {count}",
                jobs=members,
                together=again.together,
                failed=failed if together else (),
            )
        )
    return packs


def _retry(
    jobs: Mapping[str, PlannedJob],
    killed: KilledPack,
    end: str,
    tries: dict[str, int],
    options: PackOptions,
) -> list[RetriedPack]:
    """Return the packs that run next, and write into the records which jobs have failed for good
    and which are tried again. ``end``: how the pack ended, in words.
    """
    suspects = killed.running or killed.waiting
    for name in suspects:
        tries[name] = tries.get(name, 0) + 1
    packs, failed = plan_retries(killed, tries, options.retries)
    for name in failed:
        count = f"{tries[name]} times" if tries[name] > 1 else "once"
        why = (
            f"its pack ended {count} while it ran ({end};"
            f" hydra.launcher.retries={options.retries}); see pack.log"
        )
        set_end([jobs[name]], State.failed, why)
        jobs[name].record.update(tries=tries[name])
    again = [name for name in suspects if name not in failed]
    for name in again:
        if jobs[name].status.outcome is not Outcome.no_run:
            jobs[name].record.update(state=State.waiting.value, tries=tries[name] + 1)
    if again:
        console.print(f"[yellow]tried again: {', '.join(again)}", soft_wrap=True)
    return packs


def _pack_of_substitutes(pack: PlannedPack, title: str) -> list[PlannedPack]:
    """Return one more pack if jobs failed after others were stopped early: the next best of those
    run instead.
    """
    failed = _failed(pack)
    halved = any(job.status.outcome is Outcome.halved for job in pack.jobs)
    if set(failed) <= set(pack.failed) or not halved:
        return []
    title = f"{title}, again: in place of jobs that failed"
    return [PlannedPack(title, pack.jobs, pack.together, failed)]


def _has_reached_rung(job: PlannedJob, passed: Mapping[str, int]) -> bool:
    """Return whether a job is paused at a rung that its pack was to train it to."""
    status = job.status
    return status.outcome is Outcome.paused and len(status.rungs) > passed.get(job.name, 0)


def _failed(pack: PlannedPack) -> tuple[str, ...]:
    return tuple(job.name for job in pack.jobs if job.status.state is State.failed)


def set_end(jobs: Sequence[PlannedJob], state: State, why: str) -> None:
    """Give the end ``state`` to those of ``jobs`` that their pack left without one.

    A job that never began gets a status only if it has failed.
    """
    for job in jobs:
        if job.status.state in (State.running, State.waiting):
            job.record.end(state, why)
        elif job.status.outcome is Outcome.no_run and state is State.failed:
            job.record.start()
            job.record.end(state, why)
