"""Lines that very many requests have in the same place at their beginning or end: headers, footers,
disclaimers.

``Boilerplate`` sees every row and names these lines; ``remove_lines`` removes them from a row.
"""

import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace

from hydratune.data.cleaning import tidy_whitespace
from hydratune.data.rows import Row

# A label without a long text after it, a question or heading, or a line without any word.
_DISTINGUISHES = re.compile(r"\A[-*#>\s]*[^\s:][^:.!?]{0,40}:(?:\s|\Z)(?!.{60})|[:?]\W*\Z|\A\W*\Z")
_MOST_BOILERPLATE = 100  # lines


class Boilerplate:
    """Counts the lines at the edges of requests and finds those that are boilerplate.

    Lines that distinguish rows are no boilerplate: labelled lines ("Section: allergies"), questions
    and headings, the few values that one place takes in nearly all rows, and lines without which
    many requests would be the same.

    Memory: once there are more than ``MOST_LINES`` different lines, they are counted by the "lossy
    counting" of Manku and Motwani (2002). A line that is frequent enough is still found; its count
    may miss ``ERROR`` of the rows.
    """

    MOST = 0.05  # of the rows must have the line
    LEAST = 20  # rows must have it
    SHORTEST = 12  # characters
    EDGE = 5  # lines at the beginning and at the end of a request, empty lines not counted
    MOST_LINES = 500_000
    ERROR = 0.005  # of the rows
    _COMPARED = 50_000  # requests whose other lines are compared with those of other requests
    _DISTINGUISHED = 0.1  # of a line's rows: if so many are the same as others without it, it stays
    # A place in which so many of the rows have one of several repeated lines is a field.
    _FEW_VALUES = 0.8

    def __init__(self) -> None:
        self.rows = 0
        self.requests = array("I")  # request -> its row; only requests of several lines
        self.sizes = array("I")  # request -> its distinct lines, empty ones not counted
        # line -> (requests, places in each of these as bits)
        self.seen: dict[str, tuple[array[int], array[int]]] = {}
        self.missed: dict[str, int] = {}  # line -> occurrences that may have been forgotten
        self.forgotten = 0
        self.distinguished: Counter[str] = Counter()  # line -> requests that only it distinguishes
        self.rests: dict[tuple[bool, int], str] = {}

    def see(self, row: Row) -> None:
        """Count the edges of the row's user turns."""
        for message in row.messages:
            if message.role == "user":
                lines = [line for raw in message.content.split("\n") if (line := raw.strip())]
                if len(lines) >= 2:
                    self._count(lines)
        self.rows += 1
        if len(self.seen) > self.MOST_LINES:
            self._forget_rare_lines()

    def _count(self, lines: list[str]) -> None:
        """Count one request, given as its lines that are not empty."""
        for line, bits in self._places(lines).items():
            if len(line) >= self.SHORTEST and not _DISTINGUISHES.search(line):
                if line not in self.seen:
                    self.seen[line] = (array("I"), array("H"))
                    if self.forgotten:
                        self.missed[line] = self.forgotten
                self.seen[line][0].append(len(self.requests))
                self.seen[line][1].append(bits)
        if len(self.requests) < self._COMPARED:
            for first, line, rest in ((True, lines[0], lines[1:]), (False, lines[-1], lines[:-1])):
                other = self.rests.setdefault((first, hash(tuple(rest))), line)
                if other != line:
                    self.distinguished.update((line, other))
        self.requests.append(self.rows)
        self.sizes.append(len(set(lines)))

    def _places(self, lines: list[str]) -> dict[str, int]:
        """Return line -> its places at the two edges, as bits: the beginning, then the end."""
        places: dict[str, int] = defaultdict(int)
        for i, line in enumerate(lines[: self.EDGE]):
            places[line] |= 1 << i
        for i, line in enumerate(reversed(lines[-self.EDGE :]), self.EDGE):
            places[line] |= 1 << i
        return places

    def _forget_rare_lines(self) -> None:
        self.forgotten = int(self.ERROR * self.rows)
        self.seen = {
            line: occurrences
            for line, occurrences in self.seen.items()
            if len(occurrences[0]) + self.missed.get(line, 0) > self.forgotten
        }
        self.missed = {line: count for line, count in self.missed.items() if line in self.seen}

    def lines(self) -> dict[str, int]:
        """Return line -> number of rows with it at an edge, most frequent first; at most 100."""
        shared: dict[str, int] = {}
        for place in range(2 * self.EDGE):
            counts = {line: n for line in self.seen if (n := self._rows_with(line, place)) >= 3}
            if self._is_field(counts):
                continue
            for line, count in counts.items():
                is_frequent = count + self.missed.get(line, 0) >= max(
                    self.LEAST, self.MOST * self.rows
                )
                if is_frequent and self.distinguished[line] <= self._DISTINGUISHED * count:
                    shared[line] = len({self.requests[i] for i in self.seen[line][0]})
        most_frequent = sorted(shared.items(), key=lambda item: -item[1])
        return dict(most_frequent[:_MOST_BOILERPLATE])

    def _is_field(self, counts: dict[str, int]) -> bool:
        """Return whether nearly all rows have one of several repeated lines in a place."""
        repeated = sum(n > max(3, self.ERROR * self.rows) for n in counts.values())
        return repeated > 1 and sum(counts.values()) >= self._FEW_VALUES * self.rows

    def _rows_with(self, line: str, place: int) -> int:
        """Return the number of rows with ``line`` in ``place``; 0 for a line of fewer than 3."""
        requests, places = self.seen[line]
        if len(requests) < 3:
            return 0
        at_place = (i for i, bits in zip(requests, places, strict=True) if bits >> place & 1)
        return len({self.requests[i] for i in at_place})

    def changed_rows(self) -> list[int]:
        """Return the positions of the rows that ``remove_lines`` would change.

        They may be fewer than it changes: by ``ERROR`` of the rows for each line that was forgotten
        for a time.
        """
        removable: Counter[int] = Counter()
        for line in self.lines():
            removable.update(self.seen[line][0])
        # A request that consists of such lines alone stays.
        return sorted({self.requests[i] for i, n in removable.items() if n < self.sizes[i]})


def remove_lines(row: Row, lines: Iterable[str]) -> Row:
    """Remove ``lines`` from the edges of the row's requests.

    A request of nothing else stays. Returns the same object if nothing changed.
    """
    unwanted = set(lines)
    messages = []
    for message in row.messages:
        if message.role == "user":
            before = message.content.split("\n")
            kept = _without_edges(before, unwanted)
            if any(line.strip() for line in kept) and len(kept) < len(before):
                message = replace(message, content=tidy_whitespace("\n".join(kept)))
        messages.append(message)
    return replace(row, messages=tuple(messages)) if tuple(messages) != row.messages else row


def _without_edges(lines: list[str], unwanted: set[str]) -> list[str]:
    """Return ``lines`` without those of ``unwanted`` among the first and last few filled ones."""
    filled = [i for i, line in enumerate(lines) if line.strip()]
    edges = {*filled[: Boilerplate.EDGE], *filled[-Boilerplate.EDGE :]}
    return [line for i, line in enumerate(lines) if not (i in edges and line.strip() in unwanted)]
