"""hydratune compare: ties over the same rows, effects of settings, fronts, refusals, and the check
of two runs for scripts.
"""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import SMALL
from hydratune.comparison.collect import collect_runs
from hydratune.comparison.comparison import compare
from hydratune.comparison.criterion import Criterion, parse_criterion
from hydratune.comparison.effects import find_effects
from hydratune.comparison.entries import group_runs
from hydratune.comparison.fronts import pareto_front
from hydratune.comparison.gate import parse_limits
from hydratune.comparison.verdict import verdict
from hydratune.errors import InputError
from hydratune.metric_table import find, lower_is_better

Command = Callable[..., tuple[int, str]]


def make(
    folder: Path,
    *,
    loss: float | None = 0.5,
    right: list[bool] | None = None,
    nll: list[float] | None = None,
    lr: float = 1e-3,
    rank: int = 8,
    seed: int = 0,
    state: str = "finished",
    rows: str = "validation rows",
    **metrics: Any,
) -> Path:
    """A run directory as hydratune train leaves it, scored by exact matches."""
    folder.mkdir(parents=True)
    right = right or [True] * 40
    nll = nll or [1.0] * len(right)
    (folder / "status.json").write_text(
        json.dumps({"state": state, "error": None if state == "finished" else "it broke"})
    )
    settings = (
        f"name: x\nseed: {seed}\noptimizer: {{lr: {lr}}}\nadapter: {{r: {rank}}}\nevaluation:"
        " {metrics: [match]}\n"
    )
    (folder / "config.yaml").write_text(settings)
    (folder / "data.json").write_text(json.dumps({"splits": {"validation": {"tokens_hash": rows}}}))
    if state == "finished":
        values = {
            "eval/exact_match": sum(right) / len(right),
            "eval/nll": sum(nll) / len(nll),
            "val/loss": loss,
            "objective": loss,
        }
        (folder / "metrics.json").write_text(json.dumps({**values, "intervals": {}, **metrics}))
        lines = [
            {
                "id": str(i),
                "group": None,
                "item_hash": f"item {i}",
                "prompt": [{"role": "user", "content": "q"}],
                "prediction": "a" if hit else "b",
                "reference": "a",
                "finish_reason": "stop",
                "generated_tokens": 1,
                "answer_tokens": 1,
                "nll": value,
                "scores": {"exact_match": hit, "normalised_match": hit},
            }
            for i, (hit, value) in enumerate(zip(right, nll, strict=True))
        ]
        (folder / "predictions.jsonl").write_text(
            "".join(json.dumps(line) + "\n" for line in lines)
        )
    return folder


def hits(count: int, of: int = 40) -> list[bool]:
    return [i < count for i in range(of)]


def test_copies_of_one_run_are_indistinguishable(tmp_path: Path) -> None:
    noise = random.Random(0)
    nll = [noise.gauss(1, 0.3) for _ in range(40)]
    for n in range(12):
        make(tmp_path / str(n), right=hits(31), nll=nll, lr=n + 1.0)
    compared = compare(collect_runs([tmp_path]))
    assert len(compared.indistinguishable()) == 11
    assert all(
        a.p == 1 and a.value == 0 and a.interval == (0, 0)
        for tests in compared.paired_tests.values()
        for a in tests.values()
    )


def test_38_of_40_against_37_is_not_distinguishable(hydratune: Command, tmp_path: Path) -> None:
    make(tmp_path / "sweep" / "a", right=hits(38), lr=1.0, loss=0.4)
    make(tmp_path / "sweep" / "b", right=hits(37), lr=2.0, loss=0.5)
    code, text = hydratune("compare", str(tmp_path / "sweep"))
    assert (
        code == 0
        and "statistically indistinguishable from the best: optimizer.lr=2" in text
        and "tied" in text
    ), text
    code, text = hydratune(
        "compare", f"baseline={tmp_path}/sweep/a", f"candidate={tmp_path}/sweep/b"
    )
    assert code == 0 and "the candidate is not worse" in text


def test_a_clear_difference_on_the_same_rows_is_significant(tmp_path: Path) -> None:
    make(tmp_path / "a", right=hits(38), lr=1.0, loss=0.4)
    make(tmp_path / "b", right=hits(20), lr=2.0, loss=0.5)
    compared = compare(collect_runs([tmp_path]))
    assert not compared.indistinguishable()
    found = compared.paired_tests[1]["exact_match"]
    assert (
        found.significant
        and not found.better
        and found.value == pytest.approx(-18 / 40)
        and found.interval[1] < 0
    )
    assert found.p == pytest.approx(2 * 2**-17)  # McNemar's, 18 rows all to one side, of two tests
    assert "significantly different from all others" in "\n".join(verdict(compared))


