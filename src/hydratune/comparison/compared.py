"""A comparison: everything that is said of a set of runs, for the terminal, the page and the exports alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hydratune.comparison import conditions, effects, ties
from hydratune.comparison.effects import Effect
from hydratune.comparison.entries import Entry, entries, seed_keys, spread, told_apart, varying
from hydratune.comparison.entries import named as named_entry
from hydratune.comparison.names import COSTS, Criterion, lower_is_better, title
from hydratune.comparison.runs import Run
from hydratune.comparison.ties import Against
from hydratune.errors import InputError

_FRONTS = ("forgetting/bits_per_byte_delta", "cost/cpu_seconds")  # what quality is weighed against
_ALWAYS = ("eval/schema_valid", "eval/exact_match", "eval/nll", "forgetting/bits_per_byte_delta", "memorisation/difference")


@dataclass(frozen=True)
class Front:
    """Runs that no other beats in two metrics at once."""

    x: str
    y: str
    x_lower: bool
    y_lower: bool
    runs: tuple[Run, ...]  # in the order of x


@dataclass(frozen=True)
class Comparison:
    """``ranked``: entries, the best first; with ``refused`` they are in no order."""

    by: Criterion
    runs: tuple[Run, ...]
    ranked: tuple[Entry, ...]
    keys: tuple[str, ...]  # settings that vary, the seed aside where it makes replicates
    metrics: tuple[str, ...]  # shown beside the criterion
    refused: str | None  # why there is no ranking
    notes: tuple[str, ...]  # what one should know before believing it
    against: Mapping[int, Mapping[str, Against]]  # place in ``ranked`` -> metric -> difference to the best
    effects: tuple[Effect, ...]
    fronts: tuple[Front, ...]
    confidence: float

    @property
    def costs(self) -> tuple[str, ...]:
        """What runs cost: seconds of the device that computed, tokens, memory, as far as anybody wrote it down."""
        on_cpu = all((run.environment.get("hardware") or {}).get("accelerator", "cpu") == "cpu" for run in self.runs)
        other = "cost/wall_seconds" if on_cpu else "cost/cpu_seconds"
        return tuple(key for key in COSTS if key != other and any(run.value(key) is not None for run in self.runs))

    @property
    def seeded(self) -> bool:
        return any(len(entry.runs) > 1 for entry in self.ranked)

    @property
    def finished(self) -> list[Entry]:
        return [entry for entry in self.ranked if entry.scores]

    @property
    def best(self) -> Entry | None:
        return self.finished[0] if self.finished and not self.refused else None

    def named(self, entry: Entry) -> str:
        return named_entry(entry, self.keys)

    def tied(self) -> list[Entry]:
        """Entries that no test tells from the best: neither the rows nor the seeds."""
        if self.best is None:
            return []
        found = []
        for place, entry in enumerate(self.ranked[1:], 1):
            tests = self.against.get(place, {})
            if entry.scores and tests and not any(a.told_apart for a in tests.values()) and not self.apart_by_seeds(entry):
                found.append(entry)
        return found

    def apart_by_seeds(self, entry: Entry) -> bool:
        """Whether the seeds tell an entry from the best by the criterion; False where there are no several."""
        assert self.best is not None
        replicated = min(len(self.best.scores), len(entry.scores)) > 1
        return replicated and told_apart(self.best.scores, entry.scores)


def compare(
    runs: Sequence[Run],
    by: Criterion | None = None,
    *,
    pareto: Sequence[str] | None = None,
    confidence: float = 0.95,
    tests: bool = True,
) -> Comparison:
    """``pareto``: two metrics to weigh against each other. ``tests``: pair the test rows with those of the best."""
    by = by or Criterion()
    ranked = entries(runs, by)
    refused = conditions.different_rows(ranked)
    if refused:
        ranked = sorted(ranked, key=lambda entry: (not entry.scores, entry.runs[0].measured_on, str(entry.runs[0].path)))
    keys = varying(runs)
    if any(len(entry.runs) > 1 for entry in ranked):
        keys = [key for key in keys if key not in seed_keys(runs)]
    main = next((name for run in runs if (name := ties.main_metric(run)) is not None), None)
    wanted = [*([f"eval/{main}"] if main else []), *_ALWAYS]
    shown = [name for name in dict.fromkeys(wanted) if name != by.metric and any(run.value(name) is not None for run in runs)]
    against: Mapping[int, Mapping[str, Against]] = {}
    notes: list[str] = []
    if tests and not refused and len(ranked) > 1:
        against, notes = ties.against_best(ranked, [*([main] if main else []), "nll"], confidence)
    if by.on_test:
        notes.insert(0, f"chosen by {title(by.metric)} on the test rows: the winner looks better than it is; choose on validation")
    if by.metric != "objective" and not any(entry.scores for entry in ranked):
        raise InputError(_nobody_has(by.metric, runs))
    if logged := sum(run.logged for run in runs):
        whose = "these runs are" if logged == len(runs) else f"{logged} of these runs are"
        notes.append(f"{whose} known from W&B's files, which hold no answers: they take part in no test over rows")
    notes += conditions.differences([run for run in runs if run.environment])
    counted = [] if refused else list(runs)
    return Comparison(
        by,
        tuple(runs),
        tuple(ranked),
        tuple(keys),
        tuple(shown),
        refused,
        tuple(notes),
        against,
        tuple(effects.effects(counted, by, confidence)),
        tuple(_fronts(counted, by, pareto)),
        confidence,
    )


def _nobody_has(metric: str, runs: Sequence[Run]) -> str:
    import difflib

    known = sorted({name for run in runs for name, value in run.metrics.items() if isinstance(value, (int, float))})
    near = difflib.get_close_matches(metric, known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(known[:12])}{' ...' if len(known) > 12 else ''}"
    return f"metric = {metric}: no finished run has it; {hint}"


def _fronts(runs: Sequence[Run], by: Criterion, pareto: Sequence[str] | None) -> list[Front]:
    if pareto:
        x, y = pareto
        for name in pareto:
            if not any(run.objective is not None and run.value(name) is not None for run in runs):
                raise InputError(_nobody_has(name, runs).replace("metric =", "pareto ="))
        return [front(runs, x, y)]
    return [front(runs, name, by.metric, y_lower=by.lower) for name in _FRONTS if sum(run.value(name) is not None for run in runs) > 1]


def front(runs: Sequence[Run], x: str, y: str, *, x_lower: bool | None = None, y_lower: bool | None = None) -> Front:
    """Of finished runs that have both metrics. What is not known to be better higher is better lower."""
    lower = [given if given is not None else lower_is_better(name) is not False for given, name in ((x_lower, x), (y_lower, y))]
    points = []
    for run in runs:
        a, b = run.value(x), run.value(y)
        if run.objective is not None and a is not None and b is not None:
            points.append((a if lower[0] else -a, b if lower[1] else -b, run))
    points.sort(key=lambda point: (point[0], point[1]))
    kept: list[Run] = []
    least = float("inf")
    for _, cost, run in points:
        if cost < least:
            kept.append(run)
            least = cost
    return Front(x, y, lower[0], lower[1], tuple(kept))


def verdict(compared: Comparison) -> list[str]:
    """What follows, in sentences: the best, what cannot be told from it."""
    if compared.refused:
        return [f"no best run: {compared.refused}"]
    best = compared.best
    if best is None:
        return []
    run, by = best.finished[0], compared.by
    what = "validation loss" if by.metric == "objective" else title(by.metric)
    value = best.scores[0]
    chosen = "chosen by a test metric" if by.on_test else "the test metrics took no part in the choice"
    if len(best.runs) == 1:
        lines = [f"best: {run.path}  ({what} {value:.4f}; {chosen})"]
    else:
        of = f"{len(best.scores)} seeds" if len(best.scores) == len(best.runs) else f"{len(best.scores)} of {len(best.runs)} seeds"
        rank = "lowest" if by.lower else "highest"
        told = f"{what} {value:.4f}, the {rank} of {of} of {compared.named(best)}, mean {spread(best.scores, '.4f')}"
        lines = [f"best: {run.path}  ({told}; {chosen})"]
    lines += _by_seeds(compared, best)
    return lines + _by_rows(compared)


def _by_seeds(compared: Comparison, best: Entry) -> list[str]:
    alike = [entry for entry in compared.finished[1:] if not told_apart(best.scores, entry.scores)]
    if not alike:
        return []
    names = "; ".join(f"{compared.named(entry)} ({spread(entry.scores, '.4f')})" for entry in alike[:3])
    more = f" and {len(alike) - 3} more" if len(alike) > 3 else ""
    what = "validation losses" if compared.by.metric == "objective" else title(compared.by.metric)
    return [f"not told apart from it by these seeds: {names}{more}: less than 2 standard errors between the means of the {what}"]


def _by_rows(compared: Comparison) -> list[str]:
    if not compared.against:
        return []
    count, tied = sum(map(len, compared.against.values())), compared.tied()
    names = " and ".join(dict.fromkeys(title(f"eval/{name}") for tests in compared.against.values() for name in tests))
    corrected = f"corrected for {count} tests (Holm)" if count > 1 else "one test"
    how = f"by {names} of the same test rows, paired, {100 * compared.confidence:.0f} %, {corrected}"
    replicated = any(a.replicated for tests in compared.against.values() for a in tests.values())
    noise = "" if replicated else "; one seed each, so the noise of training itself is not in this: add seed=1,2,3"
    if not tied:
        seeds = any(not any(a.told_apart for a in tests.values()) for tests in compared.against.values())
        what = f"by the {title(compared.by.metric)} of several seeds, or " if seeds else ""
        return [f"told apart from all others {what}{how}{noise}"]
    shown = "; ".join(compared.named(entry) for entry in tied[:4]) + (f" and {len(tied) - 4} more" if len(tied) > 4 else "")
    return [f"not distinguishable from the best: {shown}: {how}{noise}"]
