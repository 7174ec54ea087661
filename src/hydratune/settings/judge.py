"""Settings of a judge: the model that is asked, and what it may cost."""

from collections.abc import Iterator
from dataclasses import dataclass

from hydratune.errors import Problem
from hydratune.settings.paths import path_setting
from hydratune.settings.ranges import at_least


@dataclass
class AskingConfig:
    """A judge: which model is asked, and at what cost.

    A server's key is never a setting: ``key_env`` names the environment variable that holds it.
    """

    base_url: str = "https://api.openai.com/v1"  # any server with the same chat completions API
    judge: str | None = None  # name of the model there
    # name of the environment variable with the key; null: the server needs none
    key_env: str | None = "OPENAI_API_KEY"
    # instead of a server: folder or hub id of a chat model, or base: that of the run
    local: str | None = path_setting(None)
    max_tokens: int = 400  # tokens of a judgement, at most
    attempts: int = 2  # requests for one judgement until it can be read
    concurrency: int = 4  # requests at a time
    # seconds for a request; one that takes longer is given up, and not repeated
    timeout: float = 60.0
    # seconds for all requests together; judgements received by then are kept and count; null:
    # no limit
    time_limit: float | None = 3600.0
    retries: int = 4  # after 429, 5xx and lost connections, with growing pauses
    price_in: float = 0.0  # of a million prompt tokens, in any currency
    price_out: float = 0.0  # of a million generated tokens, in the same currency
    budget: float | None = None  # most to spend, in that currency; null: no limit
    batch_size: int = 4  # rows that a local judge answers together

    def asking_problems(self, prefix: str) -> Iterator[Problem]:
        """Yield every problem of these settings; ``prefix`` is that of their keys."""
        for key in ("max_tokens", "attempts", "concurrency", "batch_size"):
            yield from at_least(f"{prefix}{key}", getattr(self, key), 1)
        for key in ("retries", "price_in", "price_out", "budget"):
            yield from at_least(f"{prefix}{key}", getattr(self, key), 0)
        if self.time_limit is not None and not self.time_limit > 0:
            fix = "seconds, usual: 3600, or null for no limit"
            yield Problem(f"{prefix}time_limit", self.time_limit, "a judge needs some time", fix)
        if not self.timeout > 0:
            why = "a server needs some time"
            yield Problem(f"{prefix}timeout", self.timeout, why, "usual: 60")
        has_price = bool(self.price_in or self.price_out)
        if self.budget is not None and self.local is None and not has_price:
            why = "without prices, the cost of a request is unknown"
            fix = f"set {prefix}price_in and {prefix}price_out"
            yield Problem(f"{prefix}budget", self.budget, why, fix)


@dataclass
class FactsConfig(AskingConfig):
    """A judge that reads training answers: does the request support what they say?

    Off unless ``judge`` or ``local`` is given.
    """

    rows: int | None = 200  # of the training rows, drawn by their hashes; null: all
