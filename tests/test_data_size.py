"""Whether more data would help: which rows the shares take, and what runs of several sizes say."""

import csv
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

import hydratune as api
from conftest import SMALL
from hydratune.cache import cache_folder
from hydratune.comparison import page
from hydratune.comparison.collect import collect_runs
from hydratune.comparison.comparison import Comparison, compare
from hydratune.comparison.data_size_verdict import Answer, answer
from hydratune.comparison.seed_noise import SeedNoise
from hydratune.comparison.size_trend import Sizes, error_of, fit_trend
from hydratune.comparison.verdict import verdict
from hydratune.data.report_content import _with_measured_size
from hydratune.data.rows import Message, Row
from hydratune.data.sets import load_sets, take_share
from hydratune.data.sources.contracts import ContractsData
from hydratune.errors import DataError
from hydratune.records.measured_sizes import read_measured, write_measured
from hydratune.records.sweep import read_sweep
from run_files import assert_same_run
from sized_runs import sized_sweep

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import itertools

import data_size as simulation

Command = Callable[..., tuple[int, str]]


def rows(count: int) -> list[Row]:
    return [
        Row(f"r{i}", (Message("user", f"q{i}"), Message("assistant", f"a{i}")))
        for i in range(count)
    ]


def compared(folder: Path, **options: object) -> Comparison:
    return compare(collect_runs([folder]), **options)  # type: ignore[arg-type]


def said(folder: Path) -> str:
    return "\n".join(verdict(compared(folder)))


# ---------------------------------------------------------------------------------- which rows
def test_larger_shares_contain_smaller_ones_and_another_seed_takes_others() -> None:
    every = rows(40)
    parts = [take_share(every, share, 1) for share in (0.125, 0.25, 0.5, 1.0)]
    assert [len(part) for part in parts] == [5, 10, 20, 40] and parts[3] is every
    for smaller, larger in itertools.pairwise(parts):
        assert set(map(id, smaller)) < set(map(id, larger))
    assert parts[1] == sorted(parts[1], key=every.index)  # in file order
    assert take_share(every, 0.25, 2) != parts[1] == take_share(every, 0.25, 1)


def test_a_share_concerns_the_training_rows_alone() -> None:
    counts = {"train_rows": 20, "validation_rows": 6, "test_rows": 6}
    whole = load_sets(ContractsData(**counts), 0)
    part = load_sets(ContractsData(**counts, train_share=0.5, max_train_rows=12), 0)
    assert len(part.train) == 6 and all(row in whole.train for row in part.train)
    assert (part.validation, part.test) == (whole.validation, whole.test)


def test_a_share_without_a_row_is_refused_with_a_share_that_has_one() -> None:
    with pytest.raises(DataError, match=r"none of 40 training rows; set data.train_share=0.025"):
        take_share(rows(40), 0.01, 0)
    assert len(take_share(rows(40), 0.025, 0)) == 1


@pytest.mark.slow
def test_a_job_of_a_size_is_the_run_alone_and_the_end_says_what_more_rows_brought(
    hydratune: Command, tmp_path: Path
) -> None:
    settings = [word for word in SMALL if not word.startswith("trainer.max_steps")]
    sweep = tmp_path / "sweep"
    code, text = hydratune(
        "train", "-m", *settings, "data.train_share=0.5,1", "seed=1,2", f"hydra.sweep.dir={sweep}"
    )
    assert code == 0 and "pack 1 of 1: 4 jobs on one base model" in text, text
    assert "4 to 8 rows" in text and "by training rows" in text, text
    code, text = hydratune(
        "train", *settings, "data.train_share=0.5", "seed=2", f"hydra.run.dir={tmp_path}/alone"
    )
    assert code == 0, text
    overrides = {tuple(sorted(job.overrides)): name for name, job in read_sweep(sweep).items()}
    job = next(
        name for own, name in overrides.items() if "data.train_share=0.5" in own and "seed=2" in own
    )
    assert_same_run(sweep / job, tmp_path / "alone")
    data = [json.loads((sweep / name / "data.json").read_text()) for name in overrides.values()]
    assert sorted(facts["splits"]["train"]["rows"] for facts in data) == [4, 4, 8, 8]
    kept = list((cache_folder() / "data_size").glob("*.json"))
    assert data[0]["prepared"] in {file.stem for file in kept}


