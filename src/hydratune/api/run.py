"""``hydratune.Run``: a run directory, read."""

import html
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hydratune import digests
from hydratune.api.pages import show_page
from hydratune.api.rows import as_given
from hydratune.console import relative_path
from hydratune.errors import InputError, RunError
from hydratune.metric_format import with_interval, with_unit
from hydratune.metric_table import split_system, title
from hydratune.records.files import read_jsonl
from hydratune.records.headline import headline
from hydratune.records.metrics import RunMetrics
from hydratune.records.run_directory import RunDirectory, RunFile
from hydratune.records.status import State
from hydratune.settings.commands import ExportConfig, TrainConfig
from hydratune.settings.registry import flat, plain

if TYPE_CHECKING:
    import pandas
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PAGE_HEIGHT = 700  # pixels
_SHOWN = ("objective", "eval/", "base/")  # metrics in the summary of a notebook begin so
_MOST_SHOWN = 12


class Run:
    """A run directory: what was set, measured and trained.

    Nothing is read before it is asked for, and nothing is changed.
    """

    def __init__(self, path: str | Path) -> None:
        """Open the run directory ``path``. Raises ``RunError`` if it holds no run."""
        if not isinstance(path, str | Path):
            raise InputError(f"path = {path!r}: give a run directory, such as outputs/NAME/TIME")
        self.path = Path(path).expanduser().absolute()
        self._record = RunDirectory(self.path)
        if not self._record.status_file.is_file():
            what = "no run in it (no status.json)" if self.path.is_dir() else "no such directory"
            raise RunError(f"{path}: {what}; give a run directory from outputs/")

    @property
    def name(self) -> str:
        """Model, data and the settings that matter most, in one line."""
        return headline(flat(plain(self.config)))

    @property
    def state(self) -> str:
        """``finished``, ``running``, ``stopped``, ``failed`` or ``waiting``."""
        state = self._record.read_status().state
        return state.value if isinstance(state, State) else "not started"

    @property
    def config(self) -> TrainConfig:
        """The settings of the run. Raises ``RunError`` if they cannot be read."""
        from hydratune.experiment.finished_run import load_settings

        return load_settings(self._record)

    @property
    def adapter(self) -> Path:
        """The folder of the trained adapter, in PEFT's format; of a whole model if no adapter was
        trained.
        """
        return self._record.adapter

    @property
    def report(self) -> Path:
        """The page of the run, report.html."""
        return self._record.file(RunFile.report)

    def value(self, metric: str) -> float:
        """Return one metric, such as ``eval/field_f1`` or ``val/loss``.

        Raises ``KeyError`` with the names that there are.
        """
        values = self._metrics().values
        if metric not in values:
            raise KeyError(f"{metric}: the run has {', '.join(sorted(values))}")
        return values[metric]

    @property
    def metrics(self) -> "pandas.DataFrame":
        """Every metric of the run, by name: ``value``, confidence interval ``low`` to ``high``,
        ``title`` and ``system`` (eval is the fine-tuned model).

        Rates are shares of 1. Raises ``RunError`` if the run has no metrics.
        """
        import pandas

        measured = self._metrics()
        rows = []
        for name, value in measured.values.items():
            low, high = measured.intervals.get(name, (math.nan, math.nan))[:2]
            system = split_system(name)[0]
            rows.append((name, float(value), low, high, title(name), system))
        columns = ["metric", "value", "low", "high", "title", "system"]
        return pandas.DataFrame(rows, columns=columns).set_index("metric")

    @property
    def history(self) -> "pandas.DataFrame":
        """The course of training: a row for every optimizer step, losses in nats per token."""
        import pandas

        file = self._record.history_file
        if not file.is_file():
            raise RunError(f"{file}: no such file; the run has trained nothing yet")
        digests.content(file)
        return pandas.read_csv(file)

    @property
    def predictions(self) -> "pandas.DataFrame":
        """The answers of the fine-tuned model to the test rows; scores are columns."""
        return self.predictions_of("eval")

    def predictions_of(self, system: str) -> "pandas.DataFrame":
        """Return the answers of ``base``, ``fewshot`` or ``eval``, the fine-tuned model.

        ``prompt`` and ``request`` are lists of messages; a score is a column of its name. Raises
        ``RunError`` if there are none.
        """
        import pandas

        file = self._record.predictions_file(system)
        if not file.is_file():
            raise RunError(f"{file}: no such file; the run has no answers of {system}")
        rows = read_jsonl(file)
        if not rows:
            return pandas.DataFrame()
        scores = pandas.DataFrame([_numbers(row.get("scores")) for row in rows])
        answers = pandas.DataFrame(rows).drop(columns="scores", errors="ignore")
        new = [name for name in scores.columns if name not in answers.columns]
        return pandas.concat([answers, scores[new]], axis=1)

    def load_model(
        self, base: "PreTrainedModel | None" = None, device: "str | torch.device | None" = None
    ) -> "tuple[PeftModel | PreTrainedModel, PreTrainedTokenizerBase]":
        """Return the fine-tuned model and its tokenizer, ready to generate.

        ``base``: the loaded base model, if the run was given one from memory; the adapter is
        attached to it. ``device``: by default the first GPU in bf16, without one the CPU. Raises
        ``RunError`` if files were changed, or if the base model is not the one that was trained.
        """
        from hydratune.api.tuned_model import load

        return load(self._record, self.config, base, device)

    def export(self, output: str | Path, form: str | list[str] = "merged", **settings: Any) -> Path:
        """Write the fine-tuned model for other programs, and return the folder.

        ``settings``: those of ``hydratune export``, such as ``gguf_type="q8_0"``. Raises
        ``RunError`` if what was written does not answer as the run's model did.
        """
        from hydratune.export.exporting import export_run

        values = {**settings, "run": str(self.path), "output": str(output), "form": form}
        try:
            merged = OmegaConf.merge(OmegaConf.structured(ExportConfig), values)
            config = OmegaConf.to_object(merged)
        except OmegaConfBaseException as error:
            raise InputError(f"settings of an export: {str(error).splitlines()[0]}") from None
        assert isinstance(config, ExportConfig)
        config.check()
        return export_run(config)[0]

    def show(self, height: int = _PAGE_HEIGHT) -> None:
        """Show the page of the run in a notebook; elsewhere, print where it is."""
        if not self.report.is_file():
            raise RunError(
                f"{self.report}: no such file; the run is {self.state}, and its report is written"
                " at the end"
            )
        show_page(self.report, height)

    def _metrics(self) -> RunMetrics:
        if not self._record.metrics_file.is_file():
            why = as_given(self._record.read_status().error or "")
            reason = f" ({why})" if why else ""
            raise RunError(
                f"{self.path}: the run is {self.state}{reason} and has no metrics; the same"
                " settings with directory=... resume it"
            )
        return RunMetrics.read(self._record.metrics_file)

    def __repr__(self) -> str:
        return f"Run({str(relative_path(self.path))!r}, {self.state})"

    def _repr_html_(self) -> str:
        lines = [f"<b>{html.escape(self.name)}</b><br>{html.escape(repr(self))}"]
        if self._record.metrics_file.is_file():
            measured = self._metrics()
            names = [name for name in measured.values if name.startswith(_SHOWN)][:_MOST_SHOWN]
            rows = [(name, _written(measured, name)) for name in names]
            cells = "".join(
                f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>"
                for name, value in rows
            )
            lines.append(f"<table><tr><th>metric</th><th>value</th></tr>{cells}</table>")
        return "".join(lines)


def load_runs(folder: str | Path) -> list[Run]:
    """Return the runs in and below ``folder``, a sweep among them.

    Raises ``InputError`` if there are none.
    """
    from hydratune.comparison.collect import collect_runs

    if not isinstance(folder, str | Path):
        raise InputError(f"folder = {folder!r}: give one folder, such as outputs/")
    found = collect_runs([Path(folder).expanduser()])
    runs = [Run(run.path) for run in found if (run.path / RunFile.status).is_file()]
    if not runs:
        raise InputError(f"{folder}: no run in it; give a folder such as outputs/")
    return runs


def _numbers(scores: object) -> dict[str, object]:
    """Return the scores of an answer that are single values."""
    if not isinstance(scores, Mapping):
        return {}
    return {name: value for name, value in scores.items() if isinstance(value, bool | int | float)}


def _written(measured: RunMetrics, name: str) -> str:
    value, interval = measured.values[name], measured.intervals.get(name)
    if interval is None:
        return with_unit(name, value)
    return with_interval(name, value, (interval[0], interval[1]))
