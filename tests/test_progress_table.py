"""What a pack shows of its jobs: which jobs, one line for each, and the time left."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from hydratune import console
from hydratune.console import Stage, progress, redirect_output
from hydratune.records.status import Status
from hydratune.records.sweep import SweepJob, read_sweep, write_sweep
from hydratune.settings.monitor import Monitor
from hydratune.sweeps import progress_table as progress_tables
from hydratune.sweeps.job_table import (
    JobLine,
    choose,
    describe,
    span,
    summary,
    table,
    time_left,
)
from hydratune.sweeps.progress_table import ProgressTable


def line(state: str = "running", **values: object) -> JobLine:
    return JobLine(**{"settings": "lr=1", "state": state, **values})  # type: ignore[arg-type]


def training(share: float, began: float = 0.0, since: float = 0.0) -> JobLine:
    return line(began=began, since=since, stage=Stage("training", 100 * share, 100))


def test_the_progress_table_shows_losses_and_progress_of_a_job(tmp_path: Path) -> None:
    """The loss of the last step is shown during validation, and the best validation loss after
    training.
    """
    write_sweep(tmp_path, [SweepJob("0", (), {"optimizer.lr": "0.1"})])
    progress_table = ProgressTable(tmp_path, ["0"])
    progress_table.began("0")
    with redirect_output(io.StringIO(), progress_table.listener("0")):
        with progress("training", 4) as ticker:
            ticker.advance(1, 10, loss=2.0)
            ticker.advance(0, 0, validation_loss=1.5)
            ticker.advance(1, 10, loss=1.0)
            ticker.advance(0, 0, validation_loss=1.75)
        job_line = progress_table.lines["0"]
        assert (
            job_line.settings,
            job_line.state,
            job_line.loss,
            job_line.best,
            job_line.stage.fraction,
        ) == (
            "lr=0.1",
            "running",
            1.0,
            1.5,
            0.5,
        )
        assert progress_table.seen("0") == "training 50 %"
        with progress("fine-tuned", 8):
            pass
    assert (job_line.loss, job_line.best, job_line.stage.done, job_line.trained is not None) == (
        1.0,
        1.5,
        0,
        True,
    )


def test_an_added_job_shows_the_settings_that_vary_in_its_sweep(tmp_path: Path) -> None:
    write_sweep(tmp_path, [SweepJob("0", (), {"optimizer.lr": "0.1"})])
    progress_table = ProgressTable(tmp_path, ["0"])
    added = SweepJob("a1-0", ("+optimizer.lr=3e-3", "seed=1"), {})  # no other differs from it
    write_sweep(tmp_path, [*read_sweep(tmp_path).values(), added])
    progress_table.add("a1-0")
    assert progress_table.lines["a1-0"].settings == "lr=3e-3"


def test_notes_of_a_bar_are_the_same_numbers(capfd: pytest.CaptureFixture[str]) -> None:
    with progress("training", 1) as ticker:
        ticker.advance(1, 10, loss=2.0, validation_loss=0.5)
    assert (
        "training: 1/1" in (printed := capfd.readouterr().out)
        and "loss 2.0000, validation loss 0.5000" in printed
    )


def test_a_long_sweep_shows_running_and_failed_jobs_and_the_best() -> None:
    lines = {str(n): line("waiting") for n in range(40)}
    lines |= {str(n): line("finished", best=100.0 - n, took=1.0) for n in range(20)}
    lines |= {"3": line("failed"), "4": line("stopped", best=0.1), "22": line(), "23": line()}
    assert list(choose(lines, 8)) == ["3", "15", "16", "17", "18", "19", "22", "23"]
    assert list(choose(lines, 10))[-4:] == ["20", "21", "22", "23"]
    assert choose(lines, 40) == lines
    assert list(choose(lines, -5)) == ["3", "22", "23"]
    text = summary(lines, 0.0, choose(lines, 8))
    assert text.startswith("20 of 40 jobs ended (1 failed); 2 running, 18 waiting; about ")
    assert "best so far: job 19 (lr=1) 81.0000" in text and text.endswith(
        "not shown: 13 finished, 1 stopped, 18 waiting"
    )


@pytest.mark.parametrize(("width", "wide"), [(140, True), (80, False)])
def test_every_job_is_one_line_of_the_terminal(width: int, wide: bool) -> None:
    lines = {
        "0": training(0.5),
        "1": line("failed", reason="because " * 40, settings="a=1, " * 30, took=5.0),
        "2": line("waiting"),
    }
    lines["0"].loss, lines["0"].best = 1.25, 2.5
    paper = Console(width=width, file=io.StringIO())
    paper.print(table(lines, 10.0, wide=wide))
    rows = paper.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(rows) == 4 + 3 and max(map(len, rows)) <= width
    assert all(word in rows[3] for word in ("training", "50 %", "1.2500", "2.5000", "10 s left"))
    assert ("50/100" in rows[3]) is wide
    assert "failed" in rows[4] and "becau" in rows[4] and "…" in rows[4] and "waiting" in rows[5]


def test_the_column_of_the_best_value_names_its_metric() -> None:
    def heading(*monitors: str) -> str:
        lines = {str(n): line("waiting") for n in range(len(monitors))}
        for job, monitor in zip(lines.values(), monitors, strict=True):
            job.monitor = Monitor.read(monitor)
        paper = Console(width=140, file=io.StringIO())
        paper.print(table(lines, 0.0, wide=True))
        return paper.file.getvalue().splitlines()[1]  # type: ignore[attr-defined,no-any-return]

    assert "best val loss" in heading("val/loss", "val/loss")
    assert "best val field F1" in heading("val/field_f1")
    assert "best val" not in heading("val/loss", "val/field_f1")


@pytest.mark.parametrize(
    ("lines", "seconds_left"),
    [
        ([line("waiting")], None),
        ([training(0.0), line("waiting")], None),  # unknown yet
        ([training(0.25), line("waiting")], 30 + 40),  # at 10 s: 30 s more, and the next takes 40 s
        ([training(0.25), training(0.25), line("waiting")], (30 + 30 + 40) / 2),
        ([training(0.1), training(0.5)], 90),  # the time of the longest job
        ([line("finished", took=20.0), line("waiting"), line("waiting")], 40),
        ([line("finished", took=20.0), training(0.0)], 10),
        # what comes after training
        ([line("finished", took=20.0, trained=15.0), training(0.5)], 10 + 5),
        ([line("failed", took=1.0), line("finished", took=20.0), line("waiting")], 20),
        (
            [
                line("finished", took=20.0, trained=12.0),
                line(trained=7.0, stage=Stage("fine-tuned", 0, 4)),
            ],
            8 - 3,
        ),
    ],
)
def test_time_left(lines: list[JobLine], seconds_left: float | None) -> None:
    assert time_left(lines, 10.0) == (
        pytest.approx(seconds_left) if seconds_left is not None else None
    )


def test_times_in_words() -> None:
    assert [span(s) for s in (3.2, 99, 100, 3600, 7500)] == [
        "3 s",
        "99 s",
        "2 min",
        "60 min",
        "2 h 5 min",
    ]


def test_without_a_terminal_the_same_facts_are_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """No matter which thread prints the lines, they are not written to the run.log of a job."""
    write_sweep(tmp_path, [SweepJob(name, (), {"optimizer.lr": name}) for name in "01"])
    assert not console.console.is_terminal
    with ProgressTable(tmp_path, ["0", "1"]) as progress_table:
        progress_table.began("0")
        progress_table.listener("0")(
            Stage("training", 5, 10, 123.0, {"loss": 1.5, "validation loss": 1.25})
        )
        progress_table.print_progress()
        assert capfd.readouterr().out == ""
        monkeypatch.setattr(progress_tables, "_PLAIN_INTERVAL", 0.0)
        progress_table.print_progress()
        printed = capfd.readouterr().out
        progress_table.ended("0", Status({"state": "finished"}))
        halved = {"step": 7, "value": 2.0, "rung": 0}
        progress_table.ended("1", Status({"state": "stopped", "halved": halved}))
    assert (
        "0 of 2 jobs ended; 1 running, 1 waiting" in printed
        and "best so far: job 0 (lr=0) 1.2500" in printed
    )
    assert (
        "job 0: training 50 % (5/10), loss 1.5000, best validation loss 1.2500, 123 tokens/s"
        in printed
    )
    assert capfd.readouterr().out.splitlines() == [
        "job 0 (lr=0) finished after 0 s, validation loss 1.2500",
        "job 1 (lr=1) stopped after 0 s: halved at step 7",
    ]


def test_a_job_that_stopped_early_says_so_in_its_line_and_in_the_table(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    why = "stopped early at step 3 (no better validation loss for 2 validations)"
    progress_table = ProgressTable(tmp_path, ["0", "1"])
    for name in "01":
        progress_table.began(name)
    listener = progress_table.listener("0")
    with redirect_output(io.StringIO(), listener), progress("training", 10) as ticker:
        ticker.advance(3, validation_loss=0.5)
        ticker.end_early(why)
    listener(Stage("fine-tuned", 1, 2))
    progress_table.ended("0", Status({"state": "finished"}))
    progress_table.ended("1", Status({"state": "finished"}))
    first, second = capfd.readouterr().out.splitlines()
    assert first.endswith(f", validation loss 0.5000: {why}") and "early" not in second
    table = Console(width=200, file=io.StringIO())
    table.print(progress_table.view())
    assert why in table.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO


def test_steps_before_a_resumption_do_not_count_as_speed(tmp_path: Path) -> None:
    """A job that is resumed from its checkpoint at step 80 of 100 has done 10 steps in 10 s."""
    assert Stage("training", 90, 100, resumed_at=80).seconds_left(10.0) == 10
    progress_table = ProgressTable(tmp_path, ["0"])
    with (
        redirect_output(io.StringIO(), progress_table.listener("0")),
        progress("training", 10) as ticker,
    ):
        ticker.resume_at(8)
    stage = progress_table.lines["0"].stage
    assert (stage.fraction, stage.seconds_left(5.0)) == (0.8, None)


def test_a_job_that_has_reported_nothing() -> None:
    assert describe("7", line()) == "job 7: starting"
    assert Stage("x", 5, -1).fraction == 0.0


def test_answers_during_training_do_not_end_its_stage() -> None:
    """They have no title; the remaining time is that of the training all the same."""
    job_line = training(0.5)
    job_line.update(Stage("training", 50, 100, numbers={"validation field F1": 0.25}), 10.0)
    job_line.update(Stage("", 3, 24), 11.0)
    assert job_line.stage.title == "training" and job_line.trained is None
    assert time_left([job_line], 12.0) == pytest.approx(12.0)
    job_line.update(Stage("fine-tuned", 1, 30), 20.0)
    assert job_line.trained == 20.0


def test_the_best_job_is_that_with_the_best_monitored_metric() -> None:
    metric = Monitor("val/field_f1", lower=False)
    lines = {name: line(monitor=metric) for name in "ab"}
    for name, values in (("a", (0.2, 0.4, 0.3)), ("b", (0.1, 0.3, 0.3))):
        for value in values:
            numbers = {"validation loss": 1.0, "validation field F1": value}
            lines[name].update(Stage("training", 50, 100, numbers=numbers), 10.0)
    assert lines["a"].best == 0.4 and "best so far: job a" in summary(lines, 12.0)


def test_the_last_line_of_plain_progress_has_the_last_numbers(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with progress("training", 2) as ticker:
        ticker.advance(1, 10, loss=2.0)
        ticker.advance(1, 10, loss=1.0)
        ticker.advance(0, validation_loss=3.0)
    (printed,) = capfd.readouterr().out.splitlines()
    assert printed.startswith("training: 2/2, ") and printed.endswith(
        ", loss 1.0000, validation loss 3.0000"
    )
    with progress("training", 2) as ticker:  # one that ends before
        ticker.advance(1, 10, loss=2.0)
    assert not capfd.readouterr().out


def test_what_a_pack_stores_is_shown_by_a_driver_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "progress.json"
    monkeypatch.setattr(progress_tables, "_STORE_INTERVAL", 0.0)
    monkeypatch.setenv(progress_tables.PROGRESS_VARIABLE, str(file))
    there = ProgressTable(tmp_path, ["0", "1"])
    there.began("0")
    there.listener("0")(Stage("training", 3, 8, numbers={"loss": 2.5, "validation loss": 1.5}))
    there.print_progress()
    monkeypatch.delenv(progress_tables.PROGRESS_VARIABLE)
    here = ProgressTable(tmp_path, ["0", "1", "2"])
    here.take(file.read_text())
    ours, theirs = here.lines["0"], there.lines["0"]
    assert (ours.stage, ours.loss, ours.best) == (theirs.stage, 2.5, 1.5)
    assert abs(ours.began - theirs.began) < 60 and ours.state == "running"
    assert (here.lines["1"].began, here.lines["2"].state) == (0.0, "waiting")
