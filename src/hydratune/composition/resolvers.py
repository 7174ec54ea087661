"""Where the shipped settings are, and the functions that they call."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from omegaconf import OmegaConf

from hydra_plugins import hydratune_sweeper
from hydratune.composition import catalogue_options, package_options, schemas
from hydratune.data.rows import stable_hash
from hydratune.errors import ConfigError, Problem
from hydratune.models.catalogue.entries import models

_FOLDERS = (Path(__file__).parents[3] / "conf", Path(__file__).parents[1] / "conf")
# beside src/ in a clone, inside the package in a wheel
CONF = next(path for path in _FOLDERS if path.is_dir()).resolve()
_SEARCH = ("sampler", "seed", "objectives", "options")  # of hydra.sweeper: they make another search
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]*")

# devices of Windows, which are no folders there, with any ending
_RESERVED = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{kind}{n}" for kind in ("com", "lpt") for n in range(10)),
}
_LARGEST_FACTOR = 1e100


def register() -> None:
    """Make settings, options of packages, sweepers and resolvers known to Hydra."""
    schemas.register()
    hydratune_sweeper.register()
    package_options.register()
    catalogue_options.register()
    resolvers: dict[str, Callable[..., object]] = {
        "run_name": run_name,
        "path_name": lambda path: Path(str(path)).name or "model",
        "unless": lambda other, value: value if other is None else None,
        "mul": product,
        "sweep_name": sweep_name,
    }
    for name, resolver in resolvers.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


def shipped_options(group: str) -> list[str]:
    """Return the options of a config group that hydratune has: its files, and for ``model`` the
    catalogue.
    """
    files = {file.stem for file in (CONF / group).glob("*.yaml")}
    return sorted(files | set(models() if group == catalogue_options.GROUP else ()))


def run_name(name: str | None, data: str) -> str:
    """Return ``name``, or the name of the data set where it is null.

    It is one folder under outputs/. Raises ``ConfigError`` for a path.
    """
    name = str(data if name is None else name)
    reserved = name.partition(".")[0].lower() in _RESERVED or name.endswith(".")
    if not _NAME.fullmatch(name) or ".." in name or reserved:
        why = "the name becomes a folder under outputs/ and must stay there"
        fix = "use letters, digits, '.', '_', '-' only; to choose a place, set hydra.run.dir=DIR"
        if reserved and _NAME.fullmatch(name) and ".." not in name:
            why, fix = "Windows has no folder of this name", f"set name=run-{name.rstrip('.')}"
        raise ConfigError([Problem("name", name, why, fix)])
    return name


def product(*factors: object) -> float:
    """Return the product of numbers. Raises ``ConfigError`` for anything else.

    A text or a list times a large number would take all memory.
    """
    numbers = [f for f in factors if isinstance(f, int | float) and abs(f) < _LARGEST_FACTOR]
    if len(numbers) < len(factors):
        why, fix = "it multiplies numbers below 1e100", "give numbers: ${mul:2,8}"
        raise ConfigError([Problem("${mul:...}", str(factors)[:60], why, fix)])
    return math.prod(numbers)


def sweep_name(
    name: str,
    overrides: Sequence[str],
    params: Mapping[str, str] | None,
    sweeper: Mapping[str, object] | None = None,
) -> str:
    """Return ``<name>-<swept keys>-<hash>``; equal for equal sweeps, different for others.

    ``params`` is Hydra's ``hydra.sweeper.params``. For a search, ``sweeper`` says how it searches;
    the number of trials does not count, so that more trials continue the same search.
    """
    typed = [override for override in overrides if not override.startswith("resume=")]
    settings = [f"{key}={value}" for key, value in (params or {}).items()] + typed
    swept = [
        setting.split("=", 1)[0].lstrip("+").rsplit(".", 1)[-1]
        for setting in settings
        if "," in setting or "(" in setting
    ]
    if sweeper and "together" in sweeper:
        return f"{name}-{_name_of_wandb_sweep(sweeper, settings)}"
    if sweeper:
        settings += [f"hydra.sweeper.{key}={sweeper[key]}" for key in _SEARCH if key in sweeper]
    return "-".join([name, *dict.fromkeys(swept), stable_hash(sorted(settings))[:8]])


def _name_of_wandb_sweep(sweeper: Mapping[str, object], settings: Sequence[str]) -> str:
    """Return the id of a W&B sweep, or the name of its file and a hash of what it says."""
    if not sweeper["file"]:
        return str(sweeper["sweep"]).rstrip("/").rpartition("/")[2]
    file = Path(str(sweeper["file"])).expanduser()
    content = file.read_text(errors="replace") if file.is_file() else str(file)
    return f"{file.stem}-{stable_hash([content, *sorted(settings)])[:8]}"
