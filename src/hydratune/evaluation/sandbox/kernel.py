"""Calls of the Linux kernel: namespaces, rights, limits, and which processes may be started."""

import contextlib
import ctypes
import errno
import os
import resource
import struct
from pathlib import Path

UNSHARE = {
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
    "mount": 0x00020000,
    "ipc": 0x08000000,
    "uts": 0x04000000,
}
# options of prctl(2)
PARENT_DEATH, DUMPABLE, KEEP_CAPABILITIES, SUBREAPER, NO_NEW_PRIVILEGES = 1, 4, 8, 36, 38
_SECCOMP, _SECCOMP_FILTER = 22, 2
_READ_ANYTHING = 1 << 2  # CAP_DAC_READ_SEARCH
_CAPABILITY_VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3

Filter = list[tuple[int, int, int, int]]  # of BPF: operation, jumps if true and false, operand


class Unavailable(Exception):
    """The kernel refuses this kind of isolation."""


def libc() -> ctypes.CDLL:
    """Return the C library, whose functions report their errors in ``ctypes.get_errno``."""
    return ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process, where the system has prctl(2)."""
    with contextlib.suppress(AttributeError, OSError):  # Linux only
        libc().prctl(option, value, 0, 0, 0)


def call(name: str, *arguments: object) -> None:
    """Call a function of libc. Raises ``Unavailable`` with the reason if it fails."""
    if getattr(libc(), name)(*arguments) != 0:
        raise Unavailable(f"{name}: {os.strerror(ctypes.get_errno())}")


def give_up_rights() -> dict[str, bool]:
    """Take an unused user id if this is root, and give up all capabilities.

    Returns whether the user id was changed, and whether the right to read any file stays. Only
    root's processes escape the limit of their number. Where the standard library lies in root's own
    folder, as with pyenv or uv, the answer could not import it without that right.
    """
    changed, kept = False, 0
    if os.getuid() == 0:
        kept = 0 if _everybody_reads(Path(os.__file__).parent) else _READ_ANYTHING
        prctl(KEEP_CAPABILITIES, 1)
        for user in (2_000_000_000 + int.from_bytes(os.urandom(3)), 65534):
            with contextlib.suppress(OSError):
                os.setgroups([])
                os.setresgid(user, user, user)
                os.setresuid(user, user, user)
                changed = True
                break
    with contextlib.suppress(AttributeError, OSError):
        header = ctypes.create_string_buffer(struct.pack("Ii", _CAPABILITY_VERSION, 0))
        rights = ctypes.create_string_buffer(struct.pack("6I", kept, kept, 0, 0, 0, 0))
        libc().capset(header, rights)
    prctl(NO_NEW_PRIVILEGES, 1)
    return {"own_user": changed, "reads_all": bool(kept)}


def _everybody_reads(folder: Path) -> bool:
    return all(part.stat().st_mode & 0o5 == 0o5 for part in (folder, *folder.parents))


def limit(seconds: int, megabytes: int, threads: int) -> None:
    """Set the limits of this process: CPU time, memory, threads, no files, no message queues."""
    most = megabytes * 2**20
    for name, soft, hard in (
        ("RLIMIT_CPU", seconds, seconds),
        ("RLIMIT_AS", most, most + 2**25),  # the rest is for the report of a lack of memory
        ("RLIMIT_FSIZE", 0, 0),
        ("RLIMIT_CORE", 0, 0),
        ("RLIMIT_NPROC", threads, threads),
        ("RLIMIT_NOFILE", 64, 64),
        ("RLIMIT_MSGQUEUE", 0, 0),
    ):
        with contextlib.suppress(AttributeError, ValueError, OSError):  # not on every system
            resource.setrlimit(getattr(resource, name), (soft, hard))


def count_threads() -> int:
    """Return how many threads of this user are visible: they count for the limit."""
    count = 0
    for tasks in Path("/proc").glob("[0-9]*/task"):
        with contextlib.suppress(OSError):
            count += sum(1 for _ in tasks.iterdir()) if tasks.stat().st_uid == os.getuid() else 0
    return count


def forbid_processes() -> bool:
    """Let the kernel (seccomp) refuse new processes, but not threads.

    Returns whether it does.
    """
    system = {"x86_64": (0xC000003E, 56, (57, 58)), "aarch64": (0xC00000B7, 220, ())}.get(
        os.uname().machine
    )
    if system is None:
        return False
    program = _process_filter(*system)
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    header = ctypes.create_string_buffer(
        struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code))
    )
    try:  # a filter needs no privileges after NO_NEW_PRIVILEGES
        return bool(libc().prctl(_SECCOMP, _SECCOMP_FILTER, header, 0, 0) == 0)
    except (AttributeError, OSError):
        return False


def _process_filter(architecture: int, clone: int, forks: tuple[int, ...]) -> Filter:
    """Return the filter that refuses ``forks`` (fork, vfork), and ``clone`` unless for a thread."""
    load, equal, bits, give = 0x20, 0x15, 0x45, 0x06  # BPF_LD | BPF_W | BPF_ABS, JEQ, JSET, RET
    again, missing, allowed = 0x00050000 | errno.EAGAIN, 0x00050000 | errno.ENOSYS, 0x7FFF0000
    program = [(load, 0, 0, 4), (equal, 1, 0, architecture), (give, 0, 0, again), (load, 0, 0, 0)]
    if architecture == 0xC000003E:
        program += [(0x35, 0, 1, 0x40000000), (give, 0, 0, again)]  # BPF_JGE: the x32 calls
    for number in forks:
        program += [(equal, 0, 1, number), (give, 0, 0, again)]
    # the flags of clone3 lie in memory, where no filter reads: without it, libc calls clone
    program += [(equal, 0, 1, 435), (give, 0, 0, missing)]
    program += [(equal, 1, 0, clone), (give, 0, 0, allowed)]
    program += [(load, 0, 0, 16), (bits, 1, 0, 0x10000)]  # CLONE_THREAD among its flags
    return [*program, (give, 0, 0, again), (give, 0, 0, allowed)]
