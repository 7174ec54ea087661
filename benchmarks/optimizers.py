"""Train every optimizer on the real model: its loss, its memory, and whether a checkpoint is exact.

    python benchmarks/optimizers.py    every config of conf/optimizer that works on this machine
    python benchmarks/optimizers.py adamw lion trainer.max_steps=40 adapter=none optimizer.lr=2e-5

Words without "=" are optimizers, the others are settings of `hydratune train` for all of them. Each
begins with the same model and the same rows: the built-in contracts, 4 a step. The last column is
the largest difference of any parameter between going on for one step and going on from a file; 0
means that not a bit is lost.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import hydra
import lightning
import torch

from hydratune import composition
from hydratune.adapters import attach
from hydratune.cores import cpu_count
from hydratune.data.datamodule import OptimizerBatches
from hydratune.data.encoding.encoded import Encoded
from hydratune.errors import ConfigError, refuse
from hydratune.experiment.prepare import prepare
from hydratune.models import hardware
from hydratune.models.memory_plan import CPU_MICRO_TOKENS
from hydratune.settings.commands import TrainConfig
from hydratune.settings.registry import typed
from hydratune.training import schedules
from hydratune.training.joint_optimizer import JointOptimizer
from hydratune.training.objective import Objective
from hydratune.training.parameter_groups import build_optimizer
from hydratune.training.patches import with_lean_layers

ROWS = (
    "data.batch_size=4",
    "data.max_validation_rows=20",
    "data.max_test_rows=2",
    "trainer.max_steps=20",
    "evaluation.baselines=[]",
)
ONLY_FULL = {"muon": ["adapter=none"]}  # what an optimizer cannot do without


def compose(overrides: list[str]) -> TrainConfig:
    """The settings of ``hydratune train`` with ``overrides``, checked."""
    composition.register()
    with hydra.initialize_config_dir(str(composition.CONF), version_base="1.3"):
        settings = typed(hydra.compose("train", ["name=benchmark", *ROWS, *overrides]), TrainConfig)
    settings.check()
    return settings


def batches(rows: list[Encoded], settings: TrainConfig) -> Iterator[list[Encoded]]:
    """The rows of one optimizer step after the other, in the order of a run."""
    sampler = OptimizerBatches(
        [row.supervised for row in rows], settings.data.batch_size, 1, settings.seed
    )
    for epoch in count():
        sampler.set_epoch(epoch)
        for numbers, _ in sampler:
            yield [rows[number] for number in numbers]


def validation_loss(objective: Objective, rows: list[Encoded]) -> float:
    """Per trained token."""
    return objective.loss(rows).item() / sum(row.supervised for row in rows)


def step(
    objective: Objective, optimizer: torch.optim.Optimizer, rows: list[Encoded], clip: float | None
) -> None:
    """As the LightningModule does it, without Lightning."""
    _, gradients = objective.gradients(rows)
    parameters = objective.parameters()
    for parameter, gradient in zip(parameters, gradients, strict=True):
        mean = gradient / sum(row.supervised for row in rows)
        # as autograd would: fused AdamW reads memory in the order of the parameter
        parameter.grad = mean.contiguous()
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(parameters, clip)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads if isinstance(optimizer, JointOptimizer) else 1)
    optimizer.step()
    torch.set_num_threads(threads)


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Of every tensor that the optimizer keeps, shared ones once."""
    tensors = [
        v
        for state in optimizer.state.values()
        for v in state.values()
        if isinstance(v, torch.Tensor)
    ]
    return sum(
        {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values()
    )


def measure(name: str, overrides: list[str]) -> dict[str, Any]:
    """One line of the table."""
    settings = compose([f"optimizer={name}", *ONLY_FULL.get(name, []), *overrides])
    accelerator = hardware.accelerator(settings)
    refuse(settings.optimizer.accelerator_problems(accelerator))
    job = prepare(settings)
    lightning.seed_everything(settings.seed, verbose=False)
    model = with_lean_layers(attach.add_adapter(job.model, settings.adapter))
    workers = cpu_count() if accelerator == "cpu" else 1
    total, clip = settings.trainer.max_steps or 20, settings.trainer.gradient_clip_val
    with Objective(
        model, micro_tokens=settings.trainer.micro_tokens or CPU_MICRO_TOKENS, workers=workers
    ) as objective:
        optimizer = build_optimizer(model, settings.optimizer)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, schedules.learning_rate_factor(settings.optimizer, total + 1)
        )
        before = validation_loss(objective, job.validation)
        order, seconds = batches(job.train, settings), 0.0
        model.train()
        for _ in range(total):
            rows, start = next(order), time.perf_counter()
            step(objective, optimizer, rows, clip)
            schedule.step()
            seconds += time.perf_counter() - start
        model.eval()
        after = validation_loss(objective, job.validation)
        model.train()
        kept, rows = state_bytes(optimizer), next(order)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "checkpoint"
            torch.save(
                {
                    "weights": [p.detach() for p in objective.parameters()],
                    "optimizer": optimizer.state_dict(),
                },
                file,
            )
            size = file.stat().st_size
            step(objective, optimizer, rows, clip)
            went_on = [p.detach().clone() for p in objective.parameters()]
            stored = torch.load(file, weights_only=True)
        with torch.no_grad():
            for parameter, weight in zip(objective.parameters(), stored["weights"], strict=True):
                parameter.copy_(weight)
        loaded = build_optimizer(model, settings.optimizer)
        loaded.load_state_dict(stored["optimizer"])
        step(objective, loaded, rows, clip)
        difference = max(
            (p - q).abs().max().item() for p, q in zip(objective.parameters(), went_on, strict=True)
        )
    return {
        "optimizer": name,
        "adapter": getattr(settings.adapter, "method", ""),
        "lr": settings.optimizer.lr,
        "trained": attach.count_parameters(model)[0],
        "before": before,
        "after": after,
        "state_bytes": kept,
        "file_bytes": size,
        "seconds_per_step": seconds / total,
        "reload_difference": difference,
    }


def main(words: list[str]) -> None:
    overrides = [word for word in words if "=" in word]
    names = [word for word in words if "=" not in word] or sorted(
        file.stem for file in (composition.CONF / "optimizer").glob("*.yaml")
    )
    lines, found = [], []
    for name in names:
        try:
            row = measure(name, overrides)
        except ConfigError as error:
            lines.append(
                f"| {name} | refused: {'; '.join(problem.why for problem in error.problems)} |"
                + " |" * 7
            )
            continue
        found.append(row)
        lines.append(
            f"| {name} | {row['adapter']} | {row['lr']:g} | {row['trained']:,} |"
            f" {row['before']:.4f} -> {row['after']:.4f} | {row['state_bytes'] / 1e6:.1f} MB |"
            f" {row['file_bytes'] / 1e6:.1f} MB | {row['seconds_per_step']:.2f} |"
            f" {row['reload_difference']:.1e} |"
        )
        print(json.dumps(row), flush=True)
    print(
        "| optimizer | adapter | lr | trained | val loss before -> after | state | file | s/step |"
        " reload difference |"
    )
    print("|---|---|---|---|---|---|---|---|---|", *lines, sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
