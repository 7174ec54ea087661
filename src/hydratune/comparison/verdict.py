"""What a comparison concludes, in sentences and in the words of its tables."""

from hydratune.comparison import data_size_verdict
from hydratune.comparison.comparison import Comparison
from hydratune.comparison.criterion import Criterion
from hydratune.comparison.entries import Entry, score_of
from hydratune.comparison.formatting import format_list, format_p
from hydratune.comparison.runs import Run
from hydratune.comparison.ties import ONE_SEED, metric_key
from hydratune.console import relative_path
from hydratune.metric_format import (
    difference,
    difference_form,
    difference_with_unit,
    mean_with_unit,
    with_interval,
    with_unit,
    written,
)
from hydratune.metric_table import OBJECTIVE, title
from hydratune.records.headline import HEADLINE_SETTINGS, headline
from hydratune.records.status import State
from hydratune.settings.monitor import LOSS
from hydratune.settings.secrets import mask
from hydratune.wording import counted

_LONGEST_REASON = 40  # letters; status.json has all of it
_CONFIG_ERROR = "in the configuration; nothing was run"  # in the first line of a ConfigError
_MOST_NAMES = 4  # of indistinguishable entries in a sentence
_MOST_NAMES_WITH_NUMBERS = 3
_MOST_SETTINGS = 4  # of the best run, besides those of the headline


def verdict(compared: Comparison) -> list[str]:
    """Return the conclusion: the best run, what is statistically indistinguishable from it, and
    what more data would bring.

    Empty if no run finished.
    """
    if compared.why_not_ranked:
        return [f"no best run: {compared.why_not_ranked}"]
    if compared.best is None:
        return []
    set_aside = [compared.set_aside] if compared.set_aside else []
    others = [*_by_seeds(compared), *_better_on_rows(compared), *_by_rows(compared)]
    return [_best(compared), *set_aside, *others, *data_size_verdict.sentences(compared)]


def headline_of_runs(compared: Comparison) -> str:
    """Return "MODEL on DATA, lora, 2 epochs: lr and r compared", with what all runs share.

    Empty if nothing of it was recorded.
    """
    recorded = [run.settings for run in compared.runs if run.settings]
    first = recorded[0] if recorded else {}
    same = {key: first[key] for key in first if all(s.get(key) == first[key] for s in recorded)}
    names = [compared.short_names[key] for key in compared.keys]
    varied = format_list(names, _MOST_SETTINGS)
    if len(names) in (2, 3):
        varied = f"{', '.join(names[:-1])} and {names[-1]}"
    shared = headline(same)
    if not varied:
        return mask(shared)
    return mask(f"{shared}: {varied} compared" if shared else f"{varied} compared")


def criterion_title(compared: Comparison) -> str:
    """Return the title of the criterion in a sentence."""
    return title(compared.by.metric)


def _best(compared: Comparison) -> str:
    best, by = compared.best, compared.by
    assert best is not None
    result = f"{criterion_title(compared)} {with_unit(by.metric, best.scores[0])}"
    if len(best.runs) > 1:
        rank, finished = "lowest" if by.lower else "highest", len(best.scores)
        total = "" if finished == len(best.runs) else f" of {len(best.runs)}"
        result += (
            f", the {rank} of {finished}{total} seeds, mean"
            f" {mean_with_unit(by.metric, best.scores)}"
        )
    chosen = (
        "chosen by a test metric" if by.on_test else "the test metrics took no part in the choice"
    )
    count = len(compared.finished)
    of = f", the best of {count} that can be compared" if compared.set_aside else ""
    trained = _describe_best(compared, best)
    result = f"{trained}: {result}" if trained else result
    return f"best: {relative_path(best.finished[0].path)}  ({result}{of}; {chosen})"


def _describe_best(compared: Comparison, best: Entry) -> str:
    """Return what the best entry trained, and its values of the other settings that vary."""
    others = [key for key in compared.keys if key not in HEADLINE_SETTINGS and key in best.settings]
    varying = [
        f"{compared.short_names[key]}={compared.format_setting(key, best.settings[key])}"
        for key in others
    ]
    parts = [headline(best.settings), format_list(varying, _MOST_SETTINGS)]
    return mask(", ".join(part for part in parts if part))


def _by_seeds(compared: Comparison) -> list[str]:
    """Return a sentence about the entries that the seeds do not distinguish from the best."""
    positions = sorted(compared.seed_p_values)
    tied = [compared.ranked[p] for p in positions if not compared.differs_by_seeds(p)]
    if not tied:
        return []
    names = [
        f"{compared.describe(entry)} ({mean_with_unit(compared.by.metric, entry.scores)})"
        for entry in tied
    ]
    what = "validation losses" if compared.by.metric == "objective" else title(compared.by.metric)
    how = f"means of the {what}, t test, {_level(compared)}"
    shown = format_list(names, _MOST_NAMES_WITH_NUMBERS, "; ")
    return [f"statistically indistinguishable from it by these seeds: {shown}: {how}"]


def _better_on_rows(compared: Comparison) -> list[str]:
    """Return a sentence about entries that the test rows, unlike validation, find better."""
    names = []
    for position in sorted(compared.paired_tests):
        tests = compared.paired_tests[position].values()
        better = [
            test
            for test in tests
            if test.significant and test.better and test.key != compared.by.metric
        ]
        if better:
            gains = ", ".join(
                f"{title(test.key)} {difference_with_unit(test.key, test.value)}" for test in better
            )
            names.append(f"{compared.describe(compared.ranked[position])} ({gains})")
    if not names:
        return []
    shown = format_list(names, _MOST_NAMES_WITH_NUMBERS, "; ")
    return [
        f"significantly better than it on the test rows: {shown}: validation and test rows do not"
        " agree"
    ]


