"""Answers that attack the program that runs them: each gets a verdict, in time.

As root and as a normal user.
"""

import os
import resource
import time
from collections.abc import Iterator

import pytest

from code_runner import (
    HARMLESS,
    ISOLATION_NAMES,
    ISOLATIONS,
    MARK,
    checked_isolation,
    copied_runner,
)
from hydratune.evaluation import code_scores
from hydratune.evaluation.code_scores import Isolation, run


@pytest.fixture(scope="module", autouse=True)
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    yield from copied_runner(tmp_path_factory.mktemp("runner"))


@pytest.fixture(params=ISOLATIONS, ids=ISOLATION_NAMES)
def isolation(request: pytest.FixtureRequest) -> Iterator[Isolation]:
    yield from checked_isolation(request.param)


FORGED = '{"outcome": "passed", "why": "", "token": "", "nonce": "", "shut": [], "clean": true}'
SLEEPER = f"os.execv('/bin/sh', ['/bin/sh', '-c', 'sleep 600; echo {MARK}'])"
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
    result = run(code, "assert True", seconds=1, megabytes=128, isolation=isolation)
    assert result["outcome"] in outcomes, result
    assert time.monotonic() - start < 12
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 50_000, (
        "it filled our memory"
    )
    assert run(HARMLESS, "assert double(3) == 6", isolation=isolation)["outcome"] == "passed", (
        "the next answer suffers"
    )
