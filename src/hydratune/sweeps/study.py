"""The study of a search: what is wanted, the sampler, and the storage, which is Optuna's own."""

import hashlib
import inspect
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock, JournalStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hydratune.errors import ConfigError, Problem, RunError
from hydratune.evaluation import table
from hydratune.records.files import write_text
from hydratune.settings.secrets import mask
from hydratune.sweeps.space import Dimension

_SAMPLERS = {
    "tpe": "TPESampler",
    "cmaes": "CmaEsSampler",
    "nsgaii": "NSGAIISampler",
    "random": "RandomSampler",
}
_METRICS = (
    *("val/loss", "train/loss", "objective"),
    *(
        f"cost/{name}"
        for name in (
            "cpu_seconds",
            "wall_seconds",
            "tokens",
            "tokens_per_second",
            "peak_memory_bytes",
        )
    ),
    *(f"eval/{name}" for name in table.NAMES),
)
# of a field, of a panel
_METRIC_FAMILIES = (
    "eval/field_f1/",
    "eval/field_accuracy/",
    "forgetting/",
)
_SPAN = "hydratune"  # user attribute of the study: what its trials have in common


@dataclass(frozen=True)
class Wanted:
    """``hydra.sweeper`` as it was given."""

    sampler: str
    n_trials: int
    batch: int
    seed: int
    objectives: Any
    options: Mapping[str, Any]
    storage: str | None
    study_name: str | None
    params: Mapping[str, str] | None


@dataclass(frozen=True)
class Objective:
    metric: str
    direction: str  # min or max

    def __str__(self) -> str:
        return f"{self.metric}:{self.direction}"


def read_objectives(given: Any) -> list[Objective]:
    """From ``METRIC:min``, a list of such, or a mapping METRIC -> min or max.

    Raises ``ConfigError``.
    """
    pairs = list(given.items()) if isinstance(given, Mapping) else []
    texts = [given] if isinstance(given, str) else [] if pairs or given is None else list(given)
    for text in texts:
        metric, _, direction = str(text).rpartition(":")
        pairs.append((metric, direction) if metric else (str(text), ""))
    problems = []
    for metric, direction in pairs:
        if metric not in _METRICS and not str(metric).startswith(_METRIC_FAMILIES):
            families = "".join(f", {family}NAME" for family in _METRIC_FAMILIES)
            problems.append(
                Problem(
                    "hydra.sweeper.objectives",
                    metric,
                    "no run has such a metric",
                    f"one of: {', '.join(_METRICS)}{families}",
                )
            )
        elif direction not in ("min", "max"):
            fix = f"hydra.sweeper.objectives={metric}:min or {metric}:max"
            problems.append(
                Problem("hydra.sweeper.objectives", metric, "is less of it better, or more?", fix)
            )
    if not pairs or len({metric for metric, _ in pairs}) < len(pairs):
        why = "the same metric is there twice" if pairs else "there is nothing to search for"
        problems.append(
            Problem(
                "hydra.sweeper.objectives",
                given,
                why,
                "for example [val/loss:min,eval/field_f1:max]",
            )
        )
    if problems:
        raise ConfigError(problems, prefix="search: ")
    return [Objective(str(metric), str(direction)) for metric, direction in pairs]


