"""``hydratune.train``: one run, as ``hydratune train`` makes it, in this process."""

import difflib
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.markup import escape

from hydratune.api.composing import Composed, Settings, compose_with_hydra, say, words_of
from hydratune.api.rows import named_as_given
from hydratune.api.run import Run
from hydratune.composition.arguments import repeated_settings
from hydratune.composition.resolvers import run_name
from hydratune.composition.value_types import describe_type, plain_reason
from hydratune.console import LineFormatter, LogFile, console
from hydratune.errors import ConfigError, InputError, Problem, refuse
from hydratune.experiment import lifecycle
from hydratune.experiment.idle_settings import without_effect
from hydratune.experiment.interrupts import listening
from hydratune.records.run_directory import RunDirectory
from hydratune.settings import packages
from hydratune.settings.commands import Resume, TrainConfig
from hydratune.settings.registry import plain, typed

if TYPE_CHECKING:
    import lightning
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hydratune.api.loaded_model import ModelInMemory
    from hydratune.api.rows import Rows

_NEXT = (  # below the commands that a run names at its end
    "Python      run.load_model() to generate, run.show() for the page,"
    " hydratune.compare([run, other]), hydratune.sweep(...); run is what this call returned"
)
_OF_LOADED = ("model.chat_template",)  # settings of a model that is given


@dataclass(frozen=True)
class _Planned:
    """A run that is about to be made."""

    config: TrainConfig
    record: RunDirectory
    composed: Composed | None  # None: the settings were given as a dataclass


def train(
    settings: Settings | TrainConfig = (),
    *,
    data: "Rows | None" = None,
    model: "PreTrainedModel | None" = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    callbacks: "Sequence[lightning.Callback]" = (),
    directory: str | Path | None = None,
) -> Run:
    """Fine-tune a model, measure it before and after, and return the run.

    It is ``hydratune train`` in this process: the same settings, checks, files and tracking.

    Args:
        settings: as on the command line (``"model=tiny optimizer.lr=1e-3"``, a list of such words,
            or a mapping from settings to values), or what ``compose`` returned.
        data: rows in memory: a pandas DataFrame, a ``datasets.Dataset`` or a list of mappings, or
            a mapping from ``train``, ``validation`` and ``test`` to such tables. They are written
            to JSONL files below ``outputs/rows``. With what ``compose`` returned, they are given
            there: ``compose(..., data=rows)``.
        model: a loaded model of transformers instead of the one that the settings name. It is not
            changed: the run attaches its adapter to a copy of the modules with the same tensors.
        tokenizer: of ``model``; by default it is read from where the model was loaded.
        callbacks: Lightning callbacks.
        directory: of the run; by default ``outputs/NAME/TIME``. A run in it that was interrupted
            is resumed.

    Raises ``ConfigError`` with every problem of the settings, ``DataError`` for rows,
    ``HydratuneError`` if the run fails, ``KeyboardInterrupt`` if it is interrupted; its work is
    saved then.
    """
    began = time.perf_counter()
    loaded = _in_memory(model, tokenizer)
    with named_as_given(), _registered(callbacks) as names:
        planned = _plan(settings, data, directory, loaded, names)
        _check(planned)
        if planned.composed is not None:
            words = planned.composed.words
            say([*repeated_settings(words), *without_effect(planned.config, words)])
        with loaded.as_before() if loaded is not None else nullcontext():
            _run(planned, loaded, began)
    console.print(escape(_NEXT), soft_wrap=True)
    return Run(planned.record.path)


def _in_memory(
    model: "PreTrainedModel | None", tokenizer: "PreTrainedTokenizerBase | None"
) -> "ModelInMemory | None":
    if model is None:
        if tokenizer is not None:
            raise InputError("tokenizer: it belongs to model=..., which is not given")
        return None
    from hydratune.api.loaded_model import ModelInMemory

    return ModelInMemory.of(model, tokenizer)


def _plan(
    settings: Settings | TrainConfig,
    data: "Rows | None",
    directory: str | Path | None,
    loaded: "ModelInMemory | None",
    callbacks: Sequence[str],
) -> _Planned:
    """Return the run that the arguments of ``train`` describe."""
    composed = None
    if isinstance(settings, TrainConfig):
        if data is not None:
            raise InputError(
                "data: what compose returned names its data already; give the rows there:"
                ' hydratune.compose("model=tiny", data=rows)'
            )
        config = _as_typed(settings)
        name = run_name(config.name, "run")
        place = Path("outputs") / name / f"{datetime.now():%Y-%m-%d_%H-%M-%S_%f}"
    else:
        words = words_of(settings, data)
        if loaded is not None:
            _refuse_other_models(words)
        composed = compose_with_hydra(words, "train")
        assert isinstance(composed.config, TrainConfig)
        config, place = composed.config, Path(str(composed.hydra.run.dir))
    if loaded is not None:
        config.model = loaded.settings(config.model)
    if callbacks:
        config.trainer.callbacks = [*(config.trainer.callbacks or ()), *callbacks]
    record = RunDirectory(Path(directory if directory is not None else place).absolute())
    return _Planned(config, record, composed)


