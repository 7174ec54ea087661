"""How often `hydratune compare` calls equal settings different, and finds real differences.

    python benchmarks/ties.py                          # two settings; 10 minutes
    python benchmarks/ties.py --entries 5 --rows 200   # the best of several against the others
    python benchmarks/ties.py --fit 1 --shared 0.8     # rows suit settings; paired seeds

A simulation of the present tests and of the former ones; 5 % of equal settings may be called
different. Runs of the same settings differ in their seeds. A run has a loss and a hit or a miss on
each test row, and a validation loss; its seed shifts all of them. What varies is the number of
seeds and of test rows, and the variance of that shift, as a multiple of the variance that the rows
leave in the mean of a run ("1/row": as large as that of a single row). The power is that for a
difference of 3.5 standard errors of the rows, which they alone would show in 94 % of all cases.
"before" is Satterthwaite's t of rows and seeds (rows counted twice) with Holm's correction over the
test rows, and a test of the validation loss with a correction of its own; either may count.
"""

import argparse
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtr, stdtr

from hydratune.comparison.seed_noise import SeedNoise, log_odds, variance_bounds
from hydratune.evaluation.measures import rate
from hydratune.evaluation.statistics import (
    UncorrectedDifference,
    VarianceComponent,
    holm,
    pooled_variance,
)

SEEDS, ROWS, RATIOS = (2, 3, 5), (50, 200, 500), ("0", "0.1", "0.3", "1", "3", "10", "1/row")
EFFECT = 3.5  # standard errors of the rows
ALPHA = 0.05
KINDS = ("losses", "hits", "validation")
# of the share of hits by the shift; variance of a hit, given its row
_HITS_SLOPE, _HITS_NOISE = (0.5 / math.sqrt(math.pi), 1 / 6)


@dataclass(frozen=True)
class World:
    """Where runs come from."""

    seeds: int  # of each entry
    rows: int
    ratio: float  # variance of the seeds' luck, to that which rows leave in the mean of a run
    fit: float = 0.0  # variance of how rows suit settings, to that of how they suit seeds
    shared: float = 0.0  # correlation of the luck of two entries' runs with the same seed
    unequal: float = (
        1.0  # standard deviation of the luck of the last entry's seeds, to that of the others
    )
    entries: int = 2

    def draw(self, rng: np.random.Generator, effect: float = 0.0) -> dict[str, np.ndarray]:
        """Losses and hits (entries, seeds, rows), validation losses (entries, seeds).

        ``effect``: of the last entry.
        """
        shape = self.entries, self.seeds
        both = rng.normal(size=self.seeds)
        luck = math.sqrt(self.shared) * both + math.sqrt(1 - self.shared) * rng.normal(size=shape)
        luck[-1] *= self.unequal
        luck = luck * math.sqrt(self.ratio)
        step = (
            EFFECT
            * math.sqrt(2 / self.seeds)
            * effect
            * (np.arange(self.entries) == self.entries - 1)[:, None]
        )
        mean = (luck + step) / math.sqrt(self.rows)  # in standard deviations of a row
        hard = rng.normal(size=self.rows)
        suits = math.sqrt(self.fit) * rng.normal(size=(self.entries, 1, self.rows))
        noise = rng.exponential(size=(*shape, self.rows)) - 1  # skewed, as losses are
        scale = math.sqrt(_HITS_NOISE) / _HITS_SLOPE
        answered = rng.random((*shape, self.rows)) < ndtr(
            hard - scale * mean[..., None] + scale * suits * _HITS_SLOPE
        )
        return {
            "losses": 3 * hard + mean[..., None] + suits + noise,
            "hits": answered.astype(float),
            "validation": mean + rng.normal(size=shape) / math.sqrt(self.rows),
        }


def parts(
    ours: np.ndarray, theirs: np.ndarray
) -> tuple[float, VarianceComponent, SeedNoise, float]:
    """(difference, what the rows make of its variance, noise of seeds, 1/n + 1/k) of values (seeds,
    rows).
    """
    difference = theirs.mean(0) - ours.mean(0)
    rows, sides = ours.shape[1], (ours, theirs)
    freedom = sum(len(side) - 1 for side in sides)
    spread = sum(float(((side.mean(1) - side.mean()) ** 2).sum()) for side in sides) / freedom
    by_rows = (
        sum(float((side - side.mean(0)).var(1, ddof=1).sum()) for side in sides) / freedom / rows
    )
    return (
        float(difference.mean()),
        (float(difference.var(ddof=1)) / rows, rows - 1.0),
        SeedNoise(spread, freedom, by_rows),
        sum(1 / len(side) for side in sides),
    )


