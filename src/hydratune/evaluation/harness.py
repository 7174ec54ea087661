"""Tasks of lm-eval (the extra ``lm_eval``), asked of a model that is already loaded."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydratune import extras
from hydratune.errors import ConfigError, Problem, RunError, refuse
from hydratune.models.compute import as_trained, deterministic_if_possible
from hydratune.records.files import Json

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def check(tasks: Sequence[str], folder: str | None) -> None:
    """Check the tasks before any model is loaded. Raises ``ConfigError``."""
    refuse(extras.missing("lm_eval", "lm_eval", list(tasks)))
    if folder is not None and not Path(folder).is_dir():
        fix = "give the folder of your task files (*.yaml), or null"
        raise ConfigError([Problem("lm_eval_path", folder, "no such folder", fix)])
    available = _manager(folder).all_tasks
    unknown = [task for task in tasks if task not in available]
    if unknown:
        where = f"lm-eval's own {'and those in ' + folder if folder else 'tasks'}"
        why = f"no such task among {where}"
        raise ConfigError([Problem("lm_eval", unknown[0], why, "see: lm-eval ls tasks")])


def _manager(folder: str | None) -> "TaskManager":
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=folder)


def ask(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    tasks: Sequence[str],
    folder: str | None,
    *,
    window: int,
    limit: int | None,
    batch_size: int,
) -> dict[str, dict[str, float]]:
    """Return task -> metric -> value, with standard errors as ``NAME_stderr``.

    Raises ``RunError`` where the data of a task is missing.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    loaded = HFLM(
        pretrained=model.eval(),
        tokenizer=tokenizer,
        backend="causal",
        max_length=window,
        batch_size=batch_size,
        device=str(next(model.parameters()).device),
    )
    options = {"limit": limit, "log_samples": False, "bootstrap_iters": 1000}

    def evaluate() -> dict[str, Json]:
        manager = _manager(folder)
        return simple_evaluate(loaded, tasks=list(tasks), task_manager=manager, **options)

    try:
        with as_trained(model):
            results = deterministic_if_possible(evaluate)
    except (OSError, ValueError, KeyError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise RunError(
            f"lm-eval could not run {', '.join(tasks)}: {first}; tasks on local files need"
            " data_files in their YAML"
        ) from error
    return {task: _numbers(values) for task, values in results["results"].items()}


def _numbers(values: Mapping[str, object]) -> dict[str, float]:
    """Return ``word_perplexity,none`` as ``word_perplexity``.

    A filter other than none stays in the name.
    """
    numbers: dict[str, float] = {}
    for key, value in values.items():
        name, _, chosen = key.partition(",")
        if isinstance(value, int | float) and chosen:
            numbers[name if chosen == "none" else f"{name}_{chosen}"] = float(value)
    return numbers
