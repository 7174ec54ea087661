"""The journal file of a study: complete lines only, and verified before it is read."""

import hashlib
import os
from pathlib import Path

from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock, JournalStorage

from hydratune.errors import RunError
from hydratune.records.files import write_text


def open_journal(file: Path) -> JournalStorage:
    """Return the storage in ``file``, which is made if it does not exist.

    Raises ``RunError`` if the file is not what was written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = JournalLock(file)
    if file.is_file():  # repair and verify it before Optuna reads it
        lock.acquire()
        lock.release()
    return JournalStorage(JournalFileBackend(str(file), lock))


class JournalLock(JournalFileSymlinkLock):
    """The lock that is held while a journal is appended to.

    It first removes an incomplete line at the journal's end, which a killed driver or a full disk
    may have left and which would make the lines after it unreadable.

    ``JOURNAL.sha256`` holds the length and the SHA-256 of the journal at the last release of the
    lock by any process; ``acquire`` verifies both. A journal without such a file was written by an
    older version and is used as it is.
    """

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        self._journal = journal
        self._digest_file = journal.with_name(f"{journal.name}.sha256")
        # of the bytes that this process has verified or written
        self._hash, self._length = hashlib.sha256(), 0

    def acquire(self) -> bool:
        acquired = super().acquire()
        try:
            self._remove_incomplete_line()
            self._verify()
        except BaseException:
            super().release()
            raise
        return acquired

    def release(self) -> None:
        try:
            self._remove_incomplete_line()
            self._hash_up_to(None)
            write_text(self._digest_file, f"{self._hash.hexdigest()} {self._length}\n")
        finally:
            super().release()

    def _hash_up_to(self, end: int | None) -> None:
        """Add the journal's bytes up to ``end`` to the hash; None: all of them."""
        with self._journal.open("rb") as stream:
            stream.seek(self._length)
            content = stream.read() if end is None else stream.read(max(0, end - self._length))
        self._hash.update(content)
        self._length += len(content)

    def _verify(self) -> None:
        """Raise ``RunError`` if the journal is not what was written."""
        try:
            digest, length = self._digest_file.read_text("ascii").split()
            end = int(length)
        except FileNotFoundError:
            return
        except ValueError:
            raise RunError(f"{self._digest_file} is not readable: {self._advice()}") from None
        self._hash_up_to(end)
        if self._length != end or self._hash.hexdigest() != digest:
            raise RunError(
                f"{self._journal} is not as it was written: its SHA-256 is not the one in"
                f" {self._digest_file}; {self._advice()}"
            )

    def _advice(self) -> str:
        return (
            "one of the two was changed or damaged. Restore it from a copy, or search in another"
            f" hydra.sweep.dir; if you changed it yourself, rm '{self._digest_file}' makes it be"
            " used unverified"
        )

    def _remove_incomplete_line(self) -> None:
        with self._journal.open("rb+") as stream:
            end = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, end - 1))
            if stream.read(1) not in (b"\n", b""):
                stream.seek(0)
                stream.truncate(stream.read().rfind(b"\n") + 1)
