"""Run as a program of its own: executes untrusted Python under limits, then tests it. Standard
library only.

Reads one JSON object per line from standard input, and answers each with a line of JSON, its token
and the verdict. Three processes share the work, so that the one that says what came out never runs
an answer's code:

- this program, which with the argument ``namespaces`` enters new ones (processes, network, files);
- the judge, the first process of the new namespace: it starts the workers, keeps the time, ends
  every process that is left;
- a worker for every run, which gives up its rights, executes the answer and the tests, and reports
  through a pipe of its own.

The tests call functions of the answer, so both run in one interpreter, and an answer can always do
what the code after the tests does. While it runs, no frame of its process holds the text of the
tests or a nonce (the judge says the nonce when the worker reports that the tests are done), and an
answer that passes is run again on controls, tests with an assertion made false (see controls.py):
where these pass as well, or where what the answer returns is equal to everything, the verdict is an
error. An answer that takes part in the worker's protocol and knows which tests are right, or was
written against one row's tests, is not found.
"""

import builtins
import contextlib
import ctypes
import errno
import gc
import json
import os
import resource
import select
import signal
import socket
import stat
import struct
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OUTCOMES = ("passed", "failed", "error", "syntax", "time", "memory")
MOST_SAID = 65536  # bytes of one report
_IDLE = 20  # seconds without a request after which it ends
_MOST_PROCESSES = 8  # of an answer, where the kernel does not refuse the first one
_MOST_THREADS = 16
_REPORT = 3  # the worker's socket to the judge
_PLACE = "/run"  # where namespaces have an empty, read-only folder to work in
_UNSHARE = {
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
    "mount": 0x00020000,
    "ipc": 0x08000000,
    "uts": 0x04000000,
}
_PARENT_DEATH, _DUMPABLE, _KEEP_CAPS, _SUBREAPER, _NO_NEW_PRIVILEGES = (
    1,
    4,
    8,
    36,
    38,
)  # of prctl(2)
_READ_ANYTHING = 1 << 2  # CAP_DAC_READ_SEARCH


class Unavailable(Exception):
    """The kernel refuses this kind of isolation."""


# --------------------------------------------------------------------------------------- the kernel
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    with contextlib.suppress(AttributeError, OSError):  # Linux only
        _libc().prctl(option, value, 0, 0, 0)


def _call(name: str, *arguments: Any) -> None:
    if getattr(_libc(), name)(*arguments) != 0:
        raise Unavailable(f"{name}: {os.strerror(ctypes.get_errno())}")


def enter_namespaces() -> list[str]:
    """Enters new namespaces and returns what is shut off; the processes' one begins with the next
    fork.

    Raises ``Unavailable`` if the kernel allows no namespace of processes and of the network.
    """
    user, group, flags = (
        os.getuid(),
        os.getgid(),
        sum(value for name, value in _UNSHARE.items() if name != "user"),
    )
    if user != 0:
        flags |= _UNSHARE["user"]
    try:
        _call("unshare", flags)
        if user != 0:
            for name, text in (
                ("setgroups", "deny"),
                ("uid_map", f"{user} {user} 1"),
                ("gid_map", f"{group} {group} 1"),
            ):
                Path(f"/proc/self/{name}").write_text(text)
    except (AttributeError, OSError) as error:
        raise Unavailable(str(error)) from None
    shut = ["processes", "network"]
    try:
        _call("mount", None, b"/", None, ctypes.c_ulong(0x44000), None)  # MS_REC | MS_PRIVATE
        _call(
            "mount", b"tmpfs", _PLACE.encode(), b"tmpfs", ctypes.c_ulong(7), b"size=64k"
        )  # hides sockets of services; read-only
        os.chdir(_PLACE)
    except (AttributeError, OSError) as error:
        raise Unavailable(str(error)) from None
    hidden = all(list(map(_hide, homes())))  # each of them, also after one that could not be
    with contextlib.suppress(Unavailable, AttributeError):
        # MOUNT_ATTR_RDONLY
        attributes = ctypes.create_string_buffer(struct.pack("QQQQ", 1, 0, 0, 0))
        _call(
            "syscall", 442, -100, b"/", 0x8000, attributes, ctypes.c_size_t(32)
        )  # mount_setattr, AT_RECURSIVE: Linux 5.12
        shut.append("files")
    return [*shut, "homes"] if hidden else shut


