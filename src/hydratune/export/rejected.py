"""What can be done where an export is too far from the run's model."""

from collections.abc import Iterator, Mapping

from hydratune.settings.export import ExportForm, ExportSettings, GgufType, StoredType
from hydratune.settings.model import Quantization


def advice(config: ExportSettings, rejected: Mapping[ExportForm, bool]) -> Iterator[str]:
    """Yield what to type instead. ``rejected``: of each form, whether its weights are rounded."""
    for form, is_rounded in rejected.items():
        if is_rounded and (finer := _finer(form, config)):
            yield (
                f"{form.value}: {finer} rounds the weights less; if you accept the loss, set the"
                " limits that are named above"
            )
        else:
            yield f"{form.value}: rounding does not explain this; please report it"


def _finer(form: ExportForm, config: ExportSettings) -> str:
    """Return a setting with which a form rounds less, or ""."""
    if form is ExportForm.quantised:
        return "quantization=int8" if config.quantization is Quantization.nf4 else "form=merged"
    if form in (ExportForm.gguf, ExportForm.ollama):
        finer = {GgufType.q8_0: "gguf_type=f16", GgufType.f32: ""}
        return finer.get(config.gguf_type, "gguf_type=f32")
    return "" if config.dtype is StoredType.float32 else "dtype=float32"
