"""What the names of metrics.json mean: a title for people, and which way is better. The one place that knows.

A name is ``<system>/<metric>`` for what was measured on the test rows, with eval for the fine-tuned model; val/loss and objective
are of the validation rows; cost/, forgetting/, memorisation/ and fit/ say what they are.
"""

from dataclasses import dataclass

from hydratune.errors import InputError
from hydratune.evaluation.table import TITLES

OBJECTIVE = "objective"
_SYSTEMS = {"eval": "", "base": "base: ", "fewshot": "few-shot base: ", "eval_clean": "clean rows: ", "eval_constrained": "constrained: "}
_OTHERS = {
    OBJECTIVE: "val loss",
    "val/loss": "val loss",
    "train/loss": "train loss",
    "cost/cpu_seconds": "CPU-seconds",
    "cost/wall_seconds": "seconds",
    "cost/tokens": "tokens trained",
    "cost/tokens_per_second": "tokens/s",
    "cost/peak_memory_bytes": "peak memory",
    "forgetting/bits_per_byte_delta": "forgotten, bits/byte",
    "forgetting/nll_delta": "forgotten, NLL",
    "forgetting/instructions_delta": "instructions, difference",
    "forgetting/kl": "divergence from the base",
    "memorisation/difference": "known by heart, difference",
}
_LOWER = ("loss", "nll", "perplexity", "bits_per_byte", "invented_keys", "hallucinated", "label_unknown", "kl", "objective", "gap")
_LOWER_PREFIXES = ("cost/", "memorisation/")
_NEITHER = ("cost/tokens", "eval/length_ratio", "eval/generated_tokens")


@dataclass(frozen=True)
class Criterion:
    """By what runs are ranked."""

    metric: str = OBJECTIVE
    lower: bool = True  # is better

    @property
    def on_test(self) -> bool:
        """Whether the test rows take part in the choice, which makes the winner look better than it is."""
        return self.metric.split("/")[0] in _SYSTEMS


def title(metric: str) -> str:
    if metric in _OTHERS:
        return _OTHERS[metric]
    system, _, name = metric.partition("/")
    if system in _SYSTEMS and name:
        return _SYSTEMS[system] + TITLES.get(name, name.replace("_", " "))
    return metric.replace("/", ": ").replace("_", " ")


def lower_is_better(metric: str) -> bool | None:
    """None: neither way is, or nobody knows."""
    if metric in _NEITHER:
        return None
    if metric == "cost/tokens_per_second":
        return False
    name = metric.split("/")[1] if metric.split("/")[0] in _SYSTEMS and "/" in metric else metric
    if metric.startswith(_LOWER_PREFIXES) or name.rsplit("/", 1)[-1].removesuffix("_delta") in _LOWER:
        return True
    if metric.split("/")[0] in _SYSTEMS and name in TITLES:
        return False
    return False if metric.startswith("forgetting/instructions") else None


def criterion(metric: str | None, mode: str | None) -> Criterion:
    """Raises ``InputError`` where nobody knows which way is better, and it was not said."""
    if mode not in (None, "min", "max"):
        raise InputError(f"mode = {mode}: give min (the lowest is best) or max")
    if metric is None:
        if mode == "max":
            raise InputError("mode = max: the validation loss is better when it is lower; name another metric=... for this")
        return Criterion()
    known = lower_is_better(metric)
    if mode is None and known is None:
        raise InputError(f"metric = {metric}: whether more or less of it is better is not known; add mode=min or mode=max")
    return Criterion(metric, mode == "min" if mode else bool(known))
