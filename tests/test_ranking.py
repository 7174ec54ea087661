"""Seeds as replicates: runs that differ in their seed alone are one entry of the ranking."""

import io
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table
from scipy.stats import t, ttest_ind

from hydratune.comparison import terminal
from hydratune.comparison.collect import collect_runs
from hydratune.comparison.comparison import compare
from hydratune.comparison.entries import Entry, group_runs
from hydratune.comparison.formatting import format_distinct, short_names
from hydratune.comparison.runs import Run
from hydratune.comparison.ties import seed_p_values
from hydratune.comparison.verdict import verdict
from hydratune.records.files import write_json, write_text
from hydratune.records.run_directory import RunDirectory
from hydratune.records.status import Halved, State
from hydratune.records.sweep import SweepJob, write_sweep


def ranking_table(runs: Sequence[Run]) -> tuple[Table, str]:
    """Return the table of the ranking and its conclusion."""
    compared = compare(runs)
    return terminal.ranking_table(compared), "\n".join(verdict(compared))


def run(name: str, lr: float, seed: int, loss: float | None, **more: Any) -> Run:
    settings = {"optimizer.lr": lr, "seed": seed, "adapter.r": 4, **more.pop("settings", {})}
    metrics = {"objective": loss, "eval/field_f1": 0.5 + seed / 10} if loss is not None else {}
    state = more.pop("state", "finished" if loss is not None else "failed")
    return Run(Path(name), state, more.pop("error", None), settings, metrics, **more)


def printed(table: Table) -> str:
    console = Console(width=200, file=io.StringIO())
    console.print(table)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def column(table: Table, title: str) -> list[str]:
    return [str(cell) for c in table.columns if c.header == title for cell in c.cells]


def test_seeds_are_one_entry_ranked_by_its_mean() -> None:
    """The single best run belongs to the worse settings, which are not ranked first."""
    runs = [run("a", 0.1, 1, 0.20), run("b", 0.1, 2, 0.90), run("c", 0.1, 3, 0.70)]
    runs += [run("d", 0.2, 1, 0.32), run("e", 0.2, 2, 0.30), run("f", 0.2, 3, 0.31)]
    table, best = ranking_table(runs)
    assert column(table, "run") == ["", "e", "f", "d", "", "a", "c", "b"]
    assert column(table, "validation loss") == [
        "0.3100 ± 0.01",
        "0.3000",
        "0.3100",
        "0.3200",
        "0.6000 ± 0.36",
        "0.2000",
        "0.7000",
        "0.9000",
    ]
    assert (
        column(table, "seed")[:2] == ["n=3", "2"]
        and column(table, "state")[0] == "finished"
        and column(table, "field F1 (%)")[0] == "70.0 ± 10.0"
    )
    assert column(table, "lr") == ["0.2", "", "", "", "0.1", "", "", ""]
    assert best.startswith(
        "best: e  (lr=0.2, r=4: validation loss 0.3000, the lowest of 3 seeds, mean 0.3100 ± 0.01;"
    )


def test_means_within_the_noise_are_indistinguishable() -> None:
    noisy = [
        run("a", 0.1, 1, 0.30),
        run("b", 0.1, 2, 0.40),
        run("c", 0.2, 1, 0.36),
        run("d", 0.2, 2, 0.38),
    ]
    assert (
        "statistically indistinguishable from it by these seeds: optimizer.lr=0.2 (0.3700 ± 0.014)"
        in ranking_table(noisy)[1]
    )
    clear = [
        run("a", 0.1, 1, 0.30),
        run("b", 0.1, 2, 0.31),
        run("c", 0.2, 1, 0.76),
        run("d", 0.2, 2, 0.78),
    ]
    assert "indistinguishable" not in ranking_table(clear)[1]


def replicated(*samples: list[float]) -> list[Entry]:
    """Return entries with these losses, the best mean first."""
    runs = [
        run(f"{n}.{seed}", n + 1.0, seed, loss)
        for n, some in enumerate(samples)
        for seed, loss in enumerate(some)
    ]
    return group_runs(runs)