def test_many_equal_comparisons_are_corrected(tmp_path: Path) -> None:
    """7 rows to one side have p = 0.016: a find alone, nothing among ten. 6 have 0.03: nothing
    where two metrics are tested.
    """
    make(tmp_path / "best", right=hits(30), loss=0.1, lr=9.0)
    make(tmp_path / "0", right=hits(23), loss=0.5, lr=1.0)
    assert compare(collect_runs([tmp_path])).paired_tests[1]["exact_match"].significant
    make(tmp_path / "other" / "best", right=hits(30), loss=0.1, lr=9.0)
    make(tmp_path / "other" / "0", right=hits(24), loss=0.5, lr=1.0)
    assert (
        not compare(collect_runs([tmp_path / "other"])).paired_tests[1]["exact_match"].significant
    )
    shutil.rmtree(tmp_path / "other")
    for n in range(1, 10):
        make(tmp_path / str(n), right=hits(30 - n % 3), loss=0.5 + n, lr=n + 1.0)
    assert not compare(collect_runs([tmp_path])).paired_tests[1]["exact_match"].significant


def test_a_clear_difference_is_significant_among_two_hundred(tmp_path: Path) -> None:
    """The least p that samples can show, times 200, must stay below the level of significance."""
    for n in range(200):
        make(
            tmp_path / str(n),
            nll=[1.0 + i / 100 + (i % 7 + 1) * (n == 1) for i in range(40)],
            loss=0.1 + n,
            lr=n + 1.0,
        )
    against = compare(collect_runs([tmp_path])).paired_tests
    assert against[1]["nll"].significant and not against[2]["nll"].significant


def test_costs_and_intervals_are_on_the_terminal(hydratune: Command, tmp_path: Path) -> None:
    cost = {"cost/cpu_seconds": 1234.5, "cost/tokens": 56789, "cost/peak_memory_bytes": 3 * 2**30}
    for n in range(2):
        make(
            tmp_path / str(n),
            right=hits(30),
            lr=n + 1.0,
            loss=0.1 + n,
            intervals={"eval/exact_match": [0.598, 0.858]},
            **cost,
        )
    code, text = hydratune("compare", str(tmp_path), "html=false")
    assert (
        code == 0
        and "0.75 [0.598, 0.858]" in text
        and "1,234" in text
        and "56,789" in text
        and "3.00" in text
    ), text


def test_seeds_that_differ_more_than_settings_are_a_tie(tmp_path: Path) -> None:
    """Row by row every seed of b beats the worst seed of a; the seeds of a differ as much among
    themselves.
    """
    for seed, count in enumerate((100, 140)):
        make(
            tmp_path / f"a{seed}", right=hits(count, 200), lr=1.0, seed=seed, loss=0.40 + seed / 50
        )
        make(
            tmp_path / f"b{seed}",
            right=hits(count + 8, 200),
            lr=2.0,
            seed=seed,
            loss=0.41 + seed / 50,
        )
    compared = compare(collect_runs([tmp_path]))
    found = compared.paired_tests[1]["exact_match"]
    assert (
        found.includes_seed_noise
        and not found.significant
        and found.interval[0] < -0.1
        and found.interval[1] > 0.1
    )
    alone = compare([run for run in compared.runs if run.name in ("a0", "b0")]).paired_tests[1][
        "exact_match"
    ]
    assert not alone.includes_seed_noise and alone.significant


@pytest.mark.parametrize(("seeds", "others"), [(2, 2), (3, 3), (1, 3)])
def test_settings_that_do_nothing_rarely_differ_significantly_on_the_test_rows(
    tmp_path: Path, seeds: int, others: int
) -> None:
    """What differs is the luck of the seed, which shifts all rows: one pair in 20 may look
    different.
    """
    noise = random.Random(5)
    wrong = 0
    for trial in range(100):
        rows = [noise.gauss(2, 0.3) for _ in range(30)]
        for side, count in (("a", seeds), ("b", others)):
            for seed in range(count):
                shift = noise.gauss(0, 0.05)
                nll = [row + shift + noise.gauss(0, 0.02) for row in rows]
                make(
                    tmp_path / f"{trial}" / f"{side}{seed}",
                    nll=nll,
                    right=[True] * 30,
                    lr=1.0 + (side == "b"),
                    seed=seed,
                )
        wrong += compare(collect_runs([tmp_path / f"{trial}"])).paired_tests[1]["nll"].significant
    assert wrong <= 10


def test_other_test_rows_are_not_paired(tmp_path: Path) -> None:
    make(tmp_path / "a", lr=1.0, loss=0.4)
    make(tmp_path / "b", lr=2.0, loss=0.5, right=hits(30, 41))
    compared = compare(collect_runs([tmp_path]))
    assert not compared.paired_tests and "not paired with the best: b" in compared.notes[0]