def _as_typed(settings: TrainConfig) -> TrainConfig:
    """Return a copy of ``settings``, whose fields Python code may have set to any value.

    Raises ``ConfigError`` for an attribute that is no setting, and for a value of a wrong type.
    """
    refuse(_attribute_problems("", settings))
    return typed(OmegaConf.structured(settings), TrainConfig)


def _attribute_problems(prefix: str, config: object) -> list[Problem]:
    """Return what is wrong with the attributes of a dataclass, and of the dataclasses in it."""
    assert is_dataclass(config)
    names = [field.name for field in fields(config)]
    problems = []
    for name, value in vars(config).items():
        if name not in names:
            nearest = difflib.get_close_matches(name, names, 1)
            fix = (
                f"did you mean {prefix}{nearest[0]}?" if nearest else f"one of: {', '.join(names)}"
            )
            problems.append(Problem(f"{prefix}{name}", value, "there is no such setting", fix))
        elif is_dataclass(value):
            problems += _attribute_problems(f"{prefix}{name}.", value)
    if problems:
        return problems
    try:
        OmegaConf.structured(config)
    except OmegaConfBaseException as error:
        key = f"{prefix}{getattr(error, 'full_key', None) or ''}"
        value = plain(config).get(key.removeprefix(prefix).partition(".")[0], "")
        return [Problem(key, value, plain_reason(key, str(error)), describe_type(key))]
    return []


def _refuse_other_models(words: Sequence[str]) -> None:
    """Raise ``InputError`` for settings of another model than the one that is given."""
    for word in words:
        key = word.lstrip("+~").partition("=")[0]
        if key.partition(".")[0] == "model" and key not in _OF_LOADED:
            raise InputError(f"model: a loaded one is given, and {word} is about another")


def _check(planned: _Planned) -> None:
    """Raise ``ConfigError`` for what cannot be run, or not from Python."""
    config = planned.config
    problems = []
    if config.trainer.devices > 1 or config.trainer.strategy != "auto":
        why = "a run on several devices starts further processes, which this program is not for"
        key, value = "trainer.devices", config.trainer.devices
        problems.append(Problem(key, value, why, "use the command hydratune train, or one device"))
    if getattr(config.model, "source", "") == "loaded" and config.adapter.trains_base:
        why = "it would change the weights of the given model"
        method = getattr(config.adapter, "method", "")
        problems.append(Problem("adapter", method, why, "adapter=lora, or save the model first"))
    if config.preview:
        why = "from Python, a run is made"
        problems.append(Problem("preview", config.preview, why, "leave it out"))
    if problems:
        raise ConfigError(problems)
    lifecycle.check_run(config)
    extending = config.resume is Resume.extend
    planned.record.path.mkdir(parents=True, exist_ok=True)
    lifecycle.refuse_foreign_directory(planned.record, extending=extending)


def _run(planned: _Planned, loaded: "ModelInMemory | None", began: float) -> None:
    """Make the run, with its record and its log."""
    from hydratune.experiment.context import RunContext, SingleRunSchedule
    from hydratune.experiment.run import run_experiment

    context = RunContext(
        schedule=SingleRunSchedule(began), load_base=loaded.load if loaded is not None else None
    )
    config, record = planned.config, planned.record
    with listening(), _logged(record.log_file), lifecycle.kept_record(config, record):
        if planned.composed is not None:
            own = planned.composed
            lifecycle.write_hydra_files(record, own.content, own.hydra, own.words)
        run_experiment(config, record, context)


@contextmanager
def _registered(callbacks: "Sequence[lightning.Callback]") -> Iterator[list[str]]:
    """Make callbacks known by the names of their classes inside the block; yield the names."""
    names: list[str] = []
    for callback in callbacks:
        name = type(callback).__name__
        while name in names or packages.has("callback", name):
            name += "_"
        names.append(name)
        packages.add("callback", name, _returning(callback))
    try:
        yield names
    finally:
        for name in names:
            packages.remove("callback", name)


def _returning(callback: "lightning.Callback") -> object:
    """Return a function that returns ``callback``, and names its class as its source."""

    def make() -> "lightning.Callback":
        return callback

    make.__module__, make.__qualname__ = type(callback).__module__, type(callback).__qualname__
    return make


@contextmanager
def _logged(file: Path) -> Iterator[None]:
    """Write what is logged inside the block to ``file`` as well."""
    handler = LogFile(file, encoding="utf-8")
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(min(level, logging.INFO) if level else logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        handler.close()
