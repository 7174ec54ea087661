"""Packages with entry points, installed into a temporary folder as pip installs them."""

import os
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from hydratune.evaluation import families
from hydratune.settings import packages, registry


def install(folder: Path, project: str, modules: Mapping[str, str]) -> None:
    """Write modules, and the entry points of the pyproject.toml ``project``, into ``folder``."""
    content = tomllib.loads(project)["project"]
    name, version = content["name"], content["version"]
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = []
    for group, points in content["entry-points"].items():
        lines += [f"[{group}]", *(f"{part} = {value}" for part, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    for module, text in modules.items():
        (folder / f"{module}.py").write_text(text)


@contextmanager
def found_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Find the packages of ``folder``, in this process and those it starts; then forget them."""
    folder.mkdir(exist_ok=True)
    imported = set(sys.modules)
    path = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), path])))
    monkeypatch.syspath_prepend(folder)
    registry.all_variants()  # so that the copy has what hydratune brings
    copy = {group: dict(variants) for group, variants in registry._VARIANTS.items()}
    monkeypatch.setattr(registry, "_VARIANTS", copy)
    monkeypatch.setattr(packages, "_REGISTERED", {kind: {} for kind in packages.GROUPS})
    for cached in ("_POINTS", "_LOADED"):
        monkeypatch.setattr(packages, cached, {})
    families.family.cache_clear()
    yield
    families.family.cache_clear()
    for name in set(sys.modules) - imported:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
