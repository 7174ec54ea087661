"""From the numbers of rows to a finding with their ids, their places and example texts."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hydratune.data.quality import pii
from hydratune.data.quality.findings import MOST_EXAMPLES, MOST_ROWS, Example, Finding, level_of
from hydratune.data.quality.inspection import Inspection
from hydratune.data.rows import Row
from hydratune.data.store import RowStore

_EXCERPT = 400  # characters of a text in an example
_BEFORE_CUT = 100  # characters around an excerpt in which personal data is masked before the cut
_SIDE_BY_SIDE = 4  # rows in one example


class FindingBuilder:
    """Builds the findings of one inspection; ``store`` has its rows."""

    def __init__(self, inspection: Inspection, store: RowStore) -> None:
        self.inspection, self.store = inspection, store
        self.is_used = inspection.is_used  # (rows,)

    def empty(self, name: str, count: int = 0, note: str = "") -> Finding:
        """Return a finding without rows."""
        return Finding(name, level_of(self.inspection.config, name), count, note=note)

    def of_rows(
        self, name: str, rows: Sequence[int], notes: Sequence[str] = (), summary: str = ""
    ) -> Finding:
        """Return a finding of single rows; ``notes`` say for each what is wrong with it."""
        finding = self._with_rows(name, rows, summary)
        is_personal = name.startswith("pii_")  # its notes are masked, and its texts are not shown
        for i, note in zip(rows[:MOST_EXAMPLES], notes or [""] * len(rows), strict=False):
            texts = [] if is_personal else [_excerpt(self.store[i])]
            shown = note if is_personal else pii.mask_all(note)
            finding.examples.append({"rows": [self.store.id(i)], "texts": texts, "note": shown})
        return finding

    def of_groups(
        self, name: str, groups: Sequence[Sequence[int]], rows: Sequence[int], note: str = ""
    ) -> Finding:
        """Return a finding of rows that belong together.

        Each of ``groups`` is an example; ``rows`` are listed and counted.
        """
        finding = self._with_rows(name, rows, note)
        finding.examples = [self._side_by_side(group) for group in groups[:MOST_EXAMPLES]]
        return finding

    def _side_by_side(self, group: Sequence[int]) -> Example:
        rows = [self.store[int(i)] for i in group[:_SIDE_BY_SIDE]]
        difference = _first_difference(rows)
        more = len(group) - _SIDE_BY_SIDE
        return {
            "rows": [row.id for row in rows],
            "texts": [_excerpt(row, difference) for row in rows],
            "note": f"and {more} more" if more > 0 else "",
        }

    def _with_rows(self, name: str, rows: Sequence[int], note: str) -> Finding:
        finding = self.empty(name, len(rows), note)
        listed = [int(i) for i in rows[:MOST_ROWS]]
        finding.rows = [self.store.id(i) for i in listed]
        finding.where = [self.store.where(i) for i in listed]
        finding.splits = self.inspection.count_by_split(rows)
        return finding

    def used(self, mask: NDArray[np.bool_]) -> list[int]:
        """Return the rows of ``mask`` that are in one of the three splits."""
        return np.flatnonzero(self.is_used & mask).tolist()


def _last_request(row: Row) -> str:
    return next((m.content for m in reversed(row.prompt) if m.role != "system"), "")


def _excerpt(row: Row, around: int = 0) -> str:
    """Return the last request and its answer, shortened and with personal data masked.

    A long request is shown ``around`` a position in it.
    """
    request = _last_request(row)
    start = max(0, min(around - _EXCERPT // 4, len(request) - _EXCERPT))
    shown, answer = _cut(request, start), _cut(row.answer, 0)
    return f"{shown}\n→ {answer}" if shown else answer


def _cut(text: str, start: int) -> str:
    """Cut ``_EXCERPT`` characters from ``start``; what lies at the edge is masked before."""
    end, before = start + _EXCERPT, min(start, _BEFORE_CUT)
    masked = pii.mask_all(text[start - before : end + _BEFORE_CUT])[before : before + _EXCERPT]
    return f"{'… ' if start else ''}{masked}{' …' if end < len(text) else ''}"


def _first_difference(rows: Sequence[Row]) -> int:
    """Return the position at which the last requests begin to differ."""
    requests = [_last_request(row) for row in rows]
    shortest = min(map(len, requests))
    return next((i for i in range(shortest) if len({text[i] for text in requests}) > 1), shortest)
