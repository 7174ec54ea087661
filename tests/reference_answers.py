"""Prompts with reference answers in tokens, and the likelihoods of these answers."""

from typing import Any

from hydratune.evaluation.generation import answer

PROMPTS = [[1, 2, 3, 4, 9, 8, 7], [1, 2, 3, 5], [1, 2, 3, 6, 6, 6, 6, 6, 6, 6, 6], [1, 2, 3, 9, 1]]
REFERENCES = [[11, 12, 2], [13, 2], [14, 15, 16, 17, 2], [2]]
OPTIONS: dict[str, Any] = {
    "stop": frozenset([2]),
    "pad": 0,
    "max_new_tokens": 3,
    "batch_size": 4,
    "title": "",
    "quiet": True,
}


def reference_nlls(model: Any, **options: Any) -> list[float]:
    """Return the negative log-likelihood of each reference answer."""
    answers = answer(model, PROMPTS, REFERENCES, **OPTIONS, **options)
    return [given.nll for given in answers]