def test_runs_of_different_data_are_not_ranked(hydratune: Command, tmp_path: Path) -> None:
    make(tmp_path / "a", rows="these", loss=0.4, lr=1.0)
    make(tmp_path / "b", rows="those", loss=0.3, lr=2.0)
    code, text = hydratune("compare", str(tmp_path))
    assert (
        code == 0
        and "not ranked" in text
        and "no best run" in text
        and "run a" in text
        and "best:" not in text
        and "│ 1 " not in text
    )


def test_a_test_metric_asks_for_the_same_test_rows_and_no_other(
    hydratune: Command, tmp_path: Path
) -> None:
    """Two base models have other tokens, so other losses; their answers to the same rows can be
    ranked.
    """
    make(tmp_path / "s" / "a", rows="these tokens", right=hits(30), lr=1.0)
    make(tmp_path / "s" / "b", rows="those tokens", right=hits(39), lr=2.0)
    code, text = hydratune("compare", "s", "metric=eval/exact_match", "html=false")
    assert (
        code == 0
        and "not ranked" not in text
        and "best: s/b" in text
        and "worse (exact match)" in " ".join(text.split())
    ), text
    make(tmp_path / "s" / "c", right=hits(40, 41), lr=3.0)
    code, text = hydratune("compare", "s", "metric=eval/exact_match", "html=false")
    assert code == 0 and "no best run: these runs were tested on different rows" in text, text


def test_what_the_verdict_says_is_so(tmp_path: Path) -> None:
    """Better on the test rows than the one validation chose; not tested; of few seeds that
    finished.
    """
    make(tmp_path / "s" / "a", right=hits(20), loss=0.4, lr=1.0)
    make(tmp_path / "s" / "b", right=hits(38), loss=0.5, lr=2.0)
    compared = compare(collect_runs([tmp_path / "s"]))
    told = "\n".join(verdict(compared))
    assert (
        "significantly better than it on the test rows: optimizer.lr=2 (exact match +0.45)" in told
    )
    make(tmp_path / "s" / "c", right=hits(38, 41), loss=0.6, lr=3.0)
    assert "significantly different from the 1 others that could be tested" in "\n".join(
        verdict(compare(collect_runs([tmp_path / "s"])))
    )
    for seed in range(3):
        make(
            tmp_path / "t" / str(seed),
            loss=0.3 + seed,
            seed=seed,
            state="finished" if seed == 0 else "failed",
        )
    make(tmp_path / "t" / "3", loss=0.9, lr=7.0)
    compared = compare(collect_runs([tmp_path / "t"]))
    assert any("1 of 3 seeds of optimizer.lr=0.001 finished" in note for note in compared.notes)
    (tmp_path / "s" / "a" / "predictions.jsonl").write_text('{"id"')
    assert "the best entry has no answers that can be read" in "\n".join(
        compare(collect_runs([tmp_path / "s"])).notes
    )


def test_a_few_points_prove_no_correlation_and_noise_has_no_importance(tmp_path: Path) -> None:
    for n in range(4):
        make(tmp_path / "few" / str(n), loss=0.1 + n, lr=n + 1.0)
    (found,) = find_effects(group_runs(collect_runs([tmp_path / "few"])), Criterion())
    assert found.correlation == pytest.approx(1) and found.correlation_p == pytest.approx(2 / 24)
    noise = random.Random(2)
    for n in range(24):
        make(
            tmp_path / "noise" / str(n),
            loss=noise.random(),
            lr=noise.random(),
            rank=noise.choice([4, 8, 16]),
        )
    compared = compare(collect_runs([tmp_path / "noise"]), tests=False)
    assert all(effect.importance is None for effect in compared.effects)
    assert any("no importances" in note for note in compared.notes)
    rate = next(effect for effect in compared.effects if effect.key == "optimizer.lr")
    assert (
        len(rate.levels) == 4
        and sum(level.runs for level in rate.levels) == 24
        and " to " in rate.levels[0].value
    )


