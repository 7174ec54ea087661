"""Micro-packs of several trials in one pass: every trial gets what it would have got alone."""

import copy
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from conftest import write_rows
from hydratune.adapters import attach
from hydratune.adapters.methods.ia3 import Ia3Adapter
from hydratune.adapters.methods.lora import LoraAdapter
from hydratune.data.encoding.encoded import Encoded
from hydratune.errors import Leaving
from hydratune.models.attention import NAME
from hydratune.records.run_directory import RunDirectory
from hydratune.sweeps.pack_resources import JobWorkers, PackResources
from hydratune.sweeps.watch import Heartbeat
from hydratune.sweeps.worker_pool import Task, WorkerPool
from hydratune.training.elementwise import EAGER
from hydratune.training.losses import PLAIN, LossShape
from hydratune.training.mergeable import MergeableBatch, MergingPool, Replica
from hydratune.training.merged import BaseReplica
from hydratune.training.objective import Objective
from hydratune.training.patches import with_lean_layers
from run_files import QUICK, assert_same_run, history
from small_models import ARCHITECTURES, SIZES, build, rows

ADAPTERS = {
    "all": LoraAdapter(r=4, lora_alpha=8),
    "few": LoraAdapter(r=2, lora_alpha=16, target_modules=["q_proj", "down_proj"], use_rslora=True),
    "dropout": LoraAdapter(r=8, lora_dropout=0.3),
    "attention": LoraAdapter(r=3, lora_dropout=0.2, target_modules=["k_proj", "v_proj", "o_proj"]),
    "strong dropout": LoraAdapter(r=4, lora_dropout=0.5),
    "top": LoraAdapter(r=4, layers_to_transform=[1]),
}


class Together(MergingPool):
    """Keeps the mergeable micro-packs of one call, and computes each by its own model."""

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


def own(base: Any) -> Any:
    return copy.deepcopy(
        base, {id(tensor): tensor for tensor in (*base.parameters(), *base.buffers())}
    )


def trial(base: Any, adapter: LoraAdapter, seed: int) -> Any:
    torch.manual_seed(seed)
    model = with_lean_layers(attach.add_adapter(own(base), adapter))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.train()


def batches_of(
    base: Any, names: Sequence[str], **options: Any
) -> tuple[BaseReplica, list[MergeableBatch], list[Any]]:
    """The replica, a micro-pack of every adapter, and (loss, gradients) of each alone."""
    replica = BaseReplica(own(base))
    batches, alone = [], []
    shapes = [PLAIN, LossShape(label_smoothing=0.1), LossShape(z_loss=1e-3)]
    for number, name in enumerate(names):
        pool = Together(replica)
        model = trial(base, ADAPTERS[name], number)
        objective = Objective(
            model,
            micro_tokens=512,
            workers=1,
            share=False,
            pool=pool,
            shape=shapes[number % 3],
            seed=number,
            **options,
        )
        alone.append(objective.gradients(rows(2 + number, seed=number)))
        (batch,) = pool.batches
        assert batch is not None
        batches.append(batch)
    return replica, batches, alone


