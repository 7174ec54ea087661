"""Lightning's Trainer with the callbacks of one run, and how its loop ends."""

import warnings
from dataclasses import dataclass

import lightning
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerStatus

from hydratune.console import Ticker
from hydratune.data.datamodule import ConversationData
from hydratune.errors import Paused, RunInterrupted
from hydratune.settings.monitor import Monitor
from hydratune.training import ddp
from hydratune.training.answer_validation import AnswerValidation, answering_steps
from hydratune.training.callbacks import create_callbacks
from hydratune.training.checkpoints import AtomicCheckpointIO, best_checkpoint
from hydratune.training.halving import HalvingRungs
from hydratune.training.history import History, best_row
from hydratune.training.module import FineTuning
from hydratune.training.resume import LeaveAfterStep, RestoreCheckpoint, TrainerPosition
from hydratune.training.task import Resumption, TrainingServices, TrainingTask
from hydratune.training.validation import Patience, ValidationTimes, validation_steps
from hydratune.training.watchdog import Stopped, Watchdog


@dataclass(frozen=True)
class LoopEnd:
    """How the training loop ended; all False and None: at its last step, or early."""

    stopped: Stopped | None = None  # by the watchdog
    interrupted: bool = False
    paused: bool = False  # until the sweep decides whether the run continues


class TrainingLoop:
    """One run of Lightning's training loop."""

    def __init__(
        self,
        task: TrainingTask,
        module: FineTuning,
        ticker: Ticker,
        resumption: Resumption,
        services: TrainingServices,
    ) -> None:
        settings, record = task.config.trainer, task.record
        self.task, self.module = task, module
        self.data = ConversationData(
            task.train,
            task.validation,
            batch_size=task.config.data.batch_size,
            accumulate=settings.accumulate_grad_batches,
            seed=task.config.seed,
        )
        self.history = History(
            record, ticker, task.updates_per_epoch, at_once=task.compute.device.type == "cpu"
        )
        self.monitor = Monitor.read(settings.monitor)
        self.best: ModelCheckpoint = best_checkpoint(
            record.checkpoints, self.monitor, self._is_best
        )
        self.patience = Patience(settings)
        self._restore = (
            RestoreCheckpoint(resumption.checkpoint, shares_process=services.pool is not None)
            if resumption.checkpoint is not None
            else None
        )
        self._callbacks = self._ordered_callbacks(resumption, services)

    def _is_best(self, step: int) -> bool:
        """Return whether the validation after ``step``, the last one, is the best so far."""
        best = best_row(self.history.rows, self.monitor)
        return best is not None and best["step"] == step

    def _ordered_callbacks(
        self, resumption: Resumption, services: TrainingServices
    ) -> list[lightning.Callback]:
        """Return the callbacks in the order in which they are called at every hook."""
        task, settings, history = self.task, self.task.config.trainer, self.history
        total = task.total_steps
        epochs = max(1, round(total / task.updates_per_epoch))
        times = ValidationTimes(validation_steps(total, settings.validations_per_epoch * epochs))
        every = task.config.evaluation.validate_every
        answering = answering_steps(times.steps, every, self.monitor)
        answers = AnswerValidation(services.answer, answering, history, self.monitor)
        watchdog = Watchdog(history, settings.max_loss_ratio)
        position = TrainerPosition(
            task.record.last_checkpoint,
            self.data,
            resumption,
            settings.checkpoint_minutes,
            before=watchdog.before_checkpoint,
            validated=times.steps,
        )
        rungs = HalvingRungs(
            services.decisions,
            total,
            history,
            monitor=self.monitor,
            score=answers.score,
            validated=times.steps,
            write=position.write,
        )
        return [
            *([ddp.RankSetup()] if settings.strategy == "ddp" else []),
            *task.config.adapter.callbacks(task.model),
            times,
            history,
            answers,
            watchdog,
            *create_callbacks(settings),
            self.patience,
            self.best,
            position,
            # before the rungs, which need the loss as it was at the checkpoint
            *([self._restore] if self._restore is not None else []),
            rungs,
            LeaveAfterStep(services.decisions.is_to_leave, position),
        ]

    def run(self) -> LoopEnd:
        """Train to the end, or until something ends it; other errors are raised."""
        with warnings.catch_warnings(), self.module.objective:
            warnings.filterwarnings("ignore", module="lightning")
            self.trainer = self._make_trainer()
            try:
                if self._restore is not None:
                    self.data.trainer = self.trainer
                    self._restore.before_fit(self.trainer, self.module, self.data)
                self.trainer.fit(self.module, self.data)
            except Stopped as error:
                return LoopEnd(stopped=error)
            except RunInterrupted:
                return LoopEnd(interrupted=True)
            except Paused:
                return LoopEnd(paused=True)
            except SystemExit:  # what Lightning makes of Ctrl-C
                if self.trainer.state.status != TrainerStatus.INTERRUPTED:
                    raise
            return LoopEnd(interrupted=self.trainer.state.status == TrainerStatus.INTERRUPTED)

    def _make_trainer(self) -> lightning.Trainer:
        settings, compute = self.task.config.trainer, self.task.compute
        return lightning.Trainer(
            accelerator=compute.accelerator,
            devices=settings.devices,
            strategy=ddp.OneMachineStrategy() if settings.strategy == "ddp" else settings.strategy,
            precision=compute.precision,  # type: ignore[arg-type]  # Lightning's own literals
            max_epochs=settings.max_epochs,
            max_steps=settings.max_steps or -1,
            accumulate_grad_batches=settings.accumulate_grad_batches,
            gradient_clip_val=settings.gradient_clip_val,
            callbacks=self._callbacks,
            plugins=[AtomicCheckpointIO(), *ddp.plugins()],
            logger=self.task.logger,
            default_root_dir=self.task.record.path,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            # the first epoch of a resumed run is shorter than the others
            reload_dataloaders_every_n_epochs=0 if self._restore is None else 1,
            log_every_n_steps=1,
        )
