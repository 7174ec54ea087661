"""The course of training, read from its history."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import SMALL
from hydratune.evaluation.overfitting import Verdict, course


def history(
    validations: list[float | None], train: float = 0.5, per_epoch: int = 4
) -> list[dict[str, Any]]:
    """Return a history with one validation (or none) at the end of each epoch."""
    rows: list[dict[str, Any]] = []
    for epoch, loss in enumerate(validations):
        steps = range(1, per_epoch + 1)
        rows += [
            {
                "step": epoch * per_epoch + n,
                "epoch": epoch + n / per_epoch,
                "train/loss": train / (epoch + 1),
            }
            for n in steps
        ]
        if loss is not None:
            rows[-1]["val/loss"] = loss
    return rows


@pytest.mark.parametrize(
    ("validations", "verdict", "epoch"),
    [
        ([1.0, 0.8, 0.9, 1.1], Verdict.overfitted, 2.0),
        ([1.0, 0.8, 0.803, 0.801], Verdict.settled, 2.0),
        ([1.0, 0.8, 0.799], Verdict.settled, 3.0),
        ([1.0, 0.8, 0.6], Verdict.learning, 3.0),
        ([1.0], Verdict.unknown, 1.0),
        ([None, None], Verdict.unknown, None),
        ([0.5, float("nan"), 0.9], Verdict.overfitted, 1.0),
        ([], Verdict.unknown, None),
    ],
)
def test_verdicts(validations: list[float | None], verdict: Verdict, epoch: float | None) -> None:
    fit = course(history(validations))
    assert (fit.verdict, fit.best_epoch) == (verdict, epoch)


@pytest.mark.parametrize(
    ("losses", "verdict", "words"),
    [
        ([6.91, 6.90], Verdict.unknown, "too short a training to say whether more would help"),
        ([6.91, 6.90, 6.895, 6.894], Verdict.unknown, "trainer.max_epochs=2"),
        ([1.0, 0.9], Verdict.learning, "11.1 % below the others"),
        ([0.9, 1.0], Verdict.unstable, "try a lower optimizer.lr"),
    ],
)
def test_within_one_epoch_nothing_settles_and_nothing_is_over_fitted(
    losses: list[float], verdict: Verdict, words: str
) -> None:
    rows: list[dict[str, Any]] = [
        {"step": n, "epoch": n / len(losses), "train/loss": 1.0, "val/loss": loss}
        for n, loss in enumerate(losses, 1)
    ]
    fit = course(rows)
    assert fit.verdict == verdict and words in fit.advice
    assert "settled" not in fit.advice and "over-fitted" not in fit.advice


def test_a_slow_fall_over_many_validations_is_not_settled() -> None:
    """Every validation is 0.6 % below the one before it, an epoch of four 2.4 %."""
    rows: list[dict[str, Any]] = [
        {"step": n, "epoch": n / 4, "train/loss": 1.0, "val/loss": 0.994**n} for n in range(1, 13)
    ]
    fit = course(rows)
    assert fit.verdict == Verdict.learning and "fell by 2.4 % over the last epoch" in fit.advice


def test_advice_names_the_epoch_to_stop_at() -> None:
    fit = course(history([1.0, 0.8, 0.9, 1.0]))
    assert "25.0 %" in fit.advice and "trainer.max_epochs=2" in fit.advice
    assert fit.flat()["fit/rise"] == pytest.approx(0.25)


def test_gap_by_epoch() -> None:
    fit = course(history([1.0, 0.8], train=0.6))
    assert [(e.epoch, e.train, e.gap) for e in fit.epochs] == [
        (1, 0.6, pytest.approx(0.4)),
        (2, 0.3, pytest.approx(0.5)),
    ]


def test_cells_of_a_csv_file_are_texts() -> None:
    rows = [
        {k: str(v) for k, v in {"val/loss": "", **row}.items()} for row in history([1.0, 0.7, 0.9])
    ]
    assert course(rows) == course(history([1.0, 0.7, 0.9]))


def test_a_run_reports_its_course(
    hydratune: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    code, out = hydratune(
        "train", *SMALL, "trainer.max_steps=4", "trainer.max_epochs=2", "hydra.run.dir=run"
    )
    assert code == 0, out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["course"]["advice"] in " ".join(out.split())
    assert [epoch["epoch"] for epoch in metrics["course"]["epochs"]] == [1, 2]
    assert {"fit/best_step", "fit/best_epoch", "fit/rise", "fit/gap"} <= metrics.keys()
