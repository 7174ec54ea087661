"""Asks one system the test rows and scores what it says: the rows of predictions.jsonl."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, cast

from hydratune import __version__
from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.data.rows import Message, Row, stable_hash
from hydratune.errors import ConfigError, DataError, Problem, RunError
from hydratune.evaluation.constrained import Guide
from hydratune.evaluation.families import Answered, names
from hydratune.evaluation.generation import NOT_ASKED, answer, batches_of
from hydratune.evaluation.metrics import as_json_text, score_row
from hydratune.models import hardware
from hydratune.models.compute import autocast_of
from hydratune.models.memory_plan import generation_tokens
from hydratune.records.files import write_jsonl
from hydratune.records.predictions import Prediction, read_predictions
from hydratune.settings.data import TrainOn
from hydratune.settings.evaluation import EvaluationConfig, Task

# what a cached prediction holds; other words, other caches
_STORED = "the prompt that was asked, and beside it the row's own"
# of a prediction: what else is right, or known of its row
_OF_THE_DATA = (
    "references",
    "tests",
    "leaky",
)


class TestBench:
    """The frozen test rows, and everything that must be equal for all systems that are asked them."""  # noqa: E501

    def __init__(
        self,
        rows: Sequence[Row],
        encoder: ChatEncoder,
        config: EvaluationConfig,
        task: Task,
        schema: Mapping[str, Any] | None,
        context: int,
        leaky: frozenset[str] = frozenset(),
    ) -> None:
        """``leaky``: ids of rows whose request is in training, or nearly."""
        self.rows = rows if config.max_rows is None else rows[: config.max_rows]
        self.encoder, self.config, self.task, self.schema = encoder, config, task, schema
        encoded = [encoder.encode(row, TrainOn.last) for row in self.rows]
        self.answers = [e.target_ids for e in encoded]
        self.references = [encoder.reference_answer(row) for row in self.rows]
        self.families = names(config.metrics, task)
        self.leaky = leaky
        others = _other_answers(self.rows, self.references)
        self.extra = [
            _extra(row, more, row.id in leaky) for row, more in zip(self.rows, others, strict=True)
        ]
        self.documents = self.rows[
            0
        ].is_text  # nothing to ask: their likelihood is all there is to measure
        other = next((row for row in self.rows if row.is_text is not self.documents), None)
        if other is not None:
            raise DataError(
                f"{other.where or other.id}: the test rows mix documents and conversations; test"
                " one kind at a time"
            )
        longest = max(map(len, self.answers))
        self.max_new_tokens = (
            0 if self.documents else config.max_new_tokens or -(-21 * longest // 20)
        )
        self.context = context

    def ask(
        self,
        model: Any,
        prompts: Sequence[Sequence[Message]],
        *,
        title: str,
        pad: int,
        quiet: bool = False,
        pool: Executor | None = None,
        guide: Guide | None = None,
    ) -> list[Prediction]:
        """One prediction per test row.

        ``prompts`` are conversations up to the answer, in the order of the rows.
        """
        ids = self._tokens(prompts)
        stop = self.encoder.turn_end_ids
        answers = answer(
            model,
            ids,
            self.answers,
            stop=stop,
            pad=pad,
            max_new_tokens=self.max_new_tokens,
            batch_size=self.config.batch_size,
            batch_tokens=self.config.batch_tokens,
            title=title,
            quiet=quiet,
            pool=pool,
            guide=guide,
        )
        result = []
        for i, row in enumerate(self.rows):
            kept = [t for t in answers[i].tokens if t not in stop]
            text = self.encoder.tokenizer.decode(
                kept, skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
            text = self.encoder.extract_answer(row, text) if kept else text
            result.append(
                {
                    "id": row.id,
                    "group": row.group,
                    "item_hash": row.content_hash,
                    "prompt_hash": stable_hash(ids[i]),
                    **_prompt(row, prompts[i]),
                    "prediction": text,
                    "reference": self.references[i],
                    "finish_reason": answers[i].finish_reason,
                    "prompt_tokens": len(ids[i]),
                    "generated_tokens": len(answers[i].tokens),
                    "nll": answers[i].nll,
                    "answer_tokens": len(self.answers[i]),
                    "answer_bytes": len(self.references[i].encode()),
                    **self.extra[i],
                }
            )
        return rescore(result, self.families, self.schema)

    def _tokens(self, prompts: Sequence[Sequence[Message]]) -> list[list[int]]:
        if self.documents:  # their first token, or their context, stands for a prompt
            encoded = [self.encoder.encode(row) for row in self.rows]
            return [list(e.ids[: e.loss_mask.index(True)]) for e in encoded]
        return [
            self.encoder.prompt_tokens(prompt, row.tools, row.where or row.id)
            for prompt, row in zip(prompts, self.rows, strict=True)
        ]

    def check(self, prompts: Sequence[Sequence[Message]]) -> None:
        """Raises ``ConfigError`` if the model could not read a prompt and write its answer."""
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

    def fits(self, prompts: Sequence[Sequence[Message]]) -> bool:
        """Whether the model can read every prompt and write its answer."""
        return self._longest(prompts) <= self.context

    def _longest(self, prompts: Sequence[Sequence[Message]]) -> int:
        return max(map(len, self._tokens(prompts))) + max(
            self.max_new_tokens, *map(len, self.answers)
        )

    def rescored(self, stored: Sequence[Mapping[str, Any]]) -> list[Prediction]:
        """Stored answers to the same rows, with what the rows and the scoring are now."""
        known = [{k: v for k, v in p.items() if k not in _OF_THE_DATA} for p in stored]
        named = [
            {**p, "id": row.id, "group": row.group, **extra}
            for p, row, extra in zip(known, self.rows, self.extra, strict=True)
        ]
        return rescore(named, self.families, self.schema)

    def zero_shot(self) -> list[tuple[Message, ...]]:
        """The prompts as they are in the data."""
        return [row.prompt for row in self.rows]

    def few_shot(self, examples: Sequence[Row]) -> list[tuple[Message, ...]]:
        """The best prompt a careful user would write: the schema, then ``examples``, then the
        question.
        """
        shown: list[Message] = []
        for example in examples:
            shown += [m for m in example.messages if m.role != "system"]
        prompts = []
        for row in self.rows:
            system = row.messages[0].content if row.messages[0].role == "system" else ""
            if self.schema is not None:
                system = (
                    f"{system}\nThe JSON object follows this JSON schema:"
                    f" {as_json_text(self.schema)}".strip()
                )
            opening = [Message("system", system)] if system else []
            prompts.append((*opening, *shown, *(m for m in row.prompt if m.role != "system")))
        return prompts

    def cache_key(self, identity: str, prompts: Sequence[Sequence[Message]], model: Any) -> str:
        """Of the predictions of the untouched ``model``: equal keys, equal predictions to the last
        bit.

        Another device, another arithmetic and other batches all round differently.
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
    predictions: Sequence[Mapping[str, Any]],
    families: Sequence[str],
    schema: Mapping[str, Any] | None,
) -> list[Prediction]:
    """Predictions with scores computed from their texts; what was not asked has none."""
    result = []
    for row in predictions:
        asked = row["finish_reason"] != NOT_ASKED
        scores = score_row(answered(row, schema), families) if asked else {}
        result.append(cast("Prediction", {**row, "scores": scores}))
    return result


