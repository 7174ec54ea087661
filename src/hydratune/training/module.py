"""The LightningModule: one optimizer step of one model."""

import random
from typing import TYPE_CHECKING, Any

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig

from hydratune.data.datamodule import Batch
from hydratune.settings.optimizer import OptimizerConfig
from hydratune.training import ddp
from hydratune.training.losses import with_gradients
from hydratune.training.objective import Objective
from hydratune.training.parameter_groups import build_optimizer
from hydratune.training.schedules import learning_rate_factor
from hydratune.training.task import Checkpoint

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


class FineTuning(lightning.LightningModule):
    """Trains what ``model`` leaves trainable; the rest is frozen and never enters a checkpoint."""

    def __init__(
        self,
        model: "PreTrainedModel | PeftModel",
        objective: Objective,
        optimizer: OptimizerConfig,
        total_steps: int,
    ) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.optimizer_config = optimizer
        self.total_steps = total_steps
        self.strict_loading = False  # checkpoints hold the trained parameters only
        # of the current optimizer batch: this rank's share of the loss, and its rows
        self.train_loss: torch.Tensor | None = None
        self.row_numbers: list[int] = []
        self.tokens_seen = 0  # trained and untrained, this rank
        self._validation = [0.0, 0.0]  # summed loss, tokens

    @property
    def _device_of_weights(self) -> torch.device:
        """The device of the model; Lightning's ``device`` is right only once training has begun."""
        return next(self.model.parameters()).device

    def cpu(self) -> "FineTuning":
        """Stay on the device, from which Lightning would move the model at the end of training,
        although other runs may share its weights.
        """
        return self

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Return the rows as they are: lists, until they are packed on the device of the model."""
        return batch

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        """Return the micro-batch's share of the optimizer batch's mean loss."""
        parameters = self.objective.parameters()
        loss, gradients = self.objective.gradients(batch.rows)
        self.tokens_seen += batch.tokens
        self.row_numbers += batch.numbers
        share = loss / batch.normaliser
        self.train_loss = share if self.train_loss is None else self.train_loss + share
        # Lightning divides by the number of micro-batches, and DDP averages over ranks; the
        # normaliser did both already.
        scale = self.trainer.accumulate_grad_batches * self.trainer.world_size / batch.normaliser
        torch._foreach_mul_(gradients, scale)
        return with_gradients(loss * scale, gradients, parameters)

    def on_train_epoch_start(self) -> None:
        self.model.train()

    def validation_step(self, batch: Batch, index: int) -> None:
        self._validation[0] += self.objective.loss(batch.rows).item()
        self._validation[1] += sum(row.supervised for row in batch.rows)

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Return the mean loss per trained token over the validation rows, between two steps; on
        one device. Changes nothing.
        """
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        modes = {module: module.training for module in self.model.modules()}
        self.model.eval()
        summed, tokens = 0.0, 0
        with self.trainer.precision_plugin.val_step_context():
            for batch in data.val_dataloader():
                summed += self.objective.loss(batch.rows).item()
                tokens += sum(row.supervised for row in batch.rows)
        for module, mode in modes.items():
            module.training = mode
        return summed / tokens

    def on_validation_epoch_end(self) -> None:
        """Log the mean loss per trained token over all rows of all ranks."""
        total = torch.tensor(
            self._validation,
            dtype=torch.float64 if self.device.type != "mps" else torch.float32,
            device=self.device,
        )
        self._validation = [0.0, 0.0]
        total = self.trainer.strategy.reduce(total, reduce_op="sum")
        self.log("val/loss", (total[0] / total[1]).float(), rank_zero_only=False, logger=False)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        config = self.optimizer_config
        optimizer = build_optimizer(self.model, config)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, learning_rate_factor(config, self.total_steps)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Have one CPU thread update the weights, unless there are matrices to multiply.

        Fused AdamW is as fast with one (0.01 s for the 420 matrices of LoRA on a 135M model), and
        where another process keeps a core busy, two wait for each other at every single tensor: 3 s
        were measured.
        """
        if self.device.type == "cpu":
            torch.set_num_threads(
                self.objective.threads if self.optimizer_config.multiplies_matrices else 1
            )

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        threads = torch.get_num_threads()
        try:
            super().optimizer_step(*args, **kwargs)
        finally:
            torch.set_num_threads(threads)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        checkpoint["state_dict"] = {
            k: v for k, v in checkpoint["state_dict"].items() if k in trained
        }
        states = {
            "python": random.getstate(),
            "torch": torch.get_rng_state(),
            "cuda": (
                torch.cuda.get_rng_state(self._device_of_weights)
                if self._device_of_weights.type == "cuda"
                else None
            ),
            "objective": self.objective.generator.get_state(),
        }
        own = {
            "rng": states,
            "tokens_seen": self.tokens_seen,
            "micro_tokens": self.objective.micro_tokens,
        }
        checkpoint["ranks"] = ddp.gathered(own)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.restore_random_state(checkpoint)

    def restore_random_state(self, checkpoint: Checkpoint, *, of_process: bool = True) -> None:
        """Set the generators and the token count of this rank to those at the checkpoint; the order
        of rows needs no generator.

        ``of_process``: the process's own generators are set as well.
        """
        own = checkpoint["ranks"][ddp.rank()]
        self.tokens_seen, states = own["tokens_seen"], own["rng"]
        self.objective.generator.set_state(states["objective"])
        if not of_process:
            return
        random.setstate(states["python"])
        torch.set_rng_state(states["torch"])
        if self._device_of_weights.type == "cuda" and states["cuda"] is not None:
            torch.cuda.set_rng_state(states["cuda"], self._device_of_weights)
