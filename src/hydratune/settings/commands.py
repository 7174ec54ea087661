"""The complete settings of each command."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from omegaconf import MISSING, DictConfig

from hydratune.bounds import load_yaml
from hydratune.settings.adapter import AdapterConfig
from hydratune.settings.data import DataConfig
from hydratune.settings.evaluation import EvaluationConfig
from hydratune.settings.model import ModelConfig
from hydratune.settings.optimizer import OptimizerConfig
from hydratune.settings.registry import register, typed
from hydratune.settings.tracking import TrackingConfig
from hydratune.settings.trainer import TrainerConfig


class Resume(StrEnum):
    """What to do where the run directory holds a run."""

    # go on from its last checkpoint; refuse if settings, data, base model, code or versions
    # changed since
    auto = "auto"
    force = "force"  # go on although data, base model, code or versions changed
    never = "never"  # begin anew; what was there is moved to previous/
    # train a finished run further, to a larger trainer.max_epochs or max_steps; what it was is
    # moved to finished/
    extend = "extend"


@dataclass
class TrainConfig:
    """One experiment."""

    name: str | None = None  # folder under outputs/; null: the name of the data set
    seed: int = 0
    preview: int = 0  # show these many rows with the trained tokens coloured, then stop
    resume: Resume = Resume.auto
    model: ModelConfig = MISSING
    data: DataConfig = MISSING
    adapter: AdapterConfig = MISSING
    optimizer: OptimizerConfig = MISSING
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


@dataclass
class AskingConfig:
    """A judge: who is asked, and at what cost.

    A server's key is never a setting: ``key_env`` names where it is.
    """

    base_url: str = "https://api.openai.com/v1"  # any server that speaks its chat completions
    judge: str | None = None  # name of the model there
    # name of the environment variable with the key; null: the server wants none
    key_env: str | None = "OPENAI_API_KEY"
    # instead of a server: folder or hub id of a chat model, or base: that of the run
    local: str | None = None
    max_tokens: int = 400  # of a judgement
    attempts: int = 2  # requests for one judgement until it can be read
    concurrency: int = 4  # requests at a time
    # seconds for a request; one that takes longer is given up, and not asked again
    timeout: float = 60.0
    # seconds for all requests together; what was answered until then counts and is kept; null:
    # no limit
    time_limit: float | None = 3600.0
    retries: int = 4  # after 429, 5xx and lost connections, with growing pauses
    price_in: float = 0.0  # of a million tokens, in any money
    price_out: float = 0.0
    budget: float | None = None  # most to spend, in that money; null: no limit
    batch_size: int = 4  # rows that a local judge answers together


@dataclass
class FactsConfig(AskingConfig):
    """Training answers read by a judge: does the request support what they say?

    Off unless ``judge`` or ``local`` is given.
    """

    rows: int | None = 200  # of the training rows, drawn by their hashes; null: all


@dataclass
class PrepareConfig(TrainConfig):
    """Look at a data set, and write it down ready for training.

    Takes every setting of train, so that both see the same rows.
    """

    output: str | None = None  # folder; null: outputs/prepared/<name>
    facts: FactsConfig = field(default_factory=FactsConfig)


@dataclass
class DecideConfig(TrainConfig):
    """Ask the base with several prompts, with retrieval, and a fine-tuned run.

    Takes a run, or the settings of train.
    """

    run: str | None = None  # directory of a finished run
    # folder or file with texts to look things up in; null: the training rows
    knowledge: str | None = None
    passages: int = 3  # shown in the prompt
    passage_words: int = 120
    # which decides; null: label_accuracy, field_f1 or rougeL, by the task
    metric: str | None = None
    # also answers held to the JSON schema, which take no part in the decision
    constrained: bool = False
    margin: float = 0.02  # a smaller difference of the metric is no reason for anything
    rows: int | None = None  # of the test set; null: all
    output: str | None = None  # folder; null: outputs/decide/<name>


class EvaluationSource(StrEnum):
    """What ``hydratune evaluate`` starts from."""

    adapter = "adapter"  # generates again
    predictions = "predictions"  # scores the stored predictions; loads no model


@dataclass
class EvaluateConfig:
    """Measure a finished run again."""

    run: str = MISSING  # its directory
    source: EvaluationSource = EvaluationSource.adapter
    batch_size: int | None = None  # rows generated together; null: the run's own
    accelerator: str | None = None  # auto, cpu or gpu; null: the run's own
    constrained: bool = False  # answers held to the JSON schema instead, beside those of the run
    # file or folder of running texts: their likelihood instead, of the base and of the
    # fine-tuned model
    texts: str | None = None
    window: int | None = None  # tokens the model sees of a text at once; null: as many as it reads
    # tokens predicted in a window, the others are context; null: the whole window
    stride: int | None = None
    # tasks of lm-eval instead, of the base and of the fine-tuned model
    lm_eval: list[str] | None = None
    lm_eval_path: str | None = None  # folder with task files of one's own
    lm_eval_limit: int | None = None  # rows of each task; null: all


@dataclass
class JudgeConfig(AskingConfig):
    """A model reads the answers of a run."""

    run: str = MISSING  # directory of a finished run
    system: str = "eval"  # whose answers: eval (fine-tuned), base or fewshot
    # pairs with the answers of another run (its directory), or of a system of this one
    against: str | None = None
    rows: int | None = None  # of the test set; null: all
    rubric: dict[int, str] = field(default_factory=dict)
    criteria: str = ""
    references: bool = True  # show the right answer to the judge
    # JSONL of people's labels: id and score, or winner (ours, theirs, tie)
    labels: str | None = None
    confidence: float = 0.95
    bootstrap_samples: int = 2000
    seed: int = 0
    output: str | None = None  # folder; null: judge/ in the run's


COMMANDS: dict[str, type] = {
    "prepare": PrepareConfig,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "decide": DecideConfig,
    "judge": JudgeConfig,
}


def load(path: Path) -> TrainConfig:
    """The configuration of a run directory's ``config.yaml``.

    Loading it never imports or runs anything it names.
    """
    config = load_yaml(path)
    assert isinstance(config, DictConfig)
    return typed(config, TrainConfig)


def register_commands() -> None:
    """Make the settings of all commands and groups available to Hydra's defaults lists."""
    register(COMMANDS)
