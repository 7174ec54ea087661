"""The check that a job of a sweep has the same rows as its finished jobs had: results on different
rows would not compare.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from hydratune.data.rows import stable_hash
from hydratune.errors import ConfigError, Problem
from hydratune.records.files import read_json
from hydratune.records.run_directory import RunDirectory
from hydratune.records.sweep import read_sweep
from hydratune.settings.commands import Resume, TrainConfig, load
from hydratune.settings.registry import plain

log = logging.getLogger(__name__)
_MOST = 32  # finished jobs that are looked at; as a rule the first has the same data settings
FinishedJob = tuple[str, Mapping[str, str]]  # name of a job, and the hash of its rows by split
Shared = Callable[[str, Callable[[], FinishedJob | None]], FinishedJob | None]


def refuse_other_rows(
    settings: TrainConfig,
    folder: Path,
    splits: Mapping[str, Mapping[str, object]],
    shared: Shared,
) -> None:
    """Raise ``ConfigError`` if a finished job with the same data settings had other rows.

    ``folder``: that of the job; the finished jobs are beside it. ``splits``: those of the job, as
    in data.json. ``shared``: with ``Resources.shared`` the jobs of a pack look for the finished job
    once.
    """
    if settings.resume is Resume.force:
        return
    key = _data_key(settings)
    finished = shared(f"a finished job with {key}", lambda: _find_finished(folder.parent, key))
    if finished is None:
        return
    name, rows = finished
    different = [
        split for split in rows if split in splits and splits[split].get("hash") != rows[split]
    ]
    if different:
        why = (
            f"job {name} of this sweep is finished, and its {' and '.join(different)} rows were"
            " different: the data changed since"
        )
        fix = (
            "restore the data; or choose another hydra.sweep.dir; resume=force compares the jobs"
            " nevertheless"
        )
        raise ConfigError([Problem("data", str(plain(settings.data)["source"]), why, fix)])


def _data_key(settings: TrainConfig) -> str:
    """Return a hash that is equal for jobs that should have the same rows."""
    data = {key: value for key, value in plain(settings.data).items() if key != "batch_size"}
    return stable_hash([data, plain(settings.model), settings.seed, settings.evaluation.canaries])


def _find_finished(sweep: Path, key: str) -> FinishedJob | None:
    """Return the last finished job of ``sweep`` with this key of its data settings."""
    count = 0
    for name in reversed(read_sweep(sweep)):
        record = RunDirectory(sweep / name)
        try:
            if not record.is_finished():
                continue
            count += 1
            if _data_key(load(record.config_file)) == key:
                splits = read_json(record.data_file)["splits"]
                return name, {split: str(facts["hash"]) for split, facts in splits.items()}
        except Exception as error:  # an old or damaged record says nothing about this job
            log.info("job %s cannot be compared with: %s", name, error)
        if count == _MOST:
            break
    return None
