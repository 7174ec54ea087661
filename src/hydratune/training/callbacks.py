"""What happens around the training step: validation times, history, watchdog, checkpoints that
survive a full disk.
"""

import math
import signal
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ModelCheckpoint

from hydratune import digests
from hydratune.console import Ticker
from hydratune.errors import Paused, RunError
from hydratune.records.files import atomic
from hydratune.records.run_directory import RunDirectory
from hydratune.settings.trainer import TrainerConfig
from hydratune.training.ddp import gathered, summed
from hydratune.training.module import FineTuning

_SECONDS_UNREAD = 1.0  # for which a GPU's numbers may stay there
STEPS_UNREAD = 8  # likewise, in a data-parallel run
_ENDING = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


@contextmanager
def signals_wait() -> Iterator[None]:
    """Ctrl-C, a kill or a closed terminal take effect after the block: in torch's zip writer they
    look like a full disk.
    """
    if threading.current_thread() is not threading.main_thread():  # signals never reach another
        yield
        return
    waiting: list[tuple[int, FrameType | None]] = []
    before = {
        number: signal.signal(number, lambda *arrived: waiting.append(arrived))
        for number in _ENDING
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for arrived, frame in waiting[:1]:
        handler = before[signal.Signals(arrived)]
        if callable(handler):
            handler(arrived, frame)
        elif handler is signal.SIG_DFL:
            signal.raise_signal(arrived)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's own writer copies from the system's temporary folder, so a full disk leaves half
    a checkpoint.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        try:
            with signals_wait(), atomic(Path(path), digest=True) as stream:
                torch.save(checkpoint, stream)
        except RuntimeError as error:  # how torch's zip writer reports a full disk
            raise RunError(
                f"cannot write the checkpoint {path} ({error}); free some space and start again"
            ) from error


def validation_steps(total: int, count: int) -> set[int]:
    """``count`` optimizer steps spread evenly over ``total``, the last one included."""
    count = min(count, total)
    return {round(total * k / count) for k in range(1, count + 1)}


class ValidationTimes(lightning.Callback):
    """Validates after given optimizer steps.

    Lightning's own interval skips the end unless it divides the epoch.
    """

    def __init__(self, steps: set[int]) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        updated = trainer.fit_loop.epoch_loop._should_accumulate() is False
        trainer.val_check_batch = (
            1 if updated and trainer.global_step in self.steps else float("inf")
        )


@dataclass
class OptimizerStep:
    """What is measured of one optimizer step; on a GPU the numbers stay there until ``read``, which
    waits for them.
    """

    number: int
    loss: torch.Tensor | float  # mean over the trained tokens of the optimizer batch
    grad_norm: torch.Tensor | float  # before clipping
    lr: float
    rows: list[int]  # this rank's rows of the optimizer batch
    tokens: int = 0  # since training began; of this rank, once recorded of all

    @staticmethod
    def read(steps: Sequence["OptimizerStep"]) -> None:
        """Makes plain numbers of what is measured, in one copy from the device."""
        values = [value for step in steps for value in (step.loss, step.grad_norm)]
        tensors = [value for value in values if isinstance(value, torch.Tensor)]
        if not tensors:
            return
        read = iter(torch.stack([tensor.double() for tensor in tensors]).tolist())
        for step in steps:
            for name in ("loss", "grad_norm"):
                if isinstance(getattr(step, name), torch.Tensor):
                    setattr(step, name, next(read))


class History(lightning.Callback):
    """One record per optimizer step, in history.csv, in the loggers and in the progress bar.

    On a CPU a step is recorded at once. A GPU works through a queue, and reading a number from it
    waits for all that is queued: there, steps are recorded together, about once a second, and
    before every validation and checkpoint.
    """

    def __init__(
        self, record: RunDirectory, ticker: Ticker, per_epoch: int, *, at_once: bool = True
    ) -> None:
        """``per_epoch``: optimizer steps in one epoch.

        ``at_once``: every step is read and recorded by itself.
        """
        self.record, self.ticker, self.per_epoch, self.at_once = record, ticker, per_epoch, at_once
        self.rows: list[dict[str, Any]] = []
        self.started = self.last = time.perf_counter()
        self.validating = 0.0  # seconds spent in validation, not counted as training
        self.tokens = 0
        self.step: OptimizerStep | None = None  # the one that is being computed
        self.pending: list[OptimizerStep] = []  # done, and not recorded
        self.recorded: list[OptimizerStep] = []  # that the watchdog has not looked at

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, optimizer: Any
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
        self, trainer: lightning.Trainer, module: lightning.LightningModule, *args: Any
    ) -> None:
        assert isinstance(module, FineTuning)
        if trainer.fit_loop.epoch_loop._should_accumulate():
            return
        self.end_step(module)
        module.train_loss, module.row_numbers = None, []
        if self._is_time(trainer):
            self.record_pending(trainer)

    def _is_time(self, trainer: lightning.Trainer) -> bool:
        # all ranks at the same step: what is wrong is found by all of them, and nobody
        # waits for ever
        if trainer.world_size > 1:
            return self.at_once or trainer.global_step % STEPS_UNREAD == 0
        return self.at_once or time.perf_counter() - self.last >= _SECONDS_UNREAD

    def end_step(self, module: FineTuning) -> None:
        """The step that is being computed is done, or given up."""
        assert self.step is not None
        self.step.tokens = module.tokens_seen
        self.pending.append(self.step)
        self.step = None

    def record_pending(self, trainer: lightning.Trainer) -> None:
        """Records all steps that are done; those that were read together count as equally fast.

        Every rank must ask.
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
            row: dict[str, Any] = {
                "step": step.number,
                "epoch": round(step.number / self.per_epoch, 4),
                "train/loss": step.loss,
                "lr": step.lr,
                "tokens": step.tokens,
                "tokens_per_second": speed,
                "grad_norm": step.grad_norm,
            }
            self.ticker.advance(1, step.tokens - self.tokens, loss=float(step.loss))
            self.tokens = step.tokens
            self.rows.append(row)
            if trainer.logger is not None:
                trainer.logger.log_metrics(
                    {k: v for k, v in row.items() if k not in ("step", "epoch")}, step=step.number
                )
        self.recorded += steps

    def state_dict(self) -> dict[str, Any]:
        elapsed = time.perf_counter() - self.started
        return {
            "rows": self.rows,
            "tokens": self.tokens,
            "elapsed": elapsed,
            "validating": self.validating,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows, self.tokens, self.validating = (
            list(state_dict["rows"]),
            state_dict["tokens"],
            state_dict["validating"],
        )
        self.last = time.perf_counter()
        self.started = self.last - state_dict["elapsed"]
        self.ticker.go_on(len(self.rows))
        for row in self.rows:
            if "val/loss" in row:
                self.ticker.advance(0, 0, val_loss=row["val/loss"])

    def on_validation_start(
        self, trainer: lightning.Trainer, module: lightning.LightningModule
    ) -> None:
        self.record_pending(trainer)
        self._validation_started = time.perf_counter()

    def on_validation_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule
    ) -> None:
        loss = float(trainer.callback_metrics["val/loss"])
        took = time.perf_counter() - self._validation_started
        self.validating += took
        self.last += took
        self.rows[-1]["val/loss"] = loss
        self.ticker.advance(0, 0, val_loss=loss)
        if trainer.logger is not None:
            trainer.logger.log_metrics({"val/loss": loss}, step=trainer.global_step)
        self.write(trainer)

    def write(self, trainer: lightning.Trainer) -> None:
        if trainer.is_global_zero:
            self.record.write_history(self.rows)


def best_checkpoint(folder: Path) -> ModelCheckpoint:
    """After every validation: ``best.ckpt`` by its loss. Trained parameters only."""
    # Left to itself, Lightning would look at the end of an epoch only, and miss a better
    # validation before it.
    return ModelCheckpoint(
        folder,
        filename="best",
        monitor="val/loss",
        mode="min",
        save_on_train_epoch_end=False,
        enable_version_counter=False,
    )


class Stopped(Exception):
    """What the watchdog raises, for ``fit`` to explain: what is wrong, and the rows (by number)
    behind it.
    """

    def __init__(
        self, what: str, step: int, rows: Sequence[int] = (), steps_since: int | None = None
    ) -> None:
        """``steps_since``: how many updates came after that of ``step``; None: that of ``step``
        itself was not taken.
        """
        super().__init__(what)
        self.what, self.step, self.rows, self.steps_since = what, step, tuple(rows), steps_since


def what_is_wrong(
    loss: float,
    grad_norm: float,
    before: Sequence[float],
    limit: float | None,
    first: float,
    blind: float,
) -> str | None:
    """Why a step must not be taken, or None. ``before`` are the losses of the latest steps,
    ``limit`` is times their median.

    The first steps vary too much to judge by their median. Below 0.1 a loss may jump to many times
    its median for one odd row, and nothing is broken: the median counts as 0.1 there. ``blind`` is
    the loss of a model that knows nothing, the logarithm of the vocabulary's size: whoever began
    (``first``) far below it and is there twice in a row has lost it all.
    """
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if not math.isfinite(grad_norm):
        return f"the norm of the gradient is {grad_norm}"
    if grad_norm == 0 and loss > 0.1:
        return f"the loss is {loss:.4f} and the gradient is 0: nothing more can be learnt"
    if limit is None:
        return None
    if first < blind / 2 and before and min(loss, before[-1]) > 0.95 * blind:
        return (
            f"the loss is {loss:.4f}, as of a model that knows nothing ({blind:.2f}), and it was"
            f" {first:.4f} at first"
        )
    if len(before) < 10:
        return None
    usual = statistics.median(before)
    if loss > limit * max(usual, 0.1):
        return (
            f"the loss is {loss:.4f}, and the median of the {len(before)} steps before is"
            f" {usual:.4f} (trainer.max_loss_ratio={limit:g})"
        )
    return None


def rows_of_all_ranks(step: OptimizerStep) -> list[int]:
    """Every rank comes to the same verdict, for losses and gradients are summed over all of them;
    each knows its own rows.
    """
    return [number for numbers in gathered(step.rows) for number in numbers]


class Watchdog(lightning.Callback):
    """Raises ``Stopped`` before a step that would do damage is taken, and before damaged weights
    are written down.

    On a GPU the steps are judged when ``history`` has read them: the update was taken by then, and
    nothing was written. Comes after ``history`` and before the checkpoints in the list of
    callbacks.
    """

    def __init__(self, history: History, limit: float | None) -> None:
        self.history, self.limit = history, limit
        self.before: deque[float] = deque(maxlen=20)
        self.first: float | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"before": list(self.before), "first": self.first}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before.extend(state_dict["before"])
        self.first = state_dict["first"]

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, optimizer: Any
    ) -> None:
        assert isinstance(module, FineTuning)
        step = self.history.step
        if step is None or isinstance(step.loss, torch.Tensor):
            return
        what = self._look_at(step, module)
        if what is not None:
            self.history.end_step(module)
            self.history.record_pending(trainer)
            raise Stopped(what, step.number, rows_of_all_ranks(step))

    def _look_at(self, step: OptimizerStep, module: FineTuning) -> str | None:
        """What is wrong with a step that was read, or None."""
        loss = float(step.loss)
        self.first = loss if self.first is None else self.first
        blind = math.log(module.objective.model.config.get_text_config().vocab_size)
        what = what_is_wrong(
            loss, float(step.grad_norm), self.before, self.limit, self.first, blind
        )
        if what is None:
            self.before.append(loss)
        return what

    def look(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Raises ``Stopped`` if one of the steps that were recorded since the last look is wrong."""  # noqa: E501
        assert isinstance(module, FineTuning)
        steps, self.history.recorded = self.history.recorded, []
        for step in steps if not self.history.at_once else ():
            what = self._look_at(step, module)
            if what is not None:
                raise Stopped(
                    what,
                    step.number,
                    rows_of_all_ranks(step),
                    steps_since=trainer.global_step - step.number,
                )

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, *args: Any
    ) -> None:
        self.look(trainer, module)

    def on_validation_start(
        self, trainer: lightning.Trainer, module: lightning.LightningModule
    ) -> None:
        self.look(trainer, module)

    def before_checkpoint(self, trainer: lightning.Trainer) -> None:
        """Records what is pending and looks at it: nothing damaged is written, and nothing is
        missing in what is.
        """
        self.history.record_pending(trainer)
        self.look(trainer, trainer.lightning_module)

    def on_validation_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule
    ) -> None:
        loss = float(trainer.callback_metrics["val/loss"])
        if not math.isfinite(loss):
            raise Stopped(f"the validation loss is {loss}", trainer.global_step)


