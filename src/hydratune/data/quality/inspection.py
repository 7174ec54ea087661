"""The inspection of a data set: every row is seen once, then all rows are divided into splits.

Only numbers are kept of the rows, no texts. ``set_checks.run_checks`` turns them into findings.
"""

from array import array
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hydratune.data.quality import leaks
from hydratune.data.quality.endings import EndingStatistics
from hydratune.data.quality.fingerprints import Fingerprints
from hydratune.data.quality.labels import LabelCounter
from hydratune.data.quality.languages import detect_language
from hydratune.data.quality.leak_keys import LeakKeys
from hydratune.data.quality.near_requests import find_near_requests, merge_requests
from hydratune.data.quality.row_checks import RowCheck, request, row_checks
from hydratune.data.rows import Row
from hydratune.data.splits import SPLITS, Candidates, Side, place, split, stratum
from hydratune.data.store import RowStore
from hydratune.errors import DataError
from hydratune.settings.data import DataConfig, Level

_MOST_NOTES = 2_000  # kept of one check


class Inspection:
    """``see`` every row in file order, then ``divide`` them.

    Rows are numbered by the order in which they are seen; arrays have one entry per row.
    """

    def __init__(
        self,
        data: DataConfig,
        schema: Mapping[str, object] | None,
        extra: Mapping[str, RowCheck] | None = None,
    ) -> None:
        """Prepare the checks; ``extra`` are more checks of one row, by their name in ``CHECKS``."""
        self.data, self.config = data, data.quality
        self.checks = {**row_checks(data.quality, schema), **(extra or {})}
        self.hits: dict[str, array[int]] = defaultdict(lambda: array("q"))  # check -> rows
        self.notes: dict[str, dict[int, str]] = defaultdict(dict)  # check -> row -> what is wrong

        self.source, self.places = array("b"), array("d")
        self.group_numbers: dict[str, int] = {}
        self.groups = array("q")  # -1 without a group
        self.strata: list[str] = []
        self.prints = Fingerprints()
        self.leak_keys = LeakKeys(data)
        self.labels = LabelCounter(schema)
        self.endings = EndingStatistics()
        self.answer_length = array("q")  # characters
        self.language_numbers: dict[str | None, int] = {None: 0}
        self.language = array("h")
        is_on = self.config.language_mix is not Level.off
        self.finds_languages = is_on and "language_mix" not in self.config.skipped()

        # Known once the rows are divided:
        self.given: set[Side] = set()  # the splits that the source has itself
        self.sides: NDArray[np.int8] = np.zeros(0, np.int8)
        self.requests: NDArray[np.int64] = np.zeros(0, np.int64)  # see ``merge_requests``
        self.near: dict[int, list[int]] = {}  # request -> the requests nearly equal to it
        self.near_capped = False  # so many texts are similar that not all were compared
        # kind of leak -> the rows that it concerned before data.clean.drop_leaks
        self.leaks_before_removal: dict[str, list[int]] = {}

    def see(self, row: Row, source: Side) -> str:
        """Add one row, which its source has in the split ``source``.

        Returns its request by the strict rule, which ``divide`` reads back from the row store.
        """
        number = len(self.source)
        self._check(row, number)
        self.source.append(source)
        self.places.append(place(row))
        self.groups.append(self._group_number(row.group))
        if self.data.stratify is not None:
            self.strata.append(stratum(row, self.data.stratify) or "")

        forms = self.prints.see(row)
        self.leak_keys.see(row, number, forms, self.prints.answer_forms[number])
        is_json = bool(self.prints.is_json[number])
        self.labels.see(row, is_json)
        self.endings.see("" if is_json else row.answer)
        self.answer_length.append(len(row.answer))
        if self.finds_languages:
            language = detect_language(request(row))
            self.language.append(
                self.language_numbers.setdefault(language, len(self.language_numbers))
            )
        return forms.strict

    def _check(self, row: Row, number: int) -> None:
        for name, check in self.checks.items():
            note = check(row)
            if note is not None:
                self.hits[name].append(number)
                if len(self.notes[name]) < _MOST_NOTES:
                    self.notes[name][number] = note

    def _group_number(self, group: str | None) -> int:
        return self.group_numbers.setdefault(group, len(self.group_numbers)) if group else -1

    def divide(self, store: RowStore, given: set[Side], advance: Callable[[int], None]) -> None:
        """Decide the side of every row.

        ``store`` has the texts that ``see`` returned; ``given`` are the splits that the source has
        itself; ``advance`` is called while near duplicates are searched. Raises ``DataError`` if
        no row has the field ``data.stratify``.
        """
        self.given = given
        if self.strata and not any(self.strata):
            raise DataError(
                f"data.stratify = {self.data.stratify}: no row has such a field in its meta data or"
                " its JSON answer"
            )
        request_of = merge_requests(self.prints)
        self.requests = request_of[np.frombuffer(self.prints.texts, np.int64)]
        if self.config.near_duplicates is not Level.off or self.config.near_leaks is not Level.off:
            self.near, self.near_capped = find_near_requests(
                self.prints, store, request_of, self.config.similarity, advance
            )
        self.sides = np.frombuffer(self.source, np.int8).copy()
        if self.data.clean.drop_duplicates:
            self.sides[self.removable_duplicates()] = Side.duplicate
        if len(given) < len(SPLITS):
            self._split_training_rows()
        if self.data.clean.drop_leaks:
            self.leaks_before_removal = {
                kind.value: self.leaking(kind)[0].tolist() for kind in leaks.Leak
            }
            self.sides[leaks.rows_to_remove(self.contents, self.sides)] = Side.leak

    def _split_training_rows(self) -> None:
        """Split off the splits that the source does not have."""
        training = np.flatnonzero(self.sides == Side.train)
        rows, near = self._candidates(training)
        shares = {
            Side.validation: self.data.validation_fraction,
            Side.test: self.data.test_fraction,
        }
        validation, test = (0.0 if side in self.given else shares[side] for side in shares)
        near = {} if self.config.near_leaks is Level.off else near
        self.sides[training] = split(rows, near, validation, test)

    def _candidates(self, training: NDArray[np.int64]) -> tuple[Candidates, dict[int, list[int]]]:
        """Return the rows to be split, and (request -> the requests nearly equal to it).

        Requests are numbered by their words here. What two rows have in common depends only on the
        two, so that rows added at the end of a file move no other row.
        """
        words = np.frombuffer(self.prints.words, np.uint64)
        number = np.unique(words, return_inverse=True)[1].astype(np.int64)
        of_text = np.zeros(len(self.prints.text_numbers), np.int64)
        of_text[np.frombuffer(self.prints.texts, np.int64)] = number
        near: dict[int, list[int]] = defaultdict(list)
        for request_number, others in self.near.items():
            near[int(of_text[request_number])] += of_text[others].tolist()
        with_leaks = self.config.near_leaks is not Level.off
        candidates = Candidates(
            places=np.frombuffer(self.places)[training],
            groups=np.frombuffer(self.groups, np.int64)[training],
            texts=number[training],
            strata=[self.strata[i] for i in training.tolist()] if self.strata else None,
            turns=self._shared_turns(training) if with_leaks else {},
        )
        return candidates, near

    def _shared_turns(self, training: NDArray[np.int64]) -> dict[int, list[int]]:
        """Return candidate -> numbers of its leak keys that other rows have too."""
        keys = [self.leak_keys.own.arrays()]
        if self.config.turn_leaks is not Level.off:
            keys.append(self.leak_keys.turns.arrays())
        rows, hashes = (np.concatenate(arrays) for arrays in zip(*keys, strict=True))
        _, number, times = np.unique(hashes, return_inverse=True, return_counts=True)
        is_shared = times[number] > 1
        candidate_of = {row: i for i, row in enumerate(training.tolist())}
        turns: dict[int, list[int]] = defaultdict(list)
        for row, key in zip(rows[is_shared].tolist(), number[is_shared].tolist(), strict=True):
            if row in candidate_of:
                turns[candidate_of[row]].append(key)
        return turns

    def removable_duplicates(self) -> list[int]:
        """Return the training rows of the source that repeat an earlier one strictly.

        Request, tools, reasoning and answer are equal, so that it is safe to remove them.
        """
        seen: set[int] = set()
        duplicates = []
        for i, (side, whole) in enumerate(zip(self.source, self.prints.whole, strict=True)):
            if side == Side.train:
                if whole in seen:
                    duplicates.append(i)
                seen.add(whole)
        return duplicates

    @cached_property
    def contents(self) -> leaks.RowContents:
        """What is compared between rows to find leaks."""
        keys = self.leak_keys
        return leaks.RowContents(
            requests=self.requests,
            request_count=len(self.prints.text_numbers),
            near=self.near,
            own=keys.own,
            inner=keys.inner,
            turns=keys.turns,
            inner_turns=keys.inner_turns,
        )

    def leaking(self, kind: leaks.Leak) -> tuple[NDArray[np.int64], leaks.SplitBits]:
        """Return (the rows of validation and test that an earlier split contains, these splits)."""
        bits = leaks.find_leaks(self.contents, self.sides, kind)
        rows = np.flatnonzero(bits)
        return rows, bits[rows]

    @property
    def is_used(self) -> NDArray[np.bool_]:
        """Whether each row is in one of the three splits."""
        return np.isin(self.sides, SPLITS)

    def rows_on(self, *sides: Side) -> list[int]:
        """Return the rows on these sides, in file order."""
        return np.flatnonzero(np.isin(self.sides, sides)).tolist()

    def count_by_split(self, rows: Sequence[int]) -> dict[str, int]:
        """Return split -> how many of ``rows`` it has; splits without any are missing."""
        counts = np.bincount(self.sides[np.asarray(rows, np.int64)], minlength=len(Side))
        return {side.name: int(counts[side]) for side in SPLITS if counts[side]}

    def label_counts(self) -> dict[str, dict[str, int]]:
        """Return field -> label -> number of rows, see ``labels``."""
        return self.labels.counts(self.is_used)
