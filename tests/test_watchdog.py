import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from conftest import SMALL, write_rows
from hydratune.data.datamodule import OptimizerBatches
from hydratune.training.watchdog import what_is_wrong

Command = Callable[..., tuple[int, str]]
TOO_FAST = (
    "optimizer.lr=1e30",
    "optimizer.schedule=constant",
    "optimizer.warmup_ratio=0",
    "trainer.gradient_clip_val=null",
)


@pytest.mark.parametrize(
    # the first loss is 1; that of a uniform prediction is 10
    ("loss", "grad_norm", "before", "limit", "wrong"),
    [
        (math.nan, 1.0, [], None, "the loss is nan"),
        (math.inf, 1.0, [1.0] * 20, 5.0, "the loss is inf"),
        (1.0, math.nan, [], None, "gradient is nan"),
        (1.0, math.inf, [1.0] * 20, 5.0, "gradient is inf"),
        (5.1, 1.0, [1.0] * 19 + [50.0], 5.0, "median of the 20 steps before is 1.0000"),
        (4.9, 1.0, [1.0] * 20, 5.0, None),
        (5.1, 1.0, [1.0] * 20, None, None),
        (5.1, 1.0, [1.0] * 9, 5.0, None),  # too early to say
        (0.4, 1.0, [0.01] * 20, 5.0, None),  # one outlier
        (0.6, 1.0, [0.01] * 20, 5.0, "the loss is 0.6000"),
        (1.0, 0.0, [1.0], 5.0, "the gradient is 0"),
        (0.05, 0.0, [1.0], 5.0, None),  # a perfect fit
        (9.9, 1.0, [1.0], 5.0, None),  # one outlier
        (
            9.9,
            1.0,
            [1.0, 9.8],
            5.0,
            "as of uniform predictions over the vocabulary (10.00), and the first loss was 1.0000",
        ),
        (9.9, 1.0, [1.0, 9.8], None, None),
    ],
)
def test_what_stops_a_run(
    loss: float, grad_norm: float, before: list[float], limit: float | None, wrong: str | None
) -> None:
    reason = what_is_wrong(loss, grad_norm, before, limit, 1.0, 10.0)
    assert reason is None if wrong is None else reason is not None and wrong in reason


def test_an_untrained_model_may_have_a_high_loss() -> None:
    assert what_is_wrong(9.9, 1.0, [9.9, 9.8], 5.0, first=9.9, uniform=10.0) is None


def test_diverged_weights_stop_the_run(hydratune: Command, tmp_path: Path) -> None:
    """Large logits leave no gradient, while the loss itself looks normal."""
    code, text = hydratune(
        "train",
        *SMALL,
        "optimizer.lr=1e9",
        "optimizer.schedule=constant",
        "optimizer.warmup_ratio=0",
        "trainer.max_epochs=3",
        "trainer.max_steps=null",
        f"hydra.run.dir={tmp_path}/run",
    )
    assert code == 1, text
    assert "the gradient is 0: nothing more can be learnt" in text and "lower optimizer.lr" in text


@pytest.mark.fault(
    "the loss is NaN",
    seen="exit code 1, and the rows of the step",
    kept="the weights before that step",
)
def test_loss_that_is_no_number_stops_before_the_update(hydratune: Command, tmp_path: Path) -> None:
    """The first step's update ruins the weights; the loss of the second is nan. The kept weights
    are those after one step.
    """
    for name, steps, message in (
        ("one", 1, "after step 1 of 1: the validation loss"),
        ("two", 2, "before the update of step 2 of 2"),
    ):
        code, text = hydratune(
            "train",
            *SMALL,
            *TOO_FAST,
            "trainer.validations_per_epoch=1",
            f"trainer.max_steps={steps}",
            f"hydra.run.dir={tmp_path}/{name}",
        )
        assert code == 1 and message in text and "lower optimizer.lr (now 1e+30)" in text, text
        assert json.loads((tmp_path / name / "status.json").read_text())["state"] == "failed"
        assert not list((tmp_path / name).glob("checkpoints/*"))  # no diverged weights are stored
    assert (
        "rows of this step: " in text and "kept: the weights as they were before that step" in text
    )
    first, second = (
        load_file(tmp_path / name / "adapter" / "adapter_model.safetensors")
        for name in ("one", "two")
    )
    assert first.keys() == second.keys() and all(first[key].equal(second[key]) for key in first)
    with (tmp_path / "two" / "history.csv").open() as stream:
        assert [math.isfinite(float(row["train/loss"])) for row in csv.DictReader(stream)] == [
            True,
            False,
        ]


@pytest.mark.fault(
    "the loss jumps",
    seen="exit code 1, and the row",
    kept="the weights before that step",
)
@pytest.mark.parametrize("limit", ["5", "null"])
def test_spike_stops_and_names_the_row(hydratune: Command, tmp_path: Path, limit: str) -> None:
    """39 equal rows are memorised; the different row comes late."""
    order = [numbers[0] for numbers, _ in OptimizerBatches([1] * 40, 1, 1, 0)]
    odd = order[35]
    rows = [{"prompt": "say it", "completion": "aaaa aaaa aaaa"} for _ in range(40)]
    rows[odd] = {"prompt": "say it", "completion": "zqx 17 %% vwk"}
    files = [f"data.train={write_rows(tmp_path / 'train.jsonl', rows)}"]
    files += [
        f"data.{split}={write_rows(tmp_path / f'{split}.jsonl', rows[:1])}"
        for split in ("validation", "test")
    ]
    code, text = hydratune(
        "train",
        *SMALL,
        "data=files",
        *files,
        "data.quality.exact_leaks=warn",
        "data.quality.group_leaks=warn",
        "data.batch_size=1",
        "data.max_train_rows=null",
        "trainer.max_steps=null",
        "adapter=none",
        "optimizer.lr=0.01",
        "optimizer.schedule=constant",
        f"trainer.max_loss_ratio={limit}",
        f"hydra.run.dir={tmp_path}/run",
    )
    with (tmp_path / "run" / "history.csv").open() as stream:
        steps = len(list(csv.DictReader(stream)))
    if limit == "null":
        assert (code, steps) == (0, 40), text
        return
    assert (code, steps) == (1, 36), text
    assert (
        "before the update of step 36 of 40" in text
        and f"train.jsonl:{odd + 1}" in text
        and "raise trainer.max_loss_ratio" in text
    )
    assert "the weights with the best validation loss so far" in text
    best = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["global_step"] == 20
    kept = load_file(tmp_path / "run" / "adapter" / "model.safetensors")
    assert all(
        kept[name.removeprefix("model.")].equal(weight)
        for name, weight in best["state_dict"].items()
    )
