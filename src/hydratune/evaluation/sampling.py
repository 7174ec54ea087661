"""Choosing the next token of an answer: the likeliest one, or one that is drawn.

Every answer draws from a generator of its own, so it does not depend on the batch that it is in.
"""

import hashlib
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    ``temperature`` divides the logits; only the likeliest tokens that together have the probability
    ``top_p`` can be drawn (nucleus sampling, https://arxiv.org/abs/1904.09751).
    """

    temperature: float
    top_p: float = 1.0
    seed: int = 0

    def generator(self, key: object) -> torch.Generator:
        """Return the generator of the answer ``key``: equal seeds and keys, equal draws."""
        digest = hashlib.sha256(f"{self.seed}/{key}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))

    def draw(self, logits: torch.Tensor, generator: torch.Generator) -> int:
        """Return a token drawn by its logits (vocabulary,)."""
        probabilities = torch.softmax(logits.double().cpu() / self.temperature, dim=-1)
        if self.top_p < 1:
            ordered, tokens = probabilities.sort(descending=True)
            before = ordered.cumsum(0) - ordered  # the probability of all likelier tokens
            kept = ordered.masked_fill(before >= self.top_p, 0.0)
            return int(tokens[torch.multinomial(kept, 1, generator=generator)])
        return int(torch.multinomial(probabilities, 1, generator=generator))


def sampling_of(temperature: float, top_p: float, seed: int) -> Sampling | None:
    """Return how tokens are drawn; None for temperature 0: always the likeliest one."""
    return Sampling(temperature, top_p, seed) if temperature > 0 else None
