"""Ask one system the test rows, and score its answers: the rows of predictions.jsonl."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from hydratune import __version__, extras
from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.data.rows import Message, Row, stable_hash
from hydratune.errors import ConfigError, DataError, Problem, RunError
from hydratune.evaluation.batches import batches_of
from hydratune.evaluation.constrained import Guide
from hydratune.evaluation.families import Answered, names
from hydratune.evaluation.generation import NOT_ASKED, Answer, answer
from hydratune.evaluation.json_scores import JsonSchema
from hydratune.evaluation.metrics import as_json_text, score_row
from hydratune.models import hardware
from hydratune.models.compute import autocast_of
from hydratune.models.memory_plan import generation_tokens
from hydratune.records.files import Json, write_jsonl
from hydratune.records.predictions import Prediction, read_predictions
from hydratune.settings.data import TrainOn
from hydratune.settings.evaluation import EvaluationConfig, Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# part of the cache key: what a cached prediction holds
_STORED = "the prompt that was asked, and beside it the row's own"
# fields of a prediction that come from the data as they are now
_OF_THE_DATA = ("references", "tests", "leaky")

Prompt = Sequence[Message]  # a conversation up to the answer


class TestSet:
    """The frozen test rows, and everything that must be equal for all systems.

    Documents are not answered: their likelihood is all there is to measure.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        encoder: ChatEncoder,
        config: EvaluationConfig,
        task: Task,
        schema: JsonSchema | None,
        context: int,
        leaky: frozenset[str] = frozenset(),
    ) -> None:
        """Encode the rows. ``leaky`` are ids of rows whose request is in training, or nearly.

        Raises ``DataError`` where documents and conversations are mixed.
        """
        self.rows = rows if config.max_rows is None else rows[: config.max_rows]
        self.encoder, self.config, self.task, self.schema = encoder, config, task, schema
        self.families, self.leaky, self.context = names(config.metrics, task), leaky, context
        if "bleu" in self.families:
            extras.require("sacrebleu", "evaluation.metrics=[bleu]")
        encoded = [encoder.encode(row, TrainOn.last) for row in self.rows]
        self.answers = [e.target_ids for e in encoded]
        self.references = [encoder.reference_answer(row) for row in self.rows]
        others = _other_answers(self.rows, self.references)
        self.extra = [
            _extra(row, more, row.id in leaky) for row, more in zip(self.rows, others, strict=True)
        ]
        self._own_prompts = [row.prompt for row in self.rows]
        self._own_tokens: list[list[int]] | None = None  # of these prompts, once they are needed
        self.documents = self.rows[0].is_text
        other = next((row for row in self.rows if row.is_text is not self.documents), None)
        if other is not None:
            raise DataError(
                f"{other.where or other.id}: the test rows mix documents and conversations; test"
                " one kind at a time"
            )
        longest = max(map(len, self.answers))
        by_default = -(-21 * longest // 20)  # 5 % more than the longest reference
        self.max_new_tokens = 0 if self.documents else config.max_new_tokens or by_default

    def generate(
        self,
        model: "PreTrainedModel",
        prompts: Sequence[Prompt],
        *,
        title: str,
        pad: int,
        quiet: bool = False,
        pool: Executor | None = None,
        guide: Guide | None = None,
    ) -> list[Prediction]:
        """Return one prediction per test row; ``prompts`` are in the order of the rows."""
        ids = self._tokens(prompts)
        answers = answer(
            model,
            ids,
            self.answers,
            stop=self.encoder.turn_end_ids,
            pad=pad,
            max_new_tokens=self.max_new_tokens,
            batch_size=self.config.batch_size,
            batch_tokens=self.config.batch_tokens,
            title=title,
            quiet=quiet,
            pool=pool,
            guide=guide,
        )
        predictions = [
            self._prediction(i, prompt, tokens, one)
            for i, (prompt, tokens, one) in enumerate(zip(prompts, ids, answers, strict=True))
        ]
        return rescore(cast("list[Prediction]", predictions), self.families, self.schema)

    def _prediction(
        self, number: int, prompt: Prompt, prompt_ids: Sequence[int], answer: Answer
    ) -> dict[str, object]:
        """Return the answer to one test row as a row of predictions.jsonl, without scores."""
        row, reference = self.rows[number], self.references[number]
        return {
            "id": row.id,
            "group": row.group,
            "item_hash": row.content_hash,
            "prompt_hash": stable_hash(prompt_ids),
            **_prompt(row, prompt),
            "prediction": self._text(row, answer),
            "reference": reference,
            "finish_reason": answer.finish_reason,
            "prompt_tokens": len(prompt_ids),
            "generated_tokens": len(answer.tokens),
            "nll": answer.nll,
            "answer_tokens": len(self.answers[number]),
            "answer_bytes": len(reference.encode()),
            **self.extra[number],
        }

    def _text(self, row: Row, answer: Answer) -> str:
        """Return the answer without its turn-end, in the form of the reference."""
        kept = [token for token in answer.tokens if token not in self.encoder.turn_end_ids]
        text = self.encoder.tokenizer.decode(
            kept, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return self.encoder.extract_answer(row, text) if kept else text

    def first(self, count: int) -> "TestSet":
        """Return the first ``count`` rows, answered and scored as all of them are."""
        return self._like(self.rows[:count], self.encoder)

    def read_by(self, tokenizer: "PreTrainedTokenizerBase") -> "TestSet":
        """Return the same rows as another tokenizer and its chat template read them."""
        return self._like(self.rows, ChatEncoder(tokenizer, self.encoder.turn_end_ids))

    def _like(self, rows: Sequence[Row], encoder: ChatEncoder) -> "TestSet":
        limit = self.max_new_tokens or None
        config = replace(self.config, max_rows=None, max_new_tokens=limit)
        other = (config, self.task, self.schema, self.context, self.leaky)
        return TestSet(rows, encoder, *other)

    def prompt_tokens(self) -> list[list[int]]:
        """Return the tokens of every prompt as it is in the data."""
        return self._tokens(self._own_prompts)

    def _tokens(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Return the tokens of ``prompts``; those of ``zero_shot`` are encoded once."""
        if prompts is not self._own_prompts:
            return self._encode(prompts)
        if self._own_tokens is None:
            self._own_tokens = self._encode(prompts)
        return self._own_tokens

    def _encode(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        if self.documents:  # their first token, or their context, is the prompt
            encoded = [self.encoder.encode(row) for row in self.rows]
            return [list(e.ids[: e.loss_mask.index(True)]) for e in encoded]
        return [
            self.encoder.prompt_tokens(prompt, row.tools, row.where or row.id)
            for prompt, row in zip(prompts, self.rows, strict=True)
        ]

    def perfect(self) -> list[Prediction]:
        """Return predictions whose answers are the references; documents are not answered."""
        given = Answer((), NOT_ASKED if self.documents else "stop", 0.0)
        tokens = self._tokens(self._own_prompts)
        predictions = [
            {**self._prediction(i, prompt, ids, given), "prediction": self.references[i]}
            for i, (prompt, ids) in enumerate(zip(self._own_prompts, tokens, strict=True))
        ]
        return rescore(cast("list[Prediction]", predictions), self.families, self.schema)

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Raise ``ConfigError`` if the model cannot read a prompt and write its answer."""
        longest = self._longest(prompts)
        if longest > self.context:
            why = (
                f"the longest test prompt and its answer need {longest} tokens; the model reads"
                f" {self.context}"
            )
            fix = "lower data.max_length or evaluation.max_new_tokens, or choose another model"
            raise ConfigError(
                [Problem("evaluation.max_new_tokens", self.config.max_new_tokens, why, fix)]
            )

    def fits(self, prompts: Sequence[Prompt]) -> bool:
        """Return whether the model can read every prompt and write its answer."""
        return self._longest(prompts) <= self.context

    def _longest(self, prompts: Sequence[Prompt]) -> int:
        longest_answer = max(self.max_new_tokens, *map(len, self.answers))
        return max(map(len, self._tokens(prompts))) + longest_answer

    def rescored(self, stored: Sequence[Prediction]) -> list[Prediction]:
        """Return stored answers to the same rows, with the rows and the scoring as they are now."""
        kept = [{k: v for k, v in p.items() if k not in _OF_THE_DATA} for p in stored]
        rows = [
            {**p, "id": row.id, "group": row.group, **extra}
            for p, row, extra in zip(kept, self.rows, self.extra, strict=True)
        ]
        return rescore(cast("list[Prediction]", rows), self.families, self.schema)

    def zero_shot(self) -> list[tuple[Message, ...]]:
        """Return the prompts as they are in the data."""
        return self._own_prompts

    def few_shot(self, examples: Sequence[Row]) -> list[tuple[Message, ...]]:
        """Return the best prompts a careful user would write.

        They are the system prompt with the schema, then ``examples``, then the question.
        """
        turns = [m for example in examples for m in example.messages if m.role != "system"]
        prompts = []
        for row in self.rows:
            system = row.messages[0].content if row.messages[0].role == "system" else ""
            if self.schema is not None:
                schema = as_json_text(self.schema)
                system = f"{system}\nThe JSON object follows this JSON schema: {schema}".strip()
            opening = [Message("system", system)] if system else []
            prompts.append((*opening, *turns, *(m for m in row.prompt if m.role != "system")))
        return prompts

    def cache_key(self, identity: str, prompts: Sequence[Prompt], model: "PreTrainedModel") -> str:
        """Return the key of the predictions of the untouched ``model``.

        Equal keys mean predictions that are equal to the last bit: another device, another
        arithmetic and other batches all round differently.
        """
        limit = self.config.batch_tokens or generation_tokens(model)
        batches = batches_of(
            self._tokens(prompts), self.answers, self.max_new_tokens, self.config.batch_size, limit
        )
        return stable_hash(
            [
                identity,
                [str(model.dtype), str(autocast_of(model)), hardware.name_of(model.device)],
                [len(batch) for batch in batches],
                self.encoder.tokenizer.chat_template,
                _STORED,
                [[m.turn() for m in prompt] for prompt in prompts],
                [row.content_hash for row in self.rows],
                self.max_new_tokens,
                self.families,
                self.schema,
                __version__,
                sorted(self.encoder.turn_end_ids),
            ]
        )


def rescore(
    predictions: Sequence[Prediction], families: Sequence[str], schema: JsonSchema | None
) -> list[Prediction]:
    """Return predictions with scores computed from their texts; documents have none."""

    def scores(prediction: Prediction) -> Mapping[str, Json]:
        if prediction["finish_reason"] == NOT_ASKED:
            return {}
        return score_row(answered(prediction, schema), families)

    return [cast("Prediction", {**p, "scores": scores(p)}) for p in predictions]


def answered(prediction: Prediction, schema: JsonSchema | None) -> Answered:
    """Return a row of predictions.jsonl as it is scored."""
    references = [prediction["reference"], *prediction.get("references", [])]
    return Answered(prediction["prediction"], references, schema, prediction)


def _other_answers(rows: Sequence[Row], references: Sequence[str]) -> list[list[str]]:
    """Return what else is right for every row.

    That is its field ``references``, and the answers of rows with the very same request.
    """
    by_request: dict[str, list[str]] = {}
    requests = [stable_hash([m.turn() for m in row.prompt]) for row in rows]
    for request, reference in zip(requests, references, strict=True):
        by_request.setdefault(request, []).append(reference)
    given = [row.meta.get("references") for row in rows]
    texts = [[str(text) for text in some] if isinstance(some, list) else [] for some in given]
    return [
        [text for text in dict.fromkeys([*own, *by_request[request]]) if text != reference]
        for own, request, reference in zip(texts, requests, references, strict=True)
    ]


def _prompt(row: Row, prompt: Prompt) -> dict[str, object]:
    """Return ``prompt``: the turns of which ``prompt_hash`` are the tokens.

    ``request`` beside it is the row's own prompt, where that is another.
    """
    turns, own = [m.turn() for m in prompt], [m.turn() for m in row.prompt]
    return {"prompt": turns, **({"request": own} if own != turns else {})}


def _extra(row: Row, others: Sequence[str], leaky: bool) -> dict[str, Json]:
    """Return the fields that a prediction has only where they say something."""
    tests = row.meta.get("tests")
    fields = {
        "references": list(others) if not row.is_text else [],
        "tests": str(tests) if tests else "",
        "leaky": leaky,
    }
    return {name: value for name, value in fields.items() if value}


def cached(file: Path) -> list[Prediction] | None:
    """Return the predictions in a cache file; None where there is none, or it is broken."""
    try:
        return read_predictions(file) if file.is_file() else None
    except RunError:
        return None


def remember(file: Path, predictions: Sequence[Mapping[str, object]]) -> None:
    """Write predictions to a cache file."""
    write_jsonl(file, predictions)


def can_be_shown(row: Row) -> bool:
    """Return whether a row may stand in a few-shot prompt, or be asked after one.

    Documents may not, and rows with tools.
    """
    with_tools = any(m.role == "tool" or m.tool_calls for m in row.messages)
    return not row.tools and not row.is_text and not with_tools


def fit_examples(examples: Sequence[Row], count: int) -> list[Row]:
    """Return the first ``count`` different training rows in the order of their hashes.

    So every run shows the same ones.
    """
    different = {row.content_hash: row for row in examples if can_be_shown(row)}
    return [different[key] for key in sorted(different)[:count]]
