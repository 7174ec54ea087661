"""The folder of an export: whole or absent, never on top of another, and checked for space."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydratune.errors import ConfigError, InputError, Problem
from hydratune.records.files import write_text
from hydratune.settings.overrides import as_typed

_SPARE = 2**26  # bytes beside the weights: tokenizer, settings, the file system's own
_REJECTED = "rejected"
REJECTED_FILE = "REJECTED.md"  # in a failed export, above the folders of its forms


def choose(given: str | None, run: Path) -> Path:
    """Return the folder that an export will become.

    Raises ``ConfigError`` if it holds anything, or cannot be made.
    """
    folder = Path(given).absolute() if given is not None else run / "export"
    if folder.is_file() or folder.is_symlink():
        raise _refusal(folder, "this is a file or a link", "give a new folder")
    if folder.is_dir() and any(folder.iterdir()):
        free = next(p for n in range(2, 10_000) if not (p := _numbered(folder, n)).exists())
        fix = f"choose a new folder: {as_typed('output', free)}"
        raise _refusal(folder, "this folder is not empty, and an export replaces nothing", fix)
    place = next((p for p in folder.parents if p.exists()), folder.parent)
    if not place.is_dir():
        raise _refusal(folder, f"{place} is a file", "choose another place")
    if not os.access(place, os.W_OK):
        raise _refusal(folder, f"no permission to write into {place}", "choose another place")
    return folder


def require_space(folder: Path, needed: int) -> None:
    """Raise ``InputError`` if the disk of ``folder`` has fewer free bytes than are needed."""
    place = next(p for p in (folder, *folder.parents) if p.is_dir())
    free = shutil.disk_usage(place).free
    if free < needed + _SPARE:
        raise InputError(
            f"the export needs {needed / 2**30:.1f} GiB and {place} has {free / 2**30:.1f} GiB"
            " free; free some space, or choose another disk with output=DIR"
        )


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Yield a folder beside ``folder`` that takes its name when the block has succeeded.

    Whatever ends the block otherwise removes it. Raises ``InputError`` if it cannot be written.
    """
    temporary = folder.with_name(f".{folder.name}.incomplete-{os.getpid()}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        yield temporary
        if temporary.is_dir():
            if folder.is_dir():
                folder.rmdir()  # empty, or somebody else's by now: then it stays
            temporary.rename(folder)
    except OSError as error:
        raise InputError(
            f"cannot write {folder} ({error.strerror or error}); free some space, or choose"
            " another place with output=DIR"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def give_usual_permissions(folder: Path) -> None:
    """Let files be read by whom the process lets read its files; safetensors makes them private."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~mask)


def set_aside(temporary: Path, folder: Path, why: str, forms: Sequence[str] | None = None) -> Path:
    """Keep a failed export under a name that says so, and return where.

    ``forms``: the folders of the forms that failed, if others are good; None: all of it.
    """
    places = (folder.with_name(f"{folder.name}.{_REJECTED}"), *_numbers(folder))
    place = next(p for p in places if not p.exists())
    text = f"# Rejected\n\nDo not use this export: {why}.\n\nparity.json has the numbers.\n"
    for bad in [temporary] if forms is None else [temporary / form for form in forms]:
        for card in bad.rglob("README.md"):
            card.write_text(text, "utf-8")
    if forms is None:
        write_text(temporary / REJECTED_FILE, text)
        temporary.rename(place)
        return place
    place.mkdir()
    write_text(place / REJECTED_FILE, text)
    for form in forms:
        (temporary / form).rename(place / form)
    return place


def _numbers(folder: Path) -> Iterator[Path]:
    return (folder.with_name(f"{folder.name}.{_REJECTED}-{n}") for n in range(2, 10_000))


def _numbered(folder: Path, number: int) -> Path:
    return folder.with_name(f"{folder.name}-{number}")


def _refusal(folder: Path, why: str, fix: str) -> ConfigError:
    return ConfigError([Problem("output", folder, why, fix)])
