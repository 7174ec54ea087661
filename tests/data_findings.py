"""Rows and the findings of the data checks about them, for the tests of these checks."""

from pathlib import Path
from typing import Any

from hydratune.data.quality.inspection import Inspection
from hydratune.data.quality.set_checks import run_checks
from hydratune.data.rows import Message, Row
from hydratune.data.splits import Side
from hydratune.data.store import RowStore, RowWriter
from hydratune.settings.data import DataConfig


def row(question: str, answer: str = "Yes, it is.", **more: Any) -> Row:
    """Return a row of one question and one answer; its id is the question by default."""
    return Row(
        more.pop("id", question), (Message("user", question), Message("assistant", answer)), **more
    )


def findings_of(
    tmp_path: Path,
    rows: list[Row],
    sides: list[Side] | None = None,
    schema: Any = None,
    **data: Any,
) -> dict[str, Any]:
    """Return the findings by name for rows that the source gives on ``sides``.

    Sides that the source does not give are split off.
    """
    inspection = Inspection(DataConfig(**data), schema)
    writer = RowWriter(tmp_path / "rows.arrow")
    for each, side in zip(rows, sides or [Side.train] * len(rows), strict=True):
        writer.add(each, inspection.see(each, side))
    writer.close()
    store = RowStore(tmp_path / "rows.arrow")
    inspection.divide(
        store, {Side.train, *(sides or [])} if sides else set(Side), lambda steps: None
    )
    return {f.name: f for f in run_checks(inspection, store)}


BANKING = [
    f"{verb} {thing} {when}"
    for verb in ("how do I find", "why was I charged for", "where can I see")
    for thing in (
        "my missing transfer",
        "a card payment",
        "the exchange rate",
        "an extra fee",
        "my direct debit",
    )
    for when in (  # 60 requests of a bank's customers
        "from last week",
        "in another country",
        "on the website",
        "after the refund",
    )
]


def conversation(id_: str, *texts: str, system: str = "") -> Row:
    """Return a row whose texts are by turns the user's and the assistant's."""
    turns = [Message("assistant" if i % 2 else "user", text) for i, text in enumerate(texts)]
    return Row(id_, (*([Message("system", system)] if system else []), *turns))
