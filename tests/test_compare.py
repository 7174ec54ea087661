"""hydratune compare: the ranking and the verdict on the terminal, messages, and broken runs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from compared_runs import hits, write_run
from hydratune.comparison.collect import collect_runs
from hydratune.comparison.comparison import compare
from hydratune.comparison.verdict import verdict
from hydratune.metric_table import find, lower_is_better

Command = Callable[..., tuple[int, str]]


def test_38_of_40_against_37_is_not_distinguishable(hydratune: Command, tmp_path: Path) -> None:
    write_run(tmp_path / "sweep" / "a", right=hits(38), lr=1.0, loss=0.4)
    write_run(tmp_path / "sweep" / "b", right=hits(37), lr=2.0, loss=0.5)
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


def test_costs_and_intervals_are_on_the_terminal(hydratune: Command, tmp_path: Path) -> None:
    cost = {"cost/cpu_seconds": 1234.5, "cost/tokens": 56789, "cost/peak_memory_bytes": 3 * 2**30}
    for n in range(2):
        write_run(
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
        and "75.0 [59.8, 85.8]" in text
        and "exact match (%)" in " ".join(text.split())
        and "1,234" in text
        and "56,789" in text
        and "3.00" in text
    ), text


def test_runs_of_different_data_are_not_ranked(hydratune: Command, tmp_path: Path) -> None:
    write_run(tmp_path / "a", rows="these", loss=0.4, lr=1.0)
    write_run(tmp_path / "b", rows="those", loss=0.3, lr=2.0)
    code, text = hydratune("compare", str(tmp_path))
    assert (
        code == 0
        and "not ranked" in text
        and "no best run" in text
        and "run a" in text
        and "best:" not in text
        and "│ 1 " not in text
    )


def test_ranking_by_a_test_metric_needs_equal_test_rows_only(
    hydratune: Command, tmp_path: Path
) -> None:
    """Two base models have different tokens, so their losses cannot be compared; their answers to
    the same rows can be ranked.
    """
    write_run(tmp_path / "s" / "a", rows="these tokens", right=hits(30), lr=1.0)
    write_run(tmp_path / "s" / "b", rows="those tokens", right=hits(39), lr=2.0)
    code, text = hydratune("compare", "s", "metric=eval/exact_match", "html=false")
    assert (
        code == 0
        and "not ranked" not in text
        and "best: s/b" in text
        and "worse (exact match)" in " ".join(text.split())
    ), text
    write_run(tmp_path / "s" / "c", right=hits(40, 41), lr=3.0)
    code, text = hydratune("compare", "s", "metric=eval/exact_match", "html=false")
    assert code == 0 and "best: s/b" in text and "(97.6)" in text, text
    assert "set aside, not ranked: run c: tested on other rows." in text
    write_run(tmp_path / "s" / "d", right=hits(40, 42), lr=4.0)
    (tmp_path / "s" / "a" / "status.json").unlink()
    code, text = hydratune("compare", "s", "metric=eval/exact_match", "html=false")
    assert code == 0 and "no best run: these runs were tested on different rows" in text, text


def test_verdict_names_better_runs_untested_runs_and_unfinished_seeds(tmp_path: Path) -> None:
    """A run that is better on the test rows than the one with the best validation loss, a run that
    could not be tested, and settings of which few seeds finished.
    """
    write_run(tmp_path / "s" / "a", right=hits(20), loss=0.4, lr=1.0)
    write_run(tmp_path / "s" / "b", right=hits(38), loss=0.5, lr=2.0)
    compared = compare(collect_runs([tmp_path / "s"]))
    sentences = "\n".join(verdict(compared))
    assert (
        "significantly better than it on the test rows: optimizer.lr=2 (exact match +45.0"
        " points)" in sentences
    )
    write_run(tmp_path / "s" / "c", right=hits(38, 41), loss=0.6, lr=3.0)
    assert "significantly different from the 1 other that could be tested" in "\n".join(
        verdict(compare(collect_runs([tmp_path / "s"])))
    )
    for seed in range(3):
        write_run(
            tmp_path / "t" / str(seed),
            loss=0.3 + seed,
            seed=seed,
            state="finished" if seed == 0 else "failed",
        )
    write_run(tmp_path / "t" / "3", loss=0.9, lr=7.0)
    compared = compare(collect_runs([tmp_path / "t"]))
    assert any("1 of 3 seeds of optimizer.lr=0.001 finished" in note for note in compared.notes)
    (tmp_path / "s" / "a" / "predictions.jsonl").write_text('{"id"')
    assert "the best entry has no answers that can be read" in "\n".join(
        compare(collect_runs([tmp_path / "s"])).notes
    )


def test_choosing_by_a_test_metric_is_reported(hydratune: Command, tmp_path: Path) -> None:
    write_run(tmp_path / "a", right=hits(30), loss=0.4, lr=1.0)
    write_run(tmp_path / "b", right=hits(35), loss=0.5, lr=2.0)
    code, text = hydratune("compare", str(tmp_path), "metric=eval/exact_match")
    assert (
        code == 0
        and "best: b  (" in text
        and "the score of the best is optimistically biased" in " ".join(text.split())
    )


@pytest.mark.parametrize(
    ("words", "message"),
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
def test_wrong_arguments_give_one_message(
    hydratune: Command, tmp_path: Path, words: list[str], message: str
) -> None:
    write_run(tmp_path / "runs" / "a")
    code, text = hydratune("compare", *([] if "candidate=runs/a" in words else ["runs"]), *words)
    assert code == 2 and message in text and "Traceback" not in text, text


def test_broken_runs_are_shown_and_never_best(hydratune: Command, tmp_path: Path) -> None:
    write_run(tmp_path / "good", loss=0.5, lr=1.0)
    write_run(tmp_path / "nan", loss=float("nan"), lr=2.0)
    write_run(tmp_path / "half", loss=0.1, lr=3.0)
    (tmp_path / "half" / "metrics.json").write_text('{"objective": 0.')
    write_run(tmp_path / "none", loss=None, lr=4.0)
    write_run(tmp_path / "list", loss=0.1, lr=5.0)
    (tmp_path / "list" / "metrics.json").write_text("[1]")
    write_run(tmp_path / "cut", loss=0.6, lr=6.0)
    (tmp_path / "cut" / "predictions.jsonl").write_text('{"id": "0", "sco')
    code, text = hydratune("compare", str(tmp_path))
    assert code == 0 and "best: good  (" in text and text.count("unreadable") == 2, text
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
def test_malformed_files_of_one_run_do_not_affect_the_others(
    hydratune: Command, tmp_path: Path, file: str, content: str
) -> None:
    write_run(tmp_path / "s" / "good", lr=1.0)
    write_run(tmp_path / "s" / "odd", lr=2.0, loss=0.7)
    (tmp_path / "s" / "odd" / file).write_text(content)
    code, text = hydratune("compare", "s", "export=csv,markdown,latex")
    assert code == 0 and "best: s/good" in text, text


def test_brackets_in_names_are_printed_as_text(hydratune: Command, tmp_path: Path) -> None:
    for n in range(2):
        write_run(
            tmp_path / "[" / "x]" / f"[red]{n}[/red]", lr=n + 1.0, loss=0.1 + n, right=hits(30 + n)
        )
    code, text = hydratune("compare", "[/x]", "export=csv")
    assert code == 0 and "[/x]/comparison/report.html" in text and "[red]0[/red]" in text, text


def test_a_page_that_cannot_be_written_gives_one_message(
    hydratune: Command, tmp_path: Path
) -> None:
    write_run(tmp_path / "runs" / "a")
    code, text = hydratune("compare", "runs", "output=/proc/nothing")
    assert (
        code == 1
        and "cannot write /proc/nothing" in text
        and "best: " in text
        and "Traceback" not in text
    )


def test_nothing_to_compare(hydratune: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for words, message in (
        (["empty"], "no run in it"),
        (["nowhere"], "no such directory"),
        (["metric=val/loss"], "nothing to compare"),
    ):
        code, text = hydratune("compare", *words)
        assert code == 2 and message in text


def test_conclusions_from_single_seeds_are_limited_to_these_runs(
    hydratune: Command, tmp_path: Path
) -> None:
    write_run(tmp_path / "s" / "a", right=hits(38), lr=1.0)
    write_run(tmp_path / "s" / "b", right=hits(20), lr=2.0, loss=0.6)
    for words in (("s", "html=false"), ("baseline=s/a", "candidate=s/b")):
        assert "one seed each, so this holds for these runs only" in " ".join(
            hydratune("compare", *words)[1].split()
        )


def test_intervals_that_are_no_numbers_are_not_shown(hydratune: Command, tmp_path: Path) -> None:
    for n in range(2):
        write_run(
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


def test_answers_cut_at_the_token_limit_are_counted(hydratune: Command, tmp_path: Path) -> None:
    write_run(tmp_path / "s" / "a", lr=1.0, **{"eval/cut": 3.0})
    write_run(tmp_path / "s" / "b", lr=2.0, loss=0.7, **{"eval/cut": 0.0})
    code, text = hydratune("compare", "s", "export=markdown")
    flat = " ".join(text.split())
    cut = "answers were cut at the token limit (evaluation.max_new_tokens)"
    assert code == 0 and f"{cut} and are scored as they stand, in a (3)" in flat, text
    assert (
        "answers cut at the token limit"
        in (tmp_path / "s" / "comparison" / "ranking.md").read_text()
    )
    assert lower_is_better("eval/cut") is True and find("base/cut")


def test_cut_answers_of_older_runs_are_computed_from_finished_answers(tmp_path: Path) -> None:
    settings = {"settings": {"eval": {"rows": 40}}}
    write_run(tmp_path / "a", lr=1.0, **{"eval/finished": 0.95}, **settings)
    write_run(tmp_path / "b", lr=2.0, loss=0.7, **{"eval/finished": 1.0}, **settings)
    compared = compare(collect_runs([tmp_path]))
    assert (
        any(note.endswith("in a (2)") for note in compared.notes)
        and "eval/cut" not in compared.metrics
    )
