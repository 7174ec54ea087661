"""One run as the comparison sees it: what its directory says. Reads run directories only."""

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf._utils import get_yaml_loader

from hydratune import digests
from hydratune.bounds import check_yaml
from hydratune.data.rows import stable_hash
from hydratune.errors import InputError, RunError
from hydratune.metric_table import VALIDATION
from hydratune.records.files import read_json, read_jsonl, read_text
from hydratune.records.predictions import Prediction, read_predictions
from hydratune.records.run_directory import HistoryRow, RunDirectory, RunFile
from hydratune.records.status import Halved, State
from hydratune.settings.registry import flat

UNREADABLE = "unreadable"  # the state of a run whose files are broken


@dataclass(frozen=True)
class Run:
    """One run directory."""

    path: Path
    state: str
    error: str | None
    settings: Mapping[str, object]  # by flat name, such as optimizer.lr
    metrics: Mapping[str, object]  # the content of metrics.json
    validation_hash: str = ""  # of the validation rows, as tokens
    halved: Halved | None = None
    environment: Mapping[str, object] = field(default_factory=dict)  # of environment.json
    data: Mapping[str, object] = field(default_factory=dict)  # of data.json
    wandb_id: str | None = None
    damage: tuple[str, ...] = ()  # what is wrong with files that the ranking does not depend on
    label: str | None = None  # the name, where that of the folder alone would be ambiguous
    partial: bool = False  # of its settings only those are known that vary in its sweep
    set_aside: str | None = None  # why it cannot be compared with the other runs

    @property
    def objective(self) -> float | None:
        """The validation loss; None for a run that takes no part in the ranking.

        That is a run that did not finish, has no finite loss, forgot more than its budget, or was
        set aside.
        """
        if self.state != State.finished.value or self.over_budget or self.set_aside:
            return None
        value = self.metrics.get("objective")
        return value if isinstance(value, int | float) and math.isfinite(value) else None

    @property
    def over_budget(self) -> bool:
        """Whether the run forgot more than it was allowed to."""
        return self.metrics.get("forgetting/within_budget") is False

    @property
    def stopped_early(self) -> tuple[int, int] | None:
        """The step after which early stopping ended training, of how many; None: it did not."""
        own = [
            nested_value(self.metrics, "settings", "objective", "stopped_early", name)
            for name in ("step", "planned")
        ]
        step, planned = (value if isinstance(value, int) else None for value in own)
        return None if step is None or planned is None else (step, planned)

    @property
    def only_logged(self) -> bool:
        """Whether all that is known about the run comes from W&B's files."""
        return False

    @property
    def name(self) -> str:
        """The label, or else the name of the run's folder."""
        return self.label or self.path.name

    @property
    def validation_rows_hash(self) -> str:
        """The hash of the validation rows, independent of the tokenizer; empty if it is unknown."""
        return str(nested_value(self.data, "splits", "validation", "hash") or "")

    @property
    def test_hash(self) -> str:
        """The hash of the test rows, independent of the tokenizer; empty if it is unknown."""
        if recorded := nested_value(self.data, "splits", "test", "hash"):
            return str(recorded)
        try:
            items = [str(row.get("item_hash")) for row in self.predictions()]
        except (RunError, AttributeError):
            return ""
        return stable_hash(items) if items else ""

    def value(self, metric: str) -> float | None:
        """Return a number of metrics.json; None if it is missing or not a finite number."""
        value = self.metrics.get(metric)
        if not isinstance(value, int | float) or isinstance(value, bool):
            return None
        return float(value) if math.isfinite(value) else None

    def interval(self, metric: str) -> tuple[float, float] | None:
        """Return the confidence interval of a metric; None if it has none of two finite numbers."""
        edges = nested_value(self.metrics, "intervals", metric)
        if not isinstance(edges, list) or len(edges) != 2:
            return None
        low, high = edges
        if not all(isinstance(edge, int | float) and math.isfinite(edge) for edge in edges):
            return None
        return float(low), float(high)

    @property
    def truncated_answers(self) -> int:
        """The number of answers that ended at the token limit.

        Runs of older versions recorded only the share of answers that were finished.
        """
        count, finished = self.value("eval/cut"), self.value("eval/finished")
        rows = nested_value(self.metrics, "settings", "eval", "rows")
        if count is None and finished is not None and isinstance(rows, int):
            count = (1 - finished) * rows
        return round(count or 0)

    def predictions(self, system: str = "eval") -> list[Prediction]:
        """Return the predictions of a system; empty if it has none.

        ``val``: the answers of the kept weights to the validation rows. Raises ``RunError`` for a
        broken file.
        """
        record = RunDirectory(self.path)
        if system != VALIDATION:
            file = record.predictions_file(system)
            return read_predictions(file) if file.is_file() else []
        file, step = record.file(RunFile.validation), self._kept_step
        rows = read_jsonl(file) if step is not None and file.is_file() else []
        return cast("list[Prediction]", [row for row in rows if row["step"] == step])

    @property
    def _kept_step(self) -> object:
        """The step at which the kept weights answered validation rows; None: they did not."""
        return nested_value(self.metrics, "settings", "validation", "step")

    def history(self) -> list[HistoryRow]:
        """Return the numbers of each logged step; empty if there is no readable history."""
        file = RunDirectory(self.path).history_file
        try:
            rows = list(csv.DictReader(io.StringIO(read_text(file))))
            return [
                {key: float(value) for key, value in row.items() if key and value} for row in rows
            ]
        except (RunError, OSError, ValueError, csv.Error):
            return []


