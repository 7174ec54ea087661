"""Checks for rows that occur more than once: duplicates, conflicts, leaks between splits."""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hydratune.data.quality.finding_builder import FindingBuilder
from hydratune.data.quality.findings import MOST_EXAMPLES, Finding
from hydratune.data.quality.labels import WHOLE_ANSWER
from hydratune.data.quality.leaks import Leak, find_holder, rows_to_remove
from hydratune.data.splits import SPLITS, Side
from hydratune.wording import counted

_NOT_ALL_COMPARED = "at least: so many texts are similar that not all of them were compared"


def check_repeats(builder: FindingBuilder) -> list[Finding]:
    """Find requests that occur several times in one split of the source.

    With one answer they are duplicates, found by the loose rule. With several answers they are
    conflicts if the answers are labels or JSON; conflicts are claimed by the exact rule only.
    """
    prints = builder.inspection.prints
    duplicates: list[list[int]] = []
    for rows in _equal_rows(builder, np.frombuffer(prints.words, np.uint64)):
        rows_of_answer: dict[int, list[int]] = defaultdict(list)
        for i in rows:
            rows_of_answer[prints.answers[i]].append(i)
        duplicates += [same for same in rows_of_answer.values() if len(same) > 1]
    repeated = sorted(i for same in duplicates for i in same[1:])
    finding = builder.of_groups("exact_duplicates", duplicates, repeated)
    finding.fix = _removal_of_duplicates(builder, finding.count)
    return [finding, *_check_several_answers(builder)]


def _check_several_answers(builder: FindingBuilder) -> list[Finding]:
    """Return the findings ``label_conflicts`` and ``multi_answer``, which count requests."""
    inspection, prints = builder.inspection, builder.inspection.prints
    has_labels = WHOLE_ANSWER in inspection.label_counts()
    conflicts: list[list[int]] = []
    varied: list[list[int]] = []
    for rows in _equal_rows(builder, np.frombuffer(prints.exact_requests, np.uint64)):
        if len({prints.answers[i] for i in rows}) > 1:
            is_conflict = has_labels or all(prints.is_json[i] for i in rows)
            (conflicts if is_conflict else varied).append(rows)
    answers = sum(len({prints.answers[i] for i in rows}) for rows in varied)
    note = f"{counted(answers, 'answer')}, all kept" if varied else ""
    findings = []
    for name, requests, text in (
        ("label_conflicts", conflicts, ""),
        ("multi_answer", varied, note),
    ):
        finding = builder.of_groups(name, requests, [i for rows in requests for i in rows], text)
        finding.count = len(requests)
        finding.splits = inspection.count_by_split([rows[0] for rows in requests])
        findings.append(finding)
    return findings


def _removal_of_duplicates(builder: FindingBuilder, count: int) -> str:
    """Say how many of ``count`` duplicates ``drop_duplicates`` removes.

    It removes only from training, and keeps rows that differ in symbols, tools or reasoning.
    """
    if not count:
        return ""
    removable = sum(builder.is_used[i] for i in builder.inspection.removable_duplicates())
    fix = f"data.clean.drop_duplicates=true removes {removable:,} of them from training"
    if removable == count:
        return fix
    fix = fix if removable else "data.clean.drop_duplicates removes none of them"
    return (
        f"{fix}; those in validation and test, and those that differ in symbols, tools or"
        " reasoning, are for you to remove"
    )


def _equal_rows(builder: FindingBuilder, keys: NDArray[np.uint64]) -> list[list[int]]:
    """Return the rows of one split of the source that have the same key, where there are several,
    in file order.
    """
    used = np.flatnonzero(builder.is_used)
    _, number, times = np.unique(keys[used], return_inverse=True, return_counts=True)
    is_repeated = times[number] > 1
    source = builder.inspection.source
    rows_of: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, key in zip(used[is_repeated].tolist(), number[is_repeated].tolist(), strict=True):
        rows_of[source[i], key].append(i)
    return [rows for rows in rows_of.values() if len(rows) > 1]


