"""What fine-tuning cost elsewhere: a panel before and after it.

Every number is a function of forgetting.jsonl's items.
"""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

import torch

from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.evaluation import corpus, generation, instructions
from hydratune.evaluation.corpus import Passage
from hydratune.evaluation.measures import Measure, difference, rate, share
from hydratune.evaluation.panel import Panel
from hydratune.metric_table import lower_is_better
from hydratune.settings.data import TrainOn
from hydratune.settings.evaluation import ForgettingConfig

_KEPT = 512  # tokens whose whole distribution is kept to compare with


@dataclass
class Probe:
    """One model on the panel."""

    items: dict[str, dict[str, Any]] = field(default_factory=dict)  # id -> part and sums
    # neutral prompt -> log-probabilities (tokens, vocabulary)
    distributions: dict[str, torch.Tensor] = field(default_factory=dict)


def probe(
    model: Any,
    encoder: ChatEncoder,
    panel: Panel,
    config: ForgettingConfig,
    *,
    pad: int,
    window: int,
    title: str,
    pool: Executor | None,
) -> Probe:
    """``model`` reads and answers the panel. ``window``: tokens it reads."""
    found = Probe()
    options: dict[str, Any] = {
        "pad": pad,
        "batch_size": config.batch_size,
        "pool": pool,
        "quiet": True,
    }
    scores = corpus.score_texts(
        model,
        encoder.tokenizer,
        [text for _, text in panel.texts],
        window=min(window, config.window),
        **options,
    )
    for number, ((name, _), score) in enumerate(zip(panel.texts, scores, strict=True), 1):
        found.items[f"text {number}"] = {
            "part": "texts",
            "name": name,
            "nll": -score.log_likelihood,
            "bytes": score.bytes,
        }
    rows = [row for row in panel.questions if len(encoder.encode(row, TrainOn.last).ids) <= window]
    passages = [_answer(encoder, row) for row in rows]
    for row, values in zip(
        rows, corpus.token_log_likelihoods(model, passages, **options), strict=True
    ):
        found.items[row.id] = {
            "part": "questions",
            "nll": -float(values.double().sum()),
            "tokens": len(values),
        }
    prompts = [encoder.prompt_tokens(row.prompt) for row in panel.neutral]
    read, kept = [], 0
    for row, ids in zip(panel.neutral, prompts, strict=True):
        if kept + len(ids) <= _KEPT:
            read.append(
                (row, Passage(tuple(ids[:1]), (*ids[1:], ids[-1])))
            )  # the last prediction, of the answer's first token, counts
            kept += len(ids)

    def keep(number: int, logits: torch.Tensor) -> None:
        found.distributions[read[number][0].id] = logits.log_softmax(-1).cpu()

    corpus.read(model, [passage for _, passage in read], keep, **options)
    if panel.instructions:
        asked = [encoder.prompt_tokens(_turns(i.prompt)) for i in panel.instructions]
        fitting = [n for n, ids in enumerate(asked) if len(ids) + config.answer_tokens <= window]
        answers = generation.answer(
            model,
            [asked[n] for n in fitting],
            [[pad]] * len(fitting),
            stop=frozenset(encoder.turn_end_ids),
            pad=pad,
            max_new_tokens=config.answer_tokens,
            batch_size=config.batch_size,
            title=title,
            pool=pool,
        )
        for n, one in zip(fitting, answers, strict=True):
            instruction = panel.instructions[n]
            text = encoder.tokenizer.decode(
                [t for t in one.tokens if t not in encoder.turn_end_ids], skip_special_tokens=False
            ).strip()
            followed = instructions.followed(text, instruction.rules)
            found.items[f"instruction {instruction.id}"] = {
                "part": "instructions",
                "followed": followed,
                "answer": text,
            }
    return found


def _turns(prompt: str) -> Any:
    from hydratune.data.rows import Message

    return (Message("user", prompt),)


def _answer(encoder: ChatEncoder, row: Any) -> Passage:
    encoded = encoder.encode(row, TrainOn.last)
    first = encoded.loss_mask.index(True)
    return Passage(encoded.ids[:first], encoded.ids[first:])


def divergences(base: Probe, tuned: Probe) -> dict[str, dict[str, Any]]:
    """KL(tuned || base) of every neutral prompt, summed over its tokens, in nats."""
    found = {}
    for name, before in base.distributions.items():
        after = tuned.distributions[name]
        kl = (after.exp() * (after - before)).sum(-1).clamp(min=0)
        found[name] = {"part": "neutral", "kl": float(kl.double().sum()), "tokens": len(kl)}
    return found


def together(base: Probe, tuned: Probe) -> list[dict[str, Any]]:
    """The rows of forgetting.jsonl: each item with what both models made of it."""
    rows = [
        {"id": name, "part": item["part"], "base": _own(item), "tuned": _own(tuned.items[name])}
        for name, item in base.items.items()
        if name in tuned.items
    ]
    return [*rows, *({"id": name, **values} for name, values in divergences(base, tuned).items())]


def _own(item: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in item.items() if key != "part"}


def _measure(part: str, items: Sequence[Mapping[str, Any]]) -> tuple[str, Measure]:
    if part == "texts":
        return "bits_per_byte", share(
            [i["nll"] / math.log(2) for i in items], [i["bytes"] for i in items]
        )
    if part == "questions":
        return "nll", share([i["nll"] for i in items], [i["tokens"] for i in items])
    return "instructions", rate([i["followed"] for i in items])


def summary(
    rows: Sequence[Mapping[str, Any]], config: ForgettingConfig, confidence: float, samples: int
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """(flat metrics, their intervals): each measure before and after, its ``_delta``, the
    divergence, and whether budgets are kept.
    """
    values: dict[str, Any] = {}
    intervals: dict[str, list[float]] = {}
    for part in ("texts", "questions", "instructions"):
        some = [row for row in rows if row["part"] == part]
        if not some:
            continue
        groups = [str(row["id"]) for row in some]
        name, before = _measure(part, [row["base"] for row in some])
        after = _measure(part, [row["tuned"] for row in some])[1]
        delta = difference(after, before, groups, confidence, samples)
        values |= {
            f"forgetting/{name}_base": before.value,
            f"forgetting/{name}": after.value,
            f"forgetting/{name}_delta": delta.value,
        }
        if delta.interval is not None:
            intervals[f"forgetting/{name}_delta"] = list(delta.interval)
    neutral = [row for row in rows if row["part"] == "neutral"]
    if neutral:
        kl = share([row["kl"] for row in neutral], [row["tokens"] for row in neutral])
        values["forgetting/kl"] = kl.value
        if (
            edges := kl.interval([str(row["id"]) for row in neutral], confidence, samples)
        ) is not None:
            intervals["forgetting/kl"] = list(edges)
    values["forgetting/within_budget"] = not exceeded(values, config.fail)
    return values, intervals


def exceeded(values: Mapping[str, Any], budgets: Mapping[str, float]) -> list[str]:
    """What is over its budget, in words.

    A budget is the largest loss: of bits, nats, or share of instructions; or the largest kl.
    """
    told = []
    for name, most in budgets.items():
        key = "forgetting/kl" if name == "kl" else f"forgetting/{name}_delta"
        loss = values.get(key)
        loss = -loss if loss is not None and lower_is_better(key) is False else loss
        if loss is not None and loss > most:
            told.append(f"{name}: {loss:+.4f}, budget {most:g}")
    return told
