"""Were the runs made under the same conditions? What differs beside the settings, in words."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hydratune.comparison.entries import Entry, seed_keys
from hydratune.comparison.names import Criterion
from hydratune.comparison.runs import Run, inside

_SHOWN = 3  # names of runs


def different_rows(found: Sequence[Entry], by: Criterion) -> str | None:
    """Why these runs cannot be ranked: their losses are of different validation rows, or their
    scores of different test rows.

    None if they are of the same. Where the rows follow the seed, every entry must have seen the
    same ones.
    """

    def seen(run: Run) -> str:
        return run.tested_on if by.on_test else run.measured_on

    known = [[run for run in entry.finished if seen(run) or not by.on_test] for entry in found]
    counted = [run for some in known for run in some]
    rows = [sorted(map(seen, some)) for some in known if some]
    follow = "data.seed" in seed_keys([run for entry in found for run in entry.runs])
    if len({one for some in rows for one in some}) < 2 or (
        follow and all(some == rows[0] for some in rows)
    ):
        return None
    sets: dict[tuple[str, str], list[str]] = {}
    for run in counted:
        sets.setdefault((seen(run), _data(run)), []).append(run.name)
    told = "; ".join(
        f"{_names(names)}: {data} ({hash_[:8] or 'not written down'})"
        for (hash_, data), names in sets.items()
    )
    what = (
        "tested on different rows, so their scores"
        if by.on_test
        else "validated on different rows or tokens, so their losses"
    )
    return f"these runs were {what} cannot be compared ({told}); compare those of one kind"


def _data(run: Run) -> str:
    settings = run.settings
    return str(
        settings.get("data.train")
        or settings.get("data.path")
        or settings.get("data.source")
        or "data"
    )


def differences(runs: Sequence[Run]) -> list[str]:
    """One sentence for each condition that is not the same for all runs that wrote it down."""
    checks: dict[str, Callable[[Mapping[str, Any]], Any]] = {
        "the base model": lambda e: inside(e, "model", "identity"),
        "the code of hydratune": lambda e: e.get("code"),
        "the accelerator": lambda e: inside(e, "hardware", "accelerator"),
        "the precision": lambda e: e.get("precision"),
        "the processor": lambda e: inside(e, "hardware", "processor"),
        "the GPU": lambda e: ", ".join(map(str, inside(e, "hardware", "gpus") or [])) or None,
    }
    told = [_told(what, [of(run.environment) for run in runs], runs) for what, of in checks.items()]
    packages = dict.fromkeys(
        name for run in runs for name in inside(run.environment, "versions") or ()
    )
    told += [
        _told(name, [inside(run.environment, "versions", name) for run in runs], runs)
        for name in packages
    ]
    for split, what in (("train", "the training rows"), ("test", "the test rows")):
        told.append(_told(what, [inside(run.data, "splits", split, "hash") for run in runs], runs))
    return [line for line in told if line is not None]


def _told(what: str, values: Sequence[Any], runs: Sequence[Run]) -> str | None:
    by_value: dict[str, list[str]] = {}
    for run, value in zip(runs, values, strict=True):
        if value is not None:
            by_value.setdefault(str(value), []).append(run.name)
    if len(by_value) < 2:
        return None
    often = sorted(by_value.items(), key=lambda item: -len(item[1]))
    shown = "; ".join(f"{value[:24]}: {_names(names)}" for value, names in often[:_SHOWN])
    return f"{what} differ{'' if what.endswith('rows') else 's'} between runs ({shown})"


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"run{'s' * (len(names) > 1)} {', '.join(names[:_SHOWN])}{more}"
