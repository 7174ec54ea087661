"""hydratune status and hydratune stop: what runs where, and ending it."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from filelock import FileLock

from conftest import SMALL, edited
from hydratune.errors import InputError
from hydratune.overview import adding, held_locks
from hydratune.overview.collect import Life, find, view_run, view_sweep
from hydratune.overview.command import parse_options
from hydratune.overview.held_locks import HeldLocks, this_host
from hydratune.records.run_directory import RunDirectory
from hydratune.records.status import State
from hydratune.records.sweep import SweepJob, write_sweep
from hydratune.settings.monitor import Monitor
from hydratune.sweeps import added_jobs, joining
from hydratune.sweeps.stop_requests import stop_requests

Command = Callable[..., tuple[int, str]]
LR = {"5": "0.3333333333333333"}  # of a job that a sampler chose
HISTORY = "step,epoch,train/loss,val/loss,lr\n"


def make_run(folder: Path, state: State | None = None, **status: object) -> RunDirectory:
    record = RunDirectory(folder)
    folder.mkdir(parents=True, exist_ok=True)
    record.start()
    if state is not None:
        record.end(state, "the reason" if state is State.failed else None)
    if status:
        record.update(**status)
    return record


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Path]:
    """A sweep whose job 0 runs in this process, 1 finished, 2 failed, 3 was lost, 4 has not begun,
    5 runs elsewhere and 6 cannot be read.
    """
    folder = tmp_path / "sweep"
    names = [str(number) for number in range(7)]
    write_sweep(
        folder, [SweepJob(n, (f"lr={n}",), {"optimizer.lr": LR.get(n, f"1e-{n}")}) for n in names]
    )
    make_run(folder / "0")
    make_run(folder / "1", State.finished)
    make_run(folder / "2", State.failed)
    make_run(folder / "3", pid=2**22 + 1)
    make_run(folder / "5", host="another-machine")
    make_run(folder / "6")
    edited(folder / "6" / "status.json", '{"state": "run')
    for name in ("3", "5"):
        (folder / name / ".lock").touch()
    history = [(4, 0.2, 0.9, 0.8), (8, 0.4, 0.7, ""), (12, 0.6, 0.5, 0.4), (14, 0.7, 0.3, "")]
    rows = "".join(",".join(map(str, (*row, 0.1))) + "\n" for row in history)
    (folder / "0" / "history.csv").write_text(HISTORY + rows)
    (folder / "1" / "metrics.json").write_text(json.dumps({"val/loss": 0.6}))
    with FileLock(folder / ".lock"), FileLock(folder / "0" / ".lock"):
        yield folder


@pytest.mark.fault(
    "a process ends without a word",
    seen="`hydratune status` says lost, and the command that continues",
    kept="the checkpoints",
)
@pytest.mark.parametrize("listed", [True, False])
def test_every_job_has_its_state(
    sweep: Path, listed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not listed:  # as on systems without /proc/locks
        monkeypatch.setattr(held_locks, "_LOCKS", Path("/nowhere/locks"))
    view = view_sweep(sweep, HeldLocks())
    states = ["running", "finished", "failed", "lost", "waiting", "running", "unreadable"]
    assert [job.state for job in view.jobs] == states
    lives = [Life.alive, Life.none, Life.none, Life.lost, Life.none, Life.elsewhere, Life.none]
    assert [job.life for job in view.jobs] == lives
    known = os.getpid() if listed and sys.platform == "linux" else 0
    assert view.driver == view.jobs[0].process == known
    assert view.jobs[5].where == "another-machine" and view.jobs[3].where == ""
    best = view.best()
    assert best is not None and best.name == "0" and best.value(view.monitor) == 0.4
    assert view.jobs[0].last["step"] == 14 and view.jobs[0].last["train/loss"] == 0.3


def test_a_halved_job_shows_by_what_it_was_judged(tmp_path: Path) -> None:
    rung, halved = [6, 7.0, 0.25, None], {"step": 6, "value": 7.0, "rung": 0}
    record = make_run(tmp_path / "s" / "0", State.stopped, rungs=[rung], halved=halved)
    # a validation before the rung, which is in the history
    record.history_file.write_text(f"{HISTORY}4,0.5,6.7,6.6,0.1\n")
    write_sweep(tmp_path / "s", [SweepJob("0", (), {})])
    (job,) = view_sweep(tmp_path / "s", HeldLocks()).jobs
    assert job.state == "halved" and job.value(Monitor()) == 7.0
    assert job.value(Monitor.read("val/field_f1")) == 0.25


def test_the_command_shows_what_needs_attention(hydratune: Command, sweep: Path) -> None:
    code, text = hydratune("status", str(sweep))
    assert code == 1, text
    assert "1 lost, 1 unreadable, 1 failed, 2 running, 1 waiting, 1 finished" in text
    assert "3: lost: process 4194305 ended without a word" in text
    assert "2: failed: the reason" in text and "status.json cannot be read" in text
    assert "5: started on another-machine" in text
    assert "best so far: 0 (lr=1e-0): validation loss 0.4000" in text
    assert "continue" not in text  # a process runs the sweep
    assert "0.3333 " in text and "0.33333" not in text  # a learning rate in four digits
    code, text = hydratune("status", str(sweep), "json=true")
    (content,) = json.loads(text)
    assert code == 1 and content["best"] == "0" and content["jobs"][3]["state"] == "lost"
    assert content["jobs"][0]["val/loss"] == 0.4 and content["jobs"][1]["val/loss"] == 0.6


def test_a_folder_lists_the_newest_first(hydratune: Command, tmp_path: Path, sweep: Path) -> None:
    for number in range(25):
        ended = f"2026-01-{1 + number:02d}T00:00:00+00:00"
        make_run(tmp_path / "name" / f"run{number}", State.finished, ended=ended)
    code, text = hydratune("status", str(tmp_path))
    assert code == 1 and "1 sweep, 25 single runs" in text and "the newest 20 of 26" in text
    places = [text.index(name) for name in ("(sweep)", "run24", "run23", "run6")]
    assert places == sorted(places) and "run5 " not in text
    assert "run5 " in hydratune("status", str(tmp_path), "all=true")[1]
    assert len(list(find(tmp_path))) == 26


@pytest.mark.parametrize(
    ("file", "content", "why"),
    [
        ("sweep.json", "{", "is not as it was written"),
        ("added.json", "[]", "added.json is not as hydratune writes it (TypeError"),
        ("slurm/packs.json", '{"packs": [3]}', "packs.json is not as hydratune writes it"),
    ],
)
def test_a_sweep_that_cannot_be_read_hides_no_other(
    hydratune: Command, tmp_path: Path, sweep: Path, file: str, content: str, why: str
) -> None:
    broken = tmp_path / "broken"
    write_sweep(broken, [SweepJob("0", (), {})])
    make_run(broken / "0", State.finished)
    (broken / "slurm").mkdir()
    (broken / file).write_text(content)
    code, text = hydratune("status", str(tmp_path))
    assert code == 1 and "broken/" in text and why in text, text
    assert "sweep of 7 jobs" in text, text
    code, text = hydratune("status", str(broken), "json=true")
    (found,) = json.loads(text)
    assert code == 1 and found["state"] == "unreadable" and why in found["error"]
    assert hydratune("status", str(broken / "0"))[0] == 0  # as the message says
    for command in ("stop", "add"):
        code, text = hydratune(command, str(broken), "optimizer.lr=1")
        assert code == 1 and why in text, text


def test_names_and_reasons_cannot_change_the_terminal(hydratune: Command, tmp_path: Path) -> None:
    folder = tmp_path / "evil"
    write_sweep(folder, [SweepJob("0", (), {"name": "[red]x\x1b[2J"})])
    make_run(folder / "0", State.failed, error="\x1b]0;owned\x07 [bold]no markup[/]")
    code, text = hydratune("status", str(folder))
    assert code == 0 and "\x1b]0" not in text and "\x1b[2J" not in text
    assert "[bold]no markup" in text and "[red]x" in text


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["jsn=true"], "did you mean json=true?"),
        (["json=maybe"], "give json=true or json=false"),
        (["a", "b"], "hydratune status b shows this one"),
        (["--everything"], "hydratune status --help lists all"),
    ],
)
def test_wrong_words_are_refused(words: list[str], why: str) -> None:
    with pytest.raises(InputError, match=why.replace("?", r"\?")):
        parse_options(words)


def test_folders_without_runs_are_refused(hydratune: Command, tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text("{}")
    code, text = hydratune("status", str(tmp_path / "status.json"))
    assert code == 2 and f"is a file: give its folder, {tmp_path}" in " ".join(text.split())
    (tmp_path / "status.json").unlink()
    (tmp_path / "empty").mkdir()
    for folder, why in (("empty", "neither a run nor a sweep"), ("none", "no such folder")):
        code, text = hydratune("status", str(tmp_path / folder))
        assert code == 2 and why in text
    code, text = hydratune("stop", str(tmp_path / "empty"))
    assert code == 2 and "neither a sweep nor a run" in text
    assert hydratune("stop")[0] == 2


def test_jobs_are_asked_to_stop(hydratune: Command, sweep: Path) -> None:
    code, text = hydratune("stop", str(sweep), "9")
    assert code == 2 and "no such job; jobs: 0, 1, 2, 3, 4, 5, 6" in text
    code, text = hydratune("stop", str(sweep), "1")
    assert code == 2 and "1 is finished" in text and not stop_requests(sweep)
    code, text = hydratune("stop", str(sweep), "4")
    assert code == 0 and "asked to stop: 1 job (4)" in text and stop_requests(sweep) == {"4"}
    assert hydratune("stop", str(sweep))[0] == 0 and stop_requests(sweep) == {"0", "4", "5"}


def test_a_sweep_that_nothing_runs_is_not_stopped(hydratune: Command, tmp_path: Path) -> None:
    write_sweep(tmp_path / "s", [SweepJob("0", (), {})])
    code, text = hydratune("stop", str(tmp_path / "s"))
    assert code == 2 and "no process runs this sweep" in text


def test_a_lost_sweep_shows_the_command_that_continues_it(
    hydratune: Command, tmp_path: Path
) -> None:
    folder = tmp_path / "s"
    write_sweep(folder, [SweepJob("0", (), {})])
    make_run(folder / "0")
    overrides = "{task: ['optimizer.lr=1e-3,1e-2', 'name=a b'], hydra: [hydra.mode=MULTIRUN]}"
    (folder / "multirun.yaml").write_text(
        f"hydra: {{overrides: {overrides}, runtime: {{cwd: /some/where}}}}\n"
        "trainer: {monitor: val/field_f1}\n"
    )
    view = view_sweep(folder, HeldLocks())
    assert str(view.monitor) == "val/field_f1:max"
    code, text = hydratune("status", str(folder))
    assert code == 1
    command = "cd /some/where && hydratune train -m optimizer.lr=1e-3,1e-2 'name=a b'"
    assert f"{command} hydra.sweep.dir={folder}" in text


@pytest.mark.parametrize(
    ("moved_to", "shown"),
    [("s", "s"), ("t", "{}/t"), ("a b", '"{}/a b"')],
)
def test_the_command_that_continues_names_the_folder_as_it_is_now(
    hydratune: Command, tmp_path: Path, moved_to: str, shown: str
) -> None:
    """The command as it was typed would begin the sweep anew in the old place."""
    write_sweep(tmp_path / "s", [SweepJob("0", (), {})])
    (tmp_path / "s" / "multirun.yaml").write_text(
        "hydra: {overrides: {task: ['seed=1,2'], hydra: [hydra.sweep.dir=s]},"
        f" runtime: {{cwd: {tmp_path}}}}}\n"
    )
    (tmp_path / "s").rename(tmp_path / moved_to)
    code, text = hydratune("status", str(tmp_path / moved_to))
    place = shlex.quote(f"hydra.sweep.dir={shown.format(tmp_path)}")
    assert code == 0 and f"train -m seed=1,2 {place}\n" in text, text


@pytest.mark.slow
def test_ten_thousand_runs_are_listed_in_two_seconds(hydratune: Command, tmp_path: Path) -> None:
    for number in range(10_000):
        folder = tmp_path / f"name{number % 7}" / f"run{number}"
        folder.mkdir(parents=True)
        state = {"state": "finished" if number % 9 else "running", "started": "2026-11-30"}
        (folder / "status.json").write_text(json.dumps(state))
    began = time.process_time()
    code, text = hydratune("status", str(tmp_path))
    assert time.process_time() - began < 2 and code == 1
    assert "8888 finished" in text and "1112 lost" in text


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="proc(5)")
def test_a_run_is_stopped_from_another_terminal_with_its_work_kept(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    long = ["trainer.max_steps=4000", "trainer.max_epochs=1000", "trainer.checkpoint_minutes=1e-3"]
    words = [*(word for word in SMALL if "max_" not in word), *long, f"hydra.run.dir={folder}"]
    command = [sys.executable, "-m", "hydratune"]
    run = subprocess.Popen([*command, "train", *words], stdout=subprocess.DEVNULL)
    try:
        for _ in range(600):
            if view_run(folder, HeldLocks()).last.get("step"):
                break
            time.sleep(0.1)
        assert view_run(folder, HeldLocks()).process == run.pid
        stopped = subprocess.run([*command, "stop", folder], capture_output=True, text=True)
        assert stopped.returncode == 0 and f"process {run.pid}" in stopped.stdout
        assert run.wait(60) == 130
    finally:
        if run.poll() is None:
            run.send_signal(signal.SIGKILL)
    assert view_run(folder, HeldLocks()).state == "stopped"
    assert this_host() == view_run(folder, HeldLocks()).host
    assert (folder / "adapter").is_dir() and (folder / "checkpoints" / "last.ckpt").is_file()


def test_a_process_that_waits_for_a_lock_does_not_hold_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / ".lock"
    lock.touch()
    found = lock.stat()
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    (tmp_path / "locks").write_text(
        f"1: FLOCK  ADVISORY  WRITE 708 {place} 0 EOF\n"
        f"1: -> FLOCK  ADVISORY  WRITE 999 {place} 0 EOF\n"
        "2: POSIX  ADVISORY  READ 5 08:01:1 128 128\n"
    )
    monkeypatch.setattr(held_locks, "_LOCKS", tmp_path / "locks")
    assert HeldLocks().process(tmp_path) == 708
    assert HeldLocks().process(tmp_path / "other") is None


# --------------------------------------------------------------------------------- further jobs
@pytest.fixture
def grid(tmp_path: Path) -> Path:
    """A finished sweep over two settings."""
    folder = tmp_path / "grid"
    values = [("1e-3", "4"), ("1e-2", "4"), ("1e-2", "8")]
    overrides = [("model=tiny", f"optimizer.lr={lr}", f"adapter.r={r}") for lr, r in values]
    jobs = [
        SweepJob(str(number), words, {"optimizer.lr": lr, "adapter.r": r})
        for number, (words, (lr, r)) in enumerate(zip(overrides, values, strict=True))
    ]
    write_sweep(folder, jobs)
    for job in jobs:
        make_run(folder / job.name, State.finished)
    (folder / "multirun.yaml").write_text(
        "hydra: {overrides: {task: ['optimizer.lr=1e-3,1e-2'],"
        " hydra: [hydra.launcher.retries=3, hydra.sweep.dir=x, hydra.mode=MULTIRUN]}}\n"
    )
    return folder


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        (["optimizer.lr=3e-2", "adapter.r=4"], ["model=tiny", "optimizer.lr=3e-2", "adapter.r=4"]),
        (["optimizer.lr=3e-2", "like=2"], ["model=tiny", "adapter.r=8", "optimizer.lr=3e-2"]),
    ],
)
def test_further_jobs_have_the_settings_of_their_sweep(
    grid: Path, words: list[str], settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr(
        "hydratune.composition.run_command", lambda _, args, shown: called.append(args) or 0
    )
    for _ in range(2):  # the same words are the same jobs
        assert adding.add([str(grid), *words]) == 0
    assert called[0] == called[1]
    assert called[0][: len(settings) + 2] == ["-m", *settings, "hydra.launcher.retries=3"]
    assert "hydra.sweep.subdir=a1-${hydra.job.num}" in called[0]
    assert adding.add([str(grid), "optimizer.lr=5", "like=0"]) == 0
    assert "hydra.sweep.subdir=a2-${hydra.job.num}" in called[2]
    assert view_sweep(grid, HeldLocks()).typed == [
        "optimizer.lr=1e-3,1e-2",
        "hydra.launcher.retries=3",
        "hydra.sweep.dir=x",
    ]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (
            ["optimizer.lr=3e-2"],
            "adapter.r varies in this sweep: give a value, such as adapter.r",
        ),
        (["seed=1"], "adapter.r and optimizer.lr vary in this sweep"),
        (["seed=1", "like=7"], "no such job; jobs: 0, 1, 2"),
        (["seed=1", "from=2"], "it has no adapter yet; like=2 begins from the base model"),
        (["seed=1", "from=2", "like=1"], "from=2 like=1: give one of these"),
        (["seed=1", "like=2", "like=1"], "like=2 like=1: give one of these"),
        (["seed=1", "from="], "from=: give the name of a job"),
        (["like=1"], "or the job would be the same again"),
        (["seed=1", "like=1", "hydra.sweep.dir=x"], "hydra.sweep.dir=x: jobs are added in the"),
        (["seed=1", "like=1", "hydra.mode=RUN"], "hydra.mode=RUN: jobs are added in the"),
        (["fast"], "give SETTING=VALUE"),
    ],
)
def test_further_jobs_that_are_not_clear_are_refused(
    hydratune: Command, grid: Path, words: list[str], why: str
) -> None:
    code, text = hydratune("add", str(grid), *words)
    assert code == 2 and why in text and not (grid / "added.json").exists()


@pytest.mark.parametrize("is_running", [False, True])
def test_further_jobs_that_are_refused_are_forgotten(
    hydratune: Command, grid: Path, is_running: bool
) -> None:
    """The process that runs the sweep would start them at its end, and fail by them."""
    with FileLock(grid / ".lock") if is_running else nullcontext():
        code, text = hydratune("add", str(grid), "optimizer.lr=fast", "like=0")
        assert code == 2 and "must be a number" in text
    assert view_sweep(grid, HeldLocks()).added == [] == added_jobs.run_waiting(grid)
    assert added_jobs.number_of(grid, ["optimizer.lr=1"], [], is_waiting=False) == 1


def test_further_jobs_keep_their_numbers_when_others_are_refused(tmp_path: Path) -> None:
    for number, word in enumerate(("lr=1", "lr=2", "lr=3"), 1):
        assert added_jobs.number_of(tmp_path, [word], [], is_waiting=True) == number
    added_jobs.forget_refused(tmp_path, 2)
    assert added_jobs.added_words(tmp_path) == [["lr=1"], ["lr=3"]]
    assert added_jobs.number_of(tmp_path, ["lr=3"], [], is_waiting=True) == 3
    assert added_jobs.number_of(tmp_path, ["lr=2"], [], is_waiting=True) == 2
    assert added_jobs.added_words(tmp_path) == [["lr=1"], ["lr=2"], ["lr=3"]]
    for number in (2, 3):
        added_jobs.forget_refused(tmp_path, number)
    assert added_jobs.number_of(tmp_path, ["lr=4"], [], is_waiting=True) == 2


def test_jobs_that_are_added_while_the_sweep_runs_wait_for_its_end(
    hydratune: Command, grid: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "_PATIENCE", 0.0)
    with FileLock(grid / ".lock"):
        code, text = hydratune("add", str(grid), "optimizer.lr=1", "like=0")
    assert (
        code == 0
        and "a1-0 (lr=1, r=4) is kept: it starts when the sweep's own jobs have ended" in text
    )
    assert not list((grid / ".join").iterdir()) and not (grid / "a1-0" / "adapter").exists()
    started: list[list[str]] = []
    monkeypatch.setattr(added_jobs.subprocess, "Popen", started.append)
    monkeypatch.setattr(added_jobs, "wait", lambda _: 0)
    assert added_jobs.run_waiting(grid) == [0]
    assert started[0][2:] == ["hydratune", "add", str(grid), "optimizer.lr=1", "like=0"]
    assert view_sweep(grid, HeldLocks()).added == [["optimizer.lr=1", "like=0"]]
    assert added_jobs.run_waiting(grid) == []  # once


def test_added_jobs_that_were_asked_to_stop_do_not_start(
    hydratune: Command, grid: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would start when all other jobs have stopped; ``hydratune stop`` named them too."""
    started: list[list[str]] = []
    monkeypatch.setattr(added_jobs.subprocess, "Popen", started.append)
    monkeypatch.setattr(added_jobs, "wait", lambda _: 0)
    pytest.importorskip("submitit")
    monkeypatch.setattr(joining, "_PATIENCE_ELSEWHERE", 0.0)
    cluster = "hydra/launcher/executor=slurm"  # no command takes jobs for it
    with FileLock(grid / ".lock"):
        for words in (["optimizer.lr=1", "like=0"], ["optimizer.lr=2,3", "like=0"]):
            assert hydratune("add", str(grid), *words, cluster)[0] == 0
        assert {"a1-0", "a2-0", "a2-1"} <= {j.name for j in view_sweep(grid, HeldLocks()).jobs}
        code, text = hydratune("stop", str(grid), "a1-0")
    assert code == 0 and "asked to stop: 1 job (a1-0)" in text
    assert added_jobs.run_waiting(grid) == [0] and "optimizer.lr=2,3" in started[0]
    assert added_jobs.run_waiting(grid) == []
    code, text = hydratune("status", str(grid))
    assert "continue    hydratune add" in text and "optimizer.lr=1 like=0" in text
    with FileLock(grid / ".lock"):
        assert hydratune("add", str(grid), "optimizer.lr=1", "like=0", cluster)[0] == 0
    assert added_jobs.run_waiting(grid) == [0]


@pytest.mark.slow
def test_further_jobs_are_ranked_with_the_others(hydratune: Command, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    words = (*SMALL, "optimizer.lr=1e-3,1e-2", "tracking=disabled", f"hydra.sweep.dir={folder}")
    assert hydratune("train", "-m", *words)[0] == 0
    code, text = hydratune("add", str(folder), "optimizer.lr=3e-2")
    assert code == 0 and "sweep of 1 job" in text and "│ 3 │" in text, text
    code, text = hydratune("add", str(folder), "optimizer.lr=5e-3", "from=1")
    assert code == 0, text
    view = view_sweep(folder, HeldLocks())
    assert {job.name: job.state for job in view.jobs} == dict.fromkeys(
        ("0", "1", "a1-0", "a2-0"), "finished"
    )
    code, text = hydratune("add", str(folder), "optimizer.lr=3e-2")
    assert code == 0 and "1 of 1 job finished before" in text
