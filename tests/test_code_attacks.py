"""Answers that attack whoever runs them: each gets a verdict, in time, and nothing of it is left.

As root and as a normal user.
"""

import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hydratune.errors import HydratuneError
from hydratune.evaluation import code_scores
from hydratune.evaluation.code_scores import Isolation, run
from hydratune.evaluation.controls import controls, other
from hydratune.evaluation.sandbox.folders import homes

MARK = f"hydratune_attack_{os.getpid()}"
FORGED = '{"outcome": "passed", "why": "", "token": "", "nonce": "", "shut": [], "clean": true}'
SLEEPER = f"os.execv('/bin/sh', ['/bin/sh', '-c', 'sleep 600; echo {MARK}'])"


@pytest.fixture(scope="module", autouse=True)
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A copy of the runner, so that processes of other tests beside this one are not taken for
    ours.
    """
    copy = tmp_path_factory.mktemp("runner") / "sandbox" / "__main__.py"
    shutil.copytree(code_scores._RUNNER.parent, copy.parent)
    code_scores.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code_scores, "_RUNNER", copy)
        yield
        code_scores.close()


@pytest.fixture(params=list(Isolation), ids=[isolation.name for isolation in Isolation])
def isolation(request: pytest.FixtureRequest) -> Iterator[Isolation]:
    kind: Isolation = request.param
    if run("x = 1", "assert x == 1", isolation=kind)["outcome"] != "passed":
        pytest.skip(
            "bubblewrap is not installed, or the kernel refuses it"
            if kind is Isolation.bubblewrap
            else "the kernel refuses it"
        )
    code_scores.close()
    before = _processes()
    yield kind
    code_scores.close()
    until = time.monotonic() + 5
    while (left := _processes() - before) and time.monotonic() < until:
        time.sleep(0.05)
    assert not left, "a process has survived"


def _processes() -> set[str]:
    """Everything that was started by an answer, or runs one."""
    found = set()
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = file.read_bytes().decode("utf-8", "replace")
            state = (file.parent / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state not in "ZX" and (MARK in command or str(code_scores._RUNNER) in command):
            found.add(f"{file.parent.name} {command}")
    return found


HARMLESS = "def double(x):\n    return 2 * x\n"
ATTACKS = {
    "fork bomb": ("import os\nwhile True:\n    os.fork()", {"error", "time"}),
    "fork bomb that waits for refusals": (
        (
            "import os, time\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n      "
            "  time.sleep(0.01)"
        ),
        {"error", "time"},
    ),
    "double fork that holds standard output": (
        (
            "import os\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n       "
            f" {SLEEPER}\n    os._exit(0)"
        ),
        {"error", "passed"},
    ),
    "sleeper in a session of its own": (f"import os\nos.setsid()\n{SLEEPER}", {"error", "time"}),
    "threads without end": (
        (
            "import threading, time\nwhile True:\n    threading.Thread(target=time.sleep,"
            " args=(60,)).start()"
        ),
        {"error", "time"},
    ),
    "flood of standard output": ("while True:\n    print('x' * 10**6)", {"time"}),
    "flood of all descriptors": (
        (
            "import os\nwhile True:\n    for n in range(256):\n        try:\n           "
            " os.write(n, b'x' * 65536)\n        except OSError:\n            pass"
        ),
        {"error", "time"},
    ),
    "memory at once": ("x = bytearray(10**10)", {"memory"}),
    "memory bit by bit": ("x = []\nwhile True:\n    x.append(' ' * 10**5)", {"memory"}),
    "small objects": ("x = []\nwhile True:\n    x.append([x])", {"memory", "time"}),
    "disk": (
        "with open('filler', 'wb') as f:\n    while True:\n        f.write(b'x' * 10**6)",
        {"error"},
    ),
    "disk elsewhere": (
        (
            "import tempfile\nwith open('/tmp/hydratune_filler', 'wb') as f:\n    f.write(b'x' *"
            " 10**6)"
        ),
        {"error"},
    ),
    "many folders": (
        "import os, time\nwhile True:\n    os.mkdir('d')\n    os.chdir('d')",
        {"error", "time"},
    ),
    "deaf to signals": (
        (
            "import signal\nfor n in range(1, 32):\n    try:\n        signal.signal(n,"
            " signal.SIG_IGN)\n    except OSError:\n        pass\nwhile True:\n    pass"
        ),
        {"time"},
    ),
    "sleep": ("import time\ntime.sleep(600)", {"time"}),
    "stops itself": ("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", {"time"}),
    "crash": ("import ctypes\nctypes.string_at(0)", {"error"}),
    "kills its parent": (
        "import os\nos.kill(os.getppid(), 9)\nimport time\ntime.sleep(600)",
        {"error", "time"},
    ),
    "kills its group": ("import os\nos.killpg(os.getpgid(0), 9)", {"error"}),
    "kills everything": ("import os\nos.kill(-1, 9)", {"error", "passed"}),
    "exits": ("import sys\nsys.exit(0)", {"error"}),
    "leaves": ("import os\nos._exit(0)", {"error"}),
    "prints a verdict": (f"print('''{FORGED}''')\nraise SystemExit", {"error"}),
    "writes a verdict everywhere": (
        (
            f"import os\nfor n in range(256):\n    try:\n        os.write(n, b'''{FORGED}''' +"
            " b'\\n')\n    except OSError:\n        pass\nos._exit(0)"
        ),
        {"error"},
    ),
    "closes everything": ("import os\nos.closerange(0, 256)\nos._exit(0)", {"error"}),
    "closes everything and sleeps": (
        "import os, time\nos.closerange(0, 256)\ntime.sleep(600)",
        {"time"},
    ),
    "deletes its folder": (
        "import os, shutil\nshutil.rmtree(os.getcwd(), ignore_errors=True)\nraise RuntimeError",
        {"error"},
    ),
    "shuts its folder": (
        "import os\nos.mkdir('a')\nos.chmod('a', 0)\nos.chmod('.', 0)\nraise RuntimeError",
        {"error"},
    ),
    "raises a liar": (
        "class Liar(BaseException):\n    def __str__(self):\n        raise MemoryError\nraise Liar",
        {"error", "memory"},
    ),
}
ENDLESS = (
    "time",
    "fork bomb",
    "threads",
    "flood",
    "deaf",
    "sleep",
    "closes everything and",
    "many",
    "small",
    "kills its parent",
    "stops",
)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_ends_in_a_verdict(
    name: str, isolation: Isolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, outcomes = ATTACKS[name]
    if name == "kills everything" and isolation is Isolation.limits and os.getuid() != 0:
        pytest.skip(
            "without a namespace a normal user's code reaches all processes of that user, this test"
            " too; settings say so"
        )
    monkeypatch.setattr(code_scores, "_PATIENCE", 1)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    found = run(code, "assert True", seconds=1, megabytes=128, isolation=isolation)
    assert found["outcome"] in outcomes, found
    assert time.monotonic() - start < 12
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 50_000, (
        "it filled our memory"
    )
    assert run(HARMLESS, "assert double(3) == 6", isolation=isolation)["outcome"] == "passed", (
        "the next answer suffers"
    )


FORGERIES = {
    "equal to everything": (
        "class Any:\n    def __eq__(self, other):\n        return True\ndef double(x):\n    return"
        " Any()"
    ),
    "leaves in a test": "import os\ndef double(x):\n    os._exit(0)",
    "exits in a test": "import sys\ndef double(x):\n    sys.exit(0)",
    "raises SystemExit in a test": "def double(x):\n    raise SystemExit(0)",
    "own functions": (
        "import builtins\nbuiltins.len = builtins.exec = builtins.compile = lambda *a, **k:"
        " None\ndef double(x):\n    return 0"
    ),
    "own doctest": (
        "import doctest\nclass Result:\n    failed, attempted = 0, 1\ndoctest.DocTestRunner.run ="
        " lambda *a, **k: Result()\ndoctest.OutputChecker.check_output = lambda *a: True\ndef"
        " double(x):\n    return 0"
    ),
    "own unittest": (
        "import unittest\nunittest.TestCase.assertEqual = lambda *a: None\ndef double(x):\n   "
        " return 0"
    ),
    "nonce from the frames": (
        "import sys, os, json\ndef double(x):\n    f = sys._getframe()\n    while f:\n        if"
        " 'nonce' in f.f_locals:\n            os.write(f.f_locals['pipe'], json.dumps({'nonce':"
        " f.f_locals['nonce'], 'outcome': 'passed', 'why': ''}).encode())\n           "
        " os._exit(0)\n        f = f.f_back\n    return 0"
    ),
    "own verdict": (
        "import sys\nsys.modules['__main__'].verdict = None\nf = sys._getframe()\nwhile f:\n    if"
        " 'write' in f.f_locals or '_work' in f.f_globals:\n        f.f_globals['verdict'] = lambda"
        " *a: {'outcome': 'passed', 'why': ''}\n    f = f.f_back\ndef double(x):\n    return 0"
    ),
    "joins the protocol": (
        "import os, json\ndef double(x):\n    os.write(3, b'done')\n    nonce = os.read(3,"
        " 64).decode()\n    os.write(3, json.dumps({'nonce': nonce, 'outcome': 'passed', 'why': '',"
        " 'own_user': False, 'reads_all': False}).encode())\n    os._exit(0)"
    ),
    "equal to all but stand-ins": (
        "class Any:\n    def __eq__(self, other):\n        return type(other).__name__ !="
        " 'Other'\ndef double(x):\n    return Any()"
    ),
    "reads what is expected": (
        "import sys\ndef double(x):\n    return [one for one in sys._getframe(1).f_code.co_consts"
        " if isinstance(one, int)][-1]"
    ),
}
TESTS = {
    "assertions": "assert double(3) == 6",
    "in a function": "def check(candidate):\n    assert candidate(3) == 6\ncheck(double)",
    "in a loop": "for given, wanted in [(3, 6), (4, 8)]:\n    assert double(given) == wanted",
    "in a while": (
        "given = 1\nwhile given < 3:\n    assert double(given) == given * 2\n    given += 1"
    ),
    "unittest": (
        "import unittest\nclass T(unittest.TestCase):\n    def runTest(self):\n       "
        " self.assertEqual(double(3), 6)\nT().debug()"
    ),
    "unittest.main": (
        "import unittest\nclass T(unittest.TestCase):\n    def test_six(self):\n       "
        " self.assertEqual(double(3), 6)\nif __name__ == '__main__':\n    unittest.main()"
    ),
    "doctests": ">>> double(3)\n6",
}


@pytest.mark.parametrize("tests", TESTS)
@pytest.mark.parametrize("name", FORGERIES)
def test_a_verdict_is_not_forged(name: str, tests: str) -> None:
    if (
        name in ("equal to everything", "equal to all but stand-ins", "reads what is expected")
        and tests == "unittest"
    ):
        pytest.skip(
            "not found: whether the test case runs is not known beforehand (README says so)"
        )
    assert run(FORGERIES[name], TESTS[tests])["outcome"] in ("failed", "error")
    assert run(HARMLESS, TESTS[tests])["outcome"] == "passed"


SECRETS = """
import re, sys
def seen():
    found, frame = [], sys._getframe()
    while frame:
        texts = [repr(value) for value in frame.f_locals.values()]
        found += [text for text in texts if 'SECRETS' not in text and 'def seen' not in text]
        frame = frame.f_back
    return ' '.join(found)
