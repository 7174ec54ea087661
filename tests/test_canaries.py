"""Canaries: artificial secrets in training; and scores without leaked test rows."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import SMALL, write_rows
from hydratune.data.sets import RowSets
from hydratune.evaluation import canaries

pytestmark = pytest.mark.usefixtures("packs_here")

Command = Callable[..., tuple[int, str]]


def test_canaries_are_drawn_by_the_seed_and_those_for_comparison_are_others() -> None:
    first, again, other = (
        canaries.make_canaries(6, 0, "be brief"),
        canaries.make_canaries(6, 0, "be brief"),
        canaries.make_canaries(6, 1, "be brief"),
    )
    control = canaries.make_canaries(6, 0, "be brief", trained=False)
    assert first == again and all(map(canaries.is_canary, first))
    secrets = [{row.answer for row in rows} for rows in (first, other, control)]
    assert all(
        len(some) == 6 and all(len(s) == 8 and s.isdigit() for s in some) for some in secrets
    )
    assert not secrets[0] & secrets[1] and not secrets[0] & secrets[2]
    assert [m.role for m in first[0].messages] == ["system", "user", "assistant"]
    sets = RowSets([], [], [])
    assert (
        len(canaries.with_canaries(sets, 6, 0, None).train) == 6
        and canaries.with_canaries(sets, 0, 0, None) is sets
    )


def test_exposure_is_the_rank_among_the_candidates(
    monkeypatch: pytest.MonkeyPatch, encoder: Any
) -> None:
    """The true secret is the first candidate that is scored; its likelihood is set to the best or
    to the second worst.
    """
    from hydratune.evaluation.generation import Answer

    ranks = iter([0, 126])

    def scored(model: Any, prompts: Any, references: Any, **options: Any) -> list[Answer]:
        worse = next(ranks)
        assert len({tuple(r) for r in references}) == 128
        return [
            Answer((), "", 50.0),
            *(Answer((), "", 10.0 if i < worse else 90.0) for i in range(127)),
        ]

    monkeypatch.setattr(canaries, "answer", scored)
    rows, control = (
        canaries.make_canaries(1, 0, None),
        canaries.make_canaries(1, 0, None, trained=False),
    )
    records = canaries.measure(None, encoder, rows, control, 0, pad=0, pool=None)
    assert [(r["trained"], r["rank"]) for r in records] == [(True, 1), (False, 127)]
    assert [r["exposure"] for r in records] == [7.0, pytest.approx(math.log2(128 / 127))]


def test_a_difference_shows_with_enough_canaries() -> None:
    def some(*exposures: float) -> list[dict[str, Any]]:
        half = len(exposures) // 2
        return [
            {"trained": i < half, "exposure": e, "base_exposure": 1.5}
            for i, e in enumerate(exposures)
        ]

    values, intervals = canaries.summary(some(7, 6, 7, 5, 1, 2, 1, 0.5), 0.95, 1000)
    assert values["memorisation/canary_difference"] == pytest.approx(6.25 - 1.125)
    assert intervals["memorisation/canary_difference"][
        0
    ] > 3 and "can be extracted" in canaries.sentence(values, intervals)
    values, intervals = canaries.summary(some(1, 2, 0.5, 3, 2, 1, 0.5, 2), 0.95, 1000)
    assert "no sign" in canaries.sentence(values, intervals)


@pytest.mark.slow
def test_a_model_that_learnt_its_canaries_is_exposed(hydratune: Command, tmp_path: Path) -> None:
    """A tiny model has memorised its training rows; the measured rows stay the same."""
    learns = (
        "adapter=none",
        "optimizer.lr=0.003",
        "data.overfit_rows=4",
        "trainer.max_steps=null",
        "trainer.max_loss_ratio=null",
    )
    words = (
        "train",
        *SMALL,
        *learns,
        "trainer.max_epochs=60",
        "trainer.validations_per_epoch=1",
        "evaluation.canaries=6",
    )
    code, text = hydratune(*words, f"hydra.run.dir={tmp_path}/run")
    assert (
        code == 0 and "6 canaries, made-up rows with secrets, are among the training rows" in text
    ), text
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    data = json.loads((tmp_path / "run" / "data.json").read_text())
    assert (
        data["canaries"] == [f"canary-{n}" for n in range(6)]
        and data["splits"]["train"]["kept"] == 10
    )
    assert (
        metrics["memorisation/canary_exposure"] > 6
        and metrics["memorisation/canary_difference"] > 2
    )
    assert "can be extracted from this model" in text and "in the untouched model" in text
    each = [
        json.loads(line) for line in (tmp_path / "run" / "canaries.jsonl").read_text().splitlines()
    ]
    assert [r["trained"] for r in each] == [True] * 6 + [False] * 6
    assert metrics["memorisation/canary_base"] == pytest.approx(
        sum(r["base_exposure"] for r in each[:6]) / 6
    )
    assert metrics["memorisation/canary_base"] < metrics["memorisation/canary_exposure"] - 2
    assert hydratune("evaluate", f"run={tmp_path}/run")[0] == 0


@pytest.mark.slow
def test_jobs_with_and_without_canaries_share_no_pack(hydratune: Command, tmp_path: Path) -> None:
    words = (
        "train",
        "-m",
        *SMALL,
        "evaluation.canaries=0,3",
        "adapter.r=4",
        "hydra/launcher=pack",
        f"hydra.sweep.dir={tmp_path}/s",
    )
    assert hydratune(*words)[0] == 0
    kept = [
        json.loads((tmp_path / "s" / job / "data.json").read_text())["splits"]["train"]["kept"]
        for job in "01"
    ]
    assert kept == [8, 11]


# ------------------------------------------------------------------------------------- clean scores
def leaky_files(folder: Path) -> list[str]:
    """Write files in which two of six test requests are also training rows."""

    def rows(start: int, count: int) -> list[dict[str, Any]]:
        return [
            {
                "prompt": f"what is {n} times {n + 7} in words, number {n}",
                "completion": f"it is {n * 31}",
            }
            for n in range(start, start + count)
        ]

    files = {
        "train": rows(100, 8),
        "validation": rows(200, 4),
        "test": [*rows(300, 4), *rows(100, 2)],
    }
    return [
        f"data.{name}={write_rows(folder / f'{name}.jsonl', some)}" for name, some in files.items()
    ]


def test_scores_without_leaky_rows_stand_beside_the_raw_ones(
    hydratune: Command, tmp_path: Path
) -> None:
    small = [s for s in SMALL if not s.startswith(("data.max", "evaluation.baselines"))]
    quality = ("data.quality.exact_leaks=warn", "data.quality.near_leaks=warn")
    words = (
        "train",
        *small,
        "data=files",
        *leaky_files(tmp_path),
        *quality,
        "evaluation.baselines=[base]",
        "data.max_test_rows=null",
    )
    code, text = hydratune(*words, f"hydra.run.dir={tmp_path}/run")
    assert (
        code == 0 and "some test rows are in training, or nearly" in text and "(4 rows)" in text
    ), text
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    rows = [
        json.loads(line)
        for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()
    ]
    assert [row.get("leaky", False) for row in rows].count(True) == 2
    clean = [row for row in rows if not row.get("leaky")]
    assert metrics["eval_clean/nll"] == pytest.approx(
        sum(r["nll"] for r in clean) / sum(r["answer_tokens"] for r in clean)
    )
    assert (
        metrics["eval_clean/nll"] != metrics["eval/nll"]
        and "base_clean/rougeL" in metrics
        and "eval_clean/rougeL" in metrics["intervals"]
    )
    for words in (("source=predictions",), ()):
        code, text = hydratune("evaluate", f"run={tmp_path}/run", *words)
        assert code == 0 and "some test rows are in training" in text, text
    again = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert again["eval_clean/nll"] == pytest.approx(metrics["eval_clean/nll"])
