"""What hydratune train writes where, and refusals that leave no run or a failed one."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conftest import SMALL, edited
from run_files import offline_environment, only_run

Command = Callable[..., tuple[int, str]]


@pytest.mark.fault(
    "two processes in one run directory, or the same sweep started twice",
    seen="the second ends with exit code 2 and says that another process works there",
    kept="the run of the first",
)
def test_two_processes_never_share_a_run_directory(hydratune: Command, tmp_path: Path) -> None:
    from hydratune.records.run_directory import alone

    (tmp_path / "run").mkdir()
    with alone(tmp_path / "run"):
        code, text = hydratune("train", *SMALL, f"hydra.run.dir={tmp_path}/run")
    assert code == 2 and "another process is working in" in text
    (tmp_path / "sweep").mkdir()
    words = ("-m", "seed=0,1", f"hydra.sweep.dir={tmp_path}/sweep")
    with alone(tmp_path / "sweep"):
        code, text = hydratune("train", *SMALL, *words)
    assert code == 2 and "another process is working in" in text
    assert hydratune("train", *SMALL, f"hydra.run.dir={tmp_path}/run")[0] == 0


def test_preview_shows_the_mask_and_leaves_no_run(hydratune: Command, tmp_path: Path) -> None:
    code, text = hydratune("train", "model=tiny", "preview=2")
    assert code == 0, text
    assert "tokens trained" in text and '\u27e6{"parties"' in text
    assert not (tmp_path / "outputs").exists() or not list((tmp_path / "outputs").glob("*/*"))


def test_refused_settings_leave_no_run(hydratune: Command, tmp_path: Path) -> None:
    assert hydratune("train", *SMALL, "optimizer.lr=0")[0] == 2
    assert not (tmp_path / "outputs").exists() or not list((tmp_path / "outputs").glob("*/*"))


@pytest.mark.parametrize("name", ["../../escape", "/tmp/escape", "a/b", "..", ""])
def test_run_name_cannot_leave_outputs(hydratune: Command, tmp_path: Path, name: str) -> None:
    code, text = hydratune("train", *SMALL, f"name='{name}'")
    assert code == 2, text
    assert "must stay there" in text
    assert not list(tmp_path.parent.glob("escape*"))


def test_folder_with_other_files_is_not_changed(hydratune: Command, tmp_path: Path) -> None:
    for folder in (tmp_path / "mine", tmp_path / "outputs" / "mine"):
        (folder / ".hydra").mkdir(parents=True)
        (folder / ".hydra" / "keep.yaml").write_text("a: 1")
        assert hydratune("train", *SMALL, "optimizer.lr=0", f"hydra.run.dir={folder}")[0] == 2
        assert hydratune("train", "model=tiny", "preview=1", f"hydra.run.dir={folder}")[0] == 0
        assert (folder / ".hydra" / "keep.yaml").is_file()


def test_folder_whose_files_a_run_would_overwrite_is_refused(
    hydratune: Command, tmp_path: Path
) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "config.yaml").write_text("mine: 1")
    code, text = hydratune("train", *SMALL, f"hydra.run.dir={tmp_path}/project")
    assert code == 2 and "would overwrite what is in it: config.yaml" in text
    assert [p.name for p in (tmp_path / "project").iterdir() if p.name != "run.log"] == [
        "config.yaml"
    ]
    assert (tmp_path / "project" / "config.yaml").read_text() == "mine: 1"


def test_refused_secret_is_written_nowhere(hydratune: Command, tmp_path: Path) -> None:
    secret = "hf_" + "abcdefghij" * 3
    for override in (f"tracking.entity={secret}", f"+hydra.job.env_set.HF_TOKEN={secret}"):
        code, text = hydratune("train", *SMALL, override)
        assert code == 2 and "secret" in text and secret not in text
    assert not [
        p for p in tmp_path.rglob("*") if p.is_file() and secret in p.read_text(errors="ignore")
    ]


def test_prepared_sweep_without_m_is_refused(hydratune: Command) -> None:
    code, text = hydratune("train", "sweep=learning_rate", "debug=smoke")
    assert code == 2 and "hydratune train -m sweep=learning_rate debug=smoke" in text


def test_finished_run_is_not_overwritten(
    hydratune: Command, tmp_path: Path, finished_run: Callable[..., Path]
) -> None:
    finished_run()
    before = (tmp_path / "run" / "metrics.json").read_bytes()
    code, text = hydratune("train", *SMALL, f"hydra.run.dir={tmp_path}/run")
    assert code == 2 and "already holds a finished run" in text
    assert (tmp_path / "run" / "metrics.json").read_bytes() == before
    assert (tmp_path / "run" / ".hydra").is_dir()


@pytest.mark.parametrize(
    ("overrides", "code", "message"),
    [
        (["adapter.target_modules=[nope]"], 2, "its linear layers: down_proj"),
        (["adapter.r=500"], 2, "no target layer is wider than"),
        (["adapter.extra.nonsense=1"], 2, "adapter.extra.nonsense"),
        (["trainer=gpu"], 2, "no CUDA device"),
        (["data.max_length=20"], 2, "every train row was dropped"),
        (
            ["data.max_length=20", "data.overlength=error"],
            2,
            "rows are longer than data.max_length",
        ),
        (["evaluation.max_new_tokens=5000"], 2, "the model reads 2048"),
        (["optimizer.lr=1e30", "trainer.gradient_clip_val=null"], 1, "the validation loss is nan"),
    ],
)
def test_settings_that_do_not_fit_the_model_or_data_are_refused(
    hydratune: Command, tmp_path: Path, overrides: list[str], code: int, message: str
) -> None:
    if overrides == ["trainer=gpu"] and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    exit_code, text = hydratune("train", *SMALL, *overrides)
    assert (exit_code, message in text) == (code, True), text
    status = json.loads((only_run(tmp_path) / "status.json").read_text())
    assert status["state"] == "failed" and status["error"]


def test_outputs_that_cannot_be_written(hydratune: Command, tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("a file, not a folder")
    code, text = hydratune("train", *SMALL)
    assert code == 2, text
    assert "outputs" in text and "hydra.run.dir" in text


def test_full_disk_at_save_is_one_clear_message(
    hydratune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(source: Path, target: Path) -> Path:
        if str(target).endswith(".ckpt"):
            raise OSError(28, "No space left on device")
        return real(source, target)

    real = Path.replace
    monkeypatch.setattr(Path, "replace", no_space)
    code, text = hydratune("train", *SMALL)
    assert code == 1, text
    assert "No space left on device" in text and "free some space" in text
    run = only_run(tmp_path)
    assert not list(run.glob("checkpoints/*")) and not list(run.glob("checkpoints/.*"))
    assert (run / "adapter" / "adapter_model.safetensors").is_file()  # the trained adapter is kept
    assert json.loads((run / "status.json").read_text())["state"] == "failed"


def test_data_error_names_file_and_line(hydratune: Command, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a"\n')
    code, text = hydratune("train", "model=tiny", "data=files", f"data.train={tmp_path}/bad.jsonl")
    assert code == 2
    assert "bad.jsonl:2: broken JSON" in text and "Traceback" not in text


def test_secret_of_the_environment_is_in_no_file(tmp_path: Path) -> None:
    canary = "canary-7f3a9b1c5d"
    command = [
        sys.executable,
        "-m",
        "hydratune",
        "train",
        *SMALL,
        "tracking.log_predictions=true",
        "tracking.log_adapter=true",
        f"hydra.run.dir={tmp_path}/run",
    ]
    done = subprocess.run(
        command,
        env=offline_environment(HF_TOKEN=canary, MY_API_KEY=canary),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    files = [p for p in (tmp_path / "run").rglob("*") if p.is_file() and not p.is_symlink()]
    assert any(p.suffix == ".wandb" for p in files)
    assert not [p for p in files if canary.encode() in p.read_bytes()]
    assert canary not in done.stdout + done.stderr


def test_run_in_the_folder_of_a_failed_one_keeps_none_of_its_files(
    hydratune: Command, finished_run: Callable[..., Path]
) -> None:
    run = finished_run()
    status = json.loads((run / "status.json").read_text())
    edited(run / "status.json", json.dumps({**status, "state": "stopped"}))
    assert hydratune("train", *SMALL, "adapter.r=9999", f"hydra.run.dir={run}")[0] == 2
    assert (
        not (run / "adapter").exists()
        and not (run / "metrics.json").exists()
        and not (run / "history.csv").exists()
    )
    assert (
        list((run / "previous" / "adapter").glob("*.safetensors"))
        and (run / "previous" / "metrics.json").exists()
    )