def answered(prediction: Mapping[str, Any], schema: Mapping[str, Any] | None) -> Answered:
    """A row of predictions.jsonl as it is scored."""
    return Answered(
        prediction["prediction"],
        [prediction["reference"], *prediction.get("references", [])],
        schema,
        prediction,
    )


def _other_answers(rows: Sequence[Row], references: Sequence[str]) -> list[list[str]]:
    """Of every row, what else is right: its field ``references``, and the answers of rows with the
    very same request.
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


def _prompt(row: Row, asked: Sequence[Message]) -> dict[str, Any]:
    """``prompt``: the turns that were asked, of which ``prompt_hash`` are the tokens.

    ``request``: the row's own, where that is another.
    """
    prompt, own = [m.turn() for m in asked], [m.turn() for m in row.prompt]
    return {"prompt": prompt, **({"request": own} if own != prompt else {})}


def _extra(row: Row, others: Sequence[str], leaky: bool) -> dict[str, Any]:
    """What a prediction holds only where there is such a thing."""
    tests = row.meta.get("tests")
    told = {
        "references": list(others) if not row.is_text else [],
        "tests": str(tests) if tests else "",
        "leaky": leaky,
    }
    return {name: value for name, value in told.items() if value}


def cached(file: Path) -> list[Prediction] | None:
    """Predictions stored under a cache key, if there are any."""
    try:
        return read_predictions(file) if file.is_file() else None
    except RunError:  # a broken cache is an empty one
        return None


def remember(file: Path, predictions: Sequence[Mapping[str, Any]]) -> None:
    write_jsonl(file, predictions)


def can_be_shown(row: Row) -> bool:
    """Whether a row may stand in a few-shot prompt, or be asked after one: no document, and nothing
    to do with tools.
    """
    return (
        not row.tools
        and not row.is_text
        and all(m.role != "tool" and not m.tool_calls for m in row.messages)
    )


def fit_examples(examples: Sequence[Row], count: int) -> list[Row]:
    """The first ``count`` different training rows in the order of their hashes, so every run shows
    the same ones.
    """
    different = {row.content_hash: row for row in examples if can_be_shown(row)}
    return [different[key] for key in sorted(different)[:count]]
