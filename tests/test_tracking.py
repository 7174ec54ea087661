"""W&B runs as files: the mode, the folder, the content.

What a server receives is checked where one can be started.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import SMALL
from hydratune.comparison.collect import collect_runs
from hydratune.comparison.comparison import compare
from hydratune.experiment.tracker import cut, name_of_job, name_of_trial
from hydratune.records.sweep import SweepJob
from hydratune.settings.tracking import TrackingConfig, TrackingMode
from hydratune.tracking import wandb_file
from hydratune.tracking.start import start_tracker
from hydratune.tracking.tracker import NoTracker
from hydratune.tracking.typed_command import (
    environment_with_command,
    shown_as_typed,
    typed_as,
    typed_command,
    typed_settings,
    use_typed_command,
)
from hydratune.tracking.wandb import _files_without_texts, never_fatal
from hydratune.tracking.wandb_agent import AgentTrial
from hydratune.tracking.wandb_baselines import split_baselines
from hydratune.tracking.wandb_logger import guard

pytestmark = pytest.mark.usefixtures("packs_here")


def train(folder: Path, *overrides: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")} | environment
    command = [sys.executable, "-m", "hydratune", "train", *SMALL, *overrides]
    return subprocess.run(
        command, env=variables, cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.slow  # two processes with a W&B client each
def test_offline_sweep_keeps_all_runs_in_one_folder_with_its_name_as_group(tmp_path: Path) -> None:
    done = train(tmp_path, "-m", "seed=1,2", f"hydra.sweep.dir={tmp_path}/my-sweep")
    assert done.returncode == 0, done.stdout + done.stderr
    logs = list((tmp_path / "my-sweep" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(logs) == 2
    for log in logs:
        content = log.read_bytes()
        assert b"my-sweep" in content  # the group
        assert b"eval/field_f1" in content and b"val/loss" in content
        assert b"trainer/global_step" in content
        assert wandb_file.read_log(log).exit_code == 0
    stored, logged = (
        compare(collect_runs([tmp_path / "my-sweep"])),
        compare(collect_runs([tmp_path / "my-sweep" / "wandb"])),
    )
    assert stored.best is not None and logged.best is not None
    assert (
        logged.best.scores == stored.best.scores
        and stored.best.runs[0].settings["seed"] == logged.best.runs[0].settings["seed"]
    )
    assert stored.best.runs[0].validation_hash == logged.best.runs[0].validation_hash
    losses = [
        [row["train/loss"] for row in c.best.finished[0].history() if "train/loss" in row]
        for c in (stored, logged)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    ids = {
        json.loads((tmp_path / "my-sweep" / name / "status.json").read_text())["wandb_id"]
        for name in "01"
    }
    assert ids == {log.stem.removeprefix("run-") for log in logs}
    hint = next(line for line in done.stdout.splitlines() if "wandb sync" in line)
    dry = subprocess.run(
        [Path(sys.executable).parent / "wandb", *hint.split()[2:], "--dry-run"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    # of an older client; other options no longer exist
    assert dry.returncode == 0 and "2 run(s)" in dry.stdout + dry.stderr


@pytest.mark.slow
def test_disabled_tracking_leaves_no_folder_and_imports_no_client(tmp_path: Path) -> None:
    done = train(
        tmp_path, "tracking=disabled", f"hydra.run.dir={tmp_path}/run", PYTHONPROFILEIMPORTTIME="1"
    )
    assert done.returncode == 0, done.stdout
    assert not list(tmp_path.rglob("wandb*"))
    assert "wandb.sdk" not in done.stderr


def test_environment_wins_over_the_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    tracker = start_tracker(
        TrackingConfig(), {}, folder=tmp_path, group=None, name="x", job_type="train"
    )
    assert isinstance(tracker, NoTracker)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow  # the client tries for half a minute
def test_without_a_server_the_run_is_kept_offline_after_a_moment(tmp_path: Path) -> None:
    done = train(
        tmp_path,
        "tracking=online",
        f"hydra.run.dir={tmp_path}/run",
        WANDB_BASE_URL="http://127.0.0.1:9",
        WANDB_API_KEY="0" * 40,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kept offline" in done.stdout
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))


@pytest.mark.slow
def test_failed_run_is_marked_as_failed(tmp_path: Path) -> None:
    done = train(tmp_path, "adapter.r=9999", f"hydra.run.dir={tmp_path}/run", WANDB_MODE="offline")
    assert done.returncode == 2
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["state"] == "failed"
    (log,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    assert log.stem == f"run-{status['wandb_id']}"
    assert wandb_file.read_log(log).exit_code == 1


def test_broken_mirror_ends_no_run(capfd: pytest.CaptureFixture[str]) -> None:
    @never_fatal
    def adapter() -> None:
        raise OSError("the server [is] away")

    adapter()
    assert "the server [is] away" in capfd.readouterr().out


@pytest.mark.slow
def test_tensorboard_has_every_run_of_a_sweep(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    done = train(
        tmp_path, "-m", "seed=1,2", "tracking=tensorboard", f"hydra.sweep.dir={tmp_path}/s"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for job in "01":
        events = list((tmp_path / "s" / job / "tensorboard").glob("**/events.out.tfevents.*"))
        written = b"".join(file.read_bytes() for file in events)
        assert b"train/loss" in written and b"val/loss" in written and b"eval/field_f1" in written
    assert not list(tmp_path.glob("**/wandb"))


@pytest.mark.slow
def test_no_text_is_sent_if_log_text_is_off(tmp_path: Path) -> None:
    prompt = "You are the secret recipe of this company."
    words = ("tracking=offline", f"data.system_prompt='{prompt}'")
    done = train(tmp_path, *words, "tracking.log_text=false", f"hydra.run.dir={tmp_path}/run")
    assert done.returncode == 0, done.stdout + done.stderr
    log = next((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")).read_bytes()
    assert (
        b"val/loss" in log
        and prompt.encode() not in log
        and prompt in (tmp_path / "run" / "config.yaml").read_text()
    )
    done = train(tmp_path, "tracking.log_text=false", "tracking.log_predictions=true")
    assert done.returncode == 2 and "tracking.log_predictions = True" in done.stdout + done.stderr


def test_the_text_of_prompt_tuning_is_not_in_a_sent_adapter(tmp_path: Path) -> None:
    config = {"peft_type": "PROMPT_TUNING", "prompt_tuning_init_text": "secret", "token_dim": 64}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    sent = json.loads(_files_without_texts(tmp_path)["adapter_config.json"])
    assert sent == {**config, "prompt_tuning_init_text": "not sent"}
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    assert _files_without_texts(tmp_path) == {}


@pytest.mark.slow
def test_no_swept_text_is_in_the_name_of_a_run_if_log_text_is_off(tmp_path: Path) -> None:
    words = ("-m", "tracking=offline", "tracking.log_text=false", "hydra.sweep.dir=s")
    done = train(tmp_path, *words, "data.system_prompt='secret one','secret two'")
    assert done.returncode == 0, done.stdout + done.stderr
    logs = [file.read_bytes() for file in (tmp_path / "s" / "wandb").glob("offline-run-*/*.wandb")]
    assert len(logs) == 2 and not any(b"secret" in log for log in logs)
    for name in (b"system_prompt=text 1", b"system_prompt=text 2"):
        assert sum(name in log for log in logs) == 1


def test_names_of_jobs_and_their_length() -> None:
    key = "data.system_prompt"
    jobs = {
        str(n): SweepJob(str(n), (), {key: text, "optimizer.lr": "1e-3"})
        for n, text in enumerate(("a", "b", "a"))
    }
    assert name_of_job("1", jobs, log_text=True) == "system_prompt=b, lr=1e-3"
    hidden = [name_of_job(job, jobs, log_text=False) for job in jobs]
    assert hidden == [f"system_prompt=text {n}, lr=1e-3" for n in (1, 2, 1)]
    trial = AgentTrial(
        "s1", {key: "b", "optimizer.lr": "0.1", "seed": "3"}, choices={key: ("a", "b")}
    )
    assert name_of_trial(trial, log_text=True) == "system_prompt=b, lr=0.1, seed=3"
    constant = replace(trial, constants=frozenset({"seed"}))
    assert name_of_trial(constant, log_text=False) == "system_prompt=text 2, lr=0.1"
    unknown = replace(constant, choices=None)  # the server did not answer
    assert name_of_trial(unknown, log_text=False) == "system_prompt=a text, lr=0.1"
    assert cut("x" * 128) == "x" * 128 and cut("x" * 129) == "x" * 125 + "..."


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (
            ["/venv/bin/hydratune", "train", "-m", "seed=1,2"],
            ("hydratune train", ["-m", "seed=1,2"]),
        ),
        (["/src/hydratune/__main__.py", "train"], ("hydratune train", [])),
        (["hydratune train", "seed=1"], ("hydratune train", ["seed=1"])),
        (["/usr/bin/pytest", "-x"], None),
    ],
)
def test_the_typed_command(
    argv: list[str], command: tuple[str, list[str]] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    assert typed_command() == command
    handed = environment_with_command({"A": "b"})
    assert (len(handed) == 2) == (command is not None)
    monkeypatch.setattr(sys, "argv", ["-m", "folder", "{}"])
    for name, value in handed.items():
        monkeypatch.setenv(name, value)
    use_typed_command()
    assert command is None or (sys.argv[0], sys.argv[1:]) == command
    with shown_as_typed(["other"]):
        assert sys.argv[1:] == ["other"]
    assert sys.argv[1:] != ["other"]


def test_typed_settings_are_those_that_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["-m", "--config-dir=own", "-cd", "more", "seed=1", "data.columns.prompt=a", "~data.x"]
    monkeypatch.setattr(sys, "argv", ["hydratune train", *words])
    kept = typed_settings(lambda key: key != "seed")
    assert kept == ["--config-dir=own", "-cd", "more", "data.columns.prompt=a"]
    assert typed_settings(lambda key: key == "data.columns.prompt")[-1] == "data.columns.prompt=a"
    monkeypatch.setattr(sys, "argv", ["/usr/bin/pytest", "seed=1"])
    assert typed_settings(lambda key: True) == []


def test_a_command_that_runs_another_is_shown_as_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["hydratune train", "-m", "hydra/sweeper=wandb"])
    with typed_as("hydratune sweep", ["rank.yaml", "seed=1"]):
        assert typed_command() == ("hydratune sweep", ["rank.yaml", "seed=1"])
        assert len(environment_with_command({})) == 1
    assert typed_command() == ("hydratune train", ["-m", "hydra/sweeper=wandb"])


def test_metrics_of_the_base_model_are_named_as_those_of_the_run() -> None:
    metrics = {"eval/nll": 1.0, "base/nll": 2.0, "base_clean/field_f1/law": 0.5, "fewshot/nll": 3.0}
    own, baselines = split_baselines({**metrics, "val/loss": 4.0, "forgetting/nll_base": 5.0})
    assert own == {"eval/nll": 1.0, "val/loss": 4.0, "forgetting/nll_base": 5.0}
    assert baselines == {
        "base": {"eval/nll": 2.0, "eval_clean/field_f1/law": 0.5},
        "fewshot": {"eval/nll": 3.0},
    }


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"project": "a/b"}, "cannot contain /"),
        ({"project": "x" * 129}, "1 to 128 characters, not 129"),
        ({"project": ""}, "1 to 128 characters, not 0"),
        ({"tags": ["", "x" * 65]}, "1 to 64 characters, not 0"),
    ],
)
def test_names_that_wandb_refuses_are_refused_before_a_run(
    settings: dict[str, Any], why: str
) -> None:
    first = next(TrackingConfig(**settings).problems())
    assert why in first.why
    assert not list(TrackingConfig(mode=TrackingMode.disabled, **settings).problems())


@pytest.mark.fault(
    "W&B's own process dies while a run trains",
    seen="a line that nothing more of the run is logged",
    kept="the run, which continues; its directory has everything",
)
def test_a_run_outlives_the_process_of_the_client(capsys: pytest.CaptureFixture[str]) -> None:
    class Logger:
        calls = 0

        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            self.calls += 1
            if self.calls > 1:
                raise ConnectionResetError("Connection lost")

    logger, lost = Logger(), []
    guarded: Any = guard(logger, lambda: lost.append(1))  # type: ignore[arg-type]
    for step in range(5):
        guarded.log_metrics({"loss": 1.0}, step=step)
    assert logger.calls == 2 and lost == [1]
    printed = capsys.readouterr().out
    assert printed.count("nothing more of this run is logged (Connection lost)") == 1
