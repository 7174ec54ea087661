"""What the sizes of the training set say, in sentences and in the words of tables."""

from enum import StrEnum

from hydratune import metric_table
from hydratune.comparison.comparison import Comparison
from hydratune.comparison.data_size import Doubling, MetricBySize, SizeCurve
from hydratune.comparison.formatting import format_p
from hydratune.evaluation.statistics import Interval
from hydratune.metric_format import (
    difference,
    difference_form,
    difference_with_unit,
    mean_with_unit,
)
from hydratune.metric_table import Unit, title, unit
from hydratune.wording import counted

NO_RUNS = "none"  # in the row of an extrapolated size
_MOST_CURVES = 3  # in sentences; the table and the page have all of them
# a change that is as good as none: of a rate, one point; of others, this share of the value
_NEGLIGIBLE = 0.01


class Answer(StrEnum):
    """What the last doubling says about more data."""

    helps = "helps"
    harms = "harms"
    exhausted = "no longer helps"  # at most a negligible gain
    unknown = "cannot tell"


def answer(metric: MetricBySize) -> Answer:
    """Return what the last step says: significantly better or worse, certainly little, or
    nothing.
    """
    last, lower = metric.steps[-1].difference, metric_table.lower_is_better(metric.key)
    if lower is None or last.interval is None:
        return Answer.unknown
    if last.significant:
        return Answer.helps if (last.value < 0) == lower else Answer.harms
    most = -last.interval[0] if lower else last.interval[1]
    scale = 1.0 if unit(metric.key) is Unit.rate else abs(metric.means[-1])
    return Answer.exhausted if most < _NEGLIGIBLE * scale else Answer.unknown


def sentences(compared: Comparison) -> list[str]:
    """Return what more data brought, and would bring; empty unless sizes were compared."""
    lines = []
    for curve in compared.data_size[:_MOST_CURVES]:
        several = len(compared.data_size) > 1
        place = f" ({_settings(compared, curve)})" if several else ""
        lead = curve.metrics[0]
        lines.append(f"more data{place}: {_lead(lead, curve)}")
        lines += [_other(metric) for metric in curve.metrics[1:2] if answer(metric) != answer(lead)]
    if compared.data_size:
        lines += caveats(compared.data_size[0])
    return lines


def heading(compared: Comparison, curve: SizeCurve) -> str:
    """Return the conclusion of one curve, with its settings where there are several curves."""
    settings = f"{_settings(compared, curve)}: " if len(compared.data_size) > 1 else ""
    text = f"{settings}{_lead(curve.metrics[0], curve)}."
    return text[:1].upper() + text[1:]


def _settings(compared: Comparison, curve: SizeCurve) -> str:
    """Return the settings, besides the size, that distinguish this curve from the others."""
    entry = curve.entries[-1]
    keys = [
        key
        for key in compared.keys
        if key in entry.settings and not key.startswith(("data.train_share", "data.max_train_rows"))
    ]
    parts = [
        f"{compared.short_names[key]}={compared.format_setting(key, entry.settings[key])}"
        for key in keys
    ]
    return ", ".join(parts) or f"run {entry.runs[0].name}"


def _lead(metric: MetricBySize, curve: SizeCurve) -> str:
    last, verdict = metric.steps[-1], answer(metric)
    name = title(metric.key)
    change = describe_step(metric.key, last, curve.confidence)
    what = f"going from {last.smaller:,} to {last.larger:,} rows"
    if abs(last.doublings - 1) < 0.1:
        what = f"doubling from {last.smaller:,} to {last.larger:,} rows"
    if verdict is Answer.unknown:
        why = "; one seed each" if not last.includes_seed_noise else ""
        return (
            f"cannot tell whether {what} changed {name}: {change}{why}. {_whole(metric, curve)}"
            "More seeds and test rows narrow the interval"
        )
    if verdict is Answer.exhausted:
        return f"no longer helps: {what} changed {name} by {change}, at most {_negligible(metric)}"
    verb = "raised" if last.difference.value > 0 else "lowered"
    text = f"{what} {verb} {name} ({change})"
    if verdict is Answer.harms:
        return (
            f"{text}: more of these rows made it worse; look at the rows, or at the learning rate"
        )
    return f"{text}; {_next(metric, curve)}"


def _negligible(metric: MetricBySize) -> str:
    return "one point" if unit(metric.key) is Unit.rate else "one per cent of it"


def _whole(metric: MetricBySize, curve: SizeCurve) -> str:
    """Return what all sizes together say, where the last one alone says nothing."""
    trend = metric.trend
    if trend is None or trend.next_change.interval is None:
        return ""
    low, high = trend.next_change.interval
    if low <= 0 <= high:
        return ""
    return f"All {len(curve.rows)} sizes together have a trend: {_next(metric, curve)}. "


