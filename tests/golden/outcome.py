"""The outcome of a command as plain values, and the differences between two outcomes."""

import csv
import hashlib
import io
import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet
import torch
import yaml
from safetensors.torch import load_file

from golden.normalise import Treatment, ignored, left_out, numbers, rule_for, without_places

MOST_PER_FILE = 20  # differences that are shown
_WIDTH = 60  # characters of a value that are shown


@dataclass(frozen=True)
class Place:
    """Where an outcome lies, and the absolute paths that its files may contain."""

    folder: Path
    paths: Sequence[tuple[str, str]] = ()  # (path, the name that replaces it)


@dataclass(frozen=True)
class Difference:
    """One value that differs; ``base`` and ``new`` are as they are shown."""

    file: str
    key: str
    base: str
    new: str

    def line(self, command: str) -> str:
        """Return the difference as one line."""
        key = f", {self.key}" if self.key else ""
        return f"{command}: {self.file}{key}: {self.base} -> {self.new}"


def flat(value: object, key: str = "") -> Iterator[tuple[str, object]]:
    """Yield (key, value) of everything in nested mappings and sequences; empty ones as they are."""
    items: list[tuple[object, object]] = []
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, (list, tuple)):
        items = list(enumerate(value))
    if not items:
        yield key, value
    for name, inner in items:
        yield from flat(inner, f"{key} > {name}" if key else str(name))


def _json(path: Path) -> object:
    return json.loads(path.read_text("utf-8"))


def _yaml(path: Path) -> object:
    return yaml.safe_load(path.read_text("utf-8"))


def _rows(rows: Sequence[object]) -> dict[str, object]:
    return {f"row {number}": row for number, row in enumerate(rows, 1)}


def _jsonl(path: Path) -> object:
    return _rows([json.loads(line) for line in path.read_text("utf-8").splitlines() if line])


def _csv(path: Path) -> object:
    return _rows(list(csv.DictReader(io.StringIO(path.read_text("utf-8")))))


def _parquet(path: Path) -> object:
    return _rows(pyarrow.parquet.read_table(path).to_pylist())


def _text(path: Path) -> object:
    lines = path.read_text("utf-8").splitlines()
    return {f"line {number}": line for number, line in enumerate(lines, 1)}


def _checkpoint(path: Path) -> object:
    return torch.load(path, map_location="cpu", weights_only=True)


def _bytes(path: Path) -> object:
    return {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "size": path.stat().st_size}


READERS: Mapping[str, Callable[[Path], object]] = {
    ".json": _json,
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".yaml": _yaml,
    ".parquet": _parquet,
    ".safetensors": load_file,
    ".ckpt": _checkpoint,
    ".md": _text,
    ".tex": _text,
    ".jinja": _text,
    ".log": _jsonl,  # the journal of a search; other logs are ignored
}


def read(path: Path, file: str, place: Place) -> dict[str, object]:
    """Return key -> value of everything in a file that is compared.

    An unreadable file raises what its reader raises. Columns and values that a rule of
    ``normalise`` drops are not in the result; absolute paths are replaced by names.
    """
    values: dict[str, object] = {}
    for key, value in flat(READERS.get(path.suffix, _bytes)(path)):
        if isinstance(value, str):
            value = without_places(value, place.paths)
        key = without_places(key, place.paths)
        rule = rule_for(file, key)
        if rule is None:
            values[key] = value
        elif rule.treatment is Treatment.numbers:
            values[key] = numbers(value) if isinstance(value, str) else value
    return values


def equal(base: object, new: object) -> bool:
    """Tell whether two values are of the same type and equal to the last bit; NaN equals NaN."""
    if type(base) is not type(new):
        return False
    if isinstance(base, torch.Tensor) and isinstance(new, torch.Tensor):
        same = base.dtype == new.dtype and base.shape == new.shape
        return same and torch.equal(_raw(base), _raw(new))
    if isinstance(base, float) and isinstance(new, float):
        return struct.pack("d", base) == struct.pack("d", new)
    return base == new