def check_near_duplicates(builder: FindingBuilder) -> Finding:
    """Find requests with an earlier, nearly equal one in the same split of the source."""
    inspection = builder.inspection
    first_row: dict[tuple[int, int], int] = {}  # (split of the source, request) -> row
    if inspection.near:
        for i in np.flatnonzero(builder.is_used).tolist():
            request = int(inspection.requests[i])
            if request in inspection.near:
                first_row.setdefault((inspection.source[i], request), i)
    pairs = []  # [the first nearly equal row, this row]
    for (source, request), i in first_row.items():
        others = (first_row.get((source, other), i) for other in inspection.near[request])
        earlier = [other for other in others if other < i]
        if earlier:
            pairs.append([min(earlier), i])
    note = _NOT_ALL_COMPARED if inspection.near_capped else ""
    return builder.of_groups("near_duplicates", pairs, [row for _, row in pairs], note)


def check_leaks(builder: FindingBuilder, kind: Leak) -> Finding:
    """Find rows of validation and test that an earlier split contains."""
    inspection = builder.inspection
    leaking, bits = inspection.leaking(kind)
    rows, found_in = leaking.tolist(), [_split_names(bit) for bit in bits.tolist()]
    groups = [_with_holder(builder, kind, i) for i in rows[:MOST_EXAMPLES]]
    finding = builder.of_groups(kind.value, groups, rows, _leak_note(builder, kind, rows, found_in))
    finding.found_in = found_in
    if rows:
        removed = rows_to_remove(inspection.contents, inspection.sides)
        by_split = inspection.count_by_split(np.flatnonzero(removed).tolist())
        counts = (counted(n, f"{side} row") for side, n in by_split.items())
        finding.fix = (
            f"data.clean.drop_leaks=true removes {' and '.join(counts)}, whose requests are in"
            " validation or test too"
        )
    return finding


def _leak_note(
    builder: FindingBuilder, kind: Leak, rows: Sequence[int], found_in: Sequence[str]
) -> str:
    inspection = builder.inspection
    counts = Counter(
        f"{Side(inspection.sides[i]).name} in {splits}"
        for i, splits in zip(rows, found_in, strict=True)
    )
    notes = [f"{n:,} {pair}" for pair, n in sorted(counts.items())]
    before = len(inspection.leaks_before_removal.get(kind.value, ()))
    if before:
        notes.append(f"there were {before} before data.clean.drop_leaks")
    if kind is Leak.near and inspection.near_capped:
        notes.append(_NOT_ALL_COMPARED)
    return ", ".join(notes)


def _with_holder(builder: FindingBuilder, kind: Leak, row: int) -> list[int]:
    """Return ``row`` after a row of an earlier split that contains it, if there is one."""
    inspection = builder.inspection
    holder = find_holder(inspection.contents, inspection.sides, kind, row)
    return [row] if holder is None else [holder, row]


def _split_names(bits: int) -> str:
    return " and ".join(side.name for side in SPLITS if bits >> side & 1)


def check_group_leaks(builder: FindingBuilder) -> Finding:
    """Find rows of validation and test whose group has rows in an earlier split."""
    inspection = builder.inspection
    groups, sides = np.frombuffer(inspection.groups, np.int64), inspection.sides
    # The last entry is for rows without a group, whose number is -1.
    splits_of = np.zeros(len(inspection.group_numbers) + 1, np.int8)
    for side in SPLITS:
        splits_of[groups[sides == side]] |= np.int8(1 << side)
    splits_of[-1] = 0
    splits = splits_of[groups]
    in_train, in_train_or_validation = splits & 1 > 0, splits & 3 > 0
    leaking = (sides == Side.validation) & in_train
    leaking |= (sides == Side.test) & in_train_or_validation
    return builder.of_rows("group_leaks", np.flatnonzero(leaking).tolist())


def check_duplicate_ids(builder: FindingBuilder) -> Finding:
    """Find rows whose id another row has."""
    ids = np.frombuffer(builder.inspection.prints.ids, np.uint64)
    _, number, times = np.unique(ids, return_inverse=True, return_counts=True)
    return builder.of_rows("duplicate_ids", builder.used(times[number] > 1))
