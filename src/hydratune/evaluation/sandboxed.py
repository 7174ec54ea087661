"""Run as a program of its own: executes untrusted Python under limits, then tests it. Standard library only.

Reads one JSON object per line from standard input, and answers each with a line of JSON, its token and the verdict. Three
processes share the work, so that the one that says what came out never runs an answer's code:

- this program, which with the argument ``namespaces`` enters new ones (processes, network, files);
- the judge, the first process of the new namespace: it starts the workers, keeps the time, ends every process that is left;
- a worker for every run, which gives up its rights, executes the answer and the tests, and reports through a pipe of its own.

The tests call functions of the answer, so both run in one interpreter, and an answer that looks for the pipe and the nonce
can write "passed" there. That is why an answer that passes is run once more on tests that cannot pass: if they pass as well,
or if what the answer returns is equal to everything, the verdict is an error. An answer that tells the two runs apart, or
was written against one row's tests, is not found.
"""

import builtins
import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import stat
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OUTCOMES = ("passed", "failed", "error", "syntax", "time", "memory")
MOST_SAID = 65536  # bytes of one report
_IDLE = 20  # seconds without a request after which it ends
_MOST_PROCESSES = 8  # of an answer, where the kernel does not refuse the first one
_UNSHARE = {"user": 0x10000000, "pid": 0x20000000, "net": 0x40000000, "mount": 0x00020000, "ipc": 0x08000000, "uts": 0x04000000}
_PARENT_DEATH, _DUMPABLE, _KEEP_CAPS, _SUBREAPER, _NO_NEW_PRIVILEGES = 1, 4, 8, 36, 38  # of prctl(2)
_READ_ANYTHING = 1 << 2  # CAP_DAC_READ_SEARCH


class Unavailable(Exception):
    """The kernel refuses this kind of isolation."""


# ------------------------------------------------------------------------------------------------------------ the kernel
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    with contextlib.suppress(AttributeError, OSError):  # Linux only
        _libc().prctl(option, value, 0, 0, 0)


def _call(name: str, *arguments: Any) -> None:
    if getattr(_libc(), name)(*arguments) != 0:
        raise Unavailable(f"{name}: {os.strerror(ctypes.get_errno())}")


def enter_namespaces() -> list[str]:
    """Enters new namespaces and returns what is shut off; the processes' one begins with the next fork.

    Raises ``Unavailable`` if the kernel allows no namespace of processes and of the network.
    """
    user, group, flags = os.getuid(), os.getgid(), sum(value for name, value in _UNSHARE.items() if name != "user")
    if user != 0:
        flags |= _UNSHARE["user"]
    try:
        _call("unshare", flags)
        if user != 0:
            for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
                Path(f"/proc/self/{name}").write_text(text)
    except (AttributeError, OSError) as error:
        raise Unavailable(str(error)) from None
    shut = ["processes", "network"]
    with contextlib.suppress(Unavailable, AttributeError):
        _call("mount", None, b"/", None, ctypes.c_ulong(0x44000), None)  # MS_REC | MS_PRIVATE
        attributes = ctypes.create_string_buffer(struct.pack("QQQQ", 1, 0, 0, 0))  # MOUNT_ATTR_RDONLY
        _call("syscall", 442, -100, b"/", 0x8000, attributes, ctypes.c_size_t(32))  # mount_setattr, AT_RECURSIVE: Linux 5.12
        shut.append("files")
        _call("mount", b"tmpfs", b"/run", b"tmpfs", ctypes.c_ulong(7), b"size=64k")  # sockets of services; read-only
    return shut


