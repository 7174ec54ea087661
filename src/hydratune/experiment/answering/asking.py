"""Rows of a file answered by the model of a finished run."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from hydratune.data.cleaning import Cleaner
from hydratune.data.formats.columns import Naming
from hydratune.data.formats.delimiters import named_delimiter
from hydratune.data.formats.requests import (
    Request,
    as_question,
    read_requests,
    without_answers,
)
from hydratune.data.rows import Row
from hydratune.errors import ConfigError, DataError, Problem
from hydratune.evaluation.generation import Answer, answer
from hydratune.evaluation.sampling import sampling_of
from hydratune.experiment.answering.answer_file import AnswerFile, Line
from hydratune.experiment.answering.model import AnsweringModel, SystemPrompt, with_system_prompt
from hydratune.settings.answering import GeneratingConfig
from hydratune.settings.data import DataConfig, TrainOn
from hydratune.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOO_LONG = "too long"  # finish_reason of a row that was not asked
_MOST_NUMBERS = 5  # of rows that are listed
_SETTINGS_OF_DATA = ("columns", "roles", "encoding", "delimiter")


def read_rows(config: GeneratingConfig, data: DataConfig, statements: list[str]) -> list[Request]:
    """Return the rows to be answered, repaired as the training data was.

    Columns and speakers are named as in the data of the run, unless ``config`` names them. What
    was recognised and changed is appended to ``statements``. Raises ``DataError``.
    """
    path = Path(config.input)
    sign = named_delimiter(config.delimiter) if config.delimiter is not None else None
    if config.delimiter is not None and sign is None:
        fix = "one of: comma, semicolon, tab, pipe"
        raise ConfigError(
            [Problem("delimiter", config.delimiter, "this separates no columns", fix)]
        )
    usual = Naming(getattr(data, "columns", {}), getattr(data, "roles", {}))
    naming = Naming(config.columns, config.roles)
    clean = Cleaner(data.clean)
    requests: list[Request] = []
    try:
        for request in read_requests(path, naming, usual, config.encoding, statements, sign):
            requests.append(replace(request, row=clean(request.row)))
            if len(requests) == config.rows:
                break
    except DataError as error:
        raise DataError(_own_settings(str(error))) from None
    except OSError as error:
        why = error.strerror or str(error)
        raise DataError(f"{path}: cannot be read ({why}); give a file that can be opened") from None
    if not any(request.has_reference for request in requests):
        statements[:] = map(without_answers, statements)
    repaired = len({n for c in clean.changes.values() if c.on for n in c.numbers})
    if repaired:
        rows = counted(repaired, "row")
        statements.append(f"{path}: {rows} repaired as in the training data (data.clean)")
    if empty := [request.number for request in requests if _is_empty(request)]:
        first = ", ".join(map(str, empty[:_MOST_NUMBERS]))
        more = ", ..." if len(empty) > _MOST_NUMBERS else ""
        rows = counted(len(empty), "row")
        statements.append(f"{path}: {rows} without a question, asked nevertheless: {first}{more}")
    return requests


def _is_empty(request: Request) -> bool:
    asked = [message for message in request.row.prompt if message.role == "user"]
    return not request.is_text and not any(message.content.strip() for message in asked)


def _own_settings(message: str) -> str:
    """Return a message of the readers, with the settings as they are called here."""
    for name in _SETTINGS_OF_DATA:
        message = message.replace(f"data.{name}", name)
    return message


@dataclass
class Questions:
    """Rows as they are asked: with the system prompt, and as tokens."""

    model: AnsweringModel
    requests: Sequence[Request]
    system: SystemPrompt

    @cached_property
    def rows(self) -> list[Row]:
        return [self._row(request) for request in self.requests]

    def _row(self, request: Request) -> Row:
        """Return the row of a request; a text is a question unless the run is one on texts."""
        row = request.row
        if row.is_text and self.model.of_documents:
            return row
        row = as_question(row) if row.is_text else row
        return replace(row, messages=with_system_prompt(row.messages, self.system.text))

    @cached_property
    def prompts(self) -> list[list[int]]:
        """The tokens of each prompt. Raises ``DataError`` if the chat template refuses one."""
        encoder = self.model.encoder
        return [
            list(encoder.encode(row).ids[:-1])  # without the end-of-text token
            if row.is_text
            else encoder.prompt_tokens(row.prompt, row.tools, row.position)
            for row in self.rows
        ]

    def too_long(self, max_new_tokens: int) -> list[int]:
        """Return the positions of rows that leave no room for an answer of ``max_new_tokens``."""
        most = self.model.context - max_new_tokens
        return [i for i, prompt in enumerate(self.prompts) if len(prompt) > most]

    def with_system_prompt(self) -> int:
        """Return how many rows got the system prompt."""
        given = (r.row for r in self.requests)
        pairs = zip(given, self.rows, strict=True)
        return sum(
            row.messages[0].role == "system" and own.messages[0].role != "system"
            for own, row in pairs
        )


class Asking:
    """Answers questions, and keeps each answer as soon as it is there."""

    def __init__(
        self,
        questions: Questions,
        config: GeneratingConfig,
        file: AnswerFile,
        max_new_tokens: int,
    ) -> None:
        self.questions, self.config, self.file = questions, config, file
        self.max_new_tokens = max_new_tokens
        self.model: PreTrainedModel | None = None
        self.seconds = 0.0  # of generating, in this process
        self.generated = 0  # tokens, likewise

    def run(self) -> None:
        """Answer the rows that have no answer yet. Raises ``KeyboardInterrupt`` at Ctrl-C."""
        questions, config = self.questions, self.config
        refused = set(questions.too_long(self.max_new_tokens))
        self.file.append([self._refused_line(i) for i in sorted(refused)])
        asked = [i for i in range(len(questions.rows)) if i not in refused]
        numbers = [questions.requests[i].number for i in asked]
        done = frozenset(n for n, number in enumerate(numbers) if number in self.file.done)
        if len(done) == len(asked):
            return
        own = questions.model
        model = own.base if config.base else own.tuned
        started = time.perf_counter()

        def received(answers: Mapping[int, Answer]) -> None:
            lines = [self._line(asked[n], one) for n, one in answers.items()]
            self.generated += sum(len(one.tokens) for one in answers.values())
            self.file.append(lines)

        evaluation = own.settings.evaluation
        answer(
            model,
            [questions.prompts[i] for i in asked],
            [self._reference(i) for i in asked],
            stop=own.encoder.turn_end_ids,
            pad=own.pad,
            max_new_tokens=self.max_new_tokens,
            batch_size=config.batch_size or evaluation.batch_size,
            batch_tokens=evaluation.batch_tokens,
            title="answers",
            guide=own.guide(config.json_schema, model),
            sampling=sampling_of(config.temperature, config.top_p, config.seed),
            received=received,
            done=done,
        )
        self.seconds = time.perf_counter() - started

    def _reference(self, position: int) -> list[int]:
        """Return the tokens of a row's reference, if its likelihood is asked for."""
        if not self.config.metrics or not self.questions.requests[position].has_reference:
            return []
        row = self.questions.rows[position]
        return self.questions.model.encoder.encode(row, TrainOn.last).target_ids

    def _line(self, position: int, given: Answer) -> Line:
        """Return the answer to a row as a line of the file."""
        text = self.questions.model.answer_text(self.questions.rows[position], given.tokens)
        line = self._opening(position) | {
            "answer": text,
            "finish_reason": given.finish_reason,
            "prompt_tokens": len(self.questions.prompts[position]),
            "generated_tokens": len(given.tokens),
        }
        if self.config.metrics and self.questions.requests[position].has_reference:
            line["nll"] = given.nll
        return line | self._kept(position)

    def _refused_line(self, position: int) -> Line:
        tokens = len(self.questions.prompts[position])
        reason = {"answer": None, "finish_reason": TOO_LONG, "prompt_tokens": tokens}
        return self._opening(position) | reason | {"generated_tokens": 0} | self._kept(position)

    def _opening(self, position: int) -> Line:
        request, row = self.questions.requests[position], self.questions.rows[position]
        messages = row.messages if row.is_text else row.prompt
        own = {"id": request.id} if request.id is not None else {}
        tools = {"tools": [dict(tool) for tool in row.tools]} if row.tools else {}
        return {"row": request.number, **own, "messages": [m.turn() for m in messages], **tools}

    def _kept(self, position: int) -> Line:
        """Return what the row had beside its request: the reference, its group and meta data."""
        request, row = self.questions.requests[position], self.questions.rows[position]
        kept: Line = {}
        if request.has_reference:
            kept["reference"] = self.questions.model.encoder.reference_answer(row)
        if row.group is not None:
            kept["group"] = row.group
        if row.meta:
            kept["meta"] = dict(row.meta)
        return kept
