from typing import Any

import pytest
import torch

from hydratune.evaluation.generation import answer
from hydratune.evaluation.prompt_reader import common_prefix
from hydratune.models.attention import NAME
from reference_answers import PROMPTS, REFERENCES


def by_hand(model: Any, prompt: list[int], stop: set[int], limit: int) -> list[int]:
    """Decode greedily without cache, batch or prefix."""
    ids = list(prompt)
    while len(ids) - len(prompt) < limit:
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in stop:
            break
    return ids[len(prompt) :]


def nll_by_hand(model: Any, prompt: list[int], reference: list[int]) -> float:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + reference])).logits[0, len(prompt) - 1 : -1]
    return float(
        torch.nn.functional.cross_entropy(logits, torch.tensor(reference), reduction="sum")
    )


@pytest.fixture
def stops(model: Any) -> set[int]:
    """Return tokens that this random model really generates, so that some rows stop early and
    others do not.
    """
    model.set_attn_implementation("eager")
    first = [by_hand(model, p, set(), 8) for p in PROMPTS]
    model.set_attn_implementation(NAME)
    return {first[0][2], first[1][0]}


@pytest.mark.parametrize("attention", [NAME, "sdpa"])
@pytest.mark.parametrize("batch_size", [1, 2, 4])
@pytest.mark.parametrize(
    "prompts",
    [PROMPTS, [[7, *PROMPTS[0]], *PROMPTS[1:]]],
    ids=["shared prefix", "no shared prefix"],
)
def test_answers_and_likelihoods_equal_one_row_at_a_time(
    model: Any, stops: set[int], attention: str, batch_size: int, prompts: list[list[int]]
) -> None:
    model.set_attn_implementation("eager")
    expected = [by_hand(model, p, stops, 8) for p in prompts]
    likelihoods = [nll_by_hand(model, p, r) for p, r in zip(prompts, REFERENCES, strict=True)]
    model.set_attn_implementation(attention)
    answers = answer(
        model,
        prompts,
        REFERENCES,
        stop=frozenset(stops),
        pad=0,
        max_new_tokens=8,
        batch_size=batch_size,
        title="",
        quiet=True,
    )
    assert [list(a.tokens) for a in answers] == expected
    assert [a.finish_reason for a in answers] == [
        "stop" if e[-1] in stops else "length" for e in expected
    ]
    assert {a.finish_reason for a in answers} == {"stop", "length"} or prompts is not PROMPTS
    assert [a.nll for a in answers] == pytest.approx(likelihoods, rel=1e-5)


def test_nothing_to_answer_and_nothing_to_score(model: Any) -> None:
    model.set_attn_implementation(NAME)
    options: dict[str, Any] = {
        "stop": frozenset([2]),
        "pad": 0,
        "batch_size": 2,
        "title": "",
        "quiet": True,
    }
    assert answer(model, [], [], max_new_tokens=3, **options) == []
    (empty,) = answer(model, [[1, 2, 3]], [[]], max_new_tokens=0, **options)
    assert empty.tokens == () and empty.nll == 0


def test_common_prefix_leaves_every_prompt_a_token_of_its_own() -> None:
    assert common_prefix(PROMPTS) == [1, 2, 3]
    assert common_prefix([[1, 2], [1, 2, 3]]) == [1]
    assert common_prefix([[1, 2], [1, 2]]) == [1]
    assert common_prefix([[5], [1, 2]]) == []


def test_windowed_layers_are_scored_right() -> None:
    """Gemma 3's cache drops tokens outside the window; the prompts here are longer than the
    window.
    """
    import transformers

    torch.manual_seed(0)
    config = transformers.Gemma3TextConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"],
        max_position_embeddings=64,
    )
    windowed = transformers.Gemma3ForCausalLM(config).eval()
    prompts = [[3, *range(4, 4 + length)] for length in (20, 30, 25)]
    references = [[9, 8, 7, 2], [5, 2], [11, 12, 13, 14, 2]]
    windowed.set_attn_implementation(NAME)
    answers = answer(
        windowed,
        prompts,
        references,
        stop=frozenset([2]),
        pad=0,
        max_new_tokens=6,
        batch_size=3,
        title="",
        quiet=True,
    )
    windowed.set_attn_implementation("eager")
    assert [a.nll for a in answers] == pytest.approx(
        [nll_by_hand(windowed, p, r) for p, r in zip(prompts, references, strict=True)], rel=1e-4
    )
    assert [list(a.tokens) for a in answers] == [by_hand(windowed, p, {2}, 6) for p in prompts]