def _by_rows(compared: Comparison) -> list[str]:
    """Return a sentence about the entries that the test rows distinguish from the best, or not."""
    if not compared.paired_tests:
        return []
    tests = [test for own in compared.paired_tests.values() for test in own.values()]
    tied = compared.indistinguishable()
    decisive = [test for test in tests if tied or test.significant] or tests
    metrics = " and ".join(dict.fromkeys(title(test.key) for test in decisive))
    on_test = any(test.key.startswith("eval/") for test in decisive)
    rows = "test rows" if on_test else "validation rows"
    if on_test and any(test.key.startswith("val/") for test in decisive):
        rows = "validation and test rows"
    how = f"by {metrics} of the same {rows}, paired, {_level(compared)}"
    if not any(test.includes_seed_noise for test in tests):
        how += f"; {ONE_SEED}: add seed=1,2,3"
    if tied:
        shown = format_list([compared.describe(entry) for entry in tied], _MOST_NAMES, "; ")
        return [f"statistically indistinguishable from the best: {shown}: {how}"]
    finished = {position for position, entry in enumerate(compared.ranked) if entry.scores}
    all_tested = finished - {0} <= compared.paired_tests.keys()
    tested = f"the {counted(len(compared.paired_tests), 'other')} that could be tested"
    by_seeds_only = any(
        not any(test.significant for test in own.values()) for own in compared.paired_tests.values()
    )
    seeds = f"by the {title(compared.by.metric)} of several seeds, or " if by_seeds_only else ""
    others = "all others" if all_tested else tested
    return [f"significantly different from {others} {seeds}{how}"]


def _level(compared: Comparison) -> str:
    """Return the confidence level and the correction for multiple tests."""
    count = compared.test_count
    correction = f"corrected for {count} tests (Holm)" if count > 1 else "one test"
    return f"{100 * compared.confidence:.4g} %, {correction}"


def describe_outcome(compared: Comparison, position: int) -> str:
    """Return how an entry compares with the best, in a few words for a table."""
    if position == 0 and compared.best is not None:
        return "best"
    tests = compared.paired_tests.get(position)
    if not tests:
        return "-"
    significant = [test for test in tests.values() if test.significant]
    if not significant:
        if compared.differs_by_seeds(position):
            return f"worse ({title(compared.by.metric)}, seeds)"
        return "tied"
    parts = []
    for word in ("better", "worse"):
        metrics = [t.metric for t in significant if t.better is (word == "better")]
        if metrics:
            parts.append(f"{word} ({', '.join(title(metric_key(name)) for name in metrics)})")
    return "; ".join(parts)


def describe_difference(compared: Comparison, position: int, metric: str) -> str:
    """Return the difference to the best on the test rows, its interval and its corrected p."""
    test = compared.paired_tests.get(position, {}).get(metric)
    if test is None:
        return "" if position == 0 else "-"
    key = metric_key(metric)
    interval = "(too few rows)"  # for an interval; a note says how many there are
    if test.interval is not None:
        interval = test.difference.interval_text(*difference_form(key))
    return f"{difference(key, test.value)} {interval} p {format_p(test.p)}"


def describe_score(run: Run, by: Criterion) -> str:
    """Return the score of a run, with its interval if it has one; in parentheses that of a run that
    was set aside or halved early.
    """
    score = score_of(run, by)
    if score is not None:
        return with_interval(by.metric, score, run.interval(by.metric))
    early = None
    if run.halved is not None:
        is_loss = by.metric in (OBJECTIVE, LOSS)
        early = run.halved.value if is_loss else run.halved.monitored
    outside = run.value(by.metric) if run.set_aside else early
    return "-" if outside is None else f"({written(by.metric, outside)})"


def describe_state(run: Run) -> str:
    """Return how a run ended, in short why if it did not finish, and whether it stopped early."""
    ended = describe_end(run)
    if run.objective is None or run.stopped_early is None:
        return ended
    step, planned = run.stopped_early
    return f"{ended}, stopped early at step {step} of {planned}"


def describe_end(run: Run) -> str:
    """Return how a run ended, and in short why if it did not finish."""
    if run.set_aside:
        return f"set aside: {run.set_aside.partition(' (')[0]}"  # the verdict has all of it
    if run.halved:
        return f"halved at step {run.halved.step}"
    if run.over_budget:
        return f"{run.state}: forgot more than evaluation.forgetting.fail allows"
    if run.objective is not None:
        return run.state
    if run.state == State.finished.value:
        return "finished without a validation loss that is a number"
    lines = [line.strip() for line in str(run.error or "").splitlines() if line.strip()]
    if not lines:
        return run.state
    # the first line of a ConfigError only counts the wrong settings
    reason = mask(lines[1] if len(lines) > 1 and _CONFIG_ERROR in lines[0] else lines[0])
    return f"{run.state}: {_shortened(reason.replace(f'{run.path}/', ''))}"


def _shortened(reason: str) -> str:
    """Return the beginning of a reason, cut between two words where it has several."""
    if len(reason) <= _LONGEST_REASON:
        return reason
    beginning = reason[: _LONGEST_REASON + 1]
    return f"{beginning.rpartition(' ')[0] or reason[:_LONGEST_REASON]} ..."
