import random
from typing import Any

import torch

from hydratune.training.module import FineTuning
from hydratune.training.objective import Objective
from hydratune.training.optimizers.adamw import AdamWOptimizer


def test_loading_a_checkpoint_restores_the_random_state(model: Any) -> None:
    module = FineTuning(model, Objective(model, micro_tokens=64, workers=1), AdamWOptimizer(), 1)
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    drawn = random.random(), torch.rand(3).tolist()
    assert (random.random(), torch.rand(3).tolist()) != drawn
    module.on_load_checkpoint(checkpoint)
    assert (random.random(), torch.rand(3).tolist()) == drawn
