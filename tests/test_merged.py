"""Micro-packs of several trials in one pass: every trial gets what it would have got alone."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from hydratune.config import LoraAdapter
from hydratune.models import adapters
from hydratune.models.attention import NAME
from hydratune.training.losses import PLAIN, LossShape
from hydratune.training.merged import Guest, Host, MergingPool
from hydratune.training.objective import Objective
from test_objective import build, rows

ADAPTERS = {
    "all": LoraAdapter(r=4, lora_alpha=8),
    "few": LoraAdapter(r=2, lora_alpha=16, target_modules=["q_proj", "down_proj"], use_rslora=True),
    "dropout": LoraAdapter(r=8, lora_dropout=0.3),
    "attention": LoraAdapter(r=3, lora_dropout=0.2, target_modules=["k_proj", "v_proj", "o_proj"]),
    "top": LoraAdapter(r=4, layers_to_transform=[1]),
}


class Together(MergingPool):
    """Computes all guests of one call in one pass."""

    def __init__(self, host: Host | None) -> None:
        self.host, self.passes = host, list[int]()

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        from concurrent.futures import Future

        future: Future[Any] = Future()
        future.set_result(function(*args, **kwargs))
        return future

    def map_guests(self, work: Callable[..., Any], jobs: Sequence[Any], guests: Sequence[Guest | None]) -> Any:
        assert self.host is not None
        self.guests = list(guests)
        return iter([work(*job) for job in jobs])


def base_of(name: str = "Llama", dtype: torch.dtype = torch.float32) -> Any:
    model = build(name).to(dtype)
    model.set_attn_implementation(NAME)
    return model


def own(base: Any) -> Any:
    return copy.deepcopy(base, {id(tensor): tensor for tensor in (*base.parameters(), *base.buffers())})


def trial(base: Any, adapter: LoraAdapter, seed: int) -> Any:
    torch.manual_seed(seed)
    model = adapters.add_adapter(own(base), adapter)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.train()


def guests_of(base: Any, names: Sequence[str], **options: Any) -> tuple[Host, list[Guest], list[Any]]:
    """The host, a guest for every adapter, and (loss, gradients) of each alone."""
    host = Host(own(base))
    guests, alone = [], []
    shapes = [PLAIN, LossShape(label_smoothing=0.1), LossShape(z_loss=1e-3), PLAIN, PLAIN]
    for number, name in enumerate(names):
        pool = Together(host)
        model = trial(base, ADAPTERS[name], number)
        objective = Objective(model, micro_tokens=512, workers=1, share=False, pool=pool, shape=shapes[number], seed=number, **options)
        alone.append(objective.gradients(rows(2 + number, seed=number)))
        (guest,) = pool.guests
        assert guest is not None
        guests.append(guest)
    return host, guests, alone


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-8)])  # some norms compute in fp32
@pytest.mark.parametrize("architecture", ["Llama", "Qwen3", "Gemma3Text", "Mistral"])
def test_every_guest_gets_its_own_loss_and_gradients(architecture: str, dtype: torch.dtype, tolerance: float) -> None:
    host, guests, alone = guests_of(base_of(architecture, dtype), list(ADAPTERS))
    for (loss, gradients), (expected, wanted) in zip(host.run(guests), alone, strict=True):
        torch.testing.assert_close(loss.double(), expected.double(), rtol=tolerance, atol=0)
        for ours, theirs in zip(gradients, wanted, strict=True):
            assert ours.dtype == theirs.dtype
            torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * max(1e-3, theirs.abs().max().item()))
