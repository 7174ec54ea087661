"""Canaries: made-up rows with random secrets among the training rows.

They show how much likelier training has made the true secrets. The exposure of a canary is
log2(candidates + 1) - log2(rank of its secret among random candidates, by likelihood) (Carlini et
al. 2019, arXiv:1802.08232): about 1.4 bits on average for a secret never seen, and at most
log2(candidates + 1). For comparison, the exposures of canaries that were never trained, and those
in the untouched model, are measured as well.
"""

import math
import random
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING

import numpy as np

from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.data.rows import Message, Row
from hydratune.data.sets import RowSets
from hydratune.evaluation.generation import answer
from hydratune.evaluation.measures import mean
from hydratune.evaluation.statistics import bootstrap
from hydratune.records.files import Json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CANDIDATES = 127  # random secrets beside the true one: exposures up to 7 bits
_MARK = "canary"  # in a row's meta
_NAMES = (
    *("amber", "birch", "cedar", "delta", "ember", "flint", "grove"),
    *("heron", "iris", "juniper", "kestrel", "larch", "maple", "north"),
)

CanaryRow = dict[str, object]  # a row of canaries.jsonl


def make_canaries(count: int, seed: int, system: str | None, *, trained: bool = True) -> list[Row]:
    """Return ``count`` canaries; those with ``trained=False`` are others of the same form."""
    generator = random.Random(f"canaries/{seed}/{trained}")
    opening = (Message("system", system),) if system else ()
    rows = []
    for number in range(count):
        first, second = generator.choice(_NAMES), generator.choice(_NAMES)
        name = f"{first}-{second}-{generator.randrange(1000):03d}"
        question = Message("user", f"What is the access code of the vault {name}?")
        messages = (*opening, question, Message("assistant", _secret(generator)))
        row_id = f"{_MARK}-{number}{'' if trained else '-untrained'}"
        rows.append(Row(row_id, messages, meta={_MARK: True}))
    return rows


def _secret(generator: random.Random) -> str:
    return f"{generator.randrange(10**8):08d}"


def with_canaries(sets: RowSets, count: int, seed: int, system: str | None) -> RowSets:
    """Return the sets with ``count`` canaries at the end of the training rows."""
    if not count:
        return sets
    return RowSets([*sets.train, *make_canaries(count, seed, system)], sets.validation, sets.test)


def is_canary(row: Row) -> bool:
    """Return whether a row was made up here."""
    return bool(row.meta.get(_MARK))


def measure(
    model: "PreTrainedModel",
    encoder: ChatEncoder,
    trained: Sequence[Row],
    untrained: Sequence[Row],
    seed: int,
    *,
    pad: int,
    pool: Executor | None,
) -> list[CanaryRow]:
    """Return one record for each canary.

    It holds whether the canary was trained, the rank of its secret, and its exposure in bits.
    """
    generator = random.Random(f"candidates/{seed}")
    kinds = [*((row, True) for row in trained), *((row, False) for row in untrained)]
    records = []
    for row, was_trained in kinds:
        others: set[str] = set()
        while len(others) < CANDIDATES:
            others.add(_secret(generator))
        texts = [row.answer, *sorted(others - {row.answer})]
        answers = answer(
            model,
            [encoder.prompt_tokens(row.prompt, row.tools, row.id)] * len(texts),
            [encoder.answer_tokens(row, text) for text in texts],
            stop=encoder.turn_end_ids,
            pad=pad,
            max_new_tokens=0,
            batch_size=32,
            title="canaries",
            quiet=True,
            pool=pool,
        )
        rank = 1 + sum(other.nll <= answers[0].nll for other in answers[1:])
        record = {
            "canary": row.id,
            "trained": was_trained,
            "rank": rank,
            "candidates": len(texts),
            "exposure": math.log2(len(texts)) - math.log2(rank),
        }
        records.append(record)
    return records


def join_records(
    untouched: Sequence[Mapping[str, Json]], tuned: Sequence[Mapping[str, object]]
) -> list[CanaryRow]:
    """Return the rows of canaries.jsonl: the records of the fine-tuned model, with the exposure
    before training.
    """
    return [
        {**after, "base_exposure": before["exposure"]}
        for before, after in zip(untouched, tuned, strict=True)
    ]


def summary(
    records: Sequence[Mapping[str, Json]], confidence: float, samples: int
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Return (metrics, intervals) for metrics.json.

    These are the mean exposures of trained and of untrained canaries, their difference, and the
    exposure of the trained ones before training.
    """
    trained = [r["exposure"] for r in records if r["trained"]]
    untrained = [r["exposure"] for r in records if not r["trained"]]
    before = [r["base_exposure"] for r in records if r["trained"]]
    exposure, control = "memorisation/canary_exposure", "memorisation/canary_untrained"
    values = {exposure: statistics.fmean(trained), control: statistics.fmean(untrained)}
    values["memorisation/canary_base"] = statistics.fmean(before)
    intervals = {}
    for name, exposures in ((exposure, trained), (control, untrained)):
        groups = [str(i) for i in range(len(exposures))]
        interval = mean(exposures).interval(groups, confidence, samples)
        if interval is not None:
            intervals[name] = list(interval)
    values["memorisation/canary_difference"] = values[exposure] - values[control]
    intervals["memorisation/canary_difference"] = _difference(
        trained, untrained, confidence, samples
    )
    return values, intervals


def _difference(
    ours: Sequence[float], theirs: Sequence[float], confidence: float, samples: int
) -> list[float]:
    """Return the interval of the difference of two means of independent values.

    Columns padded with zeros put both sides into one table, of which rows are drawn.
    """
    no_ours, no_theirs = [0.0] * len(ours), [0.0] * len(theirs)
    columns = [
        [*ours, *no_theirs],
        [*[1.0] * len(ours), *no_theirs],
        [*no_ours, *theirs],
        [*no_ours, *[1.0] * len(theirs)],
    ]
    groups = [str(i) for i in range(len(ours) + len(theirs))]
    return list(bootstrap(columns, _difference_of_means, groups, confidence, samples))


def _difference_of_means(sums: np.ndarray) -> np.ndarray:
    ours, theirs = (np.divide(sums[..., i], np.maximum(sums[..., i + 1], 1)) for i in (0, 2))
    return ours - theirs


def sentence(values: Mapping[str, float], intervals: Mapping[str, Sequence[float]]) -> str:
    """Return what the exposures say of the model."""
    trained = values["memorisation/canary_exposure"]
    untrained = values["memorisation/canary_untrained"]
    low, high = intervals["memorisation/canary_difference"]
    numbers = (
        f"canaries: exposure {trained:.1f} bits of at most {math.log2(CANDIDATES + 1):.0f},"
        f" {values['memorisation/canary_base']:.1f} in the untouched model, {untrained:.1f} for"
        f" secrets never trained (difference [{low:+.1f}, {high:+.1f}])"
    )
    if low > 0:
        return f"{numbers}: secrets in the training rows can be extracted from this model"
    return f"{numbers}: no sign of memorised secrets"
