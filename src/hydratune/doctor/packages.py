"""Python, the packages that hydratune requires, and its extras; none of them is imported."""

import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import NamedTuple

from hydratune.doctor.finding import Finding, Level

DISTRIBUTION = "hydratune"
EXTRAS = {  # extra -> what it brings
    "quality": "checks of personal data, languages and encodings",
    "pii": "persons and places in rows",
    "search": "hydra/sweeper=optuna, sweep=search",
    "comparison": "the page of hydratune compare",
    "pictures": "hydratune compare export=svg",
    "workspaces": "hydratune compare --to-wandb",
    "quantization": "model.quantization=nf4, 8-bit optimizers",
    "retrieval": "hydratune decide with documents",
    "bleu": "evaluation.metrics=[bleu]",
    "constrained": "answers held to a JSON schema",
    "lm_eval": "tasks of lm-eval",
    "judge": "hydratune judge with a server",
    "serve": "hydratune serve by transformers",
    "tensorboard": "tracking=tensorboard",
    "slurm": "hydra/launcher/executor=slurm",
    "ray": "hydra/launcher/executor=ray",
    "chat": "history and line editing in hydratune chat",
}
_SHOWN = ("torch", "transformers", "peft", "lightning", "hydra-core", "wandb")


class Required(NamedTuple):
    """A requirement of the distribution: ``torch`` within ``>=2.11,<2.14``."""

    name: str
    bounds: str
    extra: str  # that needs it; empty: every run does


def python() -> Iterator[Finding]:
    """Check the version of Python."""
    version = platform.python_version()
    bounds = _metadata()["Requires-Python"] or ">=3.11"
    facts = {"version": version, "bounds": bounds, "executable": sys.executable}
    if _within(version, bounds) is False:
        remedy = f"install Python {bounds.lstrip('>=')} or newer, and hydratune into it"
        text = f"{version} is outside {bounds}"
        yield Finding("Python", text, Level.problem, remedy, facts)
        return
    yield Finding("Python", f"{version} ({bounds}), {sys.executable}", facts=facts)


def required_packages() -> Iterator[Finding]:
    """Check that every package is installed, in a version within the bounds."""
    found: dict[str, str] = {}
    fine = 0
    for package in requirements():
        if package.extra:
            continue
        version = version_of(package.name)
        spec = f"{package.name}{package.bounds}"
        facts = {"version": version, "bounds": package.bounds}
        if version is None:
            remedy = f"pip install '{spec}'"
            yield Finding(package.name, "is not installed", Level.problem, remedy, facts)
            continue
        found[package.name] = version
        if _within(version, package.bounds) is False:
            text = f"{version} is outside {package.bounds}, with which hydratune is tested"
            yield Finding(package.name, text, Level.warning, f"pip install '{spec}'", facts)
        else:
            fine += 1
    shown = ", ".join(f"{name} {found[name]}" for name in _SHOWN if name in found)
    text = f"{fine} required ones within their bounds: {shown}"
    yield Finding("packages", text, facts={"versions": found})


def missing_extras() -> Iterator[Finding]:
    """Say which extras are not installed, and what they bring."""
    needs: dict[str, list[str]] = {}
    for package in requirements():
        if package.extra in EXTRAS:
            needs.setdefault(package.extra, []).append(package.name)
    missing = [e for e, names in needs.items() if not all(map(version_of, names))]
    here = [extra for extra in needs if extra not in missing]
    facts = {"installed": here, "missing": missing}
    if here:
        yield Finding("extras", f"installed: {', '.join(here)}", facts=facts)
    for extra in missing:
        remedy = f"pip install 'hydratune[{extra}]'"
        text = f"the extra is not installed: {EXTRAS[extra]}"
        yield Finding(extra, text, Level.note, remedy, {"packages": needs[extra]})


def requirements() -> list[Required]:
    """Return what the installed distribution requires. Raises ``ImportError`` without packaging."""
    from packaging.requirements import Requirement

    found = []
    for text in _metadata().get_all("Requires-Dist") or []:
        requirement = Requirement(text)
        extra = next(
            (e for e in EXTRAS if f'"{e.replace("_", "-")}"' in str(requirement.marker or "")), ""
        )
        if requirement.marker and not extra:  # of developers, or all extras together
            continue
        specifiers = sorted(map(str, requirement.specifier), key=lambda s: s.startswith("<"))
        found.append(Required(requirement.name, ",".join(specifiers), extra))
    return found


def specification(name: str) -> str:
    """Return what pip is told to install, such as ``torch>=2.11,<2.14``."""
    return next((f"{name}{r.bounds}" for r in requirements() if r.name == name), name)


def _metadata() -> "metadata.PackageMetadata":
    return metadata.metadata(DISTRIBUTION)


def version_of(name: str) -> str | None:
    """Return the installed version of a distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _within(version: str, bounds: str) -> bool | None:
    """Return whether a version is within bounds; None if that cannot be told."""
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(bounds).contains(version, prereleases=True) if bounds else None
