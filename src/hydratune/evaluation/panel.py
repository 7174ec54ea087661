"""What a model could do before it was fine-tuned: a fixed panel of items.

Its parts are texts, questions, instructions and neutral prompts. A small panel, made for this
project, comes with the package; a user's own files take the place of its parts.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hydratune import extras
from hydratune.data.rows import Message, Row, stable_hash
from hydratune.errors import ConfigError, DataError, Problem, refuse
from hydratune.evaluation.instructions import known, needs_languages
from hydratune.evaluation.retrieval import documents, pieces
from hydratune.records.files import Json, read_jsonl
from hydratune.settings.evaluation import ForgettingConfig

_BUILT_IN = Path(__file__).with_name("panel.jsonl")
_WORDS = 300  # of a piece of a user's text
_QUESTIONS = ("question", "prompt", "turns", "instruction")
_ANSWERS = ("answer", "reference", "response", "output", "completion")

T = TypeVar("T")
JsonLine = dict[str, Json]  # a line of a JSONL file


@dataclass(frozen=True)
class Instruction:
    """A prompt whose answer can be checked.

    ``rules`` are names of rules (see instructions.py), each with its options.
    """

    id: str
    prompt: str
    rules: tuple[tuple[str, Mapping[str, Json]], ...]


@dataclass(frozen=True)
class Panel:
    """The parts of the panel; an empty one is not measured."""

    texts: tuple[tuple[str, str], ...]  # (name, text)
    questions: tuple[Row, ...]  # with reference answers
    neutral: tuple[Row, ...]  # prompts without an answer
    instructions: tuple[Instruction, ...]

    @property
    def fingerprint(self) -> str:
        """A hash of all items."""
        return stable_hash(
            [
                self.texts,
                [r.content_hash for r in (*self.questions, *self.neutral)],
                [(i.prompt, i.rules) for i in self.instructions],
            ]
        )


def load(config: ForgettingConfig) -> Panel:
    """Return the panel that ``config`` means, with at most ``config.items`` of each part.

    Raises ``ConfigError`` and ``DataError``.
    """
    built_in = read_jsonl(_BUILT_IN)

    def of(part: str) -> list[JsonLine]:
        return [record for record in built_in if record["part"] == part]

    texts = [(f"text {number}", record["text"]) for number, record in enumerate(of("text"), 1)]
    if config.texts is not None:
        named = documents(Path(config.texts), "evaluation.forgetting.texts")
        texts = [(name, piece) for name, text in named for piece in pieces(text, _WORDS)]
    questions = [*of("maths"), *of("chat")]
    if config.questions is not None:
        questions = _read(config.questions, "questions")
    instructions = of("instruction")
    if config.instructions is not None:
        instructions = _read(config.instructions, "instructions")
    most = config.items
    instructions = _spread(instructions, most) if config.answers else []
    return Panel(
        tuple(_spread(texts, most)),
        tuple(_question(r, n, config.questions) for n, r in enumerate(_spread(questions, most), 1)),
        tuple(_row(f"neutral {n}", r["question"]) for n, r in enumerate(of("neutral")[:most], 1)),
        tuple(_instruction(r, n, config.instructions) for n, r in enumerate(instructions, 1)),
    )


def check(config: ForgettingConfig) -> None:
    """Check the panel before anything is computed. Raises ``ConfigError`` and ``DataError``."""
    if config.measure:
        instructions = load(config).instructions
        for instruction in instructions:
            known(instruction.rules)
        if any(needs_languages(instruction.rules) for instruction in instructions):
            key = "evaluation.forgetting.measure"
            refuse(extras.missing("py3langid", key, True))


def _spread(items: list[T], most: int) -> list[T]:
    """Return at most ``most`` items, evenly from the whole list: files are often sorted by kind."""
    return items if len(items) <= most else [items[i * len(items) // most] for i in range(most)]


def _read(file: str, part: str) -> list[JsonLine]:
    path = Path(file)
    if not path.is_file():
        fix = "give a JSONL file, or null for the built-in panel"
        key = f"evaluation.forgetting.{part}"
        raise ConfigError([Problem(key, file, "no such file", fix)])
    return read_jsonl(path)


def _first(record: JsonLine, names: Iterable[str]) -> str | None:
    """Return the first text among the fields ``names``, or the first of a list of texts."""
    value = next((record[name] for name in names if record.get(name)), None)
    value = value[0] if isinstance(value, list) and value else value
    return value if isinstance(value, str) else None


def _question(record: object, number: int, file: str | None) -> Row:
    fields = record if isinstance(record, dict) else {}
    question, answer = _first(fields, _QUESTIONS), _first(fields, _ANSWERS)
    if question is None or answer is None:
        what = f"a question needs one of {', '.join(_QUESTIONS)} and one of {', '.join(_ANSWERS)}"
        raise DataError(f"{file}: entry {number}: {what}")
    return _row(f"question {number}", question, answer)


def _row(name: str, question: str, answer: str = "") -> Row:
    return Row(name, (Message("user", question), Message("assistant", answer)))


def _instruction(record: object, number: int, file: str | None) -> Instruction:
    fields = record if isinstance(record, dict) else {}
    prompt = fields.get("prompt")
    names, options = fields.get("instruction_id_list"), fields.get("kwargs")
    if (
        not isinstance(prompt, str)
        or not isinstance(names, list)
        or not isinstance(options, list)
        or len(names) != len(options)
    ):
        what = "an instruction needs prompt, instruction_id_list and as many kwargs"
        raise DataError(f"{file}: entry {number}: {what}")
    rules = tuple(zip(names, options, strict=True))
    return Instruction(str(fields.get("key", number)), prompt, rules)