def assert_same(result: Any, alone: Any, tolerance: float) -> None:
    (loss, gradients), (expected, wanted) = result, alone
    torch.testing.assert_close(loss.double(), expected.double(), rtol=tolerance, atol=0)
    for ours, theirs in zip(gradients, wanted, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(
            ours, theirs, rtol=tolerance, atol=tolerance * max(1e-3, theirs.abs().max().item())
        )


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
    """As in those of a worker pool."""
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
    # as wide as is asked for, keys and values included
    monkeypatch.setitem(SIZES, "hidden_size", 64)
    if "head_dim" in ARCHITECTURES[architecture]:
        monkeypatch.setitem(
            ARCHITECTURES, architecture, {**ARCHITECTURES[architecture], "head_dim": 16}
        )
    base = base_of(architecture)
    replica = BaseReplica(own(base), steadily=True)
    names = [
        name
        for name in ADAPTERS
        if architecture not in ("Phi3", "GPTNeoX") or name in ("all", "strong dropout")
    ]
    pools = [Together(replica) for _ in names]
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
            for number, (loss, found) in zip(
                order, replica.run([batches[number] for number in order]), strict=True
            ):
                expected, wanted = alone[number]
                assert torch.equal(loss, expected), names[number]
                assert len(found) == len(wanted) and all(map(torch.equal, found, wanted)), names[
                    number
                ]


def test_merged_differs_from_alone_by_rounding_only() -> None:
    """In float64 nothing else is left.

    Not with layer 1 alone: the norms of layer 0 are then transformers' own, in fp32.
    """
    replica, batches, alone = batches_of(
        base_of(dtype=torch.float64), ["all", "few", "dropout", "attention"]
    )
    for result, expected in zip(replica.run(batches), alone, strict=True):
        assert_same(result, expected, 1e-12)


def test_losses_without_gradients_are_plain_and_draw_nothing() -> None:
    base = base_of()
    replica, batches, expected = BaseReplica(own(base)), [], []
    for seed, name in enumerate(("dropout", "all")):
        pool = Together(replica)
        model = trial(base, ADAPTERS[name], seed).eval()
        objective = Objective(
            model, micro_tokens=512, workers=1, pool=pool, shape=LossShape(0.1, 0.1)
        )
        expected.append(objective.loss(rows(3, seed)))
        batches += pool.batches
    found = replica.run(batches)
    assert all(gradients == () and not loss.requires_grad for loss, gradients in found)
    torch.testing.assert_close(
        torch.stack([loss for loss, _ in found]), torch.stack(expected), rtol=1e-6, atol=0
    )


def test_two_micro_packs_of_one_trial_get_a_gradient_each() -> None:
    base = base_of()
    pool = Together(BaseReplica(own(base)))
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


def test_bf16_under_autocast_is_what_each_gets_alone() -> None:
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


# ------------------------------------------------------------------------------- what is mergeable
def offered_by(
    base: Any, adapter: Any, rows_: Sequence[Encoded] = (), **options: Any
) -> list[MergeableBatch | None] | None:
    """What an objective offers; None if it does not even ask."""
    pool = Together(BaseReplica(own(base)))
    model = with_lean_layers(attach.add_adapter(own(base), adapter))
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
    # PEFT keeps A and B in fp32: its own forward
    assert offered_by(base_of("Llama", torch.bfloat16), ADAPTERS["all"]) == [None]


def test_rows_behind_a_shared_prefix_are_not_mergeable() -> None:
    same = tuple(range(1, 60)) * 3
    alike = [
        Encoded((*same, number, 7), (False,) * (len(same) + 1) + (True,)) for number in range(8)
    ]
    others = rows(2)
    found = offered_by(base_of(), ADAPTERS["all"], [*alike, *others])
    assert found is not None and {
        len(batch.rows) if batch is not None else 0 for batch in found
    } == {0, 2}


def test_micro_packs_with_stored_states_are_not_mergeable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRATUNE_CACHE", str(tmp_path))
    base = base_of()
    pool = Together(BaseReplica(own(base)))
    objective = Objective(trial(base, ADAPTERS["top"], 0), micro_tokens=256, workers=1, pool=pool)
    assert objective.keep_bottom(rows(2), "base", 1e9, lambda *_: None) == 1
    objective.gradients(rows(2))
    assert pool.batches == [None]


def test_a_model_on_other_weights_is_not_mergeable() -> None:
    pool = Together(BaseReplica(base_of()))
    Objective(
        trial(base_of(), ADAPTERS["all"], 0), micro_tokens=256, workers=1, pool=pool
    ).gradients(rows(2))
    assert not hasattr(pool, "batches")


# ---------------------------------------------------------------------------------------- the queue
class Recorder:
    """Stands for a replica: remembers how many tokens each micro-pack of each pass had."""

    def __init__(self, error: Exception | None = None, seconds: float = 0.0) -> None:
        self.passes, self.error, self.seconds = list[list[int]](), error, seconds

    def run(self, batches: Sequence[MergeableBatch]) -> list[Any]:
        self.passes.append([batch.tokens for batch in batches])
        time.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return [("merged", batch.tokens) for batch in batches]


HEAD = torch.zeros(1)


def task(
    tokens: int,
    done: list[Any],
    *,
    small: bool = True,
    error: Exception | None = None,
    **options: Any,
) -> Task:
    batch = MergeableBatch(
        SimpleNamespace(first=""),
        [Encoded((1,) * (tokens + 1), (True,) * (tokens + 1))],
        PLAIN,
        HEAD,
        EAGER,
        None,
        True,
        None,
    )  # type: ignore[arg-type]

    def work() -> tuple[str, int]:
        done.append(tokens)
        if error is not None:
            raise error
        return "alone", tokens

    return Task(work, batch if small else None, **options)


@contextmanager
def busy_pool(
    replica: Any, merge_tokens: int = 80, workers: int = 1
) -> Iterator[tuple[WorkerPool, threading.Event]]:
    """A worker pool whose threads are all busy until the event is set."""
    pool, go = WorkerPool(workers, merge_tokens), threading.Event()
    pool.replica = replica
    for _ in range(workers):
        pool.submit([Task(go.wait)])
    while pool._queue:
        time.sleep(0.001)
    yield pool, go
    go.set()
    pool.close()


def test_small_micro_packs_that_wait_are_merged_and_the_rest_stays_in_order() -> None:
    replica, done = Recorder(), list[Any]()
    with busy_pool(replica) as (pool, go):
        first = [
            task(20, done),
            task(300, done),
            task(19, done),
            task(21, done),
            task(5, done, small=False),
            task(18, done),
        ]
        second = [task(17, done), task(16, done), task(400, done)]
        pool.submit(first)
        pool.submit(second)
        go.set()
        results = [t.future.result(10) for t in (*first, *second)]
    # 20 is a quarter of 80; 74 tokens, and 16 more are too many
    assert replica.passes == [[20, 19, 18, 17]] and done == [300, 21, 5, 16, 400]
    assert [how for how, _ in results] == [
        "merged",
        "alone",
        "merged",
        "alone",
        "alone",
        "merged",
        "merged",
        "alone",
        "alone",
    ]
    assert [tokens for _, tokens in results] == [20, 300, 19, 21, 5, 18, 17, 16, 400]
    assert (pool.merged, pool.micro_packs) == (4, 8)


def test_nothing_is_merged_where_nothing_waits_or_it_is_switched_off() -> None:
    for replica, limit in ((Recorder(), 80), (Recorder(), 0), (None, 80)):
        done = list[Any]()
        with busy_pool(replica, limit) as (pool, go):
            tasks = [task(5, done) for _ in range(3 if limit == 0 or replica is None else 1)]
            pool.submit(tasks)
            go.set()
            assert {t.future.result(10)[0] for t in tasks} == {"alone"}
        assert pool.merged == 0


def test_micro_packs_of_two_kinds_are_not_in_one_pass() -> None:
    replica, done = Recorder(), list[Any]()
    with busy_pool(replica) as (pool, go):
        tasks = [task(number, done) for number in range(3, 9)]
        for one in tasks[::2]:
            assert one.batch is not None
            one.batch = replace(one.batch, gradients=False)
        pool.submit(tasks)
        go.set()
    assert replica.passes == [[3, 5, 7], [4, 6, 8]] and not done


def test_threads_take_equal_parts() -> None:
    replica, done = Recorder(seconds=0.2), list[Any]()
    pool = WorkerPool(2, 80)
    pool.replica = replica  # type: ignore[assignment]
    while len(pool._tokens) < 2:
        time.sleep(0.001)
    tasks = [task(10, done) for _ in range(6)]
    pool.submit(tasks)
    pool.close()
    assert replica.passes == [[10] * 3] * 2


def test_where_a_pass_fails_each_is_computed_alone_and_only_the_wrong_one_fails(
    caplog: pytest.LogCaptureFixture,
) -> None:
    replica, done = Recorder(ValueError("a bad row")), list[Any]()
    with busy_pool(replica) as (pool, go):
        tasks = [task(5, done), task(6, done, error=ValueError("a bad row")), task(7, done)]
        pool.submit(tasks)
        go.set()
        assert tasks[0].future.result(10) == ("alone", 5) and tasks[2].future.result(10) == (
            "alone",
            7,
        )
        assert isinstance(tasks[1].future.exception(10), ValueError)
        assert pool.merge_tokens and not caplog.records
    done.clear()
    with busy_pool(replica) as (pool, go):  # no task was wrong: merging is not tried again
        tasks = [task(5, done), task(7, done)]
        pool.submit(tasks)
        go.set()
        assert [t.future.result(10) for t in tasks] == [("alone", 5), ("alone", 7)]
    assert (
        not pool.merge_tokens
        and "no longer computed together: ValueError: a bad row" in caplog.text
    )


def test_a_job_that_leaves_is_not_computed_and_time_is_divided_by_tokens() -> None:
    def leave() -> None:
        raise Leaving

    spent: dict[int, float] = {}
    done: list[Any] = []
    with busy_pool(Recorder()) as (pool, go):
        tasks = [task(n, done, count=partial(spent.__setitem__, n)) for n in (5, 15)]
        gone, cancelled = task(9, done, admit=leave), task(8, done)
        pool.submit([*tasks, gone, cancelled])
        cancelled.future.cancel()
        go.set()
        assert [t.future.result(10)[0] for t in tasks] == ["merged", "merged"]
        assert isinstance(gone.future.exception(10), Leaving)
    assert pool.merged == 2 and not done
    assert spent[15] == pytest.approx(3 * spent[5])


# -------------------------------------------------------------------------------------- a real pack
def test_trials_of_a_pack_share_passes_and_a_bad_row_is_its_trial_s_alone() -> None:
    base = base_of()
    resources = PackResources(1, 4096)
    heartbeat = Heartbeat(RunDirectory(Path("job")), resources.leave)
    objectives = []
    for seed, name in enumerate(("all", "dropout", "few")):
        model = trial(resources.own(base, heartbeat), ADAPTERS[name], seed)
        objectives.append(
            Objective(
                model,
                micro_tokens=512,
                workers=2,
                pool=JobWorkers(resources, heartbeat, threading.Event()),
                seed=seed,
            )
        )
    pool, parts = resources.workers, [rows(2 + seed, seed) for seed in range(3)]

    def together(parts: Sequence[list[Encoded]]) -> list[Future[Any]]:
        go = threading.Event()
        pool.submit([Task(go.wait)])
        with ThreadPoolExecutor(3) as threads:
            for objective in objectives:  # what they draw
                objective.generator.manual_seed(0)
            futures = [
                threads.submit(objective.gradients, part)
                for objective, part in zip(objectives, parts, strict=True)
            ]
            while len(pool._queue) < 6:
                time.sleep(0.001)
            go.set()
        return futures

    results = [future.result() for future in together(parts)]
    assert (pool.merged, pool.micro_packs) == (6, 6)
    pool.replica = None
    alone = [future.result() for future in together(parts)]
    assert pool.merged == 6
    for result, expected in zip(results, alone, strict=True):
        assert_same(result, expected, 1e-5)

    def no_replica() -> Any:
        return None

    pool.replica = resources.shared("replica", no_replica, heartbeat)
    outside = [Encoded((1, 96_000, 3, 4), (False, False, True, True))] * 2
    good, bad, also = together([parts[0], outside, parts[2]])
    assert isinstance(bad.exception(), IndexError)
    assert_same(good.result(), alone[0], 1e-5)
    assert_same(also.result(), alone[2], 1e-5)
    assert pool.merge_tokens
    pool.close()


@pytest.mark.slow  # six processes
@pytest.mark.parametrize("merge_tokens", [None, 8192])
def test_a_sweep_of_short_rows_is_computed_together_and_its_numbers_are_those_of_each_alone(
    hydratune: Callable[..., tuple[int, str]], tmp_path: Path, merge_tokens: int | None
) -> None:
    """To the last bit, unless passes are asked for wherever they can be."""
    pairs = [(a, b) for a in range(2, 9) for b in range(2, 9)]
    write_rows(
        tmp_path / "rows.jsonl",
        [{"prompt": f"{a} times {b}?", "completion": f"It is {a * b}."} for a, b in pairs],
    )
    sweep, words = (
        tmp_path / "sweep",
        [
            "data=files",
            f"data.train={tmp_path}/rows.jsonl",
            *(w for w in QUICK if not w.startswith("data=")),
        ],
    )
    words += ["data.batch_size=2", "data.max_train_rows=12"]
    merging = [] if merge_tokens is None else [f"hydra.launcher.merge_tokens={merge_tokens}"]
    code, text = hydratune(
        "train",
        "-m",
        *words,
        "adapter.r=2,8",
        "adapter.lora_dropout=0,0.2",
        *merging,
        f"hydra.sweep.dir={sweep}",
    )
    assert code == 0, text
    said = re.search(
        r"(\d+) of (\d+) micro-packs were computed together with others",
        (sweep / "pack.log").read_text(),
    )
    assert said is not None and 0 < int(said[1]) <= int(said[2])
    for number, trial_ in (
        ("0", ["adapter.r=2", "adapter.lora_dropout=0"]),
        ("3", ["adapter.r=8", "adapter.lora_dropout=0.2"]),
    ):
        code, text = hydratune("train", *words, *trial_, f"hydra.run.dir={tmp_path / number}")
        assert code == 0, text
        if merge_tokens is None:
            assert_same_run(sweep / number, tmp_path / number)
        ours, theirs = (
            [
                [float(row[c] or 0) for c in ("train/loss", "val/loss")]
                for row in history(f / number)
            ]
            for f in (sweep, tmp_path)
        )
        assert len(ours) == len(theirs) == 4
        for mine, wanted in zip(ours, theirs, strict=True):
            assert mine == pytest.approx(wanted, rel=1e-5)
