"""The wheel and the sdist: installed into empty environments, they work outside the repository.

An interpreter that is not at hand is skipped with the reason, and so is one for which pip finds no
torch. On Linux, pip may choose a CUDA build of several gigabytes.
"""

import os
import re
import shutil
import subprocess
import tarfile
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
TORCH = re.search(r"^torch==\S+", CONSTRAINTS.read_text(), re.MULTILINE)
VERSIONS = ("3.11", "3.12", "3.13")
LEAST_SPACE = 15  # GB on disk, for an environment with a CUDA build of torch
SNIPPET = """
import pandas
import hydratune

rows = [{"prompt": f"What is {i} + 1?", "completion": str(i + 1)} for i in range(60)]
run = hydratune.train(["debug=smoke", "trainer.max_steps=2"], data=pandas.DataFrame(rows))
assert run.value("val/loss") > 0 and len(run.metrics) > 3, run.metrics
assert len(run.history) > 0 and len(run.predictions) > 0
print("trained in", run.path)
"""


def interpreter(version: str) -> str | None:
    """Return an interpreter that works, from the PATH or from pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    candidates = [shutil.which(f"python{version}")]
    candidates += map(str, sorted(pyenv.glob(f"versions/{version}.*/bin/python")))
    for candidate in filter(None, candidates):
        asked = subprocess.run([candidate, "--version"], capture_output=True, text=True)
        if asked.returncode == 0 and asked.stdout.startswith(f"Python {version}."):
            return candidate
    return None


def call(
    *command: str | Path, folder: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command as outside of the repository: without its packages, sources and settings."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PYTHON") and name not in ("VIRTUAL_ENV", "PIP_CONSTRAINT")
    }
    return subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def succeed(*command: str | Path, folder: Path, **environment: str) -> str:
    ended = call(*command, folder=folder, **environment)
    assert ended.returncode == 0, f"{command}\n{ended.stdout}{ended.stderr}"
    return ended.stdout


def build(builder: Path, source: Path, folder: Path, *kinds: str) -> list[Path]:
    """Build the distributions of ``source``; return their files, sorted."""
    targets = [word for kind in kinds for word in ("-t", kind)]
    succeed(builder, "-m", "hatchling", "build", "-d", folder, *targets, folder=source)
    return sorted(folder.iterdir())


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the sdist, whose content equals that of the repository's."""
    folder = tmp_path_factory.mktemp("distributions")
    current = interpreter("3.11") or interpreter("3.12") or interpreter("3.13")
    if current is None:
        pytest.skip("no interpreter with venv is at hand")
    succeed(current, "-m", "venv", "builder", folder=folder)
    builder = folder / "builder" / "bin" / "python"
    installed = call(builder, "-m", "pip", "install", "-q", "hatchling>=1.26", folder=folder)
    if installed.returncode:
        pytest.skip(f"pip cannot install hatchling: {installed.stderr.strip()[-300:]}")
    sdist, own = sorted(
        build(builder, ROOT, folder / "own", "sdist", "wheel"), key=lambda f: f.suffix != ".gz"
    )
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (source,) = (folder / "unpacked").iterdir()
    (from_sdist,) = build(builder, source, folder / "from_sdist", "wheel")
    assert from_sdist.read_bytes() == own.read_bytes(), "the sdist builds another wheel"
    return from_sdist


def lowest() -> str:
    """Return constraints with the lowest version of every package of the core but torch, whose
    lowest is a download of gigabytes.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    floors = dict(re.findall(r"([\w-]+)>=([\w.]+)", " ".join(project["dependencies"])))
    assert TORCH is not None
    return "\n".join(
        TORCH[0] if name == "torch" else f"{name}=={floor}" for name, floor in floors.items()
    )


@pytest.mark.parametrize("version", [*VERSIONS, "lowest"])
def test_the_wheel_trains_in_an_empty_environment(
    version: str, wheel: Path, tmp_path: Path
) -> None:
    constraints = tmp_path / "constraints.txt"
    constraints.write_text(lowest() if version == "lowest" else CONSTRAINTS.read_text())
    python = interpreter("3.11" if version == "lowest" else version)
    if python is None:
        pytest.skip(f"Python {version} is not at hand")
    if shutil.disk_usage(tmp_path).free < LEAST_SPACE * 1e9:
        pytest.skip(f"less than {LEAST_SPACE} GB of disk are free")
    assert TORCH is not None
    succeed(python, "-m", "venv", "empty", folder=tmp_path)
    programs = tmp_path / "empty" / "bin"
    install = (programs / "python", "-m", "pip", "install", "-q")
    torch = call(*install, TORCH[0], folder=tmp_path)
    if torch.returncode:
        pytest.skip(f"pip cannot install {TORCH[0]}: {torch.stderr.strip()[-300:]}")
    succeed(*install, wheel, folder=tmp_path, PIP_CONSTRAINT=str(constraints))
    work = tmp_path / "work"
    work.mkdir()
    own = {"HYDRATUNE_CACHE": str(tmp_path / "cache"), "WANDB_MODE": "disabled"}
    try:
        assert "optimizer" in succeed(programs / "hydratune", "configs", folder=work, **own)
        explained = succeed(programs / "hydratune", "help", "optimizer.lr", folder=work, **own)
        assert "learning rate" in explained
        assert "optimizer" in succeed(programs / "hydratune", "train", "--help", folder=work, **own)
        smoke = succeed(programs / "hydratune", "train", "debug=smoke", folder=work, **own)
        assert "report.html" in smoke
        assert "trained in" in succeed(programs / "python", "-c", SNIPPET, folder=work, **own)
        compared = succeed(programs / "hydratune", "compare", "outputs", folder=work, **own)
        assert "pip install 'hydratune[comparison]'" in compared
    finally:
        shutil.rmtree(tmp_path / "empty")  # gigabytes
