"""``hydratune sweep``: trials of a W&B sweep, trained together, with the real client."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from wandb_sweep_cases import (
    press_stop,
    run_driver,
    runs_of_folder,
    server,
    start_driver,
    status,
    sweep_file,
    sweep_folder,
    wait_until,
)

__all__ = ["server"]  # a fixture
pytestmark = pytest.mark.slow
LONG = 100_000  # steps: such a trial ends only if it is stopped
GRID = {"optimizer.lr": {"values": [1e-3, 3e-3]}, "adapter": {"values": ["lora", "dora"]}}


def test_a_grid_of_four_is_trained_in_one_pack(tmp_path: Path, server: Any) -> None:
    file = sweep_file(tmp_path, GRID)
    code, text = run_driver(server, tmp_path, str(file))
    assert code == 0, text
    assert "pack 1 of 1: 4 jobs on one base model" in text
    url = f"{server.url}/standin/toys/sweeps/"
    assert text.count(url) == 2 and "statistically indistinguishable" in text
    runs = server.runs(project="toys")
    (sweep,) = server.state()["sweeps"]
    assert [run["state"] for run in runs] == ["finished"] * 4
    assert {run["sweep"] for run in runs} == {sweep["id"]}
    assert {run["id"] for run in runs} == set(sweep["runs"])
    for run in runs:  # as the server looks it up, and as the run has it
        assert run["config"]["optimizer.lr"] == run["config"]["optimizer"]["lr"]
        assert run["config"]["adapter.use_dora"] == (run["config"]["adapter"] == "dora")
        assert run["summary"]["val/loss"]
    chosen = {(run["config"]["optimizer.lr"], run["config"]["adapter"]) for run in runs}
    assert chosen == {(lr, name) for lr in (1e-3, 3e-3) for name in ("lora", "dora")}
    assert sweep["state"] == "FINISHED" and len(sweep["agents"]) == 4
    # typed again, it ranks what there is
    code, text = run_driver(server, tmp_path, str(file))
    assert code == 0 and "4 finished" in text and len(server.runs(project="toys")) == 4, text


def test_baselines_are_stored_once_and_are_no_trials(tmp_path: Path, server: Any) -> None:
    """A server would hand out one trial less, and compare the base model with the others."""
    file = sweep_file(tmp_path, {**GRID, "seed": {"value": 3}})
    words = (str(file), "together=2", "evaluation.baselines=[base]")
    code, text = run_driver(server, tmp_path, *words)
    assert code == 0, text
    (baseline,) = server.runs(job_type="baseline")
    trials = server.runs(job_type="train")
    (sweep,) = server.state()["sweeps"]
    assert set(sweep["runs"]) == {run["id"] for run in trials} and len(trials) == 4
    assert baseline["sweep"] is None and baseline["project"] == "toys"
    assert "optimizer.lr" not in baseline["config"] and baseline["summary"]["eval/nll"]
    assert {run["group"] for run in server.runs()} == {f"sweep {sweep['id']}"}
    names = sorted(run["display_name"] for run in trials)
    assert names[0] in ("lr=0.001, adapter=dora", "adapter=dora, lr=0.001")
    for run in server.runs():
        assert run["program"] == "hydratune sweep"
        assert not [key for key in run["summary"] if key.startswith("base/")]
    for found in tmp_path.glob("outputs/*/wandb/run-*/files/wandb-metadata.json"):
        assert json.loads(found.read_text())["args"] == list(words)


def test_batches_of_a_bayes_search_by_the_id_of_the_sweep(tmp_path: Path, server: Any) -> None:
    """The sweep was created elsewhere; a number of trials was asked for."""
    ranges = {
        "optimizer": {"parameters": {"lr": {"min": 1e-4, "max": 1e-2}}},
        "adapter.r": {"distribution": "int_uniform", "min": 2, "max": 8},
    }
    file = sweep_file(tmp_path, ranges, method="bayes", command=None)
    words = ("debug=smoke", "trainer.max_steps=2", "data.max_train_rows=8", "data.max_test_rows=2")
    code, text = run_driver(server, tmp_path, str(file), "count=2", "together=2", *words)
    assert code == 0, text
    (sweep,) = server.state()["sweeps"]
    code, text = run_driver(
        server, tmp_path, f"standin/toys/{sweep['id']}", "--count=3", "together=2", *words
    )
    assert code == 0, text
    assert "pack 1 of 1: 2 jobs" in text
    folder = sweep_folder(tmp_path)  # that of the first call
    assert sorted(runs_of_folder(folder).values()) == ["finished"] * 5
    for name, job in json.loads((folder / "sweep.json").read_text())["jobs"].items():
        (run,) = (r for r in server.runs() if r["id"] == status(folder / name)["wandb_id"])
        drawn = job["wandb"]["parameters"]
        assert run["config"]["optimizer"]["lr"] == drawn["optimizer"]["lr"]
        assert run["config"]["adapter.r"] == run["config"]["adapter"]["r"] == drawn["adapter.r"]
        assert len(run["config"]["optimizer"]) > 1


def test_stop_in_wandb_stops_one_trial(tmp_path: Path, server: Any) -> None:
    file = sweep_file(
        tmp_path,
        {"trainer.max_steps": {"values": [2, LONG]}, "trainer.max_epochs": {"value": LONG}},
    )
    process = start_driver(server, tmp_path, str(file))
    wait_until(lambda: len(server.runs(state="finished")) == 1, process)
    (long,) = (run for run in server.runs() if run["state"] != "finished")
    press_stop(server, long["id"])
    text = process.communicate(timeout=900)[0]
    assert process.returncode == 0, text
    assert sorted(run["state"] for run in server.runs()) == ["finished", "killed"]
    assert "1 finished, 1 stopped" in text
    # it ended: the same command does not train it again
    code, text = run_driver(server, tmp_path, str(file))
    assert code == 0 and "1 finished, 1 stopped" in text, text


@pytest.mark.parametrize("launcher", ["pack", "process"])
def test_cancelling_the_sweep_stops_all_trials(tmp_path: Path, server: Any, launcher: str) -> None:
    """The server tells the agents, and not the runs."""
    steps = {"seed": {"values": [1, 2, 3]}, "trainer.max_epochs": {"value": LONG}}
    file = sweep_file(tmp_path, {**steps, "trainer.max_steps": {"value": LONG}})
    words = (str(file), "together=2", f"hydra/launcher={launcher}")
    process = start_driver(server, tmp_path, *words)
    count = 2 if launcher == "pack" else 1  # the second would begin after the first
    wait_until(
        lambda: len(server.runs()) == count and all(run["history"] for run in server.runs()),
        process,
    )
    (sweep,) = server.store.sweeps.values()
    sweep["state"] = "CANCELED"
    text = process.communicate(timeout=900)[0]
    assert process.returncode == 0, text
    assert [run["state"] for run in server.runs()] == ["killed"] * count, text
    assert "2 stopped" in text and "Traceback" not in text


def test_killed_driver_is_resumed_and_no_trial_is_trained_twice(
    tmp_path: Path, server: Any
) -> None:
    steps = [2, 80, 81, 3]
    file = sweep_file(
        tmp_path,
        {"trainer.max_steps": {"values": steps}, "trainer.max_epochs": {"value": LONG}},
    )
    words = (str(file), "trainer.checkpoint_minutes=0.001", "trainer.validations_per_epoch=1")
    process = start_driver(server, tmp_path, *words)
    wait_until(
        lambda: (
            len(server.runs(state="finished")) == 2
            and len([*tmp_path.glob("outputs/*/*/checkpoints/last.ckpt")]) >= 2
        ),
        process,
    )
    process.send_signal(signal.SIGKILL)
    process.communicate()
    folder = sweep_folder(tmp_path)
    finished = {
        file: file.stat().st_mtime_ns
        for file in folder.glob("*/metrics.json")
        if status(file.parent)["state"] == "finished"
    }
    assert len(finished) == 2
    before = {name: status(folder / name).get("wandb_id") for name in "0123"}
    code, text = run_driver(server, tmp_path, *words)
    assert code == 0, text
    assert "2 jobs" in text and "resumed after step" in (folder / "1" / "run.log").read_text()
    assert "resumed in this call: trials 1, 2" in text.splitlines(), text
    # the server has noticed in the meantime that there is nothing left to hand out
    code, text = run_driver(server, tmp_path, *words)
    assert code == 0 and "nothing was run in this call; the sweep had ended before" in text, text
    assert {file: file.stat().st_mtime_ns for file in finished} == finished
    assert {name: status(folder / name)["wandb_id"] for name in "0123"} == before
    runs = server.runs()
    assert len(runs) == 4 and {run["state"] for run in runs} == {"finished"}
    for run in runs:
        logged = [row["trainer/global_step"] for row in run["history"] if "train/loss" in row]
        assert sorted(set(logged)) == list(range(1, run["config"]["trainer.max_steps"] + 1))


def test_two_drivers_share_a_grid(tmp_path: Path, server: Any) -> None:
    seeds = [1, 2, 3, 4, 5, 6]
    file = sweep_file(tmp_path, {"seed": {"values": seeds}})
    first = start_driver(server, tmp_path, str(file), "together=2")
    second = start_driver(server, tmp_path, str(file), "together=2")
    texts = [process.communicate(timeout=900)[0] for process in (first, second)]
    assert first.returncode == 0 and second.returncode == 0, texts
    assert len(server.state()["sweeps"]) == 1
    runs = server.runs()
    assert sorted(run["config"]["seed"] for run in runs) == seeds
    assert {run["state"] for run in runs} == {"finished"}
    assert all("trials " in text for text in texts)
    assert len(runs_of_folder(sweep_folder(tmp_path))) == 6


def test_failed_trial_leaves_the_others(tmp_path: Path, server: Any) -> None:
    """Its rank is above the width of the model, which only the loaded model shows."""
    file = sweep_file(tmp_path, {"adapter.r": {"values": [4, 9999, 8]}})
    code, text = run_driver(server, tmp_path, str(file))
    assert code == 1, text
    assert "1 of 3 trials failed" in text and "9999" in text
    states = {run["config"]["adapter.r"]: run["state"] for run in server.runs()}
    assert states == {4: "finished", 9999: "failed", 8: "finished"}


def test_queued_trial_with_a_wrong_setting_fails_on_wandb_as_well(
    tmp_path: Path, server: Any
) -> None:
    """Somebody queues a run on the sweep's page by hand."""
    file = sweep_file(tmp_path, {"seed": {"values": [1, 2]}})
    code, text = run_driver(server, tmp_path, str(file), "count=1", "together=1")
    assert code == 0, text
    (sweep,) = server.store.sweeps.values()
    sweep["_queue"].append({"optimizer.lr": {"value": -1.0}})
    code, text = run_driver(server, tmp_path, str(file), "count=1", "together=1")
    assert code == 1 and "optimizer.lr = -1.0" in " ".join(text.split()), text
    assert [run["state"] for run in server.runs()] == ["finished", "failed"]


