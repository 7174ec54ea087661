"""One run, from its settings to its closing report.

``run_experiment`` is the whole story: prepare the job (``prepare``), write down what is trained on
what (``opening``), measure the base model (``probes``), train (``training``), measure the
fine-tuned model, write metrics.json (``results``), report (``closing``). ``hydratune train`` calls
it for a run alone, ``hydratune.sweeps`` for the jobs of a pack, with another ``RunContext``.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from hydratune.adapters import attach
from hydratune.console import console, section
from hydratune.data.preview import show
from hydratune.errors import Paused, RunInterrupted, refuse
from hydratune.evaluation import panel
from hydratune.experiment import (
    closing,
    data_consistency,
    model_card,
    opening,
    probes,
    results,
    training,
    validation_answers,
)
from hydratune.experiment.context import RunContext
from hydratune.experiment.job import Job, timed
from hydratune.experiment.prepare import prepare
from hydratune.experiment.resuming import find_checkpoint
from hydratune.experiment.tracker import track_run
from hydratune.models import hardware
from hydratune.records.metrics import RunMetrics
from hydratune.records.run_directory import RunDirectory, RunFile, is_main_process
from hydratune.settings.commands import TrainConfig
from hydratune.tracking.console_log import console_copied_to
from hydratune.tracking.tracker import Tracker
from hydratune.training import ddp, resume
from hydratune.training.elementwise import elementwise_for

# bytes of freed memory that stay between measuring and training, which need other sizes
_SPARE_MEMORY = 2**27


def run_experiment(
    config: TrainConfig, record: RunDirectory, context: RunContext | None = None
) -> None:
    """Run one experiment and print its closing report.

    ``context`` is by default that of a run alone in its process. In a further process of a
    data-parallel run it only trains. Raises ``HydratuneError`` if the run fails, ``Paused`` if its
    sweep pauses it, ``KeyboardInterrupt`` or ``RunInterrupted`` if it is interrupted.
    """
    context = context or RunContext()
    section("set-up")
    if not is_main_process():
        ddp.join_main_process()
        training.train_as_other_process(prepare(config, context), record)
        return
    seconds = {"start-up (imports)": time.perf_counter() - context.schedule.began}
    with _tracked(config, record, context, seconds) as (tracker, is_new):
        job = _prepare(config, record, context, seconds)
        if is_new:
            tracker.restore_history(resume.history(job.checkpoint))
        metrics = _measure_and_train(job, record, tracker)
        closing.print_results(job, metrics)
    closing.print_next(job, record, tracker)


def preview(config: TrainConfig) -> None:
    """Print the first ``config.preview`` training rows with the trained tokens coloured."""
    section("set-up")
    job = prepare(config)
    show(console, job.encoder, job.sets.train, job.train, config.preview)


@contextmanager
def _tracked(
    config: TrainConfig, record: RunDirectory, context: RunContext, seconds: dict[str, float]
) -> Iterator[tuple[Tracker, bool]]:
    """Start W&B before anything else can fail, so that it sees the failure, and finish it.

    Yields the tracker, and whether it is new rather than that of the same run before it was paused.
    A paused run keeps it. The seconds that W&B takes are added to ``seconds``.
    """
    with timed(seconds, "W&B"):
        tracker, is_new = context.resources.tracker(lambda: track_run(config, record, context))
    exit_code: int | None = 1
    try:
        with console_copied_to(tracker):
            yield tracker, is_new
        exit_code = 0
    except Paused:
        exit_code = None
        raise
    except (KeyboardInterrupt, RunInterrupted):
        exit_code = 130
        raise
    except Exception as error:
        tracker.write_log(f"{type(error).__name__}: {error}")
        raise
    finally:
        if exit_code is not None:
            with timed(seconds, "W&B"):
                tracker.finish(exit_code)


def _prepare(
    config: TrainConfig, record: RunDirectory, context: RunContext, seconds: dict[str, float]
) -> Job:
    """Return the job made ready, with the checkpoint from which it is resumed."""
    with timed(seconds, "model and data"):
        refuse(config.optimizer.accelerator_problems(hardware.accelerator(config)))
        panel.check(config.evaluation.forgetting)
        elementwise_for(config.trainer.compile)
        job = prepare(config, context)
        data_consistency.refuse_other_rows(
            config, record.path, job.data_facts["splits"], context.resources.shared
        )
        job.checkpoint = find_checkpoint(job, record)
    job.seconds = seconds
    return job


def _measure_and_train(job: Job, record: RunDirectory, tracker: Tracker) -> RunMetrics:
    """Measure the base model, train, measure the fine-tuned model, and write metrics.json."""
    facts = opening.write_opening(job, record)
    tracker.log_facts(facts)
    tracker.log_data_reports([record.data_file, record.file(RunFile.data_page)])

    test_rows = probes.TestRowsProbe(job, record)
    others: list[probes.Probe] = [
        probes.ForgettingProbe(job, record),
        probes.MemorisationProbe(job),
        probes.CanaryProbe(job, record),
    ]
    for probe in (*others, test_rows):
        probe.before()
    hardware.give_back(_SPARE_MEMORY)

    section("training")
    training.adapt(job, tracker, facts)
    fitted = training.train(job, record, tracker)
    _load_as_saved(job, record)
    hardware.give_back(_SPARE_MEMORY)

    answers = test_rows.after()
    measured = [probe.after() for probe in others]
    validation = validation_answers.at_kept_weights(job, record, fitted.best)
    metrics = results.collect(job, fitted, test_rows.predictions, answers, validation, measured)
    metrics.write(record.metrics_file)
    model_card.write(job, record, metrics)
    tracker.log_summary(metrics.values)
    tracker.log_predictions(test_rows.predictions["eval"])
    tracker.log_adapter(record.adapter)
    return metrics


def _load_as_saved(job: Job, record: RunDirectory) -> None:
    """Load the model again as a user of the adapter would, if the adapter changes the base model.

    What is saved for a base in bf16 differs from the trained model by rounding.
    """
    if not job.config.adapter.changes_base():
        return
    del job.model  # its memory is needed
    job.model = attach.load_tuned(
        job.config.model, job.config.adapter, job.source, record.adapter, job.compute
    )
