"""Where the page of a run leads: its data, the comparison of its sweep, its W&B run.

Links to files are relative, so that they hold wherever the folders are moved together.
"""

from pathlib import Path
from typing import NamedTuple

from hydratune.errors import RunError
from hydratune.records.run_directory import RunDirectory, RunFile
from hydratune.records.sweep import read_sweep
from hydratune.settings.secrets import mask

COMPARISON_PAGE = Path("comparison", "report.html")  # in the folder of a sweep
_OFFLINE_RUNS = "wandb/offline-run-*-{}"


class Link(NamedTuple):
    """A link; without a target, its title stands alone."""

    title: str
    target: str
    note: str = ""


def links(record: RunDirectory) -> list[Link]:
    """Return the links of what there is, or will be once the sweep of the run has ended."""
    data = (
        [Link("Data page", RunFile.data_page)] if record.file(RunFile.data_page).is_file() else []
    )
    return [*data, *_comparison(record.path), *_tracked(record)]


def _comparison(run: Path) -> list[Link]:
    sweep = run.parent
    target = f"../{COMPARISON_PAGE.as_posix()}"
    if (sweep / COMPARISON_PAGE).is_file():
        return [Link("Comparison of its sweep", target)]
    try:
        is_job = run.name in read_sweep(sweep)
    except (RunError, KeyError, TypeError, AttributeError):  # a file that was changed by hand
        return []
    return [Link("Comparison of its sweep", target, "once the sweep has ended")] if is_job else []


def _tracked(record: RunDirectory) -> list[Link]:
    """Return the W&B run: its page or, of a run without a server, the command that sends it."""
    try:
        status = record.read_status()
    except RunError:
        return []
    address, id_ = status.wandb_url, status.wandb_id
    if address and address.startswith(("https://", "http://")):
        return [Link("W&B run", mask(address))]
    if id_ and id_.isalnum():
        folder = next(record.path.glob(_OFFLINE_RUNS.format(id_)), None)
        if folder is not None:
            return [Link("W&B run", "", f"offline; wandb sync wandb/{folder.name} sends it")]
    return []
