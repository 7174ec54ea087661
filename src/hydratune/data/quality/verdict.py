"""From what was seen of all rows to findings: repeated requests, leaks, and whatever is unlike the
rest.
"""

from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydratune.data.quality import pii
from hydratune.data.quality.findings import MOST_EXAMPLES, MOST_ROWS, Finding, level_of
from hydratune.data.quality.inspection import Inspection
from hydratune.data.quality.leaks import Leak, holders, removed
from hydratune.data.quality.texts import Ending
from hydratune.data.rows import Row
from hydratune.data.splits import SPLITS, Side
from hydratune.data.store import RowStore
from hydratune.settings.data import Level

_EXCERPT = 400  # characters of a text in an example
_TOGETHER = 4  # rows shown side by side
_AT_LEAST = "at least: so many texts are alike that not all were compared"
_FEW_ROWS, _MANY_ROWS = 500, 5000  # the usual range for LoRA


class Verdict:
    """The findings of one inspection; ``store`` holds its rows."""

    def __init__(self, seen: Inspection, store: RowStore) -> None:
        self.seen, self.store, self.sides = seen, store, seen.sides
        self.alive = np.isin(seen.sides, SPLITS)  # rows that take part
        self.texts = np.frombuffer(seen.texts, np.int64)
        self.groups = np.frombuffer(seen.groups, np.int64)

    def findings(self) -> list[Finding]:
        """What every check that is on found among the rows that take part."""
        found = [self._of_rows(name) for name in self.seen.checks]
        found += [*self._repeats(), self._near_duplicates(), *map(self._leaks, Leak)]
        found += [
            self._group_leaks(),
            self._mixed_answers(),
            self._length_outliers(),
            self._duplicate_ids(),
        ]
        found += [
            self._language_mix(),
            self._splits(),
            self._straddling(),
            self._size(),
            self._balance(),
        ]
        order = list(type(self.seen.config).__dataclass_fields__)
        return sorted(
            (f for f in found if f.level is not Level.off),
            key=lambda f: order.index(f.name) if f.name in order else -1,
        )

    def _of_rows(self, name: str) -> Finding:
        """What a check of single rows saw."""
        rows, saw = [i for i in self.seen.hits[name] if self.alive[i]], self.seen.saw[name]
        if name == "truncated_answers":
            more = self._without_end()
            rows, saw = sorted({*more, *rows}), {**more, **saw}
        declared = Counter(
            text for i, text in saw.items() if name == "encoding" and text.startswith("read as ")
        )
        note = ", ".join(declared)
        if name == "empty_requests" and len(rows) > 0.5 * self.alive.sum():
            finding = self._finding(
                name,
                rows,
                [saw.get(i, "") for i in rows],
                "most rows, so nothing is meant to be asked",
            )
            finding.level = Level.warn
            return finding
        if name == "ungrounded" and len(rows) > 0.5 * self.alive.sum():
            note = "most rows, so the answers are perhaps not meant to be drawn from the request"
        return self._finding(name, rows, [saw.get(i, "") for i in rows], note)

    def _finding(
        self, name: str, rows: Sequence[int], saw: Sequence[str] = (), summary: str = ""
    ) -> Finding:
        """A finding of single rows; ``saw`` says of each what is wrong with it."""
        finding = self._listed(name, rows, summary)
        for i, text in list(zip(rows, saw or [""] * len(rows), strict=True))[:MOST_EXAMPLES]:
            # the note has it masked
            texts = [] if name.startswith("pii_") else [_excerpt(self.store[i])]
            note = text if name.startswith("pii_") else pii.hidden(text)
            finding.examples.append(
                {"rows": [self.store.value("id", i)], "texts": texts, "note": note}
            )
        return finding

    def _side_by_side(
        self, name: str, sets: Sequence[Sequence[int]], rows: Sequence[int], note: str = ""
    ) -> Finding:
        """A finding of rows that belong together; ``rows`` are those that are listed and counted."""  # noqa: E501
        finding = self._listed(name, rows, note)
        for together in sets[:MOST_EXAMPLES]:
            shown = [int(i) for i in together[:_TOGETHER]]
            read = [self.store[i] for i in shown]
            around = _difference(read)
            ids, texts = [row.id for row in read], [_excerpt(row, around) for row in read]
            more = f"and {len(together) - _TOGETHER} more" if len(together) > _TOGETHER else ""
            finding.examples.append({"rows": ids, "texts": texts, "note": more})
        return finding

    def _listed(self, name: str, rows: Sequence[int], note: str) -> Finding:
        ids = [self.store.value("id", int(i)) for i in rows[:MOST_ROWS]]
        places = [self.store.value("where", int(i)) for i in rows[:MOST_ROWS]]
        splits = self.seen.by_split(rows)
        return Finding(
            name,
            level_of(self.seen.config, name),
            len(rows),
            ids,
            note=note,
            where=places,
            splits=splits,
        )

    def _repeats(self) -> list[Finding]:
        """Requests that occur several times in one split of the source: with one answer, or with
        several.

        Repeats are sought by the loose rule, conflicts claimed by the strict one.
        """
        duplicates: list[list[int]] = []
        for rows in self._together(np.frombuffer(self.seen.words, np.uint64)):
            same_answer: dict[int, list[int]] = defaultdict(list)
            for i in rows:
                same_answer[self.seen.answers[i]].append(i)
            duplicates += [same for same in same_answer.values() if len(same) > 1]
        conflicts: list[list[int]] = []
        several: list[list[int]] = []
        labels = "answer" in self.seen.label_counts()
        for rows in self._together(np.frombuffer(self.seen.strict, np.uint64)):
            if len({self.seen.answers[i] for i in rows}) > 1:
                (
                    conflicts if labels or all(self.seen.json_answer[i] for i in rows) else several
                ).append(rows)
        answers = sum(len({self.seen.answers[i] for i in rows}) for rows in several)
        kept = f"{answers:,} answers, all kept" if several else ""
        found = [
            self._side_by_side(
                "exact_duplicates", duplicates, sorted(i for same in duplicates for i in same[1:])
            ),
            self._side_by_side(
                "label_conflicts", conflicts, [i for rows in conflicts for i in rows]
            ),
            self._side_by_side(
                "multi_answer", several, [i for rows in several for i in rows], kept
            ),
        ]
        self._say_how_to_remove_repeats(found[0])
        # requests, not rows
        for finding, requests in zip(found[1:], (conflicts, several), strict=True):
            finding.count, finding.splits = (
                len(requests),
                self.seen.by_split([rows[0] for rows in requests]),
            )
        return found

    def _say_how_to_remove_repeats(self, finding: Finding) -> None:
        """``drop_duplicates`` is for training, and leaves rows that differ in symbols, tools or
        thoughts.
        """
        if not finding.count:
            return
        removable = sum(self.alive[i] for i in self.seen.repeated())
        left = finding.count - removable
        by_hand = (
            "those in validation and test, and those that differ in symbols, tools or thoughts, are"
            " for you to remove"
        )
        finding.fix = (
            f"data.clean.drop_duplicates=true removes {removable:,} of them from training"
            if removable
            else ""
        )
        if left:
            finding.fix = f"{finding.fix or 'data.clean.drop_duplicates removes none'}; {by_hand}"

    def _together(self, keys: NDArray[Any]) -> list[list[int]]:
        """The rows of one split of the source that share a key, where there are several, in file
        order.
        """
        _, number, times = np.unique(keys[self.alive], return_inverse=True, return_counts=True)
        rows_by_key: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i, key in zip(
            np.flatnonzero(self.alive)[times[number] > 1].tolist(),
            number[times[number] > 1].tolist(),
            strict=True,
        ):
            rows_by_key[self.seen.source[i], key].append(i)
        return [rows for rows in rows_by_key.values() if len(rows) > 1]

    def _near_duplicates(self) -> Finding:
        """Texts with an earlier one in the same split of the source that is nearly like it."""
        first: dict[tuple[int, int], int] = {}
        if self.seen.near:
            for i in np.flatnonzero(self.alive).tolist():
                request = int(self.seen.requests[i])
                if request in self.seen.near:
                    first.setdefault((self.seen.source[i], request), i)
        sets = []
        for (source, text), i in first.items():
            earlier = [
                j for other in self.seen.near[text] if (j := first.get((source, other), i)) < i
            ]
            if earlier:
                sets.append([*sorted(earlier), i])
        note = _AT_LEAST if self.seen.near_capped else ""
        return self._side_by_side(
            "near_duplicates",
            [[rows[0], rows[-1]] for rows in sets],
            [rows[-1] for rows in sets],
            note,
        )

    def _leaks(self, kind: Leak) -> Finding:
        """Test rows that are in training or validation, validation rows that are in training."""
        found, bits = self.seen.leaking(kind)
        rows = found.tolist()
        where = [_names(bit) for bit in bits.tolist()]
        counts = Counter(
            f"{Side(self.sides[i]).name} in {there}" for i, there in zip(rows, where, strict=True)
        )
        dropped = len(self.seen.leaked.get(kind.value, ()))
        notes = [f"{n:,} {what}" for what, n in sorted(counts.items())]
        notes += [f"there were {dropped} before data.clean.drop_leaks"] if dropped else []
        notes += [_AT_LEAST] if kind is Leak.near and self.seen.near_capped else []
        pairs = [[*holders(self.seen.held, self.sides, kind, i), i] for i in rows[:MOST_EXAMPLES]]
        finding = self._side_by_side(kind.value, pairs, rows, ", ".join(notes))
        finding.found_in = where
        if rows:
            gone = self.seen.by_split(np.flatnonzero(removed(self.seen.held, self.sides)).tolist())
            taken = " and ".join(f"{n:,} {side} row{'s' * (n > 1)}" for side, n in gone.items())
            finding.fix = (
                f"data.clean.drop_leaks=true removes {taken}, which validation or test asks too"
            )
        return finding

    def _group_leaks(self) -> Finding:
        """Rows of validation and test whose group has rows in an earlier split as well."""
        # the last: rows without a group (-1)
        held = np.zeros(len(self.seen.group_numbers) + 1, np.int8)
        for side in SPLITS:
            held[self.groups[self.sides == side]] |= np.int8(1 << side)
        held[-1] = 0
        there = held[self.groups]
        leaked = ((self.sides == Side.validation) & (there & 1 > 0)) | (
            (self.sides == Side.test) & (there & 3 > 0)
        )
        return self._finding("group_leaks", np.flatnonzero(leaked).tolist())

    def _without_end(self) -> dict[int, str]:
        """Answers that break off, with the reason: no mark at the end where others of their kind
        have one, or half a word.
        """
        lacking, kinds = (
            self.alive & _flags(self.seen.lacks_end),
            np.frombuffer(self.seen.ending, np.int8),
        )
        found: dict[int, str] = {}
        for kind in (Ending.label, Ending.line, Ending.prose):
            mine = self.alive & (kinds == kind)
            if (lacking & mine).sum() < 0.2 * mine.sum():
                found |= dict.fromkeys(
                    np.flatnonzero(lacking & mine).tolist(), "no mark at the end"
                )
        known = sorted(self.seen.words_said)
        for row, word in self.seen.last_words.items():
            longer = known[bisect(known, word) : bisect(known, word) + 1]
            if (
                self.alive[row]
                and word not in self.seen.words_said
                and longer
                and longer[0].startswith(word)
            ):
                found[row] = f"perhaps half a word at the end: {word!r}, others write {longer[0]!r}"
        return found

    def _mixed_answers(self) -> Finding:
        is_json = _flags(self.seen.json_answer)
        most = (self.alive & is_json).sum() > 0.5 * self.alive.sum()
        return self._finding(
            "mixed_answers", np.flatnonzero(self.alive & ~is_json).tolist() if most else []
        )

    def _length_outliers(self) -> Finding:
        """Answers whose log length is more than 6 robust standard deviations (and a factor of 8)
        from the median.
        """
        if self.alive.sum() < 20:
            return self._finding("length_outliers", [])
        logs = np.log1p(np.frombuffer(self.seen.answer_length, np.int64))
        middle = np.median(logs[self.alive])
        spread = 1.4826 * np.median(np.abs(logs[self.alive] - middle))
        rows = np.flatnonzero(
            self.alive & (np.abs(logs - middle) > max(6 * spread, np.log(8)))
        ).tolist()
        lengths = [
            f"{self.seen.answer_length[i]:,} characters, the median has {np.expm1(middle):,.0f}"
            for i in rows
        ]
        return self._finding("length_outliers", rows, lengths)

    def _duplicate_ids(self) -> Finding:
        _, number, times = np.unique(
            np.frombuffer(self.seen.ids, np.uint64), return_inverse=True, return_counts=True
        )
        return self._finding(
            "duplicate_ids", np.flatnonzero(self.alive & (times[number] > 1)).tolist()
        )

    def _language_mix(self) -> Finding:
        if not len(self.seen.language):
            return Finding("language_mix", Level.off)
        codes = {number: code for code, number in self.seen.language_numbers.items()}
        language = np.frombuffer(self.seen.language, np.int16)
        known = self.alive & (language > 0)
        counts = Counter(language[known].tolist())
        most = counts.most_common(1)[0][0] if counts else 0
        rows = np.flatnonzero(known & (language != most)).tolist()
        shares = (
            ", ".join(f"{codes[n]} {count:,}" for n, count in counts.most_common(6)) if rows else ""
        )
        return self._finding(
            "language_mix", rows, [str(codes[int(language[i])]) for i in rows], shares
        )

    def _splits(self) -> Finding:
        """Splits that cannot be used: without rows, or with far more than their share."""
        level = level_of(self.seen.config, "splits")
        counts = {side: len(self.seen.numbers(side)) for side in SPLITS}
        empty = [side.name for side, count in counts.items() if not count]
        if empty:
            return Finding(
                "splits",
                level,
                len(empty),
                note=f"the data set has no {' and no '.join(empty)} rows",
            )
        every, data = sum(counts.values()), self.seen.data
        expected = every * (1 - data.validation_fraction - data.test_fraction)
        if self.seen.given == {Side.train} and every >= 50 and counts[Side.train] < 0.5 * expected:
            rows = f"only {counts[Side.train]:,} of {every:,} rows"
            return Finding(
                "splits",
                level,
                1,
                note=f"{rows} are left for training: most are nearly alike or of one group",
            )
        return Finding("splits", level)

    def _straddling(self) -> Finding:
        rows = self.seen.numbers(Side.straddles)
        return self._finding("straddling", rows)

    def _size(self) -> Finding:
        """Counts the training rows where they are fewer or more than usual."""
        level, count = level_of(self.seen.config, "size"), len(self.seen.numbers(Side.train))
        if count < _FEW_ROWS:
            return Finding("size", level, count, note=f"fewer than {_FEW_ROWS}")
        if count > _MANY_ROWS:
            return Finding(
                "size",
                level,
                count,
                note=f"more than {_MANY_ROWS:,}; data.max_train_rows takes a fixed sample",
            )
        return Finding("size", level)

    def _balance(self) -> Finding:
        """Labels with more than 80 % of the rows, or with less than 1 % and fewer than 10."""
        weak = []
        for name, counts in self.seen.label_counts().items():
            total = sum(counts.values())
            extreme = {
                label: n
                for label, n in counts.items()
                if n > 0.8 * total or n < min(10, 0.01 * total)
            }
            weak += (
                [f"{name}={label}: {n:,} of {total:,}" for label, n in extreme.items()]
                if len(counts) > 1
                else []
            )
        return Finding(
            "label_balance",
            level_of(self.seen.config, "label_balance"),
            len(weak),
            note="; ".join(weak[:6]),
        )


