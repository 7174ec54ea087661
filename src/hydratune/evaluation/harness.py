"""Tasks of lm-eval (the extra ``lm_eval``), asked of a model that is already loaded."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydratune.errors import ConfigError, Problem, RunError
from hydratune.models.compute import as_trained, deterministic_if_possible


def check(tasks: Sequence[str], folder: str | None) -> None:
    """Before any model is loaded. Raises ``ConfigError``."""
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError(
            [
                Problem(
                    "lm_eval",
                    list(tasks),
                    "lm-eval is not installed",
                    "pip install 'hydratune[lm_eval]'",
                )
            ]
        )
    if folder is not None and not Path(folder).expanduser().is_dir():
        raise ConfigError(
            [
                Problem(
                    "lm_eval_path",
                    folder,
                    "no such folder",
                    "give the folder of your task files (*.yaml), or null",
                )
            ]
        )
    known = _manager(folder).all_tasks
    unknown = [task for task in tasks if task not in known]
    if unknown:
        where = f"lm-eval's own {'and those in ' + folder if folder else 'tasks'}"
        raise ConfigError(
            [Problem("lm_eval", unknown[0], f"no such task among {where}", "see: lm-eval ls tasks")]
        )


def _manager(folder: str | None) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(Path(folder).expanduser()) if folder else None)


def ask(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[str],
    folder: str | None,
    *,
    window: int,
    limit: int | None,
    batch_size: int,
) -> dict[str, dict[str, float]]:
    """Task -> metric -> value, standard errors as ``NAME_stderr``.

    Raises ``RunError`` where a task's data cannot be had.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    device, options = (
        str(next(model.parameters()).device),
        {"limit": limit, "log_samples": False, "bootstrap_iters": 1000},
    )
    asked = HFLM(
        pretrained=model.eval(),
        tokenizer=tokenizer,
        backend="causal",
        max_length=window,
        batch_size=batch_size,
        device=device,
    )
    try:
        with as_trained(model):
            found = deterministic_if_possible(
                lambda: simple_evaluate(
                    asked, tasks=list(tasks), task_manager=_manager(folder), **options
                )
            )
    except (OSError, ValueError, KeyError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise RunError(
            f"lm-eval could not run {', '.join(tasks)}: {first}; tasks on local files need"
            " data_files in their YAML"
        ) from error
    return {task: _numbers(values) for task, values in found["results"].items()}


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """``word_perplexity,none`` as ``word_perplexity``; a filter other than none stays in the name."""  # noqa: E501
    numbers: dict[str, float] = {}
    for key, value in values.items():
        name, _, chosen = key.partition(",")
        if isinstance(value, int | float) and chosen:
            numbers[name if chosen == "none" else f"{name}_{chosen}"] = float(value)
    return numbers
