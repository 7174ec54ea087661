"""The settings are composed from Python by Hydra's own functions."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from hydra import compose, initialize_config_dir
{imports}

with initialize_config_dir(str({module}.CONF), version_base="1.3"):
    train = {module}.settings(compose("train", ["model=tiny", "optimizer.lr=2e-3"]))
    try:
        compose("train", ["optimizer.lr=fast"])
    except Exception as error:
        print(type(error).__name__)
train.check()
print(type(train).__name__, type(train.model).__name__, train.optimizer.lr, train.adapter.r)
assert "torch" not in sys.modules
"""


def test_hydra_composes_the_settings_from_python(tmp_path: Path) -> None:
    for imports, module in (
        ("import hydratune.config as settings", "settings"),
        ("import hydratune", "hydratune.config"),
    ):
        program = PROGRAM.format(imports=imports, module=module)
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == [
            "ConfigCompositionException",
            "TrainConfig TinyModel 0.002 16",
        ]


def test_the_package_alone_imports_no_settings() -> None:
    program = "import sys, hydratune; print('hydra' in sys.modules, hasattr(hydratune, 'other'))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"], done.stderr
