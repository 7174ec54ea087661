"""hydratune compare baseline=DIR candidate=DIR: the check of two runs for scripts, with its exit
code.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from compared_runs import hits, write_run
from hydratune.comparison.gate import parse_limits
from hydratune.errors import InputError

Command = Callable[..., tuple[int, str]]


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
    write_run(tmp_path / "a", right=hits(38), loss=0.4)
    write_run(tmp_path / "b", right=hits(37), loss=0.5)
    ended, text = hydratune("compare", "baseline=a", "candidate=b", f"fail_if={fail_if}")
    assert ended == code and ("FAIL" in text) is bool(code), text


def test_certain_requires_the_whole_interval_beyond_the_limit(
    hydratune: Command, tmp_path: Path
) -> None:
    write_run(tmp_path / "a", right=hits(38))
    write_run(tmp_path / "b", right=hits(37))
    write_run(tmp_path / "c", right=hits(10))
    words = ("baseline=a", "fail_if=eval/exact_match<-0.02", "certain=true")
    assert hydratune("compare", "candidate=b", *words)[0] == 0
    assert hydratune("compare", "candidate=c", *words)[0] == 1


def test_without_limits_a_significantly_worse_candidate_fails(
    hydratune: Command, tmp_path: Path
) -> None:
    write_run(tmp_path / "a", right=hits(38))
    write_run(tmp_path / "b", right=hits(20))
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
def test_malformed_limits_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="fail_if"):
        parse_limits(text)


def test_runs_that_cannot_be_checked(hydratune: Command, tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    write_run(tmp_path / "failed", state="failed")
    write_run(tmp_path / "other", right=hits(41, 41))
    write_run(tmp_path / "validated", rows="other rows")
    write_run(tmp_path / "nan", nll=[float("nan")] + [1.0] * 39)
    write_run(tmp_path / "silent")
    (tmp_path / "silent" / "predictions.jsonl").unlink()
    for candidate, more, message in (
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
        assert code == 2 and message in text and "Traceback" not in text, text


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
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", loss=loss)
    code, text = hydratune("compare", "baseline=a", "candidate=b", *more)
    flat = " ".join(text.split())
    assert (
        code == 1
        and "FAIL" in text
        and "no number" in flat
        and "the candidate fails: validation loss" in flat
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
    write_run(tmp_path / "a")
    write_run(tmp_path / "b")
    values = json.loads((tmp_path / "b" / "metrics.json").read_text())
    del values["objective"]
    (tmp_path / "b" / "metrics.json").write_text(json.dumps(values))
    code, text = hydratune("compare", "baseline=a", "candidate=b")
    assert code == 1 and "no number (missing)" in text, text
    write_run(tmp_path / "c", **{"forgetting/within_budget": False})
    code, text = hydratune("compare", "baseline=a", "candidate=c")
    assert code == 1 and "forgetting within its budget" in " ".join(text.split()), text
