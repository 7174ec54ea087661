"""hydratune evaluate: measure a finished run again, from its adapter or from its stored predictions."""

import math
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.table import Table
from yaml import YAMLError

from hydratune import config as configuration
from hydratune.checks import configuration_problems
from hydratune.config import AdamWOptimizer, EvaluateConfig, EvaluationSource, Task, TrainConfig
from hydratune.console import console
from hydratune.errors import RunError
from hydratune.evaluation import assess, metrics
from hydratune.evaluation.families import names
from hydratune.records import RunDirectory, read_json, read_jsonl, write_json, write_jsonl

_NEEDED = ("id", "prediction", "reference", "nll", "answer_tokens", "finish_reason", "generated_tokens")
TOLERANCE = 1e-4  # of any metric; the arithmetic of another machine or thread count differs in the last digits


def run(config: EvaluateConfig, _: RunDirectory) -> None:
    """Writes evaluation.json into the run's directory. Raises ``RunError`` if the metrics are not reproduced."""
    record = RunDirectory(Path(config.run).resolve())
    recorded = read_json(record.metrics_file)
    if not isinstance(recorded, dict) or "eval" not in recorded.get("settings", {}):
        raise RunError(f"{record.metrics_file} holds no metrics of a finished run; train it again")
    trained = settings_of(record)
    schema = read_json(record.schema_file) if record.schema_file.is_file() else None
    task = Task(recorded["settings"]["eval"]["task"])
    if config.source is EvaluationSource.predictions:
        stored = read_jsonl(record.predictions_file())
        for number, row in enumerate(stored, 1):
            missing = [key for key in _NEEDED if key not in row]
            if missing:
                raise RunError(f"{record.predictions_file()}:{number}: no {', '.join(missing)} in this row; the file was changed")
        predictions = assess.rescore(stored, names(trained.evaluation.metrics, task), schema)
    else:
        predictions = _ask_again(trained, record, config, recorded)
    values, intervals = metrics.flat("eval", metrics.metrics(predictions, trained.evaluation, has_schema=schema is not None))
    content = {**values, "intervals": intervals, "source": config.source.value, "settings": recorded["settings"]["eval"]}
    write_json(record.path / "evaluation.json", content)
    if config.source is EvaluationSource.adapter:
        write_jsonl(record.path / "evaluation_predictions.jsonl", predictions)
    console.print(_table(recorded, values))
    different = [k for k, v in values.items() if not math.isclose(v, recorded.get(k, math.nan), rel_tol=TOLERANCE, abs_tol=TOLERANCE)]
    if different:
        raise RunError(
            f"{len(different)} of {len(values)} metrics differ from metrics.json by more than {TOLERANCE}: {', '.join(different[:6])}\n"
            f"  the new values are in {record.path}/evaluation.json; compare the versions and hardware in environment.json"
        )
    console.print(
        f"[green]all {len(values)} metrics of metrics.json are reproduced[/] (tolerance {TOLERANCE}), from the {config.source.value}"
    )


def settings_of(record: RunDirectory) -> TrainConfig:
    """Those a run was made with. Raises ``RunError`` if they cannot be read."""
    try:
        return configuration.load(record.config_file)
    except (OmegaConfBaseException, YAMLError, KeyError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(f"{record.config_file} is not the settings of a run ({reason}); it was changed or cut") from error


def refuse_missing_files(trained: TrainConfig, record: RunDirectory) -> None:
    """The files a run names are relative to where it was started."""
    problems = configuration_problems(trained)
    if problems:
        origin = record.path / ".hydra" / "hydra.yaml"
        started = OmegaConf.load(origin).hydra.runtime.cwd if origin.is_file() else "another folder"
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise RunError(f"the run cannot be repeated here; it was started in {started}\n{listed}")


def _ask_again(trained: TrainConfig, record: RunDirectory, config: EvaluateConfig, recorded: dict[str, Any]) -> list[dict[str, Any]]:
    """Loads base and adapter from disk and generates every answer again."""
    from hydratune.commands.train import prepare
    from hydratune.models import adapters, hardware

    if not list(record.adapter.glob("*.safetensors")):
        raise RunError(f"{record.adapter} holds no weights (*.safetensors); this run has no adapter to evaluate")
    if config.batch_size is not None:
        trained.evaluation.batch_size = config.batch_size
    trained.evaluation.max_new_tokens = recorded["settings"]["eval"]["max_new_tokens"] or None  # 0: documents
    if config.accelerator is not None:
        trained.trainer.accelerator = config.accelerator
        trained.trainer.devices, trained.trainer.strategy = 1, "auto"
    trained.optimizer = AdamWOptimizer()  # nothing is trained here, so what the run's own wants of the machine does not count
    refuse_missing_files(trained, record)
    job = prepare(trained)
    stored = read_json(record.path / "environment.json")
    if stored["base"] != job.source.identity:
        raise RunError(f"the base model has changed since this run: {stored['base']} then, {job.source.identity} now")
    if stored["data_fingerprint"] != job.data_facts["fingerprint"]:
        raise RunError("the data has changed since this run: its fingerprint differs; from its predictions the run can still be scored:\n"
                       f"  hydratune evaluate run={config.run} source=predictions")  # fmt: skip
    dtype = hardware.weights_dtype(trained, job.precision)
    model = adapters.load_tuned(trained.model, trained.adapter, job.source, record.adapter, dtype)
    if job.accelerator == "gpu":
        model = model.to("cuda")
    return job.bench.ask(model, job.bench.zero_shot(), title="fine-tuned", pad=job.tokenizer.pad_token_id)


def _table(recorded: dict[str, Any], values: dict[str, float]) -> Table:
    table = Table(header_style="bold")
    table.add_column("metric")
    for column in ("recorded", "now", "difference"):
        table.add_column(column, justify="right")
    for key, value in values.items():
        if key.count("/") == 1:
            before = recorded.get(key, math.nan)
            table.add_row(key, f"{before:.6g}", f"{value:.6g}", f"{abs(value - before):.1e}")
    return table