class Rungs(Checkpoint):
    """Asks at given steps whether the run goes on; if not, the checkpoint is written and ``Paused``
    raised.

    Comes after whatever writes checkpoints. A rung costs a validation where there is none, and
    changes nothing else.
    """

    def __init__(
        self,
        steps: Sequence[int],
        times: ValidationTimes,
        history: History,
        ask: Callable[[int, float], bool],
        judged: Callable[[int], bool] = lambda step: True,
    ) -> None:
        """``ask(step, validation loss)`` says whether to go on, ``judged(step)`` whether that was
        asked before the run was interrupted.
        """
        self.steps, self.times, self.history, self.ask, self.judged = (
            set(steps),
            times,
            history,
            ask,
            judged,
        )
        self.write: Callable[[lightning.Trainer], None] = lambda trainer: None  # the checkpoint

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """A run that goes on may have passed rungs of which it was never asked: it was not halved
        then, or killed in between.
        """
        assert isinstance(module, FineTuning)
        missed = [
            step
            for step in sorted(self.steps)
            if step <= trainer.global_step and not self.judged(step)
        ]
        if not missed:
            return
        known = {
            int(row["step"]): row["val/loss"]
            for row in self.history.rows
            if isinstance(row.get("val/loss"), float)
        }
        now = None if all(step in known for step in missed) else module.validation_loss()
        for step in missed:
            if not self.ask(
                step, known[step] if step in known else float(math.nan if now is None else now)
            ):
                raise Paused  # the checkpoint that it goes on from is still there

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, *args: Any
    ) -> None:
        assert isinstance(module, FineTuning)
        step = trainer.global_step
        if (
            step not in self.steps
            or step in self.times.steps
            or trainer.fit_loop.epoch_loop._should_accumulate()
        ):
            return
        self.history.record_pending(trainer)
        start = time.perf_counter()
        loss = module.validation_loss()
        took = time.perf_counter() - start
        self.history.validating += took
        self.history.last += took
        self._decide(trainer, step, loss)

    def on_validation_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule
    ) -> None:
        if trainer.global_step in self.steps:
            self._decide(trainer, trainer.global_step, float(trainer.callback_metrics["val/loss"]))

    def _decide(self, trainer: lightning.Trainer, step: int, loss: float) -> None:
        self.history.write(
            trainer
        )  # before anybody knows of the rung: whoever is killed now has all it was judged by
        self.write(trainer)
        if not self.ask(step, loss):
            raise Paused


