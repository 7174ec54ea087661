"""The golden comparison finds every difference, hides only what a rule names, and cleans up."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
import yaml
from safetensors.torch import save_file

from golden import compare, execution
from golden.commands import COMMANDS, Command, Step
from golden.execution import GoldenError, Runner, key_of, run_all, worktree
from golden.normalise import IGNORED_FILES, LEFT_OUT, RULES, numbers, rule_for
from golden.outcome import MOST_PER_FILE, Difference, Place, compare_folders, equal, most_per_file

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tests" / "golden" / "compare.py"
METRICS = {
    "eval/nll": 6.9,
    "cost/tokens": 12,
    "cost/cpu_seconds": 1.5,
    "seconds": {"training": 0.3},
    "course": {"advice": "settled: the lowest loss came at epoch 0.25"},
    "settings": {"eval": {"decoding": "greedy", "nll": "mean per token"}},
}
HISTORY = "step,train/loss,tokens_per_second\n1,6.9,100.5\n2,6.8,99.0\n"


def one_bit(value: float) -> float:
    """Return the next larger number."""
    return float(
        torch.nextafter(torch.tensor(value, dtype=torch.float64), torch.tensor(1e9)).item()
    )


def write_run(folder: Path, *, weight: float = 0.5, moment: float = 0.25) -> Path:
    """Write a folder with a file of every kind that is compared."""
    run = folder / "run"
    run.mkdir(parents=True)
    (run / "history.csv").write_text(HISTORY)
    (run / "metrics.json").write_text(json.dumps(METRICS))
    (run / "config.yaml").write_text(yaml.safe_dump({"optimizer": {"lr": 0.001}}))
    (run / "predictions.jsonl").write_text(json.dumps({"id": "a", "prediction": "yes"}) + "\n")
    (run / "status.json").write_text(json.dumps({"state": "finished", "started": "now"}))
    (run / "environment.json").write_text(json.dumps({"source": f"{folder}/cache", "code": "1"}))
    (run / "report.html").write_text("words")
    (run / "ranking.md").write_text("| place | loss |\n| 1 | 6.9 |\n")
    pyarrow.parquet.write_table(pyarrow.table({"x": [1.0, 2.0]}), run / "runs.parquet")
    save_file({"lora_A": torch.tensor([1.0, weight])}, run / "adapter.safetensors")
    state = {"state": {0: {"exp_avg": torch.tensor([moment])}}}
    checkpoint = {"state_dict": {"w": torch.tensor([weight])}, "optimizer_states": [state]}
    torch.save({**checkpoint, "cpu_seconds": time.time()}, run / "best.ckpt")
    return folder


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two equal outcomes."""
    return write_run(tmp_path / "base"), write_run(tmp_path / "new")


def differences(pair: tuple[Path, Path], *without: str) -> list[Difference]:
    base, new = (Place(folder, [(str(folder), "<results>")]) for folder in pair)
    return compare_folders(base, new, ("run",), without)


def test_equal_outcomes_have_no_differences(pair: tuple[Path, Path]) -> None:
    assert differences(pair) == []


def edited(file: str, before: str, after: str) -> Callable[[Path], None]:
    """Return a change of a text file."""

    def change(run: Path) -> None:
        text = (run / file).read_text()
        assert before in text
        (run / file).write_text(text.replace(before, after))

    return change


def written(file: str, value: float) -> Callable[[Path], None]:
    """Return a change of the one number in a Parquet file."""
    table = pyarrow.table({"x": [1.0, value]})
    return lambda run: pyarrow.parquet.write_table(table, run / file)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (edited("history.csv", "6.8", "6.80000001"), "row 2 > train/loss: '6.8' -> '6.80000001'"),
        (edited("metrics.json", "6.9", repr(one_bit(6.9))), "eval/nll: 6.9 -> 6.90000000000000"),
        (edited("metrics.json", "6.9", "NaN"), "eval/nll: 6.9 -> nan"),
        (edited("metrics.json", "12", "12.0"), "cost/tokens: 12 -> 12.0"),
        (
            edited("metrics.json", "greedy", "beam"),
            "settings > eval > decoding: 'greedy' -> 'beam'",
        ),
        (edited("metrics.json", "epoch 0.25", "epoch 0.5"), "course > advice: '0.25' -> '0.5'"),
        (edited("config.yaml", "0.001", "0.002"), "optimizer > lr: 0.001 -> 0.002"),
        (edited("predictions.jsonl", "yes", "no"), "row 1 > prediction: 'yes' -> 'no'"),
        (edited("status.json", "finished", "failed"), "state: 'finished' -> 'failed'"),
        (edited("ranking.md", "| 1 |", "| 2 |"), "line 2: '1 6.9' -> '2 6.9'"),
        (written("runs.parquet", one_bit(2.0)), "row 2 > x: 2.0 -> 2.0000000000000004"),
    ],
)
def test_a_changed_value_is_one_line(
    pair: tuple[Path, Path], change: Callable[[Path], None], line: str
) -> None:
    change(pair[1] / "run")
    (found,) = differences(pair)
    assert line in found.line("lora") and found.line("lora").startswith("lora: run/")