def test_effects_are_those_that_were_put_in(tmp_path: Path) -> None:
    """The loss follows the learning rate, hardly the rank, and not at all the seed."""
    noise = random.Random(1)
    n = 0
    for lr in (1e-4, 1e-3, 1e-2):
        for rank in (4, 16):
            for seed in (1, 2):
                loss = (
                    1
                    + 0.3 * (lr == 1e-4)
                    + 0.6 * (lr == 1e-2)
                    + 0.01 * (rank == 16)
                    + noise.gauss(0, 0.001)
                )
                make(tmp_path / str(n), loss=loss, lr=lr, rank=rank, seed=seed)
                n += 1
    found = {
        effect.key: effect
        for effect in find_effects(group_runs(collect_runs([tmp_path])), Criterion())
    }
    assert list(found) == ["optimizer.lr", "adapter.r", "seed"] and found["seed"].is_noise
    rate = found["optimizer.lr"]
    assert [level.value for level in rate.levels] == [1e-4, 1e-3, 1e-2] and [
        level.runs for level in rate.levels
    ] == [4, 4, 4]
    assert rate.levels[1].mean == pytest.approx(1.005, abs=0.003)
    low, high = rate.levels[1].interval or (0, 0)
    assert low < 1.005 < high and high - low < 0.05
    assert (
        rate.importance is not None
        and rate.importance > 0.9
        and (found["seed"].importance or 0) < 0.05
    )
    assert (
        rate.correlation is not None
        and 0 < rate.correlation < 1
        and found["seed"].correlation is None
    )


def test_a_front_is_what_nothing_beats_twice(tmp_path: Path) -> None:
    for name, loss, cost in (
        ("a", 0.1, 9.0),
        ("b", 0.2, 5.0),
        ("c", 0.3, 6.0),
        ("d", 0.4, 1.0),
        ("e", 0.4, 2.0),
    ):
        make(tmp_path / name, loss=loss, lr=cost, **{"cost/cpu_seconds": cost})
    runs = collect_runs([tmp_path])
    assert [run.name for run in pareto_front(runs, "cost/cpu_seconds", "val/loss").runs] == [
        "d",
        "b",
        "a",
    ]
    assert [
        run.name for run in pareto_front(runs, "cost/cpu_seconds", "val/loss", x_lower=False).runs
    ] == ["a"]


def test_metrics_know_which_way_is_better() -> None:
    lower = (
        "val/loss",
        "objective",
        "eval/nll",
        "base/perplexity",
        "cost/peak_memory_bytes",
        "forgetting/kl",
        "eval/invented_keys",
    )
    assert all(lower_is_better(name) is True for name in (*lower, "forgetting/bits_per_byte_delta"))
    assert all(
        lower_is_better(name) is False
        for name in (
            "eval/field_f1",
            "base/rougeL",
            "cost/tokens_per_second",
            "eval/field_f1/party",
        )
    )
    assert lower_is_better("eval/my_own") is None
    assert parse_criterion("eval/my_own", "max") == Criterion("eval/my_own", lower=False)
    with pytest.raises(InputError, match="mode=min or mode=max"):
        parse_criterion("eval/my_own", None)


def test_every_number_of_a_run_has_a_meaning(hydratune: Command, tmp_path: Path) -> None:
    wanted = (
        "evaluation.forgetting.measure=true",
        "evaluation.forgetting.items=2",
        "evaluation.forgetting.answer_tokens=2",
        "evaluation.canaries=2",
        "evaluation.memorisation=4",
        "evaluation.baselines=[base,fewshot]",
    )
    code, text = hydratune("train", *SMALL, *wanted, f"hydra.run.dir={tmp_path}/run")
    assert code == 0, text
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    numbers = [name for name, value in metrics.items() if isinstance(value, (int, float))]
    assert {name.split("/")[0] for name in numbers} >= {
        "eval",
        "base",
        "fewshot",
        "forgetting",
        "memorisation",
        "fit",
        "cost",
        "val",
    }
    assert [name for name in numbers if find(name) is None] == []


def test_a_test_metric_that_chooses_is_said(hydratune: Command, tmp_path: Path) -> None:
    make(tmp_path / "a", right=hits(30), loss=0.4, lr=1.0)
    make(tmp_path / "b", right=hits(35), loss=0.5, lr=2.0)
    code, text = hydratune("compare", str(tmp_path), "metric=eval/exact_match")
    assert (
        code == 0
        and "best: " in text
        and f"{tmp_path}/b" in text
        and "the score of the best is optimistically biased" in " ".join(text.split())
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["metric=eval/exact_matsch"], "did you mean eval/exact_match"),
        (["metric=exact_match", "mode=max"], "did you mean eval/exact_match"),
        (["baseline=runs/a", "candidate=runs/a", "metric=val/loss"], "has no such option"),
        (["metrik=val/loss"], "did you mean metric=?"),
        (["pareto=[val/loss]"], "give two metrics"),
        (["pareto=[val/loss,cost/cpu]"], "no finished run has it"),
        (["confidence=95"], "from 0.5 to below 1"),
        (["--html"], "no such option"),
        (["html=perhaps"], "give true or false"),
        (["fail_if=val/loss>1"], "baseline=DIR candidate=DIR"),
        (["baseline=a"], "baseline=DIR and candidate=DIR"),
    ],
)
def test_wrong_words_are_one_message(
    hydratune: Command, tmp_path: Path, words: list[str], told: str
) -> None:
    make(tmp_path / "runs" / "a")
    code, text = hydratune("compare", *([] if "candidate=runs/a" in words else ["runs"]), *words)
    assert code == 2 and told in text and "Traceback" not in text, text