def read_run(path: Path) -> Run:
    """Read one run directory; a broken one is "unreadable", so that the others can be ranked."""
    record = RunDirectory(path)
    try:
        status = record.read_status()
        settings = _read_settings(record.config_file) if record.config_file.is_file() else {}
        data = _read_object(record.data_file)
        validation = nested_value(data, "splits", "validation")
        hashes = [nested_value(validation, name) for name in ("tokens_hash", "hash")]
        return Run(
            path,
            str(status.content.get("state") or "unknown"),
            status.error,
            settings,
            _read_object(record.metrics_file),
            validation_hash=next((str(value) for value in hashes if value), ""),
            halved=status.halved,
            environment=_read_object(record.environment_file),
            data=data,
            wandb_id=status.wandb_id,
            damage=tuple(digests.problems(path)),
        )
    except (InputError, RunError, yaml.YAMLError, ValueError, AttributeError) as error:
        return Run(path, UNREADABLE, str(error), {}, {})


class _SettingsLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads YAML that OmegaConf wrote into the same values, 20 times as fast as its own loader."""

    yaml_implicit_resolvers = get_yaml_loader().yaml_implicit_resolvers


def _read_settings(file: Path) -> dict[str, object]:
    """Return the settings of config.yaml by flat name; an empty file has none.

    Raises ``ValueError`` for a file that is not a mapping, or that contains YAML aliases: a few
    lines of them can expand to any number of values, and hydratune never writes them.
    """
    check_yaml(file)
    text = read_text(file)
    if "*" in text:
        events = yaml.parse(text, Loader=_SettingsLoader)
        if any(isinstance(event, yaml.AliasEvent) for event in events):
            raise ValueError(f"{file} holds YAML aliases, which hydratune never writes")
    content = yaml.load(text, Loader=_SettingsLoader) or {}
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no settings")
    return flat({str(key): value for key, value in content.items()})


def parse_setting(text: str) -> object:
    """Return the value of a setting that a sweep recorded as text; the text if it is no value."""
    try:
        return yaml.load(text, Loader=_SettingsLoader)
    except yaml.YAMLError:
        return text


def nested_value(values: object, *keys: str) -> Any:
    """Return the value under ``keys`` of nested JSON objects; None if it is not there."""
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def _read_object(file: Path) -> dict[str, object]:
    """Return the JSON object in ``file``; empty if there is no such file.

    Raises ``RunError`` for a file that is incomplete, ``ValueError`` for one that holds no object.
    """
    content = read_json(file) if file.is_file() else {}
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no object")
    return content
