"""hydratune evaluate: measure a finished run again, from its adapter or its stored predictions; or
on other texts and tasks.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf.errors import OmegaConfBaseException
from rich.markup import escape
from rich.table import Table
from yaml import YAMLError

from hydratune import digests
from hydratune.bounds import load_yaml
from hydratune.console import console
from hydratune.errors import ConfigError, Problem, RunError
from hydratune.evaluation import assess, harness, metrics, table
from hydratune.evaluation import texts as running
from hydratune.evaluation.constrained import guide_for, library
from hydratune.evaluation.corpus import score_texts
from hydratune.evaluation.decision import CONSTRAINED, TITLES
from hydratune.evaluation.families import names
from hydratune.evaluation.measures import difference, groups_of
from hydratune.evaluation.retrieval import documents
from hydratune.experiment.frame import write_page
from hydratune.records.files import read_json, read_jsonl, write_json, write_jsonl
from hydratune.records.run_directory import RunDirectory
from hydratune.settings.checks import configuration_problems
from hydratune.settings.commands import EvaluateConfig, EvaluationSource, TrainConfig, load
from hydratune.settings.evaluation import Task
from hydratune.settings.optimizer import AdamWOptimizer

if TYPE_CHECKING:
    from hydratune.commands.train import Job

# likelihoods are those of the model
_SAME_WHEN_CONSTRAINED = (
    "nll",
    "perplexity",
    "bits_per_byte",
)
_NEEDED = (
    "id",
    "prediction",
    "reference",
    "nll",
    "answer_tokens",
    "finish_reason",
    "generated_tokens",
)
# of any metric; the arithmetic of another machine or thread count differs in the last digits
TOLERANCE = 1e-4


def run(config: EvaluateConfig, _: RunDirectory) -> None:
    """Writes evaluation.json into the run's directory.

    Raises ``RunError`` if the metrics are not reproduced.
    """
    record = RunDirectory(Path(config.run).resolve())
    recorded = read_json(record.metrics_file)
    if not isinstance(recorded, dict) or "eval" not in recorded.get("settings", {}):
        raise RunError(f"{record.metrics_file} holds no metrics of a finished run; train it again")
    trained = settings_of(record)
    if config.texts is not None or config.lm_eval is not None:
        _elsewhere(trained, record, config, recorded)
        return
    schema = read_json(record.schema_file) if record.schema_file.is_file() else None
    if config.constrained:
        _constrained(trained, record, config, recorded, schema)
        return
    task = Task(recorded["settings"]["eval"]["task"])
    if config.source is EvaluationSource.predictions:
        stored = read_jsonl(record.predictions_file())
        for number, row in enumerate(stored, 1):
            missing = [key for key in _NEEDED if key not in row]
            if missing:
                raise RunError(
                    f"{record.predictions_file()}:{number}: no {', '.join(missing)} in this row;"
                    " the file was changed"
                )
        predictions = assess.rescore(stored, names(trained.evaluation.metrics, task), schema)
    else:
        predictions = _ask_again(trained, record, config, recorded)
    values, intervals = metrics.flat_with_clean(
        "eval", predictions, trained.evaluation, has_schema=schema is not None
    )
    how = metrics.settings(
        trained.evaluation, task, recorded["settings"]["eval"]["max_new_tokens"], predictions
    )
    content = {**values, "intervals": intervals, "source": config.source.value, "settings": how}
    write_json(record.path / "evaluation.json", content)
    write_page(record)
    for why in digests.problems(record.path):  # the page is without them
        console.print(f"[yellow]{escape(why)}", soft_wrap=True)
    if config.source is EvaluationSource.adapter:
        write_jsonl(record.path / "evaluation_predictions.jsonl", predictions)
    console.print(_table(recorded, values))
    clean = table.without_leaks(values)
    if clean:
        console.print(f"[yellow]{clean}", soft_wrap=True)
    known = {
        k: v for k, v in values.items() if k in recorded or not k.endswith("/cut")
    }  # which older runs did not count
    different = [
        k
        for k, v in known.items()
        if not math.isclose(v, recorded.get(k, math.nan), rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    ]
    if different:
        before = recorded["settings"]["eval"]
        other = [
            f"\n  {key} was taken as {before[key]!r}, now {text!r}"
            for key, text in how.items()
            if before.get(key, text) != text
        ]
        raise RunError(
            f"{len(different)} of {len(values)} metrics differ from metrics.json by more than"
            f" {TOLERANCE}: {', '.join(different[:6])}{''.join(other)}\n  the new values are in"
            f" {record.path}/evaluation.json; compare the versions and hardware in environment.json"
        )
    console.print(
        f"[green]all {len(values)} metrics of metrics.json are reproduced[/] (tolerance"
        f" {TOLERANCE}), from the {config.source.value}"
    )


def settings_of(record: RunDirectory) -> TrainConfig:
    """Those a run was made with. Raises ``RunError`` if they cannot be read."""
    if record.config_file.is_file():
        digests.content(record.config_file)
    try:
        return load(record.config_file)
    except (OmegaConfBaseException, YAMLError, KeyError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(
            f"{record.config_file} is not the settings of a run ({reason}); it was changed or cut"
        ) from error


def refuse_missing_files(trained: TrainConfig, record: RunDirectory) -> None:
    """The files a run names are relative to where it was started."""
    problems = configuration_problems(trained)
    if problems:
        origin = record.path / ".hydra" / "hydra.yaml"
        started = load_yaml(origin).hydra.runtime.cwd if origin.is_file() else "another folder"
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise RunError(f"the run cannot be repeated here; it was started in {started}\n{listed}")


def _ask_again(
    trained: TrainConfig, record: RunDirectory, config: EvaluateConfig, recorded: dict[str, Any]
) -> list[dict[str, Any]]:
    """Generates every answer again."""
    job, model = _load(trained, record, config, recorded)
    return job.bench.ask(
        model, job.bench.zero_shot(), title="fine-tuned", pad=job.tokenizer.pad_token_id
    )


def _constrained(
    trained: TrainConfig,
    record: RunDirectory,
    config: EvaluateConfig,
    recorded: dict[str, Any],
    schema: dict[str, Any] | None,
) -> None:
    """Answers that are held to the schema, beside the free ones of the run:
    evaluation_constrained.json.
    """
    if config.source is EvaluationSource.predictions:
        raise ConfigError(
            [
                Problem(
                    "source",
                    "predictions",
                    "answers held to the schema need the model",
                    "leave source out",
                )
            ]
        )
    if schema is None:
        guide_for(None, None, None)
    library("constrained")
    job, tuned = _load(trained, record, config, recorded)
    evaluation, pad = trained.evaluation, job.tokenizer.pad_token_id
    asked: dict[str, Any] = {"eval": (tuned, job.bench.zero_shot())}
    if record.predictions_file("fewshot").is_file() and job.examples:
        asked["fewshot"] = (job.model, job.bench.few_shot(job.examples))
    content: dict[str, Any] = {
        "settings": {**recorded["settings"]["eval"], "decoding": "greedy, held to the JSON schema"}
    }
    for system, (model, prompts) in asked.items():
        title = TITLES[f"{'tuned' if system == 'eval' else system}{CONSTRAINED}"]
        said = job.bench.ask(
            model, prompts, title=title, pad=pad, guide=guide_for(schema, job.encoder, model)
        )
        write_jsonl(
            record.path
            / f"predictions_{'' if system == 'eval' else f'{system}_'}constrained.jsonl",
            said,
        )
        free = job.bench.rescored(read_jsonl(record.predictions_file(system)))
        both = [
            metrics.measures(rows, job.bench.families, has_schema=True) for rows in (said, free)
        ]
        groups, table = (
            groups_of(said),
            Table(title=title, title_justify="left", title_style="bold", header_style="bold"),
        )
        for column in (
            "metric",
            "free",
            "constrained",
            f"difference, {100 * evaluation.confidence:.0f} %",
            "p",
        ):
            table.add_column(column, justify="left" if column == "metric" else "right")
        for name in [
            name
            for name in both[0]
            if "/" not in name and name in both[1] and name not in _SAME_WHEN_CONSTRAINED
        ]:
            change = difference(
                both[0][name],
                both[1][name],
                groups,
                evaluation.confidence,
                evaluation.bootstrap_samples,
            )
            content[f"{system}_constrained/{name}"] = both[0][name].value
            edges = None if change.interval is None else list(change.interval)
            content[f"{system}_constrained/{name}_difference"] = {
                "value": change.value,
                "interval": edges,
                "p": change.p,
            }
            between = f"{change.value:+.4f} {escape(change.between('+.4f'))}"
            table.add_row(
                escape(name),
                f"{both[1][name].value:.4f}",
                f"{both[0][name].value:.4f}",
                between,
                f"{change.p:.2g}",
            )
        console.print(table)
    write_json(record.path / "evaluation_constrained.json", content)
    console.print(
        f"written     {escape(str(record.path))}/evaluation_constrained.json  [dim](and"
        " predictions_*constrained.jsonl)",
        soft_wrap=True,
    )


def _load(
    trained: TrainConfig, record: RunDirectory, config: EvaluateConfig, recorded: dict[str, Any]
) -> tuple["Job", Any]:
    """(the run made ready again, its fine-tuned model), both from disk.

    Raises ``RunError`` where anything has changed.
    """
    from hydratune.adapters import attach
    from hydratune.commands.train import prepare

    if not list(record.adapter.glob("*.safetensors")):
        raise RunError(
            f"{record.adapter} holds no weights (*.safetensors); this run has no adapter to"
            " evaluate"
        )
    if config.batch_size is not None:
        trained.evaluation.batch_size = config.batch_size
    # 0: documents
    trained.evaluation.max_new_tokens = recorded["settings"]["eval"]["max_new_tokens"] or None
    if config.accelerator is not None:
        trained.trainer.accelerator = config.accelerator
        trained.trainer.devices, trained.trainer.strategy = 1, "auto"
    if trained.model.adapter is not None:  # with which it began; what it made of it is its own
        trained.model.adapter = str(record.adapter)
    # nothing is trained here, so what the run's own wants of the machine does not count
    trained.optimizer = AdamWOptimizer()
    refuse_missing_files(trained, record)
    job = prepare(trained)
    stored = read_json(record.path / "environment.json")
    if stored["base"] != job.source.identity:
        raise RunError(
            f"the base model has changed since this run: {stored['base']} then,"
            f" {job.source.identity} now"
        )
    if stored["data_fingerprint"] != job.data_facts["fingerprint"]:
        raise RunError("the data has changed since this run: its fingerprint differs; from its predictions the run can still be scored:\n"  # noqa: E501
                       f"  hydratune evaluate run={config.run} source=predictions")  # fmt: skip
    return job, attach.load_tuned(
        trained.model, trained.adapter, job.source, record.adapter, job.compute
    )


def _elsewhere(
    trained: TrainConfig, record: RunDirectory, config: EvaluateConfig, recorded: dict[str, Any]
) -> None:
    """Base and fine-tuned model on running texts and on lm-eval's tasks: evaluation_texts.json,
    evaluation_lm_eval.json.
    """
    from hydratune.adapters import attach
    from hydratune.models.sources import context_window

    if config.source is EvaluationSource.predictions:
        raise ConfigError(
            [Problem("source", "predictions", "texts and tasks need the model", "leave source out")]
        )
    if config.lm_eval is not None:
        harness.check(config.lm_eval, config.lm_eval_path)
    found = documents(Path(config.texts).expanduser(), "texts") if config.texts is not None else []
    empty = [name for name, text in found if not text]
    if empty:
        raise ConfigError([Problem("texts", config.texts, f"{empty[0]} is empty", "leave it out")])
    job, tuned = _load(trained, record, config, recorded)
    models = {"base": job.model, "tuned": tuned}
    reads = context_window(trained.model, job.model) - attach.virtual_tokens(trained.adapter)
    window = reads if config.window is None else config.window
    stride = window if config.stride is None else config.stride
    if not 1 <= stride <= window <= reads:
        wrong, key = (window, "window") if not 1 <= window <= reads else (stride, "stride")
        raise ConfigError(
            [
                Problem(
                    key,
                    wrong,
                    f"the model reads {reads} tokens, and stride is at most the window",
                    "give less",
                )
            ]
        )
    pad = job.tokenizer.pad_token_id
    if found:
        named, texts = zip(*found, strict=True)
        scores = {
            s: score_texts(m, job.tokenizer, texts, window=window, stride=stride, pad=pad, title=s)
            for s, m in models.items()
        }
        evaluation = trained.evaluation
        content = running.summary(
            scores, named, window, stride, evaluation.confidence, evaluation.bootstrap_samples
        )
        write_json(record.path / "evaluation_texts.json", content)
        console.print(
            _beside(
                {
                    s: {k: v for k, v in some.items() if k != "interval"}
                    for s, some in content["systems"].items()
                }
            )
        )
        delta = content["bits_per_byte_delta"]
        between = (
            "[{:+.4f}, {:+.4f}]".format(*delta["interval"])
            if delta["interval"]
            else f"({len(texts)} text{'s'[: len(texts) > 1]} cannot tell: no interval)"
        )
        console.print(
            f"bits per byte: {delta['value']:+.4f} {escape(between)} by fine-tuning; windows of"
            f" {window} tokens, stride {stride}"
        )
    if config.lm_eval is not None:
        size = config.batch_size or 8
        options: dict[str, Any] = {
            "window": window,
            "limit": config.lm_eval_limit,
            "batch_size": size,
        }
        told = {
            s: harness.ask(m, job.tokenizer, config.lm_eval, config.lm_eval_path, **options)
            for s, m in models.items()
        }
        write_json(
            record.path / "evaluation_lm_eval.json",
            {"systems": told, "settings": {"tasks": config.lm_eval, **options}},
        )
        console.print(
            _beside(
                {
                    s: {f"{t}/{k}": v for t, some in by.items() for k, v in some.items()}
                    for s, by in told.items()
                }
            )
        )


def _beside(systems: dict[str, dict[str, float]]) -> Table:
    table = Table(header_style="bold")
    table.add_column("metric")
    for system in systems:
        table.add_column(TITLES[system], justify="right")
    for key in next(iter(systems.values())):
        values = [by[key] for by in systems.values()]
        table.add_row(
            escape(key),
            *(f"{value:,.6g}" if isinstance(value, float) else f"{value:,}" for value in values),
        )
    return table


def _table(recorded: dict[str, Any], values: dict[str, float]) -> Table:
    table = Table(header_style="bold")
    table.add_column("metric")
    for column in ("recorded", "now", "difference"):
        table.add_column(column, justify="right")
    for key, value in values.items():
        if key.count("/") == 1:
            before = recorded.get(key, math.nan)
            table.add_row(
                escape(key), f"{before:.6g}", f"{value:.6g}", f"{abs(value - before):.1e}"
            )
    return table
