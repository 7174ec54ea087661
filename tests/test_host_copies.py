"""A training step on a GPU does not synchronise with the host: shown on meta tensors, from which no
number can be read.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from conftest import SMALL
from hydratune.console import progress
from hydratune.data.datamodule import Batch
from hydratune.data.encoding.encoded import Encoded
from hydratune.models import varlen
from hydratune.models.attention import NAME
from hydratune.models.compute import to_device
from hydratune.records.run_directory import RunDirectory
from hydratune.settings.monitor import Monitor
from hydratune.training import history as recording
from hydratune.training import trainer as training_loop
from hydratune.training.answer_validation import AnswerValidation
from hydratune.training.history import History, OptimizerStep
from hydratune.training.module import FineTuning
from hydratune.training.objective import Objective
from hydratune.training.optimizers.adamw import AdamWOptimizer
from hydratune.training.task import Measured
from hydratune.training.watchdog import Watchdog
from run_files import history
from small_models import build, rows, rows_with_prefix, with_lora
from test_watchdog import TOO_FAST

Command = Callable[..., tuple[int, str]]
READS = {
    "aten._local_scalar_dense.default",
    "aten.nonzero.default",
    "aten.masked_select.default",
    "aten.equal.default",
    "aten.item.default",
}


class Counted(TorchDispatchMode):
    """Counts operations, and copies to the device, that make the host wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []
        self.blocking_copies = 0
        self.operations = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        self.operations += 1
        source = args[0] if args and isinstance(args[0], torch.Tensor) else None
        target = kwargs.get("device")
        # AdamW counts its steps on the host
        on_device = source is not None and source.device.type == "meta"
        if str(function) in READS and on_device:
            self.reads.append(str(function))
        elif str(function) == "aten._to_copy.default" and source is not None and target is not None:
            if on_device and target.type != "meta":
                self.reads.append("copy to the host")
            self.blocking_copies += (
                source.device.type == "cpu"
                and target.type == "meta"
                and not kwargs.get("non_blocking")
            )
        return function(*args, **kwargs)


def on_meta(model: Any, objective: Objective) -> None:
    """Move a model that ``objective`` was made for to meta tensors. What is computed once on a CPU,
    at construction, is available by then.
    """
    model.to("meta")
    objective.micro_pack_loss.head = model.get_base_model().lm_head.weight
    objective._parameters = None
    objective.lora_weights = [p for p in model.parameters() if p.requires_grad]


def steps_on_meta(
    examples: list[Encoded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: bool
) -> tuple[Counted, History]:
    """Run three optimizer steps as Lightning does: forward, backward, history, watchdog, clipping,
    AdamW.
    """
    enabled = torch.is_autocast_enabled
    monkeypatch.setattr(
        torch, "is_autocast_enabled", lambda kind="cuda": kind != "meta" and enabled(kind)
    )
    model = with_lora(build("Llama"))
    if half:
        model = model.to(torch.bfloat16)
    model.get_base_model().set_attn_implementation(NAME)
    objective = Objective(model, micro_tokens=60, workers=1)
    on_meta(model, objective)
    if half:  # the kernel for rows of uneven length has an implementation for meta tensors
        monkeypatch.setattr(varlen, "supports", lambda query, *_: query.dtype == torch.bfloat16)
    module = FineTuning(model, objective, AdamWOptimizer(), 3)
    optimizer = module.configure_optimizers()["optimizer"]
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(_should_accumulate=lambda: False))
    trainer = SimpleNamespace(
        accumulate_grad_batches=1,
        world_size=1,
        global_step=0,
        logger=None,
        fit_loop=loop,
        strategy=SimpleNamespace(reduce=lambda x, reduce_op: x),
    )
    module._trainer = trainer
    monkeypatch.setattr(recording, "_SECONDS_UNREAD", 1e9)
    batch = Batch(
        tuple(examples), sum(row.supervised for row in examples), tuple(range(len(examples)))
    )
    model.train()
    with progress("", 3, quiet=True) as ticker, Counted() as counted:
        history = History(RunDirectory(tmp_path), ticker, 3, at_once=False)
        watchdog = Watchdog(history, 5.0)
        for step in range(3):
            module.training_step(batch, step).backward()
            history.on_before_optimizer_step(trainer, module, optimizer)
            watchdog.on_before_optimizer_step(trainer, module, optimizer)
            torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            trainer.global_step += 1
            history.on_train_batch_end(trainer, module)
            watchdog.on_train_batch_end(trainer, module)
    return counted, history


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_a_training_step_reads_nothing_from_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool, half: bool
) -> None:
    monkeypatch.setattr("hydratune.training.plan.LEAST_SAVED", 8)
    counted, history = steps_on_meta(
        rows_with_prefix([5, 6, 7, 8, 9]) if shared else rows(), tmp_path, monkeypatch, half
    )
    assert counted.operations > 500
    assert counted.reads == [] and counted.blocking_copies == 0
    assert [step.number for step in history.pending] == [1, 2, 3] and not history.rows
    assert all(
        step.loss.device.type == "meta"
        for step in history.pending
        if isinstance(step.loss, torch.Tensor)
    )


def test_the_counter_counts_reads_from_the_device() -> None:
    x = torch.ones(3, device="meta")
    with Counted() as counted:
        torch.ones(3).to("meta")
        assert counted.blocking_copies == 1
        torch.ones(3).to("meta", non_blocking=True)
        assert counted.blocking_copies == 1
        for read in (x.cpu, x.nonzero, lambda: x[0].item()):
            with pytest.raises((NotImplementedError, RuntimeError)):
                read()
    assert len(counted.reads) >= 2


