"""What AdaLoRA does around the optimizer step (arXiv:2303.10512): orthogonal regularisation before,
ranks after.
"""

from typing import Any

import lightning
import torch
from peft import PeftModel, PeftType

from hydratune.models.compute import nothing_refused


def rank_allocation(model: Any) -> list[lightning.Callback]:
    """The callback that AdaLoRA needs; nothing for any other method."""
    is_adalora = (
        isinstance(model, PeftModel)
        and model.peft_config[model.active_adapter].peft_type == PeftType.ADALORA
    )
    return [RankAllocation(model)] if is_adalora else []


class RankAllocation(lightning.Callback):
    """Adds the regularisation's gradient once per optimizer step, and deals out the ranks after it."""  # noqa: E501

    def __init__(self, model: Any) -> None:
        self.model = model
        self.weight = model.peft_config[model.active_adapter].orth_reg_weight
        self.factors = {
            name: p
            for name, p in model.named_parameters()
            if ".lora_A." in name or ".lora_B." in name
        }

    def on_before_optimizer_step(self, *args: Any) -> None:
        if self.weight == 0:
            return
        with torch.enable_grad():
            thin = [p if ".lora_A." in name else p.t() for name, p in self.factors.items()]
            gradients = torch.autograd.grad(
                self.weight * orthogonality(thin), list(self.factors.values())
            )
        for parameter, gradient in zip(self.factors.values(), gradients, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(gradient)

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        if not trainer.fit_loop.epoch_loop._should_accumulate():
            # the k-th smallest value, whose index alone is not deterministic on a GPU
            with nothing_refused():
                self.model.base_model.update_and_allocate(
                    trainer.global_step
                )  # reads the gradients of the step just taken


def orthogonality(factors: list[torch.Tensor]) -> torch.Tensor:
    """Mean Frobenius distance of F F' from the identity (equation 4), as PEFT computes it; each
    factor (r, width).
    """
    distances = [
        torch.linalg.norm(f @ f.t() - torch.eye(f.shape[0], dtype=f.dtype, device=f.device))
        for f in factors
    ]
    return torch.stack(distances).mean()
