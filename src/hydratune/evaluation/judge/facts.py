"""Training answers read by a judge: is what they state supported by their request?

What no rule can see.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from hydratune.data.quality import pii
from hydratune.data.quality.findings import MOST_EXAMPLES, Finding
from hydratune.data.rows import Row
from hydratune.errors import RunError
from hydratune.evaluation.judge import questions
from hydratune.evaluation.judge.asking import Judged, Kept, ask
from hydratune.evaluation.judge.clients import Client
from hydratune.settings.commands import FactsConfig
from hydratune.settings.data import Level

_SHOWN = 600  # letters of a request or an answer


@dataclass(frozen=True)
class Facts:
    """``finding`` lists the unsupported rows; the others are supported, unclear or have no verdict,
    and are counted.
    """

    finding: Finding
    asked: int
    judged: int
    why: str  # the first reason why a row has no verdict


def wanted(config: FactsConfig) -> bool:
    return config.judge is not None or config.local is not None


def check(rows: Iterable[Row], config: FactsConfig, client: Client) -> Facts:
    """A server that cannot be asked gives no verdict, and no row is called anything for it."""
    chosen = sorted(
        (row for row in rows if not row.is_text and row.answer.strip()),
        key=lambda row: row.content_hash,
    )[: config.rows]
    asked = [questions.support(_request(row), row.answer) for row in chosen]
    try:
        found = ask(client, asked, Kept(client.identity, config.max_tokens), config.attempts)
    except RunError as error:
        found = [Judged(why=str(error).splitlines()[0]) for _ in chosen]
    pairs = [(row, one) for row, one in zip(chosen, found, strict=True) if one.opinion is not None]
    counts = {
        choice: sum(one.opinion is not None and one.opinion.value == choice for _, one in pairs)
        for choice in questions.SUPPORT
    }
    why = next((one.why for one in found if one.opinion is None), "")
    unjudged = len(chosen) - len(pairs)
    note = (
        f"{len(chosen)} rows asked of {client.identity}:"
        f" {', '.join(f'{count} {choice}' for choice, count in counts.items())}"
    )
    note += f", {unjudged} without a verdict ({why})" if unjudged else ""
    wrong = [
        (row, one)
        for row, one in pairs
        if one.opinion is not None and one.opinion.value == "unsupported"
    ]
    finding = Finding(
        "unsupported",
        Level.warn,
        len(wrong),
        [row.id for row, _ in wrong],
        note=note,
        where=[row.where for row, _ in wrong],
    )
    finding.splits = {"train": len(wrong)} if wrong else {}  # no other rows are read
    for row, one in wrong[:MOST_EXAMPLES]:
        texts = [pii.mask_all(text)[:_SHOWN] for text in (_request(row), row.answer)]
        told = pii.mask_all(one.opinion.feedback)[:_SHOWN] if one.opinion else ""
        finding.examples.append({"rows": [row.id, row.id], "texts": texts, "note": told})
    return Facts(finding, len(chosen), len(pairs), why)


def _request(row: Row) -> str:
    return "\n\n".join(
        message.content for message in row.prompt if message.role != "system" and message.content
    )
