"""Checks over all rows together, and ``run_checks``, which runs every check."""

from collections import Counter
from collections.abc import Iterable

import numpy as np

from hydratune.data.quality.finding_builder import FindingBuilder
from hydratune.data.quality.findings import Finding
from hydratune.data.quality.inspection import Inspection
from hydratune.data.quality.leaks import Leak
from hydratune.data.quality.repeat_checks import (
    check_duplicate_ids,
    check_group_leaks,
    check_leaks,
    check_near_duplicates,
    check_repeats,
)
from hydratune.data.splits import SPLITS, Side
from hydratune.data.store import RowStore
from hydratune.settings.data import Level

_FEW_ROWS, _MANY_ROWS = 500, 5000  # the usual range for LoRA
_FEWEST_FOR_OUTLIERS = 20  # rows
_OUTLIER_DEVIATIONS, _OUTLIER_FACTOR = 6, 8
_FEWEST_FOR_SMALL_TRAINING = 50  # rows
_RARE_ROWS, _RARE_SHARE, _FREQUENT_SHARE = 10, 0.01, 0.8  # of a label
_MOST_LABELS_NAMED = 6
_MOST_LANGUAGES_NAMED = 6


def run_checks(inspection: Inspection, store: RowStore) -> list[Finding]:
    """Return the findings of every check that is on, in the order of the settings."""
    builder = FindingBuilder(inspection, store)
    findings = [
        *(_check_single_rows(builder, name) for name in inspection.checks),
        *check_repeats(builder),
        check_near_duplicates(builder),
        *(check_leaks(builder, kind) for kind in Leak),
        check_group_leaks(builder),
        _check_mixed_answers(builder),
        _check_length_outliers(builder),
        check_duplicate_ids(builder),
        _check_language_mix(builder),
        _check_splits(builder),
        builder.of_rows("straddling", inspection.rows_on(Side.straddles)),
        _check_size(builder),
        _check_label_balance(builder),
    ]
    order = list(type(inspection.config).__dataclass_fields__)
    return sorted(
        (finding for finding in findings if finding.level is not Level.off),
        key=lambda finding: order.index(finding.name) if finding.name in order else -1,
    )


def _check_single_rows(builder: FindingBuilder, name: str) -> Finding:
    """Return the finding of a check that looks at one row."""
    inspection = builder.inspection
    rows = [i for i in inspection.hits[name] if builder.is_used[i]]
    notes = inspection.notes[name]
    if name == "truncated_answers":
        incomplete = inspection.endings.incomplete(builder.is_used)
        rows, notes = sorted({*incomplete, *rows}), {**incomplete, **notes}
    is_most = len(rows) > 0.5 * builder.is_used.sum()
    summary = _encodings(notes.values()) if name == "encoding" else ""
    if name == "ungrounded" and is_most:
        summary = "most rows, so the answers are perhaps not meant to be drawn from the request"
    if name == "empty_requests" and is_most:
        summary = "most rows, so the user turns are empty on purpose"
    finding = builder.of_rows(name, rows, [notes.get(i, "") for i in rows], summary)
    if name == "empty_requests" and is_most:
        finding.level = Level.warn
    return finding


def _encodings(notes: Iterable[str]) -> str:
    """Return the encodings that files were read in, in the order of their first row."""
    return ", ".join(Counter(note for note in notes if note.startswith("read as ")))


def _check_mixed_answers(builder: FindingBuilder) -> Finding:
    is_json = np.asarray(builder.inspection.prints.is_json, np.int8).astype(bool)
    is_most = (builder.is_used & is_json).sum() > 0.5 * builder.is_used.sum()
    return builder.of_rows("mixed_answers", builder.used(~is_json) if is_most else [])


def _check_length_outliers(builder: FindingBuilder) -> Finding:
    """Find answers whose log length is more than 6 robust standard deviations (and a factor of 8)
    from the median.
    """
    if builder.is_used.sum() < _FEWEST_FOR_OUTLIERS:
        return builder.of_rows("length_outliers", [])
    lengths = builder.inspection.answer_length
    logs = np.log1p(np.frombuffer(lengths, np.int64))
    median = np.median(logs[builder.is_used])
    deviation = 1.4826 * np.median(np.abs(logs[builder.is_used] - median))
    limit = max(_OUTLIER_DEVIATIONS * deviation, np.log(_OUTLIER_FACTOR))
    rows = builder.used(np.abs(logs - median) > limit)
    usual = np.expm1(median)
    notes = [f"{lengths[i]:,} characters, the median is {usual:,.0f}" for i in rows]
    return builder.of_rows("length_outliers", rows, notes)


def _check_language_mix(builder: FindingBuilder) -> Finding:
    inspection = builder.inspection
    if not len(inspection.language):
        return Finding("language_mix", Level.off)
    codes = {number: code for code, number in inspection.language_numbers.items()}
    language = np.frombuffer(inspection.language, np.int16)
    is_known = builder.is_used & (language > 0)
    counts = Counter(language[is_known].tolist())
    main = counts.most_common(1)[0][0] if counts else 0
    rows = builder.used(is_known & (language != main))
    named = (f"{codes[n]} {count:,}" for n, count in counts.most_common(_MOST_LANGUAGES_NAMED))
    notes = [str(codes[int(language[i])]) for i in rows]
    return builder.of_rows("language_mix", rows, notes, ", ".join(named) if rows else "")


def _check_splits(builder: FindingBuilder) -> Finding:
    """Find splits that cannot be used: without rows, or training with far less than its share."""
    inspection, data = builder.inspection, builder.inspection.data
    counts = {side: len(inspection.rows_on(side)) for side in SPLITS}
    empty = [side.name for side, count in counts.items() if not count]
    if empty:
        note = f"the data set has no {' and no '.join(empty)} rows"
        return builder.empty("splits", len(empty), note)
    total, training = sum(counts.values()), counts[Side.train]
    expected = total * (1 - data.validation_fraction - data.test_fraction)
    is_own_split = inspection.given == {Side.train} and total >= _FEWEST_FOR_SMALL_TRAINING
    if is_own_split and training < 0.5 * expected:
        note = (
            f"only {training:,} of {total:,} rows remain for training: most are nearly equal or of"
            " one group"
        )
        return builder.empty("splits", 1, note)
    return builder.empty("splits")


def _check_size(builder: FindingBuilder) -> Finding:
    """Count the training rows if they are fewer or more than usual."""
    count = len(builder.inspection.rows_on(Side.train))
    if count < _FEW_ROWS:
        return builder.empty("size", count, f"fewer than {_FEW_ROWS}")
    if count > _MANY_ROWS:
        note = f"more than {_MANY_ROWS:,}; data.max_train_rows takes a fixed sample"
        return builder.empty("size", count, note)
    return builder.empty("size")


def _check_label_balance(builder: FindingBuilder) -> Finding:
    """Find labels with more than 80 % of the rows, or with less than 1 % and fewer than 10."""
    unbalanced = []
    for name, counts in builder.inspection.label_counts().items():
        total = sum(counts.values())
        rare = min(_RARE_ROWS, _RARE_SHARE * total)
        for label, count in counts.items() if len(counts) > 1 else ():
            if count > _FREQUENT_SHARE * total or count < rare:
                unbalanced.append(f"{name}={label}: {count:,} of {total:,}")
    note = "; ".join(unbalanced[:_MOST_LABELS_NAMED])
    return builder.empty("label_balance", len(unbalanced), note)
