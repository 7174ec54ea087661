"""The table of metrics: name, title, unit, direction and family of every number in metrics.json.

Terminal tables, reports, comparisons, W&B and searches take all they know of a metric from here;
``metric_format`` writes the values.

To add a metric that scores one answer at a time, write its function in evaluation/families.py
(``@per_answer``) and give it one row in ``ANSWER_METRICS``, whose ``families`` is the name of the
function. A metric without a row (of an installed package, or of a W&B run of another program) has
the defaults that ``title``, ``unit``, ``lower_is_better`` and ``bounds`` document; a package may
declare its direction and unit (settings/own_metrics.py).
"""

import math
from collections.abc import Callable, Container
from dataclasses import dataclass
from enum import Enum

OBJECTIVE = "objective"  # the validation loss under the name by which runs are ranked
LIKELIHOOD, GENERATION = "likelihood", "generation"  # measured in every evaluation of answers
PACKAGE_METRICS = "hydratune.metrics"  # entry points of packages that bring other metrics
VALIDATION = "val"  # what a metric of the validation rows begins with: val/loss, val/field_f1
_ANY = "*"  # the last part of a row's name that stands for every field, class or package


Range = tuple[float, float]  # (least, largest)
_ANY_NUMBER: Range = -math.inf, math.inf
_NOT_NEGATIVE: Range = 0.0, math.inf
_OF_RATES: Range = -1.0, 1.0  # differences


class Unit(Enum):
    """What a metric counts."""

    rate = "rate"  # a share of 1, shown in per cent
    number = "number"  # without a unit
    nats = "nats per token"
    bits_per_byte = "bits per byte"
    bits = "bits"
    count = "count"
    seconds = "seconds"
    per_second = "per second"
    bytes = "bytes"
    flag = "flag"  # true or false


class Direction(Enum):
    """Which values are better."""

    lower = "lower"
    higher = "higher"
    neither = "neither"


@dataclass(frozen=True)
class Metric:
    """One row of the table.

    ``name`` is without its system for metrics of answers, and may end in ``/*`` for one metric of
    each field or class; ``title`` then holds ``{}`` for it. ``families`` are the values of
    ``evaluation.metrics`` that measure it. ``short`` is the heading of a narrow column. ``limits``
    are the least and the largest possible value, where they are not those of the unit.
    """

    name: str
    title: str
    unit: Unit
    direction: Direction
    families: tuple[str, ...] = ()
    short: str = ""
    limits: Range | None = None


_LOWER, _HIGHER, _NEITHER = Direction.lower, Direction.higher, Direction.neither

# of one system's answers to the test rows, in the order of the closing table of a run
ANSWER_METRICS = (
    Metric("json_valid", "strict JSON", Unit.rate, _HIGHER, ("json",)),
    Metric("schema_valid", "schema-valid", Unit.rate, _HIGHER, ("json",)),
    Metric("field_precision", "field precision", Unit.rate, _HIGHER, ("json",)),
    Metric("field_recall", "field recall", Unit.rate, _HIGHER, ("json",)),
    Metric("field_f1", "field F1", Unit.rate, _HIGHER, ("json",)),
    Metric("field_f1/*", "field F1: {}", Unit.rate, _HIGHER, ("json",)),
    Metric("field_accuracy/*", "field accuracy: {}", Unit.rate, _HIGHER, ("json",)),
    Metric("invented_keys", "answers with invented keys", Unit.rate, _LOWER, ("json",)),
    Metric("hallucinated", "values where there are none", Unit.rate, _LOWER, ("json",)),
    Metric("in_source", "values found in the request", Unit.rate, _HIGHER, ("json",)),
    Metric(
        "in_source_reference", "true values found in the request", Unit.rate, _HIGHER, ("json",)
    ),
    Metric("label_accuracy", "accuracy", Unit.rate, _HIGHER, ("label",)),
    Metric("label_f1", "macro F1", Unit.rate, _HIGHER, ("label",)),
    Metric("label_f1/*", "label F1: {}", Unit.rate, _HIGHER, ("label",)),
    Metric("label_unknown", "answers that are no label", Unit.rate, _LOWER, ("label",)),
    Metric("tests_passed", "tests passed", Unit.rate, _HIGHER, ("code",)),
    Metric("code_runs", "code that runs", Unit.rate, _HIGHER, ("code",)),
    Metric("rouge1", "ROUGE-1", Unit.rate, _HIGHER, ("rouge",)),
    Metric("rouge2", "ROUGE-2", Unit.rate, _HIGHER, ("rouge",)),
    Metric("rougeL", "ROUGE-L", Unit.rate, _HIGHER, ("rouge",)),
    Metric("bleu", "BLEU", Unit.rate, _HIGHER, ("bleu",)),
    Metric("chrf", "chrF", Unit.rate, _HIGHER, ("bleu",)),
    Metric("normalised_match", "match, normalised", Unit.rate, _HIGHER, ("match",)),
    Metric("exact_match", "exact match", Unit.rate, _HIGHER, ("json", "match")),
    Metric("nll", "NLL per token", Unit.nats, _LOWER, (LIKELIHOOD,)),
    Metric("perplexity", "perplexity", Unit.number, _LOWER, (LIKELIHOOD,)),
    Metric("bits_per_byte", "bits per byte", Unit.bits_per_byte, _LOWER, (LIKELIHOOD,)),
    Metric("finished", "ended its turn", Unit.rate, _HIGHER, (GENERATION,)),
    Metric("cut", "answers cut at the token limit", Unit.count, _LOWER, (GENERATION,)),
    Metric(
        "length_ratio",
        "length, of the reference's",
        Unit.rate,
        _NEITHER,
        (GENERATION,),
        limits=_NOT_NEGATIVE,
    ),
    Metric("generated_tokens", "tokens generated", Unit.count, _NEITHER, (GENERATION,)),
)

