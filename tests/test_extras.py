"""What needs an optional package says so, with its extra; everything else works without."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import SMALL
from hydratune import extras
from hydratune.data import cleaning
from hydratune.data.quality import pii

TESTS = Path(__file__).parent
PROJECT = tomllib.loads((TESTS.parent / "pyproject.toml").read_text())["project"]
FOR_DEVELOPERS = {"dev", "docs", "bench", "browser"}
NOT_IN_ALL = {"ray"}  # 79 MB, for those who have a cluster
Hydratune = Callable[..., tuple[int, str]]


def distribution(requirement: str) -> str:
    """Return the name in a requirement such as ``optuna>=4.9,<5``."""
    return requirement.partition(">")[0].partition("=")[0]


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Make packages, named by their modules, count as not installed; without names, all."""
    caches = (cleaning.can_repair_encoding, pii._masking_finders)

    def hide(*modules: str) -> None:
        hidden = modules or tuple(extras.PACKAGES)
        real = extras.is_installed
        monkeypatch.setattr(
            extras, "is_installed", lambda module: module not in hidden and real(module)
        )
        for cached in caches:
            cached.cache_clear()

    yield hide
    for cached in caches:
        cached.cache_clear()


def test_every_optional_package_is_in_its_extra_and_no_other_is() -> None:
    optional = PROJECT["optional-dependencies"]
    listed = {
        name: {distribution(requirement) for requirement in optional[name]}
        for name in optional.keys() - FOR_DEVELOPERS - {"all"}
    }
    named: dict[str, set[str]] = {}
    for package in extras.PACKAGES.values():
        named.setdefault(package.extra, set()).add(package.distribution)
    named["comparison"].add("optuna")  # importances need it as well
    named["serve"].add("openai")  # transformers serve refuses to start without it
    assert listed == named


def test_all_brings_every_extra_of_a_user() -> None:
    optional = PROJECT["optional-dependencies"]
    (everything,) = optional["all"]
    names = set(everything.partition("[")[2].rstrip("]").split(","))
    assert names == optional.keys() - FOR_DEVELOPERS - NOT_IN_ALL - {"all"}


def test_the_core_requires_no_optional_package() -> None:
    core = {distribution(requirement) for requirement in PROJECT["dependencies"]}
    assert not core & {package.distribution for package in extras.PACKAGES.values()}


FEW = ("data.train_rows=40", "data.validation_rows=6", "data.test_rows=6")
SEARCH = ("-m", *SMALL, "optimizer.lr=interval(1e-4,1e-3)", "adapter.r=int(interval(2,8))")


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("bitsandbytes", ["train", *SMALL, "optimizer=adamw_8bit"]),
        ("bitsandbytes", ["train", *SMALL, "optimizer=paged_adamw"]),
        ("bitsandbytes", ["train", *SMALL, "optimizer=paged_adamw_8bit"]),
        ("bitsandbytes", ["train", *SMALL, "optimizer=lion"]),
        ("bitsandbytes", ["train", *SMALL, "optimizer=lion_8bit"]),
        ("bitsandbytes", ["train", *SMALL, "model.quantization=nf4"]),
        ("sacrebleu", ["train", *SMALL, "evaluation.metrics=[json,bleu]"]),
        ("tensorboardX", ["train", *SMALL, "tracking=tensorboard"]),
        ("presidio_analyzer", ["train", *SMALL, "data.quality.pii_names=warn"]),
        ("phonenumbers", ["train", *SMALL, "data.quality.pii_phone=error"]),
        ("stdnum", ["train", *SMALL, "data.quality.pii_card=error"]),
        ("stdnum", ["prepare", "model=tiny", "data.quality.pii_iban=error"]),
        ("py3langid", ["prepare", "model=tiny", "data.quality.language_mix=error"]),
        ("text_to_num", ["prepare", "model=tiny", "data.quality.ungrounded=error"]),
        ("py3langid", ["train", *SMALL, "evaluation.forgetting.measure=true"]),
        ("submitit", ["train", "-m", *SMALL, "seed=0,1", "hydra/launcher/executor=slurm"]),
        ("ray", ["train", "-m", *SMALL, "seed=0,1", "hydra/launcher/executor=ray"]),
        ("optuna", ["train", *SEARCH, "hydra/sweeper=optuna"]),
        ("optuna", ["train", *SEARCH, "hydra/sweeper=random"]),
        ("cmaes", ["train", *SEARCH, "hydra/sweeper=optuna", "hydra.sweeper.sampler=cmaes"]),
        ("bm25s", ["decide", *SMALL]),
        ("openai", ["judge", "run=run", "judge=x", "base_url=http://127.0.0.1:9/v1"]),
        ("plotly", ["compare", "run", "html=true"]),
        ("matplotlib", ["compare", "run", "export=csv,png"]),
        ("wandb_workspaces", ["compare", "run", "--to-wandb"]),
    ],
)
def test_a_command_names_the_extra_before_it_computes(
    hydratune: Hydratune,
    judged_run: Path,
    without: Callable[..., None],
    module: str,
    command: list[str],
) -> None:
    without(module)
    code, printed = hydratune(*command)
    assert code == 2 and "Traceback" not in printed, printed
    package = extras.PACKAGES[module]
    assert f"needs the package {package.distribution}, which is not installed" in printed
    assert f"pip install 'hydratune[{package.extra}]'" in printed
    assert not list(Path("outputs").glob("**/history.csv"))