def sampler_for(
    wanted: Wanted, dimensions: Sequence[Dimension], objectives: Sequence[Objective]
) -> BaseSampler:
    """Raises ``ConfigError`` with everything it cannot do."""
    small = [
        (f"hydra.sweeper.{key}", value)
        for key, value in (("n_trials", wanted.n_trials), ("batch", wanted.batch))
        if value < 1
    ]
    problems = [
        Problem(key, value, "must be at least 1 trial", f"set {key}=4") for key, value in small
    ]
    if wanted.seed < 0:
        problems.append(
            Problem(
                "hydra.sweeper.seed",
                wanted.seed,
                "must not be negative",
                "for example hydra.sweeper.seed=0",
            )
        )
    if wanted.sampler not in _SAMPLERS:
        problems.append(
            Problem(
                "hydra.sweeper.sampler",
                wanted.sampler,
                "there is no such sampler",
                f"one of: {', '.join(_SAMPLERS)}",
            )
        )
        raise ConfigError(problems, prefix="search: ")
    if wanted.sampler == "cmaes" and len(objectives) > 1:
        fix = "give one objective, or set hydra.sweeper.sampler=nsgaii or tpe"
        problems.append(
            Problem("hydra.sweeper.sampler", "cmaes", "it knows one objective only", fix)
        )
    if wanted.sampler == "cmaes" and len([d for d in dimensions if d.is_range()]) < 2:
        fix = (
            "search two ranges, for example 'adapter.r=int(interval(4,64))', or set"
            " hydra.sweeper.sampler=tpe"
        )
        problems.append(
            Problem(
                "hydra.sweeper.sampler",
                "cmaes",
                "it needs two ranges at least; choices are drawn at random",
                fix,
            )
        )
    kind = getattr(optuna.samplers, _SAMPLERS[wanted.sampler])
    # trials run at a time
    fixed = {"tpe": {"constant_liar": True}, "cmaes": {"warn_independent_sampling": False}}.get(
        wanted.sampler, {}
    )
    known = [name for name in inspect.signature(kind).parameters if name not in ("seed", *fixed)]
    for option in wanted.options:
        if option not in known:
            fix = f"one of: {', '.join(known)}" if known else "it has none"
            problems.append(
                Problem(
                    f"hydra.sweeper.options.{option}",
                    wanted.options[option],
                    f"{wanted.sampler} has no such option",
                    fix,
                )
            )

    def make(seed: int) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that an option is experimental
            made: BaseSampler = kind(**fixed, **wanted.options, seed=seed)
        return made

    if not problems:
        try:
            make(0)
        except (TypeError, ValueError) as error:
            fix = f"see optuna.samplers.{_SAMPLERS[wanted.sampler]}"
            problems.append(Problem("hydra.sweeper.options", dict(wanted.options), str(error), fix))
    if problems:
        raise ConfigError(problems, prefix="search: ")
    return _PerTrial(make, wanted.seed)


