import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from conftest import SMALL
from hydratune.comparison.comparison import compare
from hydratune.comparison.runs import Run
from hydratune.comparison.terminal import ranking_table
from hydratune.comparison.verdict import verdict
from hydratune.records.status import State
from hydratune.records.sweep import varying
from hydratune.sweeps.planning import PlannedJob

pytestmark = pytest.mark.usefixtures("packs_here")

Command = Callable[..., tuple[int, str]]


def states(sweep: Path) -> dict[str, str]:
    return {
        p.parent.name: json.loads(p.read_text())["state"]
        for p in sorted(sweep.glob("*/status.json"))
    }


@pytest.mark.slow  # a process for each job; in packs: test_pack.py
def test_a_failing_job_does_not_stop_the_others_and_is_run_again_alone(
    hydratune: Command, tmp_path: Path
) -> None:
    """Three jobs, each in a process; one has a rank that is too high."""
    command = (
        "train",
        "-m",
        *SMALL,
        "adapter.r=2,4,9999",
        "hydra/launcher=process",
        f"hydra.sweep.dir={tmp_path}/sweep",
    )
    code, text = hydratune(*command)
    sweep = tmp_path / "sweep"
    assert code == 1
    assert states(sweep) == {"0": "finished", "1": "finished", "2": "failed"}
    assert "1 of 3 jobs failed" in text and "no target layer is wider than" in text
    assert "best:" in text
    losses = {
        name: json.loads((sweep / name / "metrics.json").read_text())["objective"]
        for name in ("0", "1")
    }
    assert f"best: sweep/{min(losses, key=lambda name: losses[name])}" in text
    before = {name: (sweep / name / "metrics.json").stat().st_mtime_ns for name in ("0", "1")}
    code, text = hydratune(*command)
    assert code == 1
    assert text.count("finished before; skipped") == 2
    assert {
        name: (sweep / name / "metrics.json").stat().st_mtime_ns for name in ("0", "1")
    } == before
    assert OmegaConf.load(sweep / "0" / ".hydra" / "overrides.yaml") == [*SMALL, "adapter.r=2"]


def test_a_wrong_job_is_refused_before_the_first_job_runs(
    hydratune: Command, tmp_path: Path
) -> None:
    code, text = hydratune(
        "train",
        "-m",
        *SMALL,
        "optimizer.lr=1e-3,0",
        "trainer.max_epochs=1,0",
        f"hydra.sweep.dir={tmp_path}/sweep",
    )
    assert code == 2
    assert (
        "optimizer.lr = 0" in text
        and "trainer.max_epochs = 0" in text
        and "nothing was run" in text
    )
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize("command", ["train", "plan"])
def test_a_sweep_of_too_many_jobs_is_refused_at_once(
    hydratune: Command, tmp_path: Path, command: str
) -> None:
    words = ["optimizer.lr=range(1e-4,1,1e-7)", "adapter.r=4,8"]
    words += [f"hydra.sweep.dir={tmp_path}/s"] if command == "train" else []
    began = time.process_time()
    code, text = hydratune(command, "-m", *words)
    assert code == 2 and "more than 10,000 jobs; give fewer values" in " ".join(text.split()), text
    assert time.process_time() - began < 10 and not (tmp_path / "s").exists()


