"""hydratune decide: the base with several prompts, with retrieval, and fine-tuned, on the same
frozen test rows.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from rich.markup import escape
from rich.table import Table

from hydratune.console import console, section
from hydratune.data.rows import Message, Row
from hydratune.errors import ConfigError, Problem
from hydratune.evaluation import assess, decision, metrics
from hydratune.evaluation.canaries import is_canary
from hydratune.evaluation.constrained import Guide, guide_for
from hydratune.evaluation.decision import CONSTRAINED, TITLES
from hydratune.evaluation.decision_report import render
from hydratune.evaluation.measures import Measure, cut_of, groups_of
from hydratune.evaluation.overfitting import Verdict
from hydratune.evaluation.retrieval import (
    Library,
    Passage,
    from_files,
    from_rows,
    request,
    with_sources,
)
from hydratune.records.files import read_json, write_json, write_jsonl, write_text
from hydratune.records.run_directory import RunDirectory
from hydratune.settings.commands import DecideConfig, TrainConfig
from hydratune.settings.evaluation import Task

_METRIC = {Task.json: "field_f1", Task.text: "rougeL"}
Prompts = list[tuple[Message, ...]]


def run(config: DecideConfig, _: RunDirectory) -> None:
    """Writes decision.json, report.html and the predictions of every system into ``output``."""
    from hydratune.adapters import attach
    from hydratune.commands import train

    settings, record = _settings(config)
    output = (
        Path(config.output).expanduser()
        if config.output
        else Path("outputs/decide") / str(config.name or settings.name)
    )
    section("set-up")
    job = train.prepare(settings)
    if job.bench.documents or not all(map(assess.can_be_shown, job.sets.test)):
        why = "the test rows are documents or use tools: there is no prompt to better"
        raise ConfigError(
            [Problem("data", settings.name, why, "give rows of requests and answers")]
        )
    examples = {
        row.content_hash: row
        for row in job.sets.train
        if not is_canary(row) and assess.can_be_shown(row)
    }
    passages = (
        from_files(Path(config.knowledge), config.passage_words)
        if config.knowledge
        else from_rows(list(examples.values()))
    )
    library = Library(passages)
    found = [library.search(request(row), config.passages) for row in job.bench.rows]
    console.print(f"{len(job.bench.rows)} test rows; {len(passages):,} passages to look things up in "  # noqa: E501
                  f"({config.knowledge or 'the training rows'})", soft_wrap=True)  # fmt: skip
    prompts: dict[str, Prompts] = {"base": job.bench.zero_shot()}
    if job.examples:
        prompts["fewshot"] = job.bench.few_shot(job.examples)
        prompts["nearest"] = _nearest(job, list(examples.values()), len(job.examples))
    prompts["rag"] = _looked_up(job, library if config.knowledge else None, found)
    section("base model")
    predictions: dict[str, list[dict[str, Any]]] = {}
    seconds: dict[str, float] = {}

    guide = guide_for(job.bench.schema, job.encoder, job.model) if config.constrained else None

    def ask(system: str, model: Any, asked: Prompts, guide: Guide | None = None) -> None:
        start = time.perf_counter()
        predictions[system] = job.bench.ask(
            model, asked, title=TITLES[system], pad=job.tokenizer.pad_token_id, guide=guide
        )
        seconds[system] = time.perf_counter() - start
        write_jsonl(output / f"predictions_{system}.jsonl", predictions[system])

    for system, asked in prompts.items():
        if system == "base" or job.bench.fits(asked):
            ask(system, job.model, asked)
        else:
            console.print(
                f"[yellow]{TITLES[system]} is left out: its prompts are longer than the model reads"
            )
    if guide is not None and "fewshot" in predictions:
        ask("fewshot_constrained", job.model, prompts["fewshot"], guide)
    if record is not None:
        section("fine-tuned model")
        job.model = None
        model = attach.load_tuned(
            settings.model, settings.adapter, job.source, record.adapter, job.compute
        )
        ask("tuned", model, prompts["base"])
        looked_up = _fitting(job.bench, prompts["base"], found)
        if job.bench.fits(looked_up):
            ask("tuned_rag", model, looked_up)
        if guide is not None:
            ask("tuned_constrained", model, prompts["base"], guide)
    families = job.bench.families
    measured = {
        s: metrics.measures(rows, families, has_schema=job.bench.schema is not None)
        for s, rows in predictions.items()
    }
    metric = config.metric or ("label_accuracy" if "label" in families else _METRIC[job.bench.task])
    if metric not in measured["base"]:
        why = (
            f"not measured here; measured: {', '.join(n for n in measured['base'] if '/' not in n)}"
        )
        raise ConfigError(
            [
                Problem(
                    "metric",
                    metric,
                    why,
                    "choose one of them, or add its family with evaluation.metrics",
                )
            ]
        )
    freely = {system: some for system, some in measured.items() if not system.endswith(CONSTRAINED)}
    decided = decision.decide(freely, predictions, metric, config.margin, settings.evaluation)
    held = decision.constrained(measured, predictions, metric, settings.evaluation)
    if record is not None and _was_learning(record):
        reasons = (
            *decided.reasons,
            (
                "the run was still learning at its end: with more epochs the fine-tuned model may"
                " do better"
            ),
        )
        decided = replace(decided, reasons=reasons)
    costs = {system: _cost(rows, seconds[system]) for system, rows in predictions.items()}
    _write(output, config, settings, job.bench, metric, measured, predictions, costs, decided, held)
    page = render(
        str(config.name or settings.name),
        metric,
        decided,
        measured,
        predictions,
        costs,
        settings.evaluation,
        held,
    )
    write_text(output / "report.html", page)
    section("decision")
    console.print(_table(metric, measured, predictions, costs, settings))
    console.print(f"[bold]{escape(decided.headline)}", soft_wrap=True)
    for reason in decided.reasons:
        console.print(f"  {escape(reason)}", soft_wrap=True)
    for line in held:
        console.print(f"  [dim]{escape(line)}", soft_wrap=True)
    console.print(
        f"report      {escape(str(output))}/report.html  [dim](and decision.json,"
        " predictions_*.jsonl)",
        soft_wrap=True,
    )


def _was_learning(record: RunDirectory) -> bool:
    course = (read_json(record.metrics_file) if record.metrics_file.is_file() else {}).get(
        "course"
    ) or {}
    return course.get("verdict") == Verdict.learning.value


def _settings(config: DecideConfig) -> tuple[TrainConfig, RunDirectory | None]:
    """Those of the run, or of the command line. Raises ``ConfigError`` if both are given."""
    from hydratune.commands.evaluate import refuse_missing_files, settings_of

    if config.run is None:
        settings: TrainConfig = config
        record = None
    else:
        own = [o.split("=")[0].lstrip("+~") for o in HydraConfig.get().overrides.task]
        both = [
            key
            for key in own
            if key.split(".")[0]
            in ("model", "data", "adapter", "optimizer", "trainer", "experiment", "debug")
        ]
        if both:
            raise ConfigError(
                [
                    Problem(
                        both[0],
                        "...",
                        "run=DIR brings its own settings",
                        "leave one of the two out",
                    )
                ]
            )
        record = RunDirectory(Path(config.run).resolve())
        settings = settings_of(record)
        refuse_missing_files(settings, record)
        if not list(record.adapter.glob("*.safetensors")):
            raise ConfigError(
                [
                    Problem(
                        "run",
                        config.run,
                        "holds no trained weights (adapter/*.safetensors)",
                        "give a finished run",
                    )
                ]
            )
    # with which it began; what it made of it is its own
    if record is not None and settings.model.adapter is not None:
        settings.model.adapter = str(record.adapter)
    settings.evaluation.baselines = list(config.evaluation.baselines)
    settings.evaluation.shots = config.evaluation.shots
    settings.evaluation.metrics = config.evaluation.metrics or settings.evaluation.metrics
    settings.evaluation.max_rows = (
        config.rows if config.rows is not None else settings.evaluation.max_rows
    )
    return settings, record


def _nearest(job: Any, examples: Sequence[Row], count: int) -> Prompts:
    """For every test row the examples that are most like it, the most alike last."""
    library = Library([Passage(str(number), request(row)) for number, row in enumerate(examples)])
    prompts = []
    for index, row in enumerate(job.bench.rows):
        chosen = [examples[int(p.source)] for p in library.search(request(row), count)]
        prompts.append(job.bench.few_shot(chosen[::-1] or job.examples)[index])
    return prompts


def _looked_up(job: Any, library: Library | None, found: Sequence[Sequence[Passage]]) -> Prompts:
    """The best prompt with what was found: the schema, and as many examples as fit, which show the
    form of an answer.

    With a ``library`` of documents they show as well how an answer is taken from one.
    """
    shown = list(job.examples)
    if library is not None:
        looked = [library.search(request(row), 1) for row in shown]
        shown = [
            replace(row, messages=(*with_sources(row.prompt, some), row.messages[-1]))
            for row, some in zip(shown, looked, strict=True)
        ]
    for count in range(len(shown), 0, -1):
        prompts = job.bench.few_shot(shown[:count])
        if job.bench.fits(
            [with_sources(prompt, some[:1]) for prompt, some in zip(prompts, found, strict=True)]
        ):
            return _fitting(job.bench, prompts, found)
    return _fitting(job.bench, job.bench.few_shot([]), found)


def _fitting(
    bench: assess.TestBench, prompts: Prompts, found: Sequence[Sequence[Passage]]
) -> Prompts:
    """Prompts with as many passages as the longest leaves room for."""
    most = max(map(len, found))
    for count in range(most, 0, -1):
        asked = [
            with_sources(prompt, some[:count]) for prompt, some in zip(prompts, found, strict=True)
        ]
        if bench.fits(asked):
            if count < most:
                console.print(
                    f"[yellow]{count} instead of {most} passages: no more fit into the model's"
                    " context"
                )
            return asked
    return [with_sources(prompt, some[:1]) for prompt, some in zip(prompts, found, strict=True)]


def _cost(rows: Sequence[Mapping[str, Any]], seconds: float) -> dict[str, float]:
    """Of 1,000 calls, as they were made here: in batches, with what all prompts begin with read
    once.
    """
    thousand = 1000 / len(rows)
    return {
        "tokens_in": round(sum(r["prompt_tokens"] for r in rows) * thousand),
        "tokens_out": round(sum(r["generated_tokens"] for r in rows) * thousand),
        "seconds": round(seconds * thousand, 1),
    }


def _write(
    output: Path,
    config: DecideConfig,
    settings: TrainConfig,
    bench: assess.TestBench,
    metric: str,
    measured: Mapping[str, Mapping[str, Measure]],
    predictions: Mapping[str, Sequence[Mapping[str, Any]]],
    costs: Mapping[str, Mapping[str, float]],
    decided: decision.Decision,
    held: Sequence[str],
) -> None:
    systems: dict[str, Any] = {}
    for system, rows in predictions.items():
        values, intervals = metrics.flat(
            system,
            metrics.metrics(
                rows,
                settings.evaluation,
                has_schema=bench.schema is not None,
                families=bench.families,
            ),
        )
        systems[system] = {
            "metrics": values,
            "intervals": intervals,
            "per_1000_calls": costs[system],
        }
    how = metrics.settings(
        settings.evaluation, bench.task, bench.max_new_tokens, predictions["base"]
    )
    content = {
        "choice": decided.choice,
        "headline": decided.headline,
        "reasons": list(decided.reasons),
        "constrained": list(held),
        "metric": metric,
        "margin": config.margin,
        "comparisons": [asdict(comparison) for comparison in decided.comparisons],
        "systems": systems,
        "settings": {
            **how,
            "run": config.run,
            "knowledge": config.knowledge,
            "passages": config.passages,
            "shots": settings.evaluation.shots,
        },
    }
    write_json(output / "decision.json", content)


def _table(
    metric: str,
    measured: Mapping[str, Mapping[str, Measure]],
    predictions: Mapping[str, Sequence[Mapping[str, Any]]],
    costs: Mapping[str, Mapping[str, float]],
    settings: TrainConfig,
) -> Table:
    evaluation = settings.evaluation
    form = [
        name
        for name in ("schema_valid", "exact_match")
        if name in measured["base"] and name != metric
    ]
    title = (
        f"the same {len(predictions['base'])} test rows, {round(100 * evaluation.confidence)} %"
        " intervals; cost of 1,000 calls here"
    )
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    table.add_column("system", no_wrap=True)
    for title in (metric, *form, "cut", "tokens in", "tokens out", "seconds"):
        table.add_column(title, justify="right")
    for system, some in measured.items():
        edges = some[metric].interval(
            groups_of(predictions[system]), evaluation.confidence, evaluation.bootstrap_samples
        )
        between = "" if edges is None else f" [dim]\\[{edges[0]:.3f}, {edges[1]:.3f}][/]"
        cost = costs[system]
        table.add_row(
            TITLES[system],
            f"{some[metric].value:.3f}{between}",
            *(f"{some[name].value:.3f}" for name in form),
            str(cut_of(predictions[system])),
            f"{cost['tokens_in']:,}",
            f"{cost['tokens_out']:,}",
            f"{cost['seconds']:,.0f}",
        )
    return table
