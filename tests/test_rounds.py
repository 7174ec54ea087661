"""Halving of jobs in several packs: rounds decide as one pack does, and no number changes."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from hydratune.records.files import write_json
from hydratune.records.run_directory import RunDirectory
from hydratune.records.status import Outcome, Rung, State, Status
from hydratune.records.sweep import SweepJob
from hydratune.sweeps.halving import HalvingScheduler, JobState, RoundScheduler
from hydratune.sweeps.halving_records import restore
from hydratune.sweeps.options import HalvingOptions
from hydratune.sweeps.planning import PlannedJob
from hydratune.sweeps.rounds import judge
from hydratune.training.protocols import RungScore
from run_files import assert_same_run, history, states, status
from test_config import compose
from test_halving import RUN, simulate

Command = Callable[..., tuple[int, str]]


def in_rounds(folder: Path, quality: dict[str, float], fails: str = "") -> dict[str, int]:
    """Run jobs round after round, each until its next rung; return how many steps each was
    trained.
    """
    halving, total = HalvingOptions(1), 9
    steps, rungs = dict.fromkeys(quality, 0), halving.rungs(total)
    composed, settings = OmegaConf.create({"hydra": {}}), compose()
    jobs = []
    for name in quality:
        record = RunDirectory(folder / name)
        record.path.mkdir()
        jobs.append(PlannedJob(SweepJob(name, (), {}), record, settings, composed))
    is_first = True
    while passed := judge(jobs, halving, is_first=is_first):
        is_first = False
        scheduler = RoundScheduler(list(passed), halving, passed=passed)
        records = {job.name: job.record for job in jobs if job.name in passed}
        restore(scheduler, records, ())
        while (name := scheduler.next_job()) is not None:
            record = records[name]
            record.start(resumed=True)
            remaining = [step for step in rungs if step > steps[name]]
            steps[name] = remaining[0] if remaining else total
            record.checkpoints.mkdir(exist_ok=True)
            record.last_checkpoint.touch()
            if name == fails and not remaining:
                record.end(State.failed, "it cannot")
                scheduler.end(name, JobState.failed)
            elif remaining:
                rung = Rung(steps[name], quality[name])
                record.change_status(lambda status, rung=rung: status.report(rung))
                number = rungs.index(steps[name])
                assert not scheduler.report_rung(name, number, RungScore(quality[name]))
                record.change_status(Status.pause)
                scheduler.end(name, JobState.paused)
            else:
                write_json(record.metrics_file, {"val/loss": quality[name]})
                record.end(State.finished)
                scheduler.end(name, JobState.finished)
    return steps


@pytest.mark.parametrize("count", [2, 7, 12])
def test_rounds_decide_as_one_pack_does(tmp_path: Path, count: int) -> None:
    quality = {str(n): (n * 7 % 13) / 10 for n in range(count)}
    alone = simulate(HalvingScheduler(list(quality), HalvingOptions(1)), quality, 9, 3)
    assert in_rounds(tmp_path, quality) == alone
    halved = {name for name in quality if RunDirectory(tmp_path / name).read_status().halved}
    assert halved == {name for name, steps in alone.items() if steps < 9}


def test_a_winner_that_fails_is_replaced_in_the_next_round(tmp_path: Path) -> None:
    quality = {"a": 0.1, "b": 0.3, "c": 0.2}
    steps = in_rounds(tmp_path, quality, fails="a")
    assert steps == {"a": 9, "b": 1, "c": 9}


def test_jobs_that_were_stopped_at_a_rung_are_judged_by_every_later_round(tmp_path: Path) -> None:
    """A pack of the round was cancelled; the same command continues."""
    halving, composed = HalvingOptions(1), OmegaConf.create({"hydra": {}})
    jobs = [
        PlannedJob(SweepJob(name, (), {}), RunDirectory(tmp_path / name), compose(), composed)
        for name in "abc"
    ]

    def reach(job: PlannedJob, loss: float) -> None:
        job.record.checkpoints.mkdir(parents=True, exist_ok=True)
        job.record.last_checkpoint.touch()
        job.record.start(resumed=True)
        job.record.change_status(lambda status: status.report(Rung(1, loss)))

    reach(jobs[0], 0.1)
    jobs[0].record.end(State.stopped, "a pack of its round was cancelled")
    assert judge(jobs, halving, is_first=True) == {"b": 0, "c": 0}
    for job in jobs[1:]:
        reach(job, 0.5)
        job.record.change_status(Status.pause)
    assert judge(jobs, halving, is_first=False) == {"a": 1}
    assert all(job.status.halved for job in jobs[1:])
    jobs[0].record.end(State.failed, "it cannot")
    assert judge(jobs, halving, is_first=False) == {"b": 1}
    # if its pack is killed, it is tried again as any other job, and not without end
    assert jobs[1].status.outcome is Outcome.paused and jobs[2].status.halved


@pytest.mark.slow
@pytest.mark.usefixtures("packs_here")
def test_a_sweep_in_several_packs_equals_one_in_a_single_pack(
    hydratune: Command, tmp_path: Path
) -> None:
    words = (
        *("train", "-m", *RUN, "optimizer.lr=1e-4,1e-3,1e-2", "adapter.r=2,4"),
        "hydra.launcher.halving.min_steps=2",
    )
    code, text = hydratune(*words, "hydra.sweep.dir=one")
    assert code == 0, text
    code, text = hydratune(*words, "hydra.sweep.dir=several", "hydra.launcher.pack_size=2")
    assert code == 0 and "round 1 of halving: 6 of 6 jobs in 3 packs" in text, text
    assert "round 2 of halving: 2 of 6 jobs in 1 pack" in text
    assert states(tmp_path / "one") == states(tmp_path / "several")
    for name, state in states(tmp_path / "one").items():
        ours, theirs = tmp_path / "several" / name, tmp_path / "one" / name
        assert status(ours)["rungs"] == status(theirs)["rungs"]
        assert status(ours).get("halved") == status(theirs).get("halved")
        if state == "finished":
            assert_same_run(ours, theirs)


@pytest.mark.slow
@pytest.mark.usefixtures("packs_here")
def test_asynchronous_halving_in_several_packs_trains_as_without_halving(
    hydratune: Command, tmp_path: Path
) -> None:
    words = ("train", "-m", *RUN, "optimizer.lr=1e-4,1e-3,1e-2", "adapter.r=2,4")
    code, text = hydratune(*words, "hydra.sweep.dir=whole")
    assert code == 0, text
    asha = "hydra.launcher.halving={min_steps: 2, kind: asha}"
    words = (*words, "hydra.sweep.dir=several", "hydra.launcher.pack_size=2", asha)
    code, text = hydratune(*words)
    assert code == 0 and "6 of 6 jobs in 3 packs, judged together" in text, text
    found = states(tmp_path / "several")
    finished = [name for name, state in found.items() if state == "finished"]
    assert 0 < len(finished) < 5 and set(found.values()) == {"finished", "stopped"}
    for name in found:
        ours, theirs = (history(tmp_path / which / name) for which in ("several", "whole"))
        losses = [[row["train/loss"] for row in rows] for rows in (ours, theirs)]
        assert losses[0] and losses[0] == losses[1][: len(ours)]
        if name in finished:
            assert_same_run(tmp_path / "several" / name, tmp_path / "whole" / name)
    code, text = hydratune(*words)
    early = f"{len(finished)} of 6 jobs finished before, {6 - len(finished)} stopped early"
    assert code == 0 and early in text, text
