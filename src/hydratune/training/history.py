"""One record per optimizer step: loss, gradient norm, learning rate, speed."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning
import torch

from hydratune.console import Ticker
from hydratune.records.run_directory import HistoryRow, RunDirectory
from hydratune.settings.monitor import Monitor
from hydratune.training.ddp import summed
from hydratune.training.module import FineTuning

_SECONDS_UNREAD = 1.0  # for which a GPU's numbers may stay there
STEPS_UNREAD = 8  # likewise, in a data-parallel run


def best_row(rows: Sequence[HistoryRow], monitor: Monitor) -> HistoryRow | None:
    """Return the row with the best finite value of ``monitor``; None if nothing was validated.

    Of several with this value it is the one with the lowest validation loss, then the first. Where
    no row has a value, because there was nothing to count in any answer, the validation loss
    decides.
    """
    best: HistoryRow | None = None
    for row in rows:
        value = row.get(monitor.metric)
        if not isinstance(value, float) or not math.isfinite(value):
            continue
        if best is None or _rank(row, monitor) < _rank(best, monitor):
            best = row
    return best_row(rows, Monitor()) if best is None and not monitor.is_loss else best


def _rank(row: HistoryRow, monitor: Monitor) -> tuple[float, float]:
    """Return a key that is lower for a better validation."""
    value = row[monitor.metric]
    return value if monitor.lower else -value, row["val/loss"]


@dataclass
class OptimizerStep:
    """What is measured of one optimizer step.

    On a GPU the numbers stay there until ``read``, which waits for them.
    """

    number: int
    loss: torch.Tensor | float  # mean over the trained tokens of the optimizer batch
    grad_norm: torch.Tensor | float  # before clipping
    lr: float
    rows: list[int]  # this rank's rows of the optimizer batch
    tokens: int = 0  # since training began; of this rank, once recorded of all

    @staticmethod
    def read(steps: Sequence["OptimizerStep"]) -> None:
        """Turn what is measured into plain numbers, in one copy from the device."""
        values = [value for step in steps for value in (step.loss, step.grad_norm)]
        tensors = [value for value in values if isinstance(value, torch.Tensor)]
        if not tensors:
            return
        numbers = iter(torch.stack([tensor.double() for tensor in tensors]).tolist())
        for step in steps:
            for name in ("loss", "grad_norm"):
                if isinstance(getattr(step, name), torch.Tensor):
                    setattr(step, name, next(numbers))


class History(lightning.Callback):
    """Records every optimizer step in history.csv, in the loggers and in the progress bar.

    On a CPU a step is recorded at once. A GPU works through a queue, and reading a number from it
    waits for everything in the queue: there, steps are recorded together, about once a second, and
    before every validation and checkpoint.
    """

    def __init__(
        self, record: RunDirectory, ticker: Ticker, per_epoch: int, *, at_once: bool = True
    ) -> None:
        """``per_epoch``: optimizer steps in one epoch.

        ``at_once``: every step is read and recorded by itself.
        """
        self.record, self.ticker, self.per_epoch, self.at_once = record, ticker, per_epoch, at_once
        self.rows: list[HistoryRow] = []
        self.started = self.last = time.perf_counter()
        self.validating = 0.0  # seconds spent in validation, not counted as training
        self.answering = 0.0  # those of them in which the model answered validation rows
        self.tokens = 0
        self.step: OptimizerStep | None = None  # the one that is being computed
        self.pending: list[OptimizerStep] = []  # computed, and not recorded yet
        self.recorded: list[OptimizerStep] = []  # recorded, and not seen by the watchdog yet

    def on_before_optimizer_step(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        assert isinstance(module, FineTuning)
        assert module.train_loss is not None
        loss = summed(module.train_loss)
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        group = optimizer.param_groups[0]
        # of this step: the schedule has moved on by the end of the batch
        lr = group["lr"] / group["lr_factor"]
        norm = torch.nn.utils.get_total_norm(gradients)
        self.step = OptimizerStep(trainer.global_step + 1, loss, norm, lr, list(module.row_numbers))
        if self.at_once:
            OptimizerStep.read([self.step])

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, *args: object
    ) -> None:
        assert isinstance(module, FineTuning)
        if trainer.fit_loop.epoch_loop._should_accumulate():
            return
        self.end_step(module)
        module.train_loss, module.row_numbers = None, []
        if self._is_time(trainer):
            self.record_pending(trainer)

    def _is_time(self, trainer: lightning.Trainer) -> bool:
        # All ranks record at the same step: all of them detect what is wrong, and none waits for
        # ever.
        if trainer.world_size > 1:
            return self.at_once or trainer.global_step % STEPS_UNREAD == 0
        return self.at_once or time.perf_counter() - self.last >= _SECONDS_UNREAD

    def end_step(self, module: FineTuning) -> None:
        """Note that the present step is computed, or given up."""
        assert self.step is not None
        self.step.tokens = module.tokens_seen
        self.pending.append(self.step)
        self.step = None

    def record_pending(self, trainer: lightning.Trainer) -> None:
        """Record all steps that are computed; those that are read together count as equally fast.

        Every rank must call it.
        """
        steps, self.pending = self.pending, []
        if not steps:
            return
        OptimizerStep.read(steps)
        if trainer.world_size > 1:
            of_all = summed(
                torch.tensor([step.tokens for step in steps], device=trainer.strategy.root_device)
            )
            for step, tokens in zip(steps, of_all.tolist(), strict=True):
                step.tokens = tokens
        now = time.perf_counter()
        speed = round((steps[-1].tokens - self.tokens) / (now - self.last), 1)
        self.last = now
        for step in steps:
            self._record(step, speed, trainer)
        self.recorded += steps

    def _record(self, step: OptimizerStep, speed: float, trainer: lightning.Trainer) -> None:
        row: HistoryRow = {
            "step": step.number,
            "epoch": round(step.number / self.per_epoch, 4),
            "train/loss": float(step.loss),
            "lr": step.lr,
            "tokens": step.tokens,
            "tokens_per_second": speed,
            "grad_norm": float(step.grad_norm),
        }
        self.ticker.advance(1, step.tokens - self.tokens, loss=float(step.loss))
        self.tokens = step.tokens
        self.rows.append(row)
        if trainer.logger is not None:
            logged = {k: v for k, v in row.items() if k not in ("step", "epoch")}
            trainer.logger.log_metrics(logged, step=step.number)

    def state_dict(self) -> dict[str, object]:
        elapsed = time.perf_counter() - self.started
        return {
            "rows": self.rows,
            "tokens": self.tokens,
            "elapsed": elapsed,
            "validating": self.validating,
            "answering": self.answering,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows, self.tokens, self.validating = (
            list(state_dict["rows"]),
            state_dict["tokens"],
            state_dict["validating"],
        )
        self.answering = state_dict.get("answering", 0.0)
        self.last = time.perf_counter()
        self.started = self.last - state_dict["elapsed"]
        self.ticker.resume_at(len(self.rows))
        for row in self.rows:
            if "val/loss" in row:
                self.ticker.advance(0, 0, validation_loss=row["val/loss"])

    def on_validation_start(
        self, trainer: lightning.Trainer, module: lightning.LightningModule
    ) -> None:
        self.record_pending(trainer)
        self._validation_started = time.perf_counter()

    def on_validation_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule
    ) -> None:
        loss = float(trainer.callback_metrics["val/loss"])
        self.count_as_validation(time.perf_counter() - self._validation_started)
        self.rows[-1]["val/loss"] = loss
        self.ticker.advance(0, 0, validation_loss=loss)
        if trainer.logger is not None:
            trainer.logger.log_metrics({"val/loss": loss}, step=trainer.global_step)
        self.write(trainer)

    def count_as_validation(self, seconds: float) -> None:
        """Do not count the ``seconds`` that have just passed as training."""
        self.validating += seconds
        self.last += seconds

    def count_as_answering(self, seconds: float) -> None:
        """Count the ``seconds`` that have just passed as validation by answers."""
        self.answering += seconds
        self.count_as_validation(seconds)

    def write(self, trainer: lightning.Trainer) -> None:
        """Write history.csv."""
        if trainer.is_global_zero:
            self.record.write_history(self.rows)