def homes() -> list[Path]:
    """Folders of people that the answer must not see: root's, /home, and this user's, but none that
    is a part of Python.
    """
    import pwd

    found = [Path("/root"), Path("/home")]
    with contextlib.suppress(KeyError):
        found.append(Path(pwd.getpwuid(os.getuid()).pw_dir))
    python, system = Path(sys.base_prefix).resolve(), [Path("/"), Path(_PLACE)]
    found = [
        folder
        for folder in dict.fromkeys(folder.resolve() for folder in found if folder.is_dir())
        if folder not in system
    ]
    return [
        one
        for one in found
        if one != python and python not in one.parents and not set(one.parents) & set(found)
    ]


def _hide(folder: Path) -> bool:
    """Puts an empty folder over ``folder``, in which there is nothing but the Python that runs
    this. Whether it could.
    """
    python = Path(sys.base_prefix).resolve()
    try:
        inside = os.open(python, os.O_PATH) if folder in python.parents else -1
        _call(
            "mount",
            b"tmpfs",
            str(folder).encode(),
            b"tmpfs",
            ctypes.c_ulong(6),
            b"size=64k,mode=755",
        )
        if inside >= 0:
            python.mkdir(parents=True)
            _call(
                "mount",
                f"/proc/self/fd/{inside}".encode(),
                str(python).encode(),
                None,
                ctypes.c_ulong(0x5000),
                None,
            )  # MS_BIND | MS_REC
            os.close(inside)
        _call(
            "mount", None, str(folder).encode(), None, ctypes.c_ulong(0x27), None
        )  # MS_REMOUNT, read-only
    except (Unavailable, OSError):
        return False
    return True


def _give_up_rights() -> dict[str, bool]:
    """Takes a user id that nobody has, if this is root, and gives up all capabilities. Says what
    came of it.

    Only root's processes escape the limit of their number. Where the standard library lies in
    root's own folder, as with pyenv or uv, the right to read stays: without it the answer could not
    import.
    """
    changed, kept = False, 0
    if os.getuid() == 0:
        kept = 0 if _everybody_reads(Path(os.__file__).parent) else _READ_ANYTHING
        _prctl(_KEEP_CAPS, 1)
        for user in (2_000_000_000 + int.from_bytes(os.urandom(3)), 65534):
            with contextlib.suppress(OSError):
                os.setgroups([])
                os.setresgid(user, user, user)
                os.setresuid(user, user, user)
                changed = True
                break
    with contextlib.suppress(AttributeError, OSError):
        header = ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0))
        _libc().capset(
            header, ctypes.create_string_buffer(struct.pack("6I", kept, kept, 0, 0, 0, 0))
        )
    _prctl(_NO_NEW_PRIVILEGES, 1)
    return {"own_user": changed, "reads_all": bool(kept)}


def _everybody_reads(folder: Path) -> bool:
    return all(part.stat().st_mode & 0o5 == 0o5 for part in (folder, *folder.parents))


def _limit(seconds: int, megabytes: int, threads: int) -> None:
    most = megabytes * 2**20
    for name, soft, hard in (
        ("RLIMIT_CPU", seconds, seconds),
        ("RLIMIT_AS", most, most + 2**25),  # the rest is for saying so
        ("RLIMIT_FSIZE", 0, 0),
        ("RLIMIT_CORE", 0, 0),
        ("RLIMIT_NPROC", threads, threads),
        ("RLIMIT_NOFILE", 64, 64),
        ("RLIMIT_MSGQUEUE", 0, 0),
    ):
        with contextlib.suppress(AttributeError, ValueError, OSError):  # not on every system
            resource.setrlimit(getattr(resource, name), (soft, hard))


def _threads() -> int:
    """How many this user has, as far as this process sees: they count for the limit of their
    number.
    """
    count = 0
    for tasks in Path("/proc").glob("[0-9]*/task"):
        with contextlib.suppress(OSError):
            count += sum(1 for _ in tasks.iterdir()) if tasks.stat().st_uid == os.getuid() else 0
    return count