@pytest.mark.parametrize(
    ("a", "b", "p"),
    [
        # 2.8 standard errors, and p = 0.11
        ([1.0, 3.0], [4.9, 6.9], ttest_ind([1.0, 3.0], [4.9, 6.9]).pvalue),
        ([1.0, 3.0, 2.0], [4.9, 6.9], ttest_ind([1.0, 3.0, 2.0], [4.9, 6.9]).pvalue),
        # one run against several: only their spread is known
        ([1.0, 3.0], [7.0], 2 * t.sf(5 / math.sqrt(2 * 1.5), 1)),
    ],
)
def test_few_seeds_estimate_their_spread_poorly(a: list[float], b: list[float], p: float) -> None:
    assert seed_p_values(replicated(a, b)) == {1: pytest.approx(p)}


def test_without_replicates_seeds_are_not_tested_and_single_seeds_use_the_pooled_spread() -> None:
    assert seed_p_values(replicated([1.0], [2.0], [3.0])) == {}
    # of the third entry: variance 0.02, one degree of freedom
    spread = t.sf(1 / math.sqrt(0.02 * 2), 1) * 2
    p_values = seed_p_values(replicated([1.0], [2.0], [8.9, 9.1]))
    # Holm
    assert p_values[1] == pytest.approx(spread) and p_values[2] == pytest.approx(
        2 * t.sf(8 / math.sqrt(0.02 * 1.5), 1) * 2
    )


@pytest.mark.parametrize(("seeds", "others"), [(2, 2), (3, 3), (1, 3)])
def test_settings_that_do_nothing_rarely_differ_significantly(seeds: int, others: int) -> None:
    """Seeds of both settings have the same distribution: one pair in 20 may differ
    significantly.
    """
    noise = random.Random(3)
    pairs = [
        [[noise.gauss(1, 0.1) for _ in range(count)] for count in (seeds, others)]
        for _ in range(400)
    ]
    wrong = sum(seed_p_values(replicated(*pair))[1] < 0.05 for pair in pairs)
    assert wrong / len(pairs) < 0.09


def test_a_table_of_single_seeds_has_no_seed_columns() -> None:
    table, best = ranking_table([run("a", 0.1, 0, 0.5), run("b", 0.2, 0, 0.4)])
    headers = [c.header for c in table.columns]
    assert headers == ["", "run", "lr", "validation loss", "field F1 (%)", "state"]
    assert column(table, "run") == ["b", "a"] and best == (
        "best: b  (lr=0.2, r=4: validation loss 0.4000; the test metrics took no part in the"
        " choice)"
    )


def test_seeds_that_did_not_finish_are_counted_and_say_why() -> None:
    runs = [
        run("a", 0.1, 1, 0.4),
        run("b", 0.1, 2, None, error="the loss is [nan]\nrows: 7"),
        run("c", 0.1, 3, 0.5),
    ]
    runs += [run("d", 0.2, 1, None, error="x" * 200), run("e", 0.2, 2, None, state="not started")]
    table, best = ranking_table(runs)
    assert [column(table, "state")[n] for n in (0, 4)] == ["2 of 3 finished", "0 of 2 finished"]
    assert [column(table, "seed")[n] for n in (0, 4)] == ["n=2", "n=0"]
    assert column(table, "validation loss")[4] == "-"
    assert "lr=0.1" in best and "2 of 3 seeds, mean 0.4500" in best
    text = printed(table)
    assert (
        "failed: the loss is [nan]" in text
        and "rows: 7" not in text
        and "x" * 40 + " ..." in text
        and "x" * 41 not in text
    )


def test_halved_runs_come_after_the_finished_ones_and_are_never_best() -> None:
    runs = [
        run("failed", 0.4, 1, None),
        run("early", 0.1, 1, None, state="stopped", halved=Halved(4, 0.01)),
    ]
    runs += [
        run("late", 0.2, 1, None, state="stopped", halved=Halved(12, 0.3)),
        run("good", 0.3, 1, 0.5),
    ]
    table, best = ranking_table(runs)
    assert column(table, "run") == ["good", "late", "early", "failed"]
    assert column(table, "state") == ["finished", "halved at step 12", "halved at step 4", "failed"]
    assert column(table, "validation loss") == ["0.5000", "(0.3000)", "(0.0100)", "-"]
    assert best.startswith("best: good")
    assert ranking_table(runs[:3])[1] == ""


