"""What the names of metrics.json mean: a title for people, and which way is better. The one place
that knows.

A name is ``<system>/<metric>`` for what was measured on the test rows, with eval for the fine-tuned
model; val/loss and objective are of the validation rows; cost/, forgetting/, memorisation/ and fit/
say what they are.
"""

import difflib
from collections.abc import Collection
from dataclasses import dataclass

from hydratune.errors import InputError
from hydratune.evaluation.table import TITLES

OBJECTIVE = "objective"
_SYSTEMS = {
    "eval": "",
    "base": "base: ",
    "fewshot": "few-shot base: ",
    "eval_clean": "clean rows: ",
    "eval_constrained": "constrained: ",
}
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
    "forgetting/bits_per_byte": "general texts, bits/byte",
    "forgetting/bits_per_byte_base": "general texts, bits/byte, base",
    "forgetting/nll": "general answers, NLL",
    "forgetting/nll_base": "general answers, NLL, base",
    "forgetting/instructions": "instructions followed",
    "forgetting/instructions_base": "instructions followed, base",
    "forgetting/within_budget": "forgot no more than allowed",
    "memorisation/difference": "known by heart, difference",
    "memorisation/train": "training rows known by heart",
    "memorisation/train_tokens": "training tokens in a row by heart",
    "memorisation/heldout": "other rows known by heart",
    "memorisation/heldout_tokens": "other tokens in a row by heart",
    "memorisation/canary_exposure": "canaries, exposure",
    "memorisation/canary_untrained": "untrained secrets, exposure",
    "memorisation/canary_base": "canaries, exposure in the base",
    "memorisation/canary_difference": "canaries, exposure less untrained",
    "fit/best_step": "step of the best validation",
    "fit/best_epoch": "epoch of the best validation",
    "fit/rise": "rise of the validation loss after it",
    "fit/gap": "validation less training loss",
    "halved_at_step": "stopped at step",
}
COSTS = {
    "cost/cpu_seconds": "CPU-s",
    "cost/wall_seconds": "seconds",
    "cost/tokens": "tokens",
    "cost/peak_memory_bytes": "GiB",
}  # short titles
_PARTS = {
    "field_f1": "field F1",
    "field_accuracy": "field accuracy",
    "label_f1": "label F1",
}  # of one field or one class of the answers
_LOWER = (
    "rise",
    "loss",
    "nll",
    "perplexity",
    "bits_per_byte",
    "invented_keys",
    "hallucinated",
    "label_unknown",
    "cut",
    "kl",
    "objective",
    "gap",
)
_LOWER_PREFIXES = ("cost/", "memorisation/")
_NEITHER = (
    "cost/tokens",
    "fit/best_step",
    "fit/best_epoch",
    "halved_at_step",
    "forgetting/within_budget",
)
_NEITHER_ENDINGS = ("length_ratio", "generated_tokens", "_base")


@dataclass(frozen=True)
class Criterion:
    """By what runs are ranked."""

    metric: str = OBJECTIVE
    lower: bool = True  # is better

    @property
    def on_test(self) -> bool:
        """Whether the test rows take part in the choice, which makes the winner look better than it
        is.
        """
        return self.metric.split("/")[0] in _SYSTEMS


def title(metric: str) -> str:
    if metric in _OTHERS:
        return _OTHERS[metric]
    system, name = _parts(metric)
    if system is None:
        return metric.replace("/", ": ").replace("_", " ")
    family, _, part = name.partition("/")
    of = (
        f"{_PARTS[family]}: {part}"
        if part and family in _PARTS
        else TITLES.get(name, name.replace("_", " "))
    )
    return _SYSTEMS[system] + of


def written(metric: str, value: float | None) -> str:
    """A value as people write it, without its unit: bytes in GiB, seconds and tokens whole."""
    if value is None:
        return "-"
    if metric == "cost/peak_memory_bytes":
        return f"{value / 2**30:.2f}"
    return f"{value:,.0f}" if metric in COSTS and value >= 10 else f"{value:.4g}"


def known(metric: str) -> bool:
    """Whether a name of metrics.json has a meaning here; else it was brought by a package, or
    somebody forgot it.
    """
    system, name = _parts(metric)
    return metric in _OTHERS or (
        system is not None
        and (name in TITLES or name.partition("/")[0] in _PARTS or name == "rows")
    )


def lower_is_better(metric: str) -> bool | None:
    """None: neither way is, or nobody knows."""
    system, name = _parts(metric)
    if (
        metric in _NEITHER
        or metric.endswith(_NEITHER_ENDINGS)
        or (system is not None and name == "rows")
    ):
        return None
    if metric == "cost/tokens_per_second":
        return False
    if (
        metric.startswith(_LOWER_PREFIXES)
        or (name or metric).rsplit("/", 1)[-1].removesuffix("_delta") in _LOWER
    ):
        return True
    if system is not None and (name in TITLES or name.partition("/")[0] in _PARTS):
        return False
    return False if metric.startswith("forgetting/instructions") else None


def _parts(metric: str) -> tuple[str | None, str]:
    """(system, name) of what was measured on the test rows; (None, "") of anything else."""
    system, slash, name = metric.partition("/")
    return (system, name) if slash and name and system in _SYSTEMS else (None, "")


def unknown(name: str, metric: str, there: Collection[str]) -> InputError:
    """What to say of a metric that no run has, as the value of an option ``name``."""
    near = [one for one in there if one.rpartition("/")[2] == metric] or difflib.get_close_matches(
        metric, sorted(there), n=3
    )
    some = sorted(there)
    hint = (
        f"did you mean {' or '.join(near[:3])}?"
        if near
        else f"there are: {', '.join(some[:12])}{' ...' if len(some) > 12 else ''}"
    )
    return InputError(f"{name} = {metric}: no finished run has it; {hint}")


def criterion(
    metric: str | None, mode: str | None, there: Collection[str] | None = None
) -> Criterion:
    """``there``: metrics that runs have.

    Raises ``InputError`` where nobody knows which way is better, and it was not said.
    """
    if mode not in (None, "min", "max"):
        raise InputError(f"mode = {mode}: give min (the lowest is best) or max")
    if metric is None:
        if mode == "max":
            raise InputError(
                "mode = max: the validation loss is better when it is lower; name another"
                " metric=... for this"
            )
        return Criterion()
    if there is not None and metric not in there:
        raise unknown("metric", metric, there)
    known = lower_is_better(metric)
    if mode is None and known is None:
        raise InputError(
            f"metric = {metric}: whether more or less of it is better is not known; add mode=min or"
            " mode=max"
        )
    return Criterion(metric, mode == "min" if mode else bool(known))
