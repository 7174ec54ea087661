"""The likelihood of running text, against single forward passes and the published reference."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import SHARED_DATA
from hydratune.adapters import attach
from hydratune.adapters.methods.lora import LoraAdapter
from hydratune.adapters.methods.prefix_tuning import PrefixTuning
from hydratune.adapters.methods.prompt_tuning import PromptTuning
from hydratune.cache import cache_folder
from hydratune.evaluation.corpus import (
    ScoredSpan,
    TextScore,
    opening_token,
    score_texts,
    token_log_likelihoods,
    windows,
)
from hydratune.models.attention import NAME
from hydratune.training.patches import with_lean_layers

USERS_CACHE = cache_folder()  # before the tests set an empty one: the real model is in this cache
TEXTS = [
    "The supplier shall deliver within ten days.",
    "Café",
    "This agreement ends on 1 May 2025, unless it is renewed in writing. " * 4,
]


def by_hand(model: Any, span: ScoredSpan) -> list[float]:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([span.inputs])).logits[0, -len(span.target) :]
    return [
        float(row.log_softmax(-1)[token]) for row, token in zip(logits, span.target, strict=True)
    ]


@pytest.mark.parametrize("attention", [NAME, "sdpa"])
@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("side", ["left", "right"])
def test_every_token_has_the_likelihood_of_its_text_alone(
    model: Any, attention: str, batch_size: int, side: str
) -> None:
    spans = [
        ScoredSpan((1,), (5, 6, 7)),
        ScoredSpan((1, 9, 9, 8), (3,)),
        ScoredSpan((2, 4), tuple(range(10, 40))),
    ]
    model.set_attn_implementation("eager")
    expected = [by_hand(model, span) for span in spans]
    model.set_attn_implementation(attention)
    likelihoods = token_log_likelihoods(
        model, spans, pad=0, batch_size=batch_size, padding_side=side, quiet=True
    )
    assert [values.tolist() for values in likelihoods] == [
        pytest.approx(values, rel=1e-5) for values in expected
    ]


@pytest.mark.parametrize(
    "adapter",
    [PromptTuning(num_virtual_tokens=3), PrefixTuning(num_virtual_tokens=3), LoraAdapter(r=2)],
)
def test_likelihoods_are_those_of_the_adapted_model(model: Any, adapter: Any) -> None:
    tuned = with_lean_layers(attach.add_adapter(model, adapter))
    for name, parameter in tuned.named_parameters():
        if parameter.requires_grad and "lora_A" not in name:
            torch.nn.init.normal_(parameter, std=0.5)
    spans = [ScoredSpan((1,), (5, 6, 7)), ScoredSpan((1, 9), (3, 8, 8, 8, 2))]
    expected = [by_hand(tuned.eval(), span) for span in spans]
    likelihoods = token_log_likelihoods(tuned, spans, pad=0, quiet=True)
    assert [values.tolist() for values in likelihoods] == [
        pytest.approx(values, rel=1e-4) for values in expected
    ]


@pytest.mark.parametrize(("window", "stride"), [(4, None), (4, 2), (4, 4), (100, None), (1, None)])
def test_windows_predict_every_token_once_in_order(window: int, stride: int | None) -> None:
    tokens = list(range(10, 21))
    spans = windows(tokens, 1, window, stride)
    assert [token for span in spans for token in span.target] == tokens
    for span in spans:
        assert 1 <= len(span.inputs) <= window
        start = [1, *tokens].index(span.context[0])
        assert [1, *tokens][start : start + len(span.inputs)] == list(span.inputs)
    # every window has as much context as fits, also the last
    assert len({len(span.inputs) for span in spans}) == 1
    if stride == 2:
        assert [len(span.target) for span in spans] == [4, 2, 2, 2, 1]


def test_score_of_a_text_is_that_of_its_tokens(model: Any, tiny: tuple[Any, Any, Any]) -> None:
    tokenizer = tiny[2]
    scores = score_texts(model, tokenizer, TEXTS, window=16, stride=8, pad=0, quiet=True)
    for text, score in zip(TEXTS, scores, strict=True):
        tokens = tokenizer(text, add_special_tokens=False).input_ids
        expected = sum(
            sum(by_hand(model, p)) for p in windows(tokens, opening_token(tokenizer), 16, 8)
        )
        assert score.log_likelihood == pytest.approx(expected, rel=1e-5)
        assert (score.tokens, score.bytes) == (len(tokens), len(text.encode()))
    assert scores[1].bytes == 5


def test_measures_of_a_score() -> None:
    score = TextScore(-8 * math.log(2), 4, 2) + TextScore(0.0, 0, 2)
    assert (score.nll, score.perplexity, score.bits_per_byte) == (
        pytest.approx(2 * math.log(2)),
        pytest.approx(4),
        pytest.approx(2),
    )
    assert TextScore(0.0, 0, 0).bits_per_byte == TextScore(0.0, 0, 0).nll == 0


def test_nothing_to_read(model: Any, tiny: tuple[Any, Any, Any]) -> None:
    assert score_texts(model, tiny[2], [], window=8, pad=0, quiet=True) == []
    assert score_texts(model, tiny[2], [""], window=8, pad=0, quiet=True) == [TextScore(0, 0, 0)]


@pytest.mark.slow
@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="needs the published data")
def test_perplexity_of_wikitext_is_the_published_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    from hydratune.models import loading
    from hydratune.models.compute import on_cpu
    from test_config import compose

    monkeypatch.setenv("HYDRATUNE_CACHE", str(USERS_CACHE))
    settings = compose().model
    source = loading.locate(settings)
    tokenizer, model = (
        loading.load_tokenizer(settings, source),
        loading.load_model(settings, source, on_cpu()),
    )
    text = Path(SHARED_DATA / "wikitext2" / "test.txt").read_text()[:6000].strip()
    (score,) = score_texts(
        model, tokenizer, [text], window=2048, pad=tokenizer.pad_token_id, quiet=True
    )
    assert score.log_likelihood == pytest.approx(-3945.03, abs=0.1)
    assert score.bits_per_byte == pytest.approx(0.9479, abs=1e-4)
