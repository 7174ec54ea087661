"""What a W&B server receives from the real client: names, tags, console logs, baselines."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import SMALL
from hydratune.comparison.collect import collect_runs
from hydratune.comparison.comparison import compare
from wandb_server import client_environment, load_server, needs_server

pytestmark = needs_server
BASELINES = "evaluation.baselines=[base,fewshot]"


@pytest.fixture
def server() -> Iterator[Any]:
    with load_server().StandIn() as started:
        yield started


def run(
    server: Any, folder: Path, *command: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    scripts = str(Path(sys.executable).parent)
    variables = client_environment(**server.env(), **environment)
    variables["PATH"] = f"{scripts}:{variables['PATH']}"
    return subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, check=False
    )


def train(server: Any, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = ("hydratune", "train", *SMALL, "tracking=online", *words)
    return run(server, folder, *command)


def metadata(folder: Path) -> list[dict[str, Any]]:
    files = sorted(folder.glob("wandb/run-*/files/wandb-metadata.json"))
    return [json.loads(file.read_text()) for file in files]


def text(logged: dict[str, Any]) -> str:
    return "\n".join(logged["output"])


@pytest.mark.slow
def test_a_sweep_on_the_server(tmp_path: Path, server: Any) -> None:
    """One test for all that a sweep in one process sends, because its start takes seconds."""
    words = ("-m", "adapter.r=4,8", BASELINES, "hydra.sweep.dir=s", "tracking.tags=[mine]")
    done = train(server, tmp_path, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = {logged["display_name"]: logged for logged in server.runs(job_type="train")}
    assert sorted(jobs) == ["r=4", "r=8"]
    assert all(logged["group"] == "s" for logged in server.runs())
    assert all(logged["program"] == "hydratune train" for logged in server.runs())

    # each run has the lines that it printed itself: the adapters differ in size
    sizes = {
        name: f"training {logged['config']['facts']['trainable_parameters']:,} of"
        for name, logged in jobs.items()
    }
    assert len(set(sizes.values())) == 2
    for name, logged in jobs.items():
        assert [size for size in sizes.values() if size in text(logged)] == [sizes[name]]
        assert "fine-tuned" in text(logged)  # the table of results

    # tags: the user's, model, data, adapter; and in a repository the commit
    for logged in jobs.values():
        assert logged["tags"][:4] == ["mine", "tiny-random-llama", "contracts", "lora"]
        assert all(0 < len(tag) <= 64 for tag in logged["tags"])

    # the base model's results: once for the sweep, under the names that the jobs have for theirs
    baselines = server.runs(job_type="baseline")
    assert sorted(logged["display_name"] for logged in baselines) == [
        "tiny-random-llama, few-shot",
        "tiny-random-llama, zero-shot",
    ]
    zero_shot = server.run("tiny-random-llama, zero-shot")
    stored = json.loads((tmp_path / "s" / "0" / "metrics.json").read_text())
    assert zero_shot["summary"]["eval/nll"] == pytest.approx(stored["base/nll"])
    for logged in jobs.values():
        assert not [key for key in logged["summary"] if key.startswith(("base", "fewshot"))]
        assert "objective" not in logged["summary"] and logged["summary"]["eval/nll"] > 0
        assert {key for key in zero_shot["summary"] if key[0] != "_"} <= set(logged["summary"])

    # the address of the group, at the start and at the end
    page = f"{server.url}/standin/hydratune/groups/s"
    lines = [line for line in done.stdout.splitlines() if line.endswith(page)]
    assert len(lines) == 2 and lines[1] == done.stdout.splitlines()[-1]
    assert f"/runs/{jobs['r=4']['id']}" in (tmp_path / "s" / "0" / "run.log").read_text()

    # the command as it was typed
    typed = ["debug=smoke", "tracking=online", "-m", "adapter.r=4,8"]
    assert all(set(typed) <= set(found["args"]) for found in metadata(tmp_path / "s"))

    # the client's files are compared without the baselines
    logged_runs = compare(collect_runs([tmp_path / "s" / "wandb"]))
    assert sorted(found.name for found in logged_runs.runs) == ["r=4", "r=8"]
    assert all(found.objective is not None for found in logged_runs.runs)


@pytest.mark.slow  # two starts of a sweep
def test_a_sweep_started_again_does_not_send_the_baselines_again(
    tmp_path: Path, server: Any
) -> None:
    words = (BASELINES, "hydra.sweep.dir=s")
    for ranks in ("4,8", "4,8,2"):
        done = train(server, tmp_path, "-m", f"adapter.r={ranks}", *words)
        assert done.returncode == 0, done.stdout + done.stderr
    assert len(server.runs(job_type="baseline")) == 2 and len(server.runs(job_type="train")) == 3


@pytest.mark.slow
def test_a_run_alone_keeps_its_baselines_and_says_where_it_is(tmp_path: Path, server: Any) -> None:
    done = train(server, tmp_path, BASELINES, "hydra.run.dir=run")
    assert done.returncode == 0, done.stdout + done.stderr
    (logged,) = server.runs()
    assert logged["summary"]["base/nll"] > 0 and "objective" not in logged["summary"]
    line = f"W&B         {server.url}/standin/hydratune/runs/{logged['id']}"
    lines = done.stdout.splitlines()
    assert lines.count(line) == 2 and lines[-1] == line
    (found,) = metadata(tmp_path / "run")
    assert found["program"] == "hydratune train" and found["args"][0] == SMALL[0]
    assert "hydra.run.dir=run" in found["args"]


@pytest.mark.slow
def test_the_log_of_a_failed_run_says_why(tmp_path: Path, server: Any) -> None:
    done = train(server, tmp_path, "adapter.r=9999", "hydra.run.dir=run")
    assert done.returncode == 2
    (logged,) = server.runs()
    assert logged["state"] == "failed" and "adapter.r = 9999" in text(logged)


def test_no_console_log_and_no_arguments_if_texts_stay_here(tmp_path: Path, server: Any) -> None:
    secret = "Never tell the recipe"
    words = (f"data.system_prompt='{secret}'", "tracking.log_text=false", "hydra.run.dir=run")
    done = train(server, tmp_path, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    (logged,) = server.runs()
    assert logged["output"] == [] and logged["state"] == "finished"
    assert "recipe" not in json.dumps(server.state(), default=str)
    assert not metadata(tmp_path / "run")


@pytest.mark.slow  # an agent starts one process for each of two runs
def test_runs_of_an_agent_are_named_and_grouped_by_what_varies(tmp_path: Path, server: Any) -> None:
    sweep = {
        "name": "rates",
        "program": "hydratune",
        "method": "grid",
        "metric": {"name": "objective", "goal": "minimize"},
        "parameters": {
            "optimizer.lr": {"values": [1e-3, 3e-3]},
            "adapter.r": {"value": 4},
            "seed": {"values": [7]},
        },
        "command": [
            *("hydratune", "train", *SMALL, BASELINES, "tracking=online"),
            "${args_no_hyphens}",
        ],
    }
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    created = run(server, tmp_path, "wandb", "sweep", "--project", "p", "sweep.yaml")
    name = (created.stdout + created.stderr).partition("wandb agent ")[2].split()[0]
    done = run(server, tmp_path, "wandb", "agent", name)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = server.runs(job_type="train")
    assert [first["display_name"], second["display_name"]] == ["lr=0.001", "lr=0.003"]
    for logged in (first, second):
        assert logged["group"] == "rates" and logged["state"] == "finished"
        assert logged["sweep"] == name.rpartition("/")[2]
        assert logged["config"]["optimizer.lr"] == logged["config"]["optimizer"]["lr"]
        assert logged["summary"]["objective"] == logged["summary"]["val/loss"]  # the sweep reads it
        assert f"training {logged['config']['facts']['trainable_parameters']:,} of" in text(logged)
        assert not [key for key in logged["summary"] if key.startswith(("base", "fewshot"))]
    (state,) = server.state()["sweeps"]
    assert set(state["runs"]) == {first["id"], second["id"]}  # the baselines are no trials
    baselines = server.runs(job_type="baseline")
    assert len(baselines) == 2  # once in the sweep, zero-shot and few-shot
    for logged in baselines:
        assert logged["sweep"] is None and logged["state"] == "finished"
        assert logged["group"] == "rates" and logged["project"] == "p"
        assert logged["summary"]["eval/nll"] > 0 and "optimizer.lr" not in logged["config"]
    printed = done.stdout + done.stderr
    assert printed.count(f"/standin/p/sweeps/{first['sweep']}") >= 4  # at start and end of each
