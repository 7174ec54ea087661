"""What successive halving costs: the regret of its choice against the full grid, and what it saves.

    python benchmarks/halving.py --seeds 20                     a toy model, a toy task
    python benchmarks/halving.py --snips DATA --seeds 5         SmolLM2-135M on SNIPS in folder DATA
    python benchmarks/halving.py --folder FOLDER                the tables of runs that are there

Every job of a grid (learning rate x rank) is trained to its end once for each seed, with many
validations. Which jobs halving would have stopped follows from these curves, for every first rung,
eta and metric: a stopped job is equal, step by step, to the same job of the full grid, which tests
check. The regret is what the job that is chosen in the end is worse than the best of the grid: by
the validation loss in per cent of it, by a metric of answers in points (of 100).
"""

import argparse
import csv
import json
import math
import random
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hydratune.evaluation import metrics
from hydratune.records.predictions import Prediction
from hydratune.settings.evaluation import EvaluationConfig
from hydratune.settings.monitor import Monitor
from hydratune.sweeps.halving import best_of
from hydratune.sweeps.options import HalvingOptions
from hydratune.training.protocols import RungScore

COLOURS = ("red", "blue", "green", "white")
THINGS = [
    "car",
    "house",
    "door",
    "boat",
    "tree",
    "shoe",
    "lamp",
    "book",
    "cup",
    "coat",
    "bag",
    "ring",
]
LOSS = Monitor()
MOST_RUNGS = 8  # of a table


@dataclass(frozen=True)
class Curve:
    """One job of the full grid: its scores by step."""

    scores: Mapping[int, RungScore]  # after every validated step
    has_diverged: bool = False  # it was stopped after the last of them

    @property
    def total(self) -> int:
        return max(self.scores)

    def at(self, step: int) -> RungScore:
        """Return the score at the last validation up to ``step``."""
        if self.has_diverged and step > self.total:
            return RungScore(math.inf, -math.inf)
        return self.scores[max(own for own in self.scores if own <= step)]

    def final(self, monitor: Monitor, until: int | None = None) -> float:
        """Return the value of the weights that are kept after ``until`` steps: the best one."""
        if self.has_diverged:
            return math.inf if monitor.lower else -math.inf
        values = [
            value
            for step, score in self.scores.items()
            if (until is None or step <= until) and (value := value_of(score, monitor)) is not None
        ]
        return min(values) if monitor.lower else max(values)


def value_of(score: RungScore, monitor: Monitor) -> float | None:
    return score.loss if monitor.is_loss else score.value


