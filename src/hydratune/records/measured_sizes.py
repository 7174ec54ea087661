"""What a sweep over the number of training rows measured of a prepared data set, kept in the cache.

The advice on the number of rows in a data report is then the measured one.
"""

import logging
import re
from pathlib import Path

from hydratune.cache import cache_folder
from hydratune.errors import RunError
from hydratune.records.files import read_json, write_json

log = logging.getLogger(__name__)


def write_measured(fingerprint: str, sentence: str, sweep: Path) -> None:
    """Keep the conclusion of a sweep over a prepared data set with this fingerprint.

    A cache that cannot be written is logged: the sweep itself has its results.
    """
    file = _file(fingerprint)
    if file is None:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"sentence": sentence, "sweep": str(sweep)})
    except (OSError, RunError) as error:
        log.info("what the sweep measured is not in the cache: %s", error)


def read_measured(fingerprint: str) -> str:
    """Return what the last such sweep measured, and where; "" if there was none."""
    file = _file(fingerprint)
    if file is None or not file.is_file():
        return ""
    try:
        content = read_json(file)
        return f"{content['sentence']} ({content['sweep']})"
    except (RunError, KeyError, TypeError) as error:
        log.info("what a sweep measured cannot be read: %s", error)
        return ""


def _file(fingerprint: str) -> Path | None:
    """Return the file of a fingerprint; None for a text that is none."""
    if not re.fullmatch(r"[0-9a-f]{8,64}", fingerprint):
        return None
    return cache_folder() / "data_size" / f"{fingerprint}.json"
