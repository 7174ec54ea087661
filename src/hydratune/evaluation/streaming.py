"""One answer, token by token: what a conversation in the terminal shows while it is written."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from hydratune.evaluation.constrained import Guide
from hydratune.evaluation.generation import Answer
from hydratune.evaluation.prompt_reader import KnownTokens, PromptReader, Tokens
from hydratune.evaluation.sampling import Sampling
from hydratune.models.compute import as_trained, autocast_of, deterministic_if_possible
from hydratune.training.arithmetic import Arithmetic, CastWeights
from hydratune.training.lean_linears import lora_weights
from hydratune.training.patches import ModelPatches
from hydratune.training.step import StepContext, computing

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class AnswerStream:
    """Answers prompts of one model, each usually the one before with more turns.

    What the prompt has in common with the one before is not read again, where the layers of the
    model allow it.
    """

    def __init__(self, model: "PreTrainedModel", stop: frozenset[int], pad: int) -> None:
        self.model, self.stop, self.pad = model.eval(), stop, pad
        self._known: KnownTokens | None = None

    def answer(
        self,
        prompt: Tokens,
        on_token: Callable[[int], None],
        *,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        key: object = 0,
        guide: Guide | None = None,
    ) -> Answer:
        """Return the answer; ``on_token`` is called with each token as soon as it is chosen.

        ``key`` is that of the draws of ``sampling``. What ``on_token`` raises ends the answer.
        """
        generator = sampling.generator(key) if sampling is not None else None
        matcher = guide.row() if guide is not None else None

        def choose(logits: torch.Tensor) -> int:
            if matcher is not None:
                allowed = matcher.allowed().to(logits.device)
                logits = logits.masked_fill(~allowed, -torch.inf)
            if sampling is not None and generator is not None:
                token = sampling.draw(logits, generator)
            else:
                token = int(logits.argmax())
            if matcher is not None:
                matcher.take(token)
            return token

        weights = CastWeights(lora_weights(self.model), autocast_of(self.model))
        step = StepContext(arithmetic=Arithmetic(weights=weights, fast=True))
        with torch.inference_mode(), ModelPatches(self.model) as patches:
            patches.use_fast_linears()
            with as_trained(self.model), computing(step):
                # a second call, without deterministic algorithms, fails before the first token
                return deterministic_if_possible(
                    lambda: self._answer(prompt, on_token, choose, max_new_tokens)
                )

    def _answer(
        self,
        prompt: Tokens,
        on_token: Callable[[int], None],
        choose: Callable[[torch.Tensor], int],
        max_new_tokens: int,
    ) -> Answer:
        known, self._known = self._known, None
        reader = PromptReader(self.model, [prompt], self.pad, known)
        logits, mask, cache = reader.read([prompt], max_new_tokens)
        tokens: list[int] = []
        while True:
            tokens.append(choose(logits[0]))
            on_token(tokens[-1])
            if tokens[-1] in self.stop or len(tokens) == max_new_tokens:
                break
            mask = torch.cat([mask, mask.new_ones((1, 1))], dim=1)
            ids = torch.tensor([[tokens[-1]]], device=mask.device)
            logits = reader.step(ids, mask, cache, last=1)[:, -1]
        self._known = reader.known_tokens(prompt, tokens, cache)
        return Answer(tuple(tokens), "stop" if tokens[-1] in self.stop else "length", 0.0)
