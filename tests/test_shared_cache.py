"""The cache folder on a file system that several machines share."""

import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest

from hydratune import cache, digests
from hydratune.errors import InputError

# what a machine runs: two processes want the same folder at the same time
PROCESSES = """
import os, socket, sys, time
from pathlib import Path
from hydratune import cache

socket.sethostname(sys.argv[1])

def build(folder):
    folder.mkdir()
    (folder / "part").write_text("whole")
    with Path(sys.argv[2]).open("a") as stream:
        stream.write(socket.gethostname() + "\\n")
    time.sleep(0.3)

child = os.fork()
is_whole = (cache.build_once("models/x", build) / "part").read_text() == "whole"
if child == 0:
    os._exit(not is_whole)
sys.exit(os.waitpid(child, 0)[1] or not is_whole)
"""
# a machine has a name and process numbers of its own
NAMESPACES = ("unshare", "--uts", "--pid", "--fork", "--mount-proc")


def can_be_two_machines() -> bool:
    """Return whether this user may make namespaces."""
    if shutil.which(NAMESPACES[0]) is None:
        return False
    return subprocess.run([*NAMESPACES, "true"], capture_output=True).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not can_be_two_machines(), reason="needs the right to make namespaces")
@pytest.mark.parametrize(
    ("folders", "built"), [(("shared", "shared"), 1), (("own_a", "own_b"), 2)], ids=str
)
def test_a_folder_is_built_once_for_the_machines_that_share_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folders: tuple[str, str], built: int
) -> None:
    machines = []
    for number, folder in enumerate(folders):
        monkeypatch.setenv("HYDRATUNE_CACHE", str(tmp_path / folder))
        words = [*NAMESPACES, sys.executable, "-c", PROCESSES, f"node{number}", "builds"]
        machines.append(subprocess.Popen(words, cwd=tmp_path))
    assert [machine.wait(60) for machine in machines] == [0, 0]
    names = (tmp_path / "builds").read_text().split()
    assert len(names) == len(set(names)) == built


def test_machines_without_locks_between_them_all_use_what_was_built_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on an NFS share that is mounted with local_lock."""
    monkeypatch.setenv("HYDRATUNE_CACHE", str(tmp_path))
    monkeypatch.setattr(cache, "FileLock", lambda file: nullcontext())
    at_once, builders = threading.Barrier(3), []

    def build(folder: Path) -> None:
        folder.mkdir()
        (folder / "part").write_text("whole")
        builders.append(threading.get_ident())
        at_once.wait(10)

    with ThreadPoolExecutor(3) as pool:
        found = set(pool.map(lambda _: cache.build_once("models/x", build), range(3)))
    assert len(builders) == 3 and found == {tmp_path / "models" / "x"}
    assert (tmp_path / "models" / "x" / "part").read_text() == "whole"
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["x"]


def test_a_damaged_folder_of_another_machine_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRATUNE_CACHE", str(tmp_path))
    monkeypatch.setattr(cache, "FileLock", lambda file: nullcontext())

    def build(folder: Path) -> None:
        for place in (folder, tmp_path / "x"):  # another machine builds it meanwhile
            place.mkdir()
            (place / "part").write_text("whole")
        digests.seal(tmp_path / "x")
        (tmp_path / "x" / "part").write_text("cut")

    with pytest.raises(InputError, match="cannot write into"):
        cache.build_once("x", build)
