"""The file of generated answers: it is continued after an interruption, and overwrites no other.

While rows are answered, lines are appended to ``NAME.partial``, whose first line holds the
settings. In the end they are sorted and renamed to the file itself, and ``NAME.summary.json``
says with which settings they were made.
"""

import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NoReturn

from filelock import FileLock, Timeout

from hydratune.errors import ConfigError, InputError, Problem, RunError
from hydratune.records.files import Json, write_text
from hydratune.settings.overrides import as_typed

Line = dict[str, Json]  # a row of the file: "row" is its number
_SETTINGS = "settings"  # key of the settings in the first line, and in the summary


class AnswerFile:
    """The lines of an output file, and the settings with which they are made.

    ``settings`` are plain values by name; ``done`` are the lines that are there already.
    """

    def __init__(self, path: Path, settings: Mapping[str, Json]) -> None:
        self.path = path
        self.settings = dict(settings)
        self.partial = path.with_name(f"{path.name}.partial")
        self.summary = path.with_name(f"{path.name}.summary.json")
        self.done: dict[int, Line] = {}
        self.finished: int | None = None  # answers in the file itself, once it is there
        self._lock = threading.Lock()  # of the threads that append lines
        self._stream: IO[bytes] | None = None

    @contextmanager
    def opened(self) -> Iterator["AnswerFile"]:
        """Read what is there, and let this process alone append to it.

        Raises ``ConfigError`` if the file holds anything else than answers with these settings,
        and ``InputError`` if it cannot be written.
        """
        lock = FileLock(self.path.with_name(f".{self.path.name}.lock"), timeout=0)
        try:
            with self._writing():
                self.path.parent.mkdir(parents=True, exist_ok=True)
                lock.acquire()
        except Timeout:
            raise InputError(
                f"another process is writing {self.path}; wait for it, or choose another output"
            ) from None
        try:
            self._read()
            yield self
        finally:
            if self._stream is not None:
                self._stream.close()
                self._stream = None
            lock.release()
            Path(lock.lock_file).unlink(missing_ok=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Raise ``InputError`` instead of the errors of files."""
        try:
            yield
        except OSError as error:
            raise InputError(
                f"cannot write {error.filename or self.path} ({error.strerror or error}); free some"
                " space, or choose another output=FILE.jsonl"
            ) from error

    def _read(self) -> None:
        if self.path.exists():
            before = self._settings_of_summary()
            if before is None:
                self._refuse("this file exists, and hydratune generate did not write it")
            self._refuse_other(before)
            self.finished = self.path.read_bytes().count(b"\n")
        elif self.partial.exists():
            lines = _lines(_whole_lines(self.partial), self.partial)
            header = lines[0] if lines else {_SETTINGS: self.settings}
            if not isinstance(header.get(_SETTINGS), dict):
                self._refuse(f"{self.partial} exists, and hydratune generate did not write it")
            self._refuse_other(header[_SETTINGS])
            self.done = {line["row"]: line for line in lines[1:]}

    def _settings_of_summary(self) -> Mapping[str, Json] | None:
        try:
            settings = json.loads(self.summary.read_text("utf-8"))[_SETTINGS]
        except (OSError, ValueError, LookupError, TypeError):
            return None
        return settings if isinstance(settings, dict) else None

    def _refuse_other(self, before: Mapping[str, Json]) -> None:
        """Raise ``ConfigError`` if ``before`` are other settings."""
        names = [name for name, value in self.settings.items() if before.get(name) != value]
        names = [name for name in names if name in before] or names
        if names:
            changes = ", ".join(
                _change(name, before.get(name), self.settings[name]) for name in names
            )
            self._refuse(f"it holds answers that were made otherwise: {changes}")

    def _refuse(self, why: str) -> NoReturn:
        numbers = range(2, 10_000)
        others = (self.path.with_name(f"{self.path.stem}-{n}.jsonl") for n in numbers)
        new = next(other for other in others if not other.exists())
        fix = f"{as_typed('output', new)}, or delete the file first"
        raise ConfigError([Problem("output", self.path, why, fix)])

    def append(self, lines: Sequence[Line]) -> None:
        """Write lines to disk; several threads may call it."""
        with self._lock:
            new = [line for line in lines if line["row"] not in self.done]
            if not new:
                return
            with self._writing():
                if self._stream is None:
                    self._stream = self._open()
                self._stream.write(b"".join(map(_encoded, new)))
                self._stream.flush()
                os.fsync(self._stream.fileno())
            self.done.update({line["row"]: line for line in new})

    def _open(self) -> IO[bytes]:
        """Open the partial file to append to it, without a line that was cut by a kill."""
        stream = self.partial.open("ab")
        kept = len(_whole_lines(self.partial))
        stream.truncate(kept)
        if not kept:
            stream.write(_encoded({_SETTINGS: self.settings}))
        return stream

    def finish(self, summary: Mapping[str, Json]) -> None:
        """Write the file itself, in the order of the rows, and the summary beside it."""
        ordered = b"".join(_encoded(self.done[row]) for row in sorted(self.done))
        content = {**summary, _SETTINGS: self.settings}
        write_text(self.summary, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        write_text(self.path, ordered.decode("utf-8"))
        with suppress(OSError):
            self.partial.unlink()


def _encoded(line: Mapping[str, Json]) -> bytes:
    return (json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8", errors="backslashreplace")


def _whole_lines(file: Path) -> bytes:
    """Return a file up to its last line end."""
    content = file.read_bytes()
    return content[: content.rfind(b"\n") + 1]


def _lines(content: bytes, file: Path) -> list[Line]:
    """Return the objects of a file. Raises ``RunError`` for a broken line."""
    lines: list[Line] = []
    texts = content.decode("utf-8", errors="replace").split("\n")[:-1]
    for number, text in enumerate(texts, 1):  # not splitlines: an answer may hold U+2028
        try:
            line = json.loads(text)
            if not isinstance(line, dict) or not isinstance(line.get("row", 0), int):
                raise ValueError("no answer")
        except ValueError as error:
            raise RunError(
                f"{file}:{number}: not readable ({error}); the file was changed or cut: delete the"
                " line, and its row is answered again"
            ) from None
        lines.append(line)
    return lines


def _change(name: str, before: Json, now: Json) -> str:
    if name in ("input", "weights") or isinstance(before, dict | list):
        return f"{name} has changed"
    return f"{name} = {_shown(before)} then, {_shown(now)} now"


def _shown(value: Json) -> str:
    text = (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )
    return text if len(text) <= 60 else f"{text[:57]}..."
