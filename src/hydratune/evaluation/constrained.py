"""Constrained decoding: only tokens with which the answer can still become valid under the JSON
schema (llguidance).

What a model says so is measured beside what it says freely, never instead of it: a valid answer is
then no achievement.
"""

import functools
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from hydratune.errors import ConfigError, Problem

_EXTRA = "pip install 'hydratune[constrained]'"
_SPACE = (
    r"[ \n\t]{0,16}"  # between parts of an answer: without a limit a model can go on writing spaces
)


class Guide:
    """What a schema allows, for one tokenizer. Each row of a batch has its own ``Guided``."""

    def __init__(
        self,
        tokenizer: Any,
        schema: Mapping[str, Any],
        stop: frozenset[int],
        vocabulary: int,
        key: str = "constrained",
    ) -> None:
        """``vocabulary``: as wide as logits are.

        Raises ``ConfigError``, under ``key``, if the schema cannot be had this way.
        """
        self._library = library(key)
        options = {"whitespace_flexible": True, "whitespace_pattern": _SPACE}
        self._grammar = self._library.LLMatcher.grammar_from_json_schema(
            json.dumps(schema), overrides=options
        )
        from llguidance.hf import from_tokenizer

        try:
            self._tokenizer = from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=sorted(stop))
        except ValueError as error:
            fix = "leave it out, or use a model with a fast tokenizer"
            raise ConfigError(
                [Problem(key, True, f"not with this tokenizer: {error}", fix)]
            ) from None
        self._width = vocabulary
        wrong, told = self._library.LLMatcher.validate_grammar_with_warnings(
            self._grammar, self._tokenizer
        )
        if wrong:
            raise ConfigError(
                [
                    Problem(
                        key,
                        True,
                        f"the JSON schema asks for what cannot be enforced: {told[0]}",
                        "simplify the schema",
                    )
                ]
            )

    def row(self) -> "Guided":
        return Guided(
            self._library.LLMatcher(self._tokenizer, self._grammar, log_level=0), self._width
        )


class Guided:
    """How far one answer has come."""

    def __init__(self, matcher: Any, width: int) -> None:
        self._matcher, self._width = matcher, width

    def allowed(self) -> torch.Tensor:
        """(vocabulary,): tokens that may come next."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        flags = np.unpackbits(bits, bitorder="little")[: self._width]
        return torch.from_numpy(np.pad(flags, (0, self._width - len(flags))).astype(bool))

    def take(self, token: int) -> None:
        self._matcher.consume_token(token)


@functools.cache
def library(key: str) -> Any:
    """Raises ``ConfigError`` where it is not installed."""
    try:
        import llguidance
    except ImportError:
        raise ConfigError([Problem(key, True, "needs the library llguidance", _EXTRA)]) from None
    return llguidance


def guide_for(
    schema: Mapping[str, Any] | None, encoder: Any, model: Any, key: str = "constrained"
) -> Guide:
    """For the answers of ``model``. Raises ``ConfigError`` where there is no schema."""
    if schema is None:
        why, fix = (
            "there is no JSON schema to hold the answers to",
            "give data.schema_file=FILE in training, or leave it out",
        )
        raise ConfigError([Problem(key, True, why, fix)])
    vocabulary = model.get_output_embeddings().weight.shape[0]
    return Guide(encoder.tokenizer, schema, encoder.turn_end_ids, vocabulary, key)
