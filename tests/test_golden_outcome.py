"""The golden comparison finds every difference between two outcomes, and hides only what a rule
names.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
import yaml
from safetensors.torch import save_file

from golden.normalise import IGNORED_FILES, LEFT_OUT, RULES, numbers, rule_for
from golden.outcome import MOST_PER_FILE, Difference, Place, compare_folders, equal, most_per_file

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
    (difference,) = differences(pair)
    assert line in difference.line("lora") and difference.line("lora").startswith("lora: run/")


@pytest.mark.parametrize(("name", "file"), [("weight", 2), ("moment", 1)])
def test_one_bit_of_a_tensor_is_a_difference(tmp_path: Path, name: str, file: int) -> None:
    before = {"weight": 0.5, "moment": 0.25}[name]
    after = torch.nextafter(torch.tensor(before), torch.tensor(1.0)).item()
    pair = write_run(tmp_path / "base"), write_run(tmp_path / "new", **{name: after})
    lines = differences(pair)
    assert len(lines) == file  # weights are in the adapter and in the checkpoint
    assert all("1 of" in line.key and line.base == repr(before) for line in lines)


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
    (difference,) = differences(pair)
    shown = ("missing", "exists") if side == 0 else ("exists", "missing")
    assert (difference.file, difference.base, difference.new) == (f"run/{file}", *shown)
    assert differences(pair, "run") == []


def test_a_file_that_cannot_be_read_is_a_difference(pair: tuple[Path, Path]) -> None:
    for folder in pair:
        (folder / "run" / "metrics.json").write_text("{")
    (difference,) = differences(pair)
    assert difference.key == "cannot be read"


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
    many = [Difference("a.csv", f"row {n}", "1", "2") for n in range(MOST_PER_FILE + 5)]
    lines = most_per_file([*many, Difference("b.csv", "row 1", "1", "2")], "lora")
    assert len(lines) == MOST_PER_FILE + 2
    assert lines[-2:] == ["lora: a.csv: 5 more differences", "lora: b.csv, row 1: 1 -> 2"]


def test_numbers_keep_signs_and_exponents_and_no_names() -> None:
    assert numbers("F1 of -0.5 [1e-3, 2]: 20 of rank_8") == "-0.5 1e-3 2 20"
    assert numbers("torch 2.13; commit `0001390`.") == numbers("torch 2.13; commit `6e0a179`.")


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
