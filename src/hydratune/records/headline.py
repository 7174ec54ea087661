"""What a run trains, in a line: the model, the data, the learning rate, the rank and the epochs."""

from collections.abc import Mapping
from pathlib import PurePath

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from hydratune.bounds import load_yaml
from hydratune.errors import InputError
from hydratune.records.run_directory import RunDirectory
from hydratune.settings.registry import flat, plain
from hydratune.settings.secrets import mask
from hydratune.wording import counted

_PATHS = ("data.train", "data.path")  # of data that the user brings
_MOST_FILES = 2
_LORA_VARIANTS = {"adapter.use_dora": "dora", "adapter.use_rslora": "rslora"}
_LORA_STARTS = ("pissa", "olora", "loftq")
HEADLINE_SETTINGS = frozenset(
    {
        *("model.name", "data.source", "data.id", *_PATHS, "optimizer.lr"),
        *("adapter.method", "adapter.r", *_LORA_VARIANTS, "adapter.init_lora_weights"),
        *("trainer.max_epochs", "trainer.max_steps"),
    }
)


YAML_ERRORS = (InputError, OmegaConfBaseException, YAMLError, ValueError)


def headline_of(record: RunDirectory) -> str:
    """Return the headline of a run; empty if its settings cannot be read."""
    return mask(headline(recorded_settings(record)))


def recorded_settings(record: RunDirectory) -> dict[str, object]:
    """Return the flat settings of a run; empty if they are missing or cannot be read."""
    file = record.config_file
    try:
        return flat(OmegaConf.to_container(load_yaml(file))) if file.is_file() else {}
    except YAML_ERRORS:
        return {}


def data_name(data: object) -> str:
    """Return what a data source reads, of its settings: its name, or the files of the user."""
    return mask(_data(flat({"data": plain(data)})))


def subject(settings: Mapping[str, object]) -> str:
    """Return "MODEL on DATA" from flat settings, or what of it was recorded."""
    model, data = settings.get("model.name"), _data(settings)
    return " on ".join(str(part) for part in (model, data) if part)


def headline(settings: Mapping[str, object]) -> str:
    """Return "MODEL on DATA, lr=0.001, lora r=16, 2 epochs" from flat settings.

    What was not recorded, as by another program, is missing; the line may be empty.
    """
    rate = settings.get("optimizer.lr")
    number = f"{rate:.4g}" if isinstance(rate, float) else rate
    parts = (
        subject(settings),
        "" if rate is None else f"lr={number}",
        _adapter(settings),
        _length(settings),
    )
    return ", ".join(part for part in parts if part)


def _data(settings: Mapping[str, object]) -> str:
    """Return the source of the data, and the name of the user's files or folder."""
    source = str(settings.get("data.source") or "")
    if settings.get("data.id"):
        return str(settings["data.id"])
    given = next((settings[key] for key in _PATHS if settings.get(key)), None)
    paths = given if isinstance(given, list) else [given] if given else []
    names = [PurePath(str(path)).name for path in paths[:_MOST_FILES]]
    more = ["..."] if len(paths) > _MOST_FILES else []
    files = " + ".join([*names, *more])
    return files if files and source in ("files", "", files) else " ".join([source, files]).strip()


def _adapter(settings: Mapping[str, object]) -> str:
    """Return the method of the adapter, with its rank."""
    method, rank = settings.get("adapter.method"), settings.get("adapter.r")
    if method == "none":
        return "all parameters"
    start = str(settings.get("adapter.init_lora_weights"))
    names = [name for key, name in _LORA_VARIANTS.items() if settings.get(key) is True]
    names += [name for name in _LORA_STARTS if start.startswith(name)]
    parts = [*(names or [str(method or "")]), "" if rank is None else f"r={rank}"]
    return " ".join(part for part in parts if part)


def _length(settings: Mapping[str, object]) -> str:
    """Return the number of epochs, and of steps where they are limited."""
    epochs, steps = settings.get("trainer.max_epochs"), settings.get("trainer.max_steps")
    limit = counted(steps, "step") if isinstance(steps, int) and steps > 0 else ""
    if epochs is None:
        return limit
    text = f"{epochs} epoch{'' if epochs == 1 else 's'}"
    return f"{text}, at most {limit}" if limit else text
