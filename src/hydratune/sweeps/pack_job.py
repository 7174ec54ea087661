"""One job of a pack: run in a thread of its own, to its end or until it is paused."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from rich.markup import escape

from hydratune.console import console, redirect_output
from hydratune.errors import CannotSharePackError, HydratuneError, Paused, RunInterrupted
from hydratune.experiment import run as experiment
from hydratune.experiment.lifecycle import begin, recorded
from hydratune.records.run_directory import RunDirectory, alone
from hydratune.records.status import Outcome, State
from hydratune.settings.commands import Resume, TrainConfig
from hydratune.settings.monitor import Monitor
from hydratune.sweeps.asynchronous_scheduler import AsynchronousScheduler
from hydratune.sweeps.halving import HalvingScheduler, JobState, RoundScheduler
from hydratune.sweeps.halving_records import (
    JudgedRecords,
    halved_by,
    restore,
    scores_of,
    state_of,
)
from hydratune.sweeps.pack_arguments import PackArguments
from hydratune.sweeps.pack_context import pack_context
from hydratune.sweeps.pack_logging import LogByThread
from hydratune.sweeps.pack_resources import PackResources
from hydratune.sweeps.progress_table import ProgressTable
from hydratune.sweeps.watch import Heartbeat, Watch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pack:
    """A pack at work: what the threads of its jobs share."""

    arguments: PackArguments
    records: dict[str, RunDirectory]  # by the name of the job; those that join are added
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
    pack.scheduler.end(name, *state_of(record))


def create_scheduler(
    arguments: PackArguments,
    records: Mapping[str, RunDirectory],
    resources: PackResources,
    progress_table: ProgressTable,
) -> HalvingScheduler:
    """Return the scheduler of a pack, which knows the results of earlier starts of the sweep."""

    def stop_early(name: str) -> None:
        record = records[name]
        record.change_status(halved_by(monitor))
        status = record.read_status()
        tracker = resources.trackers.pop(name, None)
        if tracker is not None and status.halved is not None:
            tracker.log_summary({"halved_at_step": status.halved.step})
            tracker.finish(0)
        progress_table.ended(name, status)

    halving, names = arguments.halving, list(records)
    monitor = Monitor.read(halving.metric or arguments.monitor)
    common = (names, halving, resources.is_leaving, stop_early, monitor)
    scheduler = HalvingScheduler(*common)
    passed = arguments.passed or {}
    if arguments.group:
        others = [name for name in arguments.group if name not in records]
        elsewhere = JudgedRecords({n: RunDirectory(arguments.folder / n) for n in others})
        scheduler = AsynchronousScheduler(
            *common, passed=passed, others=elsewhere, group=arguments.group
        )
    elif arguments.passed is not None:
        scheduler = RoundScheduler(*common, passed=passed)
    if halving.is_on:
        restore(scheduler, records, arguments.failed)
    if arguments.is_requeued:  # what has ended in an earlier run of this pack is not run again
        for name in names:
            state, score = state_of(records[name])
            status = records[name].read_status()
            failed = status.outcome is Outcome.failed
            if state is JobState.finished or failed:
                state = JobState.failed if failed else state
                scheduler.restore(name, scores_of(status), state, score)
    return scheduler
