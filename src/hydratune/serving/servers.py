"""The servers: which are installed, what they can serve, and the command that starts each."""

import os
import secrets
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydratune import extras
from hydratune.errors import ConfigError, Problem
from hydratune.serving.target import Kind, Target
from hydratune.settings.export import LOOPBACK, Server, ServeSettings

_OF_TRANSFORMERS = ("fastapi", "uvicorn", "openai")  # modules without which it refuses to start


@dataclass(frozen=True)
class Program:
    """A server."""

    title: str
    kinds: tuple[Kind, ...]  # what it loads, the best first
    is_installed: Callable[[], bool]
    how_to_install: str
    command: Callable[[Target, ServeSettings], list[str]]
    # environment variable with the key that requests must then bring; None: it asks for none
    key_variable: str | None = None

    def environment(self, host: str) -> dict[str, str]:
        """Return the variables by which the server asks for a key where others can reach it.

        A key that the user has set is kept.
        """
        if self.key_variable is None or host in LOOPBACK:
            return {}
        return {self.key_variable: os.environ.get(self.key_variable) or secrets.token_urlsafe(24)}


def _transformers(target: Target, settings: ServeSettings) -> list[str]:
    model = str(target.folder)
    if target.kind is Kind.gguf:
        model = f"{model}:{target.file.name}"
    # the run was measured in fp32 where there is no GPU
    dtype = () if _has_accelerator() else ("--dtype", "float32")
    return [
        *(sys.executable, "-m", "transformers.cli.transformers", "serve", model, *dtype),
        *("--host", settings.host, "--port", str(settings.port)),
    ]


def _has_accelerator() -> bool:
    """Return whether this machine seems to have a GPU, without importing torch."""
    devices = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # NVIDIA, AMD, Windows' Linux
    return sys.platform == "darwin" or any(Path(device).exists() for device in devices)


def _vllm(target: Target, settings: ServeSettings) -> list[str]:
    return [
        *("vllm", "serve", str(target.folder), "--served-model-name", target.name),
        *("--host", settings.host, "--port", str(settings.port)),
    ]


def _llama_cpp(target: Target, settings: ServeSettings) -> list[str]:
    return [
        *("llama-server", "-m", str(target.file), "--alias", target.name, "--jinja"),
        *("--host", settings.host, "--port", str(settings.port)),
    ]


def _on_path(program: str) -> Callable[[], bool]:
    return lambda: shutil.which(program) is not None


PROGRAMS = {  # in the order in which server=auto looks for them
    Server.vllm: Program(
        "vLLM",
        (Kind.whole,),
        _on_path("vllm"),
        "pip install vllm (it needs a GPU)",
        _vllm,
        "VLLM_API_KEY",
    ),
    Server.transformers: Program(
        "transformers serve",
        (Kind.whole, Kind.gguf),
        lambda: all(map(extras.is_installed, _OF_TRANSFORMERS)),
        extras.how_to_install("fastapi"),
        _transformers,
    ),
    Server.llama_cpp: Program(
        "llama-server of llama.cpp",
        (Kind.gguf,),
        _on_path("llama-server"),
        "install llama.cpp, so that llama-server is on the PATH",
        _llama_cpp,
        "LLAMA_API_KEY",
    ),
}


def choose(asked: Server, kind: Kind | None) -> Program:
    """Return the server for a model; ``kind`` None: a run, which is exported as it needs.

    Raises ``ConfigError`` if the server that was asked for, or any, is missing.
    """
    if asked is not Server.auto:
        program = PROGRAMS[asked]
        if kind is not None and kind not in program.kinds:
            why = f"{program.title} cannot load {kind.value}"
            able = [name.value for name, p in PROGRAMS.items() if kind in p.kinds]
            raise _problem(asked, why, f"set server={able[0]}, or leave server out")
        if not program.is_installed():
            raise _problem(asked, f"{program.title} is not installed", program.how_to_install)
        return program
    able_programs = [p for p in PROGRAMS.values() if kind is None or kind in p.kinds]
    if kind is Kind.gguf:
        able_programs.reverse()  # llama.cpp is made for it
    for program in able_programs:
        if program.is_installed():
            return program
    ways = "; or ".join(f"{p.title}: {p.how_to_install}" for p in reversed(able_programs))
    raise _problem(asked, "no server that can load this model is installed", ways)


def command_of(program: Program, target: Target, settings: ServeSettings) -> list[str]:
    """Return the command that starts a server. Raises ``ConfigError`` for a path it misreads."""
    if program is PROGRAMS[Server.transformers] and "@" in str(target.folder):
        why = f"transformers serve reads @ in {target.folder} as the name of a revision"
        key = "export" if settings.export is not None else "run"
        raise ConfigError([Problem(key, target.folder, why, "move it to a path without @")])
    return [*program.command(target, settings), *settings.arguments]


def shown_model(program: Program, target: Target, command: Sequence[str]) -> str:
    """Return the name of the model for requests."""
    return command[4] if program is PROGRAMS[Server.transformers] else target.name


def _problem(asked: Server, why: str, fix: str) -> ConfigError:
    return ConfigError([Problem("server", asked.value, why, fix)])