def test_a_folder_that_cannot_be_made_is_said_with_the_setting_of_sweeps(
    hydratune: Command, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    code, text = hydratune("train", "-m", "seed=1,2", f"hydra.sweep.dir={tmp_path}/file/s")
    assert code == 2 and "is a file" in text, text
    assert "the folder of a sweep is chosen with hydra.sweep.dir=DIR" in " ".join(text.split())


@pytest.mark.parametrize("name", ["..", ".", "a/b", ".hidden", "wandb"])
def test_a_job_stays_in_the_folder_of_its_sweep(
    hydratune: Command, tmp_path: Path, name: str
) -> None:
    code, text = hydratune(
        "train",
        "-m",
        *SMALL,
        "seed=1",
        f"hydra.sweep.dir={tmp_path}/in/sweep",
        f"hydra.sweep.subdir={name}",
    )
    assert code == 2 and "a job is one folder in the sweep's folder" in text
    assert not list((tmp_path / "in").glob("*.json"))


def test_wrong_type_in_one_job_is_refused_before_the_first_one(
    hydratune: Command, tmp_path: Path
) -> None:
    code, text = hydratune(
        "train", "-m", *SMALL, "optimizer.lr=1e-3,fast", f"hydra.sweep.dir={tmp_path}/sweep"
    )
    assert code == 2
    assert "fast" in text and not states(tmp_path / "sweep")


def test_jobs_with_the_same_settings_are_run_once(hydratune: Command, tmp_path: Path) -> None:
    words = ["optimizer.lr=1e-3,0.001,2e-3", "seed=0,0", f"hydra.sweep.dir={tmp_path}/sweep"]
    code, text = hydratune("train", "-m", *SMALL, *words)
    assert code == 0, text
    assert "sweep of 2 jobs" in text and states(tmp_path / "sweep") == {
        "0": "finished",
        "4": "finished",
    }
    assert "has the settings of job 0, and is not run" in text
    assert "has the settings of job 4, and is not run" in text


def test_same_sweep_finds_its_folder_again(
    hydratune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydratune.sweeps import job_processes

    monkeypatch.setattr(
        job_processes,
        "run_job_process",
        lambda context, item: (
            item.record.start() or item.record.update(state="failed", error="x") or 1
        ),
    )
    for lr in ("1e-3,2e-3", "1e-3,2e-3", "1e-3,3e-3"):
        assert (
            hydratune("train", "-m", *SMALL, f"optimizer.lr={lr}", "hydra/launcher=process")[0] == 1
        )
    names = sorted(p.name for p in (tmp_path / "outputs").iterdir())
    assert len(names) == 2 and all(
        name.startswith(("smoke-lr-", "contracts-lr-")) for name in names
    )


@pytest.mark.parametrize("ends", [[0, 0], [0, 1]])
def test_a_sweep_ends_as_the_jobs_that_were_added_to_it(
    hydratune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: list[int]
) -> None:
    from hydratune.sweeps import job_processes, launch

    def finished(_: object, item: PlannedJob) -> int:
        item.record.start()
        item.record.end(State.finished)
        return 0

    monkeypatch.setattr(job_processes, "run_job_process", finished)
    monkeypatch.setattr(launch, "run_waiting", lambda _: ends)
    words = ("optimizer.lr=1e-3,2e-3", "hydra/launcher=process", f"hydra.sweep.dir={tmp_path}/s")
    code, text = hydratune("train", "-m", *SMALL, *words)
    assert code == max(ends), text
    assert ("not all jobs that were added have finished" in text) is any(ends)


def test_run_with_other_settings_in_a_jobs_folder_is_refused(
    hydratune: Command, tmp_path: Path
) -> None:
    """Such a run must not count as the job's result, and the sweep's own record is not changed."""
    assert hydratune("train", *SMALL, "seed=1", f"hydra.run.dir={tmp_path}/sweep/0")[0] == 0
    code, text = hydratune("train", "-m", *SMALL, "seed=3,4", f"hydra.sweep.dir={tmp_path}/sweep")
    assert code == 2 and "other settings" in text
    assert not (tmp_path / "sweep" / "sweep.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["hydra/launcher=process", "hydra.launcher.halving.min_steps=4"],
            "only hydra/launcher=pack, the default, has some",
        ),
        (["hydra.launcher.packsize=2"], "did you mean hydra.launcher.pack_size?"),
        (["hydra.launcher=process"], "hydra/launcher=process"),
        (["hydra.launcher.halving=8"], "hydra.launcher.halving.min_steps=8"),
        (["hydra.launcher.merge_tokens=many"], "must be a whole number"),
        (["hydra.launcher.retries=-1"], "a job is tried at least once"),
        (["hydra.launcher.lay_out=some"], "give true or false or null"),
    ],
)
def test_wrong_settings_of_launchers_are_refused(
    hydratune: Command, words: list[str], message: str
) -> None:
    code, text = hydratune("train", "-m", *SMALL, "seed=1,2", *words)
    assert code == 2 and words[-1].split("=")[0] in text.replace(" = ", "=") and message in text, (
        text
    )


@pytest.mark.fault(
    "status.json is half written",
    seen="the file is named; nothing is touched",
    kept="the run's other files",
)
def test_a_damaged_status_says_what_to_do(hydratune: Command, tmp_path: Path) -> None:
    status = tmp_path / "sweep" / "1" / "status.json"
    status.parent.mkdir(parents=True)
    status.write_text('{"state": "fin')
    code, text = hydratune("train", "-m", *SMALL, "seed=1,2", f"hydra.sweep.dir={tmp_path}/sweep")
    assert (
        code == 1
        and f"{status} is not readable JSON" in text
        and f"with {status.parent} moved elsewhere" in text
    )
    assert status.read_text() == '{"state": "fin' and not (tmp_path / "sweep" / "0").exists()


def test_compare_ranks_existing_runs_and_refuses_missing_ones(
    hydratune: Command, tmp_path: Path
) -> None:
    for name, lr in (("a", "1e-3"), ("b", "1e-2")):
        assert (
            hydratune(
                "train", *SMALL, f"optimizer.lr={lr}", f"hydra.run.dir={tmp_path}/runs/{name}"
            )[0]
            == 0
        )
    code, text = hydratune("compare", str(tmp_path / "runs"))
    assert code == 0 and "best:" in text and "lr" in text
    (tmp_path / "empty").mkdir()
    assert hydratune("compare", str(tmp_path / "nothing"))[0] == 2
    assert "no run in it" in hydratune("compare", str(tmp_path / "empty"))[1]


def test_runs_that_did_not_finish_are_never_best() -> None:
    runs = [
        Run(Path("failed"), "failed", "x", {"lr": 1}, {"objective": 0.1}),
        Run(Path("good"), "finished", None, {"lr": 2}, {"objective": 0.5}),
        Run(Path("better"), "finished", None, {"lr": 3}, {"objective": 0.4}),
        Run(Path("stopped"), "stopped", "x", {"lr": 4}, {}),
    ]
    compared = compare(runs)
    table, best = ranking_table(compared), "\n".join(verdict(compared))
    assert "better" in best
    assert list(table.columns[1].cells) == ["better", "good", "failed", "stopped"]
    assert verdict(compare(runs[:1])) == []


def test_settings_that_vary_between_runs() -> None:
    assert varying([["a=1", "b=2"], ["a=1", "b=3", "+c=4"]]) == [{"b": "2"}, {"b": "3", "c": "4"}]