def patience_of(config: TrainerConfig) -> int:
    """Validations without improvement after which training stops; without a setting more than there
    will ever be.
    """
    return config.early_stopping_patience if config.early_stopping_patience is not None else 2**31


class Patience(EarlyStopping):
    """Stops after ``patience`` validations without a better loss."""

    def __init__(self, config: TrainerConfig) -> None:
        super().__init__(
            "val/loss",
            mode="min",
            patience=patience_of(config),
            check_finite=False,  # the watchdog does
            check_on_train_epoch_end=False,  # after every validation
        )


def read_checkpoint(file: Path) -> tuple[dict[str, Any], bool]:
    """(its content, whether that was verified).

    Raises ``RunError`` if it is not what was written, or cannot be read.
    """
    try:
        verified = digests.verify(file)
        return dict(torch.load(file, map_location="cpu", weights_only=True)), verified
    except RunError:
        raise
    except Exception as error:  # torch, its zip reader and its unpickler each have their own, with advice that is not to be followed  # noqa: E501
        raise RunError(
            f"{file} cannot be read as a checkpoint ({type(error).__name__}): it was changed or cut"
        ) from error


def best_weights(checkpoint: Path) -> Mapping[str, torch.Tensor]:
    """The trained parameters of a checkpoint, by the module's names.

    Raises ``RunError`` if it was damaged since.
    """
    try:
        state: Mapping[str, torch.Tensor] = read_checkpoint(checkpoint)[0]["state_dict"]
    except RunError as error:
        raise RunError(
            f"{error}. The same command again is resumed from what is whole, or begins anew"
        ) from error
    return state