def test_lists_are_sent_in_one_copy() -> None:
    with Counted() as counted:
        first, second, third = to_device([[1, 2, 3], [], [4]], torch.device("meta"))
    assert [len(part) for part in (first, second, third)] == [3, 0, 1] and third.dtype == torch.long
    assert counted.blocking_copies == 0
    assert [part.tolist() for part in to_device([[1, 2, 3], [], [4]], None)] == [[1, 2, 3], [], [4]]


def casts(objective: Objective, examples: list[Encoded]) -> int:
    """Return the number of fp32 -> bf16 casts of single tensors in one call of ``gradients``."""
    with (
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile,
        torch.autocast("cpu", torch.bfloat16),
    ):
        objective.gradients(examples)
    return sum(event.count for event in profile.key_averages() if event.key == "aten::_to_copy")


def test_only_the_main_process_answers_and_every_rank_monitors_its_metrics() -> None:
    sent: list[Any] = []
    of_main = {"val/field_f1": Measured(0.25, (0.1, 0.4))}
    shown: list[dict[str, float]] = []
    record: Any = SimpleNamespace(
        rows=[{"step": 2}],
        write=lambda trainer: None,
        count_as_answering=lambda seconds: None,
        ticker=SimpleNamespace(advance=lambda *counts, **numbers: shown.append(numbers)),
    )
    monitor = Monitor("val/field_f1", lower=False)
    callback = AnswerValidation(
        lambda step: pytest.fail("only the main process answers"), {2}, record, monitor
    )
    strategy = SimpleNamespace(broadcast=lambda values: (sent.append(values), of_main)[1])
    for step in (1, 2):
        trainer: Any = SimpleNamespace(
            global_step=step,
            is_global_zero=False,
            world_size=2,
            strategy=strategy,
            callback_metrics={},
            logger=None,
        )
        callback.on_validation_end(trainer, torch.nn.Linear(1, 1))  # type: ignore[arg-type]
    # also at the first one, which is not planned: every validation is judged by the metric
    assert sent == [{}, {}] and float(trainer.callback_metrics["val/field_f1"]) == 0.25
    assert record.rows == [{"step": 2, "val/field_f1": 0.25}]
    assert shown == [{"validation field F1": 0.25}] * 2


def test_the_weights_of_adapters_are_cast_together(monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_lora(build("Llama").to(torch.bfloat16))
    model.get_base_model().set_attn_implementation(NAME)
    objective = Objective(model, micro_tokens=40, workers=1)
    packs = len(objective.plan(rows()))
    assert packs > 1
    together = casts(objective, rows())
    with torch.autocast("cpu", torch.bfloat16):
        loss, gradients = objective.gradients(rows())
    objective.lora_weights = []  # each is cast where it is used
    assert casts(objective, rows()) - together == packs * len(objective.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        again, same = objective.gradients(rows())
    assert torch.equal(loss, again) and all(map(torch.equal, gradients, same))
    assert {gradient.dtype for gradient in gradients} == {torch.float32}


# ------------------------------------------------------------------- what is read later is the same
@pytest.fixture
def read_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: losses are read at a validation or a checkpoint."""

    def later(*args: Any, at_once: bool) -> History:
        assert at_once  # on a CPU
        return History(*args, at_once=False)

    monkeypatch.setattr(training_loop, "History", later)
    monkeypatch.setattr(recording, "_SECONDS_UNREAD", 1e9)


LONGER = [*SMALL, "trainer.max_steps=8", "trainer.max_epochs=4", "trainer.validations_per_epoch=1"]


@pytest.mark.slow
def test_history_does_not_depend_on_when_losses_are_read(
    hydratune: Command, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    code, text = hydratune(
        "train", *LONGER, f"hydra.run.dir={tmp_path}/at_once", "evaluation.validate_every=1"
    )
    assert code == 0, text
    request.getfixturevalue("read_later")
    reads: list[int] = []
    read = OptimizerStep.read
    request.getfixturevalue("monkeypatch").setattr(
        OptimizerStep, "read", lambda steps: (reads.append(len(steps)), read(steps))
    )
    code, text = hydratune(
        "train", *LONGER, f"hydra.run.dir={tmp_path}/later", "evaluation.validate_every=1"
    )
    assert code == 0, text
    assert (
        history(tmp_path / "later") == history(tmp_path / "at_once")
        and len(history(tmp_path / "later")) == 8
    )
    assert sum(reads) == 8 and len(reads) < 8
    names = ("val/loss", "train/loss", "cost/tokens")
    metrics = [
        json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("at_once", "later")
    ]
    assert [metrics[0][name] for name in names] == [metrics[1][name] for name in names]


def test_a_loss_that_is_read_later_still_ends_the_run(
    hydratune: Command, tmp_path: Path, read_later: None
) -> None:
    code, text = hydratune("train", *LONGER, *TOO_FAST, f"hydra.run.dir={tmp_path}/run")
    assert code == 1
    assert "training was stopped after step 2 of 8: at step 2, the loss is" in text
    assert "rows of this step: " in text and "kept: " in text
    assert not (
        tmp_path / "run" / "checkpoints" / "best.ckpt"
    ).exists()  # no diverged weights are saved
    assert not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