def _names(bits: int) -> str:
    """The splits that ``leaks`` writes as bits."""
    return " and ".join(side.name for side in SPLITS if bits >> side & 1)


def _flags(values: Sequence[int]) -> NDArray[np.bool_]:
    return np.asarray(values, np.int8).astype(bool)


def _excerpt(row: Row, around: int = 0) -> str:
    """The last request and its answer, shortened, without personal data; of a long request what is
    ``around`` a place in it.
    """
    asked = next((m.content for m in reversed(row.prompt) if m.role != "system"), "")
    start = max(0, min(around - _EXCERPT // 4, len(asked) - _EXCERPT))
    shown, answer = _cut(asked, start), _cut(row.answer, 0)
    return f"{shown}\n→ {answer}" if shown else answer


def _cut(text: str, start: int) -> str:
    """``_EXCERPT`` characters from ``start``; what lies at the edge is hidden before it is cut."""
    before = min(start, 100)
    hidden = pii.hidden(text[start - before : start + _EXCERPT + 100])[before : before + _EXCERPT]
    return f"{'… ' if start else ''}{hidden}{' …' if start + _EXCERPT < len(text) else ''}"


def _difference(rows: Sequence[Row]) -> int:
    """Where the last requests begin to differ."""
    asked = [
        next((m.content for m in reversed(row.prompt) if m.role != "system"), "") for row in rows
    ]
    shortest = min(map(len, asked))
    return next((i for i in range(shortest) if len({text[i] for text in asked}) > 1), shortest)
