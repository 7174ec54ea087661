"""Hides packages in the process that imports this module, as if they were not installed: neither
modules nor versions are found.
"""

import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import Distribution, DistributionFinder
from typing import Any

DISTRIBUTIONS = {  # not needed by training, generation and packs -> their modules
    "wandb": "wandb",
    "datasets": "datasets",
    "bitsandbytes": "bitsandbytes",
    "gguf": "gguf",
    "optuna": "optuna",
    "plotly": "plotly",
    "bm25s": "bm25s",
    "ftfy": "ftfy",
    "jsonschema": "jsonschema",
    "rfc3339-validator": "rfc3339_validator",
    "phonenumbers": "phonenumbers",
    "python-stdnum": "stdnum",
    "py3langid": "py3langid",
    "text2num": "text_to_num",
    "sacrebleu": "sacrebleu",
    "cmaes": "cmaes",
    "scikit-learn": "sklearn",
    "presidio-analyzer": "presidio_analyzer",
    "lm-eval": "lm_eval",
    "prompt-toolkit": "prompt_toolkit",
    "wandb-workspaces": "wandb_workspaces",
    "llguidance": "llguidance",
    "openai": "openai",
    "matplotlib": "matplotlib",
    "tensorboardX": "tensorboardX",
    "submitit": "submitit",
    "ray": "ray",
    "trl": "trl",
}


class Finder(PathFinder):
    """The standard finder of modules and of distributions, without those that are hidden."""

    hidden: set[str] = set()  # distributions

    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        modules = {DISTRIBUTIONS[name] for name in cls.hidden}
        return (
            None
            if fullname.partition(".")[0] in modules
            else super().find_spec(fullname, path, target)
        )

    @classmethod
    def find_distributions(
        cls,
        context: DistributionFinder.Context = DistributionFinder.Context(),  # noqa: B008
    ) -> Iterator[Distribution]:
        hidden = {name.lower().replace("-", "_") for name in cls.hidden}
        distributions: Iterable[Distribution] = PathFinder.find_distributions(context)
        return (
            d
            for d in distributions
            if (d.metadata["Name"] or "").lower().replace("-", "_") not in hidden
        )


def hide(names: Iterable[str] = DISTRIBUTIONS) -> None:
    Finder.hidden = set(names)
    sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
