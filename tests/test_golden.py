"""The golden comparison runs the commands in two trees, reports by its exit code, and cleans up."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from golden import compare, execution
from golden.commands import COMMANDS, Command, Step
from golden.execution import GoldenError, Runner, key_of, run_all, worktree

ROOT = Path(__file__).parents[1]


SCRIPT = ROOT / "tests" / "golden" / "compare.py"


def test_commands_are_named_once_and_use_earlier_ones() -> None:
    names = [command.name for command in COMMANDS]
    assert len(set(names)) == len(names)
    for number, command in enumerate(COMMANDS):
        assert set(command.uses) <= set(names[:number])
        assert bool(command.ignored) == bool(command.reason)
    real = {command.name for command in compare.chosen(None, True)}
    assert all(set(c.uses) <= real for c in COMMANDS if c.name in real)


def test_other_arguments_have_another_key() -> None:
    by_name = {command.name: command for command in COMMANDS}
    before = {name: key_of(command, by_name) for name, command in by_name.items()}
    lora = by_name["lora"]
    by_name["lora"] = replace(lora, steps=(*lora.steps, Step(("compare", "run"))))
    changed = {n for n, command in by_name.items() if key_of(command, by_name) != before[n]}
    assert changed == {"lora", *(c.name for c in COMMANDS if "lora" in c.uses)}


FAKE = """
import os, pathlib, sys, time
words = sys.argv[1:]
for word in words:
    if word.startswith("write="):
        pathlib.Path("run").mkdir(exist_ok=True)
        pathlib.Path("run/metrics.json").write_text('{"value": %s}' % eval(word[6:]))
    if word.startswith("sleep="):
        time.sleep(float(word[6:]))
    if word.startswith("exit="):
        sys.exit(int(word[5:]))