told = seen()
"""


def test_no_frame_has_a_nonce_or_the_tests(isolation: Isolation) -> None:
    tests = (
        "assert 'SECRET' + '_WORD' not in told and not re.search('[0-9a-f]{32}', told), told  #"
        " SECRET_WORD"
    )
    assert run(SECRETS, tests, isolation=isolation) == {"outcome": "passed", "why": ""}


@pytest.mark.parametrize(
    "tests",
    [
        "assert f(1) == 2",
        "assert f(1) == [1, 'a', {'k': (1.5, None)}]",
        "assert f(1) < 3\nassert not f(2)\nassert f(3) is None\nassert 'a' in f('b')",
        "def check(candidate):\n    assert candidate(1) == 'x'\ncheck(f)",
        "if __name__ == '__main__':\n    assert f() == b'x'",
        ">>> f(1)\n2\n>>> f('a')\n'b'\n",
        ">>> f(1) # doctest: +SKIP\n2\n",
        "import asyncio\nasync def go():\n    assert await f(1) == 2\nasyncio.run(go())",
    ],
)
def test_controls_differ_and_have_no_fixed_words(tests: str) -> None:
    many = [control for _ in range(30) for control in controls(tests)[0]]
    assert all(control != tests for control in many) and len(set(many)) > 1
    assert not any(
        word in control for control in many for word in ("cannot pass", "Other", "control")
    )


@pytest.mark.parametrize(
    "value",
    [
        0,
        1,
        -5,
        10**20,
        1.5,
        1e300,
        True,
        "",
        "abc",
        b"",
        b"x",
        None,
        [],
        [1, [2]],
        (),
        (1,),
        {},
        {"a": {"b": 1}},
        {1, 2},
        2j,
    ],
)
def test_another_value_is_another(value: object) -> None:
    for _ in range(50):
        assert other(value) != value and (value is None or type(other(value)) is type(value))


@pytest.mark.parametrize(
    ("end", "right"),
    [
        ("unittest.main(exit=False)", True),
        ("unittest.main()", True),
        ("if __name__ == '__main__':\n    unittest.main()", True),
        (
            "unittest.TextTestRunner().run(unittest.defaultTestLoader.loadTestsFromTestCase(T))",
            True,
        ),
        ("unittest.main(argv=['x', 'T.test_b'], exit=False)", False),
    ],
)
def test_unittest_runs_the_cases_and_fails(end: str, right: bool, isolation: Isolation) -> None:
    tests = (
        "import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n       "
        f" self.assertEqual(double(3), 6)\n{end}"
    )
    assert run(HARMLESS, tests, isolation=isolation)["outcome"] == ("passed" if right else "failed")
    assert run("def double(x):\n    return x", tests, isolation=isolation)["outcome"] == "failed"


THREADS = {
    "thread": (
        "import threading\ndef f(x):\n    out = []\n    t = threading.Thread(target=out.append,"
        " args=(x,))\n    t.start()\n    t.join()\n    return out[0]"
    ),
    "pool": (
        "from concurrent.futures import ThreadPoolExecutor\ndef f(x):\n    with"
        " ThreadPoolExecutor(8) as pool:\n        return list(pool.map(int, [x] * 20))[0]"
    ),
    "timer": (
        "import threading\ndef f(x):\n    out = []\n    t = threading.Timer(0.01, out.append,"
        " [x])\n    t.start()\n    t.join()\n    return out[0]"
    ),
    "asyncio": (
        "import asyncio\ndef f(x):\n    async def go():\n        return await"
        " asyncio.to_thread(int, x)\n    return asyncio.run(go())"
    ),
}


@pytest.mark.parametrize("name", THREADS)
def test_an_answer_may_have_threads(name: str, isolation: Isolation) -> None:
    assert run(THREADS[name], "assert f(3) == 3", isolation=isolation) == {
        "outcome": "passed",
        "why": "",
    }


@pytest.mark.parametrize(
    "call",
    [
        "os.fork()",
        "subprocess.run(['true'])",
        "multiprocessing.Process(target=print).start()",
        "os.posix_spawn('/bin/true', ['true'], {})",
    ],
)
def test_an_answer_may_have_no_processes(call: str, isolation: Isolation) -> None:
    assert (
        run(f"import os, subprocess, multiprocessing\n{call}", "assert True", isolation=isolation)[
            "outcome"
        ]
        == "error"
    )


def test_home_folders_are_not_seen(isolation: Isolation, tmp_path: Path) -> None:
    if isolation is Isolation.limits:
        pytest.skip("limits alone hide nothing, and settings say so")
    folders = [folder for folder in homes() if folder.is_dir()]
    assert folders
    code = (
        f"import os\nseen = [name for home in {list(map(str, folders))} for name in"
        " os.listdir(home)]\npython = os.__file__.split('/')"
    )
    assert (
        run(code, "assert all(name in python for name in seen), seen", isolation=isolation)[
            "outcome"
        ]
        == "passed"
    )
    shadow = run("open('/etc/shadow').read()", "assert True", isolation=isolation)
    assert shadow["outcome"] == "error" and "ermission" in shadow["why"]


def test_the_settings_say_what_can_be_read(
    isolation: Isolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = code_scores._run("x = 1", "assert x", 5, 512, isolation)
    monkeypatch.setattr(code_scores, "protection", lambda: (isolation, tuple(found["shut"])))
    told = code_scores.how()["code_isolation"]
    root = (
        run("open('/etc/shadow').read()", "assert True", isolation=isolation)["outcome"] == "passed"
    )
    assert ("every file can be read" in told) == root
    assert ("but no home folder" in told) == (isolation is not Isolation.limits)


def test_an_interpreter_that_cannot_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code_scores.close()
    monkeypatch.setattr(code_scores.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(code_scores.sys, "executable", str(tmp_path / "python"))
    for isolation in (Isolation.namespaces, Isolation.limits):
        with pytest.raises(
            HydratuneError, match=r"python cannot be started .* set evaluation\.run_code=false"
        ):
            run("x = 1", "assert x == 1", isolation=isolation)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "tests"),
    [
        (
            "class P:\n    def __init__(s, x): s.x = x\n    def __eq__(s, o): return s.x == o.x",
            "assert P(1) == P(1)",
        ),
        (
            "def f(n):\n    return float(n)",
            "assert f(1) == 1 == f(1)\nassert abs(f(2) - 2) < 1e-9\nassert f(0) == 0, 'zero'",
        ),
        (
            "seen = []\ndef f():\n    seen.append(1)\n    return len(seen)",
            "assert f() == 1\nassert f() == 2",
        ),
        (
            "def f(): raise ValueError('no')",
            "try:\n    f()\nexcept ValueError:\n    pass\nelse:\n    assert False",
        ),
        ("def f(): return 1", "if False:\n    assert f() == 2\nassert f()"),
        ("def f(): return 1", "from __future__ import annotations\nassert f() == 1"),
        (
            "def f(x): return x",
            (
                "from unittest.mock import ANY\nassert ANY == f(1)\nassert f(1) == ANY\nassert"
                " [ANY, 1] == [f(2), 1]"
            ),
        ),
        (
            "def f(x): return x",
            (
                "from unittest.mock import ANY\nwanted = ANY\ngot = f(1)\nassert wanted =="
                " got\nassert got == wanted"
            ),
        ),
        (
            "def f(x): return x",
            (
                "class Anything:\n    def __eq__(self, other):\n        return True\nfor a, b in"
                " [(1, Anything())]:\n    assert b == f(a)"
            ),
        ),
        (
            "def f(x): return x",
            (
                "def check(candidate):\n    if not candidate(0):\n        return\n    assert"
                " candidate(1) == 2\ncheck(f)"
            ),
        ),
        (
            "def f(x): return x",
            "def check(candidate):\n    assert candidate(1) == 2\nassert f(1) == 1",
        ),
        ("def f(x): return x", "for _ in range(0):\n    assert f(1) == 2"),
        (
            "def f(x): return x",
            "for a in [1, 2]:\n    if a == 1:\n        continue\n    assert f(a) == 2",
        ),
        (
            "import os\ndef f(): return os.getcwd()",
            "import sys\nassert f() and sys.argv == ['answer.py']",
        ),
        ("class P: pass", "import pickle\nassert type(pickle.loads(pickle.dumps(P()))) is P"),
        (
            "def f(x): return x",
            (
                ">>> f(1)\n1\n>>> f('a')\n'a'\n>>> print(f('a b'))\na b\n>>> f(None)\n>>>"
                " f(1/0)\nTraceback (most recent call last):\nZeroDivisionError: division by zero"
            ),
        ),
        ("def f(): return 1", "for case in []:\n    assert f() == case"),
        ("def f(): return 1", "try:\n    assert f() == 2\nexcept AssertionError:\n    pass"),
        (
            "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int",
            "assert P(1) == P(1)\nassert P(1) != P(2)",
        ),
        (
            (
                "import decimal, collections, re, itertools, functools, heapq, math, typing,"
                " random, datetime"
            ),
            "assert math.gcd(4, 6) == 2",
        ),
        ("def f():\n    print('x' * 100)\n    return 1", ">>> f() # doctest: +ELLIPSIS\nx...\n1"),
    ],
)
def test_honest_answers_pass(code: str, tests: str, isolation: Isolation) -> None:
    assert run(code, tests, isolation=isolation) == {"outcome": "passed", "why": ""}


def test_no_secret_is_in_the_environment(
    isolation: Isolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "secret_value")
    code_scores.close()
    code = (
        "import os, pathlib\nseen = str(dict(os.environ))\n"
        + "for pid in [os.getpid(), os.getppid(), 1]:\n    try:\n        seen +="
        " pathlib.Path(f'/proc/{pid}/environ').read_text()\n    except OSError:\n        pass"
    )
    assert (
        run(code, "assert 'secret_value' not in seen, seen", isolation=isolation)["outcome"]
        == "passed"
    )


def test_the_network_is_cut(isolation: Isolation) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        code = (
            f"import socket\nsocket.create_connection(('127.0.0.1', {server.getsockname()[1]}),"
            " timeout=1)"
        )
        found = run(code, "assert True", isolation=isolation)
    if isolation is Isolation.limits:
        pytest.skip("limits alone do not cut the network, and settings say so")
    assert found["outcome"] == "error", found


def test_nothing_outside_is_written_or_deleted(isolation: Isolation, tmp_path: Path) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text("mine")
    tmp_path.chmod(0o777)
    kept.chmod(0o666)
    code = (
        f"import os\nfor act in (lambda: os.unlink({str(kept)!r}), lambda:"
        f" os.mkdir({str(tmp_path / 'new')!r})):\n"
        + "    try:\n        act()\n    except OSError:\n        pass"
    )
    run(code, "assert True", isolation=isolation)
    if isolation is Isolation.limits:
        pytest.skip("limits alone do not protect files of the same user, and settings say so")
    assert kept.read_text() == "mine" and not (tmp_path / "new").exists()


def test_links_in_its_folder_are_not_followed(isolation: Isolation, tmp_path: Path) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text("mine")
    tmp_path.chmod(0o755)
    code = (
        f"import os\nos.mkdir('a')\nos.symlink({str(tmp_path)!r}, 'a/b')\nos.symlink({str(kept)!r},"
        " 'c')\nos.chmod('a', 0)"
    )
    assert run(code, "assert True", isolation=isolation)["outcome"] in ("passed", "error")
    code_scores.close()
    assert kept.read_text() == "mine" and tmp_path.stat().st_mode & 0o777 == 0o755


def test_folders_are_removed(
    isolation: Isolation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_scores.tempfile, "tempdir", str(tmp_path))
    tmp_path.chmod(0o755)
    code_scores.close()
    run(
        "import os\nfor _ in range(3000):\n    os.mkdir('d')\n    os.chdir('d')\nos.chmod('.', 0)",
        "assert True",
        isolation=isolation,
    )
    code_scores.close()
    assert list(tmp_path.iterdir()) == []


def test_a_signal_in_the_middle_leaves_nothing(isolation: Isolation, tmp_path: Path) -> None:
    code_scores.close()
    program = (
        "from pathlib import Path\nfrom hydratune.evaluation import code_scores\nfrom"
        " hydratune.evaluation.code_scores import Isolation, run\ncode_scores._RUNNER ="
        f" Path({str(code_scores._RUNNER)!r})\nprint('go', flush=True)\nrun('import"
        f" time\\ntime.sleep(600) # {MARK}', 'assert True', seconds=1,"
        f" isolation=Isolation[{isolation.name!r}])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert process.stdout is not None and process.stdout.readline() == b"go\n"
    time.sleep(1.5)
    process.kill()
    process.wait()
    process.stdout.close()
    until = time.monotonic() + 5
    while list(tmp_path.iterdir()) and time.monotonic() < until:
        time.sleep(0.05)
    assert list(tmp_path.iterdir()) == [], "a folder is left"


def test_the_protection_stands_in_the_settings() -> None:
    isolation, shut = code_scores.protection()
    told = code_scores.how()["code_isolation"]
    assert told.startswith(isolation.value)
    assert ("no network" in told) == ("network" in shut) and ("the network is not cut" in told) == (
        "network" not in shut
    )
