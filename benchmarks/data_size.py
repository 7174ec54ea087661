"""How often `hydratune compare` finds that more data helps where it does not, and how often the
intervals of another doubling cover what it would bring.

    python benchmarks/data_size.py                  # 5 minutes
    python benchmarks/data_size.py --trials 2000 --seeds 3

A simulation of runs on 1/8, 1/4, 1/2 and all of the rows, as sweep=data_size makes them. A run has
a loss on each test row: the error of its size times how hard the row is, and a shift by its seed.
Neighbouring sizes of one seed share half of their rows, and with them the part `nested` of the
shift's variance. `unequal`: how much larger the standard deviation of the shift is at 1/8 than at
all rows. The first table has no effect of the size: at most 5 % of the last doublings, and of all
families of doublings, may be called different, and 95 % of the intervals of the next doubling must
hold 0. In the second the error falls by a power law, or by one that ends at a floor: how many of
the intervals hold what the next doubling would bring.
"""

import argparse
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hydratune.comparison.data_size import ComparedSizes, compare_sizes
from hydratune.evaluation.measures import mean
from hydratune.evaluation.statistics import corrected

SIZES = (32, 64, 128, 256)
CONFIDENCE = 0.95


@dataclass(frozen=True)
class World:
    """Where the runs of a sweep come from."""

    seeds: int = 3
    rows: int = 60
    luck: float = 0.03  # standard deviation of a seed's shift at the largest size
    unequal: float = 1.0
    nested: float = 0.0
    factor: float = 1.0  # of the error, by each doubling
    floor: float = 0.0  # part of the first size's error that no data removes

    def errors(self) -> np.ndarray:
        """The true error of each size, and of one doubling more."""
        falling = self.factor ** np.arange(len(SIZES) + 1.0)
        return self.floor + (1 - self.floor) * falling

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Losses (sizes, seeds, rows)."""
        sizes, errors = len(SIZES), self.errors()[:-1]
        hard = rng.gamma(4, 1 / 4, size=self.rows)
        fit = 1 + 0.1 * rng.normal(size=(sizes, 1, self.rows))  # how rows suit sizes
        shifts = rng.normal(size=(sizes, self.seeds))
        for size in range(1, sizes):
            shared = math.sqrt(self.nested) * shifts[size - 1]
            shifts[size] = shared + math.sqrt(1 - self.nested) * shifts[size]
        spread = self.luck * np.linspace(self.unequal, 1, sizes)[:, None]
        noise = 0.1 * rng.normal(size=(sizes, self.seeds, self.rows))
        losses = errors[:, None, None] * hard * fit + (spread * shifts)[:, :, None] + noise
        return np.maximum(losses, 1e-3)


def compared(losses: np.ndarray) -> ComparedSizes:
    """What compare makes of such losses."""
    measures = [[mean(list(run)) for run in seeds] for seeds in losses]
    return compare_sizes((measures, [f"row {i}" for i in range(losses.shape[-1])]))


def shares(world: World, trials: int, seed: int = 0) -> dict[str, float]:
    """How often the last doubling, or any, is called different; how often the interval of the next
    one holds the truth, and how wide it is.
    """
    rng = np.random.default_rng(seed)
    errors = world.errors()
    truth = float(errors[-1] - errors[-2])
    counts = dict.fromkeys(("last", "any", "holds", "width"), 0.0)
    for _ in range(trials):
        found = compared(world.draw(rng))
        counts["last"] += corrected(found.tests[-1:], CONFIDENCE)[0].significant
        counts["any"] += any(one.significant for one in corrected(found.tests, CONFIDENCE))
        trend = found.trend("eval/nll", SIZES, CONFIDENCE)
        assert trend is not None and trend.next_change.interval is not None
        low, high = trend.next_change.interval
        counts["holds"] += low <= truth <= high
        counts["width"] += high - low
    return {name: count / trials for name, count in counts.items()}


def lines(trials: int, seeds_of: Sequence[int]) -> Iterator[str]:
    columns = ("last", "any", "holds", "width")
    yield f"{'no effect, %':44}" + "".join(f"{column:>14}" for column in columns)
    worlds = [
        World(seeds, rows, luck, unequal, nested)
        for seeds, rows, (luck, unequal, nested) in itertools.product(
            seeds_of, (30, 100), ((0.03, 1, 0), (0.03, 1, 0.5), (0.03, 3, 0.5), (0.0, 1, 0))
        )
    ]
    for world in worlds:
        name = (
            f"{world.seeds} seeds {world.rows} rows luck {world.luck:g} unequal {world.unequal:g}"
            f" nested {world.nested:g}"
        )
        yield f"{name:44}" + _numbers(shares(world, trials), columns)
    yield ""
    yield f"{'with an effect, %':44}" + "".join(f"{column:>14}" for column in columns)
    for factor, floor in (
        (0.9, 0.0),
        (0.7, 0.0),
        (0.5, 0.0),
        (0.7, 0.1),
        (0.7, 0.2),
        (0.5, 0.1),
        (0.5, 0.2),
        (0.8, 0.4),
    ):
        for seeds in seeds_of:
            world = World(seeds, 60, factor=factor, floor=floor)
            name = f"factor {factor} floor {floor} {seeds} seeds"
            yield f"{name:44}" + _numbers(shares(world, trials), columns)


def _numbers(found: dict[str, float], columns: Sequence[str]) -> str:
    return "".join(
        f"{found[column]:14.3f}" if column == "width" else f"{100 * found[column]:14.1f}"
        for column in columns
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[2, 3, 5])
    args = parser.parse_args(argv)
    for line in lines(args.trials, args.seeds):
        print(line, flush=True)


if __name__ == "__main__":
    main()