def _give_up_rights() -> bool:
    """Takes a user id that nobody has, if this is root, and gives up all capabilities. Whether the user id was changed.

    Only root's processes escape the limit of their number. Where the standard library lies in root's own folder, as with
    pyenv or uv, the right to read stays: without it the answer could not import.
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
        _libc().capset(header, ctypes.create_string_buffer(struct.pack("6I", kept, kept, 0, 0, 0, 0)))
    _prctl(_NO_NEW_PRIVILEGES, 1)
    return changed


def _everybody_reads(folder: Path) -> bool:
    return all(part.stat().st_mode & 0o5 == 0o5 for part in (folder, *folder.parents))


def _limit(seconds: int, megabytes: int) -> None:
    most = megabytes * 2**20
    for name, soft, hard in (
        ("RLIMIT_CPU", seconds, seconds),
        ("RLIMIT_AS", most, most + 2**25),  # the rest is for saying so
        ("RLIMIT_FSIZE", 0, 0),
        ("RLIMIT_CORE", 0, 0),
        ("RLIMIT_NPROC", 0, 0),
        ("RLIMIT_NOFILE", 64, 64),
        ("RLIMIT_MSGQUEUE", 0, 0),
    ):
        with contextlib.suppress(AttributeError, ValueError, OSError):  # not on every system
            resource.setrlimit(getattr(resource, name), (soft, hard))


def remove(folder: Path, seconds: float = 10) -> None:
    """Removes ``folder`` whatever is in it, or gives up after ``seconds``: links are not followed, and no depth is too deep.

    ``shutil.rmtree`` calls itself for every level; here what lies deeper is moved up until there is one level.
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


# ------------------------------------------------------------------------------------------------------------ the worker
def verdict(code: str, tests: str) -> dict[str, str]:
    """What became of ``tests`` (doctests, or statements that must not raise) after ``code``."""
    doctest = __import__("doctest") if ">>>" in tests else None
    names: dict[str, object] = {"__name__": "answer"}
    original = dict(vars(builtins))
    try:
        exec(compile(code, "<answer>", "exec"), names)
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
    try:
        if doctest is None:
            exec(compile(tests, "<tests>", "exec"), names)
            return {"outcome": "passed", "why": ""}
        told: list[str] = []
        parsed = doctest.DocTestParser().get_doctest(tests, names, "tests", None, 0)
        found = doctest.DocTestRunner(verbose=False).run(parsed, out=told.append)
        lines = "".join(told)
        why = next((line.strip() for line in lines.splitlines() if line.startswith("    ")), "")
        return {"outcome": "passed" if not found.failed else "memory" if "MemoryError" in lines else "failed", "why": why}
    except MemoryError:
        names.clear()
        return {"outcome": "memory", "why": "the tests wanted more memory than they may have"}
    except BaseException as error:
        return {"outcome": "failed", "why": f"{type(error).__name__}: {error}"}


def impossible(tests: str, mark: str) -> str:
    """``tests`` that no honest answer passes: what must be equal is compared with a thing of its own, and the last one fails.

    An answer whose results are equal to everything fails earlier, and says ``<mark> equal``.
    """
    if ">>>" in tests:
        return f"{tests.rstrip()}\n\n>>> {mark!r}\n''\n"
    import ast  # takes as long as the rest of a short answer

    tree = ast.parse(tests)
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert) and isinstance(node.test, ast.Compare) and [type(o) for o in node.test.ops] == [ast.Eq]:
            other = ast.parse("type('Other', (), {})()", mode="eval").body
            same = ast.Compare(node.test.left, [ast.Eq()], [other])
            node.test, node.msg = ast.UnaryOp(ast.Not(), same), ast.Constant(f"{mark} equal")
    tree.body.append(ast.Raise(ast.Call(ast.Name("AssertionError", ast.Load()), [ast.Constant(mark)], []), None))
    return ast.unparse(ast.fix_missing_locations(tree))