def _forbid_processes() -> bool:
    """Lets the kernel (seccomp) refuse new processes but not threads. Whether it does."""
    system = {"x86_64": (0xC000003E, 56, (57, 58)), "aarch64": (0xC00000B7, 220, ())}.get(
        os.uname().machine
    )
    if system is None:
        return False
    architecture, clone, others = system
    load, equal, bits, give = 0x20, 0x15, 0x45, 0x06  # BPF_LD | BPF_W | BPF_ABS, JEQ, JSET, RET
    again, missing, allowed = 0x00050000 | errno.EAGAIN, 0x00050000 | errno.ENOSYS, 0x7FFF0000
    program = [(load, 0, 0, 4), (equal, 1, 0, architecture), (give, 0, 0, again), (load, 0, 0, 0)]
    if architecture == 0xC000003E:
        program += [(0x35, 0, 1, 0x40000000), (give, 0, 0, again)]  # BPF_JGE: the x32 calls
    for number in others:  # fork, vfork
        program += [(equal, 0, 1, number), (give, 0, 0, again)]
    program += [
        (equal, 0, 1, 435),
        (give, 0, 0, missing),
    ]  # clone3, whose flags lie in memory: libc takes clone instead
    program += [
        (equal, 1, 0, clone),
        (give, 0, 0, allowed),
        (load, 0, 0, 16),
        (bits, 1, 0, 0x10000),
    ]  # CLONE_THREAD
    program += [(give, 0, 0, again), (give, 0, 0, allowed)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    header = ctypes.create_string_buffer(
        struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code))
    )
    try:
        # PR_SET_SECCOMP, SECCOMP_MODE_FILTER; needs no new privileges
        return bool(_libc().prctl(22, 2, header, 0, 0) == 0)
    except (AttributeError, OSError):
        return False


def remove(folder: Path, seconds: float = 10) -> None:
    """Removes ``folder`` whatever is in it, or gives up after ``seconds``: links are not followed,
    and no depth is too deep.

    ``shutil.rmtree`` calls itself for every level; here what lies deeper is moved up until there is
    one level.
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


# --------------------------------------------------------------------------------------- the worker
def verdict(code: str, tests: str) -> dict[str, str]:
    """What became of ``tests`` (doctests, or statements that must not raise) after ``code``."""
    doctest = __import__("doctest") if ">>>" in tests else None
    has_cases = "unittest" in tests
    main = types.ModuleType("__main__")
    names: dict[str, Any] = vars(main)
    names["__name__"] = "answer"
    sys.modules["__main__"] = sys.modules["answer"] = main  # where unittest looks for test cases
    original, broken = dict(vars(builtins)), ""
    try:
        run: Any = (
            compile(tests, "<tests>", "exec", dont_inherit=True)
            if doctest is None
            else doctest.DocTestParser().parse(tests)
        )
    except BaseException as error:
        run, broken = [], f"{type(error).__name__}: {error}"
    del tests
    try:
        program = compile(code, "<answer>", "exec", dont_inherit=True)
        del code
        exec(program, names)
    except SyntaxError as error:
        return {"outcome": "syntax", "why": f"line {error.lineno}: {error.msg}"}
    except MemoryError:
        names.clear()
        return {"outcome": "memory", "why": "the code wanted more memory than it may have"}
    except BaseException as error:
        return {"outcome": "error", "why": f"{type(error).__name__}: {error}"}
    vars(builtins).update(original)  # a len or sorted of the answer's own must not test it
    for planted in [name for name in sys.modules if name.partition(".")[0] == "unittest"]:
        del sys.modules[planted]
    names["__name__"], sys.modules["__main__"] = "__main__", main
    if broken:
        return {"outcome": "failed", "why": broken}
    try:
        if has_cases:
            _fail_loudly()
        if doctest is None:
            exec(run, names)
            return {"outcome": "passed", "why": ""}
        told: list[str] = []
        examples = [part for part in run if isinstance(part, doctest.Example)]
        found = doctest.DocTestRunner(verbose=False).run(
            doctest.DocTest(examples, names, "tests", None, 0, ""), out=told.append
        )
        lines = "".join(told)
        why = next((line.strip() for line in lines.splitlines() if line.startswith("    ")), "")
        return {
            "outcome": (
                "passed" if not found.failed else "memory" if "MemoryError" in lines else "failed"
            ),
            "why": why,
        }
    except MemoryError:
        names.clear()
        return {"outcome": "memory", "why": "the tests wanted more memory than they may have"}
    except BaseException as error:
        return {"outcome": "failed", "why": f"{type(error).__name__}: {error}"}


def _fail_loudly() -> None:
    """Lets unittest raise an error where a test case fails or none is found: it only prints that,
    or ends the process.
    """
    import unittest

    main, run = unittest.main, unittest.TextTestRunner.run

    def checked(self: Any, test: Any) -> Any:
        result = run(self, test)
        if not result.wasSuccessful():
            told = [lines for _, lines in (*result.failures, *result.errors)] or [
                "a test passes that was expected to fail"
            ]
            raise AssertionError(told[0].strip().splitlines()[-1])
        if not result.testsRun:
            raise AssertionError("unittest has found no test")
        return result

    unittest.TextTestRunner.run = checked  # type: ignore[method-assign]
    unittest.main = lambda *args, **options: main(*args, **{**options, "exit": False})  # type: ignore[misc, assignment]


def _work(asked: dict[str, Any], pipe: int) -> None:
    """Never returns.

    What the code prints is thrown away; the report goes to the socket ``_REPORT``.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    if pipe != _REPORT:
        os.dup2(pipe, _REPORT)
    os.closerange(_REPORT + 1, 256)
    code, tests = asked["code"], [asked["tests"]]
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    os.environ.clear()
    sys.argv[:] = ["answer.py"]
    with contextlib.suppress(Unavailable, AttributeError):
        _call("unshare", _UNSHARE["ipc"])  # no shared memory stays for the next run
    visible = _threads()
    rights = _give_up_rights()
    _limit(
        asked["seconds"],
        asked["megabytes"],
        (0 if rights["own_user"] else visible) + _MOST_THREADS if _forbid_processes() else 0,
    )
    _prctl(_PARENT_DEATH, signal.SIGKILL)
    asked["waiting"].clear()
    asked.clear()  # the frames below hold nothing else
    gc.collect()
    write, read, leave, dumps, setrlimit = (
        os.write,
        os.read,
        os._exit,
        json.dumps,
        resource.setrlimit,
    )
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    found = verdict(code, tests.pop())
    with contextlib.suppress(ValueError, OSError):
        setrlimit(resource.RLIMIT_AS, (most, most))
    write(_REPORT, b"done")
    nonce = read(_REPORT, 64).decode()
    write(
        _REPORT,
        dumps(
            {"nonce": nonce, "outcome": found["outcome"], "why": found["why"][:200], **rights}
        ).encode(),
    )
    leave(0)  # threads of the code do not matter any more


