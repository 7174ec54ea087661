"""The model of a finished run, ready to answer; the data of the run is not needed."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from hydratune import digests
from hydratune.adapters import attach
from hydratune.adapters.peft_warnings import hidden_peft_warnings
from hydratune.data.answers import json_schema
from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.data.reader import Reader
from hydratune.data.rows import Message, Row
from hydratune.errors import ConfigError, DataError, Problem, RunError
from hydratune.evaluation.constrained import Guide, guide_for
from hydratune.experiment.finished_run import (
    FinishedRun,
    adapted_settings,
    require_adapter,
    require_files,
)
from hydratune.models import loading
from hydratune.models.compute import Compute, compute_of
from hydratune.records.environment import Environment
from hydratune.records.predictions import read_predictions
from hydratune.settings.answering import OF_THE_RUN, AnsweringConfig
from hydratune.settings.commands import TrainConfig
from hydratune.settings.data import DataConfig
from hydratune.settings.model import Source

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_USUAL_TOKENS = 256  # of an answer, for a run on texts, which has no answers


@dataclass
class AnsweringModel:
    """The base model of a run, its fine-tuned model, and how both are asked.

    They share the frozen weights. What is not used is not loaded.
    """

    run: FinishedRun
    settings: TrainConfig
    source: Source
    compute: Compute
    tokenizer: "PreTrainedTokenizerBase"

    @cached_property
    def base(self) -> "PreTrainedModel":
        """The untouched base model. Raises ``RunError`` if it is not the one that was trained."""
        model = loading.load_model(self.settings.model, self.source, self.compute)
        model = attach.prepare_quantised(model, self.settings.model.quantization)
        identity = loading.identified(self.source, self.settings.model, model).identity
        recorded = Environment.read(self.run.record.environment_file).base
        if recorded != identity:
            raise RunError(
                f"the base model has changed since this run: {recorded} then, {identity} now"
            )
        return model

    @cached_property
    def tuned(self) -> "PeftModel | PreTrainedModel":
        """The fine-tuned model. Raises ``RunError`` if its files are damaged."""
        from peft import PeftModel

        folder = self.run.record.adapter
        if self.settings.adapter.trains_base:
            return attach.load_tuned(
                self.settings.model, self.settings.adapter, self.source, folder, self.compute
            )
        if (damage := digests.damaged(folder)) is not None:
            raise RunError(damage)
        base = loading.with_same_tensors(self.base)
        with hidden_peft_warnings():
            device = str(self.compute.device)
            return PeftModel.from_pretrained(base, str(folder), torch_device=device).eval()

    @cached_property
    def encoder(self) -> ChatEncoder:
        """The chat template of the run, and the tokens that end an answer."""
        return ChatEncoder(self.tokenizer, self._reader.turn_end_ids)

    @cached_property
    def _reader(self) -> Reader:
        model = self.tuned if self.settings.adapter.trains_base else self.base
        return loading.reader_of(self.settings.model, self.tokenizer, model)

    @property
    def context(self) -> int:
        """How many tokens a prompt and its answer may have together."""
        return self._reader.context_window - self.settings.adapter.virtual_tokens()

    @property
    def pad(self) -> int:
        return int(self.tokenizer.pad_token_id)  # type: ignore[arg-type]  # sources set one

    @property
    def of_documents(self) -> bool:
        """Whether the run was trained on texts, so that its model continues a text."""
        return not self.run.measured_with["max_new_tokens"]

    @property
    def max_new_tokens(self) -> int:
        """Tokens of an answer, at most, as in the evaluation of the run."""
        return int(self.run.measured_with["max_new_tokens"] or _USUAL_TOKENS)

    def answer_text(self, row: Row, tokens: tuple[int, ...]) -> str:
        """Return an answer to ``row`` as text, without the tokens that end it."""
        kept = [token for token in tokens if token not in self.encoder.turn_end_ids]
        text = self.encoder.decode(kept)
        return self.encoder.extract_answer(row, text) if kept and not row.is_text else text

    def guide(self, given: str | None, model: "PreTrainedModel") -> Guide | None:
        """Return what ``json_schema`` allows; None: everything. Raises ``InputError``."""
        if given is None:
            return None
        return guide_for(self.schema(given), self.encoder, model, "json_schema")

    def schema(self, given: str | None) -> dict[str, object] | None:
        """Return the JSON schema that the setting ``json_schema`` names. Raises ``InputError``."""
        if given == OF_THE_RUN:
            if self.run.schema is None:
                why = "this run has no JSON schema"
                fix = "give the file of one with json_schema=FILE, or leave it out"
                raise ConfigError([Problem("json_schema", given, why, fix)])
            return self.run.schema
        try:
            return json_schema(DataConfig(schema_file=given))
        except DataError as error:
            raise DataError(str(error).replace("data.schema_file", "json_schema")) from None


def open_model(run: FinishedRun, config: AnsweringConfig) -> AnsweringModel:
    """Return the model of a run; its weights are loaded when they are first used.

    Raises ``RunError`` if the run has no trained weights, or its base model cannot be found.
    """
    if not config.base:
        require_adapter(run.record, "answer with")
    settings = adapted_settings(run, accelerator=config.accelerator)
    require_files(settings, run.record, settings.model.problems())
    compute = compute_of(settings)
    source = loading.locate(settings.model)
    tokenizer = loading.load_tokenizer(settings.model, source)
    return AnsweringModel(run, settings, source, compute, tokenizer)


@dataclass(frozen=True)
class SystemPrompt:
    """The text of a system turn, None for none, and a sentence that says where it is from."""

    text: str | None
    origin: str


def system_prompt(run: FinishedRun, given: str | None) -> SystemPrompt:
    """Return the system prompt of conversations that have none.

    It is the one that is given, or the one that all test rows of the run have.
    """
    if given is not None:
        return SystemPrompt(given or None, "as given" if given else "none, as given")
    if run.settings.data.system_prompt is not None:
        return SystemPrompt(run.settings.data.system_prompt, "that of the training data")
    file = run.record.predictions_file()
    if not file.is_file():
        return SystemPrompt(None, f"none: there is no {file.name} that would show it")
    found = {_system_of(row.get("request", row["prompt"])) for row in read_predictions(file)}
    if len(found) == 1:
        (text,) = found
        origin = "that of the training data" if text else "none, as in the training data"
        return SystemPrompt(text, origin)
    count = len(found - {None})
    return SystemPrompt(
        None, f"none: the training data has {count} different ones; system=TEXT chooses one"
    )


def _system_of(turns: list[dict[str, object]]) -> str | None:
    first = turns[0] if turns else {}
    return str(first["content"]) if first.get("role") == "system" else None


def with_system_prompt(messages: tuple[Message, ...], text: str | None) -> tuple[Message, ...]:
    """Return ``messages`` with a system turn in front, if they have none of their own."""
    if text is None or (messages and messages[0].role in ("system", "text")):
        return messages
    return (Message("system", text), *messages)
