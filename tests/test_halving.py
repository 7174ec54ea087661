"""Most jobs of a sweep are stopped early; the others equal those of a sweep without halving."""

import json
import math
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conftest import SMALL
from hydratune.errors import ConfigError, Paused
from hydratune.settings.monitor import Monitor
from hydratune.sweeps.halving import HalvingScheduler, JobState, best_of
from hydratune.sweeps.options import HalvingOptions, PackOptions
from hydratune.training.halving import HalvingRungs
from hydratune.training.module import FineTuning
from hydratune.training.protocols import RungScore
from run_files import assert_same_run, history, states

pytestmark = pytest.mark.usefixtures("packs_here")

Command = Callable[..., tuple[int, str]]
# 18 steps
RUN = (
    *(s for s in SMALL if not s.startswith(("data.batch_size", "trainer.max_steps"))),
    "data.max_train_rows=9",
    "data.batch_size=1",
    "trainer.max_steps=null",
    "trainer.max_epochs=2",
)


@pytest.mark.parametrize(
    ("min_steps", "eta", "total", "rungs"),
    [
        (7, 3, 64, [7, 21, 63]),
        (7, 3, 63, [7, 21]),
        (7, 3, 7, []),
        (1, 2, 9, [1, 2, 4, 8]),
        (1, 2, 8, [1, 2, 4]),
        (9, 4, 3, []),
    ],
)
def test_rungs(min_steps: int, eta: int, total: int, rungs: list[int]) -> None:
    assert HalvingOptions(min_steps, eta).rungs(total) == rungs


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"eta": 4, "kind": "asha"},
            [
                "halving.eta = 4",
                "halving.kind = asha",
                "no job is halved while min_steps is not set",
            ],
        ),
        (
            {"metric": "eval/field_f1"},
            ["halving.metric = eval/field_f1", "set trainer.monitor=val/field_f1"],
        ),
        ({"min_steps": 0, "eta": 1}, ["halving.min_steps = 0", "halving.eta = 1"]),
        (
            {"min_steps": 5, "metric": "eval/rouge", "kind": "hyper"},
            ["metric = eval/rouge", "kind = hyper", "sync or asha"],
        ),
    ],
)
def test_wrong_options_are_refused(values: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        HalvingOptions(**{"min_steps": None, "eta": 3, "metric": None, "kind": "sync", **values})
    for word in words:
        assert word in str(raised.value)


def test_no_job_is_halved_by_default() -> None:
    default = {"min_steps": None, "eta": 3, "metric": None, "kind": "sync"}
    for values in (None, {}, default):
        assert not PackOptions.from_mapping({"halving": values}).is_halving
    assert not HalvingOptions().is_on and HalvingOptions().rungs(100) == []


def simulate(
    scheduler: HalvingScheduler,
    quality: dict[str, float],
    total: int,
    workers: int,
    fails: str = "",
) -> dict[str, int]:
    """Run jobs whose loss is ``quality`` in threads; return how many steps each was trained."""
    assert scheduler.halving.is_on
    rungs = scheduler.halving.rungs(total)
    steps = dict.fromkeys(quality, 0)

    def work() -> None:
        while (name := scheduler.next_job()) is not None:
            state, final = JobState.finished, quality[name]
            while True:
                time.sleep(random.random() / 300)
                remaining = [step for step in rungs if step > steps[name]]
                steps[name] = remaining[0] if remaining else total
                if name == fails and steps[name] >= rungs[-1]:
                    state, final = JobState.failed, float("inf")
                    break
                if not remaining:
                    break
                if not scheduler.report_rung(
                    name, rungs.index(remaining[0]), RungScore(quality[name])
                ):
                    state = JobState.paused
                    break
            scheduler.end(name, state, RungScore(final))

    threads = [threading.Thread(target=work, daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    return steps


@pytest.mark.parametrize("workers", [1, 3, 20])
def test_the_best_third_is_trained_further(workers: int) -> None:
    quality = {str(n): (n * 7 % 16) / 10 for n in range(16)}
    out: list[str] = []
    scheduler = HalvingScheduler(list(quality), HalvingOptions(2), on_halved=out.append)
    steps = simulate(scheduler, quality, 20, workers)
    by_quality = sorted(quality, key=lambda n: quality[n])
    assert [steps[n] for n in by_quality] == [20] + [6] * 4 + [2] * 11
    assert sorted(out) == sorted(by_quality[1:])


@pytest.mark.parametrize("workers", [1, 4])
def test_asha_finishes_a_job_and_spends_few_steps(workers: int) -> None:
    quality = {str(n): (n * 7 % 27) / 10 for n in range(27)}
    steps = simulate(
        HalvingScheduler(list(quality), HalvingOptions(1, kind="asha")), quality, 9, workers
    )
    assert steps[min(quality, key=lambda n: quality[n])] == 9
    assert sum(steps.values()) < 27 * 9 / 2
    assert list(steps.values()).count(1) >= 9


def test_a_failed_job_leaves_its_place_and_no_job_waits_for_it() -> None:
    quality = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4, "e": 0.5, "f": 0.6}
    steps = simulate(HalvingScheduler(list(quality), HalvingOptions(1)), quality, 9, 2, fails="a")
    # c is trained further in place of a
    assert steps == {
        "a": 3,
        "b": 9,
        "c": 3,
        "d": 1,
        "e": 1,
        "f": 1,
    }
    assert simulate(
        HalvingScheduler(list(quality), HalvingOptions(1)),
        dict.fromkeys(quality, float("inf")),
        9,
        2,
    ) == dict.fromkeys(quality, 1)


def test_asha_gives_the_place_of_a_failed_job_to_the_next_best() -> None:
    scheduler = HalvingScheduler(list("abcd"), HalvingOptions(1, kind="asha"))
    for name, value in zip("abc", (0.6, 0.5, 0.4), strict=True):
        assert scheduler.next_job() == name
        assert scheduler.report_rung(name, 0, RungScore(value)) is (
            name == "c"
        )  # c is the best of three
        scheduler.end(name, JobState.failed if name == "c" else JobState.paused)
    assert scheduler.next_job() == "b"


def test_a_halved_job_is_resumed_in_place_of_a_failed_one() -> None:
    out: list[str] = []
    scheduler = HalvingScheduler(list("abc"), HalvingOptions(1), on_halved=out.append)
    for name, value in zip("abc", (0.1, 0.2, 0.3), strict=True):
        assert scheduler.next_job() == name
        if not scheduler.report_rung(name, 0, RungScore(value)):
            scheduler.end(name, JobState.paused)
    assert scheduler.next_job() == "a" and out == ["b", "c"]
    scheduler.end("a", JobState.failed)
    assert scheduler.next_job() == "b" and scheduler.report_rung("b", 1, RungScore(0.2))
    scheduler.end("b", JobState.finished, RungScore(0.2))
    assert scheduler.next_job() is None and out == ["b", "c"]


def test_waiting_threads_poll_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting threads must not wake each other again and again while a job trains."""
    scheduler = HalvingScheduler(list("abc"), HalvingOptions(1))
    looks: list[float] = []
    judge = scheduler._halve_losers
    monkeypatch.setattr(
        scheduler, "_halve_losers", lambda: looks.append(time.monotonic()) or judge()
    )
    for name in "abc":
        assert scheduler.next_job() == name
    looks.clear()
    waiting = [threading.Thread(target=scheduler.next_job, daemon=True) for _ in range(3)]
    for thread in waiting:
        thread.start()
    time.sleep(1.2)
    assert 3 <= len(looks) <= 12
    for name in "abc":
        scheduler.end(name, JobState.finished, RungScore(0.1))
    for thread in waiting:
        thread.join(5)
        assert not thread.is_alive()


def test_results_of_an_earlier_start_count() -> None:
    scheduler = HalvingScheduler(list("abcdef"), HalvingOptions(1))
    scheduler.restore("a", [RungScore(0.6)], JobState.paused)
    scheduler.restore("b", [RungScore(0.1)] * 2, JobState.paused)
    scheduler.restore("c", [], JobState.finished, RungScore(0.2))
    steps = simulate(scheduler, {"a": 0.6, "b": 0.1, "c": 0.2, "d": 0.3, "e": 0.4, "f": 0.5}, 9, 1)
    assert steps["c"] == steps["a"] == 0 and steps["d"] == steps["e"] == steps["f"] == 1


def test_a_job_that_was_given_up_is_not_resumed() -> None:
    """For example, it hung while a checkpoint was written and continues later: no thread waits for
    its end.
    """
    scheduler = HalvingScheduler(["a", "b"], HalvingOptions(1))
    assert scheduler.next_job() == "a"
    scheduler.end("a", JobState.failed)
    assert not scheduler.report_rung("a", 0, RungScore(0.1))
    # the best of the remaining jobs
    assert scheduler.next_job() == "b" and scheduler.report_rung("b", 0, RungScore(0.5))


def test_asha_does_not_count_jobs_that_failed_before_the_rung() -> None:
    scheduler = HalvingScheduler(list("abcdef"), HalvingOptions(1, kind="asha"))
    for name in "abcd":
        assert scheduler.next_job() == name
    for name in "abc":
        scheduler.end(name, JobState.failed)
    assert not scheduler.report_rung(
        "d", 0, RungScore(0.9)
    )  # counted as one of one, not one of four


def test_no_job_waits_while_another_is_halved_and_a_full_disk_stops_none() -> None:
    free: list[bool] = []

    def out(name: str) -> None:
        asking = threading.Thread(target=lambda: scheduler.report_rung("a", 0, RungScore(0.1)))
        asking.start()
        asking.join(5)
        free.append(not asking.is_alive())
        raise OSError("no space left on device")

    scheduler = HalvingScheduler(["a", "b", "c"], HalvingOptions(1), on_halved=out)
    for name, value in (("a", 0.1), ("b", 0.2), ("c", 0.3)):
        assert scheduler.next_job() == name
        if not scheduler.report_rung(name, 0, RungScore(value)):
            scheduler.end(name, JobState.paused)
    assert scheduler.next_job() == "a"
    assert free == [True, True]


def test_a_run_that_passed_a_rung_without_a_decision_is_judged_when_it_is_resumed() -> None:
    """It was killed between its checkpoint and the decision, or was not halved then."""
    reported: list[tuple[int, float]] = []

    def ask(step: int, score: RungScore) -> bool:
        reported.append((step, score.loss))
        return step < 24

    module = FineTuning.__new__(FineTuning)
    module.validation_loss = lambda: 0.7  # type: ignore[method-assign]
    history: Any = SimpleNamespace(rows=[{"step": 8, "val/loss": 0.9}, {"step": 9}])
    decisions = SimpleNamespace(
        rungs=lambda total: [2, 8, 24, 72], judged=lambda step: step == 2, may_continue=ask
    )
    rungs = HalvingRungs(decisions, 80, history)
    with pytest.raises(Paused):
        rungs.on_train_start(SimpleNamespace(global_step=40), module)  # type: ignore[arg-type]
    assert reported == [(8, 0.9), (24, 0.7)]
    reported.clear()
    rungs.on_train_start(SimpleNamespace(global_step=5), module)  # type: ignore[arg-type]
    assert reported == []


F1 = Monitor("val/field_f1", lower=False)


@pytest.mark.parametrize(
    ("count", "best"),
    [
        (1, ["c"]),  # a and c are in the interval of a, the best; c has the lower loss
        (2, ["c", "d"]),  # the interval of c, the last of the best, has a and d: by their loss
        (3, ["a", "c", "d"]),  # that of d has no other
        (4, ["a", "c", "d", "b"]),
    ],
)
def test_jobs_within_the_interval_of_the_last_one_are_ordered_by_their_loss(
    count: int, best: list[str]
) -> None:
    scores = {
        "a": RungScore(1.2, 0.50, (0.45, 0.55)),
        "b": RungScore(0.1, 0.10, (0.00, 0.20)),
        "c": RungScore(1.0, 0.48, (0.43, 0.53)),
        "d": RungScore(1.1, 0.44, (0.43, 0.47)),
        "e": RungScore(math.nan, math.nan),
        "f": None,
    }
    assert best_of(scores, count, F1) == best
    assert best_of(scores, count, Monitor()) == ["b", "c", "d", "a"][:count]


def test_an_interval_need_not_contain_its_value() -> None:
    scores = {
        "a": RungScore(0.2, 0.9, (0.95, 0.97)),
        "b": RungScore(0.1, 0.5, (0.6, 0.7)),
        "c": RungScore(0.3, 0.1, (0.1, 0.1)),
    }
    assert best_of(scores, 1, F1) == ["a"] and best_of(scores, 2, F1) == ["a", "b"]


def test_halving_keeps_the_job_with_the_highest_metric_and_equal_ones_by_their_loss() -> None:
    scheduler = HalvingScheduler(list("abc"), HalvingOptions(1), monitor=F1)
    for name, score in (
        ("a", RungScore(0.1, 0.0)),
        ("b", RungScore(0.9, 0.2)),
        ("c", RungScore(0.8, 0.2)),
    ):
        assert scheduler.next_job() == name
        continues = scheduler.report_rung(name, 0, score)
        assert continues is (name == "c")
        if not continues:
            scheduler.end(name, JobState.paused)


def test_no_thread_waits_when_the_pack_ends() -> None:
    was_asked = threading.Event()
    scheduler = HalvingScheduler(["a"], HalvingOptions(1), was_asked.is_set)
    assert scheduler.next_job() == "a"
    threading.Timer(0.2, was_asked.set).start()
    assert scheduler.next_job() is None


def sweep(folder: Path, *more: str) -> tuple[str, ...]:
    words = (
        "train",
        "-m",
        *RUN,
        "optimizer.lr=1e-5,3e-4,1e-3,1e-2",
        "adapter.lora_dropout=0.1",
        "hydra/launcher=pack",
    )
    return (*words, f"hydra.sweep.dir={folder}", *more)


@pytest.mark.slow  # two sweeps each
@pytest.mark.parametrize("kind", ["sync", "asha"])
def test_the_winner_is_the_same_as_without_the_halved_jobs(
    hydratune: Command, tmp_path: Path, kind: str
) -> None:
    halving = f"hydra.launcher.halving={{min_steps: 3, kind: {kind}}}"
    code, text = hydratune(*sweep(tmp_path / "halved", halving))
    assert code == 0, text
    code, whole = hydratune(*sweep(tmp_path / "whole"))
    assert code == 0, whole
    job_states = states(tmp_path / "halved")
    winners = [name for name, state in job_states.items() if state == "finished"]
    assert winners and (kind == "asha" or len(winners) == 1)
    assert len(job_states) == 4
    for name, state in job_states.items():
        ours, theirs = (history(tmp_path / which / name) for which in ("halved", "whole"))
        if state == "finished":
            assert_same_run(tmp_path / "halved" / name, tmp_path / "whole" / name)
        else:
            status = json.loads((tmp_path / "halved" / name / "status.json").read_text())
            assert state == "stopped" and status["halved"]["step"] == status["rungs"][-1][0] == len(
                ours
            )
            assert status["error"].startswith("halved: not among the best at step")
            assert [row["train/loss"] for row in ours] == [
                row["train/loss"] for row in theirs[: len(ours)]
            ]
            assert (tmp_path / "halved" / name / "adapter" / "adapter_model.safetensors").is_file()
    # other rungs cannot be compared with these, and a refusal changes nothing
    before = (tmp_path / "halved" / "multirun.yaml").read_text()
    code, text = hydratune(*sweep(tmp_path / "halved", "hydra.launcher.halving.min_steps=4"))
    assert (
        code == 2
        and "was compared after 3 steps, and these settings compare the jobs after 4"
        in text.replace("3, 9 steps", "3 steps")
    )
    assert (tmp_path / "halved" / "multirun.yaml").read_text() == before
    # the same command again has nothing to do; without halving, halved jobs are trained to the end
    code, text = hydratune(*sweep(tmp_path / "halved", halving))
    early = f"{4 - len(winners)} stopped early by halving"
    assert code == 0
    assert f"{len(winners)} of 4 jobs finished before, {early}; skipped" in text
    if kind == "sync":  # the rest is the same, and slow
        return
    code, text = hydratune(*sweep(tmp_path / "halved"))
    assert code == 0, text
    assert states(tmp_path / "halved") == dict.fromkeys("0123", "finished")
    for name in job_states:
        assert_same_run(tmp_path / "halved" / name, tmp_path / "whole" / name)


@pytest.mark.slow  # two sweeps in processes of their own
def test_a_sweep_killed_between_rungs_equals_an_undisturbed_sweep(
    hydratune: Command, tmp_path: Path
) -> None:
    halving = "hydra.launcher.halving={min_steps: 5}"
    words = [
        *sweep(tmp_path / "killed", halving),
        "trainer.max_epochs=20",
        "hydra.launcher.together=2",
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "hydratune", *words], cwd=tmp_path, stdout=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 120
        while (
            time.monotonic() < deadline
            and sum("rungs" in p.read_text() for p in (tmp_path / "killed").glob("*/status.json"))
            < 3
        ):
            time.sleep(0.02)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.kill()
        for child in children:
            subprocess.run(["kill", "-9", child], check=False)
    code, text = hydratune(*words)
    assert code == 0, text
    code, text = hydratune(*sweep(tmp_path / "whole", halving), "trainer.max_epochs=20")
    assert code == 0, text
    assert states(tmp_path / "killed") == states(tmp_path / "whole")
    for name, state in states(tmp_path / "whole").items():
        if state == "finished":
            assert_same_run(tmp_path / "killed" / name, tmp_path / "whole" / name)
        else:
            assert history(tmp_path / "killed" / name) == history(tmp_path / "whole" / name)


@pytest.mark.slow
def test_resume_never_restarts_no_job_at_a_rung(hydratune: Command, tmp_path: Path) -> None:
    words = [
        *sweep(
            tmp_path / "sweep",
            "hydra.launcher.halving={min_steps: 3, eta: 2}",
            "resume=never",
            "hydra.launcher.together=1",
        )
    ]
    words[words.index("optimizer.lr=1e-5,3e-4,1e-3,1e-2")] = "optimizer.lr=1e-3,1e-4"
    code, text = hydratune(*words)
    assert code == 0 and "resumed after step 3" in (tmp_path / "sweep/0/run.log").read_text(), text
