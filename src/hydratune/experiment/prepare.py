"""Settings -> job: load the model and the data, check what can be checked before training."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hydratune.adapters import attach, continued
from hydratune.adapters.folder import AdapterFolder, find
from hydratune.console import console
from hydratune.data.answers import json_schema
from hydratune.data.encoding.encoded import Encoded
from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.data.preparation import prepare as prepare_data
from hydratune.data.prepared import Prepared
from hydratune.data.reader import Reader
from hydratune.data.rows import Row, stable_hash
from hydratune.data.sets import RowSets, load_sets, which_rows
from hydratune.evaluation import assess, canaries, metrics
from hydratune.experiment import compatibility, notices
from hydratune.experiment.context import LoadedBase, Resources, RunContext
from hydratune.experiment.job import Job
from hydratune.models import loading
from hydratune.models.compute import Compute, compute_of
from hydratune.models.router_loss import refuse_router_loss
from hydratune.models.turn_ends import of_model
from hydratune.records.files import Json
from hydratune.records.run_directory import is_main_process
from hydratune.settings.commands import TrainConfig
from hydratune.settings.evaluation import Baseline
from hydratune.settings.monitor import Monitor
from hydratune.training.schedules import total_steps

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class _Rows:
    """The rows that fit into the model's context, and their tokens by split."""

    sets: RowSets
    tokens: dict[str, list[Encoded]]
    facts: dict[str, dict[str, Json]]  # what data.json says of each split


def prepare(config: TrainConfig, context: RunContext | None = None) -> Job:
    """Return the run made ready. Raises ``InputError`` for whatever does not fit together."""
    context = context or RunContext()
    resources = context.resources
    compute = compute_of(config)
    drawn = which_rows(config.data, config.seed)
    with resources.seeded(config.seed):
        schema = json_schema(config.data)
        prepared = resources.shared("prepared", lambda: prepare_data(config.data))
        sets = resources.shared(f"sets{drawn}", lambda: _load_sets(config, prepared))
        load = context.load_base or _load_base
        base = resources.shared("base", lambda: load(config, compute))
    model = resources.own(base.model)
    start, warning = _check_adapter(config, base, model, resources)
    reader = loading.reader_of(config.model, base.tokenizer, model)
    compatibility.check_model(config, reader)
    encoder = ChatEncoder(base.tokenizer, reader.turn_end_ids)
    rows = resources.shared(f"tokens{drawn}", lambda: _encode(config, encoder, sets))
    _check_rows(config, reader, rows, model, start)
    test_set = compatibility.create_test_set(
        config, reader, encoder, rows.sets.test, schema, prepared.leaks
    )
    job = Job(
        config=config,
        context=context,
        compute=compute,
        source=base.source,
        tokenizer=base.tokenizer,
        model=model,
        reader=reader,
        encoder=encoder,
        sets=rows.sets,
        train=rows.tokens["train"],
        validation=rows.tokens["validation"],
        data_facts=_data_facts(config, rows, prepared),
        prepared=prepared,
        test_set=test_set,
        examples=_few_shot_examples(config, rows.sets, test_set),
        start=start,
        base_declares_turn_ends=reader.turn_end_ids <= of_model(model.generation_config),
        validation_set=_validation_set(config, rows.sets, encoder, test_set),
    )
    if is_main_process():
        notices.print_notices(job, warning)
    return job


def _check_adapter(
    config: TrainConfig, base: LoadedBase, model: "PreTrainedModel", resources: Resources
) -> tuple[AdapterFolder | None, str]:
    """Check that the model can take the adapter.

    Returns the trained adapter from which training starts, if any, and what could not be verified
    about it.
    """
    start = find(config.model.adapter) if config.model.adapter is not None else None
    warning = continued.check_base(config, base.source, start) if start is not None else ""
    with resources.seeded(config.seed):
        attach.check(model, config.adapter, start=start)
    return start, warning


def _load_sets(config: TrainConfig, prepared: Prepared) -> RowSets:
    """Return the rows of each split, with the canaries that the settings ask for."""
    sets = load_sets(config.data, config.seed, prepared)
    return canaries.with_canaries(
        sets, config.evaluation.canaries, config.seed, config.data.system_prompt
    )


