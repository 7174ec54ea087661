"""Whether runs were made under the same conditions: what differs besides their settings."""

from collections.abc import Callable, Mapping, Sequence

from hydratune.comparison.criterion import Criterion
from hydratune.comparison.entries import Entry, seed_keys
from hydratune.comparison.formatting import format_list
from hydratune.comparison.runs import Run, nested_value

_MOST_NAMES = 3  # of runs in a sentence
_MOST_VALUES = 3  # of a condition in a sentence
_LONGEST_VALUE = 24  # letters
_HASH_LENGTH = 8  # letters of a hash that are shown


def why_not_comparable(entries: Sequence[Entry], by: Criterion) -> str | None:
    """Return why these runs cannot be ranked; None if they can.

    They cannot if their losses are of different validation rows, or their scores of different test
    rows. Where the rows follow the seed, every entry must have been measured on the same ones.
    """

    def rows_hash(run: Run) -> str:
        return run.test_hash if by.on_test else run.validation_hash

    measured = [
        [run for run in entry.finished if rows_hash(run) or not by.on_test] for entry in entries
    ]
    hashes = [sorted(map(rows_hash, runs)) for runs in measured if runs]
    rows_follow_seed = "data.seed" in seed_keys([run for entry in entries for run in entry.runs])
    if len({value for own in hashes for value in own}) < 2:
        return None
    if rows_follow_seed and all(own == hashes[0] for own in hashes):
        return None
    names: dict[tuple[str, str], list[str]] = {}
    for run in (run for runs in measured for run in runs):
        names.setdefault((rows_hash(run), _data_name(run)), []).append(run.name)
    different = "; ".join(
        f"{_run_names(own)}: {data} ({value[:_HASH_LENGTH] or 'not recorded'})"
        for (value, data), own in names.items()
    )
    what = (
        "tested on different rows, so their scores"
        if by.on_test
        else "validated on different rows or tokens, so their losses"
    )
    return (
        f"these runs were {what} cannot be compared ({different}); compare runs with the same"
        f" {'test' if by.on_test else 'validation'} rows"
    )


def _data_name(run: Run) -> str:
    keys = ("data.train", "data.path", "data.source")
    return str(next((value for key in keys if (value := run.settings.get(key))), "data"))


def _gpu_names(environment: Mapping[str, object]) -> str | None:
    return ", ".join(map(str, nested_value(environment, "hardware", "gpus") or [])) or None


_CONDITIONS: dict[str, Callable[[Mapping[str, object]], object]] = {
    "the base model": lambda environment: nested_value(environment, "model", "identity"),
    "the code of hydratune": lambda environment: environment.get("code"),
    "the accelerator": lambda environment: nested_value(environment, "hardware", "accelerator"),
    "the precision": lambda environment: environment.get("precision"),
    "the processor": lambda environment: nested_value(environment, "hardware", "processor"),
    "the GPU": _gpu_names,
}


def differing_conditions(runs: Sequence[Run]) -> list[str]:
    """Return a sentence for each condition that is not the same for all runs that recorded it."""
    values = {name: [read(run.environment) for run in runs] for name, read in _CONDITIONS.items()}
    packages = dict.fromkeys(
        name for run in runs for name in nested_value(run.environment, "versions") or ()
    )
    for name in packages:
        values[name] = [nested_value(run.environment, "versions", name) for run in runs]
    for split, name in (("train", "the training rows"), ("test", "the test rows")):
        values[name] = [nested_value(run.data, "splits", split, "hash") for run in runs]
    sentences = [_difference(name, own, runs) for name, own in values.items()]
    return [sentence for sentence in sentences if sentence is not None]


def _difference(condition: str, values: Sequence[object], runs: Sequence[Run]) -> str | None:
    """Return a sentence about a condition that differs; None if it does not."""
    names: dict[str, list[str]] = {}
    for run, value in zip(runs, values, strict=True):
        if value is not None:
            names.setdefault(str(value), []).append(run.name)
    if len(names) < 2:
        return None
    frequent = sorted(names.items(), key=lambda item: -len(item[1]))[:_MOST_VALUES]
    shown = "; ".join(f"{value[:_LONGEST_VALUE]}: {_run_names(own)}" for value, own in frequent)
    verb = "differ" if condition.endswith("rows") else "differs"
    return f"{condition} {verb} between runs ({shown})"


def _run_names(names: Sequence[str]) -> str:
    return f"run{'s' * (len(names) > 1)} {format_list(names, _MOST_NAMES)}"