# ---------------------------------------------------------------------------- the check for scripts
@pytest.mark.parametrize(
    ("fail_if", "code"),
    [
        ("eval/exact_match<-0.02", 1),
        ("eval/exact_match<-0.03", 0),
        ("eval/exact_match<-2%", 1),
        ("val/loss>+1%", 1),
        ("val/loss>+30%", 0),
        ("val/loss > 0.2, eval/nll>0", 0),
        ("eval/exact_match<-.02", 1),
    ],
)
def test_limits_of_a_check(hydratune: Command, tmp_path: Path, fail_if: str, code: int) -> None:
    make(tmp_path / "a", right=hits(38), loss=0.4)
    make(tmp_path / "b", right=hits(37), loss=0.5)
    ended, text = hydratune("compare", "baseline=a", "candidate=b", f"fail_if={fail_if}")
    assert ended == code and ("FAIL" in text) is bool(code), text


def test_certain_asks_for_the_whole_interval(hydratune: Command, tmp_path: Path) -> None:
    make(tmp_path / "a", right=hits(38))
    make(tmp_path / "b", right=hits(37))
    make(tmp_path / "c", right=hits(10))
    words = ("baseline=a", "fail_if=eval/exact_match<-0.02", "certain=true")
    assert hydratune("compare", "candidate=b", *words)[0] == 0
    assert hydratune("compare", "candidate=c", *words)[0] == 1


def test_without_limits_a_significantly_worse_candidate_fails(
    hydratune: Command, tmp_path: Path
) -> None:
    make(tmp_path / "a", right=hits(38))
    make(tmp_path / "b", right=hits(20))
    assert hydratune("compare", "baseline=a", "candidate=b")[0] == 1
    assert hydratune("compare", "baseline=b", "candidate=a")[0] == 0


@pytest.mark.parametrize(
    "text",
    [
        "eval/f1",
        "eval/f1<",
        "eval/f1=1",
        "eval/f1<0.02",
        "val/loss>-1%",
        "val/loss<-1%",
        "eval/field_f1>.1",
        "",
    ],
)
def test_limits_that_mean_nothing(text: str) -> None:
    with pytest.raises(InputError, match="fail_if"):
        parse_limits(text)


def test_runs_that_cannot_be_checked(hydratune: Command, tmp_path: Path) -> None:
    make(tmp_path / "a")
    make(tmp_path / "failed", state="failed")
    make(tmp_path / "other", right=hits(41, 41))
    make(tmp_path / "validated", rows="other rows")
    make(tmp_path / "nan", nll=[float("nan")] + [1.0] * 39)
    make(tmp_path / "silent")
    (tmp_path / "silent" / "predictions.jsonl").unlink()
    for candidate, more, told in (
        ("failed", [], "not a finished run"),
        ("nowhere", [], "no run directory"),
        ("other", [], "different rows"),
        ("a", ["fail_if=eval/nothing<-1"], "has no metric eval/nothing"),
        ("a", ["certain=perhaps"], "give true or false"),
        ("a", ["certain=true"], "belongs to fail_if"),
        ("a", ["certain=true", "fail_if=val/loss>0"], "has no interval"),
        ("other", ["fail_if=eval/exact_match<0"], "were tested on different rows"),
        ("validated", ["fail_if=val/loss>1%"], "were validated on different rows"),
        ("nan", [], "eval/nll of its answers is no number"),
        ("silent", [], "predictions.jsonl is missing"),
    ):
        code, text = hydratune("compare", "baseline=a", f"candidate={candidate}", *more)
        assert code == 2 and told in text and "Traceback" not in text, text


