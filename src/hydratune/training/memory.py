"""How much of a run is computed at once: measured on a GPU, the same on every CPU."""

import torch

from hydratune.data.rows import stable_hash
from hydratune.models.memory_plan import (
    MemoryPlan,
    generation_tokens,
    loss_positions,
    training_plan,
)
from hydratune.settings.commands import TrainConfig
from hydratune.settings.registry import plain
from hydratune.training import ddp
from hydratune.training.objective import Objective
from hydratune.training.protocols import SharedResources
from hydratune.training.task import Checkpoint


def plan_memory(
    objective: Objective,
    config: TrainConfig,
    device: torch.device,
    checkpoint: Checkpoint | None,
    resources: SharedResources,
) -> MemoryPlan:
    """Return how much is computed at once, and have ``objective`` do so; a resumed run keeps the
    size that it had.

    Runs of one process on the same device share the plan.
    """
    before = checkpoint["ranks"][ddp.rank()]["micro_tokens"] if checkpoint is not None else None
    micro_tokens = config.trainer.micro_tokens or before

    def measure(tokens: int) -> int:
        with objective:
            return objective.peak_of_a_step(tokens)

    def make() -> MemoryPlan:
        vocabulary = objective.model.config.get_text_config().vocab_size
        objective.loss_positions = loss_positions(device, vocabulary)
        trained = sum(p.numel() for p in objective.parameters())
        answers = config.evaluation.batch_tokens or generation_tokens(objective.model)
        return training_plan(device, vocabulary, trained, answers, micro_tokens, measure)

    key = stable_hash(
        [
            micro_tokens,
            plain(config.adapter),
            config.trainer.gradient_checkpointing,
            config.evaluation.batch_tokens,
        ]
    )
    plan = resources.shared(f"memory plan {key}", make)
    objective.micro_tokens, objective.loss_positions = plan.micro_tokens, plan.loss_positions
    return plan