def test_the_shipped_sweep_begins_with_an_eighth() -> None:
    params = OmegaConf.load(Path(__file__).parents[1] / "sweeps" / "data_size.yaml").hydra.sweeper
    assert params.params["data.train_share"] == "0.125,0.25,0.5,1"


# ------------------------------------------------------------------------------ what a sweep says
def test_more_data_that_helps_is_told_with_the_next_doubling(tmp_path: Path) -> None:
    text = said(sized_sweep(tmp_path / "s", (0.3, 0.5, 0.65, 0.76)))
    assert "more data: doubling from 64 to 128 rows raised exact match (+" in text
    assert "another doubling, to 256 rows, would bring about +" in text
    assert "if the trend of all 4 sizes continues (a doubling left" in text
    assert "60 independent test rows and 3 seeds, which also draw the smaller sets" in text
    assert "more rows were also more optimizer steps (4, 8, 16, 32)" in text
    assert "trainer.max_steps=32 gives all sizes the same" in text


def test_what_the_rows_cannot_tell_is_said(tmp_path: Path) -> None:
    folder = sized_sweep(tmp_path / "s", (0.5, 0.5, 0.5, 0.5), steps=(8, 8, 8, 8))
    text = said(folder)
    assert "cannot tell whether doubling from 64 to 128 rows changed exact match" in text
    assert "another doubling" not in text  # its interval contains 0 as well
    assert "smaller sets were repeated more often" in text


def test_a_gain_that_is_certainly_small_is_the_end_of_more_data(tmp_path: Path) -> None:
    folder = sized_sweep(
        tmp_path / "s", (0.2, 0.6, 0.9, 0.9), luck=0.0, rows=400, sizes=(16, 64, 256, 512)
    )
    curve = compared(folder).data_size[0]
    loss = next(metric for metric in curve.metrics if metric.key == "val/loss")
    assert answer(loss) is Answer.exhausted
    assert answer(curve.metrics[0]) in (Answer.exhausted, Answer.unknown)
    first = curve.metrics[0].steps[0]
    assert first.doublings == 2  # 16 to 64 rows


def test_more_data_that_harms_is_told(tmp_path: Path) -> None:
    text = said(sized_sweep(tmp_path / "s", (0.9, 0.3), sizes=(64, 128)))
    assert "lowered exact match" in text and "more of these rows made it worse" in text


def test_seeds_that_draw_no_rows_are_not_said_to(tmp_path: Path) -> None:
    for number, size in enumerate((16, 32)):
        sized_sweep(
            tmp_path / "s", (0.3 + 0.3 * number,), sizes=(size,), more=f"trainer: {{x: {size}}}\n"
        )
    for file in (tmp_path / "s").glob("*/config.yaml"):
        text = file.read_text().replace("trainer: {x", "data: {max_train_rows")
        file.write_text(text.replace("data: {train_share: 1.0}\n", ""))
    assert "3 seeds, which all have the same rows of each size" in said(tmp_path / "s")


def test_two_sizes_have_no_trend_and_one_seed_is_said(tmp_path: Path) -> None:
    text = said(sized_sweep(tmp_path / "s", (0.3, 0.8), sizes=(64, 128), seeds=1))
    assert "two sizes show no trend" in text
    assert "of one seed each" in text and "add seed=1,2,3" in text
    (curve,) = compared(tmp_path / "s").data_size
    loss = next(metric for metric in curve.metrics if metric.key == "val/loss")
    assert loss.steps[0].difference.interval is None  # nothing is known about its chance


def test_runs_of_one_size_and_runs_tested_on_other_rows_have_no_curve(tmp_path: Path) -> None:
    sized_sweep(tmp_path / "one", (0.5, 0.7), sizes=(64, 64))
    assert compared(tmp_path / "one").data_size == ()
    sized_sweep(tmp_path / "other", (0.5,), sizes=(64,))
    sized_sweep(tmp_path / "other", (0.7,), sizes=(128,), rows=30)
    curves = compared(tmp_path / "other").data_size
    assert [metric.key for metric in curves[0].metrics] == ["val/loss"]


def test_a_metric_that_is_0_for_all_runs_says_nothing(tmp_path: Path) -> None:
    folder = sized_sweep(tmp_path / "s", (-1.0, -0.8, -0.7), sizes=(16, 32, 64))
    (curve,) = compared(folder).data_size
    assert [metric.key for metric in curve.metrics] == ["eval/nll", "val/loss"]
    assert "exact match" not in said(folder).partition("more data")[2]


