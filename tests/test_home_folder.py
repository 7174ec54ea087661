"""``~`` is the home folder in every setting that is a path, and in Hydra's own folders."""

import re
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import hydra
import pytest

from compared_runs import hits, write_run
from hydratune.composition import CONF, register
from hydratune.data.sources.files import FilesData
from hydratune.data.sources.mixed import read_part
from hydratune.settings.commands import COMMANDS
from hydratune.settings.reference import settings_of
from hydratune.settings.registry import all_variants, typed
from test_config import compose

Command = Callable[..., tuple[int, str]]
PATH_WORDS = r"(?i)\b(path|folder|file|directory|jsonl)\b|\w_(file|path|dir)\b"


def test_home_folder_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    data: Any = compose("data=files", "data.train='~/rows.jsonl'").data
    assert data.train == f"{tmp_path}/rows.jsonl"
    model: Any = compose("model=local", "model.path='~/model'", "model.adapter='~/run'").model
    assert (model.path, model.adapter) == (f"{tmp_path}/model", f"{tmp_path}/run")
    part = read_part({"source": "files", "train": "~/rows.jsonl"}).settings
    assert part == FilesData(train=f"{tmp_path}/rows.jsonl")


def marked_paths(kind: type, prefix: str = "") -> Iterator[str]:
    """Yield the path settings of a dataclass and of the dataclasses in it, by dotted name."""
    for setting in fields(kind):
        if isinstance(setting.type, type) and is_dataclass(setting.type):
            yield from marked_paths(setting.type, f"{prefix}{setting.name}.")
        elif setting.metadata.get("path"):
            yield f"{prefix}{setting.name}"


def test_every_setting_that_is_a_path_is_marked() -> None:
    variants_of_groups = [kind for group in all_variants().values() for kind in group.values()]
    described, all_marked = set(), set()
    for kind in (*COMMANDS.values(), *variants_of_groups):
        marked = set(marked_paths(kind))
        all_marked |= marked
        described |= {
            setting.name
            for setting in settings_of(kind)
            if setting.type in ("text", "text or null")
            and re.search(PATH_WORDS, f"{setting.name}: {setting.meaning}")
            and setting.name not in marked
        }
    assert described == {"name", "member"}  # one folder under outputs/, a path inside a wheel
    assert all_marked >= {"path", "train", "adapter", "run", "output", "forgetting.questions"}


@pytest.mark.parametrize(
    ("command", "key", "given"),
    [
        ("prepare", "output", []),
        ("prepare", "facts.local", []),
        ("train", "evaluation.forgetting.texts", []),
        ("train", "evaluation.forgetting.questions", []),
        ("train", "evaluation.forgetting.instructions", []),
        ("evaluate", "run", []),
        ("evaluate", "texts", ["run=r"]),
        ("evaluate", "lm_eval_path", ["run=r"]),
        ("decide", "run", []),
        ("decide", "knowledge", []),
        ("decide", "output", []),
        ("judge", "run", []),
        ("judge", "against", ["run=r"]),
        ("judge", "labels", ["run=r"]),
        ("judge", "local", ["run=r"]),
        ("judge", "output", ["run=r"]),
    ],
)
def test_home_folder_is_understood_by_every_command(
    command: str, key: str, given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        settings = typed(hydra.compose(command, [f"{key}='~/x y'", *given]), COMMANDS[command])
    assert attrgetter(key)(settings) == f"{tmp_path}/x y"


@pytest.mark.parametrize("folder", ['"~/runs/1"', "'~/runs/1'", "~/runs/1"])
def test_a_run_directory_below_the_home_folder(
    folder: str, hydratune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "home" / "runs" / "1"
    place.mkdir(parents=True)
    (place / "metrics.json").write_text("x")
    code, printed = hydratune("train", "debug=smoke", f"hydra.run.dir={folder}")
    assert code == 2 and str(place) in printed and "metrics.json" in printed
    assert not (tmp_path / "~").exists()


def test_a_sweep_directory_below_the_home_folder(
    hydratune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home" / "sweep").mkdir(parents=True)
    (tmp_path / "home" / "sweep" / "sweep.json").write_text("{")
    code, printed = hydratune(
        "train", "-m", "debug=smoke", "adapter.r=1,2", 'hydra.sweep.dir="~/sweep"'
    )
    assert code != 0 and str(tmp_path / "home" / "sweep" / "sweep.json") in printed
    code, printed = hydratune(
        "train", "-m", "debug=smoke", "adapter.r=1,2", 'hydra.sweep.subdir="~/${hydra.job.num}"'
    )
    assert code == 2 and "a job is one folder in the sweep's folder" in printed
    assert not (tmp_path / "~").exists()


def test_a_config_folder_below_the_home_folder(
    hydratune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 77\n")
    for option in (["--config-dir", "~/own"], ["--config-dir=~/own"]):
        code, printed = hydratune("train", *option, "experiment=mine", "--cfg", "job")
        assert code == 0 and "seed: 77" in printed
    code, printed = hydratune("train", "--config-dir", "~/none", "experiment=mine")
    assert code == 2 and f"--config-dir {tmp_path}/none: no such folder; give" in printed


def test_compare_finds_runs_below_the_home_folder(
    hydratune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, loss in (("a", 0.4), ("b", 0.5)):
        write_run(tmp_path / "sweep" / name, right=hits(38), lr=loss, loss=loss)
    code, printed = hydratune("compare", "~/sweep", "output=~/pages")
    assert code == 0 and any((tmp_path / "pages").iterdir()), printed
    code, printed = hydratune("compare", "baseline=~/sweep/a", "candidate=~/sweep/b")
    assert code == 0 and "the candidate is not worse" in printed
