"""Settings that have no effect beside others: which, and why.

``trainer.max_epochs`` has none where ``trainer.max_steps`` ends training first, and
``optimizer.power`` none unless the schedule is polynomial. A sweep over such a setting would train
the same model several times.
"""

import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from hydratune.data.sources.files import FilesData
from hydratune.settings.commands import TrainConfig
from hydratune.settings.data import DataConfig, Overlength, TrainOn
from hydratune.settings.evaluation import Baseline, ForgettingConfig
from hydratune.settings.monitor import LOSS
from hydratune.settings.optimizer import Schedule
from hydratune.settings.registry import flat, plain
from hydratune.wording import counted

# the part of the expected rows that surely remain after rows are dropped
_KEPT = 0.9
_FORGETTING = tuple(
    f.name for f in fields(ForgettingConfig) if f.name not in ("measure", "warn", "fail")
)


@dataclass(frozen=True)
class ExpectedRows:
    """About how many rows each split of a data source has, before any is dropped."""

    train: int
    validation: int
    test: int


@dataclass(frozen=True)
class IdleRule:
    """When settings have no effect on a result. A key that ends with a dot stands for all below."""

    keys: tuple[str, ...]
    reason: Callable[[TrainConfig], str]  # empty: they have an effect
    remedy: str = ""  # a setting with which they have one
    is_label: bool = False  # they are not meant to have one
    is_limit: bool = False  # they may end training, and null removes a limit of other settings

    def covers(self, key: str) -> bool:
        """Return whether the rule is about a setting."""
        return any(key == k or (k.endswith(".") and key.startswith(k)) for k in self.keys)


def idle_reason(settings: TrainConfig, key: str) -> str:
    """Return why a setting has no effect beside the others, or ""."""
    reasons = (rule.reason(settings) for rule in RULES if rule.covers(key))
    return next(filter(None, reasons), "")


def remedy(settings: TrainConfig, key: str) -> str:
    """Return a setting with which ``key``, which has no effect, has one; "" if there is none."""
    rules = (rule for rule in RULES if rule.covers(key) and rule.reason(settings))
    return next((rule.remedy for rule in rules), "")


def without_effect(settings: TrainConfig, overrides: Sequence[str]) -> Iterator[str]:
    """Yield a sentence for each of the typed ``overrides`` that changes nothing of the run."""
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        own = [rule for rule in RULES if rule.covers(key)]
        is_limit = any(rule.is_limit for rule in own)
        if any(rule.is_label for rule in own) or (is_limit and value.lower() in ("null", "")):
            continue
        if reason := idle_reason(settings, key):
            advice = remedy(settings, key)
            fix = f"; to use it, set {shlex.quote(advice)}" if advice else ""
            what = "does not limit training" if is_limit else "has no effect"
            yield f"{override} {what}: {reason}{fix}"


def effective(settings: TrainConfig) -> Mapping[str, object]:
    """Return the settings that have an effect on a run, by dotted key."""
    idle = [rule for rule in RULES if rule.reason(settings)]
    return {
        key: value
        for key, value in flat(plain(settings)).items()
        if not any(rule.covers(key) for rule in idle)
    }


def expected_rows(data: DataConfig) -> ExpectedRows | None:
    """Return about how many rows the splits have, or None where that takes reading all of them.

    Never fewer than there are, unless rows are split into several examples.
    """
    if data.overlength is Overlength.split or data.train_on is TrainOn.each:
        return None
    counts = [getattr(data, f"{name}_rows", None) for name in ("train", "validation", "test")]
    if isinstance(data, FilesData):
        counts = _rows_of_files(data)
    train, validation, test = counts
    if train is None or validation is None or test is None:
        return None
    if data.overfit_rows is not None:
        return ExpectedRows(*[min(data.overfit_rows, train)] * 3)
    limits = data.max_train_rows, data.max_validation_rows, data.max_test_rows
    pairs = zip((train, validation, test), limits, strict=True)
    expected = [min(count, count if limit is None else limit) for count, limit in pairs]
    return ExpectedRows(round(data.train_share * expected[0]), *expected[1:])


def expected_steps(settings: TrainConfig) -> int | None:
    """Return about how many optimizer steps a run makes, or None where that takes reading rows."""
    limit, epoch = settings.trainer.max_steps, _steps_of_epoch(settings, 1.0)
    if epoch is None:
        return limit
    steps = epoch * settings.trainer.max_epochs
    return steps if limit is None else min(limit, steps)


def _rows_of_files(data: FilesData) -> list[int | None]:
    """Return the rows of the splits of JSONL files; None for each split of others."""
    files = data.files()
    if any(file.suffix.lower() not in (".jsonl", ".ndjson") for file in files.values()):
        return [None, None, None]
    rows = {split: _lines(file) for split, file in files.items()}
    train = rows["train"]
    validation = rows.get("validation", round(train * data.validation_fraction))
    test = rows.get("test", round(train * data.test_fraction))
    split_off = sum(n for s, n in (("validation", validation), ("test", test)) if s not in rows)
    return [train - split_off, validation, test]


def _lines(file: Path) -> int:
    """Return how many lines of a file are not empty."""
    with file.open("rb") as stream:
        return sum(1 for line in stream if line.strip())


