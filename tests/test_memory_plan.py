"""How much is computed at once, given the memory of a device, and what happens if it runs out."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

from conftest import SMALL
from hydratune.data.encoding.encoded import Encoded
from hydratune.models import hardware, memory_plan
from hydratune.models.attention import NAME
from hydratune.models.memory_plan import MemoryPlan, training_plan
from hydratune.training import micro_pack_loss
from hydratune.training.memory import plan_memory
from hydratune.training.objective import Objective
from hydratune.training.packing import pack_rows
from hydratune.training.plan import micro_packs
from small_models import build, rows, with_lora
from test_config import compose

Command = Callable[..., tuple[int, str]]
CUDA = torch.device("cuda", 0)
MIB = 2**20


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that sets the free memory in GiB of a simulated GPU."""

    def of(gib: float) -> None:
        monkeypatch.setattr(memory_plan, "free_memory", lambda device: int(gib * 2**30))

    return of


def taking(per_token: int, fixed: int = 0) -> Callable[[int], int]:
    """Return a training step that uses so many bytes per token, and ``fixed`` bytes in addition."""
    return lambda tokens: fixed + tokens * per_token


@pytest.mark.parametrize(
    ("gib", "per_token", "expected"),
    [
        (70, MIB, 16384),
        (20, MIB, 16384),
        (16, MIB, 8192),
        (4, MIB, 2048),
        (4, 4 * MIB, 512),
        (0.1, 4 * MIB, 256),
    ],
)
def test_micro_packs_are_as_large_as_memory_allows(
    card: Callable[[float], None], gib: float, per_token: int, expected: int
) -> None:
    card(gib)
    plan = training_plan(CUDA, 128_256, 0, 1000, None, taking(per_token))
    assert plan.micro_tokens == expected
    assert plan.bytes_per_token == per_token and plan.free == int(gib * 2**30)
    assert plan.micro_tokens * per_token <= gib * 2**30 or plan.micro_tokens == 256


def test_memory_that_does_not_depend_on_tokens_is_reserved(card: Callable[[float], None]) -> None:
    card(10)
    assert training_plan(CUDA, 1000, 0, 1000, None, taking(MIB)).micro_tokens == 8192
    assert (
        training_plan(CUDA, 1000, 0, 1000, None, taking(MIB, fixed=5 * 2**30)).micro_tokens == 2048
    )
    # gradient and Adam: 6 GB
    assert training_plan(CUDA, 1000, 500_000_000, 1000, None, taking(MIB)).micro_tokens == 2048


def test_chunks_of_the_loss_are_bounded_by_bytes(card: Callable[[float], None]) -> None:
    card(70)
    for vocabulary, positions in (
        (32_000, 1024),
        (49_152, 1024),
        (128_256, 256),
        (262_144, 128),
        (1000, 4096),
    ):
        plan = training_plan(CUDA, vocabulary, 0, 1000, None, taking(MIB))
        assert plan.loss_positions == positions
        assert positions == 128 or 10 * vocabulary * positions <= 2**29


def test_the_users_plan_is_used_without_measuring(card: Callable[[float], None]) -> None:
    card(70)

    def measure(tokens: int) -> int:
        raise AssertionError("measured all the same")

    assert training_plan(CUDA, 1000, 0, 1000, 777, measure).micro_tokens == 777
    assert training_plan(torch.device("cpu"), 1000, 0, 1000, None, measure) == MemoryPlan(
        1024, 128, 1000
    )
    assert training_plan(torch.device("cpu"), 1000, 0, 1000, 96, measure).micro_tokens == 96


@pytest.mark.parametrize("fits", [0, 200, 600, 1500])
def test_where_a_measured_step_does_not_fit_smaller_ones_are_measured(
    card: Callable[[float], None], fits: int
) -> None:
    card(1)
    tried: list[int] = []

    def measure(tokens: int) -> int:
        tried.append(tokens)
        if tokens > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return tokens * MIB

    plan = training_plan(CUDA, 128_256, 0, 1000, None, measure)
    assert tried[:1] == [512] and len(tried) <= 9
    if fits < 512:
        assert plan == MemoryPlan(256, 256, 1000, 2**30, None)
        assert (
            plan.describe()
            == "micro-packs of 256 tokens, loss chunks of 256 positions, 1,000 tokens in generation"
        )
    else:
        assert plan == MemoryPlan(512, 256, 1000, 2**30, MIB)

    def broken(tokens: int) -> int:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        training_plan(CUDA, 128_256, 0, 1000, None, broken)