def test_each_learning_rate_has_a_curve_of_its_own(tmp_path: Path) -> None:
    for rate in (1, 2):
        sized_sweep(
            tmp_path / "s", (0.3, 0.6, 0.8), sizes=(16, 32, 64), more=f"trainer: {{x: {rate}}}\n"
        )
    result = compared(tmp_path / "s")
    assert len(result.data_size) == 2
    assert sum(line.startswith("more data (x=") for line in verdict(result)) == 2


# ----------------------------------------------------------------------------------- the statistics
def exact(means: list[float]) -> Sizes:
    doublings = np.arange(float(len(means)))
    samples = np.tile(means, (50, 1))
    return Sizes(
        doublings, np.array(means), [1] * len(means), [0.0] * len(means), samples, 50, None
    )


def test_a_power_law_is_continued_exactly() -> None:
    trend = fit_trend(exact([0.8, 0.4, 0.2, 0.1]), (0.0, 1.0), 0.95)
    assert trend is not None and trend.factor == pytest.approx(0.5)
    assert trend.next_change.value == pytest.approx(-0.05)
    assert trend.next_value.value == pytest.approx(0.05)
    rates = fit_trend(exact([0.2, 0.6, 0.8, 0.9]), error_of(False, (0.0, 1.0)), 0.95)
    assert rates is not None and rates.next_change.value == pytest.approx(0.05)


def test_a_metric_without_a_best_value_is_continued_by_equal_changes() -> None:
    trend = fit_trend(exact([1.0, 3.0, 5.0]), error_of(None, (-np.inf, np.inf)), 0.95)
    assert trend is not None and trend.factor is None
    assert trend.next_change.value == pytest.approx(2.0)


def test_a_curve_that_certainly_flattens_is_continued_as_a_bent_one() -> None:
    """0.1 is left whatever the rows: 0.55, 0.325, 0.2125, and then 0.156."""
    trend = fit_trend(exact([1.0, 0.55, 0.325, 0.2125]), (0.0, 1.0), 0.95)
    assert trend is not None and trend.flattens and trend.curvature_p < 0.05
    assert trend.next_value.value == pytest.approx(0.156, abs=0.01)  # a power law says 0.126


def test_what_is_unknown_of_the_bend_widens_the_interval() -> None:
    means = [1.0, 0.7, 0.49, 0.343]
    noisy = replace(exact(means), noise=SeedNoise(0.0009, 8, 0.0), seeds=[3] * 4)
    trend = fit_trend(noisy, (0.0, 1.0), 0.95)
    assert trend is not None and trend.next_change.interval is not None
    low, high = trend.next_change.interval
    assert low < -0.103 < high and high - low > 0.04  # by the seeds alone it is 0.02
    assert trend.next_value.interval is not None and trend.next_value.interval[0] > 0


def test_nothing_is_extrapolated_beyond_the_best_value() -> None:
    noise = SeedNoise(0.01, 8, 0.0)
    sizes = replace(exact([0.5, 0.75, 0.875, 0.9375]), noise=noise, seeds=[2] * 4)
    trend = fit_trend(sizes, error_of(False, (0.0, 1.0)), 0.95)
    assert trend is not None and trend.next_value.interval is not None
    assert trend.next_value.interval[1] == 1.0
    assert trend.next_change.interval is not None
    assert trend.next_change.interval[1] == pytest.approx(0.0625)


@pytest.mark.parametrize(("seeds", "unequal", "nested"), [(3, 1.0, 0.0), (3, 3.0, 0.5)])
def test_where_more_data_does_nothing_that_is_rarely_denied(
    seeds: int, unequal: float, nested: float
) -> None:
    """100 sweeps: 5 % plus 2.3 standard errors are allowed; benchmarks/data_size.py has more."""
    world = simulation.World(seeds, 40, unequal=unequal, nested=nested)
    shares = simulation.shares(world, 100, seed=1)
    assert max(shares["last"], shares["any"]) <= 0.10
    assert shares["holds"] >= 0.88


def test_an_effect_is_found_and_the_interval_of_the_next_doubling_holds_it() -> None:
    shares = simulation.shares(simulation.World(3, 60, factor=0.7), 60, seed=2)
    assert shares["any"] == 1 and shares["holds"] >= 0.88


