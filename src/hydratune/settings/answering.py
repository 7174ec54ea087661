"""Settings of answering with the model of a finished run: ``hydratune generate`` and ``chat``."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydratune import extras
from hydratune.errors import Problem
from hydratune.settings.overrides import as_typed
from hydratune.settings.paths import path_setting
from hydratune.settings.ranges import at_least, between, one_of
from hydratune.settings.trainer import ACCELERATORS

OF_THE_RUN = "run"  # json_schema=run: the JSON schema of the run


@dataclass
class AnsweringConfig:
    """How a finished run's model answers.

    Without further settings it answers as in the evaluation of the run: greedily, after the system
    prompt of the training data.
    """

    run: str = path_setting()  # its directory
    base: bool = False  # ask the untouched base model instead of the fine-tuned one
    # system prompt of conversations that have none; null: that of the training data; "": none
    system: str | None = None
    # JSON schema that every answer must obey: a file, or run: that of the run; null: free answers
    json_schema: str | None = path_setting(None)
    max_new_tokens: int | None = None  # tokens of an answer, at most; null: as in the evaluation
    temperature: float = 0.0  # 0: always the most likely token
    top_p: float = 1.0  # tokens are drawn from the likeliest ones that have this probability
    seed: int = 0  # of the draws
    accelerator: str | None = None  # auto, cpu or gpu; null: the run's own

    def answering_problems(self) -> Iterator[Problem]:
        """Yield every problem of these settings."""
        yield from at_least("max_new_tokens", self.max_new_tokens, 1)
        yield from between("temperature", self.temperature, 0, 10)
        if not 0 < self.top_p <= 1:
            fix = "for example top_p=0.95; top_p=1 draws from all tokens"
            yield Problem("top_p", self.top_p, "must be above 0, and at most 1", fix)
        yield from at_least("seed", self.seed, 0)
        if self.accelerator is not None:
            yield from one_of("accelerator", self.accelerator, ACCELERATORS, " or null")
        if self.json_schema is None:
            return
        if self.json_schema != OF_THE_RUN and not Path(self.json_schema).is_file():
            fix = "give a JSON schema file, or json_schema=run for that of the run"
            yield Problem("json_schema", self.json_schema, "no such file", fix)
        yield from extras.missing("llguidance", "json_schema", self.json_schema)

    def without_effect(self) -> Mapping[str, str]:
        """Return the settings that change nothing beside the others, and why."""
        if self.temperature > 0:
            return {}
        why = "at temperature=0 every token is the most likely one; set temperature=0.7 as well"
        return {"top_p": why, "seed": why}


@dataclass
class GeneratingConfig(AnsweringConfig):
    """Which rows are answered, and where the answers go."""

    # rows to be answered: JSONL, JSON, CSV, TSV, Parquet or text; references are not required
    input: str = path_setting()
    output: str = path_setting()  # the file of the answers, JSON lines; continued if it is not done
    rows: int | None = None  # answer only the first rows; null: all
    # also score the answers by the references of the rows, as the evaluation of the run does
    metrics: bool = False
    batch_size: int | None = None  # rows generated together, at most; null: the run's own
    # e.g. {prompt: question}; empty: those of the run where the rows have them
    columns: dict[str, str] = field(default_factory=dict)
    # speaker -> role, e.g. {narrator: system}; empty: those of the run
    roles: dict[str, Any] = field(default_factory=dict)
    encoding: str = "utf-8"  # of text files
    # of the columns of CSV files: comma, semicolon, tab, pipe or another character; null: found in
    # the first rows
    delimiter: str | None = None

    def generating_problems(self) -> Iterator[Problem]:
        """Yield every problem of these settings."""
        yield from self.answering_problems()
        yield from at_least("rows", self.rows, 1)
        yield from at_least("batch_size", self.batch_size, 1)
        if self.input and not Path(self.input).is_file():
            yield Problem("input", self.input, *_no_input(Path(self.input)))
        yield from self._output_problems()

    def _output_problems(self) -> Iterator[Problem]:
        output = Path(self.output)
        if output.suffix != ".jsonl":
            name = output.with_suffix(".jsonl") if output.name else "answers.jsonl"
            fix = f"for example {as_typed('output', name)}"
            why = "answers are written as JSON lines, one per row"
            yield Problem("output", self.output, why, fix)
        elif output.is_dir():
            yield Problem(
                "output", self.output, "this is a folder", as_typed("output", output / "a.jsonl")
            )
        elif self.input and output.resolve() == Path(self.input).resolve():
            fix = as_typed("output", output.with_name("answers.jsonl"))
            yield Problem("output", self.output, "this is the file with the rows", fix)


def _no_input(path: Path) -> tuple[str, str]:
    """Return why a path is not a file that can be read, and what to give."""
    if path.is_dir():
        return "this is a folder, not a file", "give a file with rows, such as rows.jsonl"
    why = "this is a pipe or a device, not a file" if path.exists() else "no such file"
    here = "" if path.is_absolute() else f"; a relative path begins in {Path.cwd()}"
    return why, f"give a file with rows, such as rows.jsonl{here}"


@dataclass
class ChattingConfig(AnsweringConfig):
    """How a conversation in the terminal begins."""

    compare: bool = False  # also show the base model's answer beside the fine-tuned one
    load: str | None = path_setting(None)  # a saved conversation that is continued

    def chatting_problems(self) -> Iterator[Problem]:
        """Yield every problem of these settings."""
        yield from self.answering_problems()
        if self.compare and self.base:
            why = "base=true asks the base model alone"
            yield Problem("compare", True, why, "leave one of the two out")
        if self.load is not None and not Path(self.load).is_file():
            fix = "give the file of a conversation that /save wrote"
            yield Problem("load", self.load, "no such file", fix)
