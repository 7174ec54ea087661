"""One run exported in one or several forms: written, compared, described, and only then named."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from hydratune import digests
from hydratune.console import console
from hydratune.errors import InputError, RunError, refuse
from hydratune.experiment.finished_run import open_run, require_adapter
from hydratune.export import output, rejected
from hydratune.export.opened import OpenedRun, obstacles, open_model
from hydratune.records.environment import Environment
from hydratune.records.files import read_json, write_json
from hydratune.settings.export import ExportForm, ExportSettings, GgufType
from hydratune.settings.model import Quantization
from hydratune.settings.paths import PARITY_FILE

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hydratune.export.limits import Limits
    from hydratune.export.parity import Parity, Reading

FORMAT = "hydratune export 1"
_GGUF_BYTES = {GgufType.f32: 4.0, GgufType.f16: 2.0, GgufType.bf16: 2.0, GgufType.q8_0: 1.07}


@dataclass(frozen=True)
class Compared:
    """What the parity check says of one form."""

    form: ExportForm
    parity: "Parity"
    limits: "Limits"
    violations: tuple[str, ...]
    facts: dict[str, object]
    is_rounded: bool  # whether its weights have fewer bits than the run's

    def to_json(self) -> dict[str, object]:
        return {
            **self.facts,
            **self.parity.to_json(),
            "limits": asdict(self.limits),
            "passed": not self.violations,
            "violations": list(self.violations),
        }


def export_run(config: ExportSettings) -> tuple[Path, list[Compared]]:
    """Export a run. Returns the folder that was written, and what the check says of each form.

    Raises ``RunError`` where a form is too far from the run's model: it is kept under another name,
    and the other forms are written. Nothing is left behind that looks like an export if this ends
    otherwise.
    """
    finished = open_run(config.run)
    require_adapter(finished.record, "export")
    refuse(obstacles(finished, config.forms))
    folder = output.choose(config.output, finished.record.path)
    opened = open_model(finished, config)
    for form in config.forms:
        if (check := getattr(_module(form), "check", None)) is not None:
            check(opened, config)
    output.require_space(folder, space_needed(opened, config))
    with output.staged(folder) as temporary:
        compared = _write_all(opened, config, temporary)
        write_json(temporary / PARITY_FILE, _record(opened, config, compared))
        refusal = _set_bad_forms_aside(opened, config, compared, temporary, folder)
        if temporary.is_dir():
            output.give_usual_permissions(temporary)
            for sealed in (temporary, *(p for p in temporary.iterdir() if p.is_dir())):
                digests.seal(sealed)
    if refusal is not None:  # after the good forms have got their name
        raise refusal
    return folder, compared


def _set_bad_forms_aside(
    opened: OpenedRun,
    config: ExportSettings,
    compared: Sequence[Compared],
    temporary: Path,
    folder: Path,
) -> RunError | None:
    """Move the forms beyond their limits to another name. Returns what is said of them, if any."""
    bad = [c for c in compared if c.violations]
    good = [c for c in compared if not c.violations]
    if not bad:
        return None
    failed = [f"{c.form.value}: {why}" for c in bad for why in c.violations]
    names = [c.form.value for c in bad] if good else None
    place = output.set_aside(temporary, folder, "; ".join(failed), names)
    todo = rejected.advice(config, {c.form: c.is_rounded for c in bad})
    what, kept = "the export", f"it was kept as {place}, with parity.json; {folder} was not written"
    if good:
        write_json(place / PARITY_FILE, _record(opened, config, bad))
        write_json(temporary / PARITY_FILE, _record(opened, config, good))
        what = "a part of the export"
        kept = (
            f"rejected, and kept in {place}: {', '.join(c.form.value for c in bad)}\n"
            f"within the limits, and written to {folder}: {', '.join(c.form.value for c in good)}"
        )
    lines = [f"{what} is not the model of the run:", *(f"  {reason}" for reason in failed)]
    return RunError("\n".join([*lines, kept, *todo]))


def _write_all(opened: OpenedRun, config: ExportSettings, folder: Path) -> list[Compared]:
    """Write and compare every form, below ``folder``."""
    from hydratune.export import parity
    from hydratune.export.merging import merge

    reading = parity.read(opened.model, opened.test_set, "run")
    merged: PreTrainedModel | None = None
    forms = config.forms
    if set(forms) - {ExportForm.adapter}:
        console.print("[dim]merging")
        merged = merge(opened)
    return [
        _write_form(opened, merged, config, form, reading, _place(folder, form, forms))
        for form in forms
    ]


def _place(folder: Path, form: ExportForm, forms: Sequence[ExportForm]) -> Path:
    """Return the folder of a form: of several, each has its own."""
    if len(forms) == 1:
        return folder
    place = folder / form.value
    place.mkdir()
    return place


def _write_form(
    opened: OpenedRun,
    merged: "PreTrainedModel | None",
    config: ExportSettings,
    form: ExportForm,
    reading: "Reading",
    to: Path,
) -> Compared:
    """Write a form, load it back from the disk, and compare it with the run's model."""
    from hydratune.export import card, parity
    from hydratune.export.limits import Exactness, limits_of, violations

    module = _module(form)
    console.print(f"[dim]writing {form.value}")
    written = module.write(opened, merged, config, to)
    model, tokenizer = module.load(opened, to)
    try:
        rows = opened.test_set.read_by(tokenizer)
    except InputError as error:
        raise RunError(f"the tokenizer of the export reads the rows otherwise: {error}") from error
    measured = parity.compare(reading, parity.read(model, rows, form.value))
    limits = limits_of(written.exactness, config.limits)
    card.write(opened, form, written, measured, module.usage(opened, config), to)
    found = tuple(violations(measured, limits))
    is_rounded = written.exactness is not Exactness.exact
    return Compared(form, measured, limits, found, written.facts, is_rounded)


