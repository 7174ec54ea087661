"""Constrained decoding: only tokens with which the answer can still become valid JSON.

Valid is what the JSON schema allows (llguidance). Such answers are measured in addition to the free
ones, never instead of them: a valid answer is then no achievement of the model.
"""

import functools
import json
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch

from hydratune import extras
from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.errors import ConfigError, Problem, refuse

if TYPE_CHECKING:
    from llguidance import LLMatcher
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# between parts of an answer: without a limit, a model can write spaces without end
_SPACE = r"[ \n\t]{0,16}"


class Guide:
    """What a schema allows, for one tokenizer. Each row of a batch has its own ``Guided``."""

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        schema: Mapping[str, object],
        stop: frozenset[int],
        vocabulary: int,
        key: str = "constrained",
    ) -> None:
        """Compile the schema; ``vocabulary`` is the width of the logits.

        Raises ``ConfigError``, under ``key``, if the schema cannot be enforced.
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
            why = f"not with this tokenizer: {error}"
            raise ConfigError([Problem(key, True, why, fix)]) from None
        self._width = vocabulary
        is_wrong, reasons = self._library.LLMatcher.validate_grammar_with_warnings(
            self._grammar, self._tokenizer
        )
        if is_wrong:
            why = f"the JSON schema asks for what cannot be enforced: {reasons[0]}"
            raise ConfigError([Problem(key, True, why, "simplify the schema")])

    def row(self) -> "Guided":
        """Return the state of a new answer."""
        matcher = self._library.LLMatcher(self._tokenizer, self._grammar, log_level=0)
        return Guided(matcher, self._width)


class Guided:
    """How far one answer has come."""

    def __init__(self, matcher: "LLMatcher", width: int) -> None:
        self._matcher, self._width = matcher, width

    def allowed(self) -> torch.Tensor:
        """Return which tokens may come next, (vocabulary,)."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        flags = np.unpackbits(bits, bitorder="little")[: self._width]
        return torch.from_numpy(np.pad(flags, (0, self._width - len(flags))).astype(bool))

    def take(self, token: int) -> None:
        """Continue the answer with a token."""
        self._matcher.consume_token(token)


@functools.cache
def library(key: str) -> ModuleType:
    """Return llguidance. Raises ``ConfigError`` where it is not installed."""
    refuse(extras.missing("llguidance", key, True))
    import llguidance

    return llguidance


def guide_for(
    schema: Mapping[str, object] | None,
    encoder: ChatEncoder,
    model: "PreTrainedModel",
    key: str = "constrained",
) -> Guide:
    """Return the guide for the answers of ``model``. Raises ``ConfigError`` without a schema."""
    if schema is None:
        raise no_schema(key)
    vocabulary = model.get_output_embeddings().weight.shape[0]
    return Guide(encoder.tokenizer, schema, encoder.turn_end_ids, vocabulary, key)


def no_schema(key: str = "constrained") -> ConfigError:
    """Return the error of answers that are to be constrained without a schema."""
    why = "there is no JSON schema to hold the answers to"
    fix = "give data.schema_file=FILE in training, or leave it out"
    return ConfigError([Problem(key, True, why, fix)])
