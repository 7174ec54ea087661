"""Whether runs were made under the same conditions: what differs besides their settings."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from hydratune.comparison.criterion import Criterion
from hydratune.comparison.entries import group_runs, seed_keys
from hydratune.comparison.formatting import canonical, format_list, format_value
from hydratune.comparison.runs import Run, nested_value
from hydratune.settings.secrets import mask
from hydratune.wording import noun_for

_MOST_NAMES = 3  # of runs in a sentence
_MOST_VALUES = 3  # of a condition in a sentence
_MOST_SETTINGS = 2  # of the data in a reason
# settings that give runs different numbers of training rows
SIZE_SETTINGS = ("data.train_share", "data.max_train_rows")
_NOT_THE_ROWS = ("data.batch_size", "data.schema_file")  # settings of data that change no row
_LONGEST_VALUE = 24  # letters
_HASH_LENGTH = 8  # letters of a hash that are shown


def set_aside_incomparable(
    runs: Sequence[Run], by: Criterion
) -> tuple[list[Run], str | None, str | None]:
    """Return (runs, a sentence on those that were set aside, why there is no ranking).

    A loss can be compared only with one of the same validation rows in the same tokens, a test
    metric only with one of the same test rows. The runs that most others can be compared with are
    ranked; of equally many, those with the rows of the run that comes first. The others carry the
    reason. If fewer than two entries would remain, none is set aside and there is no ranking.
    """
    runs = [replace(run, set_aside=None) for run in runs]
    rows, entry_numbers = _measured_rows(runs, by)
    counts = Counter(rows.values())
    if len(counts) < 2:
        return runs, None, None
    most = max(counts.values())
    reference = next(number for number in sorted(rows) if counts[rows[number]] == most)
    ranked = [number for number in rows if rows[number] == rows[reference]]
    if len({entry_numbers[number] for number in ranked}) < 2:
        return runs, None, _why_not_ranked([runs[number] for number in sorted(rows)], by)
    others = sorted(rows.keys() - set(ranked))
    reasons = {number: _reason(runs[number], runs[reference], by) for number in others}
    marked = [replace(run, set_aside=reasons.get(number)) for number, run in enumerate(runs)]
    is_tie = sum(count == most for count in counts.values()) > 1
    return marked, _describe_set_aside(marked, marked[reference], len(ranked), by, is_tie), None


def _measured_rows(
    runs: Sequence[Run], by: Criterion
) -> tuple[dict[int, tuple[str, ...]], dict[int, int]]:
    """Return (the rows of each run that has a score, the number of its entry), by its position.

    Where the rows follow the seed, those of a run are the rows of all seeds of its entry. Runs
    without known test rows are ranked with the others.
    """
    rows: dict[int, tuple[str, ...]] = {}
    entry_numbers: dict[int, int] = {}
    positions = {id(run): position for position, run in enumerate(runs)}
    rows_follow_seed = "data.seed" in seed_keys(runs)
    for entry_number, entry in enumerate(group_runs(runs, by)):
        own = {positions[id(run)]: _rows_hash(run, by) for run in entry.finished}
        own = {position: value for position, value in own.items() if value or not by.on_test}
        together = tuple(sorted(set(own.values())))
        for position, value in own.items():
            rows[position] = together if rows_follow_seed else (value,)
            entry_numbers[position] = entry_number
    return rows, entry_numbers


def _rows_hash(run: Run, by: Criterion) -> str:
    """Return a text that is the same for runs whose scores are of the same rows."""
    if by.on_test:
        return run.test_hash
    if by.on_validation_answers and run.validation_rows_hash:
        return f"{run.validation_rows_hash} {run.settings.get('evaluation.validation_rows')}"
    return run.validation_hash


def _reason(run: Run, reference: Run, by: Criterion) -> str:
    """Return why ``run`` cannot be compared with ``reference``."""
    which = _differing_data(run, reference)
    if by.on_test:
        return f"tested on other rows{which}"
    if not run.validation_hash or not reference.validation_hash:
        return "whether it was validated on the same rows is not recorded"
    same_rows = run.validation_rows_hash == reference.validation_rows_hash != ""
    if by.on_validation_answers or not same_rows:
        return f"validated on other rows{which}"
    if (model := _model(run)) != _model(reference):
        return f"the losses of another base model ({model or 'unknown'}) are of other tokens"
    return "the same validation rows are other tokens: the chat template or a setting of data"


def _differing_data(run: Run, reference: Run) -> str:
    """Return the settings of the data that differ, in brackets; "" if none does."""
    keys = dict.fromkeys([*run.settings, *reference.settings])
    keys_of_data = [key for key in keys if key.startswith("data.") and key not in _NOT_THE_ROWS]
    pairs = {key: (run.settings.get(key), reference.settings.get(key)) for key in keys_of_data}
    texts = [
        f"{key}={format_value(own)}, not {format_value(usual)}"
        for key, (own, usual) in pairs.items()
        if canonical(own) != canonical(usual)
    ]
    return f" ({mask(format_list(texts, _MOST_SETTINGS, '; '))})" if texts else ""


def _model(run: Run) -> str:
    identity = nested_value(run.environment, "model", "identity")
    return str(run.settings.get("model.name") or identity or "")


def _describe_set_aside(
    runs: Sequence[Run], reference: Run, ranked: int, by: Criterion, is_tie: bool
) -> str:
    """Return a sentence on the runs that were set aside, and on what decided."""
    names: dict[str, list[str]] = {}
    for run in runs:
        if run.set_aside:
            names.setdefault(run.set_aside, []).append(run.name)
    which = "; ".join(f"{_run_names(own)}: {reason}" for reason, own in names.items())
    rows = "test rows" if by.on_test else "validation rows"
    decided = f"the {rows} that most runs have"
    if is_tie:
        decided = f"the {rows} of run {reference.name}, the first of equally many"
    return f"set aside, not ranked: {which}. The {ranked} ranked runs have {decided}"


def _why_not_ranked(runs: Sequence[Run], by: Criterion) -> str:
    """Return why no two entries of these finished runs can be compared."""
    names: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        names.setdefault((_rows_hash(run, by), _data_name(run)), []).append(run.name)
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
        if split == "test" or not _vary_in_size(runs):  # then they are to differ
            values[name] = [nested_value(run.data, "splits", split, "hash") for run in runs]
    sentences = [_difference(name, own, runs) for name, own in values.items()]
    return [sentence for sentence in sentences if sentence is not None]


def _vary_in_size(runs: Sequence[Run]) -> bool:
    """Return whether the settings of runs give them different numbers of training rows."""
    return any(len({canonical(run.settings.get(key)) for run in runs}) > 1 for key in SIZE_SETTINGS)


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
    return f"{noun_for(len(names), 'run')} {format_list(names, _MOST_NAMES)}"
