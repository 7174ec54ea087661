"""Log files of a pack: run.log for each job, pack.log for everything else."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from hydratune.console import LineFormatter
from hydratune.settings.secrets import mask

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class LogByThread(logging.Handler):
    """Writes the records of a job's thread to the file of that job, and all others to a common
    one.
    """

    def __init__(self, common: IO[str]) -> None:
        super().__init__()
        self.setFormatter(LineFormatter(_FORMAT))
        self._common = common
        self._files: dict[int, IO[str]] = {}  # by thread

    def emit(self, record: logging.LogRecord) -> None:
        file = self._files.get(threading.get_ident(), self._common)
        try:
            file.write(mask(self.format(record)) + "\n")
            file.flush()
        except Exception:  # a full disk costs a line, not a job or a pack
            return

    @contextmanager
    def to_file(self, path: Path) -> Iterator[IO[str]]:
        """Append the records of this thread to ``path`` inside the block."""
        with path.open("a", encoding="utf-8") as file:
            self._files[threading.get_ident()] = file
            try:
                yield file
            finally:
                del self._files[threading.get_ident()]


@contextmanager
def log_by_thread(path: Path) -> Iterator[LogByThread]:
    """Write what is logged inside the block to ``path``, or where the threads of jobs have it."""
    warnings.filterwarnings("ignore", module="lightning|torch")
    with path.open("a", encoding="utf-8") as common:
        handler = LogByThread(common)
        logging.root.addHandler(handler)
        logging.root.setLevel(logging.INFO)
        try:
            yield handler
        finally:
            logging.root.removeHandler(handler)
