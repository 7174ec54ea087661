"""What is served: a whole model, or a GGUF file, from an export or from a run."""

import shlex
import subprocess
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from hydratune import digests
from hydratune.console import console, relative_path
from hydratune.data.encoding.rendering import try_template
from hydratune.errors import ConfigError, Problem, RunError
from hydratune.export.exporting import adapter_digest, is_export_of
from hydratune.export.output import REJECTED_FILE
from hydratune.records.files import read_json
from hydratune.settings.export import GgufType
from hydratune.settings.overrides import as_typed
from hydratune.settings.paths import CONFIG_FILE

_SHORT = 12  # characters of a digest in the name of a folder


class Kind(Enum):
    """What kind of model a folder holds."""

    whole = "a whole model"
    gguf = "a GGUF file"
    adapter = "an adapter"


@dataclass(frozen=True)
class Target:
    """A model that a server can load."""

    folder: Path
    kind: Kind

    @property
    def file(self) -> Path:
        """The GGUF file."""
        return next(self.folder.glob("*.gguf"))

    @property
    def name(self) -> str:
        """What clients may call the model."""
        return self.folder.name


class NotYetWritten(Target):
    """A GGUF file that an export will write, by the name that it will have."""

    @property
    def file(self) -> Path:
        return self.folder / f"model-{GgufType.f16.value}.gguf"


def of_export(folder: Path) -> Target:
    """Return what is in a folder of ``hydratune export``.

    Raises ``ConfigError``, and ``RunError`` if a file is not as the export wrote it.
    """
    if any((place / REJECTED_FILE).is_file() for place in (folder, folder.absolute().parent)):
        why = "this export was rejected, because it is not the model of its run"
        raise _problem(folder, why, "export the run again, and look at parity.json")
    if (folder / CONFIG_FILE).is_file():
        raise _problem(folder, "this is a run, and not an export", as_typed("run", folder))
    kind = kind_of(folder)
    if kind is None:
        inner = [path for path in sorted(folder.iterdir()) if _is_whole(path)]
        if inner:
            fix = f"choose one: {', '.join(as_typed('export', path) for path in inner)}"
            raise _problem(folder, "this export has several forms", fix)
        why = "there is no model in it: no config.json with *.safetensors, and no *.gguf"
        raise _problem(folder, why, "give a folder that hydratune export wrote")
    if kind is Kind.adapter:
        why = "this is an adapter without its base model"
        fix = "export the run with form=merged, or give run=DIR instead of export=DIR"
        raise _problem(folder, why, fix)
    if (changed := digests.damaged(folder)) is not None:
        raise RunError(f"{changed}; or export the run again")
    return Target(folder.absolute(), kind)


def _is_whole(path: Path) -> bool:
    return path.is_dir() and kind_of(path) not in (None, Kind.adapter)


def check_template(model: Target) -> None:
    """Raise ``RunError`` for a chat template with which one request would stop the server.

    Servers render it themselves, without limits. That of a GGUF file is not looked at.
    """
    file, settings = model.folder / "chat_template.jinja", model.folder / "tokenizer_config.json"
    template: object = file.read_text("utf-8") if file.is_file() else None
    if template is None and settings.is_file():
        content = read_json(settings)
        template = content.get("chat_template") if isinstance(content, dict) else None
    turns = [{"role": "user", "content": "Hello"}]
    fault = try_template(template, {"messages": turns}) if isinstance(template, str) else ""
    if fault:
        raise RunError(f"the chat template in {model.folder} cannot be served: {fault}; correct it")


def kind_of(folder: Path) -> Kind | None:
    """Return what kind of model a folder holds; None if it holds none."""
    if any(folder.glob("*.gguf")):
        return Kind.gguf
    if (folder / "adapter_config.json").is_file():
        return Kind.adapter
    has_weights = any(folder.glob("*.safetensors"))
    return Kind.whole if has_weights and (folder / "config.json").is_file() else None


def of_run(run: Path, kind: Kind) -> tuple[Target, list[str] | None]:
    """Return the model of a run in the form that a server needs.

    With it, the command that exports the run to it; None if it is there already. Raises
    ``RunError`` for a run without trained weights.
    """
    adapter = run / "adapter"
    found = kind_of(adapter) if any(adapter.glob("*.safetensors")) else None
    if found is None:
        raise RunError(f"{adapter} holds no weights (*.safetensors); this run has nothing to serve")
    if found is kind:  # trained in full
        return Target(adapter.absolute(), kind), None
    own = run / "export"
    if kind_of(own) is kind and is_export_of(own, run):
        return Target(own.absolute(), kind), None
    form = "gguf" if kind is Kind.gguf else "merged"
    folder = run / "served" / f"{form}-{adapter_digest(adapter)[:_SHORT]}"
    target = Target(folder.absolute(), kind)
    if kind_of(folder) is kind:
        return target, None
    words = [as_typed("run", relative_path(run)), as_typed("output", relative_path(folder))]
    return target, ["hydratune", "export", *(shlex.split(w)[0] for w in words), f"form={form}"]


def export(command: list[str]) -> None:
    """Run a command of ``of_run`` in a process of its own, whose memory is free afterwards.

    Raises ``RunError`` if it fails, after it has said why.
    """
    console.print("[dim]exporting the run, once")
    done = subprocess.run([sys.executable, "-m", *command], check=False)
    if done.returncode:
        raise RunError(f"the run was not exported (exit code {done.returncode}), nothing is served")


def _problem(folder: Path, why: str, fix: str) -> ConfigError:
    return ConfigError([Problem("export", folder, why, fix)])
