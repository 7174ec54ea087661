"""Micro-packs of several trials in one pass: every trial gets the gradients it would get alone."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from hydratune.adapters import attach
from hydratune.adapters.methods.ia3 import Ia3Adapter
from hydratune.adapters.methods.lora import LoraAdapter
from hydratune.data.encoding.encoded import Encoded
from hydratune.training.losses import PLAIN, LossOptions
from hydratune.training.mergeable import MergeableBatch
from hydratune.training.merged import BaseReplica
from hydratune.training.objective import Objective
from hydratune.training.patches import with_lean_layers
from mergeable_trials import ADAPTERS, RecordingPool, assert_same, base_of, sharing_weights, trial
from small_models import ARCHITECTURES, SIZES, rows


def batches_of(
    base: Any, names: Sequence[str], **options: Any
) -> tuple[BaseReplica, list[MergeableBatch], list[Any]]:
    """Return the replica, a micro-pack of every adapter, and (loss, gradients) of each computed
    alone.
    """
    replica = BaseReplica(sharing_weights(base))
    batches, alone = [], []
    variants = [PLAIN, LossOptions(label_smoothing=0.1), LossOptions(z_loss=1e-3)]
    for number, name in enumerate(names):
        pool = RecordingPool(replica)
        model = trial(base, ADAPTERS[name], number)
        objective = Objective(
            model,
            micro_tokens=512,
            workers=1,
            share=False,
            pool=pool,
            loss_options=variants[number % 3],
            seed=number,
            **options,
        )
        alone.append(objective.gradients(rows(2 + number, seed=number)))
        (batch,) = pool.batches
        assert batch is not None
        batches.append(batch)
    return replica, batches, alone


@pytest.mark.parametrize(
    "architecture", ["Llama", "Qwen2", "Qwen3", "Gemma3Text", "Mistral", "Phi3", "GPTNeoX"]
)
def test_every_trial_gets_its_own_loss_and_gradients(architecture: str) -> None:
    names = list(ADAPTERS) if architecture not in ("Phi3", "GPTNeoX") else ["all", "strong dropout"]
    replica, batches, alone = batches_of(base_of(architecture), names)
    for result, expected in zip(replica.run(batches), alone, strict=True):
        assert_same(result, expected, 1e-5)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread for each operation, as in the threads of a worker pool."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize(
    "architecture", ["Llama", "Qwen2", "Qwen3", "Gemma3Text", "Mistral", "Phi3", "GPTNeoX"]
)
def test_no_bit_of_a_trial_depends_on_the_others(
    architecture: str, gradients: bool, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the width that merging requires, also of keys and values
    monkeypatch.setitem(SIZES, "hidden_size", 64)
    if "head_dim" in ARCHITECTURES[architecture]:
        monkeypatch.setitem(
            ARCHITECTURES, architecture, {**ARCHITECTURES[architecture], "head_dim": 16}
        )
    base = base_of(architecture)
    replica = BaseReplica(sharing_weights(base), row_invariant=True)
    names = [
        name
        for name in ADAPTERS
        if architecture not in ("Phi3", "GPTNeoX") or name in ("all", "strong dropout")
    ]
    pools = [RecordingPool(replica) for _ in names]
    alone = []
    for seed, (name, pool) in enumerate(zip(names, pools, strict=True)):
        model = trial(base, ADAPTERS[name], seed).train(gradients)
        objective = Objective(model, micro_tokens=512, workers=1, share=False, pool=pool, seed=seed)
        # one position is trained
        own_rows = (
            [Encoded((5, 6, 7, 8), (False, False, False, True))]
            if seed == 1
            else rows(1 + seed, seed)
        )
        alone.append(objective.gradients(own_rows) if gradients else (objective.loss(own_rows), []))
    if not replica.supports(None):
        pytest.skip("products are not steady on this machine")
    batches = [pool.batches[0] for pool in pools]
    kinds = {batch.kind for batch in batches}
    assert len(kinds) == (1 if len(names) == 2 else 2)  # "top" trains nothing in layer 0
    for kind in kinds:
        chosen = [number for number, batch in enumerate(batches) if batch.kind == kind]
        for order in (chosen, chosen[::-1], chosen[:2]):
            for number, (loss, computed) in zip(
                order, replica.run([batches[number] for number in order]), strict=True
            ):
                expected, expected_gradients = alone[number]
                assert torch.equal(loss, expected), names[number]
                assert len(computed) == len(expected_gradients) and all(
                    map(torch.equal, computed, expected_gradients)
                ), names[number]


def test_merged_differs_from_alone_by_rounding_only() -> None:
    """In float64 the difference vanishes. The adapter of layer 1 alone is not among these, because
    the norms of layer 0 are then transformers' own, in fp32.
    """
    replica, batches, alone = batches_of(
        base_of(dtype=torch.float64), ["all", "few", "dropout", "attention"]
    )
    for result, expected in zip(replica.run(batches), alone, strict=True):
        assert_same(result, expected, 1e-12)


def test_losses_without_gradients_are_plain_and_draw_nothing() -> None:
    base = base_of()
    replica, batches, expected = BaseReplica(sharing_weights(base)), [], []
    for seed, name in enumerate(("dropout", "all")):
        pool = RecordingPool(replica)
        model = trial(base, ADAPTERS[name], seed).eval()
        objective = Objective(
            model, micro_tokens=512, workers=1, pool=pool, loss_options=LossOptions(0.1, 0.1)
        )
        expected.append(objective.loss(rows(3, seed)))
        batches += pool.batches
    results = replica.run(batches)
    assert all(gradients == () and not loss.requires_grad for loss, gradients in results)
    torch.testing.assert_close(
        torch.stack([loss for loss, _ in results]), torch.stack(expected), rtol=1e-6, atol=0
    )


def test_two_micro_packs_of_one_trial_get_a_gradient_each() -> None:
    base = base_of()
    pool = RecordingPool(BaseReplica(sharing_weights(base)))
    objective = Objective(
        trial(base, ADAPTERS["all"], 0), micro_tokens=24, workers=1, share=False, pool=pool
    )
    total = objective.gradients(rows(3))
    assert len(pool.batches) > 1 and pool.replica is not None
    results = pool.replica.run(pool.batches)
    summed = [
        sum(parts[1:], parts[0])
        for parts in zip(*(gradients for _, gradients in results), strict=True)
    ]
    assert_same((torch.stack([loss for loss, _ in results]).sum(), summed), total, 1e-5)


def test_a_trial_that_is_not_finite_does_not_affect_the_others() -> None:
    replica, batches, alone = batches_of(base_of(), ["all", "few", "dropout"])
    with torch.no_grad():
        batches[1].adapter.parameters[0].fill_(float("inf"))
    results = replica.run(batches)
    assert not results[1][0].isfinite()
    for number in (0, 2):
        assert_same(results[number], alone[number], 1e-5)


def test_bf16_under_autocast_equals_each_trial_alone() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        replica, batches, alone = batches_of(
            base_of(dtype=torch.bfloat16), ["all", "few", "dropout"]
        )
    for batch in batches:
        assert (
            batch.autocast is torch.bfloat16 and batch.adapter.parameters[0].dtype is torch.float32
        )
    for result, expected in zip(replica.run(batches), alone, strict=True):
        assert_same(result, expected, 5e-2)


def offered_by(
    base: Any, adapter: Any, rows_: Sequence[Encoded] = (), **options: Any
) -> list[MergeableBatch | None] | None:
    """Return the mergeable micro-packs that an objective offers; None if it offers no list at
    all.
    """
    pool = RecordingPool(BaseReplica(sharing_weights(base)))
    model = with_lean_layers(attach.add_adapter(sharing_weights(base), adapter))
    objective = Objective(model.train(), micro_tokens=256, workers=1, pool=pool, **options)
    objective.gradients(rows_ or rows(2))
    return getattr(pool, "batches", None)


def test_plain_lora_is_mergeable_and_others_are_not() -> None:
    base = base_of()
    (batch,) = offered_by(base, ADAPTERS["all"]) or [None]
    assert batch is not None and batch.tokens == sum(len(row.ids) - 1 for row in rows(2))
    for other in (
        LoraAdapter(r=2, use_dora=True),
        Ia3Adapter(),
        LoraAdapter(r=2, modules_to_save=["lm_head"]),
    ):
        assert offered_by(base, other) is None, other
    assert offered_by(base, ADAPTERS["all"], neftune_alpha=1.0) is None
    assert offered_by(base, ADAPTERS["all"], checkpointing=True) is None
    # PEFT keeps A and B in fp32, so its own forward is used
    assert offered_by(base_of("Llama", torch.bfloat16), ADAPTERS["all"]) == [None]


def test_rows_behind_a_shared_prefix_are_not_mergeable() -> None:
    same = tuple(range(1, 60)) * 3
    same_beginning = [
        Encoded((*same, number, 7), (False,) * (len(same) + 1) + (True,)) for number in range(8)
    ]
    others = rows(2)
    offered = offered_by(base_of(), ADAPTERS["all"], [*same_beginning, *others])
    assert offered is not None and {
        len(batch.rows) if batch is not None else 0 for batch in offered
    } == {0, 2}


def test_micro_packs_with_stored_states_are_not_mergeable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRATUNE_CACHE", str(tmp_path))
    base = base_of()
    pool = RecordingPool(BaseReplica(sharing_weights(base)))
    objective = Objective(trial(base, ADAPTERS["top"], 0), micro_tokens=256, workers=1, pool=pool)
    assert objective.store_frozen_layers(rows(2), "base", 1e9, lambda *_: None) == 1
    objective.gradients(rows(2))
    assert pool.batches == [None]


def test_a_model_on_other_weights_is_not_mergeable() -> None:
    pool = RecordingPool(BaseReplica(base_of()))
    Objective(
        trial(base_of(), ADAPTERS["all"], 0), micro_tokens=256, workers=1, pool=pool
    ).gradients(rows(2))
    assert not hasattr(pool, "batches")