def test_a_setting_that_follows_the_seed_does_not_separate_replicates() -> None:
    """With ``data.seed=${seed}`` the rows change with the seed: runs are comparable if every entry
    saw the same rows.
    """

    def drawn(name: str, lr: float, seed: int, loss: float) -> Run:
        return run(
            name,
            lr,
            seed,
            loss,
            settings={"data.seed": seed, "model.seed": 0},
            validation_hash=f"rows of {seed}",
        )

    runs = [
        drawn("a", 0.1, 1, 0.4),
        drawn("b", 0.1, 2, 0.5),
        drawn("c", 0.2, 1, 0.6),
        drawn("d", 0.2, 2, 0.7),
    ]
    assert [len(entry.runs) for entry in group_runs(runs)] == [2, 2]
    assert ranking_table(runs)[1].startswith("best: a")
    assert ranking_table(runs[:3])[1].startswith("no best run")
    assert (
        len(
            group_runs(
                [
                    run("a", 0.1, 1, 0.4, settings={"data.seed": 7}),
                    run("b", 0.1, 2, 0.4, settings={"data.seed": 8}),
                ]
            )
        )
        == 2
    )


def test_the_same_run_twice_is_no_replicate() -> None:
    entries = group_runs([run("a", 0.1, 1, 0.4), run("b", 0.1, 1, 0.4), run("c", 0.1, 2, 0.5)])
    assert [[r.path.name for r in entry.runs] for entry in entries] == [["b"], ["a", "c"]]


def test_jobs_that_never_began_are_counted_with_their_seeds(tmp_path: Path) -> None:
    write_sweep(
        tmp_path,
        [
            SweepJob(str(n), (), {"optimizer.lr": lr, "seed": str(n % 2)})
            for n, lr in enumerate(("1e-3", "1e-3", "2e-3"))
        ],
    )
    record = RunDirectory(tmp_path / "0")
    record.start()
    write_text(record.config_file, "optimizer: {lr: 0.001}\nseed: 0\n")
    write_json(record.metrics_file, {"objective": 0.5})
    record.end(State.finished)
    first, second = group_runs(collect_runs([tmp_path]))
    assert [(r.path.name, r.state) for r in first.runs] == [("0", "finished"), ("1", "not started")]
    assert [r.path.name for r in second.runs] == ["2"]


def test_names_and_values_are_shortened_while_unambiguous() -> None:
    names = short_names(["optimizer.lr", "optimizer.name", "adapter.name", "seed"])
    assert names == {
        "optimizer.lr": "lr",
        "optimizer.name": "optimizer.name",
        "adapter.name": "adapter.name",
        "seed": "seed",
    }
    long = "You are a helpful assistant who answers in "
    assert list(format_distinct([f"{long}one\nline", f"{long}verse", 8, 8.0, None]).values()) == [
        "You are a helpful assist ...",
        "You are a helpful assist ... (2)",
        "8",
        "-",
    ]


def test_the_same_number_written_in_two_ways_is_one_setting() -> None:
    entries = group_runs([run("a", 1.0, 1, 0.4), run("b", 1, 2, 0.5)])
    assert len(entries) == 1


def test_runs_of_two_sweeps_have_names_of_their_own(tmp_path: Path) -> None:
    for sweep in ("x1", "x2"):
        for job in "01":
            record = RunDirectory(tmp_path / sweep / job)
            record.start()
            record.end(State.finished)
    assert sorted(r.name for r in collect_runs([tmp_path / "x1", tmp_path / "x2"])) == [
        "x1/0",
        "x1/1",
        "x2/0",
        "x2/1",
    ]
    assert [r.name for r in collect_runs([tmp_path / "x1"])] == ["0", "1"]


def test_halved_runs_whose_loss_was_no_number_come_after_those_that_had_one() -> None:
    halved = [
        run(str(n), 0.1 + n, 1, None, state="stopped", halved=Halved(4, value))
        for n, value in enumerate((math.nan, 0.3, math.inf, 0.2, math.nan, 0.1))
    ]
    assert [
        entry.runs[0].path.name for entry in group_runs([*halved, run("good", 9.0, 1, 0.5)])
    ] == [
        "good",
        "5",
        "3",
        "1",
        "0",
        "2",
        "4",
    ]
