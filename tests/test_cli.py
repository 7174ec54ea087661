import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from hydratune.cli import COMMANDS


def test_help_is_instant_and_lists_every_command() -> None:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "hydratune", "--help"],
            capture_output=True,
            text=True,
            check=True,
        )
        times.append(time.perf_counter() - start)
    assert all(command in done.stdout for command in COMMANDS)
    assert min(times) < 0.3


def test_unknown_command_suggests_the_nearest(hydratune) -> None:
    code, text = hydratune("trian")
    assert code == 2
    assert "did you mean 'train'?" in text


def test_version(hydratune) -> None:
    code, text = hydratune("--version")
    assert code == 0
    assert text.startswith("hydratune ")


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        (
            "hydratune ",
            "prepare plan train sweep evaluate decide generate chat judge export serve compare"
            " status stop add doctor",
        ),
        ("hydratune tr", "train"),
        ("hydratune train model=smollm2_13", "model=smollm2_135m"),
        ("hydratune sweep model=smollm2_1", "model=smollm2_135m model=smollm2_1_7b"),
        ("hydratune train optimizer.sch", "optimizer.schedule="),
        ("hydratune evaluate so", "source="),
    ],
)
def test_completion_offers_commands_and_settings(
    hydratune, monkeypatch: pytest.MonkeyPatch, line: str, offered: str
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    code, text = hydratune("-sc", "query=bash")
    assert code == 0 and text.split() == offered.split()


def test_completion_is_installed_for_the_program_alone(hydratune) -> None:
    code, text = hydratune("-sc", "install=bash")
    assert code == 0 and text.rstrip().endswith("hydra_bash_completion hydratune")


def test_users_own_experiment_folder(hydratune, tmp_path) -> None:
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 77\n")
    code, text = hydratune(
        "train", "--config-dir", str(tmp_path / "own"), "experiment=mine", "--cfg", "job"
    )
    assert code == 0 and "seed: 77" in text


def test_a_command_without_any_setting_is_composed(
    hydratune: Callable[..., tuple[int, str]],
) -> None:
    """As ``make train`` calls it; this command has a setting without a default."""
    code, text = hydratune("evaluate")
    assert code == 2 and "run" in text and "Traceback" not in text
