"""predictions.jsonl: one answer of one system per test row."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NotRequired, TypedDict, cast

from hydratune.records.files import Json, read_jsonl, write_jsonl


class Prediction(TypedDict):
    """A row of predictions.jsonl.

    It is a plain mapping because entry points of other packages score it, and because what an
    older or newer version stored beside these keys must survive.
    """

    id: str
    group: str  # rows of one group are resampled together
    item_hash: str  # of the row: equal hashes, the same row
    prompt_hash: str  # of the tokens of the prompt
    prompt: list[dict[str, Json]]  # the turns that were asked
    request: NotRequired[list[dict[str, Json]]]  # the row's own turns, where they differ
    prediction: str
    reference: str
    references: NotRequired[list[str]]  # other right answers
    finish_reason: str
    prompt_tokens: int
    generated_tokens: int
    nll: float  # of the reference, summed over its tokens, in nats
    answer_tokens: int  # of the reference
    answer_bytes: int
    tests: NotRequired[str]  # code that an answer in code must pass
    leaky: NotRequired[bool]  # whether the row's request is in training, or nearly
    scores: NotRequired[Mapping[str, Json]]  # by metric, empty if the row was not asked


EMPTY: Final = cast("Prediction", {})  # stands for the row of an answer that has none


def read_predictions(file: Path) -> list[Prediction]:
    """Read predictions.

    Raises ``RunError`` with file:line for a broken line, or if the file was changed.
    """
    return read_jsonl(file)  # type: ignore[return-value]  # the file is checked by its digest


def write_predictions(file: Path, predictions: Sequence[Prediction]) -> None:
    write_jsonl(file, predictions)
