"""The registry of config groups: variants are found in their packages without importing torch."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hydratune.composition import CONF
from hydratune.errors import ConfigError, RunError
from hydratune.experiment.finished_run import load_settings, require_files
from hydratune.records.run_directory import RunDirectory
from hydratune.settings.commands import load
from hydratune.settings.registry import all_variants, plain, variants
from test_config import compose

_LOADED = """
import json, sys
from hydratune.settings.registry import all_variants
names = {group: list(found) for group, found in all_variants().items()}
slow = ("torch", "transformers", "peft", "bitsandbytes", "datasets")
heavy = [name for name in slow if name in sys.modules]
print(json.dumps([names, heavy]))
"""


def test_variants_are_sorted_whatever_was_imported_first() -> None:
    imports = "import hydratune.adapters.methods.vera, hydratune.training.optimizers.sgd\n"
    printed = subprocess.run(
        [sys.executable, "-c", imports + _LOADED], capture_output=True, text=True, check=True
    ).stdout
    names, heavy = json.loads(printed)
    assert names == {group: list(variants) for group, variants in all_variants().items()}
    assert all(variants == sorted(variants) for variants in names.values())
    assert not heavy


@pytest.mark.parametrize(
    ("group", "field"), [("adapter", "method"), ("optimizer", "kind"), ("model", "source")]
)
def test_a_variant_has_its_own_name_in_the_stored_field(group: str, field: str) -> None:
    assert {name: getattr(kind, field) for name, kind in variants(group).items()} == {
        name: name for name in variants(group)
    }


def test_every_adapter_and_optimizer_has_its_yaml() -> None:
    for group in ("adapter", "optimizer"):
        shipped = {file.stem for file in (CONF / group).glob("*.yaml")}
        assert set(variants(group)) <= shipped


def test_a_stored_variant_that_does_not_exist_names_those_that_do(tmp_path: Path) -> None:
    values = plain(compose("model=tiny"))
    values["adapter"]["method"] = "lorra"
    (tmp_path / "config.yaml").write_text(json.dumps(values))
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "config.yaml")
    (problem,) = caught.value.problems
    assert (problem.key, problem.value) == ("adapter.method", "lorra")
    assert problem.why == "this version has no adapter lorra"
    assert re.fullmatch(r"one of: adalora, .*lora, none.*", problem.fix)


def test_a_variant_that_does_not_exist_is_one_problem(
    hydratune: Callable[..., tuple[int, str]],
) -> None:
    code, printed = hydratune("train", "data.source=sqlite", "adapter.rank=3")
    assert code == 2 and "Traceback" not in printed and "unexpected" not in printed
    code, printed = hydratune("train", "data.source=sqlite")
    assert code == 2 and "this version has no data source sqlite" in printed


def test_a_run_whose_adapter_does_not_exist_any_more_says_so(tmp_path: Path) -> None:
    values = plain(compose("model=tiny"))
    values["adapter"]["method"] = "loha"
    (tmp_path / "config.yaml").write_text(json.dumps(values))
    with pytest.raises(RunError) as caught:
        load_settings(RunDirectory(tmp_path))
    assert str(caught.value) == (
        f"{tmp_path}/config.yaml: adapter.method = loha: this version has no adapter loha; use the"
        " version of hydratune that made this run, or install the package that brought what is"
        " missing"
    )


def test_a_run_that_cannot_be_repeated_names_another_folder_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = compose("model=tiny", "evaluation.metrics=[gone]")
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "hydra.yaml").write_text(f"hydra: {{runtime: {{cwd: {tmp_path}}}}}\n")
    with pytest.raises(RunError, match="relative paths") as caught:
        require_files(settings, RunDirectory(tmp_path))
    assert (
        f"it was started in {tmp_path}, and relative paths count from there\n  evaluation.metrics"
        in str(caught.value)
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError) as caught:
        require_files(settings, RunDirectory(tmp_path))
    first, second = str(caught.value).splitlines()[:2]
    assert first == "the run cannot be repeated with its settings"
    assert second == "  evaluation.metrics = gone"
