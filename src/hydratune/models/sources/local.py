"""A model in a local folder in the format of Hugging Face."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hydratune import digests
from hydratune.data.rows import stable_hash
from hydratune.errors import ConfigError, HydratuneError, InputError, Problem
from hydratune.settings.model import ModelConfig, Source
from hydratune.settings.paths import path_setting
from hydratune.settings.registry import variant


@variant("model", "local")
@dataclass
class LocalModel(ModelConfig):
    """A model in a local folder in the format of Hugging Face."""

    source: str = "local"
    path: str = path_setting()  # the folder

    def own_problems(self) -> Iterator[Problem]:
        folder = Path(self.path)
        if not (folder / "config.json").is_file():
            why = "no such folder" if not folder.is_dir() else "the folder has no config.json"
            fix = "give a Hugging Face model folder (config.json, *.safetensors, tokenizer)"
            yield Problem("model.path", self.path, why, fix)

    def locate(self) -> Source:
        damage = digests.damaged(Path(self.path))  # of a run that trained the whole model
        if damage is not None:
            raise InputError(f"model.path = {self.path}: {damage}")
        return Source(self.path, None, f"folder:{_folder_identity(Path(self.path))}")

    def folder_at_hand(self) -> Path | None:
        return Path(self.path)

    def loading_error(self, source: Source, reason: str) -> HydratuneError:
        fix = "give a complete Hugging Face folder: config.json, *.safetensors, tokenizer files"
        problem = Problem("model.path", source.name, f"cannot be loaded ({reason})", fix)
        return ConfigError([problem])

    def own_name(self) -> tuple[str, str]:
        return "model.path", self.path


def _folder_identity(folder: Path) -> str:
    """Return a hash that changes when a file of the model changes.

    It covers names, sizes and times, since the files hold gigabytes.
    """
    files = sorted(p for p in folder.iterdir() if p.is_file())
    return stable_hash([(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files])
