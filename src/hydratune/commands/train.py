"""hydratune train: measure the base model, fine-tune it, measure it again, write everything down."""  # noqa: E501

import logging
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.markup import escape

from hydratune.adapters import attach, continued, trained
from hydratune.adapters.folder import AdapterFolder, find, told
from hydratune.adapters.targets import without_effect
from hydratune.cache import cache_folder
from hydratune.console import console, section
from hydratune.data.answers import json_schema
from hydratune.data.encoding.encoded import Encoded
from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.data.preparation import prepare as prepare_data
from hydratune.data.prepared import Prepared
from hydratune.data.preview import show
from hydratune.data.quality.findings import describe_places
from hydratune.data.report import render
from hydratune.data.report_content import MASKS_SHOWN, count_tokens, report_content
from hydratune.data.rows import Row, stable_hash
from hydratune.data.sets import RowSets, load_sets
from hydratune.data.sources.contracts import ContractsData
from hydratune.data.sources.prepared import PreparedData
from hydratune.errors import ConfigError, DivergedError, Leaving, Paused, Problem, RunError
from hydratune.evaluation import (
    assess,
    canaries,
    forgetting,
    memorisation,
    metrics,
    overfitting,
    panel,
    table,
)
from hydratune.experiment import data_consistency, extension, fitness
from hydratune.experiment.context import RunContext
from hydratune.experiment.frame import is_main_process
from hydratune.models import hardware, sources, turn_ends
from hydratune.models.compute import Compute, compute_of
from hydratune.models.memory_plan import MemoryPlan
from hydratune.records.files import read_json, read_jsonl, write_json, write_jsonl, write_text
from hydratune.records.run_directory import RunDirectory
from hydratune.records.sweep import read_sweep
from hydratune.settings.adapter import AdaLoraAdapter, FullFinetune, LayerAdapter, PeftAdapter
from hydratune.settings.commands import Resume, TrainConfig
from hydratune.settings.evaluation import Baseline
from hydratune.settings.registry import flat, plain
from hydratune.tracking import environment, wandb
from hydratune.training import ddp, optimizers, resume, schedules
from hydratune.training.callbacks import patience_of, signals_wait
from hydratune.training.fit import Fitted, elementwise_pieces, fit
from hydratune.training.sampling import Ask
from hydratune.training.schedules import total_steps

log = logging.getLogger(__name__)
ALONE = RunContext()
# settings that decide what is trained
_TRAINED_BY = (
    "seed",
    "model",
    "data",
    "adapter",
    "optimizer",
    "trainer",
)


