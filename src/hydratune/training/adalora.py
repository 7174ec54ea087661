"""What AdaLoRA does around the optimizer step (arXiv:2303.10512).

The gradient of an orthogonal regularisation is added before it, and ranks are allocated after it.
"""

import lightning
import torch
from peft import PeftModel

from hydratune.models.compute import nothing_refused


class RankAllocation(lightning.Callback):
    """Adds the gradient of the regularisation once per optimizer step, and allocates ranks then."""

    def __init__(self, model: PeftModel) -> None:
        self.model = model
        self.weight: float = model.peft_config[model.active_adapter].orth_reg_weight
        self.factors = {
            name: p
            for name, p in model.named_parameters()
            if ".lora_A." in name or ".lora_B." in name
        }

    def on_before_optimizer_step(self, *args: object) -> None:
        if self.weight == 0:
            return
        with torch.enable_grad():
            factors = [p if ".lora_A." in name else p.t() for name, p in self.factors.items()]
            penalty = self.weight * orthogonality(factors)
            gradients = torch.autograd.grad(penalty, list(self.factors.values()))
        for parameter, gradient in zip(self.factors.values(), gradients, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(gradient)

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: object) -> None:
        if trainer.fit_loop.epoch_loop._should_accumulate():
            return
        # it finds a k-th smallest value, of which only the index is not deterministic on a GPU;
        # it reads the gradients of the step that was just taken
        with nothing_refused():
            self.model.base_model.update_and_allocate(trainer.global_step)


def orthogonality(factors: list[torch.Tensor]) -> torch.Tensor:
    """Return the mean Frobenius distance of F F' from the identity (equation 4), as PEFT does.

    ``factors``: each of shape (r, width).
    """
    distances = [
        torch.linalg.norm(f @ f.t() - torch.eye(f.shape[0], dtype=f.dtype, device=f.device))
        for f in factors
    ]
    return torch.stack(distances).mean()
