"""Settings of what is measured on the test rows."""

from dataclasses import dataclass, field
from enum import StrEnum

from hydratune.settings.registry import variant


class Task(StrEnum):
    """How an answer is scored. ``auto``: json if all references are JSON objects, else text."""

    auto = "auto"
    json = "json"
    text = "text"


class Baseline(StrEnum):
    """The untouched base model, asked before training."""

    base = "base"  # zero-shot: the training prompt as it is
    fewshot = "fewshot"  # with the schema and ``evaluation.shots`` training examples in the prompt


@dataclass
class ForgettingConfig:
    """A panel of what the model could do before, read by the untouched and by the fine-tuned model."""

    measure: bool = False
    # file or folder of running texts; null: the small panel that comes along, as below
    texts: str | None = None
    questions: str | None = None  # JSONL with questions and reference answers
    instructions: str | None = None  # JSONL in IFEval's form, whose answers are checked by rules
    answers: bool = True  # have the instructions answered, which takes most of the time
    answer_tokens: int = 96  # of such an answer
    items: int = 64  # of each part
    window: int = 1024  # tokens of a text read at once
    batch_size: int = 8
    # measure -> most that may be lost: bits_per_byte, nll, instructions, kl
    warn: dict[str, float] = field(default_factory=dict)
    # likewise; a run that loses more is never called the best
    fail: dict[str, float] = field(default_factory=dict)


@variant("evaluation", "evaluation")
@dataclass
class EvaluationConfig:
    """What is measured on the test rows before and after training."""

    task: Task = Task.auto
    # families: json, match, rouge, bleu, label, code, or of a package; null: those of the task
    metrics: list[str] | None = None
    run_code: bool = False  # allows the family "code" to execute what the model wrote
    baselines: list[Baseline] = field(default_factory=lambda: [Baseline.base, Baseline.fewshot])
    shots: int = 3  # examples in the few-shot prompt
    batch_size: int = 50  # rows generated together, at most
    # tokens of prompts and answers generated together, at most; null: as many as memory holds
    batch_tokens: int | None = None
    max_new_tokens: int | None = None  # null: the longest reference answer + 5 %
    max_rows: int | None = None  # of the test set; null: all
    confidence: float = 0.95
    bootstrap_samples: int = 2000
    # optimizer steps after which a sample of the validation rows is answered in training; null:
    # never
    every_steps: int | None = None
    sample: int = 8  # rows of that sample
    # training and held-out rows whose answers are to be continued from their middle; 0: none
    memorisation: int = 0
    # made-up rows with secrets put among the training rows, to see how well they are
    # remembered; 0: none
    canaries: int = 0
    forgetting: ForgettingConfig = field(default_factory=ForgettingConfig)
    # take an identical baseline from the cache instead of generating it again
    reuse_baselines: bool = True
