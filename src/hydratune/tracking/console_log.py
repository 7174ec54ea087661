"""What a run prints and logs, copied to its tracker line by line."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hydratune.console import LineFormatter, copied_output, is_redirected
from hydratune.tracking.tracker import Tracker

_FORMAT = "%(levelname)s %(name)s: %(message)s"


class _RecordCopy(logging.Handler):
    """Hands the log records of one thread, or of the whole process, to a function."""

    def __init__(self, write: Callable[[str], object], thread: int | None) -> None:
        """``thread``: the only thread whose records count; None: all of them."""
        super().__init__(logging.INFO)
        self.setFormatter(LineFormatter(_FORMAT))
        self._write, self._thread = write, thread

    def emit(self, record: logging.LogRecord) -> None:
        is_own = self._thread in (None, threading.get_ident())
        if is_own and not record.name.startswith("wandb"):  # the client would log its own lines
            self._write(self.format(record))


@contextmanager
def console_copied_to(tracker: Tracker) -> Iterator[None]:
    """Copy what is printed and logged inside the block to ``tracker``.

    In the thread of a job of a pack that is what this thread prints and logs, so that every run
    gets its own lines and no other run's.
    """
    thread = threading.get_ident() if is_redirected() else None
    handler = _RecordCopy(tracker.write_log, thread)
    logging.root.addHandler(handler)
    try:
        with copied_output(tracker.write_log):
            yield
    finally:
        logging.root.removeHandler(handler)