def _raw(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _shown(value: object, other: object) -> str:
    """Return a value as it is shown beside another: long texts from where they begin to differ."""
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {list(value.shape)}"
    text = repr(value)
    if len(text) <= _WIDTH:
        return text
    pairs = enumerate(zip(text, repr(other), strict=False))
    same = next((at for at, (one, two) in pairs if one != two), len(text))
    start = max(0, min(same - 10, len(text) - _WIDTH))
    end = "" if start + _WIDTH >= len(text) else "..."
    return f"{'...' if start else ''}{text[start : start + _WIDTH]}{end}"


def _of_tensors(file: str, key: str, base: torch.Tensor, new: torch.Tensor) -> Difference:
    if base.dtype != new.dtype or base.shape != new.shape:
        return Difference(file, key, _shown(base, new), _shown(new, base))
    width = base.element_size()
    unequal = (_raw(base) != _raw(new)).reshape(-1, width).any(dim=1).nonzero().reshape(-1)
    at = int(unequal[0])
    where = f"{key}, {len(unequal)} of {base.numel()} values, first at {at}"
    return Difference(
        file, where, repr(base.reshape(-1)[at].item()), repr(new.reshape(-1)[at].item())
    )


def between(file: str, base: Mapping[str, object], new: Mapping[str, object]) -> list[Difference]:
    """Return the differences between the contents of a file, in the order of the base's keys."""
    found: list[Difference] = []
    for key in dict.fromkeys([*base, *new]):
        if key not in base or key not in new:
            values = [
                "missing" if key not in side else _shown(side[key], None) for side in (base, new)
            ]
            found.append(Difference(file, key, *values))
        elif not equal(old := base[key], now := new[key]):
            if isinstance(old, torch.Tensor) and isinstance(now, torch.Tensor):
                found.append(_of_tensors(file, key, old, now))
            else:
                found.append(Difference(file, key, _shown(old, now), _shown(now, old)))
    return found


def files_in(folder: Path) -> list[str]:
    """Return the paths of all files below ``folder``, relative to it; links are not followed."""
    found: list[str] = []
    for parent, _, names in os.walk(folder):
        found += [str((Path(parent) / name).relative_to(folder)) for name in names]
    return sorted(found)


def compare_folders(
    base: Place, new: Place, folders: Sequence[str], without: Sequence[str] = ()
) -> list[Difference]:
    """Return all differences between the compared ``folders`` of two outcomes.

    Files below a folder of ``without`` are not looked at. A file that exists on one side only is a
    difference, also where its content is not compared.
    """
    names: dict[str, None] = {}
    for place in (base, new):
        for folder in folders:
            for file in files_in(place.folder / folder):
                names[f"{folder}/{file}"] = None
    found: list[Difference] = []
    for file in sorted(names):
        if left_out(file) or any(file.startswith(f"{folder}/") for folder in without):
            continue
        there = [(place.folder / file).exists() for place in (base, new)]
        if not all(there):
            found.append(Difference(file, "", *("exists" if one else "missing" for one in there)))
        elif ignored(file) is None:
            found += _of_file(file, base, new)
    return found


def _of_file(file: str, base: Place, new: Place) -> list[Difference]:
    try:
        before = read(base.folder / file, file, base)
        now = read(new.folder / file, file, new)
    except (ValueError, OSError, RuntimeError, yaml.YAMLError) as error:
        return [Difference(file, "cannot be read", type(error).__name__, str(error).split("\n")[0])]
    return between(file, before, now)


def most_per_file(differences: Sequence[Difference], command: str) -> list[str]:
    """Return one line for each difference, at most ``MOST_PER_FILE`` of a file, and a count."""
    by_file: dict[str, list[Difference]] = {}
    for difference in differences:
        by_file.setdefault(difference.file, []).append(difference)
    lines: list[str] = []
    for file, own in by_file.items():
        lines += [difference.line(command) for difference in own[:MOST_PER_FILE]]
        if len(own) > MOST_PER_FILE:
            lines.append(f"{command}: {file}: {len(own) - MOST_PER_FILE} more differences")
    return lines