@pytest.mark.parametrize(("name", "file"), [("weight", 2), ("moment", 1)])
def test_one_bit_of_a_tensor_is_found(tmp_path: Path, name: str, file: int) -> None:
    before = {"weight": 0.5, "moment": 0.25}[name]
    after = torch.nextafter(torch.tensor(before), torch.tensor(1.0)).item()
    pair = write_run(tmp_path / "base"), write_run(tmp_path / "new", **{name: after})
    found = differences(pair)
    assert len(found) == file  # weights are in the adapter and in the checkpoint
    assert all("1 of" in one.key and one.base == repr(before) for one in found)


@pytest.mark.parametrize(
    "change",
    [
        edited("history.csv", "100.5", "7.5"),
        edited("metrics.json", "1.5", "2.5"),
        edited("metrics.json", '"training": 0.3', '"learning": 9.0'),
        edited("metrics.json", "settled: the lowest", "It has converged: the lowest"),
        edited("metrics.json", "mean per token", "average per token"),
        edited("status.json", "now", "later"),
        edited("environment.json", '"1"', '"2"'),
        edited("report.html", "words", "other words"),
        edited("ranking.md", "place", "rank"),
    ],
)
def test_times_and_wording_are_no_differences(
    pair: tuple[Path, Path], change: Callable[[Path], None]
) -> None:
    change(pair[1] / "run")
    assert differences(pair) == []


@pytest.mark.parametrize("file", ["history.csv", "report.html"])
@pytest.mark.parametrize("side", [0, 1])
def test_a_missing_and_an_additional_file_are_differences(
    pair: tuple[Path, Path], file: str, side: int
) -> None:
    (pair[side] / "run" / file).unlink()
    (found,) = differences(pair)
    shown = ("missing", "exists") if side == 0 else ("exists", "missing")
    assert (found.file, found.base, found.new) == (f"run/{file}", *shown)
    assert differences(pair, "run") == []


def test_a_file_that_cannot_be_read_is_a_difference(pair: tuple[Path, Path]) -> None:
    for folder in pair:
        (folder / "run" / "metrics.json").write_text("{")
    (found,) = differences(pair)
    assert found.key == "cannot be read"


@pytest.mark.parametrize(
    ("base", "new", "same"),
    [
        (float("nan"), float("nan"), True),
        (0.0, -0.0, False),
        (1, 1.0, False),
        (1, True, False),
        (torch.tensor([float("nan")]), torch.tensor([float("nan")]), True),
        (torch.tensor([0.0]), torch.tensor([-0.0]), False),
        (torch.tensor([1.0]), torch.tensor([1.0], dtype=torch.float64), False),
        (torch.tensor([1.0]), torch.tensor([[1.0]]), False),
        (torch.zeros(0), torch.zeros(0), True),
        (torch.tensor(1.0, dtype=torch.bfloat16), torch.tensor(1.0, dtype=torch.bfloat16), True),
    ],
)
def test_equality_is_of_type_and_bits(base: object, new: object, same: bool) -> None:
    assert equal(base, new) is same


def test_at_most_twenty_differences_of_a_file_are_shown() -> None:
    found = [Difference("a.csv", f"row {n}", "1", "2") for n in range(MOST_PER_FILE + 5)]
    lines = most_per_file([*found, Difference("b.csv", "row 1", "1", "2")], "lora")
    assert len(lines) == MOST_PER_FILE + 2
    assert lines[-2:] == ["lora: a.csv: 5 more differences", "lora: b.csv, row 1: 1 -> 2"]


def test_numbers_keep_signs_and_exponents_and_no_names() -> None:
    assert numbers("F1 of -0.5 [1e-3, 2]: 20 of rank_8") == "-0.5 1e-3 2 20"


def test_every_rule_has_a_reason_and_hides_no_result() -> None:
    assert all(rule.reason for rule in RULES) and all(
        file.reason for file in (*IGNORED_FILES, *LEFT_OUT)
    )
    for file, key in (
        ("run/metrics.json", "eval/nll"),
        ("run/metrics.json", "cost/tokens"),
        ("run/metrics.json", "intervals > eval/nll > 0"),
        ("run/history.csv", "row 1 > train/loss"),
        ("run/checkpoints/best.ckpt", "state_dict > w"),
        ("run/checkpoints/best.ckpt", "optimizer_states > 0 > state > 0 > exp_avg"),
        ("sweep/0/status.json", "halved > step"),
        ("sweep/study.log", "row 5 > param_value_internal"),
        ("by_loss/runs.csv", "row 1 > place"),
        ("cleaned/report.json", "checks > pii_email > count"),
    ):
        assert rule_for(file, key) is None, key


# ---------------------------------------------------------------------------------- commands
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


# ------------------------------------------------------------------- execution, with a fake tree
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
    # of another length, since bytecode is found stale by time in seconds and length
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
    asked = subprocess.run(
        ["git", "status", "--porcelain", "src", "conf"], cwd=ROOT, capture_output=True, check=False
    )
    if asked.returncode or asked.stdout.strip():
        pytest.skip("not a git checkout, or src or conf differ from the last commit")
    words = [sys.executable, str(SCRIPT), "--base", "HEAD", "--only", "prepare"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
