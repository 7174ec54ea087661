"""Continuations of rows that were trained, and of rows that were not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import SMALL
from hydratune.data.encoding.encoded import Encoded
from hydratune.evaluation.memorisation import chosen, halves, measure, newcombe, sentence, summary


def row(*answer: int, prompt: tuple[int, ...] = (1, 2, 3)) -> Encoded:
    return Encoded((*prompt, *answer), (*(False for _ in prompt), *(True for _ in answer)))


def test_half_of_the_last_answer_is_given() -> None:
    assert halves(row(4, 5, 6, 7, 8, 9, 10, 11)) == ((1, 2, 3, 4, 5, 6, 7), (8, 9, 10, 11))
    assert halves(row(4, 5, 6)) is None
    two_turns = Encoded(
        (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12), (False, True, True, False, *[True] * 8)
    )
    assert halves(two_turns) == ((1, 2, 3, 4, 5, 6, 7, 8), (9, 10, 11, 12))
    document = Encoded(tuple(range(9)), (False, *[True] * 8))
    assert halves(document) == ((0, 1, 2, 3, 4), (5, 6, 7, 8))


def test_rows_are_chosen_whatever_their_order() -> None:
    rows = [row(*range(n, n + 8)) for n in range(10, 20)]
    assert (
        chosen(rows, 3) == chosen([*rows[::-1], rows[0]], 3) and len(chosen([rows[0]] * 4, 3)) == 1
    )


def test_a_model_that_writes_its_training_answers_is_detected(model: Any) -> None:
    """The toy model's own continuations all count as memorised; those of other rows do not."""
    prompts = [(1, 2, n) for n in range(20, 26)]
    first = measure(
        model,
        [row(*[0] * 8, prompt=p) for p in prompts],
        [],
        6,
        stop=frozenset(),
        pad=0,
        batch_size=4,
        pool=None,
    )
    assert len(first) == 6 and {record["part"] for record in first} == {"train"}
    import torch

    answers = []
    for prompt in prompts:
        ids = torch.tensor([[*prompt, 4, 4, 4, 4]])
        for _ in range(4):
            with torch.no_grad():
                ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
        answers.append(row(*ids[0, 3:].tolist(), prompt=prompt))
    others = [row(*range(50, 58), prompt=p) for p in prompts]
    values, intervals = summary(
        measure(model, answers, others, 6, stop=frozenset(), pad=0, batch_size=4, pool=None), 0.95
    )
    assert values["memorisation/train"] == 1.0 and values["memorisation/heldout"] == 0.0
    assert intervals["memorisation/difference"][0] > 0
    assert "has memorised" in sentence(values, intervals)


def test_interval_of_a_difference() -> None:
    # Newcombe's own example
    assert newcombe((56, 70), (48, 80), 0.95) == pytest.approx((0.0524, 0.3339), abs=5e-4)


def test_a_run_reports_memorisation(
    hydratune: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    code, out = hydratune("train", *SMALL, "evaluation.memorisation=4", "hydra.run.dir=run")
    assert code == 0 and "no sign of memorised rows" in out, out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["memorisation/difference"] == 0 and "memorisation/train" in metrics["intervals"]