# -------------------------------------------------------------------------------------- broken runs
def test_broken_runs_are_shown_and_never_best(hydratune: Command, tmp_path: Path) -> None:
    make(tmp_path / "good", loss=0.5, lr=1.0)
    make(tmp_path / "nan", loss=float("nan"), lr=2.0)
    make(tmp_path / "half", loss=0.1, lr=3.0)
    (tmp_path / "half" / "metrics.json").write_text('{"objective": 0.')
    make(tmp_path / "none", loss=None, lr=4.0)
    make(tmp_path / "list", loss=0.1, lr=5.0)
    (tmp_path / "list" / "metrics.json").write_text("[1]")
    make(tmp_path / "cut", loss=0.6, lr=6.0)
    (tmp_path / "cut" / "predictions.jsonl").write_text('{"id": "0", "sco')
    code, text = hydratune("compare", str(tmp_path))
    assert (
        code == 0
        and "best: " in text
        and f"{tmp_path}/good" in text
        and text.count("unreadable") == 2
    ), text
    assert "not paired with the best: cut" in " ".join(text.split())


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("metrics.json", '{"objective": 0.7, "eval/nll": 1.0, "intervals": null}'),
        ("metrics.json", '{"objective": 0.7, "eval/nll": 1.0, "intervals": {"eval/nll": [1]}}'),
        ("status.json", '{"state": null}'),
        ("status.json", '{"state": "finished", "halved": "yes"}'),
        ("environment.json", '{"versions": null, "model": "x", "hardware": "y"}'),
        ("data.json", '{"splits": {"train": null, "validation": {"hash": "validation rows"}}}'),
        ("history.csv", "step,train/loss\n1,abc\n"),
        ("predictions.jsonl", "[1,2]\n"),
        ("config.yaml", "- 1\n"),
    ],
)
def test_files_that_hold_something_else_cost_no_other_run_its_place(
    hydratune: Command, tmp_path: Path, file: str, content: str
) -> None:
    make(tmp_path / "s" / "good", lr=1.0)
    make(tmp_path / "s" / "odd", lr=2.0, loss=0.7)
    (tmp_path / "s" / "odd" / file).write_text(content)
    code, text = hydratune("compare", "s", "export=csv,markdown,latex")
    assert code == 0 and "best: s/good" in text, text


def test_names_are_text_whatever_brackets_they_hold(hydratune: Command, tmp_path: Path) -> None:
    for n in range(2):
        make(
            tmp_path / "[" / "x]" / f"[red]{n}[/red]", lr=n + 1.0, loss=0.1 + n, right=hits(30 + n)
        )
    code, text = hydratune("compare", "[/x]", "export=csv")
    assert code == 0 and "[/x]/comparison/report.html" in text and "[red]0[/red]" in text, text


def test_a_page_that_cannot_be_written_is_one_message(hydratune: Command, tmp_path: Path) -> None:
    make(tmp_path / "runs" / "a")
    code, text = hydratune("compare", "runs", "output=/proc/nothing")
    assert (
        code == 1
        and "cannot write /proc/nothing" in text
        and "best: " in text
        and "Traceback" not in text
    )