@dataclass
class Job:
    """Everything made ready for one run, before anything is trained."""

    config: TrainConfig
    compute: Compute
    source: sources.Source
    tokenizer: Any
    model: Any
    sets: RowSets
    encoder: ChatEncoder
    train: list[Encoded]
    validation: list[Encoded]
    data_facts: dict[str, Any]
    prepared: Prepared
    bench: assess.TestBench
    examples: list[Row]  # for the few-shot prompt, as many as fit
    reader: sources.Reader
    start: AdapterFolder | None  # an adapter that is trained further
    ends_known: (
        bool  # whether the base model's own generation config has every token that ends an answer
    )
    sample: assess.TestBench | None = None  # validation rows that are answered during training
    checkpoint: dict[str, Any] | None = None  # to go on from
    seconds: dict[str, float] = field(default_factory=dict)  # stage -> wall seconds
    elsewhere: float = 0.0  # CPU-seconds of the other processes of a data-parallel run


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Adds the wall seconds of the block to ``seconds[stage]``."""
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start


def run(config: TrainConfig, record: RunDirectory, context: RunContext = ALONE) -> None:
    """One experiment, from settings to closing table."""
    section("set-up")
    if config.preview:
        job = prepare(config, context)
        show(console, job.encoder, job.sets.train, job.train, config.preview)
        return
    if not is_main_process():  # the other ranks only train
        ddp.join_main_process()
        job = prepare(config, context)
        job.checkpoint = _place_left(job, record)
        with context.seeded(config.seed):
            job.model = attach.add_adapter(
                job.model, config.adapter, total_steps(config, len(job.train)), job.start
            )
        _train_on_all_devices(job, record, False, context)
        return
    seconds = {"start-up (imports)": time.perf_counter() - context.began}
    with timed(seconds, "W&B"):
        tracker, new = context.tracker(
            lambda: _track(config, record, context)
        )  # before anything can fail, so that W&B sees the failure
    exit_code: int | None = 1
    try:
        with timed(seconds, "model and data"):
            optimizers.check_machine(config, hardware.accelerator(config))
            panel.check(config.evaluation.forgetting)
            elementwise_pieces(config.trainer.compile)
            job = prepare(config, context)
            data_consistency.refuse_other_rows(
                config, record.path, job.data_facts["splits"], context.shared
            )
            job.checkpoint = _place_left(job, record)
            if new:
                tracker.again(resume.history(job.checkpoint))
        job.seconds = seconds
        result, systems = _experiment(job, record, tracker, context)
        exit_code = 0
    except Paused:
        exit_code = None
        raise
    except (KeyboardInterrupt, Leaving):
        exit_code = 130
        raise
    finally:
        if exit_code is not None:
            with timed(seconds, "W&B"):
                tracker.finish(exit_code)
    _report(job, record, result, systems, tracker.hint)


def _experiment(
    job: Job, record: RunDirectory, tracker: wandb.Tracker, context: RunContext
) -> tuple[dict[str, Any], list[str]]:
    """Measures, trains, measures again.

    Returns the content of metrics.json and the names of the systems measured.
    """
    config = job.config
    facts = _write_down(job, record, context)
    tracker.facts(facts)
    tracker.data([record.path / "data.json", record.path / "data.html"])
    before, untouched = _panel(job, context, "the panel, before"), _untouched_canaries(job, context)
    predictions = _baselines(job, record, context)
    section("training")
    idle = (
        without_effect(job.model, config.adapter)
        if isinstance(config.adapter, LayerAdapter) and job.start is None
        else []
    )
    with context.seeded(config.seed):  # whatever was drawn before, the adapter begins the same
        job.model = attach.add_adapter(
            job.model, config.adapter, total_steps(config, len(job.train)), job.start
        )
    context.accept(job.model)
    optimizers.check(job.model, config.optimizer)
    trainable, total = attach.count_parameters(job.model)
    tracker.facts({**facts, "trainable_parameters": trainable, "parameters": total})
    for line in trained.lines(job.model):
        console.print(escape(line), soft_wrap=True)
    for name in idle:
        console.print(
            f"[yellow]adapter.exclude_modules: {escape(name)} is no target anyway, so it excludes"
            " nothing",
            soft_wrap=True,
        )
    console.print(
        f"training {trainable:,} of {total:,} parameters ({100 * trainable / total:.2f} %)"
    )
    try:
        fitted = _train_on_all_devices(job, record, tracker.logger, context)
    except DivergedError as error:
        if error.usable:
            _save(job, record)
        raise
    except RunError:  # a checkpoint could not be written: the adapter is smaller, and may still fit
        _save(job, record)
        console.print(f"[yellow]the adapter so far is in {escape(str(record.adapter))}")
        raise
    if fitted.paused:
        _save(job, record)
        raise Paused
    if fitted.interrupted:
        context.ignore_interrupts()
    _save(job, record)
    if fitted.interrupted:
        console.print(
            f"[yellow]interrupted; the adapter so far is in {escape(str(record.adapter))}",
            soft_wrap=True,
        )
        if (record.checkpoints / "last.ckpt").is_file() and not read_sweep(record.path.parent):
            console.print(
                f"the same command with hydra.run.dir={escape(str(record.shown))} resumes from the"
                " last checkpoint",
                soft_wrap=True,
            )
        raise KeyboardInterrupt
    # in bf16, what is saved for the untouched base differs by roundings: measure that
    if attach.changes_base(config.adapter):
        job.model = None  # its memory is needed
        job.model = attach.load_tuned(
            config.model, config.adapter, job.source, record.adapter, job.compute
        )
    with timed(job.seconds, "fine-tuned model on the test rows"):
        predictions["eval"] = _ask(
            job, record, "eval", "fine-tuned", job.bench.zero_shot(), context
        )
    lost = _lost(job, record, context, before)
    known = _known_by_heart(job, record, context, untouched)
    result = _metrics(job, predictions, fitted, _spent(job, context))
    result |= lost[0] | known[0]
    result["intervals"] |= lost[1] | known[1]
    write_json(record.metrics_file, result)
    tracker.summary({k: v for k, v in result.items() if isinstance(v, (int, float))})
    tracker.predictions(predictions["eval"])
    tracker.adapter(record.adapter)
    return result, list(predictions)


def _save(job: Job, record: RunDirectory) -> None:
    """The trained weights, with the tokens at which their answers end; no signal interrupts that."""  # noqa: E501
    with signals_wait():
        attach.save(job.model, job.tokenizer, record.adapter, _ends(job))


def _ends(job: Job) -> list[int]:
    return turn_ends.in_order(job.encoder.turn_end_ids, [example.ids[-1] for example in job.train])


def prepare(config: TrainConfig, context: RunContext = ALONE) -> Job:
    """Loads model and data and checks everything that can be checked before training."""
    compute = compute_of(config)
    with context.seeded(config.seed):
        schema = json_schema(config.data)
        prepared = context.shared("prepared", lambda: prepare_data(config.data))
        sets = context.shared("sets", lambda: _sets(config, prepared))
        source, tokenizer, base = context.shared("base", lambda: _base(config, compute))
    model = context.own(base)
    start = find(config.model.adapter) if config.model.adapter is not None else None
    untold = continued.check_base(config, source, start) if start is not None else ""
    with context.seeded(config.seed):
        attach.check(model, config.adapter, start=start)
    reader = sources.reader_of(config.model, tokenizer, model)
    fitness.check_model(config, reader)
    encoder = ChatEncoder(tokenizer, reader.turn_end_ids)
    sets, encoded, splits = context.shared("tokens", lambda: _encode(config, encoder, sets))
    fitness.check_examples(
        config,
        reader,
        {name: fitness.SplitTokens.of(rows, encoded[name]) for name, rows in sets.items()},
    )
    if start is None:
        attach.check(model, config.adapter, total_steps(config, len(encoded["train"])))
    facts = {"fingerprint": sets.fingerprint, "splits": splits, **_quality(prepared)}
    if config.evaluation.canaries:
        facts["canaries"] = [row.id for row in sets.train if canaries.is_canary(row)]
    bench = fitness.test_bench(config, reader, encoder, sets.test, schema, prepared.leaks)
    examples: list[Row] = []
    if Baseline.fewshot in config.evaluation.baselines and all(map(assess.can_be_shown, sets.test)):
        examples = assess.fit_examples(_real(sets.train), config.evaluation.shots)
    while examples and not bench.fits(bench.few_shot(examples)):
        examples = examples[:-1]
    if is_main_process():
        for notice in fitness.notices(encoder):
            console.print(f"[yellow]{escape(notice)}", soft_wrap=True)
        _say_what_is_unusual(config, sets, examples, prepared)
        if untold:
            console.print(f"[yellow]{escape(untold)}", soft_wrap=True)
    return Job(
        config,
        compute,
        source,
        tokenizer,
        model,
        sets,
        encoder,
        encoded["train"],
        encoded["validation"],
        facts,
        prepared,
        bench,
        examples,
        reader,
        start,
        encoder.turn_end_ids <= turn_ends.of_model(model.generation_config),
        _sample(config, sets, encoder, bench),
    )


def _sample(
    config: TrainConfig, sets: RowSets, encoder: ChatEncoder, test: assess.TestBench
) -> assess.TestBench | None:
    """The first different validation rows in the order of their hashes, scored as the test rows are
    if their answers allow it.
    """
    settings = config.evaluation
    if settings.every_steps is None:
        return None
    different = {row.content_hash: row for row in sets.validation}
    rows = [different[key] for key in sorted(different)[: settings.sample]]
    task = metrics.choose_task(
        settings.task, [*test.references, *map(encoder.reference_answer, rows)], settings.metrics
    )
    bench = assess.TestBench(
        rows, encoder, replace(settings, max_rows=None), task, test.schema, test.context
    )
    bench.check(bench.zero_shot())
    return bench


def _sets(config: TrainConfig, prepared: Prepared) -> RowSets:
    sets = load_sets(config.data, config.seed, prepared)
    return canaries.with_canaries(
        sets, config.evaluation.canaries, config.seed, config.data.system_prompt
    )


def _real(rows: list[Row]) -> list[Row]:
    """Without what was made up for ``evaluation.canaries``."""
    return [row for row in rows if not canaries.is_canary(row)]


def _base(config: TrainConfig, compute: Compute) -> tuple[sources.Source, Any, Any]:
    """(source, tokenizer, frozen model)."""
    source = sources.resolve(config.model)
    tokenizer = sources.load_tokenizer(config.model, source)
    model = sources.load_model(config.model, source, compute)
    model = attach.prepare_quantised(model, config.model.quantization)
    return sources.identified(source, config.model, model), tokenizer, model


def _encode(
    config: TrainConfig, encoder: ChatEncoder, sets: RowSets
) -> tuple[RowSets, dict[str, list[Encoded]], dict[str, Any]]:
    """The rows that fit, their tokens, and what data.json says of each split.

    Raises ``DataError`` for a wrong mask.
    """
    kept, tokens, reports = fitness.encode(config, encoder, sets)
    facts: dict[str, Any] = {}
    for name, rows in kept.items():
        facts[name] = {
            **reports[name].summary(),
            "hash": sets_hash(rows),
            "tokens_hash": stable_hash(
                sorted(stable_hash((e.ids, e.loss_mask)) for e in tokens[name])
            ),  # losses over equal tokens compare
        }
        for statement in reports[name].statements(name, config.data) if is_main_process() else ():
            console.print(f"[yellow]{statement}")
    return kept, tokens, facts


def _quality(prepared: Prepared) -> dict[str, Any]:
    """What data.json says of the preparation."""
    report = prepared.report
    return {
        "prepared": report["fingerprint"],
        "source": report["source"],
        "quality": {
            name: {
                "level": check["level"],
                "count": check["count"],
                "splits": check.get("splits", {}),
            }
            for name, check in report["checks"].items()
            if check["count"]
        },
        "cleaning": {
            name: entry["rows"]
            for name, entry in report["cleaning"].items()
            if entry["on"] and entry["rows"]
        },
        "left": {
            name: entry["rows"]
            for name, entry in report["cleaning"].items()
            if not entry["on"] and entry["rows"]
        },
        "left_out": report["left_out"],
    }


def _say_what_is_unusual(
    config: TrainConfig, sets: RowSets, examples: list[Row], prepared: Prepared
) -> None:
    if Baseline.fewshot in config.evaluation.baselines and len(examples) < config.evaluation.shots:
        what = (
            f"with {len(examples)} instead of {config.evaluation.shots} examples"
            if examples
            else "left out"
        )
        why = "no more fit into the model's context, or there are no more rows"
        if not all(map(assess.can_be_shown, sets.test)):
            why = "the test rows are documents or use tools, for which examples make no prompt"
        console.print(f"[yellow]the few-shot baseline is {what}: {why}")
    told = _quality(prepared)
    warned = _warned(prepared, told)
    changed = ", ".join(f"{name} {rows:,}" for name, rows in told["cleaning"].items())
    where = "taken from the cache" if prepared.reused else "prepared and checked"
    where = "as it was prepared" if isinstance(config.data, PreparedData) else where
    console.print(f"[dim]data: {where}{f'; cleaned: {changed}' if changed else ''}", soft_wrap=True)
    if config.trainer.precision == "bf16-true":  # with adapters it is refused
        what = (
            "weights in bf16 lose updates smaller than 1/256 of them, most of those of usual"
            " learning rates"
        )
        console.print(
            f"[yellow]trainer.precision=bf16-true: {what}; bf16-mixed keeps them, for twice the"
            " memory",
            soft_wrap=True,
        )
    if config.evaluation.canaries:
        console.print(
            f"[yellow]{config.evaluation.canaries} canaries, made-up rows with secrets, are among"
            " the training rows"
        )
    if warned:
        console.print(
            f"[yellow]data checks found: {escape(warned)} [dim](hydratune prepare, with the same"
            " settings, shows the rows)",
            soft_wrap=True,
        )


def _warned(prepared: Prepared, told: Mapping[str, Any]) -> str:
    """What the checks found and what is left uncleaned, each with its splits, in one line."""
    checks, repairs = prepared.report["checks"], prepared.report["cleaning"]
    found = [
        f"{name} {check['count']:,} ({describe_places(checks[name])})"
        for name, check in told["quality"].items()
        if name != "size"
    ]
    found += [
        f"{name} {rows:,} ({describe_places(repairs[name])}; data.clean.{name}=true repairs"
        f" {'them' if rows > 1 else 'it'})"
        for name, rows in told["left"].items()
    ]
    return ", ".join(found).replace(" ()", "").replace("(; ", "(")


def sets_hash(rows: list[Row]) -> str:
    """Of a split: the same rows in any order have the same hash."""
    return stable_hash(sorted(row.content_hash for row in rows))


def _write_down(job: Job, record: RunDirectory, context: RunContext) -> dict[str, Any]:
    """environment.json, data.json, data.html and the opening lines on the terminal.

    Returns the facts for W&B.
    """
    config = job.config
    git = environment.git_commit(Path(__file__).parent)
    began = {"start": continued.facts(job.start)} if job.start is not None else {}
    facts = {
        "base": job.source.identity,
        **began,
        "data_fingerprint": job.data_facts["fingerprint"],
        "git": git,
        "precision": job.compute.precision,
    }
    measured_on = {
        "validation": job.data_facts["splits"]["validation"]["tokens_hash"],
        "code": environment.code_hash(),
    }
    content = {
        "versions": environment.versions(),
        "hardware": {**hardware.describe(), **job.compute.stored()},
        "code": environment.code_hash(),
        "seed": config.seed,
        "model": {
            "name": config.model.name,
            "licence": config.model.licence,
            "source": job.source.name,
            "identity": job.source.identity,
        },
        **facts,
    }
    write_json(record.path / "environment.json", content)
    write_json(record.path / "data.json", job.data_facts)
    write_text(record.path / "data.html", context.shared("data page", lambda: _data_page(job)))
    if job.bench.schema is not None:
        write_json(record.schema_file, job.bench.schema)
    splits = job.data_facts["splits"]
    counts = ", ".join(f"{name} {facts_['kept']}" for name, facts_ in splits.items())
    where = f"{job.compute.accelerator}, {job.compute.precision}"
    console.print(
        f"[bold]{config.name}[/]  {escape(config.model.name)} ({config.model.licence}) on {where}"
    )
    if job.start is not None:
        assert isinstance(config.adapter, PeftAdapter)
        what = (
            f"starts from the adapter in {job.start.path} ({told(config.adapter)}); the baselines"
            " are the base model without it"
        )
        console.print(escape(what), soft_wrap=True)
    console.print(
        f"rows: {counts}; {splits['train']['tokens']:,} training tokens,"
        f" {splits['train']['trained_tokens']:,} of them trained"
    )
    console.print(f"scored as {job.bench.task.value}; record: {escape(str(record.path))}")
    return facts | measured_on


def _data_page(job: Job) -> str:
    """The report of ``hydratune prepare``, with the masks of the first rows that are really trained
    on.
    """
    tokens = count_tokens(job.config.data, job.prepared, job.encoder, job.reader)
    shown = zip(job.sets.train[:MASKS_SHOWN], job.train[:MASKS_SHOWN], strict=True)
    used = ", ".join(
        f"{facts['kept']} {name} rows" for name, facts in job.data_facts["splits"].items()
    )
    return render(
        report_content(
            str(job.config.name), job.config.model.name, job.prepared, tokens, shown, used
        )
    )


def _made_of(job: Job) -> dict[str, Any]:
    """What must be the same for a run to be gone on with."""
    every = flat(plain(job.config)).items()
    settings = {
        key: str(value)
        for key, value in every
        if key.split(".")[0] in _TRAINED_BY and key != "trainer.checkpoint_minutes"
    }
    splits = job.data_facts["splits"]
    began = (
        {"starting adapter": continued.facts(job.start)["sha256"]} if job.start is not None else {}
    )
    return {
        **began,
        "settings": settings,
        "training data": [splits[name]["tokens_hash"] for name in ("train", "validation")],
        "base model": str(job.source.identity),
        "code": environment.code_hash(),
        "versions": environment.versions(),
    }


def _place_left(job: Job, record: RunDirectory) -> dict[str, Any] | None:
    """The checkpoint from which this run goes on.

    Raises ``ConfigError`` if it does not belong to what is to be run now.
    """
    found = resume.load(record.checkpoints)
    extending = job.config.resume is Resume.extend
    if found is None and extending:
        why = (
            f"there is no checkpoint in {record.checkpoints} from which it could be trained further"
        )
        fix = (
            f"begin a run from its adapter: model.adapter={record.shown}, in another hydra.run.dir"
        )
        raise ConfigError([Problem("resume", job.config.resume.value, why, fix)])
    if found is None:
        return None
    file, checkpoint = found
    if isinstance(job.config.adapter, AdaLoraAdapter):
        console.print(
            "[yellow]AdaLoRA cannot be gone on with from a checkpoint: the run begins anew"
        )
        return None
    before, now = checkpoint["made_of"], _made_of(job)
    old, new = before["settings"], now["settings"]
    other = [
        f"{key} was {old.get(key)} and is {new.get(key)}"
        for key in {**old, **new}
        if str(old.get(key)) != str(new.get(key))
    ]
    longer = extending and [o for o in other if o.startswith(extension.LENGTH)]
    other = [o for o in other if not (longer and o in longer)]
    kept = ("training data", "base model", "starting adapter")
    since = [f"the {what} changed" for what in kept if before.get(what) != now.get(what)]
    since = [] if job.config.resume is Resume.force else [*since, *environment.changes(before, now)]
    if other or since:
        why = (
            f"{'this' if extending else 'an interrupted'} run is there, and since then"
            f" {'; '.join([*other, *since])}"
        )
        fix = (
            "resume=never begins anew"
            + ("" if other else ", resume=force goes on all the same")
            + "; or choose another hydra.run.dir"
        )
        if extending:
            fix = (
                f"bring it back; or begin a run from its adapter: model.adapter={record.shown}, in"
                " another hydra.run.dir"
            )
        raise ConfigError([Problem("resume", job.config.resume.value, why, fix)])
    if "ranks" not in checkpoint:
        why = f"{file} was written by an older hydratune, which kept other things"
        fix = (
            "resume=never begins anew; to go on, use the version that wrote it (environment.json"
            " says which)"
        )
        raise ConfigError([Problem("resume", job.config.resume.value, why, fix)])
    place, total = checkpoint["place"], total_steps(job.config, len(job.train))
    if longer:
        _lengthen(job, checkpoint, total)
    console.print(
        f"[bold]goes on after step {place['step']}[/] of {total}, from {escape(str(file))}",
        soft_wrap=True,
    )
    return checkpoint


def _lengthen(job: Job, checkpoint: dict[str, Any], total: int) -> None:
    """Makes ``checkpoint``, of a shorter run, one of this run.

    Raises ``ConfigError`` if this run is no longer than that.
    """
    done = checkpoint["place"]["step"]
    if total <= done:
        why = f"the run has taken {done} optimizer steps, and this would be {total}"
        raise ConfigError(
            [
                Problem(
                    "resume",
                    "extend",
                    why,
                    "raise trainer.max_epochs, and trainer.max_steps if it is set",
                )
            ]
        )
    for state in checkpoint["callbacks"].values():
        # early stopping, whose patience begins anew
        if isinstance(state, dict) and "wait_count" in state:
            state |= {
                "wait_count": 0,
                "stopped_epoch": 0,
                "patience": patience_of(job.config.trainer),
            }
    rate = job.config.optimizer.lr * schedules.learning_rate_factor(job.config.optimizer, total)(
        done
    )
    before = resume.history(checkpoint)[-1]["lr"]
    what = f"it had {before:.3g} at step {done} and has {rate:.3g} at the next"
    console.print(
        f"the learning rate follows the {job.config.optimizer.schedule.value} schedule of all"
        f" {total} steps from here: {what}"
    )


def _spent(job: Job, context: RunContext) -> float:
    """CPU-seconds of the run, those before an interruption and those of other processes that have
    ended included.
    """
    return (
        context.cpu_seconds()
        + job.elsewhere
        + (job.checkpoint["cpu_seconds"] if job.checkpoint else 0.0)
    )


def _track(config: TrainConfig, record: RunDirectory, context: RunContext) -> wandb.Tracker:
    """The W&B run; in a sweep it is named after what varies and grouped by the sweep."""
    path = record.path
    mine = read_sweep(path.parent).get(path.name)
    varying = (
        ", ".join(f"{key.rsplit('.', 1)[-1]}={value}" for key, value in mine.varying.items())
        if mine
        else ""
    )
    folder, group = (path.parent, path.parent.name) if mine else (path, None)
    name = varying if mine else f"{config.name}-{path.name}"
    known = record.status().get("wandb_id") if record.left() is not None else None
    name = name or path.name
    tracker = wandb.start(
        config.tracking,
        plain(config),
        folder=folder,
        group=group,
        name=name,
        job_type="train",
        known=known,
        on_stop=context.stop,
        run_folder=path,
    )
    record.update(wandb_id=tracker.id)
    return tracker


def _ask(
    job: Job, record: RunDirectory, system: str, title: str, prompts: Any, context: RunContext
) -> list[dict[str, Any]]:
    """Predictions of the model as it is now, written to the run directory."""
    predictions = job.bench.ask(
        job.model, prompts, title=title, pad=job.tokenizer.pad_token_id, pool=context.pool
    )
    write_jsonl(record.predictions_file(system), predictions)
    return predictions


def _baselines(
    job: Job, record: RunDirectory, context: RunContext
) -> dict[str, list[dict[str, Any]]]:
    """Predictions of the untouched model, from the cache where the very same were made before."""
    config = job.config.evaluation
    predictions = {}
    for baseline in config.baselines:
        few = baseline is Baseline.fewshot
        if few and not job.examples:
            continue
        title = f"base model, {len(job.examples)}-shot" if few else "base model, zero-shot"
        prompts = job.bench.few_shot(job.examples) if few else job.bench.zero_shot()
        key = job.bench.cache_key(job.source.identity, prompts, job.model)
        file = cache_folder() / "baselines" / f"{key}.jsonl"
        with timed(job.seconds, title), context.one_at_a_time(key):
            stored = assess.cached(file) if config.reuse_baselines else None
            if stored is not None:
                console.print(
                    f"{title}: taken from the cache ({key}); evaluation.reuse_baselines=false asks"
                    " again"
                )
                predictions[baseline.value] = job.bench.rescored(stored)
                write_jsonl(record.predictions_file(baseline.value), predictions[baseline.value])
                continue
            predictions[baseline.value] = _ask(job, record, baseline.value, title, prompts, context)
            assess.remember(file, predictions[baseline.value])
    return predictions


def _panel(job: Job, context: RunContext, title: str) -> forgetting.Probe | None:
    """The model as it is now on the forgetting panel, if that is to be measured.

    The untouched model is shared.
    """
    config = job.config.evaluation.forgetting
    if not config.measure:
        return None
    shown = panel.load(config)
    window = job.bench.context

    def read() -> forgetting.Probe:
        pad = job.tokenizer.pad_token_id
        return forgetting.probe(
            job.model,
            job.encoder,
            shown,
            config,
            pad=pad,
            window=window,
            title=title,
            pool=context.pool,
        )

    with timed(job.seconds, title):
        key = stable_hash([shown.fingerprint, plain(config), window])
        return context.shared(f"panel {key}", read) if title.endswith("before") else read()


def _lost(
    job: Job, record: RunDirectory, context: RunContext, before: forgetting.Probe | None
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Metrics of forgetting and their intervals; forgetting.jsonl is what they are made of."""
    after = _panel(job, context, "the panel, after")
    if before is None or after is None:
        return {}, {}
    rows = forgetting.together(before, after)
    write_jsonl(record.path / "forgetting.jsonl", rows)
    config = job.config.evaluation
    return forgetting.summary(rows, config.forgetting, config.confidence, config.bootstrap_samples)


