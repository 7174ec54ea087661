"""Seconds and money of a training run: measured by a probe, stated, or estimated."""

import re
import time
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from hydratune.errors import ConfigError, Problem
from hydratune.models.catalogue.entries import Device, devices
from hydratune.planning.memory import Needs, Passes, Place
from hydratune.planning.probe import Probe
from hydratune.settings.commands import PlanConfig
from hydratune.settings.overrides import as_typed
from hydratune.training.schedules import total_steps

_MATRIX = 1024  # width of the products by which this CPU is measured
_SECONDS = 0.2  # of that measurement


class Basis(StrEnum):
    """Where the seconds are from."""

    probe = "measured by a probe"
    stated = "from tokens_per_second"
    estimate = "an estimate"
    unknown = "unknown"


@dataclass(frozen=True)
class Duration:
    """The time of the training steps of a run; None: unknown. Answers are not counted."""

    steps: int
    tokens: int  # of rows, in all steps
    computed: int  # of them, with shared prefixes once
    seconds: float | None
    money: float | None
    basis: Basis
    explanation: str


def chosen_device(name: str | None) -> Device | None:
    """Return an accelerator of the catalogue by its name. Raises ``ConfigError``."""
    if name is None:
        return None
    every = devices()
    wanted = _plain(name)
    matching = [d for n, d in every.items() if _plain(n) == wanted]
    if not matching:
        near = [n for n in every if wanted and wanted in _plain(n)]
        listed = ", ".join(as_typed("device", n) for n in near or every)
        why = "the catalogue has no such accelerator"
        raise ConfigError([Problem("device", name, why, f"one of: {listed}")])
    return matching[0]


def _plain(name: str) -> str:
    """Return a name without what is often typed otherwise: case, spaces, hyphens, underscores."""
    return re.sub(r"[\W_]+", "", name.lower())


def duration(needs: Needs, config: PlanConfig, place: Place, probe: Probe | None) -> Duration:
    """Return how long the training steps take on ``config.device`` or this machine."""
    steps = total_steps(config, needs.rows.train_rows)
    rows = needs.rows
    per_step = config.data.batch_size * config.trainer.accumulate_grad_batches
    mean = rows.tokens / max(1, rows.train_rows)
    tokens = round(min(steps * per_step, config.trainer.max_epochs * rows.train_rows) * mean)
    micro = needs.at(place).micro_tokens
    passes = Passes.of(needs, place, micro)
    computed = round(steps * passes.tokens * config.trainer.accumulate_grad_batches)
    seconds, basis, said = _seconds(needs, config, tokens, min(computed, tokens), probe)
    money = None
    if seconds is not None and config.price_per_hour is not None:
        money = seconds / 3600 * config.price_per_hour * max(1, config.trainer.devices)
    return Duration(steps, tokens, min(computed, tokens), seconds, money, basis, said)


def _seconds(
    needs: Needs, config: PlanConfig, tokens: int, computed: int, probe: Probe | None
) -> tuple[float | None, Basis, str]:
    if probe is not None:
        said = f"{probe.steps} steps at {probe.tokens_per_second:,.0f} tokens/s"
        return tokens / probe.tokens_per_second, Basis.probe, said
    if config.tokens_per_second is not None:
        said = f"{config.tokens_per_second:,.0f} tokens/s"
        return tokens / config.tokens_per_second, Basis.stated, said
    device = chosen_device(config.device)
    flops, what = _flops(device)
    if flops is None:
        return None, Basis.unknown, f"the arithmetic of {what} is unknown; set tokens_per_second"
    each = operations_per_token(needs)
    seconds = each * computed / (flops * config.utilisation)
    said = (
        f"{each / 1e9:,.2f} GFLOP per token, {what} with {flops / 1e12:,.3g} TFLOP/s at"
        f" utilisation={config.utilisation:g}; probe=true measures it"
    )
    return seconds, Basis.estimate, said


def operations_per_token(needs: Needs) -> float:
    """Return the floating-point operations of a training step for a token.

    A product with a weight takes two operations forward, two for the gradient of its input, and two
    more for its own gradient if it is trained (arXiv:2001.08361, section 2.1). Attention's own
    products, which grow with the length of rows, are left out.
    """
    every, trained = needs.structure.parameters, needs.trained.parameters
    forward = 2.0 * every * (2 if needs.config.trainer.gradient_checkpointing else 1)
    layers = needs.trained.layers
    learning = 1 - needs.trained.frozen_layers / max(1, layers)
    return (
        forward * (learning if needs.trained.frozen_layers else 1)
        + 2 * every * learning
        + 2.0 * trained
    )


def _flops(device: Device | None) -> tuple[float | None, str]:
    if device is not None:
        return device.flops, device.name
    return _flops_of_cpu(), "this machine's CPU"


@cache
def _flops_of_cpu() -> float:
    """Return the arithmetic of this machine, measured once for all trials of a plan."""
    import torch

    a = torch.ones(_MATRIX, _MATRIX)
    times: list[float] = []
    while sum(times) < _SECONDS:
        began = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - began)
    # the fastest one, because other work may have delayed the others
    return 2 * _MATRIX**3 / min(times)
