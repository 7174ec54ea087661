"""What Hydra would ignore in silence, or leave behind, in a sweep is refused with advice."""

from collections.abc import Callable
from pathlib import Path

import pytest

from hydratune.errors import InputError
from hydratune.sweeps import launch

Command = Callable[..., tuple[int, str]]
OWN = ("train", "-m", "--config-dir", "own", "debug=smoke")
FILES = {
    "process": "defaults:\n  - override /hydra/launcher: process\nseed: 2\n",
    "alone": "hydra:\n  launcher:\n    pack_size: 1\nseed: 3\n",
    "elsewhere": "hydra:\n  job:\n    chdir: true\nseed: 4\n",
    "plain": "seed: 5\n",
}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A folder with experiments; the number of jobs of each sweep that was not refused."""
    for name, text in FILES.items():
        file = tmp_path / "own" / "experiment" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"# @package _global_\n{text}")
    sweeps: list[int] = []

    def run(*arguments: object) -> None:
        sweeps.append(len(arguments[2]))  # type: ignore[arg-type]
        raise InputError("it runs")

    monkeypatch.setattr(launch, "run_jobs", run)
    return sweeps


@pytest.mark.parametrize(
    ("settings", "why", "fix"),
    [
        (
            ["experiment=plain,process"],
            "experiment/process.yaml chooses it",
            "hydra/launcher=process",
        ),
        (["experiment=process", "seed=0,1"], "a file cannot", "hydra/launcher=process"),
        (
            ["experiment=plain,alone"],
            "experiment=alone) changes its settings",
            "hydra.launcher",
        ),
        (["experiment=plain,elsewhere"], "relative paths of settings", "leave it out of the file"),
    ],
)
def test_what_a_file_cannot_choose_for_a_sweep_is_refused(
    hydratune: Command, own: list[int], tmp_path: Path, settings: list[str], why: str, fix: str
) -> None:
    code, text = hydratune(*OWN, *settings)
    assert code == 2 and why in text and fix in text and not own, text
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_the_typed_launcher_is_the_one_of_the_sweep(hydratune: Command, own: list[int]) -> None:
    for launcher in ("process", "pack"):
        hydratune(*OWN, "experiment=process", "seed=0,1", f"hydra/launcher={launcher}")
    hydratune(*OWN, "experiment=plain,alone", "hydra/launcher=pack", "hydra.launcher.pack_size=1")
    assert own == [2, 2, 2]


@pytest.mark.parametrize(
    "settings",
    [
        ["adapter=lora,ia3", "adapter.r=8"],
        ["optimizer.lr=-1,1e-3"],
        ["seed=interval(0,1)"],
        ["seed=0,1", "hydra.sweep.dir=a/b", "optimizer.lrr=1"],
        ["seed=0,1", "hydra.sweep.dir=a/b", "optimizer.lr=-1"],
        ["hydra/sweeper=random", "seed=0,1", "optimizer.lr=-1"],
        ["hydra/launcher=basic", "seed=0,1"],
    ],
)
def test_a_refused_sweep_leaves_no_folder(
    hydratune: Command, tmp_path: Path, settings: list[str]
) -> None:
    code, text = hydratune("train", "-m", *settings)
    assert code == 2 and "fix:" in text, text
    assert not list(tmp_path.iterdir())


def test_a_refused_sweep_leaves_what_was_in_its_folder(hydratune: Command, tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "notes.txt").write_text("mine")
    words = ("train", "-m", "seed=0,1", "hydra.sweep.dir=sweep", "optimizer.lr=-1")
    assert hydratune(*words)[0] == 2
    assert [path.name for path in (tmp_path / "sweep").iterdir()] == ["notes.txt"]


def test_what_a_job_lacks_is_named(hydratune: Command) -> None:
    code, text = hydratune("train", "-m", "experiment=contracts,tech_support")
    assert code == 2 and "data.path = (not given)" in text and "data.path=FOLDER" in text


@pytest.mark.parametrize("command", ["prepare", "evaluate", "decide", "judge"])
def test_other_commands_run_once(hydratune: Command, command: str, tmp_path: Path) -> None:
    code, text = hydratune(command, "-m", "seed=0,1")
    assert code == 2 and "this command runs once; for a sweep use hydratune train -m" in text
    if command == "prepare":
        code, text = hydratune(command, "seed=0,1")
        assert code == 2 and "hydratune prepare runs once: give one value" in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("setting", ["data.schema={type:object}", "+data.schema.type=object"])
def test_a_schema_for_data_without_one_is_given_in_a_file(
    hydratune: Command, tmp_path: Path, setting: str
) -> None:
    (tmp_path / "x.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    code, text = hydratune("prepare", "data=files", "data.train=x.jsonl", setting)
    assert code == 2 and "data.schema_file=FILE" in text and "unexpected" not in text
