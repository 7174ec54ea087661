"""The Optuna study of a search: opened or created, and refused if it belongs to another search."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import Study, StudyDirection

from hydratune.errors import ConfigError, Problem
from hydratune.settings.secrets import mask
from hydratune.sweeps.search.journal import open_journal
from hydratune.sweeps.search.objectives import SearchObjective

COMPOSED = "settings when composed"
_COMMON = "hydratune"  # user attribute of the study: what all its trials have in common
_STORAGE = "hydra.sweeper.storage"
_KEY = "hydra.sweeper.study_name"
_FIX = (
    "search in another hydra.sweep.dir, or repeat what the study was started with; only n_trials"
    " may change"
)
_DRIVERS = {"psycopg2": "psycopg2-binary", "psycopg": "psycopg[binary]", "MySQLdb": "mysqlclient"}
Common = dict[str, list[str]]  # what all trials of a study have in common: topic -> texts


def open_study(
    place: str,
    name: str,
    sampler: BaseSampler,
    objectives: Sequence[SearchObjective],
    common: Mapping[str, Sequence[str]],
) -> Study:
    """Return the study ``name`` at ``place`` (a journal file or the URL of a database), which is
    created if it does not exist.

    ``common``: what all its trials have in common, beside the objectives. Raises ``ConfigError`` if
    the trials of the stored study have something else in common.
    """
    minimise, maximise = StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE
    study = optuna.create_study(
        storage=open_storage(place),
        sampler=sampler,
        study_name=name,
        directions=[minimise if o.direction == "min" else maximise for o in objectives],
        load_if_exists=True,
    )
    current: Common = {"objectives": [str(objective) for objective in objectives]}
    current |= {topic: sorted(texts) for topic, texts in common.items()}
    stored: Common | None = study.user_attrs.get(_COMMON)
    if stored is None:
        _describe_new_study(study, current, objectives)
        return study
    if COMPOSED in current and COMPOSED not in stored:  # made with resume=force or an old version
        stored = {**stored, COMPOSED: current[COMPOSED]}
        study.set_user_attr(_COMMON, stored)
    problems = _differences(name, stored, current)
    if problems:
        raise ConfigError(problems, prefix="search: ")
    return study


def _describe_new_study(
    study: Study, common: Common, objectives: Sequence[SearchObjective]
) -> None:
    """Store in a new study what its trials have in common.

    Raises ``ConfigError`` if the study has trials already: another program made it.
    """
    if study.get_trials(deepcopy=False):
        problem = Problem(_KEY, study.study_name, "another program made this study", _FIX)
        raise ConfigError([problem], prefix="search: ")
    study.set_user_attr(_COMMON, common)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that names of metrics are experimental
        study.set_metric_names([objective.metric for objective in objectives])


def _differences(name: str, stored: Common, current: Common) -> list[Problem]:
    """Return a problem for each topic in which the stored study ``name`` differs.

    A difference in the composed settings is reported only if it does not follow from another one.
    """
    problems: list[Problem] = []
    for topic, texts in current.items():
        before = stored.get(topic, texts)
        if before == texts or (problems and topic == COMPOSED):
            continue
        changes = [f"was {text}" for text in before if text not in texts]
        changes += [f"is {text}" for text in texts if text not in before]
        why = f"the study has other {topic} ({'; '.join(changes) or 'in another order'})"
        problems.append(Problem(_KEY, name, why, _FIX))
    return problems


def open_storage(place: str) -> BaseStorage:
    """Return the storage at ``place``. Raises ``ConfigError`` if a database cannot be opened."""
    if "://" not in place:
        try:
            return open_journal(Path(place))
        except OSError as error:
            problem = Problem(_STORAGE, place, str(error.strerror), "a file that can be written")
            raise ConfigError([problem], prefix="search: ") from error
    from sqlalchemy.exc import OperationalError, SQLAlchemyError  # only databases need them

    try:
        return RDBStorage(place)
    except (SQLAlchemyError, ImportError) as error:
        fix = "null (a file in the sweep's folder), a file, or a URL such as sqlite:///study.db"
        if isinstance(error, OperationalError):
            fix = "start the database, or correct the URL; trials that it has are kept"
        if driver := _missing_driver(error):
            fix = f"pip install '{driver}'"
        why = mask(str(error)).splitlines()[0]
        problem = Problem(_STORAGE, mask(place), why, fix)
        raise ConfigError([problem], prefix="search: ") from error


def _missing_driver(error: BaseException | None) -> str:
    """Return the package that an error says is missing; "" if that is not what it says."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            return _DRIVERS.get(error.name, error.name)
        error = error.__cause__ or error.__context__
    return ""