def _steps_of_epoch(settings: TrainConfig, kept: float) -> int | None:
    """Return the optimizer steps of an epoch if the part ``kept`` of the training rows remains."""
    rows = expected_rows(settings.data)
    if rows is None:
        return None
    trainer, batch = settings.trainer, settings.data.batch_size
    of_step = batch * trainer.accumulate_grad_batches * max(1, trainer.devices)
    return math.floor(rows.train * kept / of_step) if kept < 1 else -(-rows.train // of_step)


def _epochs(settings: TrainConfig) -> str:
    steps, epoch = settings.trainer.max_steps, _steps_of_epoch(settings, _KEPT)
    if steps is None or epoch is None or steps > epoch * settings.trainer.max_epochs:
        return ""
    return f"trainer.max_steps={steps} ends training before"


def _steps(settings: TrainConfig) -> str:
    steps, epoch = settings.trainer.max_steps, _steps_of_epoch(settings, 1.0)
    epochs = settings.trainer.max_epochs
    if steps is None:
        return f"trainer.max_epochs={epochs} ends training"
    if epoch is None or steps < epoch * epochs:
        return ""
    return (
        f"trainer.max_epochs={epochs} ends training before, after"
        f" {counted(epoch * epochs, 'step')} at most"
    )


def _patience(settings: TrainConfig) -> str:
    trainer = settings.trainer
    validations = trainer.validations_per_epoch * trainer.max_epochs
    if trainer.early_stopping_patience is None:
        return "no run stops early"
    if trainer.early_stopping_patience < validations:
        return ""
    return f"a run has only {counted(validations, 'validation')}"


def _fewshot(settings: TrainConfig) -> str:
    is_measured = Baseline.fewshot in settings.evaluation.baselines
    return "" if is_measured else "evaluation.baselines has no fewshot"


def _split_off(split: str) -> Callable[[TrainConfig], str]:
    """Return the reason for which no rows are split off for ``split``."""

    def reason(settings: TrainConfig) -> str:
        data = settings.data
        if getattr(data, f"{split}_rows", None) is not None:
            return "this data set is divided already"
        return f"data.{split} is given" if getattr(data, split, None) is not None else ""

    return reason


def _unless(is_used: Callable[[TrainConfig], bool], reason: str) -> Callable[[TrainConfig], str]:
    return lambda settings: "" if is_used(settings) else reason


def _has_schedule(*schedules: Schedule) -> Callable[[TrainConfig], bool]:
    return lambda settings: settings.optimizer.schedule in schedules


RULES: tuple[IdleRule, ...] = (
    IdleRule(("name", "model.name", "model.licence"), lambda _: "it is a name", is_label=True),
    IdleRule(("resume",), lambda _: "it says what becomes of an earlier run", is_label=True),
    IdleRule(
        ("tracking.",),
        lambda _: "it says where runs are mirrored, and changes none of their results",
        is_label=True,
    ),
    IdleRule(("trainer.max_epochs",), _epochs, "trainer.max_steps=null", is_limit=True),
    IdleRule(("trainer.max_steps",), _steps, is_limit=True),
    IdleRule(("trainer.early_stopping_patience",), _patience, is_limit=True),
    IdleRule(
        ("optimizer.decay_ratio",),
        _unless(_has_schedule(Schedule.wsd), "only optimizer.schedule=wsd uses it"),
        "optimizer.schedule=wsd",
    ),
    IdleRule(
        ("optimizer.power",),
        _unless(_has_schedule(Schedule.polynomial), "only optimizer.schedule=polynomial uses it"),
        "optimizer.schedule=polynomial",
    ),
    IdleRule(
        ("optimizer.min_lr_ratio",),
        _unless(
            lambda s: s.optimizer.schedule is not Schedule.constant,
            "with optimizer.schedule=constant the learning rate does not fall",
        ),
        "optimizer.schedule=cosine",
    ),
    IdleRule(
        ("optimizer.decay_norms_and_biases", "optimizer.weight_decay_groups."),
        _unless(lambda s: s.optimizer.weight_decay > 0, "optimizer.weight_decay=0"),
        "optimizer.weight_decay=0.1",
    ),
    IdleRule(
        ("adapter.eps",),
        _unless(lambda s: getattr(s.adapter, "coft", True), "only adapter.coft=true uses it"),
        "adapter.coft=true",
    ),
    IdleRule(
        ("adapter.num_cayley_neumann_terms",),
        _unless(
            lambda s: getattr(s.adapter, "use_cayley_neumann", True),
            "only adapter.use_cayley_neumann=true uses it",
        ),
        "adapter.use_cayley_neumann=true",
    ),
    IdleRule(
        ("data.split_overlap",),
        _unless(
            lambda s: s.data.overlength is Overlength.split, "only data.overlength=split uses it"
        ),
        "data.overlength=split",
    ),
    IdleRule(("data.validation_fraction",), _split_off("validation")),
    IdleRule(("data.test_fraction",), _split_off("test")),
    IdleRule(("evaluation.shots",), _fewshot, "evaluation.baselines=[base,fewshot]"),
    IdleRule(
        ("evaluation.validation_rows",),
        _unless(
            lambda s: s.evaluation.validate_every is not None or s.trainer.monitor != LOSS,
            "no answers to validation rows are generated with evaluation.validate_every=null",
        ),
        "evaluation.validate_every=1",
    ),
    IdleRule(
        ("evaluation.run_code",),
        _unless(lambda s: "code" in (s.evaluation.metrics or ()), "evaluation.metrics has no code"),
        "evaluation.metrics=[code]",
    ),
    IdleRule(
        tuple(f"evaluation.forgetting.{name}" for name in _FORGETTING),
        _unless(lambda s: s.evaluation.forgetting.measure, "evaluation.forgetting.measure=false"),
        "evaluation.forgetting.measure=true",
    ),
    IdleRule(
        ("evaluation.forgetting.answer_tokens",),
        _unless(lambda s: s.evaluation.forgetting.answers, "evaluation.forgetting.answers=false"),
        "evaluation.forgetting.answers=true",
    ),
)