def now(ours: np.ndarray, theirs: np.ndarray) -> float:
    """p of one test over rows, as hydratune takes it."""
    value, rows, noise, share = parts(ours, theirs)
    informative = int((np.abs(theirs.mean(0) - ours.mean(0)) > 1e-12).sum())
    odds = None
    if set(np.unique([ours, theirs])) <= {0.0, 1.0}:  # hits
        odds_of = [[log_odds(rate(list(run))) for run in side] for side in (ours, theirs)]
        spread = pooled_variance(odds_of)
        noise = replace(noise, logits=spread[0] if spread else None)
        odds = float(np.mean(odds_of[1]) - np.mean(odds_of[0]))
    return UncorrectedDifference(
        value, variance_bounds(rows, noise, share, value, odds), ours.shape[1], informative
    ).p


def before(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Satterthwaite's (1946)."""
    value, rows, noise, share = parts(ours, theirs)
    seeds = share * noise.variance, float(noise.freedom)
    total = rows[0] + seeds[0]
    if total == 0:
        return 1.0 if value == 0 else 0.0
    freedom = total**2 / (rows[0] ** 2 / rows[1] + seeds[0] ** 2 / seeds[1])
    return max(
        float(2 * stdtr(freedom, -abs(value) / math.sqrt(total))), 2.0 ** (1 - ours.shape[1])
    )


def by_seeds(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Student's t of values (seeds)."""
    freedom = len(ours) + len(theirs) - 2
    spread = (((ours - ours.mean()) ** 2).sum() + ((theirs - theirs.mean()) ** 2).sum()) / freedom
    error = math.sqrt(spread * (1 / len(ours) + 1 / len(theirs)))
    return float(2 * stdtr(freedom, -abs(float(theirs.mean() - ours.mean())) / error))


def told(found: dict[str, np.ndarray]) -> dict[str, bool]:
    """What is called different from the best (by validation), by each rule."""
    best = int(found["validation"].mean(1).argmin())
    others = [n for n in range(len(found["validation"])) if n != best]
    tests = {}
    for name, test in (("now", now), ("before", before)):
        tests[name] = [
            [test(found[kind][best], found[kind][n]) for n in others] for kind in ("losses", "hits")
        ]
    seeds = [by_seeds(found["validation"][best], found["validation"][n]) for n in others]
    rows = [p for some in tests["before"] for p in some]
    result = {
        f"{name} {kind}": min(holm(ps)) < ALPHA
        for name, some in tests.items()
        for kind, ps in zip(KINDS, some, strict=False)
    }
    result["now all"] = min(holm([*itertools.chain(*tests["now"]), *seeds])) < ALPHA
    result["before all"] = min(holm(rows)) < ALPHA or min(holm(seeds)) < ALPHA
    return result


def shares(world: World, trials: int, effect: float = 0.0, seed: int = 0) -> dict[str, float]:
    """How often each rule tells apart."""
    rng = np.random.default_rng(seed)
    counts: dict[str, int] = {}
    for _ in range(trials):
        for name, found in told(world.draw(rng, effect)).items():
            counts[name] = counts.get(name, 0) + found
    return {name: count / trials for name, count in counts.items()}


def number(ratio: str, rows: int) -> float:
    return float(ratio.removesuffix("/row")) * (rows if ratio.endswith("/row") else 1)


def lines(args: argparse.Namespace) -> Iterator[str]:
    columns = [f"{name} {kind}" for kind in ("losses", "hits", "all") for name in ("before", "now")]
    for effect, heading in ((0.0, "level, %"), (1.0, "power, %")):
        yield f"\n{heading:22}" + "".join(f"{column:>15}" for column in columns)
        worst = dict.fromkeys(columns, 0.0)
        for seeds, rows, ratio in itertools.product(args.seeds, args.rows, args.ratios):
            world = World(
                seeds, rows, number(ratio, rows), args.fit, args.shared, args.unequal, args.entries
            )
            found = shares(world, args.trials, effect)
            worst = {column: max(worst[column], found[column]) for column in columns}
            yield f"{seeds} seeds {rows:4} rows {ratio:>5}" + "".join(
                f"{100 * found[column]:15.1f}" for column in columns
            )
        if not effect:
            yield f"{'largest':22}" + "".join(f"{100 * worst[column]:15.1f}" for column in columns)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument(
        "--ratios", nargs="+", default=RATIOS, help="1/row: as large as of a single row"
    )
    parser.add_argument("--entries", type=int, default=2)
    parser.add_argument("--fit", type=float, default=0.0)
    parser.add_argument("--shared", type=float, default=0.0)
    parser.add_argument("--unequal", type=float, default=1.0)
    parser.add_argument("--trials", type=int, default=2000)
    args = parser.parse_args(argv)
    for line in lines(args):
        print(line, flush=True)


if __name__ == "__main__":
    main()