def _module(form: ExportForm) -> ModuleType:
    """Return the module of a form, which imports torch."""
    from hydratune.export import adapter, gguf_form, merged, ollama, quantised

    modules = {
        ExportForm.merged: merged,
        ExportForm.adapter: adapter,
        ExportForm.quantised: quantised,
        ExportForm.gguf: gguf_form,
        ExportForm.ollama: ollama,
    }
    return modules[form]


def _record(
    opened: OpenedRun, config: ExportSettings, compared: Sequence[Compared]
) -> dict[str, object]:
    """Return the content of parity.json; it names no path of this machine."""
    environment = Environment.read(opened.finished.record.environment_file)
    return {
        "format": FORMAT,
        "run": opened.finished.record.path.name,
        "base": environment.base,
        "data_fingerprint": environment.data_fingerprint,
        "adapter": adapter_digest(opened.adapter_folder),
        "forms": {one.form.value: one.to_json() for one in compared},
    }


def adapter_digest(folder: Path) -> str:
    """Return what is equal only for equal trained weights."""
    return ",".join(digests.of_file(file) for file in sorted(folder.glob("*.safetensors")))


def is_export_of(folder: Path, run: Path) -> bool:
    """Return whether ``folder`` was exported from the weights that a run has now."""
    try:
        record = read_json(folder / PARITY_FILE)
    except (RunError, OSError):
        return False
    is_ours = isinstance(record, dict) and record.get("format") == FORMAT
    return is_ours and record.get("adapter") == adapter_digest(run / "adapter")


def space_needed(opened: OpenedRun, config: ExportSettings) -> int:
    """Return the bytes that the export takes on the disk at most, while it is written."""
    from hydratune.adapters.attach import count_parameters
    from hydratune.export.merged import stored_dtype

    parameters = count_parameters(opened.model)[1]
    files = (file for file in opened.adapter_folder.iterdir() if file.is_file())
    adapter = sum(file.stat().st_size for file in files)
    bits = 0.6 if config.quantization is Quantization.nf4 else 1.1
    gguf = _GGUF_BYTES[config.gguf_type] * parameters
    needed = {
        ExportForm.adapter: float(adapter),
        ExportForm.merged: float(parameters * stored_dtype(opened, config).itemsize),
        ExportForm.quantised: (4 + bits) * parameters,  # with the merged model before it
        ExportForm.gguf: gguf,
        ExportForm.ollama: gguf,
    }
    return int(sum(needed[form] for form in config.forms))
