"""What becomes of the jobs of a pack whose process was killed. Needs no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Death:
    """A pack that was killed: who was at work then, and who was not; names of jobs."""

    at_work: Sequence[str]
    waiting: Sequence[str]
    together: int  # as many ran at a time
    one_pack: bool = False  # its jobs cannot be parted: they are judged together


@dataclass(frozen=True)
class Again:
    """A pack that goes on with jobs of one that was killed."""

    names: tuple[str, ...]
    together: int


def after(death: Death, tries: Mapping[str, int], retries: int) -> tuple[list[Again], list[str]]:
    """(what runs next, who has failed for good). ``tries``: how often each job was tried, the last
    time included.

    Whoever was waiting goes on as planned. Whoever was at work may be the reason, and is tried
    again in packs of half the size, the last of its ``retries`` alone: nobody fails for good
    because of a neighbour. A pack that died before anything was at work is tried again as it is.
    """
    suspects = list(death.at_work or death.waiting)
    lost = [name for name in suspects if tries[name] > retries]
    again = [name for name in suspects if name not in lost]
    others = [name for name in death.waiting if name not in suspects]
    if not death.at_work:
        return ([Again(tuple(again), death.together)] if again else []), lost
    last = [name for name in again if tries[name] == retries]
    half = max(1, min(death.together, len(suspects)) // 2)
    if death.one_pack:
        names = (*again, *others)
        return ([Again(names, 1 if last else half)] if names else []), lost
    rest = [name for name in again if name not in last]
    packs = [Again(tuple(others), death.together)] if others else []
    packs += [Again(tuple(rest[start : start + half]), half) for start in range(0, len(rest), half)]
    return [*packs, *(Again((name,), 1) for name in last)], lost
