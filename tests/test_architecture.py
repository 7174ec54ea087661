"""The order of the packages, and the absence of import cycles. The rules are in pyproject.toml
under ``tool.importlinter``; ``lint-imports`` checks them as well.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
SOURCE = PYPROJECT.parent / "src" / "hydratune"
LINT_IMPORTS = "from importlinter.cli import lint_imports_command; lint_imports_command()"


def broken(config: str, tmp_path: Path) -> str:
    """Return the report of import-linter under ``config``; empty if no rule is broken. It runs in a
    separate process, because it disables all existing loggers.
    """
    file = tmp_path / "pyproject.toml"
    file.write_text(config)
    command = [sys.executable, "-c", LINT_IMPORTS, "--no-cache", str(file)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode in (0, 1) and "Contracts:" in result.stdout, result.stderr
    return result.stdout if result.returncode else ""


def test_packages_import_only_lower_packages_and_without_cycles(
    tmp_path: Path,
) -> None:
    assert not broken(PYPROJECT.read_text(), tmp_path)


def test_the_rules_notice_an_import_upwards(tmp_path: Path) -> None:
    rules = PYPROJECT.read_text()
    swapped = rules.replace('    "training",\n', "").replace(
        '    "data",\n', '    "data",\n    "training",\n'
    )
    assert swapped != rules
    assert "hydratune.training is not allowed to import hydratune.data" in broken(swapped, tmp_path)


def test_every_package_has_a_place_in_the_order() -> None:
    contracts = tomllib.loads(PYPROJECT.read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    placed = {name.strip() for layer in layers for name in layer.replace("|", ":").split(":")}
    modules = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert placed == modules - {"__init__", "__main__", "__pycache__", "conf"}
