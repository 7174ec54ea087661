"""The results of the untouched base model on W&B: once for a sweep, as runs of their own.

This holds for sweeps of this program and for W&B's, whether a driver or ``wandb agent`` runs their
trials. A run that is no part of a sweep has the results in its own summary. Every job measures the
same base model, or takes its answers from the cache. Its results are stored in one run for each
system, of the job type "baseline" in the group of the sweep, under the names that the jobs have for
theirs (``eval/field_f1``), so that W&B draws them side by side.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from hydratune.data.rows import stable_hash
from hydratune.metric_table import SYSTEM_TITLES, split_system
from hydratune.records.files import write_text

if TYPE_CHECKING:
    from wandb.sdk.wandb_run import Run as WandbRun

JOB_TYPE = "baseline"  # of the runs with the results of the base model
TUNED = "eval"  # the system of the fine-tuned model
_RECORD = "baselines.json"  # in the client's folder of a sweep: the W&B ids by hash of the results
_TITLES = {"base": "zero-shot", "fewshot": "few-shot"}  # in names of runs


def split_baselines(
    metrics: Mapping[str, float],
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Return the metrics of the run itself, and those of each system that is a baseline.

    The latter are named as those of the fine-tuned model: ``base_clean/nll`` becomes
    ``eval_clean/nll`` of the system ``base``.
    """
    own: dict[str, float] = {}
    baselines: dict[str, dict[str, float]] = {}
    for key, value in metrics.items():
        system, name = split_system(key)
        whole, _, subset = (system or TUNED).partition("_")
        if whole not in _TITLES:
            own[key] = value
        else:
            tuned = "_".join(filter(None, (TUNED, subset)))
            baselines.setdefault(whole, {})[f"{tuned}/{name}"] = value
    return own, baselines


def name_of_baseline(model: str, system: str) -> str:
    """Return the name of the run with the results of a baseline."""
    return f"{model}, {_TITLES.get(system, SYSTEM_TITLES.get(system, system))}"


def store_once(
    folder: Path,
    baselines: Mapping[str, Mapping[str, float]],
    start: Callable[[str, str], "WandbRun"],
    is_stored: Callable[[str], bool] = lambda key: False,
) -> None:
    """Store the results of each system in a W&B run, unless a job of the sweep has done so.

    ``folder`` is the client's folder of the sweep. ``start`` starts the run of a system, whose
    results have the given hash. ``is_stored``: whether a process with another folder has stored the
    results with this hash. Jobs that differ in what is measured (another model, other test
    rows) have different results, which are all stored.
    """
    with FileLock(folder / f"{_RECORD}.lock"):
        stored = _read(folder / _RECORD)
        for system, values in baselines.items():
            key = stable_hash([system, dict(values)])
            if key in stored or is_stored(key):
                continue
            run = start(system, key)
            run.summary.update(dict(values))
            run.finish(exit_code=0)
            stored[key] = str(run.id)
            write_text(folder / _RECORD, json.dumps(stored))


def _read(file: Path) -> dict[str, str]:
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):  # there is none, or it was cut: the results are stored once more
        return {}
    return content if isinstance(content, dict) else {}
