"""``data=files``: your own files."""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydratune import digests
from hydratune.data.formats.delimiters import named_delimiter
from hydratune.data.formats.files import SUFFIXES
from hydratune.data.rows import SPLIT_NAMES
from hydratune.data.sources.base import OpenedSource
from hydratune.data.sources.records import RecordsConfig
from hydratune.errors import Problem
from hydratune.settings.paths import path_setting
from hydratune.settings.registry import variant

_FILES_NAMED = 3
_GENERIC_NAMES = ("train", "training", "data")  # of files: their folder says what they are


@variant("data", "files")
@dataclass
class FilesData(RecordsConfig):
    """JSONL, JSON, CSV, TSV, Parquet or text files; format and columns are detected and stated."""

    source: str = "files"
    train: str = path_setting()  # the file with the training rows
    validation: str | None = path_setting(None)  # a file; null: rows are split off
    test: str | None = path_setting(None)  # a file; null: rows are split off
    # e.g. {prompt: question, completion: answer, group: customer}
    columns: dict[str, str] = field(default_factory=dict)
    # speaker -> role, e.g. {narrator: system}; or role -> speakers, {user: [Mr. X, Ann]}
    roles: dict[str, Any] = field(default_factory=dict)
    # rows whose column has this value, e.g. {label: true}; any: the column selects no rows
    keep: dict[str, Any] = field(default_factory=dict)
    encoding: str = "utf-8"  # of text files
    # of the columns of CSV files: comma, semicolon, tab, pipe or another character; null: found in
    # the first rows
    delimiter: str | None = None

    def files(self) -> dict[str, Path]:
        """Return split -> its file."""
        return {name: Path(file) for name in SPLIT_NAMES if (file := getattr(self, name))}

    def source_problems(self) -> Iterator[Problem]:
        """Yield the problems of the settings that only this source has."""
        for name in SPLIT_NAMES:
            file = getattr(self, name)
            if file is not None and not Path(file).is_file():
                yield Problem(f"data.{name}", file, *_no_file(Path(file)))
        yield from self._delimiter_problems()
        yield from self.record_problems()

    def _delimiter_problems(self) -> Iterator[Problem]:
        key, fix = "data.delimiter", "comma, semicolon, tab, pipe or one other character"
        if self.delimiter is None:
            return
        if named_delimiter(self.delimiter) is None:
            yield Problem(key, self.delimiter, "this separates no columns", f"one of: {fix}")
        if not any(path.suffix.lower() in (".csv", ".tsv") for path in self.files().values()):
            yield Problem(key, self.delimiter, "none of the files is a CSV file", "leave it out")

    def _sign(self) -> str | None:
        return named_delimiter(self.delimiter) if self.delimiter is not None else None

    def default_name(self) -> str:
        """Return the name of the training file, or of its folder if the name says nothing."""
        file = Path(self.train)
        return file.resolve().parent.name if file.stem in _GENERIC_NAMES else file.stem

    def read_first_rows(self) -> None:
        from hydratune.data.formats.reader import read_file

        naming = self.naming()
        for path in filter(_is_streamed, self.files().values()):
            next(read_file(path, naming, self.encoding, delimiter=self._sign()), None)

    def open(self) -> OpenedSource:
        """Read the files, one record after the other."""
        from hydratune.data.formats.reader import read_file

        statements: list[str] = []
        files, naming = self.files(), self.naming()
        rows = {
            name: read_file(path, naming, self.encoding, statements, self._sign())
            for name, path in files.items()
        }
        identity = {name: digests.of_file(path) for name, path in files.items()}
        return OpenedSource(rows, identity, sum(map(_count_lines, files.values())), statements)


def _is_streamed(path: Path) -> bool:
    """Return whether the first row can be read without the rest of the file."""
    return path.suffix.lower() in (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")


def _no_file(path: Path) -> tuple[str, str]:
    """Return why a path is not a file that can be read, and which files are near it."""
    folder = path if path.is_dir() else path.parent
    if path.is_dir():
        why = "this is a folder, not a file"
    elif path.is_symlink() and not path.exists():
        why = f"this is a link to {path.readlink()}, which does not exist"
    elif path.exists():
        why = "this is a pipe or a device, not a file"
    else:
        why = "no such file" if folder.is_dir() else f"no such file: there is no folder {folder}"
    near = data_files(folder, path.name)
    if near:
        return why, f"files with rows in that folder: {', '.join(map(str, near))}"
    here = "" if path.is_absolute() else f" (a relative path begins in {Path.cwd()})"
    return why, f"give a file that ends with {', '.join(SUFFIXES)}{here}"


def data_files(folder: Path, name: str) -> list[Path]:
    """Return files with rows in ``folder``, at most three, those with names like ``name`` first."""
    if not folder.is_dir():
        return []
    files = [f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and f.is_file()]
    return sorted(files, key=lambda file: (-_likeness(file.name, name), file.name))[:_FILES_NAMED]


def _likeness(name: str, other: str) -> float:
    return difflib.SequenceMatcher(None, name, other).ratio()


def _count_lines(path: Path) -> int:
    """Return about how many rows a file has."""
    if path.suffix.lower() == ".parquet":
        return 0
    with path.open("rb") as stream:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: stream.read(1 << 20), b""))