# of the run as a whole, under the names of metrics.json
RUN_METRICS = (
    Metric("val/loss", "validation loss", Unit.nats, _LOWER),
    Metric("train/loss", "training loss", Unit.nats, _LOWER),
    Metric(OBJECTIVE, "validation loss", Unit.nats, _LOWER),
    Metric("cost/cpu_seconds", "CPU-seconds", Unit.seconds, _LOWER, short="CPU-s"),
    Metric("cost/wall_seconds", "seconds", Unit.seconds, _LOWER, short="seconds"),
    Metric("cost/tokens", "tokens trained", Unit.count, _NEITHER, short="tokens"),
    Metric("cost/tokens_per_second", "tokens/s in training", Unit.per_second, _HIGHER),
    Metric("cost/peak_memory_bytes", "peak memory", Unit.bytes, _LOWER, short="GiB"),
    Metric("forgetting/bits_per_byte", "general texts, bits/byte", Unit.bits_per_byte, _LOWER),
    Metric(
        "forgetting/bits_per_byte_base",
        "general texts, bits/byte, base",
        Unit.bits_per_byte,
        _NEITHER,
    ),
    Metric(
        "forgetting/bits_per_byte_delta",
        "forgotten, bits/byte",
        Unit.bits_per_byte,
        _LOWER,
        limits=_ANY_NUMBER,
    ),
    Metric("forgetting/nll", "general answers, NLL", Unit.nats, _LOWER),
    Metric("forgetting/nll_base", "general answers, NLL, base", Unit.nats, _NEITHER),
    Metric("forgetting/nll_delta", "forgotten, NLL", Unit.nats, _LOWER, limits=_ANY_NUMBER),
    Metric("forgetting/instructions", "instructions followed", Unit.rate, _HIGHER),
    Metric("forgetting/instructions_base", "instructions followed, base", Unit.rate, _NEITHER),
    Metric(
        "forgetting/instructions_delta",
        "instructions, difference",
        Unit.rate,
        _HIGHER,
        limits=_OF_RATES,
    ),
    Metric("forgetting/kl", "divergence from the base, nats per token", Unit.nats, _LOWER),
    Metric("forgetting/within_budget", "forgetting within its budget", Unit.flag, _NEITHER),
    Metric("memorisation/train", "training rows memorised", Unit.rate, _LOWER),
    Metric("memorisation/train_tokens", "training tokens memorised in a row", Unit.rate, _LOWER),
    Metric("memorisation/heldout", "held-out rows memorised", Unit.rate, _LOWER),
    Metric("memorisation/heldout_tokens", "held-out tokens memorised in a row", Unit.rate, _LOWER),
    Metric(
        "memorisation/difference", "rows memorised, difference", Unit.rate, _LOWER, limits=_OF_RATES
    ),
    Metric("memorisation/canary_exposure", "canaries, exposure", Unit.bits, _LOWER),
    Metric("memorisation/canary_untrained", "untrained canaries, exposure", Unit.bits, _LOWER),
    Metric("memorisation/canary_base", "canaries, exposure in the base", Unit.bits, _NEITHER),
    Metric(
        "memorisation/canary_difference",
        "canaries, exposure less untrained",
        Unit.bits,
        _LOWER,
        limits=_ANY_NUMBER,
    ),
    Metric("fit/best_step", "step of the best validation", Unit.count, _NEITHER),
    Metric("fit/best_epoch", "epoch of the best validation", Unit.number, _NEITHER),
    Metric(
        "fit/rise", "rise of the validation loss after it", Unit.nats, _LOWER, limits=_ANY_NUMBER
    ),
    Metric("fit/gap", "validation less training loss", Unit.nats, _LOWER, limits=_ANY_NUMBER),
    Metric("halved_at_step", "stopped at step", Unit.count, _NEITHER),
)