def test_one_process_per_trial_by_the_agent_of_wandb_goes_on_working(
    tmp_path: Path, server: Any
) -> None:
    """The same file, for ``wandb sweep`` and ``wandb agent``, gives the same runs."""
    import os
    import subprocess
    import sys

    from wandb_sweep_cases import environment

    folder = Path(sys.executable).parent
    variables = environment(server, PATH=f"{folder}:{os.environ['PATH']}")
    file = sweep_file(tmp_path, {"optimizer.lr": {"values": [1e-3, 3e-3]}})
    for words in (("sweep", file.name), ("agent", "standin/toys/sw000001")):
        done = subprocess.run(
            [folder / "wandb", *words], cwd=tmp_path, env=variables, capture_output=True, text=True
        )
        if words[0] == "sweep":
            assert "sw00000" in done.stderr, done.stderr
            name = done.stderr.partition("wandb agent ")[2].split()[0]
            assert name.startswith("standin/toys/")
            done = subprocess.run(
                [folder / "wandb", "agent", name],
                cwd=tmp_path,
                env=variables,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
            break
    by_agent = {run["config"]["optimizer.lr"]: run for run in server.runs()}
    assert {run["state"] for run in by_agent.values()} == {"finished"} and len(by_agent) == 2
    code, text = run_driver(server, tmp_path, str(file))
    assert code == 0, text
    by_driver = [
        run for run in server.runs() if run["id"] not in {r["id"] for r in by_agent.values()}
    ]
    assert len(by_driver) == 2
    for run in by_driver:
        other = by_agent[run["config"]["optimizer.lr"]]
        assert run["summary"]["val/loss"] == other["summary"]["val/loss"]
        assert run["config"]["optimizer"] == other["config"]["optimizer"]
