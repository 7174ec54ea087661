"""Answers are computed in batches that are bounded by their tokens."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from hydratune.evaluation import prompt_reader
from hydratune.evaluation.batches import batches_of
from hydratune.evaluation.generation import answer
from hydratune.models import memory_plan
from reference_answers import OPTIONS, PROMPTS, REFERENCES


def test_batches_stay_within_the_token_limit() -> None:
    prompts = [[0, 1, *range(length)] for length in (5, 900, 7, 40, 41, 42, 900, 8000)]
    references = [[1] * 10] * len(prompts)
    batches = batches_of(prompts, references, 20, at_most=50, tokens=2000)
    assert sorted(n for batch in batches for n in batch) == list(range(8))
    shared = len(prompt_reader.common_prefix(prompts))
    for batch in batches:
        longest = max(len(prompts[n]) for n in batch) - shared + 20
        assert len(batch) == 1 or len(batch) * longest <= 2000
    assert len(batches) > 1
    assert batches_of(prompts, references, 20, at_most=50, tokens=10**9) == [
        sorted(range(8), key=lambda n: len(prompts[n]))
    ]
    assert [
        len(batch) for batch in batches_of(prompts, references, 20, at_most=3, tokens=10**9)
    ] == [2, 3, 3]


def test_memory_of_a_token_covers_its_keys_and_values(model: Any) -> None:
    """50 prompts of 8,000 tokens of an 8B model need 53 GB of keys and values, which an earlier
    version computed as one batch.
    """
    from transformers import DynamicCache, LlamaConfig

    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=torch.ones(1, 10, dtype=torch.long), past_key_values=cache, use_cache=True)
    held = (
        sum(
            t.numel() * t.element_size()
            for layer in cache.layers
            for t in (layer.keys, layer.values)
        )
        / 10
    )
    assert 2 * held < memory_plan.bytes_per_generated_token(model.config, 4)
    eight_b = LlamaConfig(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
    )
    taken = memory_plan.bytes_per_generated_token(eight_b, 2)
    assert 2 * 131_072 < taken < 3.5 * 131_072
    assert 60 * 2**30 // taken < 50 * 8000


def test_settings_bound_the_tokens_of_a_batch(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, ...]] = []
    read = prompt_reader.PromptReader.read

    def noted(self: Any, prompts: Sequence[Sequence[int]], capacity: int) -> Any:
        sizes.append(tuple(map(len, prompts)))
        return read(self, prompts, capacity)

    monkeypatch.setattr(prompt_reader.PromptReader, "read", noted)
    together = answer(model, PROMPTS, REFERENCES, **OPTIONS)
    assert len(sizes) == 1
    sizes.clear()
    one_by_one = answer(model, PROMPTS, REFERENCES, batch_tokens=16, **OPTIONS)
    assert len(sizes) == 4
    assert [answered.tokens for answered in one_by_one] == [
        answered.tokens for answered in together
    ]
    assert [answered.nll for answered in one_by_one] == pytest.approx(
        [answered.nll for answered in together], rel=1e-5
    )


def test_batches_of_answers_are_halved_when_memory_runs_out(
    model: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = answer(model, PROMPTS, REFERENCES, **OPTIONS)
    read = prompt_reader.PromptReader.read
    most = 2

    def small(self: Any, prompts: Sequence[Sequence[int]], capacity: int) -> Any:
        if len(prompts) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return read(self, prompts, capacity)

    monkeypatch.setattr(prompt_reader.PromptReader, "read", small)
    answers = answer(model, PROMPTS, REFERENCES, **OPTIONS)
    assert [answered.tokens for answered in answers] == [answered.tokens for answered in expected]
    assert (
        capsys.readouterr().out.count("out of memory with 4 answers at once: batches are halved")
        == 1
    )
    most = 1  # halved once, and no more
    with pytest.raises(torch.OutOfMemoryError):
        answer(model, PROMPTS, REFERENCES, **OPTIONS)
