"""Optional packages: which of them are installed, and what to install where one is missing.

A training run needs none of them. Each belongs to an extra of the distribution (pyproject.toml):
``pip install 'hydratune[search]'``.
"""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass

from hydratune.errors import InputError, Problem


@dataclass(frozen=True)
class OptionalPackage:
    """A package of an extra."""

    distribution: str  # what pip calls it
    extra: str


PACKAGES = {  # module -> package
    "ftfy": OptionalPackage("ftfy", "quality"),
    "phonenumbers": OptionalPackage("phonenumbers", "quality"),
    "py3langid": OptionalPackage("py3langid", "quality"),
    "stdnum": OptionalPackage("python-stdnum", "quality"),
    "text_to_num": OptionalPackage("text2num", "quality"),
    "presidio_analyzer": OptionalPackage("presidio-analyzer", "pii"),
    "optuna": OptionalPackage("optuna", "search"),
    "cmaes": OptionalPackage("cmaes", "search"),
    "plotly": OptionalPackage("plotly", "comparison"),
    "sklearn": OptionalPackage("scikit-learn", "comparison"),
    "matplotlib": OptionalPackage("matplotlib", "pictures"),
    "wandb_workspaces": OptionalPackage("wandb-workspaces", "workspaces"),
    "bitsandbytes": OptionalPackage("bitsandbytes", "quantization"),
    "bm25s": OptionalPackage("bm25s", "retrieval"),
    "sacrebleu": OptionalPackage("sacrebleu", "bleu"),
    "llguidance": OptionalPackage("llguidance", "constrained"),
    "lm_eval": OptionalPackage("lm-eval", "lm_eval"),
    "openai": OptionalPackage("openai", "judge"),
    "fastapi": OptionalPackage("fastapi", "serve"),
    "uvicorn": OptionalPackage("uvicorn", "serve"),
    "tensorboardX": OptionalPackage("tensorboardX", "tensorboard"),
    "submitit": OptionalPackage("submitit", "slurm"),
    "ray": OptionalPackage("ray", "ray"),
    "prompt_toolkit": OptionalPackage("prompt-toolkit", "chat"),
}


def is_installed(module: str) -> bool:
    """Return whether a package is installed, without importing it."""
    return importlib.util.find_spec(module) is not None


def how_to_install(*modules: str) -> str:
    """Return the command that installs the extras of ``modules``."""
    extras = dict.fromkeys(PACKAGES[module].extra for module in modules)
    return f"pip install 'hydratune[{','.join(extras)}]'"


def missing(module: str, key: str, value: object) -> Iterator[Problem]:
    """Yield the problem of the setting ``key`` if the package that it needs is not installed."""
    if not is_installed(module):
        why = f"needs the package {PACKAGES[module].distribution}, which is not installed"
        yield Problem(key, value, why, how_to_install(module))


def require(module: str, purpose: str) -> None:
    """Raise ``InputError`` if a package is not installed. ``purpose`` names what needs it."""
    if not is_installed(module):
        raise InputError(
            f"{purpose} needs the package {PACKAGES[module].distribution}, which is not installed:"
            f" {how_to_install(module)}"
        )
