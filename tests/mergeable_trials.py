"""Trials whose micro-packs can be computed in one pass, for tests of merging."""

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import torch

from hydratune.adapters import attach
from hydratune.adapters.methods.lora import LoraAdapter
from hydratune.models.attention import NAME
from hydratune.training.mergeable import MergeableBatch, MergingPool, Replica
from hydratune.training.patches import with_lean_layers
from small_models import build

ADAPTERS = {
    "all": LoraAdapter(r=4, lora_alpha=8),
    "few": LoraAdapter(r=2, lora_alpha=16, target_modules=["q_proj", "down_proj"], use_rslora=True),
    "dropout": LoraAdapter(r=8, lora_dropout=0.3),
    "attention": LoraAdapter(r=3, lora_dropout=0.2, target_modules=["k_proj", "v_proj", "o_proj"]),
    "strong dropout": LoraAdapter(r=4, lora_dropout=0.5),
    "top": LoraAdapter(r=4, layers_to_transform=[1]),
}


class RecordingPool(MergingPool):
    """A pool that stores the mergeable micro-packs of one call and computes each with its own
    model.
    """

    def __init__(self, replica: Replica | None) -> None:
        self.replica, self.passes = replica, list[int]()

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        future: Future[Any] = Future()
        future.set_result(function(*args, **kwargs))
        return future

    def map_mergeable(
        self,
        work: Callable[..., Any],
        jobs: Sequence[Any],
        batches: Sequence[MergeableBatch | None],
    ) -> Any:
        assert self.replica is not None
        self.batches = list(batches)
        return iter([work(*job) for job in jobs])


def base_of(name: str = "Llama", dtype: torch.dtype = torch.float32) -> Any:
    model = build(name).to(dtype)
    model.set_attn_implementation(NAME)
    return model


def sharing_weights(base: Any) -> Any:
    return copy.deepcopy(
        base, {id(tensor): tensor for tensor in (*base.parameters(), *base.buffers())}
    )


def trial(base: Any, adapter: LoraAdapter, seed: int) -> Any:
    torch.manual_seed(seed)
    model = with_lean_layers(attach.add_adapter(sharing_weights(base), adapter))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.train()


def assert_same(result: Any, alone: Any, tolerance: float) -> None:
    (loss, gradients), (expected, expected_gradients) = result, alone
    torch.testing.assert_close(loss.double(), expected.double(), rtol=tolerance, atol=0)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(
            ours, theirs, rtol=tolerance, atol=tolerance * max(1e-3, theirs.abs().max().item())
        )