# a metric of answers under ``<system>_clean``: how many of the rows are not in training
_CLEAN_ROWS = Metric("rows", "rows", Unit.count, _NEITHER)

# the best single number for the quality of answers is the first of these that was measured
_MAIN = (
    "label_accuracy",
    "field_f1",
    "tests_passed",
    "rougeL",
    "normalised_match",
    "exact_match",
)

# what answered the test rows of a run: the untouched model with and without examples, or ours
SYSTEM_TITLES = {"base": "base, zero-shot", "fewshot": "base, few-shot", "eval": "fine-tuned"}
_SYSTEM_PREFIXES = {"base": "base: ", "fewshot": "few-shot base: ", "eval": ""}  # of a title
_SUBSETS = {"_clean": "clean rows: ", "_constrained": "constrained: "}  # endings of a system's name


def _undeclared(name: str) -> Metric | None:
    return None


# returns what a metric of a package, or of Python code, declares; set by settings/own_metrics.py,
# which knows the packages
own_metric: Callable[[str], Metric | None] = _undeclared


def set_own_metrics(find_declared: Callable[[str], Metric | None]) -> None:
    """Look metrics that have no row in the table up by ``find_declared``."""
    global own_metric
    own_metric = find_declared


def answer_metric(name: str) -> Metric | None:
    """Return the row of a metric of answers, without its system: ``field_f1``, ``field_f1/date``.

    Of a metric of a package it is what the package declares. None for a metric that has no row.
    """
    return built_in_metric(name) or own_metric(name)


def built_in_metric(name: str) -> Metric | None:
    """Return the row of a metric of answers in this table; None for that of a package."""
    pattern = name.partition("/")[0] + f"/{_ANY}" if "/" in name else name
    return next((row for row in ANSWER_METRICS if row.name == pattern), None)


def is_likelihood(name: str) -> bool:
    """Return whether a metric of answers is a likelihood, which no constrained decoding changes."""
    row = answer_metric(name)
    return row is not None and LIKELIHOOD in row.families


def run_metric(key: str) -> Metric | None:
    """Return the row of a metric of the whole run: ``cost/tokens``."""
    return next((row for row in RUN_METRICS if row.name == key), None)


def find(key: str) -> Metric | None:
    """Return the row of a name of metrics.json, or None."""
    system, name = split_system(key)
    if system is None:
        return run_metric(key) or answer_metric(_on_validation(key))
    return _CLEAN_ROWS if name == _CLEAN_ROWS.name else answer_metric(name)


def split_system(key: str) -> tuple[str | None, str]:
    """Split ``eval/field_f1`` into (``eval``, ``field_f1``); (None, "") for a metric of the run."""
    system, slash, name = key.partition("/")
    whole = system
    for ending in _SUBSETS:
        whole = whole.removesuffix(ending)
    return (system, name) if slash and name and whole in SYSTEM_TITLES else (None, "")


def _on_validation(key: str) -> str:
    """Return ``field_f1`` for ``val/field_f1``, and "" for what is not of the validation rows."""
    system, _, name = key.partition("/")
    return name if system == VALIDATION else ""


