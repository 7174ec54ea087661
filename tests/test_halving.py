"""Most jobs of a sweep leave early; those that stay are what they would be without the others."""

import json
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
from hydratune.sweeps.halving import Halving, HalvingScheduler
from hydratune.training.callbacks import Rungs
from hydratune.training.module import FineTuning
from test_pack import assert_same_run, history, states

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
    assert Halving(min_steps, eta).rungs(total) == rungs


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"eta": 4, "kind": "asha"},
            [
                "halving.eta = 4",
                "halving.kind = asha",
                "nobody is halved while min_steps is not set",
            ],
        ),
        ({"min_steps": 0, "eta": 1}, ["halving.min_steps = 0", "halving.eta = 1"]),
        (
            {"min_steps": 5, "metric": "eval/rouge", "kind": "hyper"},
            ["metric = eval/rouge", "kind = hyper", "sync or asha"],
        ),
    ],
)
def test_what_cannot_be_is_refused(values: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        Halving.asked_for(
            {"min_steps": None, "eta": 3, "metric": "val/loss", "kind": "sync", **values}
        )
    for word in words:
        assert word in str(raised.value)


def test_nobody_is_halved_unless_asked_for() -> None:
    assert (
        Halving.asked_for({})
        is Halving.asked_for({"min_steps": None, "eta": 3, "metric": "val/loss", "kind": "sync"})
        is None
    )


def simulate(
    turns: HalvingScheduler, quality: dict[str, float], total: int, workers: int, fails: str = ""
) -> dict[str, int]:
    """Runs jobs whose loss is ``quality`` in threads; returns how many steps each was trained."""
    assert turns.halving is not None
    rungs = turns.halving.rungs(total)
    steps = dict.fromkeys(quality, 0)

    def work() -> None:
        while (name := turns.next()) is not None:
            state, final = "finished", quality[name]
            while True:
                time.sleep(random.random() / 300)
                left = [step for step in rungs if step > steps[name]]
                steps[name] = left[0] if left else total
                if name == fails and steps[name] >= rungs[-1]:
                    state, final = "failed", float("inf")
                    break
                if not left:
                    break
                if not turns.reached(name, rungs.index(left[0]), quality[name]):
                    state = "paused"
                    break
            turns.ended(name, state, final)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    return steps


@pytest.mark.parametrize("workers", [1, 3, 20])
def test_the_best_third_goes_on(workers: int) -> None:
    quality = {str(n): (n * 7 % 16) / 10 for n in range(16)}
    out: list[str] = []
    turns = HalvingScheduler(list(quality), Halving(2))
    turns.on_out = out.append
    steps = simulate(turns, quality, 20, workers)
    by_quality = sorted(quality, key=lambda n: quality[n])
    assert [steps[n] for n in by_quality] == [20] + [6] * 4 + [2] * 11
    assert sorted(out) == sorted(by_quality[1:])


@pytest.mark.parametrize("workers", [1, 4])
def test_without_waiting_somebody_comes_to_the_end_and_few_steps_are_spent(workers: int) -> None:
    quality = {str(n): (n * 7 % 27) / 10 for n in range(27)}
    steps = simulate(HalvingScheduler(list(quality), Halving(1, kind="asha")), quality, 9, workers)
    assert steps[min(quality, key=lambda n: quality[n])] == 9
    assert sum(steps.values()) < 27 * 9 / 2
    assert list(steps.values()).count(1) >= 9


def test_whoever_fails_takes_no_place_and_nobody_waits_for_it() -> None:
    quality = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4, "e": 0.5, "f": 0.6}
    steps = simulate(HalvingScheduler(list(quality), Halving(1)), quality, 9, 2, fails="a")
    assert steps == {
        "a": 3,
        "b": 9,
        "c": 3,
        "d": 1,
        "e": 1,
        "f": 1,
    }  # c has the place that a leaves
    assert simulate(
        HalvingScheduler(list(quality), Halving(1)), dict.fromkeys(quality, float("inf")), 9, 2
    ) == dict.fromkeys(quality, 1)


def test_without_waiting_whoever_fails_leaves_its_place_as_well() -> None:
    turns = HalvingScheduler(list("abcd"), Halving(1, kind="asha"))
    for name, value in zip("abc", (0.6, 0.5, 0.4), strict=True):
        assert turns.next() == name
        assert turns.reached(name, 0, value) is (name == "c")  # the best of three
        turns.ended(name, "failed" if name == "c" else "paused")
    assert turns.next() == "b"


def test_a_substitute_comes_from_those_who_were_out_already() -> None:
    out: list[str] = []
    turns = HalvingScheduler(list("abc"), Halving(1))
    turns.on_out = out.append
    for name, value in zip("abc", (0.1, 0.2, 0.3), strict=True):
        assert turns.next() == name
        if not turns.reached(name, 0, value):
            turns.ended(name, "paused")
    assert turns.next() == "a" and out == ["b", "c"]
    turns.ended("a", "failed")
    assert turns.next() == "b" and turns.reached("b", 1, 0.2)
    turns.ended("b", "finished", 0.2)
    assert turns.next() is None and out == ["b", "c"]


