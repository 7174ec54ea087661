"""What a sweep needs and costs: trials, packs, total time, halving's share."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from hydratune.planning.advice import FirstSweep
from hydratune.planning.memory import Memory
from hydratune.planning.sweep_trials import MODEL_COLUMNS
from hydratune.settings.commands import TrainConfig
from hydratune.sweeps.options import PackOptions
from hydratune.sweeps.planning import Plan as Division
from hydratune.wording import counted


@dataclass(frozen=True)
class SweepPlan:
    """A sweep in sentences and numbers."""

    trials: int
    packs: tuple[tuple[int, ...], ...]
    alone: Mapping[int, str]
    steps: int  # of all trials, if each is trained to its end
    halved_steps: int  # of them, those that halving leaves
    seconds: float | None
    money: float | None
    pack_memory: int | None  # bytes of the largest pack on this machine; None: there is no pack
    lines: tuple[str, ...]
    models: tuple[tuple[str, ...], ...] = ()  # if they differ: of each what MODEL_COLUMNS name
    # (model, sweep) of the models other than that of the largest trial
    first_sweeps: tuple[tuple[str, FirstSweep], ...] = ()

    def content(self) -> dict[str, object]:
        """Return what plan.json says of it."""
        return {
            "trials": self.trials,
            "packs": [list(pack) for pack in self.packs],
            "alone": {str(number): why for number, why in self.alone.items()},
            "steps": self.steps,
            "steps_with_halving": self.halved_steps,
            "seconds": self.seconds,
            "money": self.money,
            "pack_memory": self.pack_memory,
            "models": [dict(zip(MODEL_COLUMNS, cells, strict=True)) for cells in self.models],
            "first_sweeps": {name: asdict(sweep) for name, sweep in self.first_sweeps},
        }


def steps_with_halving(steps: Sequence[int], options: PackOptions | None) -> int:
    """Return the optimizer steps that halving leaves of trials with ``steps`` each.

    At every rung the best of ``eta`` continue.
    """
    halving = options.halving if options is not None else None
    if halving is None or not halving.is_on or not steps:
        return sum(steps)
    longest, count, before, total = max(steps), len(steps), 0, 0
    for rung in halving.rungs(longest):
        total += count * (rung - before)
        before, count = rung, max(1, count // halving.eta)
    return min(sum(steps), total + count * (longest - before))


def memory_of_pack(plans: Sequence[Memory], together: int) -> int:
    """Return the bytes of a pack on a CPU: the base once, and what each running job has beside it.

    The threads compute for all jobs, so activations and logits exist once.
    """
    most = max(plans, key=lambda memory: memory.total)
    own = sorted(
        (sum(m.parts[part] for part in ("adapter", "gradients", "optimizer")) for m in plans),
        reverse=True,
    )
    return most.total + sum(own[1:together])


def lines_of(
    trials: int,
    division: Division,
    settings: Mapping[int, TrainConfig],
    own: tuple[int, int],
    cost: tuple[float | None, float | None, str],
    pack_memory: int | None,
) -> tuple[str, ...]:
    """Return what is said of a sweep; ``own``: its steps without and with halving."""
    steps, halved = own
    packs = [len(pack) for pack in division.packs]
    lines = [f"{counted(trials, 'trial')}: " + (_packs(packs) if packs else "none share a process")]
    for reason in dict.fromkeys(division.alone.values()):
        numbers = [str(n) for n, why in division.alone.items() if why == reason]
        lines.append(f"alone: {', '.join(numbers)} ({reason})")
    if halved < steps:
        saved = 100 * (1 - halved / steps)
        lines.append(f"{steps:,} optimizer steps; halving leaves {halved:,} ({saved:.0f} % fewer)")
    else:
        lines.append(f"{counted(steps, 'optimizer step')} in all")
    lines.append(cost[2])
    if pack_memory is not None:
        lines.append(f"the largest pack takes about {pack_memory / 2**30:.2f} GiB on this machine")
    seeds = {config.seed for config in settings.values()}
    if len(seeds) == 1 and trials > 1:
        lines.append(
            "one seed: differences may be chance; seed=1,2,3 shows how much (trials times three)"
        )
    return tuple(lines)


def _packs(sizes: Sequence[int]) -> str:
    least, most = min(sizes), max(sizes)
    jobs = counted(most, "job") if least == most else f"{least} to {most} jobs"
    if len(sizes) == 1:
        return f"1 pack of {jobs}, on one base model"
    return f"{len(sizes)} packs of {jobs}, each on one base model"
