"""Check facts in training answers by a judge: does the request support what they state?

No rule can find such rows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hydratune.data.quality import pii
from hydratune.data.quality.findings import MOST_EXAMPLES, Example, Finding
from hydratune.data.rows import Row
from hydratune.errors import RunError
from hydratune.evaluation.judge import questions
from hydratune.evaluation.judge.ask import Judgement, ReplyCache, ask_all
from hydratune.evaluation.judge.client import Client
from hydratune.evaluation.judge.questions import Opinion
from hydratune.settings.data import Level
from hydratune.settings.judge import FactsConfig
from hydratune.wording import counted

_LONGEST = 600  # letters of a request or an answer in an example


@dataclass(frozen=True)
class FactCheck:
    """``finding`` lists the unsupported rows.

    The others are supported, unclear or have no verdict, and are counted.
    """

    finding: Finding
    sample_size: int
    judged: int
    why: str  # the first reason why a row has no verdict


def is_enabled(config: FactsConfig) -> bool:
    """Return whether a judge is given."""
    return config.judge is not None or config.local is not None


def check_facts(rows: Iterable[Row], config: FactsConfig, client: Client) -> FactCheck:
    """Ask about a sample of the rows.

    If the server cannot be asked there are no verdicts, and no row counts as unsupported.
    """
    answered = [row for row in rows if not row.is_text and row.answer.strip()]
    sample = sorted(answered, key=lambda row: row.content_hash)[: config.rows]
    judgements = _judge(sample, config, client)
    verdicts = [
        (row, judgement.opinion)
        for row, judgement in zip(sample, judgements, strict=True)
        if judgement.opinion is not None
    ]
    why = next((judgement.why for judgement in judgements if judgement.opinion is None), "")
    unsupported = [(row, own) for row, own in verdicts if own.value == "unsupported"]
    finding = Finding(
        "unsupported",
        Level.warn,
        len(unsupported),
        [row.id for row, _ in unsupported],
        note=_note(client, len(sample), [opinion for _, opinion in verdicts], why),
        where=[row.where for row, _ in unsupported],
    )
    finding.splits = {"train": len(unsupported)} if unsupported else {}
    for row, opinion in unsupported[:MOST_EXAMPLES]:
        finding.examples.append(_example(row, opinion))
    return FactCheck(finding, len(sample), len(verdicts), why)


def _judge(sample: Sequence[Row], config: FactsConfig, client: Client) -> list[Judgement]:
    support = [questions.ask_support(_request(row), row.answer) for row in sample]
    cache = ReplyCache(client.identity, config.max_tokens)
    try:
        return ask_all(client, support, cache, config.attempts)
    except RunError as error:
        return [Judgement(why=str(error).splitlines()[0]) for _ in sample]


def _note(client: Client, sample_size: int, opinions: Sequence[Opinion], why: str) -> str:
    """Return how many rows have which verdict."""
    counts = ", ".join(
        f"{sum(opinion.value == choice for opinion in opinions)} {choice}"
        for choice in questions.SUPPORT
    )
    unjudged = sample_size - len(opinions)
    without = f", {unjudged} without a verdict ({why})" if unjudged else ""
    return f"{counted(sample_size, 'row')} asked of {client.identity}: {counts}{without}"


def _example(row: Row, opinion: Opinion) -> Example:
    texts = [pii.mask_all(text)[:_LONGEST] for text in (_request(row), row.answer)]
    feedback = pii.mask_all(opinion.feedback)[:_LONGEST]
    return {"rows": [row.id, row.id], "texts": texts, "note": feedback}


def _request(row: Row) -> str:
    turns = [turn for turn in row.prompt if turn.role != "system" and turn.content]
    return "\n\n".join(turn.content for turn in turns)
