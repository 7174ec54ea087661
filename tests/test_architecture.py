"""The order of the packages, and that no modules import each other in a circle.

The rules stand in pyproject.toml under ``tool.importlinter``; ``lint-imports`` checks them as well.
"""

import tomllib
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_ERROR, EXIT_STATUS_SUCCESS, lint_imports

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
SOURCE = PYPROJECT.parent / "src" / "hydratune"


def broken(config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the report of import-linter under ``config``; empty if no rule is broken."""
    file = tmp_path / "pyproject.toml"
    file.write_text(config)
    status = lint_imports(config_filename=str(file), no_cache=True)
    report = capsys.readouterr().out
    assert status in (EXIT_STATUS_SUCCESS, EXIT_STATUS_ERROR)
    return report if status == EXIT_STATUS_ERROR else ""


def test_packages_import_only_what_is_below_them_and_nothing_imports_in_a_circle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not broken(PYPROJECT.read_text(), tmp_path, capsys)


def test_the_rules_notice_an_import_upwards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = PYPROJECT.read_text()
    swapped = rules.replace('    "training",\n', "").replace(
        '    "data",\n', '    "data",\n    "training",\n'
    )
    assert swapped != rules
    assert "hydratune.training is not allowed to import hydratune.data" in broken(
        swapped, tmp_path, capsys
    )


def test_every_package_has_a_place_in_the_order() -> None:
    contracts = tomllib.loads(PYPROJECT.read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    placed = {name.strip() for layer in layers for name in layer.replace("|", ":").split(":")}
    modules = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert placed == modules - {"__init__", "__main__", "__pycache__", "conf"}
