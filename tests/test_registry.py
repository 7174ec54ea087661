"""The registry of config groups: variants are found in their packages without importing torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hydratune.composition import CONF
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
    with pytest.raises(ValueError, match=r"adapter\.method = lorra: one of adalora, .*lora, none"):
        load(tmp_path / "config.yaml")