def _work(asked: dict[str, Any], tests: str, nonce: str, pipe: int) -> None:
    """Never returns. What the code prints is thrown away; the report goes to ``pipe``."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    for number in range(3, 256):
        if number != pipe:
            with contextlib.suppress(OSError):
                os.close(number)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    os.environ.clear()
    _limit(asked["seconds"], asked["megabytes"])
    own_user = _give_up_rights()
    _prctl(_PARENT_DEATH, signal.SIGKILL)
    write, leave, dumps, setrlimit, most = os.write, os._exit, json.dumps, resource.setrlimit, resource.getrlimit(resource.RLIMIT_AS)[1]
    found = verdict(asked["code"], tests)
    with contextlib.suppress(ValueError, OSError):
        setrlimit(resource.RLIMIT_AS, (most, most))
    write(pipe, dumps({"nonce": nonce, "outcome": found["outcome"], "why": found["why"][:200], "own_user": own_user}).encode())
    leave(0)  # threads of the code do not matter any more


# ------------------------------------------------------------------------------------------------------------- the judge
def _descendants() -> Iterator[int]:
    """Every process below this one; those whose parents have ended come here, see ``PR_SET_CHILD_SUBREAPER``."""
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


def _watch(worker: int, pipe: int, until: float) -> tuple[bytes, str]:
    """What the worker reported, and why it was ended early or nothing. Its processes may be left."""
    said, is_open, checked = b"", True, time.monotonic()
    while time.monotonic() < until:
        ready = select.select([0, *([pipe] if is_open else [])], [], [], 0.05 if is_open else 0.001)[0]
        if 0 in ready:
            return b"", "nobody waits for it any more"
        if pipe in ready:
            part = os.read(pipe, MOST_SAID)
            said, is_open = said + part, bool(part)
            if len(said) > MOST_SAID:
                return b"", "it wrote into what is not its own"
        if os.waitid(os.P_PID, worker, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            while is_open and select.select([pipe], [], [], 0)[0] and (part := os.read(pipe, MOST_SAID)) and len(said) <= MOST_SAID:
                said += part
            return said, ""
        if os.getpid() != 1 and time.monotonic() - checked > 0.05:
            checked = time.monotonic()
            if sum(1 for _ in _descendants()) > _MOST_PROCESSES:
                return b"", "it started more processes than it may"
    return b"", "time"


def attempt(asked: dict[str, Any], tests: str) -> dict[str, str]:
    """One run of the answer on ``tests`` in a worker; none of its processes is left."""
    nonce, wall = os.urandom(16).hex(), asked["seconds"] + asked["patience"]
    read, write = os.pipe()
    worker = os.fork()
    if worker == 0:
        try:
            os.close(read)
            _work(asked, tests, nonce, write)
        finally:
            os._exit(1)
    os.close(write)
    if asked["tell"]:  # where no namespace holds it, whoever started this can end it
        os.write(1, json.dumps({"worker": worker}).encode() + b"\n")
    said, why = _watch(worker, read, time.monotonic() + wall)
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
            asked["own_user"] = found["own_user"] is True
            return {"outcome": found["outcome"], "why": str(found["why"])}
    if os.WIFSIGNALED(status) and used.ru_utime + used.ru_stime > asked["seconds"] - 0.5:
        return {"outcome": "time", "why": f"more than {asked['seconds']} s of CPU"}
    if os.WIFSIGNALED(status):
        return {"outcome": "error", "why": f"the code's process was ended by signal {os.WTERMSIG(status)}"}
    return {"outcome": "error", "why": "the code ended its process, or wrote into what is not its own"}


def judged(asked: dict[str, Any]) -> dict[str, str]:
    """The verdict: an answer that passes must fail where nothing honest can pass."""
    found = attempt(asked, asked["tests"])
    if found["outcome"] != "passed":
        return found
    mark = f"cannot pass {os.urandom(8).hex()}"
    try:
        tests = impossible(asked["tests"], mark)
    except (RecursionError, MemoryError):  # of tests nested very deep
        tests = f"{asked['tests']}\nraise AssertionError({mark!r})\n"
    control = attempt(asked, tests)
    if control["outcome"] == "passed":
        return {"outcome": "error", "why": "the code makes tests pass that cannot pass"}
    if f"{mark} equal" in control["why"]:
        return {"outcome": "error", "why": "what the code returns is equal to everything"}
    return found


def _serve(shut: list[str]) -> None:
    """Judges one request after the other until nobody asks any more, or an answer has left something in its folder."""
    while select.select([0], [], [], _IDLE)[0] and (line := sys.stdin.buffer.readline()):
        asked = json.loads(line)
        if ">>>" in asked["tests"]:
            import doctest  # noqa: F401 - once, not in every worker
        found = judged(asked)
        done = {
            "token": asked["token"],
            **found,
            "shut": [*shut, *(["user"] if asked.get("own_user") else [])],
            "clean": not list(Path().iterdir()),
        }
        os.write(1, json.dumps(done).encode() + b"\n")
        if not done["clean"]:
            break
    os._exit(0)


def main() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("900")  # rather this than the training, if memory is short
    shut: list[str] = []
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
    _serve(shut)


if __name__ == "__main__":
    main()
