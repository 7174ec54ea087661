"""Whether a job of a sweep has the rows that its finished jobs had: what was trained on others
would not compare.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hydratune.data.rows import stable_hash
from hydratune.errors import ConfigError, Problem
from hydratune.records.files import read_json
from hydratune.records.run_directory import RunDirectory
from hydratune.records.sweep import read_sweep
from hydratune.settings.commands import Resume, TrainConfig, load
from hydratune.settings.registry import plain

log = logging.getLogger(__name__)
_MOST = 32  # finished jobs that are looked at: all have the same data as a rule
Peer = tuple[str, Mapping[str, str]]  # name of a job, and the hash of its rows by split
Shared = Callable[[str, Callable[[], Peer | None]], Peer | None]


def refuse_other_rows(
    settings: TrainConfig, folder: Path, splits: Mapping[str, Mapping[str, Any]], shared: Shared
) -> None:
    """Raises ``ConfigError`` if a finished job beside the one in ``folder`` asked for the same data
    and got other rows.

    ``splits`` are those of the job, as in data.json. ``shared``: the peer of each kind of data is
    looked for once in a pack.
    """
    if settings.resume is Resume.force:
        return
    kind = _kind(settings)
    peer = shared(f"a finished job with {kind}", lambda: _finished(folder.parent, kind))
    if peer is None:
        return
    name, rows = peer
    other = [
        split for split in rows if split in splits and splits[split].get("hash") != rows[split]
    ]
    if other:
        why = (
            f"job {name} of this sweep is finished, and its {' and '.join(other)} rows were others:"
            " the data changed since"
        )
        fix = (
            "bring them back; or choose another hydra.sweep.dir; resume=force compares the jobs all"
            " the same"
        )
        raise ConfigError([Problem("data", str(plain(settings.data)["source"]), why, fix)])


def _kind(settings: TrainConfig) -> str:
    """Equal where the same rows are asked for."""
    data = {key: value for key, value in plain(settings.data).items() if key != "batch_size"}
    return stable_hash([data, plain(settings.model), settings.seed, settings.evaluation.canaries])


def _finished(sweep: Path, kind: str) -> Peer | None:
    """The last finished job of ``sweep`` that asked for such data."""
    looked_at = 0
    for name in reversed(read_sweep(sweep)):
        record = RunDirectory(sweep / name)
        try:
            if not record.is_finished():
                continue
            looked_at += 1
            if _kind(load(record.config_file)) == kind:
                splits = read_json(record.path / "data.json")["splits"]
                return name, {split: str(facts["hash"]) for split, facts in splits.items()}
        except Exception as error:  # of an older version, or damaged: nothing is known of it, and this job is not to suffer  # noqa: E501
            log.info("job %s cannot be compared with: %s", name, error)
        if looked_at == _MOST:
            break
    return None
