"""Copies of run directories, and files with a flipped bit."""

import shutil
from pathlib import Path


def flip_bit(file: Path, place: float) -> None:
    """Change one bit, ``place`` of the way through the file."""
    content = bytearray(file.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1 << int(place * 7)
    file.write_bytes(content)


def copy_run(run: Path, name: str = "copy") -> Path:
    target = run.parent / name
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(run, target)
    return target