def _load_base(config: TrainConfig, compute: Compute) -> LoadedBase:
    """Return the base model, prepared for its quantisation, and its tokenizer."""
    source = loading.locate(config.model)
    tokenizer = loading.load_tokenizer(config.model, source)
    model = loading.load_model(config.model, source, compute)
    refuse_router_loss(config.model, model.config)
    model = attach.prepare_quantised(model, config.model.quantization)
    return LoadedBase(loading.identified(source, config.model, model), tokenizer, model)


def _encode(config: TrainConfig, encoder: ChatEncoder, sets: RowSets) -> _Rows:
    """Return the rows that fit, with their tokens. Raises ``DataError`` for a wrong loss mask."""
    kept, tokens, reports = compatibility.encode(config, encoder, sets)
    facts: dict[str, dict[str, Json]] = {}
    for name, rows in kept.items():
        # equal hashes: losses over these tokens compare
        tokens_hash = stable_hash(sorted(stable_hash((e.ids, e.loss_mask)) for e in tokens[name]))
        facts[name] = {
            **reports[name].summary(),
            "hash": _hash_rows(rows),
            "tokens_hash": tokens_hash,
        }
        for statement in reports[name].statements(name, config.data) if is_main_process() else ():
            console.print(f"[yellow]{statement}")
    return _Rows(kept, tokens, facts)


def _hash_rows(rows: list[Row]) -> str:
    """Return the hash of a split, which does not depend on the order of its rows."""
    return stable_hash(sorted(row.content_hash for row in rows))


def _check_rows(
    config: TrainConfig,
    reader: Reader,
    rows: _Rows,
    model: "PreTrainedModel",
    start: AdapterFolder | None,
) -> None:
    """Check the encoded rows against the model and the length of training."""
    splits = {
        name: compatibility.SplitTokens.of(kept, rows.tokens[name])
        for name, kept in rows.sets.items()
    }
    compatibility.check_examples(config, reader, splits)
    if start is None:
        attach.check(model, config.adapter, total_steps(config, len(rows.tokens["train"])))


def _data_facts(config: TrainConfig, rows: _Rows, prepared: Prepared) -> dict[str, Json]:
    """Return the content of data.json."""
    facts = {
        "fingerprint": rows.sets.fingerprint,
        "splits": rows.facts,
        **notices.quality(prepared),
    }
    if config.evaluation.canaries:
        facts["canaries"] = [row.id for row in rows.sets.train if canaries.is_canary(row)]
    return facts


def _few_shot_examples(config: TrainConfig, sets: RowSets, test_set: assess.TestSet) -> list[Row]:
    """Return as many examples of the few-shot prompt as fit into the model's context."""
    with_few_shot = Baseline.fewshot in config.evaluation.baselines
    if not with_few_shot or not all(map(assess.can_be_shown, sets.test)):
        return []
    given = [row for row in sets.train if not canaries.is_canary(row)]
    examples = assess.fit_examples(given, config.evaluation.shots)
    while examples and not test_set.fits(test_set.few_shot(examples)):
        examples = examples[:-1]
    return examples


def _validation_set(
    config: TrainConfig, sets: RowSets, encoder: ChatEncoder, test: assess.TestSet
) -> assess.TestSet | None:
    """Return the validation rows that are answered during training, or None if none are.

    They are the first different rows in the order of their hashes, scored like the test rows if
    their answers allow it. Raises ``ConfigError`` if these scores lack ``trainer.monitor``.
    """
    settings, monitor = config.evaluation, Monitor.read(config.trainer.monitor)
    if settings.validate_every is None and monitor.is_loss:
        return None
    different = {row.content_hash: row for row in sets.validation}
    rows = [different[key] for key in sorted(different)[: settings.validation_rows]]
    references = [*test.references, *map(encoder.reference_answer, rows)]
    task = metrics.choose_task(settings.task, references, settings.metrics)
    every_row = replace(settings, max_rows=None)
    validation = assess.TestSet(rows, encoder, every_row, task, test.schema, test.context)
    validation.check(validation.zero_shot())
    compatibility.check_monitor(monitor, validation)
    return validation
