"""One job of a pack: run in a thread of its own, to its end or until it is paused."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from rich.markup import escape

from hydratune.console import console, redirect_output
from hydratune.errors import CannotSharePackError, HydratuneError, Paused, RunInterrupted
from hydratune.experiment import run as experiment
from hydratune.experiment.lifecycle import begin, recorded
from hydratune.metric_format import with_unit
from hydratune.metric_table import OBJECTIVE
from hydratune.records.metrics import RunMetrics
from hydratune.records.run_directory import RunDirectory, alone
from hydratune.records.status import Outcome, State, Status
from hydratune.settings.commands import Resume, TrainConfig
from hydratune.settings.monitor import Monitor
from hydratune.sweeps.halving import HalvingScheduler, JobState
from hydratune.sweeps.pack_arguments import PackArguments
from hydratune.sweeps.pack_context import pack_context
from hydratune.sweeps.pack_logging import LogByThread
from hydratune.sweeps.pack_resources import PackResources
from hydratune.sweeps.progress_table import ProgressTable
from hydratune.sweeps.watch import Heartbeat, Watch
from hydratune.training.protocols import RungScore

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pack:
    """A pack at work: what the threads of its jobs share."""

    arguments: PackArguments
    records: Mapping[str, RunDirectory]  # by the name of the job
    resources: PackResources
    scheduler: HalvingScheduler
    watch: Watch
    progress_table: ProgressTable
    logs: LogByThread


def run_job(pack: Pack, settings: TrainConfig, heartbeat: Heartbeat) -> None:
    """Run one job in this thread, to its end or until it is paused.

    Whatever happens to the job is written into its status, and raised only if that is impossible.
    """
    record, is_recorded = heartbeat.record, False
    try:
        with pack.logs.to_file(record.log_file) as file:
            try:
                listener = heartbeat.listener(pack.progress_table.listener(heartbeat.name))
                with redirect_output(file, listener), alone(record.path):
                    settings = _begin(pack, settings, heartbeat)
                    is_recorded = True
                    with recorded(settings, record):
                        torch.set_num_threads(1)
                        context = pack_context(pack.resources, heartbeat, pack.scheduler)
                        experiment.run_experiment(settings, record, context)
            except CannotSharePackError as error:
                why = str(error)
                record.change_status(lambda status: status.leave_pack(why))
            except HydratuneError as error:
                if not is_recorded:  # another process may hold the folder: nothing is written there
                    text = f"[red]job {heartbeat.name} did not begin: {escape(str(error))}"
                    console.print(text, soft_wrap=True)
            except (KeyboardInterrupt, RunInterrupted, Paused):
                pass
            except BaseException:
                log.exception("unexpected error")
    finally:
        if not heartbeat.given_up and is_recorded:
            report_end(pack, record)
        elif not heartbeat.given_up:  # so that it is not handed out again and again
            pack.progress_table.ended(heartbeat.name, record.read_status())
            pack.scheduler.end(heartbeat.name, JobState.failed)


def _begin(pack: Pack, settings: TrainConfig, heartbeat: Heartbeat) -> TrainConfig:
    """Make the run directory ready; return the settings with which the job runs."""
    name = heartbeat.name
    if name in pack.resources.begun:  # resume=never is about runs of earlier commands
        settings = replace(settings, resume=Resume.auto)
    begin(settings, heartbeat.record)
    pack.resources.begun.add(name)
    pack.progress_table.began(name)
    return settings


def report_end(pack: Pack, record: RunDirectory) -> None:
    """Tell the progress table and the scheduler that a job has ended or is paused."""
    name, status = record.path.name, record.read_status()
    if status.state is State.waiting:
        pack.progress_table.paused(name, status)
    else:
        pack.resources.trackers.pop(name, None)
        pack.progress_table.ended(name, status)
    pack.scheduler.end(name, *_state_of(record))


def _state_of(record: RunDirectory) -> tuple[JobState, RungScore | None]:
    """Return (state, final score) of a job that does not run."""
    status = record.read_status()
    if record.is_finished():
        metrics = RunMetrics.read(record.metrics_file)
        loss, edges = metrics.values.get("val/loss"), metrics.intervals.get(OBJECTIVE)
        if loss is None:
            return JobState.finished, None
        interval = (edges[0], edges[1]) if edges else None
        return JobState.finished, RungScore(loss, metrics.values.get(OBJECTIVE), interval)
    if status.outcome is Outcome.halved:
        return JobState.halved, None
    return JobState.paused if status.state is State.waiting else JobState.failed, None


def create_scheduler(
    arguments: PackArguments,
    records: Mapping[str, RunDirectory],
    resources: PackResources,
    progress_table: ProgressTable,
) -> HalvingScheduler:
    """Return the scheduler of a pack, which knows the results of earlier starts of the sweep."""

    def halve(status: Status) -> Status:
        value = status.rungs[-1].value
        if monitor.is_loss or value is None:
            return status.halve()
        return status.halve(f"{monitor.title} {with_unit(monitor.metric, value)}")

    def stop_early(name: str) -> None:
        record = records[name]
        record.change_status(halve)
        status = record.read_status()
        tracker = resources.trackers.pop(name, None)
        if tracker is not None and status.halved is not None:
            tracker.log_summary({"halved_at_step": status.halved.step})
            tracker.finish(0)
        progress_table.ended(name, status)

    halving = arguments.halving
    monitor = Monitor.read(halving.metric or arguments.monitor)
    scheduler = HalvingScheduler(list(records), halving, resources.leave, stop_early, monitor)
    for name, record in records.items() if halving.is_on else ():
        status = record.read_status()
        scores = [
            RungScore(math.inf if rung.loss is None else rung.loss, rung.value, rung.interval)
            for rung in status.rungs
        ]
        state, final_score = _state_of(record)
        if state in (JobState.finished, JobState.halved) or name in arguments.failed:
            scheduler.restore(name, scores, state, final_score)
        elif scores and record.checkpoint_to_resume() is not None:
            # In sync, a decision is the same whenever it is made, so a job that was killed after
            # its report waits for it. In asha the report may have let it continue: it is resumed,
            # and reports again if it was killed before its checkpoint was written.
            is_paused = halving.waits_for_all or status.is_paused
            scheduler.restore(name, scores, JobState.paused if is_paused else JobState.new)
    return scheduler