def test_free_memory_counts_what_pytorch_holds_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (10, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device=None: 7)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device=None: 4)
    assert memory_plan.free_memory(CUDA) == 13
    assert memory_plan.free_memory(torch.device("cpu")) == hardware.memory() // 2


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_measuring_a_step_changes_nothing(dropout: float) -> None:
    model = with_lora(build("Llama"), lora_dropout=dropout)
    model.get_base_model().set_attn_implementation(NAME)
    results = []
    for measured in (False, True):
        torch.manual_seed(3)
        objective = Objective(model.eval(), micro_tokens=40, workers=1, seed=5)
        if measured:
            # on a CPU nothing is counted; the model has 64 positions and 96 tokens
            assert objective.peak_of_a_step(600) == 0
            assert not any(module.training for module in model.modules())
        model.train()
        results.append((*objective.gradients(rows()), torch.rand(3)))
    (loss, gradients, drawn), (again, same, as_before) = results
    assert (
        torch.equal(loss, again)
        and torch.equal(drawn, as_before)
        and all(map(torch.equal, gradients, same))
    )


def running_out(calls: list[int], fails: Callable[[int], bool]) -> Callable[..., Any]:
    """Return ``pack_rows`` that runs out of memory where ``fails(number of the call)``; ``calls``
    gets the rows of each call.
    """

    def failing(some: Any, *args: Any, **options: Any) -> Any:
        calls.append(len(some))
        if fails(len(calls)):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.50 GiB")
        return pack_rows(some, *args, **options)

    return failing


@pytest.mark.parametrize(("workers", "checkpointing"), [(1, False), (2, False), (1, True)])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_step_that_does_not_fit_is_computed_again_in_halves(
    workers: int,
    checkpointing: bool,
    dropout: float,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = with_lora(build("Llama"), lora_dropout=dropout).train()
    model.get_base_model().set_attn_implementation(NAME)
    options: dict[str, Any] = {"workers": workers, "checkpointing": checkpointing, "seed": 5}
    torch.manual_seed(1)
    with Objective(model, micro_tokens=32, **options) as objective:
        expected, expected_gradients = objective.gradients(rows())
        later = objective.gradients(rows(3))
    calls: list[int] = []
    monkeypatch.setattr(
        micro_pack_loss, "pack_rows", running_out(calls, lambda number: number == 2)
    )
    torch.manual_seed(1)
    with Objective(model, micro_tokens=64, **options) as objective:
        loss, gradients = objective.gradients(rows())
        assert objective.micro_tokens == 32
        after = objective.gradients(rows(3))
    assert torch.equal(loss, expected) and all(map(torch.equal, gradients, expected_gradients))
    assert torch.equal(after[0], later[0]) and all(map(torch.equal, after[1], later[1]))
    printed = capsys.readouterr().out
    assert "out of memory: micro-packs of 32 tokens from here on instead of 64" in printed
    assert "trainer.micro_tokens=32" in printed


def test_a_run_ends_if_halved_micro_packs_do_not_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = with_lora(build("Llama"))
    model.get_base_model().set_attn_implementation(NAME)
    objective = Objective(model, micro_tokens=64, workers=1)
    monkeypatch.setattr(micro_pack_loss, "pack_rows", running_out([], lambda number: True))
    with pytest.raises(torch.OutOfMemoryError):
        objective.gradients(rows())
    assert objective.micro_tokens == 32
    with pytest.raises(torch.OutOfMemoryError):
        objective.loss(rows())
    assert objective.micro_tokens == 32  # halved once


def test_a_validation_that_does_not_fit_is_computed_again_in_halves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = with_lora(build("Llama"))
    model.get_base_model().set_attn_implementation(NAME)
    expected = Objective(model, micro_tokens=32, workers=1).loss(rows())
    monkeypatch.setattr(micro_pack_loss, "pack_rows", running_out([], lambda number: number == 1))
    assert torch.equal(Objective(model, micro_tokens=64, workers=1).loss(rows()), expected)


def test_copies_of_a_prefix_in_attention_are_counted() -> None:
    shared, many = 100, 40
    some = [
        Encoded((*range(shared), number, 5, 6), (*[False] * (shared + 1), True, True))
        for number in range(many)
    ]
    assert len(micro_packs(some, shared + 3 * many, 1, shared)) == 1
    packs = micro_packs(some, shared + 3 * many, 1, shared, copied=0.05)
    assert len(packs) > 1 and sum(map(len, packs)) == many
    budget = shared + 3 * many
    assert all(
        (shared if number == 0 else 0) + len(pack) * (3 + 5) <= budget
        for number, pack in enumerate(packs)
    )
    eight_b = transformers.LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_attention_heads=32, num_key_value_heads=8
    )
    assert 0.02 < memory_plan.prefix_share(eight_b) < 0.05  # 4 KiB of about 110 in a layer
    model = with_lora(build("Llama"))
    model.get_base_model().set_attn_implementation(NAME)
    assert Objective(model, micro_tokens=64, workers=1).copied == 0  # on a CPU nothing is copied


