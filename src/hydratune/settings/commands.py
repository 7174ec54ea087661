"""The complete settings of each command, and the rules between their groups."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path

from omegaconf import MISSING, DictConfig

from hydratune.bounds import load_yaml
from hydratune.errors import Problem, refuse
from hydratune.settings import monitor
from hydratune.settings.adapter import AdapterConfig, AdapterContext
from hydratune.settings.answering import ChattingConfig, GeneratingConfig
from hydratune.settings.data import DataConfig
from hydratune.settings.evaluation import EvaluationConfig
from hydratune.settings.export import ExportSettings, ServeSettings
from hydratune.settings.judge import AskingConfig, FactsConfig
from hydratune.settings.model import ModelConfig, Quantization
from hydratune.settings.not_given import no_run
from hydratune.settings.optimizer import OptimizerConfig, OptimizerContext
from hydratune.settings.paths import CONFIG_FILE, path_setting
from hydratune.settings.ranges import at_least, one_of
from hydratune.settings.registry import plain, typed
from hydratune.settings.secrets import secret_problems
from hydratune.settings.tracking import TrackingConfig
from hydratune.settings.trainer import ACCELERATORS, TrainerConfig

SYSTEMS = ("eval", "base", "fewshot")  # whose answers a run has


class Resume(StrEnum):
    """What to do where the run directory holds a run."""

    # resume from its last checkpoint; refuse if settings, data, base model, code or versions have
    # changed
    auto = "auto"
    force = "force"  # resume although data, base model, code or versions have changed
    never = "never"  # start again; the earlier run is moved to previous/
    # train a finished run further, to a larger trainer.max_epochs or max_steps; its finished state
    # is moved to finished/
    extend = "extend"


@dataclass
class CommandConfig:
    """The settings of a command."""

    def problems(self) -> Iterator[Problem]:
        """Yield every problem of the settings, in the order of their groups.

        What only the machine or the model can tell is checked later, with the same ``Problem``.
        """
        yield from ()

    def idle(self) -> Mapping[str, str]:
        """Return the settings that change nothing beside the others, and why."""
        return {}

    def check(self) -> None:
        """Raise ``ConfigError`` with every problem of the settings, if there are any."""
        refuse(self.problems())


@dataclass
class TrainConfig(CommandConfig):
    """Settings of one experiment."""

    name: str | None = None  # folder under outputs/; null: the name of the data set
    seed: int = 0  # of weights, order and dropout
    preview: int = 0  # show this many rows with the trained tokens coloured, then stop; 0: train
    resume: Resume = Resume.auto  # what to do where the run directory holds a run
    model: ModelConfig = MISSING
    data: DataConfig = MISSING
    adapter: AdapterConfig = MISSING
    optimizer: OptimizerConfig = MISSING
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def problems(self) -> Iterator[Problem]:
        if not 0 <= self.seed < 2**32:
            yield Problem("seed", self.seed, "must be in [0, 4294967295]", "for example seed=0")
        yield from at_least("preview", self.preview, 0)
        yield from self.model.problems()
        yield from self._model_and_others()
        yield from self.data.problems()
        yield from self.adapter.problems(self._adapter_context())
        yield from self.optimizer.problems(self._optimizer_context())
        yield from self.trainer.problems()
        yield from self.evaluation.problems()
        yield from self._monitor_and_metrics()
        yield from self.tracking.problems()
        yield from secret_problems("", asdict(self))

    def _adapter_context(self) -> AdapterContext:
        model, trainer = self.model, self.trainer
        return AdapterContext(model.quantization, model.context_window, trainer.neftune_alpha)

    def _optimizer_context(self) -> OptimizerContext:
        return OptimizerContext(self.adapter.trains_base, self.trainer.accelerator)

    def _monitor_and_metrics(self) -> Iterator[Problem]:
        """Yield a problem if no family of metrics that may be measured has the monitored one."""
        metric = monitor.split_direction(self.trainer.monitor)[0]
        needed, possible = monitor.measuring_families(metric), self.evaluation.possible_families()
        if metric == monitor.LOSS or list(monitor.problems(self.trainer.monitor)):
            return
        if needed and not set(needed) & set(possible):
            why = f"evaluation.metrics has {', '.join(possible)}, which do not measure it"
            if self.evaluation.metrics is None:
                why = f"without evaluation.metrics, {', '.join(possible)} are measured at most"
            given = self.evaluation.metrics or []
            fix = f"add evaluation.metrics=[{','.join([*given, needed[0]])}]"
            if self.evaluation.metrics is not None:
                fix = f"set evaluation.metrics=[{','.join([*given, needed[0]])}]"
            yield Problem("trainer.monitor", self.trainer.monitor, why, fix)

    def _model_and_others(self) -> Iterator[Problem]:
        """Yield what does not fit the base model: lengths of rows, and what is trained."""
        model, window = self.model, self.model.context_window
        if window is not None and self.data.max_length > window:
            why = f"{model.name} reads at most {window} tokens"
            fix = f"set data.max_length={window} or less, or choose another model"
            yield Problem("data.max_length", self.data.max_length, why, fix)
        if model.quantization is not Quantization.none and self.adapter.trains_base:
            why = "the weights of a quantised base cannot be trained: they are frozen codes"
            fix = "set adapter=lora (QLoRA), or model.quantization=none"
            yield Problem("model.quantization", model.quantization.value, why, fix)
        if self.trainer.precision == "bf16-true" and not self.adapter.trains_base:
            why = (
                "the adapter's weights would be bf16, in which most updates of AdamW round to"
                " nothing"
            )
            fix = (
                "set trainer.precision=bf16-mixed: the base is bf16 as well, and the adapter stays"
                " in fp32"
            )
            yield Problem("trainer.precision", "bf16-true", why, fix)


@dataclass
class PrepareConfig(TrainConfig):
    """Settings of inspecting a data set and writing it ready for training.

    Every setting of train belongs to them, so that both commands see the same rows.
    """

    output: str | None = path_setting(None)  # folder; null: outputs/prepared/<name>
    facts: FactsConfig = field(default_factory=FactsConfig)

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from self.facts.asking_problems("facts.")
        yield from at_least("facts.rows", self.facts.rows, 1)


@dataclass
class DecideConfig(TrainConfig):
    """Settings of comparing prompts, retrieval and fine-tuning.

    Either a run is given, or the settings of train.
    """

    run: str | None = path_setting(None)  # directory of a finished run
    # folder or file with texts that are searched for each request; null: the training rows
    knowledge: str | None = path_setting(None)
    passages: int = 3  # passages in the prompt
    passage_words: int = 120  # words of a passage
    # the metric that decides; null: label_accuracy, field_f1 or rougeL, by the task
    metric: str | None = None
    # also generate answers under the constraint of the JSON schema; they do not count in the
    # decision
    constrained: bool = False
    margin: float = 0.02  # smaller differences of the metric do not count
    rows: int | None = None  # of the test set; null: all
    output: str | None = path_setting(None)  # folder; null: outputs/decide/<name>-<run or model>

    def problems(self) -> Iterator[Problem]:
        if self.run is not None:
            yield from _run_problems(self.run, ", or leave it out")
        yield from at_least("passages", self.passages, 1)
        yield from at_least("passage_words", self.passage_words, 10)
        yield from at_least("rows", self.rows, 1)
        if not 0 <= self.margin < 1:
            yield Problem("margin", self.margin, "must be in [0, 1)", "usual: 0.02")
        if self.run is None:
            yield from super().problems()


class IntendedUse(StrEnum):
    """What a fine-tuned model is meant for, against which the licence of its base is read."""

    unstated = "unstated"  # the licence is shown and not judged
    commercial = "commercial"  # in a product or a business
    research = "research"  # without a commercial purpose


@dataclass
class PlanConfig(TrainConfig):
    """Settings of planning a run: what it needs and costs.

    Every setting of train belongs to them.
    """

    # what the fine-tuned model is meant for; the licence of the base is read against it
    intended_use: IntendedUse = IntendedUse.unstated
    # money for an hour of the device on which training is timed, in your currency
    price_per_hour: float | None = None
    # tokens of rows that training does in a second, if you know it; null: measured (probe) or
    # estimated
    tokens_per_second: float | None = None
    probe: bool = False  # train three steps in another process, and measure seconds and memory
    # an accelerator of the catalogue, such as "RTX 4090", for which seconds are estimated; null:
    # this machine
    device: str | None = None
    utilisation: float = 0.4  # share of the device's arithmetic that an estimate assumes
    output: str | None = path_setting(None)  # folder; null: outputs/plan/<name>-<model>-<hash>
    html: bool = True  # write report.html, with a picture of the memory by part
    json: bool = False  # print plan.json instead of tables

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        for name in ("price_per_hour", "tokens_per_second"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                yield Problem(name, value, "must be above 0", f"for example {name}=2.5")
        if not 0 < self.utilisation <= 1:
            fix = "usual: utilisation=0.4"
            yield Problem("utilisation", self.utilisation, "must be in (0, 1]", fix)
        if self.probe and self.tokens_per_second is not None:
            why = "tokens_per_second says already how fast training is"
            yield Problem("probe", True, why, "leave one of the two out")


class EvaluationSource(StrEnum):
    """What ``hydratune evaluate`` starts from."""

    adapter = "adapter"  # generate the answers again
    predictions = "predictions"  # score the stored predictions; no model is loaded


@dataclass
class EvaluateConfig(CommandConfig):
    """Settings of measuring a finished run again."""

    run: str = path_setting()  # its directory
    source: EvaluationSource = EvaluationSource.adapter
    batch_size: int | None = None  # rows generated together; null: the run's own
    accelerator: str | None = None  # auto, cpu or gpu; null: the run's own
    constrained: bool = False  # generate under the constraint of the JSON schema, beside the run's
    # file or folder of running texts whose likelihood is measured instead, under the base and the
    # fine-tuned model
    texts: str | None = path_setting(None)
    window: int | None = None  # tokens of a text that the model reads at once; null: all it can
    # tokens predicted in a window, the others are context; null: the whole window
    stride: int | None = None
    # tasks of lm-eval that are measured instead, for the base and the fine-tuned model
    lm_eval: list[str] | None = None
    lm_eval_path: str | None = path_setting(None)  # folder with your own task files
    lm_eval_limit: int | None = None  # rows of each task; null: all

    def problems(self) -> Iterator[Problem]:
        yield from _run_problems(self.run)
        if self.constrained and (self.texts is not None or self.lm_eval is not None):
            why = "texts and tasks have no JSON schema that could constrain the answers"
            yield Problem("constrained", True, why, "leave one of the two out")
        yield from at_least("batch_size", self.batch_size, 1)
        if self.accelerator is not None:
            yield from one_of("accelerator", self.accelerator, ACCELERATORS, " or null")


@dataclass
class JudgeConfig(AskingConfig, CommandConfig):
    """Settings of having a model judge the answers of a run."""

    run: str = path_setting()  # directory of a finished run
    system: str = "eval"  # whose answers: eval (fine-tuned), base or fewshot
    # compare with the answers of another run (its directory), or of a system of this one; null:
    # score by the rubric
    against: str | None = path_setting(None)
    rows: int | None = None  # of the test set; null: all
    rubric: dict[int, str] = field(default_factory=dict)  # score -> what it means
    criteria: str = ""  # what matters in a comparison
    references: bool = True  # show the reference answer to the judge
    # JSONL of people's labels: id and score, or winner (ours, theirs, tie)
    labels: str | None = path_setting(None)
    confidence: float = 0.95  # of intervals
    bootstrap_samples: int = 2000  # resamples for intervals
    seed: int = 0  # of the resamples, and of the order in which answers are shown
    output: str | None = path_setting(None)  # folder; null: judge/ in the run's

    def problems(self) -> Iterator[Problem]:
        yield from _run_problems(self.run)
        if self.system not in SYSTEMS:
            fix = f"one of: {', '.join(SYSTEMS)}"
            yield Problem("system", self.system, "no such system", fix)
        if self.local is None and not self.judge:
            fix = "set judge=NAME and base_url=URL of a server, or local=DIR, or local=base"
            yield Problem("judge", None, "there is no judge to be asked", fix)
        if set(self.rubric) != {1, 2, 3, 4, 5}:
            why = "a text for each of the scores 1 to 5 is needed"
            yield Problem("rubric", sorted(self.rubric), why, "see hydratune judge --cfg job")
        yield from self.asking_problems("")
        yield from at_least("rows", self.rows, 1)
        yield from at_least("bootstrap_samples", self.bootstrap_samples, 100)
        yield from secret_problems("", plain(self))


@dataclass
class ExportConfig(ExportSettings, CommandConfig):
    """Settings of writing a fine-tuned model for other programs."""

    def problems(self) -> Iterator[Problem]:
        yield from _run_problems(self.run)
        yield from self.own_problems()
        yield from secret_problems("", plain(self))

    def idle(self) -> Mapping[str, str]:
        return self.without_effect()


@dataclass
class GenerateConfig(GeneratingConfig, CommandConfig):
    """Settings of answering the rows of a file with the model of a run."""

    def problems(self) -> Iterator[Problem]:
        yield from _run_problems(self.run)
        yield from self.generating_problems()
        yield from secret_problems("", plain(self))

    def idle(self) -> Mapping[str, str]:
        return self.without_effect()


@dataclass
class ServeConfig(ServeSettings, CommandConfig):
    """Settings of answering requests with a fine-tuned model."""

    def problems(self) -> Iterator[Problem]:
        if self.run is not None:
            yield from _run_problems(self.run)
        yield from self.own_problems()
        yield from secret_problems("", plain(self))


@dataclass
class ChatConfig(ChattingConfig, CommandConfig):
    """Settings of a conversation with the model of a run in the terminal."""

    def problems(self) -> Iterator[Problem]:
        yield from _run_problems(self.run)
        yield from self.chatting_problems()
        yield from secret_problems("", plain(self))

    def idle(self) -> Mapping[str, str]:
        return self.without_effect()


def _run_problems(run: str, alternative: str = "") -> Iterator[Problem]:
    """Yield a problem if ``run`` is no run directory."""
    if not (Path(run) / CONFIG_FILE).is_file():
        why, fix = no_run(Path(run))
        yield Problem("run", run, why, f"{fix}{alternative}")


# settings of older runs that changed nothing in the weights
_NO_LONGER_SETTINGS = ("evaluation.every_steps", "evaluation.sample")

COMMANDS: dict[str, type[CommandConfig]] = {
    "prepare": PrepareConfig,
    "plan": PlanConfig,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "decide": DecideConfig,
    "judge": JudgeConfig,
    "export": ExportConfig,
    "serve": ServeConfig,
    "generate": GenerateConfig,
    "chat": ChatConfig,
}


def load(path: Path) -> TrainConfig:
    """Return the settings in a run directory's ``config.yaml``.

    Loading the file never imports or runs anything that it names.
    """
    config = load_yaml(path)
    assert isinstance(config, DictConfig)
    for key in _NO_LONGER_SETTINGS:
        group, _, name = key.partition(".")
        if isinstance(config.get(group), DictConfig):
            config[group].pop(name, None)
    return typed(config, TrainConfig)
