"""What is not done to a data set because an optional package is not installed."""

from collections.abc import Mapping

from hydratune import extras
from hydratune.data.cleaning import can_repair_encoding
from hydratune.settings.data import DataConfig


def skipped_for_packages(data: DataConfig) -> dict[str, str]:
    """Return check or repair (its setting without ``data.``) -> the module that it needs."""
    skipped = {f"quality.{name}": module for name, module in data.quality.skipped().items()}
    if data.clean.encoding and not can_repair_encoding():
        skipped["clean.encoding"] = "ftfy"
    return skipped


def describe_skipped(skipped: Mapping[str, str]) -> str:
    """Return in one sentence what was skipped and how to have it; empty if nothing was."""
    if not skipped:
        return ""
    names = ", ".join(f"data.{name}" for name in skipped)
    packages = dict.fromkeys(extras.PACKAGES[module].distribution for module in skipped.values())
    return (
        f"skipped, because {', '.join(packages)} {'is' if len(packages) == 1 else 'are'} not"
        f" installed: {names}; {extras.how_to_install(*skipped.values())}"
    )
