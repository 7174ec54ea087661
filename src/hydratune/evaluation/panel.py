"""What a model could do before it was fine-tuned: a fixed panel of texts, questions, instructions
and neutral prompts.

A small one, made for this project, comes with the package; a user's own files take the place of its
parts.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydratune.data.rows import Message, Row, stable_hash
from hydratune.errors import ConfigError, DataError, Problem
from hydratune.evaluation.instructions import known
from hydratune.evaluation.retrieval import documents, pieces
from hydratune.records.files import read_jsonl
from hydratune.settings.evaluation import ForgettingConfig

_OWN = Path(__file__).with_name("panel.jsonl")
_WORDS = 300  # of a piece of a text of the user's
_QUESTIONS = ("question", "prompt", "turns", "instruction")
_ANSWERS = ("answer", "reference", "response", "output", "completion")


@dataclass(frozen=True)
class Instruction:
    """A prompt whose answer can be checked: names of rules (see ``instructions``) and what each is
    told.
    """

    id: str
    prompt: str
    rules: tuple[tuple[str, Mapping[str, Any]], ...]


@dataclass(frozen=True)
class Panel:
    """The parts; an empty one is not measured."""

    texts: tuple[tuple[str, str], ...]  # (name, text)
    questions: tuple[Row, ...]  # with reference answers
    neutral: tuple[Row, ...]  # prompts without an answer
    instructions: tuple[Instruction, ...]

    @property
    def fingerprint(self) -> str:
        return stable_hash(
            [
                self.texts,
                [r.content_hash for r in (*self.questions, *self.neutral)],
                [(i.prompt, i.rules) for i in self.instructions],
            ]
        )


def load(config: ForgettingConfig) -> Panel:
    """The panel that ``config`` means, at most ``config.items`` of each part.

    Raises ``ConfigError`` and ``DataError``.
    """
    own = read_jsonl(_OWN)

    def of(part: str) -> list[dict[str, Any]]:
        return [record for record in own if record["part"] == part]

    if config.texts is not None:
        named = [(name, piece) for name, text in documents(Path(config.texts).expanduser(), "evaluation.forgetting.texts")  # noqa: E501
                 for piece in pieces(text, _WORDS)]  # fmt: skip
    else:
        named = [(f"text {number}", record["text"]) for number, record in enumerate(of("text"), 1)]
    asked = (
        [*of("maths"), *of("chat")]
        if config.questions is None
        else _read(config.questions, "questions")
    )
    instructed = (
        of("instruction")
        if config.instructions is None
        else _read(config.instructions, "instructions")
    )
    most = config.items
    return Panel(
        tuple(_spread(named, most)),
        tuple(
            _question(record, number, config.questions)
            for number, record in enumerate(_spread(asked, most), 1)
        ),
        tuple(
            _row(f"neutral {n}", record["question"], "")
            for n, record in enumerate(of("neutral")[:most], 1)
        ),
        (
            tuple(
                _instruction(record, n, config.instructions)
                for n, record in enumerate(_spread(instructed, most), 1)
            )
            if config.answers
            else ()
        ),
    )


def check(config: ForgettingConfig) -> None:
    """Before anything is computed. Raises ``ConfigError`` and ``DataError``."""
    if config.measure:
        for instruction in load(config).instructions:
            known(instruction.rules)


def _spread(items: list[Any], most: int) -> list[Any]:
    """At most ``most``, evenly from the whole list: files are often sorted by kind."""
    return items if len(items) <= most else [items[i * len(items) // most] for i in range(most)]


def _read(file: str, key: str) -> list[dict[str, Any]]:
    path = Path(file).expanduser()
    if not path.is_file():
        raise ConfigError(
            [
                Problem(
                    f"evaluation.forgetting.{key}",
                    file,
                    "no such file",
                    "give a JSONL file, or null for the built-in panel",
                )
            ]
        )
    return read_jsonl(path)


def _first(record: Mapping[str, Any], names: Iterable[str]) -> str | None:
    value = next((record[name] for name in names if record.get(name)), None)
    value = value[0] if isinstance(value, list) and value else value
    return value if isinstance(value, str) else None


def _question(record: Any, number: int, file: str | None) -> Row:
    fields = record if isinstance(record, dict) else {}
    question, answer = _first(fields, _QUESTIONS), _first(fields, _ANSWERS)
    if question is None or answer is None:
        what = f"a question needs one of {', '.join(_QUESTIONS)} and one of {', '.join(_ANSWERS)}"
        raise DataError(f"{file}: entry {number}: {what}")
    return _row(f"question {number}", question, answer)


def _row(name: str, question: str, answer: str) -> Row:
    return Row(name, (Message("user", question), Message("assistant", answer)))


def _instruction(record: Any, number: int, file: str | None) -> Instruction:
    fields = record if isinstance(record, dict) else {}
    names, told = fields.get("instruction_id_list"), fields.get("kwargs")
    if (
        not isinstance(fields.get("prompt"), str)
        or not isinstance(names, list)
        or not isinstance(told, list)
        or len(names) != len(told)
    ):
        raise DataError(
            f"{file}: entry {number}: an instruction needs prompt, instruction_id_list and as many"
            " kwargs"
        )
    return Instruction(
        str(fields.get("key", number)), fields["prompt"], tuple(zip(names, told, strict=True))
    )