def test_checks_without_their_package_are_skipped_and_the_report_says_so(
    hydratune: Hydratune, without: Callable[..., None], tmp_path: Path
) -> None:
    without()
    code, printed = hydratune(
        "prepare", "model=tiny", "output=out", *FEW, "data.quality.pii_iban=off"
    )
    assert code == 0, printed
    skipped = ("quality.pii_phone", "quality.pii_card", "quality.language_mix")
    skipped += ("quality.ungrounded", "clean.encoding")
    assert "pip install 'hydratune[quality]'" in printed
    assert all(f"data.{name}" in printed for name in skipped)
    assert "data.quality.pii_iban" not in printed  # it is off
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(report["skipped"]) == set(skipped)
    assert not report["checks"].keys() & {name.partition(".")[2] for name in skipped[:-1]}
    assert "encoding" in report["checks"] and "encoding" not in report["cleaning"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Not everything was checked" in page and "data.quality.pii_phone" in page


def test_with_all_packages_nothing_is_skipped(hydratune: Hydratune, tmp_path: Path) -> None:
    code, printed = hydratune("prepare", "model=tiny", "output=out", *FEW)
    assert code == 0 and "hydratune[" not in printed
    assert "skipped" not in json.loads((tmp_path / "out" / "report.json").read_text())
    assert "Not everything was checked" not in (tmp_path / "out" / "report.html").read_text()


def test_numbers_that_cannot_be_verified_are_masked_in_reports(
    without: Callable[..., None],
) -> None:
    text = "Call +1 212 555 0142, pay with 4111 1111 1111 1112 or GB82 WEST 1234 5698 7654 33."
    without("phonenumbers", "stdnum")
    masked = pii.mask_all(text)
    for number in ("0142", "1112", "7654"):
        assert number not in masked, masked


@pytest.mark.slow
def test_training_and_a_sweep_work_with_the_core_alone(
    tmp_path: Path, cache: Path, hydratune: Hydratune, without: Callable[..., None]
) -> None:
    """All optional packages are hidden from these processes and from those that they start."""
    names = [package.distribution for package in extras.PACKAGES.values()]
    (tmp_path / "sitecustomize.py").write_text(
        f"import without_packages\nwithout_packages.hide({names})\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(TESTS), *sys.path]),
        "COLUMNS": "200",
    }

    def run(*args: str) -> str:
        ended = subprocess.run(
            [sys.executable, "-m", "hydratune", *args],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    hidden = subprocess.run(
        [sys.executable, "-c", f"import {', '.join(extras.PACKAGES)}"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "No module named 'ftfy'" in hidden.stderr  # otherwise this test shows nothing

    assert "data checks skipped, because" in run("train", *SMALL, "hydra.run.dir=run")
    assert (tmp_path / "run" / "report.html").is_file()
    swept = run("train", "-m", *SMALL, "adapter.r=2,4", "hydra.sweep.dir=sweep")
    assert "data checks skipped, because" in swept
    assert "ranking by validation loss" in swept and "pip install 'hydratune[comparison]'" in swept
    assert not (tmp_path / "sweep" / "comparison").exists()

    without("lm_eval", "llguidance")
    for module, setting in (("lm_eval", "lm_eval=[wikitext]"), ("llguidance", "constrained=true")):
        code, printed = hydratune("evaluate", "run=run", setting)
        assert code == 2 and extras.how_to_install(module) in printed, printed
