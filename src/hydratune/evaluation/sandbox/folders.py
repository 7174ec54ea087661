"""Folders: which of them an answer must not see, how they are hidden, how one is removed."""

import contextlib
import ctypes
import os
import stat
import struct
import sys
import time
from pathlib import Path

from .kernel import UNSHARE, Unavailable, call

WORKING_FOLDER = "/run"  # where namespaces have an empty, read-only folder


def enter_namespaces() -> list[str]:
    """Enter new namespaces, and return what is shut off from the outside.

    The namespace of processes begins with the next fork. Raises ``Unavailable`` if the kernel
    allows no namespace of processes and of the network.
    """
    user, group = os.getuid(), os.getgid()
    flags = sum(value for name, value in UNSHARE.items() if name != "user" or user != 0)
    try:
        call("unshare", flags)
        if user != 0:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        call("mount", None, b"/", None, ctypes.c_ulong(0x44000), None)  # MS_REC | MS_PRIVATE
        # an empty read-only folder also hides the sockets of services
        folder = WORKING_FOLDER.encode()
        call("mount", b"tmpfs", folder, b"tmpfs", ctypes.c_ulong(7), b"size=64k")
        os.chdir(WORKING_FOLDER)
    except (AttributeError, OSError) as error:
        raise Unavailable(str(error)) from None
    shut = ["processes", "network"]
    results = [hide(folder) for folder in homes()]  # each of them, also after one that failed
    with contextlib.suppress(Unavailable, AttributeError):
        read_only = ctypes.create_string_buffer(
            struct.pack("QQQQ", 1, 0, 0, 0)
        )  # MOUNT_ATTR_RDONLY
        # mount_setattr with AT_RECURSIVE: Linux 5.12
        call("syscall", 442, -100, b"/", 0x8000, read_only, ctypes.c_size_t(32))
        shut.append("files")
    return [*shut, "homes"] if all(results) else shut


def homes() -> list[Path]:
    """Return the home folders that the answer must not see: root's, /home, and this user's.

    Those that are a part of Python's installation stay visible.
    """
    import pwd

    candidates = [Path("/root"), Path("/home")]
    with contextlib.suppress(KeyError):
        candidates.append(Path(pwd.getpwuid(os.getuid()).pw_dir))
    python, system = Path(sys.base_prefix).resolve(), [Path("/"), Path(WORKING_FOLDER)]
    resolved = dict.fromkeys(folder.resolve() for folder in candidates if folder.is_dir())
    folders = [folder for folder in resolved if folder not in system]
    return [
        folder
        for folder in folders
        if folder != python
        and python not in folder.parents
        and not set(folder.parents) & set(folders)
    ]


def hide(folder: Path) -> bool:
    """Mount an empty folder over ``folder``, with nothing in it but the Python that runs this.

    Returns whether the kernel allows it.
    """
    python = Path(sys.base_prefix).resolve()
    target = str(folder).encode()
    try:
        inside = os.open(python, os.O_PATH) if folder in python.parents else -1
        call("mount", b"tmpfs", target, b"tmpfs", ctypes.c_ulong(6), b"size=64k,mode=755")
        if inside >= 0:
            python.mkdir(parents=True)
            source, bind = f"/proc/self/fd/{inside}".encode(), ctypes.c_ulong(0x5000)
            call("mount", source, str(python).encode(), None, bind, None)  # MS_BIND | MS_REC
            os.close(inside)
        call("mount", None, target, None, ctypes.c_ulong(0x27), None)  # MS_REMOUNT, read-only
    except (Unavailable, OSError):
        return False
    return True


def remove(folder: Path, seconds: float = 10) -> None:
    """Remove ``folder`` whatever is in it, or give up after ``seconds``.

    Links are not followed, and no depth is too deep: ``shutil.rmtree`` calls itself for every
    level, here what lies deeper is moved up until there is one level.
    """
    number, until = 0, time.monotonic() + seconds
    with contextlib.suppress(OSError):
        folder.chmod(0o700)
        while inside := list(folder.iterdir()):
            for entry in inside:
                if not stat.S_ISDIR(entry.lstat().st_mode):
                    entry.unlink()
                    continue
                entry.chmod(0o700)
                if time.monotonic() > until:
                    return
                for deeper in list(entry.iterdir()):
                    if stat.S_ISDIR(deeper.lstat().st_mode):
                        deeper.chmod(0o700)
                    number += 1
                    deeper.rename(folder / f"moved-{number}")
                entry.rmdir()
        folder.rmdir()
