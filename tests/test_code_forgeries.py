"""Answers that forge a verdict, the controls that find this, and ordinary answers, which pass."""

from collections.abc import Iterator

import pytest

from code_runner import HARMLESS, ISOLATION_NAMES, ISOLATIONS, checked_isolation, copied_runner
from hydratune.evaluation.code_scores import Isolation, run
from hydratune.evaluation.controls import COUNT, controls, other


@pytest.fixture(scope="module", autouse=True)
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    yield from copied_runner(tmp_path_factory.mktemp("runner"))


@pytest.fixture(params=ISOLATIONS, ids=ISOLATION_NAMES)
def isolation(request: pytest.FixtureRequest) -> Iterator[Isolation]:
    yield from checked_isolation(request.param)


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
def test_a_verdict_cannot_be_forged(name: str, tests: str) -> None:
    if (
        name in ("equal to everything", "equal to all but stand-ins", "reads what is expected")
        and tests == "unittest"
    ):
        pytest.skip(
            "not found: whether the test case runs is not known beforehand (README says so)"
        )
    assert run(FORGERIES[name], TESTS[tests])["outcome"] in ("failed", "error")
    assert run(HARMLESS, TESTS[tests])["outcome"] == "passed"


def test_one_control_always_replaces_the_expected_value() -> None:
    """Inverted comparisons alone would not reveal an answer that reads what is expected."""
    for _ in range(200):
        made, _ = controls("assert double(3) == 6")
        assert any("!=" not in control for control in made[:COUNT])


SECRETS = """
import re, sys
def seen():
    seen_texts, frame = [], sys._getframe()
    while frame:
        texts = [repr(value) for value in frame.f_locals.values()]
        seen_texts += [text for text in texts if 'SECRETS' not in text and 'def seen' not in text]
        frame = frame.f_back
    return ' '.join(seen_texts)
frame_texts = seen()
"""


def test_no_frame_has_a_nonce_or_the_tests(isolation: Isolation) -> None:
    tests = (
        "assert 'SECRET' + '_WORD' not in frame_texts and not re.search('[0-9a-f]{32}',"
        " frame_texts), frame_texts  # SECRET_WORD"
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
def test_other_values_differ_and_keep_the_type(value: object) -> None:
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
def test_unittest_runs_the_cases_and_reports_failures(
    end: str, right: bool, isolation: Isolation
) -> None:
    tests = (
        "import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n       "
        f" self.assertEqual(double(3), 6)\n{end}"
    )
    assert run(HARMLESS, tests, isolation=isolation)["outcome"] == ("passed" if right else "failed")
    assert run("def double(x):\n    return x", tests, isolation=isolation)["outcome"] == "failed"


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
def test_ordinary_answers_pass(code: str, tests: str, isolation: Isolation) -> None:
    assert run(code, tests, isolation=isolation) == {"outcome": "passed", "why": ""}