def test_the_interval_of_the_next_doubling_holds_it_where_a_floor_is_reached() -> None:
    shares = simulation.shares(simulation.World(3, 60, factor=0.7, floor=0.2), 60, seed=3)
    assert shares["holds"] >= 0.88


# -------------------------------------------------------------------------------- what is shown
def test_terminal_exports_page_and_python_carry_the_sizes(
    hydratune: Command, tmp_path: Path
) -> None:
    folder = sized_sweep(tmp_path / "s", (0.3, 0.5, 0.65, 0.76))
    out = tmp_path / "out"
    code, text = hydratune("compare", str(folder), f"output={out}", "export=csv,markdown")
    assert code == 0 and "by training rows" in text and "none" in text, text
    with (out / "data_size.csv").open() as stream:
        records = list(csv.DictReader(stream))
    of_main = [record for record in records if record["metric"] == "eval/exact_match"]
    assert [record["training_rows"] for record in of_main] == ["16", "32", "64", "128", "256"]
    assert [record["extrapolated"] for record in of_main] == ["False"] * 4 + ["True"]
    assert of_main[3]["answer"] == "helps" and not of_main[0]["change_per_doubling"]
    stored = json.loads((out / "data_size.json").read_text())
    assert stored[1]["change_per_doubling"] == pytest.approx(
        float(records[1]["change_per_doubling"])
    )
    html = (out / "report.html").read_text()
    assert 'id="data-size"' in html and html.count('class="by-size"') == 3
    assert "line next" in html and "256" in html
    frame = api.compare(folder).data_size
    assert list(frame["training_rows"][:5]) == [16, 32, 64, 128, 256]
    assert api.compare(sized_sweep(tmp_path / "t", (0.5,), sizes=(8,))).data_size.empty


def test_texts_of_runs_are_escaped_in_the_section(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    evil = "<script>window.broken=1</script>"
    for name in (evil, "b"):
        sized_sweep(tmp_path / "s", (0.3, 0.6), sizes=(8, 16), more=f"trainer: {{x: {name!r}}}\n")
    html = page.render(compared(tmp_path / "s"), "s", tmp_path)
    assert "<script>window" not in html and 'id="data-size"' in html


# ------------------------------------------------------------------------- checks before a sweep
def test_halving_over_sizes_is_refused(hydratune: Command, tmp_path: Path) -> None:
    words = ("data.train_share=0.5,1", "hydra.launcher.halving.min_steps=2")
    code, text = hydratune("train", "-m", *SMALL, *words, f"hydra.sweep.dir={tmp_path}/s")
    assert code == 2 and "hydra.launcher.halving.min_steps=null" in text, text
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_less_than_a_batch_and_a_single_seed_are_said(hydratune: Command, tmp_path: Path) -> None:
    words = ("data.train_share=0.25,1", f"hydra.sweep.dir={tmp_path}/s")
    code, text = hydratune("train", "-m", *SMALL, *words)
    assert code == 0, text
    assert "data.train_share=0.25 leaves 2 training rows, fewer than the 4" in text, text
    assert "add seed=1,2,3" in text


# ----------------------------------------------------------------------------- the measured advice
def test_the_advice_on_the_number_of_rows_becomes_the_measured_one(tmp_path: Path) -> None:
    size = {"count": 96, "note": "fewer than 500", "fix": "measure", "why": "", "title": ""}
    fingerprint = "feedfacefeedface"
    assert _with_measured_size({"size": size}, fingerprint) == {"size": size}
    write_measured(fingerprint, "m: doubling brought +4.1 points", Path("outputs/s"))
    changed = _with_measured_size({"size": size}, fingerprint)["size"]
    assert changed["note"] == (
        "fewer than 500; measured: m: doubling brought +4.1 points (outputs/s)"
    )
    assert "hydratune compare" in changed["fix"]


def test_a_fingerprint_is_no_path_and_a_broken_record_is_none() -> None:
    write_measured("../../evil", "x", Path("s"))
    assert not (cache_folder() / ".." / "evil.json").exists() and not read_measured("../../evil")
    write_measured("0123456789abcde1", "x", Path("s"))
    (cache_folder() / "data_size" / "0123456789abcde1.json").write_text("[")
    assert read_measured("0123456789abcde1") == ""
