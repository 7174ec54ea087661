"""What fine-tuning cost elsewhere: a panel of texts, questions and instructions, before and after.

Every number is a function of the items of forgetting.jsonl.
"""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict

import torch

from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.data.rows import Message, Row
from hydratune.evaluation import corpus, generation, instructions
from hydratune.evaluation.corpus import ScoredSpan
from hydratune.evaluation.measures import Measure, difference, rate, share
from hydratune.evaluation.panel import Instruction, Panel
from hydratune.metric_table import largest_difference, lower_is_better
from hydratune.records.files import Json
from hydratune.settings.data import TrainOn
from hydratune.settings.evaluation import ForgettingConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_DISTRIBUTION_TOKENS = 512  # tokens whose whole distribution is kept for the divergence

Item = dict[str, object]  # of forgetting.jsonl: the part of the panel, and sums over tokens


@dataclass
class PanelScores:
    """One model on the panel."""

    items: dict[str, Item] = field(default_factory=dict)  # by id
    # neutral prompt -> log-probabilities (tokens, vocabulary)
    distributions: dict[str, torch.Tensor] = field(default_factory=dict)


class _Reading(TypedDict):
    """Options of ``corpus.read``."""

    pad: int
    batch_size: int
    pool: Executor | None
    quiet: bool


def measure(
    model: "PreTrainedModel",
    encoder: ChatEncoder,
    panel: Panel,
    config: ForgettingConfig,
    *,
    pad: int,
    window: int,
    title: str,
    pool: Executor | None,
) -> PanelScores:
    """Have ``model`` read and answer the panel. ``window`` is how many tokens it reads."""
    options = _Reading(pad=pad, batch_size=config.batch_size, pool=pool, quiet=True)
    items = _read_texts(model, encoder, panel, min(window, config.window), options)
    items |= _read_questions(model, encoder, panel.questions, window, options)
    distributions = _read_neutral(model, encoder, panel.neutral, options)
    if panel.instructions:
        prompts = [encoder.prompt_tokens((Message("user", i.prompt),)) for i in panel.instructions]
        fitting = [n for n, ids in enumerate(prompts) if len(ids) + config.answer_tokens <= window]
        answers = generation.answer(
            model,
            [prompts[n] for n in fitting],
            [[pad]] * len(fitting),
            stop=frozenset(encoder.turn_end_ids),
            pad=pad,
            max_new_tokens=config.answer_tokens,
            batch_size=config.batch_size,
            title=title,
            pool=pool,
        )
        for n, answer in zip(fitting, answers, strict=True):
            instruction = panel.instructions[n]
            items[f"instruction {instruction.id}"] = _checked(encoder, instruction, answer.tokens)
    return PanelScores(items, distributions)


def _read_texts(
    model: "PreTrainedModel", encoder: ChatEncoder, panel: Panel, window: int, options: _Reading
) -> dict[str, Item]:
    texts = [text for _, text in panel.texts]
    scores = corpus.score_texts(model, encoder.tokenizer, texts, window=window, **options)
    return {
        f"text {number}": {
            "part": "texts",
            "name": name,
            "nll": -score.log_likelihood,
            "bytes": score.bytes,
        }
        for number, ((name, _), score) in enumerate(zip(panel.texts, scores, strict=True), 1)
    }


def _read_questions(
    model: "PreTrainedModel",
    encoder: ChatEncoder,
    questions: Sequence[Row],
    window: int,
    options: _Reading,
) -> dict[str, Item]:
    """Return the likelihood of the reference answers to the questions that fit into ``window``."""
    encoded = {row.id: encoder.encode(row, TrainOn.last) for row in questions}
    fitting = {name: e for name, e in encoded.items() if len(e.ids) <= window}
    starts = [e.loss_mask.index(True) for e in fitting.values()]
    spans = [
        ScoredSpan(e.ids[:start], e.ids[start:])
        for e, start in zip(fitting.values(), starts, strict=True)
    ]
    likelihoods = corpus.token_log_likelihoods(model, spans, **options)
    return {
        name: {
            "part": "questions",
            "nll": -float(values.double().sum()),
            "tokens": len(values),
        }
        for name, values in zip(fitting, likelihoods, strict=True)
    }