def test_memory_for_scoring_references_is_reserved(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_plan, "cpu_count", lambda: 1)
    taken = memory_plan.bytes_per_generated_token(model.config, 4)
    logits = 2 * memory_plan.SCORED_TOKENS * model.config.vocab_size * 4
    for free, remaining in ((10 * logits, 9 * logits), (logits, logits / 2)):
        monkeypatch.setattr(
            memory_plan, "free_memory", lambda device, free=free: int(free / 0.8) + 1
        )
        assert memory_plan.generation_tokens(model) == pytest.approx(remaining / taken, rel=1e-3)


def test_the_measured_plan_is_used(card: Callable[[float], None]) -> None:
    """The chunks of the loss are planned before a step is measured; another adapter is measured
    separately.
    """
    card(30)
    model = with_lora(build("Llama"))
    model.get_base_model().set_attn_implementation(NAME)
    seen: list[int] = []
    plans: dict[str, MemoryPlan] = {}

    def plan_of(*settings: str) -> MemoryPlan:
        objective = Objective(model, micro_tokens=1024, workers=1)
        objective.peak_of_a_step = lambda tokens: (
            seen.append(objective.loss_positions) or tokens * MIB
        )  # type: ignore[method-assign, func-returns-value]

        def shared(name: str, make: Callable[[], MemoryPlan]) -> MemoryPlan:
            if name not in plans:
                plans[name] = make()
            return plans[name]

        resources: Any = SimpleNamespace(shared=shared)
        plan = plan_memory(objective, compose("model=tiny", *settings), CUDA, None, resources)
        assert (
            objective.micro_tokens == plan.micro_tokens
            and objective.loss_positions == plan.loss_positions
        )
        return plan

    first = plan_of("adapter.r=4")
    assert first.micro_tokens == 16384 and set(seen) == {first.loss_positions} == {4096}
    assert plan_of("adapter.r=4", "optimizer.lr=0.1") is first
    assert plan_of("adapter.r=64") is not first and len(plans) == 2


# ------------------------------------------------------------------------- through the command line
def environment_of(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "environment.json").read_text())
    return content


def losses(run: Path) -> list[str]:
    return [line.split(",")[2] for line in (run / "history.csv").read_text().splitlines()]


def test_the_plan_is_recorded_and_can_be_set(hydratune: Command, tmp_path: Path) -> None:
    code, text = hydratune("train", *SMALL, f"hydra.run.dir={tmp_path}/run")
    assert code == 0, text
    plan = environment_of(tmp_path / "run")["memory_plan"]
    assert plan["micro_tokens"] == 1024 and plan["loss_positions"] == 128 and plan["free"] is None
    assert plan["generation_tokens"] > 1000
    code, text = hydratune(
        "train",
        *SMALL,
        "trainer.micro_tokens=96",
        "evaluation.batch_tokens=500",
        f"hydra.run.dir={tmp_path}/set",
        "resume=never",
    )
    assert code == 0, text
    plan = environment_of(tmp_path / "set")["memory_plan"]
    assert plan["micro_tokens"] == 96 and plan["generation_tokens"] == 500


@pytest.mark.fault(
    "memory runs out in a step or while answers are written",
    seen="a line that sizes are halved",
    kept="the run, which continues",
)
@pytest.mark.slow
def test_a_run_continues_after_it_ran_out_of_memory(
    hydratune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = (*SMALL, "trainer.max_steps=4")
    code, text = hydratune(
        "train", *options, "trainer.micro_tokens=256", f"hydra.run.dir={tmp_path}/small"
    )
    assert code == 0, text
    monkeypatch.setattr(micro_pack_loss, "pack_rows", running_out([], lambda number: number == 1))
    code, text = hydratune(
        "train", *options, "trainer.micro_tokens=512", f"hydra.run.dir={tmp_path}/run"
    )
    assert code == 0, text
    assert "out of memory: micro-packs of 256 tokens from here on instead of 512" in text
    assert losses(tmp_path / "run") == losses(tmp_path / "small")
    assert environment_of(tmp_path / "run")["memory_plan"]["micro_tokens"] == 256


def test_a_run_that_never_fits_says_what_helps(
    hydratune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(micro_pack_loss, "pack_rows", running_out([], lambda number: True))
    code, text = hydratune("train", *SMALL, f"hydra.run.dir={tmp_path}/run")
    assert code == 1
    assert (
        "out of memory (1.50 GiB more were needed); what helps: smaller trainer.micro_tokens"
        in text
        and "Traceback" not in text
    )
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "failed"


@pytest.mark.parametrize(
    ("key", "value"), [("trainer.micro_tokens", 3), ("evaluation.batch_tokens", 0)]
)
def test_impossible_sizes_are_refused(hydratune: Command, key: str, value: int) -> None:
    code, text = hydratune("train", *SMALL, f"{key}={value}")
    assert code == 2 and f"{key} = {value}" in text and "must be at least" in text
