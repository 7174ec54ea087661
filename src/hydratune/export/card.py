"""README.md of an export: the model card of the run, with the form and what the check measured."""

from collections.abc import Iterator
from pathlib import Path

from hydratune.adapters.folder import CARD_FILE
from hydratune.data.quality.findings import finding_in_words
from hydratune.experiment.model_card import CardForm, model_card, training_section
from hydratune.export.form import Written
from hydratune.export.limits import Exactness
from hydratune.export.opened import OpenedRun
from hydratune.export.parity import Parity
from hydratune.records.files import write_text
from hydratune.records.run_directory import RunFile
from hydratune.settings.export import ExportForm
from hydratune.settings.model import Quantization
from hydratune.wording import counted

_LIBRARIES = {
    ExportForm.adapter: "peft",
    ExportForm.gguf: "llama.cpp",
    ExportForm.ollama: "llama.cpp",
}
_TITLES = {
    ExportForm.merged: "This folder holds the whole model, with the adapter merged into it.",
    ExportForm.adapter: "This folder holds the adapter by itself.",
    ExportForm.quantised: "This folder holds the whole model, merged and stored in fewer bits.",
    ExportForm.gguf: "This folder holds the whole model as a GGUF file.",
    ExportForm.ollama: "This folder holds the whole model as a GGUF file, and a Modelfile.",
}


def write(
    opened: OpenedRun, form: ExportForm, written: Written, parity: Parity, usage: str, to: Path
) -> None:
    """Write the card into the folder ``to``."""
    rounded = written.exactness in (Exactness.eight_bits, Exactness.four_bits)
    relation = "quantized" if rounded else "finetune"
    card = CardForm(
        library=_LIBRARIES.get(form, "transformers"),
        relation="adapter" if form is ExportForm.adapter else relation,
        summary=_TITLES[form],
        training=_training(opened),
        sections=(_checks(opened), _comparison(parity)),
        limits=tuple(_limits(opened, form)),
        usage="\n\n".join([usage.strip(), *written.notes]),
    )
    write_text(to / CARD_FILE, model_card(opened.job, opened.finished.metrics, card))


def _training(opened: OpenedRun) -> str:
    """Return what the run's own card says of its training: settings and versions of that day."""
    file = opened.adapter_folder / CARD_FILE
    return training_section(file.read_text("utf-8")) if file.is_file() else ""


def _checks(opened: OpenedRun) -> str:
    """Return what the checks of the data found, from data.json's facts; no text of a row."""
    facts = opened.job.data_facts
    found = [
        f"| {finding_in_words(name, entry['count'])} ({name}) | {entry['level']} |"
        for name, entry in facts["quality"].items()
    ]
    cleaned = ", ".join(f"{name} {rows:,}" for name, rows in facts["cleaning"].items())
    lines = [
        "## Checks of the data\n",
        f"Repaired: {cleaned or 'nothing'}. The whole report is {RunFile.data_page} of the run.",
    ]
    if found:
        lines += ["", "| found in all rows of the source | level |", "| --- | --- |", *found]
    else:
        lines.append("The checks found nothing.")
    return "\n".join(lines)


def _comparison(parity: Parity) -> str:
    rows = counted(parity.rows, "test row")
    text = (
        "## The export beside the model of the run\n\n"
        f"On {rows}, at {parity.positions:,} positions of the reference answers: mean KL"
        f" {parity.mean_kl:.2g} nats, largest {parity.max_kl:.2g}; the same most likely token at"
        f" {100 * parity.agreement:.1f} % of them."
    )
    if parity.metric is not None and parity.metric_export is not None:
        text += (
            f" {parity.metric} of its own answers to these rows: {parity.metric_export:.3f}; of"
            f" the run's model: {parity.metric_run:.3f}."
        )
    return f"{text} parity.json has the numbers."


def _limits(opened: OpenedRun, form: ExportForm) -> Iterator[str]:
    quantization = opened.job.config.model.quantization
    if quantization is Quantization.none:
        return
    if form is ExportForm.adapter:
        yield (
            f"It was trained on a base stored as {quantization.value}; on an unquantised base the"
            " answers can differ."
        )
    else:
        yield (
            f"The adapter was trained on a base stored as {quantization.value} and is merged into"
            " the weights of that base, rounded as they were; they are not those of the original."
        )
