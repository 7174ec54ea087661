"""Judge the answers of a run: each by a rubric, or in pairs with the answers of another system."""

import random
from collections.abc import Sequence

from hydratune.evaluation.judge import questions
from hydratune.evaluation.judge.ask import Judgement, ReplyCache, ask_all
from hydratune.evaluation.judge.client import Client
from hydratune.evaluation.judge.summary import JudgedRow, Summary, outcome, pairwise, scored
from hydratune.evaluation.measures import request_turns
from hydratune.records.predictions import Prediction
from hydratune.settings.commands import JudgeConfig


def judge_answers(
    config: JudgeConfig,
    client: Client,
    ours: Sequence[Prediction],
    others: Sequence[Prediction] | None,
) -> tuple[list[JudgedRow], Summary]:
    """Return (the rows of judgements.jsonl, their summary for judge.json)."""
    cache = ReplyCache(client.identity, config.max_tokens)
    if others is None:
        rows = _judge_scores(config, client, cache, ours)
        numbers = scored(rows, config.confidence, config.bootstrap_samples)
        return rows, {"kind": "score", **numbers}
    rows = _judge_pairs(config, client, cache, ours, others)
    numbers = pairwise(rows, config.confidence, config.bootstrap_samples)
    return rows, {"kind": "pair", **numbers}


def _judge_scores(
    config: JudgeConfig, client: Client, cache: ReplyCache, rows: Sequence[Prediction]
) -> list[JudgedRow]:
    questions_to_ask = [
        questions.ask_score(
            config.rubric, _request(row), row["prediction"], _references(config, row)
        )
        for row in rows
    ]
    judgements = ask_all(client, questions_to_ask, cache, config.attempts)
    return [
        {
            **_common(row, [judgement]),
            "score": judgement.opinion.value if judgement.opinion else None,
            "feedback": judgement.opinion.feedback if judgement.opinion else None,
            "length": len(row["prediction"]),
        }
        for row, judgement in zip(rows, judgements, strict=True)
    ]


def _judge_pairs(
    config: JudgeConfig,
    client: Client,
    cache: ReplyCache,
    ours: Sequence[Prediction],
    others: Sequence[Prediction],
) -> list[JudgedRow]:
    """Judge every pair in both orders, with the questions shuffled by the seed."""
    both_orders = []
    for row, other in zip(ours, others, strict=True):
        request, references = _request(row), _references(config, row)
        for first, second in ((row, other), (other, row)):
            answers = first["prediction"], second["prediction"]
            both_orders.append(questions.ask_pair(config.criteria, request, *answers, references))
    order = list(range(len(both_orders)))
    random.Random(config.seed).shuffle(order)
    replies = ask_all(client, [both_orders[number] for number in order], cache, config.attempts)
    judgements = dict(zip(order, replies, strict=True))
    return [
        _judged_pair(row, other, [judgements[2 * number], judgements[2 * number + 1]])
        for number, (row, other) in enumerate(zip(ours, others, strict=True))
    ]


def _judged_pair(row: Prediction, other: Prediction, both: Sequence[Judgement]) -> JudgedRow:
    opinions = [judgement.opinion for judgement in both if judgement.opinion]
    verdicts = [str(opinion.value) for opinion in opinions]
    winner, consistent = outcome(*verdicts) if len(verdicts) == 2 else (None, None)
    return {
        **_common(row, both),
        "verdicts": verdicts,
        "winner": winner,
        "consistent": consistent,
        "feedback": [opinion.feedback for opinion in opinions],
        "length_difference": len(row["prediction"]) - len(other["prediction"]),
    }


def _common(row: Prediction, judgements: Sequence[Judgement]) -> JudgedRow:
    """Return the fields of a row of judgements.jsonl that both kinds have."""
    return {
        "id": row["id"],
        "group": row.get("group"),
        "cut": row.get("finish_reason") == "length",
        "why": next((judgement.why for judgement in judgements if judgement.why), ""),
        "from_cache": all(judgement.from_cache for judgement in judgements),
    }


def _request(row: Prediction) -> str:
    """Return the turns up to the answer: a single one as it is, several with their roles."""
    turns = request_turns(row)
    if len(turns) == 1:
        return str(turns[0]["content"])
    return "\n\n".join(f"{turn.get('role')}: {turn.get('content') or ''}" for turn in turns)


def _references(config: JudgeConfig, row: Prediction) -> list[str]:
    """Return the right answers, if the judge is to see them."""
    return [row["reference"], *row.get("references", [])] if config.references else []
