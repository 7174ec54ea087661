"""Read what ``hydratune judge`` judges: the answers of one or two systems, and people's labels."""

from pathlib import Path

from hydratune.data.rows import stable_hash
from hydratune.errors import ConfigError, InputError, Problem, RunError
from hydratune.evaluation.judge import questions, summary
from hydratune.evaluation.measures import request_turns
from hydratune.records.files import read_jsonl
from hydratune.records.predictions import Prediction, read_predictions
from hydratune.records.run_directory import RunDirectory
from hydratune.settings.commands import JudgeConfig

SYSTEMS = ("eval", "base", "fewshot")
_REQUIRED = ("id", "prompt", "prediction", "reference")  # keys of a prediction
Label = str | int


def read_answers(
    record: RunDirectory, system: str, option: str, most: int | None = None
) -> list[Prediction]:
    """Return the predictions of a system, at most ``most``, chosen by the hashes of their ids.

    Raises ``ConfigError`` for the setting ``option`` if there are none, ``RunError`` for a row that
    is incomplete.
    """
    file = record.predictions_file(system)
    if not file.is_file():
        present = [name for name in SYSTEMS if record.predictions_file(name).is_file()]
        why = (
            f"no {file.name} in {record.path}; systems with answers there:"
            f" {', '.join(present) or 'none'}"
        )
        fix = "name a finished run and one of its systems"
        raise ConfigError([Problem(option, system, why, fix)])
    rows = read_predictions(file)
    for number, row in enumerate(rows, 1):
        missing = [name for name in _REQUIRED if name not in row]
        if missing:
            raise RunError(
                f"{file}:{number}: no {', '.join(missing)} in this row; the file was changed"
            )
    return sorted(rows, key=lambda row: stable_hash(str(row["id"])))[:most]


def read_other_answers(
    record: RunDirectory, config: JudgeConfig, ours: list[Prediction]
) -> list[Prediction] | None:
    """Return the answers of ``against`` to the same requests as ``ours``; None without it.

    Raises ``ConfigError`` if it is neither a system nor a run, or was asked other requests.
    """
    if config.against is None:
        return None
    if config.against in SYSTEMS:
        others = read_answers(record, config.against, "against")
    else:
        folder = Path(config.against)
        if not folder.is_dir():
            why = "neither a folder nor a system"
            fix = f"give a run directory, or a system of the same run: {', '.join(SYSTEMS)}"
            raise ConfigError([Problem("against", config.against, why, fix)])
        others = read_answers(RunDirectory(folder.resolve()), config.system, "against")
    by_id = {row["id"]: row for row in others}
    different = [
        row["id"]
        for row in ours
        if row["id"] not in by_id or request_turns(by_id[row["id"]]) != request_turns(row)
    ]
    if different:
        why = (
            f"{len(different)} of {len(ours)} rows have no answer there to the same request, the"
            f" first: {different[0]}"
        )
        raise ConfigError([Problem("against", "...", why, "compare runs with the same test rows")])
    return [by_id[row["id"]] for row in ours]


def read_labels(config: JudgeConfig) -> dict[str, Label]:
    """Return id -> label that a person gave: a winner if pairs are judged, else a score.

    Empty without ``labels``. Raises ``InputError`` for a line that is no label.
    """
    if config.labels is None:
        return {}
    file = Path(config.labels)
    if not file.is_file():
        raise ConfigError([Problem("labels", file, "no such file", "give a JSONL file")])
    key, allowed = label_key(config)
    labels: dict[str, Label] = {}
    for number, row in enumerate(read_jsonl(file), 1):
        value = row.get(key) if isinstance(row, dict) else None
        if value not in allowed or isinstance(value, bool) or "id" not in row:
            form = f'{{"id": ..., "{key}": one of {", ".join(map(str, allowed))}}}'
            raise InputError(f"{file}:{number}: a label is {form}")
        labels[row["id"]] = value
    return labels


def label_key(config: JudgeConfig) -> tuple[str, tuple[Label, ...]]:
    """Return the field of a judgement that people label, and its values in their order."""
    return ("winner", summary.OUTCOMES) if config.against else ("score", questions.SCORES)