def test_whoever_waits_looks_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting threads must not wake each other again and again while somebody trains."""
    turns = HalvingScheduler(list("abc"), Halving(1))
    looks: list[float] = []
    judge = turns._judge
    monkeypatch.setattr(turns, "_judge", lambda: looks.append(time.monotonic()) or judge())
    for name in "abc":
        assert turns.next() == name
    looks.clear()
    waiting = [threading.Thread(target=turns.next, daemon=True) for _ in range(3)]
    for thread in waiting:
        thread.start()
    time.sleep(1.2)
    assert 3 <= len(looks) <= 12
    for name in "abc":
        turns.ended(name, "finished", 0.1)
    for thread in waiting:
        thread.join(5)
        assert not thread.is_alive()


def test_what_is_known_from_an_earlier_start_counts() -> None:
    turns = HalvingScheduler(list("abcdef"), Halving(1))
    turns.known("a", [0.6], "paused")
    turns.known("b", [0.1, 0.1], "paused")
    turns.known("c", [], "finished", 0.2)
    steps = simulate(turns, {"a": 0.6, "b": 0.1, "c": 0.2, "d": 0.3, "e": 0.4, "f": 0.5}, 9, 1)
    assert steps["c"] == steps["a"] == 0 and steps["d"] == steps["e"] == steps["f"] == 1


def test_whoever_was_given_up_does_not_come_back() -> None:
    """It hung while a checkpoint was written, say, and wakes up: nobody would wait for its end."""
    turns = HalvingScheduler(["a", "b"], Halving(1))
    assert turns.next() == "a"
    turns.ended("a", "failed")
    assert not turns.reached("a", 0, 0.1)
    assert turns.next() == "b" and turns.reached("b", 0, 0.5)  # the best of all that are left


def test_without_waiting_those_that_failed_early_lend_nobody_their_places() -> None:
    turns = HalvingScheduler(list("abcdef"), Halving(1, kind="asha"))
    for name in "abcd":
        assert turns.next() == name
    for name in "abc":
        turns.ended(name, "failed")
    assert not turns.reached("d", 0, 0.9)  # one of one, and not of four


def test_nobody_waits_while_somebody_is_put_out_and_a_full_disk_stops_nobody() -> None:
    turns = HalvingScheduler(["a", "b", "c"], Halving(1))
    free: list[bool] = []

    def out(name: str) -> None:
        asking = threading.Thread(target=lambda: turns.reached("a", 0, 0.1))
        asking.start()
        asking.join(5)
        free.append(not asking.is_alive())
        raise OSError("no space left on device")

    turns.on_out = out
    for name, value in (("a", 0.1), ("b", 0.2), ("c", 0.3)):
        assert turns.next() == name
        if not turns.reached(name, 0, value):
            turns.ended(name, "paused")
    assert turns.next() == "a"
    assert free == [True, True]


def test_a_run_that_passed_a_rung_unasked_is_asked_when_it_goes_on() -> None:
    """It was killed between its checkpoint and the question, or was not halved then."""
    asked: list[tuple[int, float]] = []

    def ask(step: int, loss: float) -> bool:
        asked.append((step, loss))
        return step < 24

    module = FineTuning.__new__(FineTuning)
    module.validation_loss = lambda: 0.7  # type: ignore[method-assign]
    history: Any = SimpleNamespace(rows=[{"step": 8, "val/loss": 0.9}, {"step": 9}])
    rungs = Rungs(
        [2, 8, 24, 72], SimpleNamespace(steps=set()), history, ask, judged=lambda step: step == 2
    )  # type: ignore[arg-type]
    with pytest.raises(Paused):
        rungs.on_train_start(SimpleNamespace(global_step=40), module)  # type: ignore[arg-type]
    assert asked == [(8, 0.9), (24, 0.7)]
    asked.clear()
    rungs.on_train_start(SimpleNamespace(global_step=5), module)  # type: ignore[arg-type]
    assert asked == []


def test_asked_to_leave_nobody_waits() -> None:
    asked = threading.Event()
    turns = HalvingScheduler(["a"], Halving(1), asked)
    assert turns.next() == "a"
    threading.Timer(0.2, asked.set).start()
    assert turns.next() is None


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
def test_losers_leave_and_the_winner_is_the_same_as_without_them(
    hydratune: Command, tmp_path: Path, kind: str
) -> None:
    halving = f"hydra.launcher.halving={{min_steps: 3, kind: {kind}}}"
    code, text = hydratune(*sweep(tmp_path / "halved", halving))
    assert code == 0, text
    code, whole = hydratune(*sweep(tmp_path / "whole"))
    assert code == 0, whole
    found = states(tmp_path / "halved")
    winners = [name for name, state in found.items() if state == "finished"]
    assert winners and (kind == "asha" or len(winners) == 1)
    assert len(found) == 4
    for name, state in found.items():
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
    # other rungs would compare what cannot be compared, and a refusal leaves everything as it was
    before = (tmp_path / "halved" / "multirun.yaml").read_text()
    code, text = hydratune(*sweep(tmp_path / "halved", "hydra.launcher.halving.min_steps=4"))
    assert code == 2 and "was judged after 3 steps, and now it would be after 4" in text.replace(
        "3, 9 steps", "3 steps"
    )
    assert (tmp_path / "halved" / "multirun.yaml").read_text() == before
    # the same command again has nothing to do; without halving, the losers go on to the end
    code, text = hydratune(*sweep(tmp_path / "halved", halving))
    assert (
        code == 0
        and f"{len(winners)} of 4 jobs finished before, {4 - len(winners)} left early; skipped"
        in text
    )
    if kind == "sync":  # the rest is the same, and slow
        return
    code, text = hydratune(*sweep(tmp_path / "halved"))
    assert code == 0, text
    assert states(tmp_path / "halved") == dict.fromkeys("0123", "finished")
    for name in found:
        assert_same_run(tmp_path / "halved" / name, tmp_path / "whole" / name)


@pytest.mark.slow  # two sweeps in processes of their own
def test_a_sweep_killed_among_the_rungs_ends_like_one_that_was_not(
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


def test_beginning_anew_is_not_beginning_anew_at_every_rung(
    hydratune: Command, tmp_path: Path
) -> None:
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
    assert code == 0, text
    assert "goes on after step 3" in (tmp_path / "sweep" / "0" / "run.log").read_text()
