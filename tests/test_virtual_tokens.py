"""Prompt and prefix tuning: virtual tokens in answers and likelihoods."""

from typing import Any

import pytest
import torch

from hydratune.adapters import attach
from hydratune.adapters.methods.prefix_tuning import PrefixInit, PrefixTuning
from hydratune.adapters.methods.prompt_tuning import PromptTuning
from hydratune.evaluation.generation import answer
from hydratune.models.attention import NAME
from hydratune.settings.model import Quantization
from hydratune.training.patches import with_lean_layers
from small_models import build


def by_hand(model: Any, prompt: list[int], limit: int) -> list[int]:
    ids = list(prompt)
    for _ in range(limit):
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("kind", ["Llama", "Gemma3Text"])
@pytest.mark.parametrize("attention", [NAME, "sdpa"])
@pytest.mark.parametrize(
    "prompts",
    [[[1, 2, 3, 9, 8], [1, 2, 3, 4]], [[7, 1, 2], [1, 2, 3, 5, 5, 6]]],
    ids=["shared", "not shared"],
)
@pytest.mark.parametrize(
    "adapter",
    [
        PromptTuning(num_virtual_tokens=3),
        PrefixTuning(num_virtual_tokens=3, init_weights=PrefixInit.random),
    ],
)
def test_answers_and_likelihoods_see_the_virtual_tokens(
    adapter: Any, prompts: list[list[int]], attention: str, kind: str
) -> None:
    base = build(kind)
    base.set_attn_implementation(attention)
    model = with_lean_layers(
        attach.add_adapter(attach.prepare_quantised(base, Quantization.none), adapter)
    ).eval()
    torch.manual_seed(1)
    for parameter in model.prompt_encoder.parameters():
        parameter.data.normal_()
    references = [[11, 12, 2], [13, 2]]
    answers = answer(
        model,
        prompts,
        references,
        stop=frozenset(),
        pad=0,
        max_new_tokens=5,
        batch_size=2,
        title="",
        quiet=True,
    )
    for row, prompt, reference in zip(answers, prompts, references, strict=True):
        assert list(row.tokens) == by_hand(model, prompt, 5)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + reference])).logits[
                0, -len(reference) - 1 : -1
            ]
        nll = float(
            torch.nn.functional.cross_entropy(logits, torch.tensor(reference), reduction="sum")
        )
        assert row.nll == pytest.approx(nll, rel=1e-4)
        plain = base(input_ids=torch.tensor([prompt + reference])).logits[
            0, -len(reference) - 1 : -1
        ]
        assert (
            abs(
                float(
                    torch.nn.functional.cross_entropy(
                        plain, torch.tensor(reference), reduction="sum"
                    )
                )
                - nll
            )
            > 1e-3
        )