# ------------------------------------------------------------------------------------ the full grid
def toy_data(folder: Path, counts: tuple[int, int, int], shift: int) -> list[str]:
    """Write a task that a toy model can learn, and return the settings of its files.

    The answer is the colour of a thing, the same in every row; another ``shift`` is another task.
    """
    chance = random.Random(shift)
    folder.mkdir(parents=True, exist_ok=True)
    settings = []
    for name, count in zip(("train", "validation", "test"), counts, strict=True):
        rows = []
        for number in range(count):
            index = chance.randrange(len(THINGS))
            colour = COLOURS[(index + shift * (index // 3 + 1)) % len(COLOURS)]
            rows.append({"prompt": f"{name} {number} {THINGS[index]}", "completion": colour})
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        settings.append(f"data.{name}={file}")
    return ["data=files", "data.quality.near_leaks=off", "evaluation.metrics=[label]", *settings]


def toy_base(folder: Path) -> list[str]:
    """Train all weights of a toy model on one task; return the settings with which it is the base
    of others.
    """
    run = folder / "base"
    if not (run / "metrics.json").is_file():
        words = [
            *("model=tiny", *toy_data(folder / "first", (640, 16, 8), 0), "adapter=none"),
            *("optimizer.lr=3e-3", "data.batch_size=16", "trainer.max_epochs=6"),
            *("evaluation.baselines=[]", "tracking=disabled", f"hydra.run.dir={run}"),
        ]
        subprocess.run([sys.executable, "-m", "hydratune", "train", *words], check=True)
    return ["model=local", f"model.path={run}/adapter"]


def run_grid(folder: Path, seeds: int, snips: Path | None) -> None:
    """Train the full grid once for each seed; ``snips``: the data set of the real task."""
    folder.mkdir(parents=True, exist_ok=True)
    common = [
        f"seed={','.join(map(str, range(seeds)))}",
        "evaluation.baselines=[]",
        "tracking=disabled",
        "evaluation.validate_every=1",
        f"hydra.sweep.dir={folder}/sweep",
    ]
    if snips is None:
        task = [
            *toy_base(folder),
            *toy_data(folder / "second", (96, 32, 8), 1),
            "evaluation.validation_rows=32",
            *("optimizer.lr=1e-3,3e-3,1e-2,3e-2", "adapter.r=4,16", "data.batch_size=8"),
            *("trainer.max_epochs=4", "trainer.validations_per_epoch=4"),
        ]
    else:
        task = [
            *("data=snips", f"data.path={snips}", "data.max_train_rows=96"),
            *("data.max_validation_rows=24", "data.max_test_rows=2"),
            "evaluation.validation_rows=12",
            *("optimizer.lr=3e-4,1e-3,3e-3", "adapter.r=4,16", "data.batch_size=8"),
            *("trainer.max_epochs=2", "trainer.validations_per_epoch=4"),
        ]
    words = [*common, *task]
    command = [sys.executable, "-m", "hydratune", "train", "-m", *words]
    subprocess.run(command, check=False)  # jobs of too large a learning rate may diverge


def read_grids(folder: Path) -> list[dict[str, Curve]]:
    """Return the curves of every seed's grid, by the name of the job."""
    jobs = json.loads((folder / "sweep" / "sweep.json").read_text())["jobs"]
    grids: dict[str, dict[str, Curve]] = {}
    for name, job in jobs.items():
        run = folder / "sweep" / name
        if (run / "history.csv").is_file():
            grids.setdefault(job["varying"].get("seed", "0"), {})[name] = read_curve(run)
    return list(grids.values())


def read_curve(run: Path) -> Curve:
    answers: dict[int, list[dict[str, Any]]] = {}
    for line in (run / "validation.jsonl").read_text().splitlines():
        row = json.loads(line)
        answers.setdefault(row["step"], []).append(row)
    scores = {}
    with (run / "history.csv").open() as stream:
        for row in csv.DictReader(stream):
            if row["val/loss"]:
                step = int(row["step"])
                scores[step] = score_of(float(row["val/loss"]), answers.get(step, []))
    return Curve(scores, has_diverged=not (run / "metrics.json").is_file())


def main_metric(rows: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Return (family, metric) of the stored answers."""
    return ("json", "field_f1") if "fields" in rows[0]["scores"] else ("label", "label_accuracy")


def score_of(loss: float, rows: Sequence[Mapping[str, Any]]) -> RungScore:
    if not rows:
        return RungScore(loss)
    family, metric = main_metric(rows)
    config = EvaluationConfig(metrics=[family], bootstrap_samples=500)
    predictions = cast("list[Prediction]", list(rows))
    value = metrics.metrics(predictions, config, has_schema=False, families=[family])[metric]
    return RungScore(loss, value.value, value.interval)


# -------------------------------------------------------------------------------- what halving does
@dataclass(frozen=True)
class Outcome:
    """What halving would have done with one grid."""

    regret: float
    saved: float  # share of the optimizer steps


def halve(
    grid: Mapping[str, Curve], options: HalvingOptions, judge: Monitor, by: Monitor
) -> Outcome:
    """Return the outcome of synchronous halving by ``judge``, where runs are ranked ``by``."""
    total = max(curve.total for curve in grid.values())
    members, steps, before = list(grid), 0, 0
    for rung in options.rungs(total):
        steps += len(members) * (rung - before)
        before = rung
        scores = {name: grid[name].at(rung) for name in members}
        members = best_of(scores, max(1, len(members) // options.eta), judge)
    steps += len(members) * (total - before)
    choose = min if by.lower else max
    finals = {name: curve.final(by) for name, curve in grid.items()}
    best, chosen = choose(finals.values()), choose(finals[name] for name in members)
    regret = 100 * (chosen / best - 1) if by.is_loss else 100 * (best - chosen)
    return Outcome(regret, 1 - steps / (len(grid) * total))


def tables(grids: Sequence[Mapping[str, Curve]]) -> Iterator[str]:
    """Yield the lines of the tables, in Markdown."""
    first = max(grids[0].values(), key=lambda curve: curve.total)
    total = first.total
    answers = Monitor("val/answers", lower=False)
    has_answers = all(score.value is not None for score in first.scores.values())
    yield f"{len(grids)} seeds, {len(grids[0])} jobs of {total} steps"
    for judge, by, words in (
        (LOSS, LOSS, "judged and ranked by the validation loss; regret in % of it"),
        (answers, answers, "judged and ranked by the answers; regret in points"),
        (LOSS, answers, "judged by the validation loss, ranked by the answers; in points"),
    ):
        if not has_answers and answers in (judge, by):
            continue
        yield from ("", words, "", "| first rung | eta | median | 90 % | largest | right | saved |")
        yield "|---|---|---|---|---|---|---|"
        for eta in (2, 3, 4):
            steps = sorted(own for own in first.scores if own <= total / 2)
            for rung in steps[:: max(1, len(steps) // MOST_RUNGS)]:
                outcomes = [halve(g, HalvingOptions(rung, eta), judge, by) for g in grids]
                yield row(rung, total, eta, outcomes)


def row(rung: int, total: int, eta: int, outcomes: Sequence[Outcome]) -> str:
    regrets = sorted(outcome.regret for outcome in outcomes)
    upper = regrets[min(len(regrets) - 1, -(-9 * len(regrets) // 10) - 1)]
    right = sum(regret <= 1e-9 for regret in regrets) / len(regrets)
    saved = statistics.fmean(outcome.saved for outcome in outcomes)
    return (
        f"| {rung} ({100 * rung / total:.0f} %) | {eta} | {statistics.median(regrets):.2f} |"
        f" {upper:.2f} | {regrets[-1]:.2f} | {100 * right:.0f} % | {100 * saved:.0f} % |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--snips", type=Path, help="folder of SNIPS: SmolLM2-135M is trained on it")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="of runs that are there")
    options = parser.parse_args()
    folder = options.folder
    if folder is None:
        kind = "toy" if options.snips is None else "snips"
        folder = Path("outputs") / "benchmarks" / f"halving_{kind}_{options.seeds}"
        run_grid(folder.absolute(), options.seeds, options.snips)
    for line in tables(read_grids(folder)):
        print(line)


if __name__ == "__main__":
    main()
