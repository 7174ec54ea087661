"""Settings that are paths, in which ``~`` stands for the home folder; a run's file of settings."""

import os
import re
from dataclasses import field, fields, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING

CONFIG_FILE = "config.yaml"  # of a run directory: its settings
PARITY_FILE = "parity.json"  # of an export: how far it is from its run
METRICS_FILE = "metrics.json"  # of a run directory that is finished
_IS_PATH = "path"  # in the metadata of a field


def path_setting(default: str | None = MISSING) -> Any:  # Any: as dataclasses.field is typed
    """Return a field of a settings dataclass whose value is a path."""
    return field(default=default, metadata={_IS_PATH: True})


def as_file_name(text: str) -> str:
    """Return ``text`` as it may stand in the name of a file: ``org/model`` as ``org-model``."""
    return re.sub(r"[^\w.-]+", "-", text)


def expand_paths(settings: object) -> None:
    """Replace ``~`` in the path settings of a dataclass and of those in it, which are changed."""
    for setting in fields(settings):  # type: ignore[arg-type]  # any dataclass
        value = getattr(settings, setting.name)
        if is_dataclass(value):
            expand_paths(value)
        elif setting.metadata.get(_IS_PATH) and isinstance(value, str) and value.startswith("~"):
            setattr(settings, setting.name, str(expanded(value)))


def expanded(path: str) -> Path:
    """Return ``path`` with the home folder in place of ``~``; a file may be called ``~name``."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  # Path.expanduser fails for ~name