"""


def step(*words: str, exit_code: int = 0, kill_when: str | None = None) -> Step:
    return Step(words, exit_code, kill_when)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository with a small program called hydratune, and the tool beside it."""
    root = tmp_path / "repository"
    package = root / "src" / "hydratune"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("VALUE = 1\n")
    (package / "__main__.py").write_text(f"from hydratune import VALUE\n{FAKE}")
    shutil.copytree(
        ROOT / "tests" / "golden",
        root / "tests" / "golden",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    (root / ".gitignore").write_text("outputs/\n__pycache__/\n")
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.com")
    for words in (("init", "-q"), ("add", "-A"), (*identity, "commit", "-qm", "first")):
        subprocess.run(["git", *words], cwd=root, check=True)
    monkeypatch.setattr(compare, "ROOT", root)
    monkeypatch.setattr(compare, "STORE", root / "outputs" / "golden")
    return root


def commands(*steps: Step, **more: object) -> tuple[Command, ...]:
    first = Command("one", "a fake command", steps, ("run",))
    return (replace(first, **more), Command("two", "uses it", (step("exit=0"),), (), uses=("one",)))


def set_commands(monkeypatch: pytest.MonkeyPatch, *steps: Step) -> None:
    monkeypatch.setattr(compare, "COMMANDS", commands(*steps))


def worktrees(repository: Path) -> int:
    return execution.git(repository, "worktree", "list").count("\n") + 1


def test_the_exit_code_says_whether_the_trees_are_equal(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_commands(monkeypatch, step("write=VALUE"))
    assert compare.main(["--base", "HEAD"]) == 0
    assert "equal to the last bit" in capsys.readouterr().out
    # another length, because stale bytecode is detected by time in seconds and length
    (repository / "src" / "hydratune" / "__init__.py").write_text("VALUE = 20\n")
    assert compare.main(["--base", "HEAD"]) == 1
    text = capsys.readouterr().out
    assert "one: run/metrics.json, value: 1 -> 20" in text
    assert "2 results of an earlier run are used" in text and "different: one" in text
    assert worktrees(repository) == 1 and list((repository / "outputs").rglob("metrics.json"))


def test_another_exit_code_is_a_difference_and_its_users_are_not_run(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_commands(monkeypatch, step("write=VALUE"), step("exit=0"))
    assert compare.main(["--base", "HEAD"]) == 0
    main = repository / "src" / "hydratune" / "__main__.py"
    main.write_text(main.read_text() + "\nif 'exit=0' in words: sys.exit(3)\n")
    main.write_text(main.read_text().replace("sys.exit(int(word[5:]))", "pass"))
    assert compare.main(["--base", "HEAD"]) == 1
    text = capsys.readouterr().out
    assert "[0, 0] -> [0, 3]" in text and "not run, because one failed" in text


def test_a_tree_that_changes_during_the_run_is_no_result(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_commands(monkeypatch, step("write=VALUE"))

    def changing(*_: object) -> None:
        (repository / "src" / "hydratune" / "new.py").write_text("")

    assert compare.main(["--base", "HEAD"]) == 0
    monkeypatch.setattr(compare.Result, "store", changing)
    assert compare.main(["--base", "HEAD"]) == 2
    assert "src or conf changed while the commands ran" in capsys.readouterr().err


def test_a_base_that_fails_is_an_error(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_commands(monkeypatch, step("exit=1"))
    assert compare.main(["--base", "HEAD"]) == 2
    assert "the base itself fails at one: exit codes [1] instead of [0]" in capsys.readouterr().err
    assert worktrees(repository) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--base", "nowhere"], "--base nowhere: no such commit"),
        (["--base", "HEAD", "--only", "onee"], "--only onee: no such command; one of one, two"),
        ([], "--base COMMIT is missing"),
        (["--base", "HEAD", "--jobs", "0"], "--jobs 0: give 1 or more"),
    ],
)
def test_wrong_use_is_one_message(
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    set_commands(monkeypatch, step("write=VALUE"))
    assert compare.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_process_is_killed_as_soon_as_the_file_exists(repository: Path, tmp_path: Path) -> None:
    (killed, _) = commands(
        step("write=VALUE", "sleep=60", exit_code=-9, kill_when="run/metrics.json"), step("exit=0")
    )
    runner = Runner(repository, tmp_path / "results", {"one": "one-1"}, None)
    result = run_all(runner, [killed], 1, lambda command, result: None)["one"]
    assert result.exit_codes == (-9, 0) and result.is_complete(killed) and result.seconds < 30


def test_the_code_of_another_tree_is_refused(repository: Path, tmp_path: Path) -> None:
    shutil.rmtree(repository / "src")
    with pytest.raises(GoldenError, match="is not this tree's own"):
        Runner(repository, tmp_path, {}, None).check_tree()


def test_the_worktree_is_removed_whatever_happens(repository: Path) -> None:
    with pytest.raises(RuntimeError), worktree(repository, "HEAD") as tree:
        assert (tree / "src" / "hydratune" / "__init__.py").is_file()
        raise RuntimeError
    assert not tree.exists() and worktrees(repository) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_an_interrupt_ends_everything_and_removes_the_worktree(
    repository: Path, number: signal.Signals
) -> None:
    main = repository / "src" / "hydratune" / "__main__.py"
    main.write_text("import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\n")
    main.write_text(main.read_text() + "time.sleep(60)\n")
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.com")
    subprocess.run(["git", *identity, "commit", "-qam", "slow"], cwd=repository, check=True)
    script = repository / "tests" / "golden" / "compare.py"
    words = [sys.executable, str(script), "--base", "HEAD", "--only", "lora"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while (
            not (started := list(repository.rglob("outputs/**/pid"))) or not started[0].read_text()
        ):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        pid = int(started[0].read_text())
        process.send_signal(number)
        assert process.wait(60) == 130
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert worktrees(repository) == 1


@pytest.mark.slow  # runs the cheapest command of the real program twice
def test_the_committed_tree_is_equal_to_itself(tmp_path: Path) -> None:
    status = subprocess.run(
        ["git", "status", "--porcelain", "src", "conf"], cwd=ROOT, capture_output=True, check=False
    )
    if status.returncode or status.stdout.strip():
        pytest.skip("not a git checkout, or src or conf differ from the last commit")
    words = [sys.executable, str(SCRIPT), "--base", "HEAD", "--only", "prepare"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