def _next(metric: MetricBySize, curve: SizeCurve) -> str:
    """Return what another doubling would bring."""
    trend, rows = metric.trend, 2 * curve.rows[-1]
    if trend is None:
        return "two sizes show no trend, so nothing is said about another doubling"
    change = trend.next_change
    text = difference_with_unit(metric.key, change.value)
    if change.interval is not None:
        text += f" {interval_text(metric.key, change.interval)}"
    how = ""
    if trend.factor is not None:
        missing = "of it" if metric_table.lower_is_better(metric.key) else "of the errors"
        how = f" (a doubling left {100 * trend.factor:.0f} % {missing} on average"
        bends = trend.flattens and trend.curvature_p < 1 - curve.confidence
        how += "; each brought less than the one before)" if bends else ")"
    return (
        f"another doubling, to {rows:,} rows, would bring about {text}, if the trend of all"
        f" {len(curve.rows)} sizes continues{how}"
    )


def _other(metric: MetricBySize) -> str:
    last = metric.steps[-1]
    text = f"{difference_with_unit(metric.key, last.difference.value)}"
    if last.difference.interval is not None:
        text += f" {interval_text(metric.key, last.difference.interval)}"
    return f"by {title(metric.key)}, more data {_VERBS[answer(metric)]}: {text}"


_VERBS = {
    Answer.helps: "helped",
    Answer.harms: "made it worse",
    Answer.exhausted: "no longer helps",
    Answer.unknown: "cannot be said to help",
}


def caveats(curve: SizeCurve) -> list[str]:
    """Return what the intervals cover, and what else differs between the sizes."""
    seeds = f"{counted(curve.seeds, 'seed')}, which also draw the smaller sets"
    if not curve.is_drawn_by_seeds:
        seeds = f"{counted(curve.seeds, 'seed')}, which all have the same rows of each size"
    rows = f"{counted(curve.test_rows, 'independent test row')} and " if curve.test_rows else ""
    covered = (
        f"intervals of {100 * curve.confidence:.4g} % over {rows}{seeds}, corrected for all"
        " doublings and metrics (Holm)"
    )
    if curve.seeds < 2:
        covered = (
            f"intervals of {100 * curve.confidence:.4g} % over the test rows of one seed each: with"
            " other rows drawn, the same sizes may differ less or more; add seed=1,2,3"
        )
    lines = [covered]
    known = [steps for steps in curve.steps if steps]
    if len(known) == len(curve.steps) and len(set(known)) > 1:
        counts = ", ".join(f"{steps:,}" for steps in known)
        lines.append(
            f"more rows were also more optimizer steps ({counts}), and that is part of the gain;"
            f" trainer.max_epochs=1000 trainer.max_steps={max(known)} gives all sizes the same"
        )
    elif known:
        lines.append(
            "all sizes made as many optimizer steps, so smaller sets were repeated more often"
        )
    return lines


def describe_step(key: str, step: Doubling, confidence: float) -> str:
    """Return the change of a step with its unit and interval; per doubling where it is not one."""
    value, interval = step.difference.value, step.difference.interval
    text = difference_with_unit(key, value)
    text += f" {interval_text(key, interval)}" if interval is not None else ", no interval"
    if abs(step.doublings - 1) >= 0.1:
        per = difference_with_unit(key, value / step.doublings)
        text += f", {per} for each doubling"
    return text


def interval_text(key: str, interval: Interval) -> str:
    """Return an interval of a difference in the unit that is written."""
    form, scale = difference_form(key)
    return f"[{scale * interval[0]:{form}}, {scale * interval[1]:{form}}]"


def table_rows(curve: SizeCurve) -> tuple[list[str], list[list[str]]]:
    """Return (headings, a row for each metric and size): the mean over seeds, and the change from
    the next smaller size for one doubling.
    """
    headings = ["", "training rows", "runs", "mean over seeds", "change per doubling"]
    rows = []
    for metric in curve.metrics:
        for number, size in enumerate(curve.rows):
            change = _change(metric.key, metric.steps[number - 1]) if number else ""
            mean = mean_with_unit(metric.key, metric.values[number])
            runs = str(len(metric.values[number]))
            rows.append([title(metric.key) if not number else "", f"{size:,}", runs, mean, change])
        if metric.trend is not None:
            change_to = metric.trend.next_change
            edges = change_to.interval
            interval = "" if edges is None else f" {interval_text(metric.key, edges)}"
            expected = mean_with_unit(metric.key, [metric.means[-1] + change_to.value])
            change = f"about {difference(metric.key, change_to.value)}{interval}"
            rows.append(["", f"{2 * curve.rows[-1]:,}", NO_RUNS, f"about {expected}", change])
    return headings, rows


def _change(key: str, step: Doubling) -> str:
    """Return a change per doubling with its interval and p."""
    value, interval = step.difference.value / step.doublings, step.difference.interval
    if interval is None:
        return difference(key, value)
    low, high = (edge / step.doublings for edge in interval)
    p = format_p(step.difference.p)
    return f"{difference(key, value)} {interval_text(key, (low, high))} p {p}"
