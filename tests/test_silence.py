"""A data source that gives nothing for long, as on a hung disk, says so."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from hydratune.data import silence
from hydratune.data.rows import Row
from hydratune.data.source_errors import open_source
from hydratune.data.sources.base import OpenedSource, SourceConfig

LINE = "data=sleepy has given no row for 0 s: its disk or server may hang"


@dataclass
class SleepyData(SourceConfig):
    """Two rows, each after some seconds."""

    source: str = "sleepy"
    opening: float = 0.0
    reading: float = 0.0

    def open(self) -> OpenedSource:
        time.sleep(self.opening)
        return OpenedSource({"train": self._rows()}, identity=0)

    def _rows(self) -> Iterator[Row]:
        for _ in range(2):
            time.sleep(self.reading)
            yield Row("a", [])


@pytest.mark.fault(
    "a data source hangs: a share, a database, a server",
    seen="a line after 30 s without a row; Ctrl-C ends the run",
    kept="all that was there",
)
@pytest.mark.parametrize(
    ("opening", "reading", "lines"), [(0.5, 0, 1), (0, 0.5, 1), (0, 0, 0)], ids=str
)
def test_a_silent_source_is_said_once(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    opening: float,
    reading: float,
    lines: int,
) -> None:
    monkeypatch.setattr(silence, "_SECONDS", 0.1)
    monkeypatch.setattr(silence, "_CHECK", 0.02)
    source = open_source(SleepyData(opening=opening, reading=reading))
    read = []
    for row in source.rows["train"]:
        read.append(row)
        time.sleep(0.2)  # what is done with a row is not waited for
    assert len(read) == 2 and " ".join(capsys.readouterr().out.split()).count(LINE) == lines