class _PerTrial(BaseSampler):
    """A sampler that is new for every trial, seeded by its number: a search that was interrupted
    asks for the same trials.

    Optuna's samplers keep what they have learnt in the study.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self._make, self._seed = make, seed
        self._current: tuple[int, BaseSampler] | None = None

    def _of(self, trial: FrozenTrial) -> BaseSampler:
        if self._current is None or self._current[0] != trial.number:
            drawn = numpy.random.SeedSequence([self._seed, trial.number]).generate_state(1)
            self._current = trial.number, self._make(int(drawn[0]))
        return self._current[1]

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._of(trial).before_trial(study, trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._of(trial).after_trial(study, trial, state, values)


COMPOSED = "settings when composed"
_OTHER_PLACE = (
    "search in another hydra.sweep.dir, or repeat what the study was started with; only n_trials"
    " may change"
)


def open_study(
    place: str,
    name: str,
    sampler: BaseSampler,
    objectives: Sequence[Objective],
    span: Mapping[str, Sequence[str]],
) -> Study:
    """The study ``name`` at ``place`` (a journal file, or the URL of a database), made if it is not
    there.

    ``span``: what its trials have in common, as words. Raises ``ConfigError`` if the stored study
    has something else in common.
    """
    storage = _storage(place)
    directions = [
        StudyDirection.MINIMIZE if o.direction == "min" else StudyDirection.MAXIMIZE
        for o in objectives
    ]
    study = optuna.create_study(
        storage=storage,
        sampler=sampler,
        study_name=name,
        directions=directions,
        load_if_exists=True,
    )
    now = {
        "objectives": [str(o) for o in objectives],
        **{key: sorted(words) for key, words in span.items()},
    }
    before: Mapping[str, Any] | None = study.user_attrs.get(_SPAN)
    if before is None and study.get_trials(deepcopy=False):
        raise ConfigError(
            [
                Problem(
                    "hydra.sweeper.study_name",
                    name,
                    "another program made this study",
                    _OTHER_PLACE,
                )
            ],
            prefix="search: ",
        )
    if before is None:
        study.set_user_attr(_SPAN, now)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that names are experimental
            study.set_metric_names([o.metric for o in objectives])
        return study
    if COMPOSED in now and COMPOSED not in before:  # it was made by force, or by an older version
        study.set_user_attr(_SPAN, before := {**before, COMPOSED: now[COMPOSED]})
    problems: list[Problem] = []
    for key, words in now.items():
        was = before.get(key, words)
        if was != words and not (problems and key == COMPOSED):  # they follow from the others
            changed = [
                *(f"was {x}" for x in was if x not in words),
                *(f"is {x}" for x in words if x not in was),
            ]
            why = f"the study has other {key} ({'; '.join(changed) or 'in another order'})"
            problems.append(Problem("hydra.sweeper.study_name", name, why, _OTHER_PLACE))
    if problems:
        raise ConfigError(problems, prefix="search: ")
    return study


def _storage(place: str) -> BaseStorage:
    if "://" not in place:
        file = Path(place)
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = _Mending(file)
        if file.is_file():  # before anybody reads it
            lock.acquire()
            lock.release()
        return JournalStorage(JournalFileBackend(place, lock))
    from sqlalchemy.exc import SQLAlchemyError  # only databases need it

    try:
        return RDBStorage(place)
    except (SQLAlchemyError, ImportError) as error:
        fix = "null (a file in the sweep's folder), a file, or a URL such as sqlite:///study.db"
        raise ConfigError(
            [Problem("hydra.sweeper.storage", mask(place), str(error).splitlines()[0], fix)],
            prefix="search: ",
        ) from error


class _Mending(JournalFileSymlinkLock):
    """Held while a journal is appended to. Half a line at its end, which a driver that was killed
    or a full disk may have left, is removed first: nobody could read what follows it.

    ``JOURNAL.sha256`` says what the journal was when the lock was last released, by whomever: its
    length and the SHA-256 of so much of it. Whoever takes the lock verifies that. A journal without
    such a file is of an older version, and taken as it is.
    """

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        self._journal, self._seal = journal, journal.with_name(f"{journal.name}.sha256")
        self._hash, self._length = (
            hashlib.sha256(),
            0,
        )  # of what this process has verified or written

    def acquire(self) -> bool:
        acquired = super().acquire()
        try:
            self._mend()
            self._verify()
        except BaseException:
            super().release()
            raise
        return acquired

    def release(self) -> None:
        try:
            self._mend()
            self._read_on(None)
            write_text(self._seal, f"{self._hash.hexdigest()} {self._length}\n")
        finally:
            super().release()

    def _read_on(self, end: int | None) -> None:
        """Takes the journal up to ``end`` into the hash."""
        with self._journal.open("rb") as stream:
            stream.seek(self._length)
            new = stream.read() if end is None else stream.read(max(0, end - self._length))
        self._hash.update(new)
        self._length += len(new)

    def _verify(self) -> None:
        """Raises ``RunError`` if the journal is not what was written."""
        try:
            known, length = self._seal.read_text("ascii").split()
            end = int(length)
        except FileNotFoundError:
            return
        except ValueError:
            raise RunError(f"{self._seal} is not readable: {self._advice()}") from None
        self._read_on(end)
        if self._length != end or self._hash.hexdigest() != known:
            raise RunError(
                f"{self._journal} is not as it was written: its SHA-256 is not the one in"
                f" {self._seal}; {self._advice()}"
            )

    def _advice(self) -> str:
        return (
            "one of the two was changed or damaged. Bring it back from a copy, or search in"
            f" another hydra.sweep.dir; if you changed it yourself, rm '{self._seal}' has it used"
            " unverified"
        )

    def _mend(self) -> None:
        with self._journal.open("rb+") as stream:
            end = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, end - 1))
            if stream.read(1) not in (b"\n", b""):
                stream.seek(0)
                stream.truncate(stream.read().rfind(b"\n") + 1)
