"""One run made ready: what ``prepare`` returns, and every later step reads."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hydratune.adapters.folder import AdapterFolder
from hydratune.data.encoding.encoded import Encoded
from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.data.prepared import Prepared
from hydratune.data.reader import Reader
from hydratune.data.rows import Row
from hydratune.data.sets import RowSets
from hydratune.evaluation.assess import TestSet
from hydratune.experiment.context import RunContext
from hydratune.models import turn_ends
from hydratune.models.compute import Compute
from hydratune.records.files import Json
from hydratune.settings.commands import TrainConfig
from hydratune.settings.model import Source

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass
class Job:
    """Everything that a run needs to train and to be measured."""

    config: TrainConfig
    context: RunContext
    compute: Compute  # device and precision
    source: Source  # of the base model
    tokenizer: "PreTrainedTokenizerBase"
    model: "PreTrainedModel | PeftModel"  # the base model, later with the adapter
    reader: Reader
    encoder: ChatEncoder
    sets: RowSets
    train: list[Encoded]  # the tokens of ``sets.train``, in the same order
    validation: list[Encoded]
    data_facts: dict[str, Json]  # the content of data.json
    prepared: Prepared
    test_set: TestSet
    examples: list[Row]  # for the few-shot prompt, as many as fit
    start: AdapterFolder | None  # the adapter that is trained further
    # the base model's generation config has every token that ends an answer
    base_declares_turn_ends: bool
    validation_set: TestSet | None = None  # validation rows that are answered during training
    # the checkpoint from which the run is resumed; PyTorch's checkpoints are untyped
    checkpoint: Mapping[str, Json] | None = None
    seconds: dict[str, float] = field(default_factory=dict)  # wall seconds by stage
    other_cpu_seconds: float = 0.0  # of the other processes of a data-parallel run

    @property
    def pad(self) -> int:
        """The token with which batches are padded."""
        return int(self.tokenizer.pad_token_id)  # type: ignore[arg-type]  # sources sets one

    @property
    def answer_ends(self) -> list[int]:
        """The tokens that end an answer, those that end the training rows first."""
        last_tokens = [example.ids[-1] for example in self.train]
        return turn_ends.in_order(self.encoder.turn_end_ids, last_tokens)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the wall seconds of the block to ``seconds[stage]``."""
        with timed(self.seconds, stage):
            yield

    def cpu_seconds(self) -> float:
        """Return the CPU-seconds of the run so far.

        They include those before an interruption and those of other processes that have ended.
        """
        before = self.checkpoint["cpu_seconds"] if self.checkpoint is not None else 0.0
        return self.context.compute.cpu_seconds() + self.other_cpu_seconds + float(before)


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the wall seconds of the block to ``seconds[stage]``."""
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start