def title(key: str) -> str:
    """Return the title of a name of metrics.json; of a metric without a row, its name in words."""
    system, name = split_system(key)
    row = find(key)
    if system is None:
        name = _on_validation(key) if run_metric(key) is None else ""
        if name and row is not None:
            return f"validation {row.title.format(name.partition('/')[2])}"
        if row is not None:
            return row.title
        plain = key.replace("/", ": ").replace("_", " ")
        return plain.replace(f"{VALIDATION}: ", "validation ", 1) if name else plain
    own = row.title.format(name.partition("/")[2]) if row is not None else name.replace("_", " ")
    return f"{_system_prefix(system)}{own}"


def _system_prefix(system: str) -> str:
    """Return what stands before the title of a metric: nothing for the fine-tuned model."""
    for ending, prefix in _SUBSETS.items():
        if system.endswith(ending):
            return _system_prefix(system.removesuffix(ending)) + prefix
    return _SYSTEM_PREFIXES[system]


def unit(key: str) -> Unit:
    """Return the unit of a name of metrics.json; a plain number where there is no row."""
    row = find(key)
    return row.unit if row is not None else Unit.number


def lower_is_better(key: str) -> bool | None:
    """Return whether less of a metric is better; None where neither is, or it is not known.

    A metric without a row has no direction, but for two kinds: all costs and signs of memorisation
    are better when they are lower, and so is a name whose last part is that of a row that is
    (``my/nll``) or ``loss``.
    """
    row = find(key)
    if row is not None:
        return None if row.direction is Direction.neither else row.direction is Direction.lower
    return True if is_lower_by_name(key) else None


def is_lower_by_name(key: str) -> bool:
    """Return whether the name of a metric alone says that lower values are better."""
    last = key.rpartition("/")[2].removesuffix("_delta")
    return key.startswith(("cost/", "memorisation/")) or last in _lower_names()


def bounds(key: str) -> Range:
    """Return the least and the largest possible value of a metric; infinite where there is none.

    Rates are in [0, 1], numbers that have a unit are not negative. Numbers without a unit, and
    metrics without a row, have no bounds.
    """
    row = find(key)
    if row is not None and row.limits is not None:
        return row.limits
    ranges = {Unit.number: _ANY_NUMBER, Unit.rate: (0.0, 1.0), Unit.flag: (0.0, 1.0)}
    return ranges.get(unit(key), _NOT_NEGATIVE)


def largest_difference(key: str) -> float:
    """Return by how much two values of a metric can differ: 1 for rates, else infinite."""
    least, largest = bounds(key)
    return largest - least


def _lower_names() -> set[str]:
    """Return the last parts of the names of all rows that are better when they are lower."""
    rows = [row for row in (*ANSWER_METRICS, *RUN_METRICS) if row.direction is Direction.lower]
    return {
        row.name.rpartition("/")[2]
        for row in rows
        if not row.name.startswith(("cost/", "memorisation/"))
    }


def main_metric(measured: Container[str], prefix: str = "eval/") -> str | None:
    """Return the measured metric that says best how good answers are, without ``prefix``."""
    return next((name for name in _MAIN if f"{prefix}{name}" in measured), None)


def cost_headings() -> dict[str, str]:
    """Return the costs that stand in columns of a comparison, with their headings."""
    return {row.name: row.short for row in RUN_METRICS if row.short}


def families() -> tuple[str, ...]:
    """Return the values of ``evaluation.metrics`` that are no names of metrics of packages."""
    every = dict.fromkeys(family for row in ANSWER_METRICS for family in row.families)
    return tuple(family for family in every if family not in (LIKELIHOOD, GENERATION))


def forgetting_measures() -> tuple[str, ...]:
    """Return what is measured before and after training: ``bits_per_byte``, ``nll`` ..."""
    names = [row.name for row in RUN_METRICS if row.name.startswith("forgetting/")]
    deltas = [name for name in names if name.endswith("_delta")]
    return tuple(name.removeprefix("forgetting/").removesuffix("_delta") for name in deltas)


def forgetting_budgets() -> tuple[str, ...]:
    """Return what ``evaluation.forgetting.fail`` and ``warn`` may limit."""
    return (*forgetting_measures(), "kl")