def _canaries(job: Job, context: RunContext) -> list[dict[str, Any]]:
    """What the model as it is now makes of the canaries, trained and not."""
    config = job.config
    trained = [row for row in job.sets.train if canaries.is_canary(row)]
    others = canaries.made(
        config.evaluation.canaries, config.seed, config.data.system_prompt, trained=False
    )
    with timed(job.seconds, "canaries"):
        return canaries.probe(
            job.model,
            job.encoder,
            trained,
            others,
            config.seed,
            pad=job.tokenizer.pad_token_id,
            pool=context.pool,
        )


def _untouched_canaries(job: Job, context: RunContext) -> list[dict[str, Any]]:
    """The same of the untouched model, which is shared; none where there are no canaries."""
    return (
        context.shared("canaries", lambda: _canaries(job, context))
        if job.config.evaluation.canaries
        else []
    )


def _known_by_heart(
    job: Job, record: RunDirectory, context: RunContext, untouched: list[dict[str, Any]]
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Metrics of memorisation and their intervals; canaries.jsonl is what those of the canaries are
    made of.
    """
    config = job.config.evaluation
    values: dict[str, float] = {}
    intervals: dict[str, list[float]] = {}
    options: dict[str, Any] = {"pad": job.tokenizer.pad_token_id, "pool": context.pool}
    if config.memorisation:
        with timed(job.seconds, "memorisation"):
            seen = [
                tokens
                for row, tokens in zip(job.sets.train, job.train, strict=True)
                if not canaries.is_canary(row)
            ]
            stop, size = job.encoder.turn_end_ids, config.batch_size
            found = memorisation.probe(
                job.model,
                seen,
                job.validation,
                config.memorisation,
                stop=stop,
                batch_size=size,
                **options,
            )
        values, intervals = memorisation.summary(found, config.confidence)
    if config.canaries:
        records = canaries.together(untouched, _canaries(job, context))
        write_jsonl(record.path / "canaries.jsonl", records)
        own = canaries.summary(records, config.confidence, config.bootstrap_samples)
        values, intervals = values | own[0], intervals | own[1]
    return values, intervals


def _train_on_all_devices(
    job: Job, record: RunDirectory, logger: Any, context: RunContext
) -> Fitted:
    """Trains in this process, and in one for each further device."""
    with ddp.other_processes(job.config.trainer, record, stable_hash(_made_of(job))) as others:
        fitted = _train(job, record, logger, context)
    job.elsewhere = others.cpu_seconds
    if others.starting_seconds:
        job.seconds["start of the other processes"] = others.starting_seconds
    return fitted


def _train(job: Job, record: RunDirectory, logger: Any, context: RunContext) -> Fitted:
    with context.seeded(job.config.seed):
        pass  # what is drawn in training begins the same as well
    fitted = fit(
        job.model,
        job.train,
        job.validation,
        job.config,
        record,
        compute=job.compute,
        logger=logger,
        names=[row.where or row.id for row in job.sets.train],
        base=job.source.identity,
        pool=context.pool,
        made_of=_made_of(job),
        checkpoint=job.checkpoint,
        spent=lambda: _spent(job, context),
        rungs=context.rungs(total_steps(job.config, len(job.train))),
        ask=context.may_go_on,
        judged=context.judged,
        sample=_sampler(job, record, context),
        shared=context.shared,
        planned=lambda plan: _planned(job, record, plan),
    )
    _note_plan(record, fitted.plan)  # where memory ran out, it is another one now
    if fitted.frozen_seconds:
        job.seconds["layers that stay as they are"] = fitted.frozen_seconds
    job.seconds["training"] = fitted.training_seconds
    job.seconds["validation"] = fitted.validation_seconds
    return fitted


def _planned(job: Job, record: RunDirectory, plan: MemoryPlan) -> None:
    """Tells how much is computed at once; on a CPU these sizes are always the same."""
    _note_plan(record, plan)
    if job.compute.accelerator == "gpu" and is_main_process():
        console.print(
            f"{hardware.name_of(job.compute.device)} ({job.compute.device}): {plan.told()}",
            soft_wrap=True,
        )


def _note_plan(record: RunDirectory, plan: MemoryPlan) -> None:
    file = record.path / "environment.json"
    if is_main_process():
        write_json(file, {**read_json(file), "memory_plan": plan.stored()})


def _sampler(job: Job, record: RunDirectory, context: RunContext) -> Ask | None:
    """Has the model answer the same few validation rows, as far as it has come; None where that is
    not asked for.
    """
    bench = job.sample
    if bench is None:
        return None

    def ask(step: int) -> dict[str, float]:
        said = bench.ask(
            job.model,
            bench.zero_shot(),
            title="",
            pad=job.tokenizer.pad_token_id,
            quiet=True,
            pool=context.pool,
        )
        try:
            # beyond this step: of what was gone on from
            before = read_jsonl(record.sample_file) if record.sample_file.is_file() else []
        except RunError as error:
            console.print(f"[yellow]{escape(str(error))}; it begins anew", soft_wrap=True)
            before = []
        now = [
            {
                "step": step,
                **{
                    key: row[key]
                    for key in ("id", "prediction", "reference", "finish_reason", "scores")
                },
            }
            for row in said
        ]
        write_jsonl(record.sample_file, [*(row for row in before if row["step"] < step), *now])
        measured = metrics.measures(said, bench.families, has_schema=bench.schema is not None)
        values = {name: measure.value for name, measure in measured.items() if "/" not in name}
        best = next((name for name in metrics.MAIN if name in values), "nll")
        console.print(
            f"step {step}: {table.TITLES[best]} {values[best]:.3f} on {len(bench.rows)} validation"
            " rows"
        )
        return values

    return ask


def _metrics(
    job: Job, predictions: dict[str, list[dict[str, Any]]], fitted: Fitted, cpu_seconds: float
) -> dict[str, Any]:
    """The content of metrics.json."""
    result: dict[str, Any] = {}
    intervals: dict[str, list[float]] = {}
    config = job.config.evaluation
    for system, rows in predictions.items():
        values, own = metrics.flat_with_clean(
            system, rows, config, has_schema=job.bench.schema is not None
        )
        result |= values
        intervals |= own
    went = overfitting.course(fitted.history)
    result |= went.flat()
    result["course"] = went.stored()
    result["train/loss"] = fitted.history[-1]["train/loss"]
    result["val/loss"] = fitted.best_loss
    result["objective"] = fitted.best_loss
    result["cost/wall_seconds"] = round(sum(job.seconds.values()), 2)
    result["cost/cpu_seconds"] = round(cpu_seconds, 2)
    result["cost/tokens"] = fitted.tokens
    result["cost/tokens_per_second"] = round(fitted.tokens / fitted.training_seconds, 1)
    result["cost/peak_memory_bytes"] = hardware.peak_memory()
    settings = metrics.settings(
        config, job.bench.task, job.bench.max_new_tokens, next(iter(predictions.values()))
    )
    result["settings"] = {
        **{
            system: {**settings, "shots": len(job.examples)} if system == "fewshot" else settings
            for system in predictions
        },
        "objective": {
            "metric": "val/loss",
            "mode": "min",
            "chosen": "the checkpoint with the lowest validation loss",
        },
    }
    result["intervals"] = intervals
    result["seconds"] = {stage: round(spent, 2) for stage, spent in job.seconds.items()}
    return result


def _where_answers_end(job: Job, folder: str) -> str:
    """For whoever uses the weights: the tokens, and what to do where the base model does not know
    them.
    """
    ends = _ends(job)
    text = (
        f"an answer ends with {turn_ends.told(job.tokenizer, ends)}, as generation_config.json in"
        " it says"
    )
    if isinstance(job.config.adapter, FullFinetune) or job.ends_known:
        return text
    return (
        f"{text}; the base model's own does not: model.generation_config ="
        f" GenerationConfig.from_pretrained({folder!r}); vLLM --generation-config"
        f" {shlex.quote(folder)}"
    )


def _report(
    job: Job, record: RunDirectory, result: dict[str, Any], systems: list[str], hint: str
) -> None:
    """The closing table and what to type next."""
    section("results")
    console.print(table.results(result, systems, len(job.examples)))
    console.print(table.times(job.seconds))
    speed, memory = result["cost/tokens_per_second"], result["cost/peak_memory_bytes"]
    console.print(
        f"validation loss {result['val/loss']:.4f}; {speed:,.0f} tokens/s in training; peak memory"
        f" {memory / 2**30:.1f} GiB"
    )
    if "forgetting/within_budget" in result:
        console.print(table.forgetting(result))
        budgets = job.config.evaluation.forgetting
        for most, colour in ((budgets.fail, "red"), (budgets.warn, "yellow")):
            for told in forgetting.exceeded(result, most):
                console.print(f"[{colour}]forgotten too much: {escape(told)}", soft_wrap=True)
    if "memorisation/difference" in result:
        console.print(memorisation.told(result, result["intervals"]), soft_wrap=True)
    if "memorisation/canary_difference" in result:
        console.print(canaries.told(result, result["intervals"]), soft_wrap=True)
    clean = table.without_leaks(result)
    if clean:
        console.print(f"[yellow]{clean}", soft_wrap=True)
    overfitted = result["course"]["verdict"] == overfitting.Verdict.overfitted.value
    console.print(f"{'[yellow]' if overfitted else ''}{result['course']['advice']}", soft_wrap=True)
    section("next")
    path = record.path
    place = record.shown
    console.print(f"adapter     {escape(str(place))}/adapter  [dim](PEFT format)", soft_wrap=True)
    console.print(
        f"ends        {escape(_where_answers_end(job, f'{place}/adapter'))}", soft_wrap=True
    )
    console.print(
        f"read        {escape(str(place))}/report.html  [dim](and predictions.jsonl)",
        soft_wrap=True,
    )
    console.print(f"measure     hydratune evaluate run={escape(str(place))}", soft_wrap=True)
    if not read_sweep(path.parent):
        own = (
            "sweep=learning_rate"
            if isinstance(job.config.data, ContractsData)
            else "optimizer.lr=3e-4,1e-3,3e-3, after your own settings"
        )
        console.print(f"sweep       hydratune train -m {own}", soft_wrap=True)
    if hint:
        console.print(f"W&B         {hint}", soft_wrap=True)
