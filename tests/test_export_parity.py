"""What the parity check measures, and what it accepts: pure functions on plain values."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from hydratune.errors import RunError
from hydratune.export.limits import Exactness, limits_of, violations
from hydratune.export.parity import Parity, Reading, compare
from hydratune.export.rejected import advice
from hydratune.settings.export import ExportForm, ExportSettings, GgufType, ParityLimits, StoredType
from hydratune.settings.model import Quantization

RIGHT = Parity(2, 4, 0.0, 0.0, 1.0, 2, "field_f1", 0.5, 0.5, 0)


def reading(*probabilities: list[float], value: float = 0.5, text: str = "a") -> Reading:
    distributions = torch.tensor(probabilities).log()
    return Reading(
        [[1, 2]], [tuple(range(len(probabilities)))], [distributions], [text], "f", value
    )


def test_the_divergence_is_that_of_the_textbook() -> None:
    run = reading([0.5, 0.25, 0.25], [1.0, 0.0, 0.0])
    export = reading([0.25, 0.5, 0.25], [1.0, 0.0, 0.0], value=0.25, text="b")
    measured = compare(run, export)
    expected = 0.5 * math.log(2) + 0.25 * math.log(0.5)
    assert measured.max_kl == pytest.approx(expected, abs=1e-6)
    assert measured.mean_kl == pytest.approx(expected / 2, abs=1e-6)
    assert measured.agreement == 0.5 and measured.same_answers == 0
    assert measured.metric_drop == 0.25


def test_a_model_without_finite_numbers_is_infinitely_far_away() -> None:
    broken = reading([math.nan, math.nan, math.nan])
    measured = compare(reading([0.5, 0.25, 0.25]), broken)
    assert not math.isfinite(measured.mean_kl)
    assert any("mean KL" in text for text in violations(measured, Exactness.four_bits.limits))


def test_another_vocabulary_or_other_tokens_cannot_be_compared() -> None:
    with pytest.raises(RunError, match="vocabulary"):
        compare(reading([0.5, 0.5]), reading([0.5, 0.25, 0.25]))
    other = replace(reading([0.5, 0.5]), answers=[(7,)])
    with pytest.raises(RunError, match="other tokens"):
        compare(reading([0.5, 0.5]), other)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"mean_kl": 0.001}, "mean KL"),
        ({"max_kl": 0.1}, "largest KL"),
        ({"agreement": 0.9}, "90.0 %"),
        ({"metric_export": 0.4}, "field_f1 lower by 10.0 points"),
        ({"other_prompts": 1}, "1 of 2 prompts"),
        ({"mean_kl": math.nan}, "mean KL"),
    ],
)
def test_each_limit_is_kept(change: dict[str, float], word: str) -> None:
    exact = limits_of(Exactness.exact, ParityLimits())
    assert list(violations(RIGHT, exact)) == []
    (text,) = violations(replace(RIGHT, **change), exact)
    assert word in text


def test_a_better_metric_is_no_violation_and_typed_limits_count() -> None:
    better = replace(RIGHT, metric_export=0.9, mean_kl=0.5)
    limits = limits_of(Exactness.exact, ParityLimits(mean_kl=1.0))
    assert list(violations(better, limits)) == []


@pytest.mark.parametrize(
    ("form", "settings", "typed"),
    [
        (ExportForm.quantised, {}, "quantised: quantization=int8 rounds the weights less"),
        (ExportForm.quantised, {"quantization": Quantization.int8}, "quantised: form=merged"),
        (ExportForm.gguf, {"gguf_type": GgufType.q8_0}, "gguf: gguf_type=f16"),
        (ExportForm.ollama, {}, "ollama: gguf_type=f32"),
        (ExportForm.merged, {}, "merged: dtype=float32"),
        (ExportForm.merged, {"dtype": StoredType.float32}, "merged: rounding does not explain"),
    ],
)
def test_a_rejected_form_has_a_remedy(
    form: ExportForm, settings: dict[str, Any], typed: str
) -> None:
    config = ExportSettings(**settings)
    (rounded,) = advice(config, {form: True})
    assert rounded.startswith(typed)
    (exact,) = advice(config, {form: False})
    assert "please report it" in exact