def test_nothing_to_compare(hydratune: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for words, told in (
        (["empty"], "no run in it"),
        (["nowhere"], "no such directory"),
        (["metric=val/loss"], "nothing to compare"),
    ):
        code, text = hydratune("compare", *words)
        assert code == 2 and told in text


# ------------------------------------------------------------------------------------------ exports
def some_runs(folder: Path) -> Path:
    for n, (lr, seed) in enumerate([(1.0, 1), (1.0, 2), (2.0, 1), (2.0, 2)]):
        one = make(
            folder / str(n),
            loss=0.4 + n / 10,
            lr=lr,
            seed=seed,
            right=hits(38 - n),
            **{"cost/cpu_seconds": 9.0 - n},
        )
        (one / "history.csv").write_text(
            "step,epoch,train/loss,val/loss\n1,1,1.0,\n2,2,0.9,0.8\n4,4,0.5,0.4\n"
        )
    make(folder / "4", state="failed", lr=3.0, seed=1)
    return folder


def test_tables_for_other_programs(hydratune: Command, tmp_path: Path) -> None:
    import csv

    import pyarrow.parquet

    some_runs(tmp_path / "a_sweep")
    code, text = hydratune("compare", "a_sweep", "export=csv,parquet,markdown,latex", "html=false")
    assert code == 0 and "export      a_sweep/comparison/runs.csv" in text, text
    folder = tmp_path / "a_sweep" / "comparison"
    assert sorted(file.name for file in folder.iterdir()) == [
        "ranking.md",
        "ranking.tex",
        "runs.csv",
        "runs.parquet",
    ]
    with (folder / "runs.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [
        (row["run"].rsplit("/", 1)[-1], row["place"], row["setting/optimizer.lr"])
        for row in rows[:2]
    ] == [
        ("0", "1", "1.0"),
        ("1", "1", "1.0"),
    ]
    assert (
        rows[-1]["place"] == ""
        and rows[-1]["state"] == "failed: it broke"
        and float(rows[0]["val/loss"]) == 0.4
    )
    parquet = pyarrow.parquet.read_table(folder / "runs.parquet").to_pylist()
    assert [row["eval/exact_match"] for row in parquet] == [0.95, 0.925, 0.9, 0.875, None]
    lines = (folder / "ranking.md").read_text().splitlines()
    assert lines[2].startswith("| 1 | 1 | 2 | 0.4500 ± 0.071 |") and len(lines) == 5
    tex = (folder / "ranking.tex").read_text()
    assert r"0.4500 $\pm$ 0.071" in tex and tex.count(r"\\") == 4 and r"\toprule" in tex


def test_pictures_for_papers(hydratune: Command, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    some_runs(tmp_path / "s")
    code, text = hydratune("compare", "s", "export=png,svg", "output=pictures", "html=false")
    assert code == 0, text
    made = {file.name: file.read_bytes() for file in (tmp_path / "pictures").iterdir()}
    assert set(made) == {
        f"{name}.{kind}" for name in ("curves", "settings", "tradeoff") for kind in ("png", "svg")
    }
    assert all(
        made[f"{name}.png"].startswith(b"\x89PNG") for name in ("curves", "settings", "tradeoff")
    )
    assert b"optimizer.lr" in made["settings.svg"] or b"<svg" in made["settings.svg"]


def test_an_unknown_export_is_refused_before_anything_is_written(
    hydratune: Command, tmp_path: Path
) -> None:
    some_runs(tmp_path / "s")
    code, text = hydratune("compare", "s", "export=xlsx")
    assert (
        code == 2
        and "csv, parquet, markdown, latex, png, svg, or all" in text
        and not (tmp_path / "s" / "comparison").exists()
    )


# ---------------------------------------------------------------- one family of tests, and few rows
def test_validation_losses_and_test_rows_are_corrected_together(tmp_path: Path) -> None:
    """Losses of three seeds that differ with p = 0.03 are one test of three: nothing is
    significant by it alone.
    """
    for side, losses in ((0, (0.50, 0.52, 0.51)), (1, (0.53, 0.56, 0.545))):
        for seed, loss in enumerate(losses):
            make(
                tmp_path / f"{side}{seed}",
                lr=1.0 + side,
                seed=seed,
                loss=loss,
                nll=[1.0 + i / 40 + seed / 50 for i in range(40)],
            )
    compared = compare(collect_runs([tmp_path]))
    alone = compare(collect_runs([tmp_path]), tests=False)
    assert compared.test_count == 3 and alone.test_count == 1
    assert alone.seed_p_values[1] == pytest.approx(0.0282, abs=1e-3) and compared.seed_p_values[
        1
    ] == pytest.approx(3 * alone.seed_p_values[1])
    assert [entry.mean for entry in compared.indistinguishable()] == [pytest.approx(0.545)]
    assert "corrected for 3 tests (Holm)" in "\n".join(verdict(compared))


def test_a_metric_of_the_test_rows_that_ranks_is_tested_once(tmp_path: Path) -> None:
    for side in (0, 1):
        for seed in range(2):
            make(tmp_path / f"{side}{seed}", lr=1.0 + side, seed=seed, right=hits(30 - side - seed))
    compared = compare(collect_runs([tmp_path]), Criterion("eval/exact_match", lower=False))
    assert (
        compared.test_count == 2
        and not compared.seed_p_values
        and set(compared.paired_tests[1]) == {"exact_match", "nll"}
    )
    for file in tmp_path.glob("*/predictions.jsonl"):
        file.unlink()
    assert set(
        compare(collect_runs([tmp_path]), Criterion("eval/exact_match", lower=False)).seed_p_values
    ) == {1}  # the seeds are all there is


def test_where_a_few_rows_cannot_tell_no_interval_is_shown_anywhere(
    hydratune: Command, tmp_path: Path
) -> None:
    import csv

    for name, hit, at in (("a", True, 1.0), ("b", False, 1.3)):
        nll = [at + i / 100 for i in range(4)]
        make(tmp_path / "s" / name, right=[hit] * 4, nll=nll, lr=at, loss=at)
    code, text = hydratune("compare", "s", "export=csv,markdown,latex")
    flat = " ".join(text.split())
    assert (
        code == 0
        and flat.count("4 independent rows cannot tell") == 2
        and "4 independent test rows can hardly distinguish" in flat
    ), text
    with (tmp_path / "s" / "comparison" / "runs.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert (
        rows[1]["less_the_best/nll/low"] == rows[1]["less_the_best/nll/high"] == ""
        and float(rows[1]["less_the_best/nll/p"]) >= 0.125
    )
    assert rows[1]["less_the_best/nll/seeds"] == "False"
    page = (tmp_path / "s" / "comparison" / "report.html").read_text()
    assert "(4 independent rows cannot tell)" in page
    code, text = hydratune("compare", "baseline=s/a", "candidate=s/b")
    flat = " ".join(text.split())
    assert (
        code == 0
        and "4 independent test rows cannot show that any candidate is worse: give 30 or more"
        in flat
    ), text
    # nothing is certain here
    assert (
        hydratune(
            "compare", "baseline=s/a", "candidate=s/b", "fail_if=eval/nll>0.1", "certain=true"
        )[0]
        == 0
    )
    assert hydratune("compare", "baseline=s/a", "candidate=s/b", "fail_if=eval/nll>0.1")[0] == 1


def test_what_is_said_of_single_seeds_is_of_these_runs(hydratune: Command, tmp_path: Path) -> None:
    make(tmp_path / "s" / "a", right=hits(38), lr=1.0)
    make(tmp_path / "s" / "b", right=hits(20), lr=2.0, loss=0.6)
    for words in (("s", "html=false"), ("baseline=s/a", "candidate=s/b")):
        assert "one seed each, so this holds for these runs only" in " ".join(
            hydratune("compare", *words)[1].split()
        )


# --------------------------------------------------------------------------------------- no numbers
@pytest.mark.parametrize("loss", [float("nan"), float("inf"), None])
@pytest.mark.parametrize(
    "more",
    [
        [],
        ["fail_if=eval/exact_match<-0.5"],
        ["fail_if=val/loss>1%"],
        ["fail_if=objective>1, eval/nll>9"],
    ],
)
def test_a_candidate_without_a_validation_loss_fails(
    hydratune: Command, tmp_path: Path, loss: float | None, more: list[str]
) -> None:
    make(tmp_path / "a")
    make(tmp_path / "b", loss=loss)
    code, text = hydratune("compare", "baseline=a", "candidate=b", *more)
    flat = " ".join(text.split())
    assert (
        code == 1
        and "FAIL" in text
        and "no number" in flat
        and "the candidate fails: val loss" in flat
        and "Traceback" not in text
    ), text
    code, text = hydratune("compare", "baseline=b", "candidate=a", *more)
    assert (
        code == 2
        and "no number, so nothing is better or worse than it; give another run as baseline=DIR"
        in text
    ), text


def test_a_candidate_that_lacks_the_loss_or_forgot_too_much_fails(
    hydratune: Command, tmp_path: Path
) -> None:
    make(tmp_path / "a")
    make(tmp_path / "b")
    values = json.loads((tmp_path / "b" / "metrics.json").read_text())
    del values["objective"]
    (tmp_path / "b" / "metrics.json").write_text(json.dumps(values))
    code, text = hydratune("compare", "baseline=a", "candidate=b")
    assert code == 1 and "no number (missing)" in text, text
    make(tmp_path / "c", **{"forgetting/within_budget": False})
    code, text = hydratune("compare", "baseline=a", "candidate=c")
    assert code == 1 and "forgetting within its budget" in " ".join(text.split()), text


def test_intervals_that_are_no_numbers_are_not_shown(hydratune: Command, tmp_path: Path) -> None:
    for n in range(2):
        make(
            tmp_path / "s" / str(n),
            lr=n + 1.0,
            loss=0.1 + n,
            intervals={"eval/exact_match": [float("nan"), 1.0]},
        )
    code, text = hydratune("compare", "s")
    assert (
        code == 0
        and "nan" not in text
        and (tmp_path / "s" / "comparison" / "report.html").is_file()
    ), text


def test_answers_that_were_cut_are_counted(hydratune: Command, tmp_path: Path) -> None:
    make(tmp_path / "s" / "a", lr=1.0, **{"eval/cut": 3.0})
    make(tmp_path / "s" / "b", lr=2.0, loss=0.7, **{"eval/cut": 0.0})
    code, text = hydratune("compare", "s", "export=markdown")
    flat = " ".join(text.split())
    cut = "answers were cut at the token limit (evaluation.max_new_tokens)"
    assert code == 0 and f"{cut} and are scored as they stand, in a (3)" in flat, text
    assert (
        "answers cut at the token limit"
        in (tmp_path / "s" / "comparison" / "ranking.md").read_text()
    )
    assert lower_is_better("eval/cut") is True and find("base/cut")


def test_runs_that_did_not_count_what_was_cut_are_counted_by_what_finished(tmp_path: Path) -> None:
    settings = {"settings": {"eval": {"rows": 40}}}
    make(tmp_path / "a", lr=1.0, **{"eval/finished": 0.95}, **settings)
    make(tmp_path / "b", lr=2.0, loss=0.7, **{"eval/finished": 1.0}, **settings)
    compared = compare(collect_runs([tmp_path]))
    assert (
        any(note.endswith("in a (2)") for note in compared.notes)
        and "eval/cut" not in compared.metrics
    )