# ---------------------------------------------------------------------------------------- the judge
def _descendants() -> Iterator[int]:
    """Every process below this one; those whose parents have ended come here, see
    ``PR_SET_CHILD_SUBREAPER``.
    """
    parents: dict[int, int] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            state, parent = file.read_bytes().rpartition(b")")[2].split()[:2]
            if state not in (b"Z", b"X"):
                parents[int(file.parent.name)] = int(parent)
    below = {os.getpid()}
    while True:
        more = {pid for pid, parent in parents.items() if parent in below} - below
        if not more:
            return
        yield from more
        below |= more


def _end_all() -> None:
    """Ends every process of the worker's, also those that left its group and its session."""
    if os.getpid() == 1:  # of the new namespace: this signal reaches all in it but this one
        with contextlib.suppress(OSError):
            os.kill(-1, signal.SIGKILL)
    else:
        stopped: set[int] = set()
        while new := set(_descendants()) - stopped:  # first none of them may start another
            for pid in new:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGSTOP)
            stopped |= new
        for pid in stopped:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + 2
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < until:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.001)


def _read(pipe: int) -> bytes:
    with contextlib.suppress(ConnectionError):  # the worker ended without reading
        return os.read(pipe, MOST_SAID)
    return b""


def _watch(worker: int, pipe: int, nonce: bytes, until: float) -> tuple[bytes, str]:
    """What the worker reported, and why it was ended early or nothing.

    It hears ``nonce`` once it is done. Its processes may be left.
    """
    said, is_open, checked, asked = b"", True, time.monotonic(), True
    while time.monotonic() < until:
        ready = select.select(
            [0, *([pipe] if is_open else [])], [], [], 0.05 if is_open else 0.001
        )[0]
        if 0 in ready:
            return b"", "nobody waits for it any more"
        if pipe in ready:
            part = _read(pipe)
            said, is_open = said + part, bool(part)
            if asked and said == b"done":
                said, asked = b"", False
                with contextlib.suppress(OSError):
                    os.write(pipe, nonce)
            if len(said) > MOST_SAID:
                return b"", "it wrote into what is not its own"
        if os.waitid(os.P_PID, worker, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            while (
                is_open
                and select.select([pipe], [], [], 0)[0]
                and (part := _read(pipe))
                and len(said) <= MOST_SAID
            ):
                said += part
            return said, ""
        if os.getpid() != 1 and time.monotonic() - checked > 0.05:
            checked = time.monotonic()
            if sum(1 for _ in _descendants()) > _MOST_PROCESSES:
                return b"", "it started more processes than it may"
    return b"", "time"


def attempt(asked: dict[str, Any]) -> dict[str, str]:
    """One run of the answer on ``asked["tests"]`` in a worker; none of its processes is left."""
    wall = asked["seconds"] + asked["patience"]
    for _ in range(os.urandom(1)[0] % 4):  # the worker's number does not say which run this is
        if (nobody := os.fork()) == 0:
            os._exit(0)
        os.waitpid(nobody, 0)
    ours, its = socket.socketpair()
    read = ours.detach()
    worker = os.fork()
    if worker == 0:
        try:
            _work(asked, its.detach())
        finally:
            os._exit(1)
    its.close()
    nonce = os.urandom(16).hex()  # the worker's memory does not have it
    if asked["tell"]:  # where no namespace holds it, whoever started this can end it
        os.write(1, json.dumps({"worker": worker}).encode() + b"\n")
    said, why = _watch(worker, read, nonce.encode(), time.monotonic() + wall)
    with contextlib.suppress(OSError):
        os.kill(worker, signal.SIGKILL)
    _, status, used = os.wait4(worker, 0)
    _end_all()
    os.close(read)
    if why == "time":
        return {"outcome": "time", "why": f"not done after {wall} s"}
    if why:
        return {"outcome": "error", "why": why}
    with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
        found = json.loads(said)
        if os.WIFEXITED(status) and found["nonce"] == nonce and found["outcome"] in OUTCOMES:
            asked["rights"] = [name for name in ("own_user", "reads_all") if found[name] is True]
            return {"outcome": found["outcome"], "why": str(found["why"])}
    if os.WIFSIGNALED(status) and used.ru_utime + used.ru_stime > asked["seconds"] - 0.5:
        return {"outcome": "time", "why": f"more than {asked['seconds']} s of CPU"}
    if os.WIFSIGNALED(status):
        return {
            "outcome": "error",
            "why": f"the code's process was ended by signal {os.WTERMSIG(status)}",
        }
    return {
        "outcome": "error",
        "why": "the code ended its process, or wrote into what is not its own",
    }


def judged(asked: dict[str, Any]) -> dict[str, str]:
    """The verdict: an answer that passes must fail where nothing honest can pass."""
    waiting = asked["waiting"]
    found = attempt(asked)
    if found["outcome"] != "passed":
        return found
    for number in range(len(waiting["controls"])):
        asked["tests"] = waiting["controls"][number]
        control = attempt(asked)
        if control["outcome"] == "passed":
            return {"outcome": "error", "why": "the code makes tests pass that cannot pass"}
        if waiting["equal"] and control["why"] == f"AssertionError: {waiting['equal']}":
            return {"outcome": "error", "why": "what the code returns is equal to everything"}
    return found


def _serve(shut: list[str]) -> None:
    """Judges one request after the other until nobody asks any more, or an answer has left
    something in its folder.
    """
    while select.select([0], [], [], _IDLE)[0] and (line := sys.stdin.buffer.readline()):
        asked, line = json.loads(line), b""
        asked["waiting"] = {
            name: asked.pop(name) for name in ("controls", "equal", "token")
        }  # which every worker empties
        if ">>>" in asked["tests"]:
            import doctest  # noqa: F401 - once, not in every worker
        found = judged(asked)
        done = {
            "token": asked["waiting"]["token"],
            **found,
            "shut": [*shut, *asked.get("rights", [])],
            "clean": not list(Path().iterdir()),
        }
        os.write(1, json.dumps(done).encode() + b"\n")
        if not done["clean"]:
            break


def main() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(
            "900"
        )  # rather this than the training, if memory is short
    shut: list[str] = []
    isolated = "namespaces" in sys.argv or "bubblewrap" in sys.argv
    if "bubblewrap" in sys.argv:
        os.chdir(_PLACE)
    if "namespaces" in sys.argv:
        try:
            shut = enter_namespaces()
        except Unavailable:
            os._exit(1)
        if judge := os.fork():
            os.waitpid(judge, 0)
            os._exit(0)
        _prctl(_PARENT_DEATH, signal.SIGKILL)
        with contextlib.suppress(Unavailable, AttributeError):
            _call("mount", b"proc", b"/proc", b"proc", ctypes.c_ulong(14), None)
    _prctl(_SUBREAPER, 1)
    _prctl(_DUMPABLE, 0)  # the worker may not look into this process
    try:
        _serve(shut)
    finally:
        if not isolated:
            remove(Path.cwd())  # whoever made this folder may have ended
        os._exit(0)


if __name__ == "__main__":
    main()