def _read_neutral(
    model: "PreTrainedModel", encoder: ChatEncoder, neutral: Sequence[Row], options: _Reading
) -> dict[str, torch.Tensor]:
    """Return the log-probabilities after every token of the first neutral prompts."""
    names: list[str] = []
    spans: list[ScoredSpan] = []
    kept = 0
    for row in neutral:
        ids = encoder.prompt_tokens(row.prompt)
        if kept + len(ids) <= _DISTRIBUTION_TOKENS:
            # the last prediction, of the answer's first token, counts: its target can be any token
            spans.append(ScoredSpan(tuple(ids[:1]), (*ids[1:], ids[-1])))
            names.append(row.id)
            kept += len(ids)
    distributions: dict[str, torch.Tensor] = {}

    def keep(number: int, logits: torch.Tensor) -> None:
        distributions[names[number]] = logits.log_softmax(-1).cpu()

    corpus.read(model, spans, keep, **options)
    return distributions


def _checked(encoder: ChatEncoder, instruction: Instruction, tokens: Sequence[int]) -> Item:
    """Return whether an answer follows its instruction."""
    kept = [token for token in tokens if token not in encoder.turn_end_ids]
    text = encoder.tokenizer.decode(kept, skip_special_tokens=False).strip()
    followed = instructions.followed(text, instruction.rules)
    return {"part": "instructions", "followed": followed, "answer": text}


def divergences(base: PanelScores, tuned: PanelScores) -> dict[str, Item]:
    """Return KL(tuned || base) of every neutral prompt, summed over its tokens, in nats."""
    items = {}
    for name, before in base.distributions.items():
        after = tuned.distributions[name]
        kl = (after.exp() * (after - before)).sum(-1).clamp(min=0)
        items[name] = {"part": "neutral", "kl": float(kl.double().sum()), "tokens": len(kl)}
    return items


def join_records(base: PanelScores, tuned: PanelScores) -> list[Item]:
    """Return the rows of forgetting.jsonl: each item with the values of both models."""
    rows = [
        {
            "id": name,
            "part": item["part"],
            "base": _without_part(item),
            "tuned": _without_part(tuned.items[name]),
        }
        for name, item in base.items.items()
        if name in tuned.items
    ]
    return [*rows, *({"id": name, **values} for name, values in divergences(base, tuned).items())]


def _without_part(item: Item) -> Item:
    return {key: value for key, value in item.items() if key != "part"}


def _measure(part: str, items: Sequence[Mapping[str, Json]]) -> tuple[str, Measure]:
    """Return the name and the measure of one part of the panel."""
    if part == "texts":
        bits = [i["nll"] / math.log(2) for i in items]
        return "bits_per_byte", share(bits, [i["bytes"] for i in items])
    if part == "questions":
        return "nll", share([i["nll"] for i in items], [i["tokens"] for i in items])
    return "instructions", rate([i["followed"] for i in items])


def summary(
    rows: Sequence[Mapping[str, Json]], config: ForgettingConfig, confidence: float, samples: int
) -> tuple[dict[str, Json], dict[str, list[float]]]:
    """Return (metrics, their intervals) for metrics.json.

    These are each measure before and after training, its ``_delta``, the divergence from the base,
    and whether the budgets are kept.
    """
    values: dict[str, object] = {}
    intervals: dict[str, list[float]] = {}
    for part in ("texts", "questions", "instructions"):
        items = [row for row in rows if row["part"] == part]
        if not items:
            continue
        groups = [str(row["id"]) for row in items]
        name, before = _measure(part, [row["base"] for row in items])
        after = _measure(part, [row["tuned"] for row in items])[1]
        delta = difference(after, before, groups, confidence, samples)
        delta = delta.within(largest_difference(f"forgetting/{name}"))
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
        interval = kl.interval([str(row["id"]) for row in neutral], confidence, samples)
        if interval is not None:
            intervals["forgetting/kl"] = list(interval)
    values["forgetting/within_budget"] = not exceeded(values, config.fail)
    return values, intervals


def exceeded(values: Mapping[str, Json], budgets: Mapping[str, float]) -> list[str]:
    """Return a sentence for each measure that is over its budget.

    A budget is the largest loss: of bits, of nats, or of the share of instructions that are
    followed; for ``kl`` the largest divergence.
    """
    sentences = []
    for name, most in budgets.items():
        key = "forgetting/kl" if name == "kl" else f"forgetting/{name}_delta"
        loss = values.get(key)
        if loss is not None and lower_is_better(key) is False:
            loss = -loss
        if loss is not None and loss > most:
            sentences.append(f"{name}: {loss:+.4f}, budget {most:g}")
    return sentences
