"""Canaries: made-up rows with random secrets among the training rows. How much likelier has
training made the true secret?

The exposure of a canary is log2(candidates + 1) - log2(rank of its secret among random candidates,
by likelihood) (Carlini et al. 2019, arXiv:1802.08232): about 1.4 on average for a secret never
seen, and at most log2(candidates + 1). Canaries that were never trained are asked as well, and so
is the untouched model, for the comparison.
"""

import math
import random
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.data.rows import Message, Row
from hydratune.data.sets import RowSets
from hydratune.evaluation.generation import answer
from hydratune.evaluation.measures import mean
from hydratune.evaluation.statistics import bootstrap

CANDIDATES = 127  # random secrets beside the true one: exposures up to 7 bits
_MARK = "canary"  # in a row's meta
_NAMES = (
    "amber",
    "birch",
    "cedar",
    "delta",
    "ember",
    "flint",
    "grove",
    "heron",
    "iris",
    "juniper",
    "kestrel",
    "larch",
    "maple",
    "north",
)


def made(count: int, seed: int, system: str | None, *, trained: bool = True) -> list[Row]:
    """``count`` canaries; those with ``trained`` false are others, of the same form."""
    drawn = random.Random(f"canaries/{seed}/{trained}")
    opening = (Message("system", system),) if system else ()
    rows = []
    for number in range(count):
        name = f"{drawn.choice(_NAMES)}-{drawn.choice(_NAMES)}-{drawn.randrange(1000):03d}"
        messages = (
            *opening,
            Message("user", f"What is the access code of the vault {name}?"),
            Message("assistant", _secret(drawn)),
        )
        rows.append(
            Row(f"{_MARK}-{number}{'' if trained else '-untrained'}", messages, meta={_MARK: True})
        )
    return rows


def _secret(drawn: random.Random) -> str:
    return f"{drawn.randrange(10**8):08d}"


def with_canaries(sets: RowSets, count: int, seed: int, system: str | None) -> RowSets:
    """They stand at the end of the training rows."""
    return (
        RowSets([*sets.train, *made(count, seed, system)], sets.validation, sets.test)
        if count
        else sets
    )


def is_canary(row: Row) -> bool:
    return bool(row.meta.get(_MARK))


def probe(
    model: Any,
    encoder: ChatEncoder,
    trained: Sequence[Row],
    untrained: Sequence[Row],
    seed: int,
    *,
    pad: int,
    pool: Executor | None,
) -> list[dict[str, Any]]:
    """One record for each canary: whether it was trained, the rank of its secret, its exposure in
    bits.
    """
    drawn = random.Random(f"candidates/{seed}")
    records = []
    for row, was_trained in [
        *((row, True) for row in trained),
        *((row, False) for row in untrained),
    ]:
        others: set[str] = set()
        while len(others) < CANDIDATES:
            others.add(_secret(drawn))
        texts = [row.answer, *sorted(others - {row.answer})]
        prompt = encoder.prompt_tokens(row.prompt, row.tools, row.id)
        answers = [encoder.answer_tokens(row, text) for text in texts]
        found = answer(
            model,
            [prompt] * len(texts),
            answers,
            stop=encoder.turn_end_ids,
            pad=pad,
            max_new_tokens=0,
            batch_size=32,
            title="canaries",
            quiet=True,
            pool=pool,
        )
        likelier = sum(one.nll <= found[0].nll for one in found[1:])
        records.append(
            {
                "canary": row.id,
                "trained": was_trained,
                "rank": likelier + 1,
                "candidates": len(texts),
                "exposure": math.log2(len(texts)) - math.log2(likelier + 1),
            }
        )
    return records


def together(
    untouched: Sequence[Mapping[str, Any]], tuned: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The rows of canaries.jsonl: the records of the fine-tuned model, each with the exposure
    before training.
    """
    return [
        {**after, "base_exposure": before["exposure"]}
        for before, after in zip(untouched, tuned, strict=True)
    ]


def summary(
    records: Sequence[Mapping[str, Any]], confidence: float, samples: int
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """(metrics, intervals): mean exposure of trained and of untrained canaries, the difference; and
    of the trained ones before.
    """
    parts = {
        kind: [r["exposure"] for r in records if r["trained"] is kind] for kind in (True, False)
    }
    names = {True: "memorisation/canary_exposure", False: "memorisation/canary_untrained"}
    values = {names[kind]: statistics.fmean(some) for kind, some in parts.items()}
    values["memorisation/canary_base"] = statistics.fmean(
        r["base_exposure"] for r in records if r["trained"]
    )
    intervals = {}
    for kind, some in parts.items():
        if (
            edges := mean(some).interval([str(i) for i in range(len(some))], confidence, samples)
        ) is not None:
            intervals[names[kind]] = list(edges)
    # Both sides are drawn again on their own: zero-padded columns make one table of the two.
    ours, theirs = parts[True], parts[False]
    columns = [[*ours, *[0.0] * len(theirs)], [*[1.0] * len(ours), *[0.0] * len(theirs)]]
    columns += [[*[0.0] * len(ours), *theirs], [*[0.0] * len(ours), *[1.0] * len(theirs)]]
    groups = [str(i) for i in range(len(ours) + len(theirs))]
    values["memorisation/canary_difference"] = values[names[True]] - values[names[False]]
    intervals["memorisation/canary_difference"] = list(
        bootstrap(columns, _difference, groups, confidence, samples)
    )
    return values, intervals


def _difference(sums: Any) -> Any:
    import numpy as np

    means = [np.divide(sums[..., i], np.maximum(sums[..., i + 1], 1)) for i in (0, 2)]
    return means[0] - means[1]


def told(values: Mapping[str, float], intervals: Mapping[str, Sequence[float]]) -> str:
    """One sentence."""
    trained, untrained = (
        values["memorisation/canary_exposure"],
        values["memorisation/canary_untrained"],
    )
    low, high = intervals["memorisation/canary_difference"]
    shown = (
        f"canaries: exposure {trained:.1f} bits of at most {math.log2(CANDIDATES + 1):.0f},"
        f" {values['memorisation/canary_base']:.1f}"
    )
    shown += f" in the untouched model, {untrained:.1f} for secrets never trained"
    shown += f" (difference [{low:+.1f}, {high:+.1f}])"
    if low > 0:
        return f"{shown}: secrets in the training rows can be drawn out of this model"
    return f"{shown}: no sign of it"
