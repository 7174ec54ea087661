"""Isolation of answers that are run: what they may use, read and write, and what they leave."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from code_runner import (
    ISOLATION_NAMES,
    ISOLATIONS,
    MARK,
    checked_isolation,
    copied_runner,
)
from hydratune.errors import HydratuneError
from hydratune.evaluation import code_scores
from hydratune.evaluation.code_scores import Isolation, run
from hydratune.evaluation.sandbox.folders import homes


@pytest.fixture(scope="module", autouse=True)
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    yield from copied_runner(tmp_path_factory.mktemp("runner"))


@pytest.fixture(params=ISOLATIONS, ids=ISOLATION_NAMES)
def isolation(request: pytest.FixtureRequest) -> Iterator[Isolation]:
    yield from checked_isolation(request.param)


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


def test_the_settings_state_what_can_be_read(
    isolation: Isolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = code_scores._run("x = 1", "assert x", 5, 512, isolation)
    monkeypatch.setattr(code_scores, "protection", lambda: (isolation, tuple(result["shut"])))
    statement = code_scores.how()["code_isolation"]
    root = (
        run("open('/etc/shadow').read()", "assert True", isolation=isolation)["outcome"] == "passed"
    )
    assert ("every file can be read" in statement) == root
    assert ("but no home folder" in statement) == (isolation is not Isolation.limits)


def test_an_interpreter_that_cannot_be_started_is_reported(
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
        result = run(code, "assert True", isolation=isolation)
    if isolation is Isolation.limits:
        pytest.skip("limits alone do not cut the network, and settings say so")
    assert result["outcome"] == "error", result


def test_files_outside_are_not_written_or_deleted(isolation: Isolation, tmp_path: Path) -> None:
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


def test_deep_folders_are_removed(
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


def test_a_killed_run_leaves_no_folder(isolation: Isolation, tmp_path: Path) -> None:
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


def test_the_settings_state_the_protection() -> None:
    isolation, shut = code_scores.protection()
    statement = code_scores.how()["code_isolation"]
    assert statement.startswith(isolation.value)
    assert ("no network" in statement) == ("network" in shut) and (
        "the network is not cut" in statement
    ) == ("network" not in shut)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR2"])
def test_a_signal_to_all_processes_of_a_run_does_not_make_an_answer_wrong(
    name: str, isolation: Isolation
) -> None:
    """A cluster that takes the machine away signals the process of the answer as well."""
    answer = f"import os, signal\ndef f(x):\n    os.kill(os.getpid(), signal.{name})\n    return x"
    assert run(answer, "assert f(1) == 1", isolation=isolation)["outcome"] == "passed"
