"""What is said of the trials of a sweep beside its largest one: warnings, what does not fit, and
the models side by side.
"""

from collections.abc import Iterator, Mapping, Sequence

from hydratune.planning.advice import FirstSweep
from hydratune.planning.plan import Plan
from hydratune.planning.terminal import amount, gib, spoken
from hydratune.settings.data import Level
from hydratune.settings.registry import override_key
from hydratune.wording import counted

MODEL_COLUMNS = (
    "model",
    "parameters",
    "needs GiB",
    "fits",
    "time of a trial",
    "money",
    "context",
    "licence",
    "commercial use",
)
_UNKNOWN = "unknown"
_CHOOSE_MODEL = ("model", "experiment")  # options with a base model


def trial_lines(plans: Mapping[int, Plan]) -> Iterator[str]:
    """Yield what holds for some trials and not for all, with their numbers."""
    if too_large := [number for number, plan in plans.items() if plan.here.fits is False]:
        place = plans[too_large[0]].here.place.name
        yield f"{_named(too_large, plans)}: more memory than {place} has"
    found: dict[str, list[int]] = {}
    for number, plan in plans.items():
        for warning in plan.warnings:
            if warning.level is not Level.off:
                found.setdefault(f"{warning.text} (source: {warning.source})", []).append(number)
    for text, numbers in found.items():
        if len(numbers) < len(plans):  # what holds for all is said of the largest trial
            yield f"{_named(numbers, plans)}: {text}"


def _named(numbers: Sequence[int], plans: Mapping[int, Plan]) -> str:
    if len(numbers) == len(plans):
        return "all trials"
    if len(numbers) > 5:
        return f"{counted(len(numbers), 'trial')} ({', '.join(map(str, numbers[:5]))}, ...)"
    return f"trial{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def by_model(plans: Mapping[int, Plan]) -> dict[str, list[int]]:
    """Return the numbers of the trials of each base model."""
    found: dict[str, list[int]] = {}
    for number, plan in plans.items():
        found.setdefault(str(plan.needs.config.model.name), []).append(number)
    return found


def models(plans: Mapping[int, Plan]) -> list[Plan]:
    """Return the trial of each base model that needs most; none if all have the same."""
    found = [largest({n: plans[n] for n in numbers}) for numbers in by_model(plans).values()]
    return found if len(found) > 1 else []


def first_sweeps(plans: Mapping[int, Plan]) -> tuple[tuple[str, FirstSweep], ...]:
    """Return a sweep with which to begin for each model other than that of the largest trial."""
    shown = str(largest(plans).needs.config.model.name)
    every = ((str(plan.needs.config.model.name), plan.first_sweep) for plan in models(plans))
    return tuple((name, sweep) for name, sweep in every if name != shown)


def of_one_model(typed: Sequence[str], trial: Sequence[str]) -> list[str]:
    """Return what was typed of a sweep, with that model of several that one trial has."""
    own = {override_key(word): word for word in trial}
    return [
        own.get(key, word) if key in _CHOOSE_MODEL or key.startswith("model.") else word
        for word, key in ((word, override_key(word)) for word in typed)
    ]


def model_cells(plan: Plan) -> tuple[str, ...]:
    """Return the columns of a model as texts."""
    fits = {True: "yes", False: "no", None: _UNKNOWN}[plan.here.fits]
    seconds, money = plan.duration.seconds, plan.duration.money
    return (
        str(plan.needs.config.model.name),
        f"{plan.needs.structure.parameters / 1e9:.3g}B",
        gib(plan.here.total),
        fits,
        _UNKNOWN if seconds is None else spoken(seconds),
        "" if money is None else amount(money),
        _UNKNOWN if plan.window is None else f"{plan.window:,}",
        plan.licence.name,
        plan.licence.commercial_use,
    )


def largest(plans: Mapping[int, Plan]) -> Plan:
    """Return the plan of the trial that takes most memory."""
    return max(plans.values(), key=lambda plan: plan.here.total)
