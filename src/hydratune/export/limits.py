"""How far an export may be from the run's model, by what its form changes; pure functions."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from hydratune.export.parity import Parity
from hydratune.settings.export import ParityLimits


@dataclass(frozen=True)
class Limits:
    """The largest differences that are accepted."""

    mean_kl: float  # nats
    max_kl: float
    agreement: float  # least share of positions with the same most likely token
    metric_drop: float  # points of 1


class Exactness(Enum):
    """How exactly a form keeps the weights, and the limits that follow from it.

    docs/howto/export.md has what was measured. Each limit is several times what the default model
    needs, and below what a wrong merge does.
    """

    exact = Limits(1e-5, 1e-3, 0.995, 0.005)  # fp32: only the order of additions differs
    half = Limits(1e-3, 0.05, 0.99, 0.01)  # each weight is rounded to 16 bits
    eight_bits = Limits(0.01, 0.5, 0.98, 0.02)
    four_bits = Limits(0.1, 4.0, 0.955, 0.05)

    @property
    def limits(self) -> Limits:
        return self.value


def limits_of(exactness: Exactness, typed: ParityLimits) -> Limits:
    """Return the limits of a form, with those that the settings name in their place."""
    own = exactness.limits

    def chosen(given: float | None, default: float) -> float:
        return default if given is None else given

    return Limits(
        chosen(typed.mean_kl, own.mean_kl),
        chosen(typed.max_kl, own.max_kl),
        chosen(typed.agreement, own.agreement),
        chosen(typed.metric_drop, own.metric_drop),
    )


def violations(parity: Parity, limits: Limits) -> Iterator[str]:
    """Yield what is beyond the limits, in words."""
    if not parity.mean_kl <= limits.mean_kl:
        yield f"mean KL {parity.mean_kl:.2g} nats, at most {limits.mean_kl:g} (limits.mean_kl)"
    if not parity.max_kl <= limits.max_kl:
        yield f"largest KL {parity.max_kl:.2g} nats, at most {limits.max_kl:g} (limits.max_kl)"
    if not parity.agreement >= limits.agreement:
        yield (
            f"the same most likely token at {100 * parity.agreement:.1f} % of positions, at least"
            f" {100 * limits.agreement:g} % (limits.agreement)"
        )
    if not parity.metric_drop <= limits.metric_drop:
        yield (
            f"{parity.metric} lower by {100 * parity.metric_drop:.1f} points, at most"
            f" {100 * limits.metric_drop:g} (limits.metric_drop)"
        )
    if parity.other_prompts:
        yield f"{parity.other_prompts} of {parity.rows} prompts are read as other tokens"
