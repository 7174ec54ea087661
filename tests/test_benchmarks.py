"""The benchmark compares equal work, and its lower bound counts that work correctly."""

import sys
from pathlib import Path

import pytest

# the scripts find each other by this path as well
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import parts
import workloads
from floor import linear_weights, work
from fresh import Meter
from systems import SYSTEMS
from training import difference, summary, tables

ROOT = Path(__file__).parents[1]
TINY = ["model=tiny", "data.batch_size=2", "trainer.accumulate_grad_batches=2"]


@pytest.fixture(scope="module")
def rows(cache: Path) -> workloads.Rows:
    return workloads.take("s", None, 1.0, TINY, count=7)


def losses(system: str, rows: workloads.Rows, part: str | None = None) -> tuple[list[float], str]:
    meter = Meter()
    SYSTEMS[system](workloads.settings(rows.overrides), rows, meter, None, part)
    return meter.losses, meter.adapter


def test_hydratune_and_the_plain_loop_train_the_same_rows_from_the_same_adapter(
    rows: workloads.Rows,
) -> None:
    ours, begun = losses("ours", rows)
    plain, begun_by_plain = losses("plain", rows)
    assert len(ours) == len(rows.steps) == 2 and begun == begun_by_plain
    assert difference(ours, plain) < 1e-5


@pytest.mark.parametrize("part", parts.PARTS)
def test_every_part_can_be_left_out_and_changes_no_loss(part: str, rows: workloads.Rows) -> None:
    assert difference(losses("ours", rows, part)[0], losses("plain", rows)[0]) < 1e-5


def test_rows_are_equal_after_writing_and_reading(rows: workloads.Rows, tmp_path: Path) -> None:
    rows.write(tmp_path / "rows.json")
    assert workloads.Rows.read(tmp_path / "rows.json") == rows


def test_schema_in_the_prompt_lengthens_every_row_by_the_same_tokens(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = workloads.take("s", None, 1.0, ["model=tiny"], count=4)
    monkeypatch.setitem(
        workloads.WORKLOADS, "s", workloads.Workload("", "contracts", None, 64, 4096, schema=True)
    )
    with_schema = workloads.take("s", None, 1.0, ["model=tiny"], count=4)
    more = {len(b) - len(a) for a, b in zip(without.ids, with_schema.ids, strict=True)}
    assert len(more) == 1 and more.pop() > 50 and without.supervised == with_schema.supervised


def test_floor_counts_every_distinct_beginning_once(rows: workloads.Rows) -> None:
    linears = {"frozen": 1000, "adapter": 100, "head": 10, "attention": 1}
    seen = [
        {
            tuple(rows.ids[i][: n + 1])
            for micro in step
            for i in micro
            for n in range(len(rows.ids[i]) - 1)
        }
        for step in rows.steps
    ]
    tokens, pairs = sum(map(len, seen)), sum(len(prefix) for step in seen for prefix in step)
    shared = work(rows, linears, shared=True)
    assert shared == {"tokens": tokens, "flops": 4600 * tokens + 40 * rows.supervised + 12 * pairs}
    separate = work(rows, linears, shared=False)
    assert separate["tokens"] == sum(len(ids) - 1 for ids in rows.ids) > tokens


def test_floor_takes_the_weights_from_the_model() -> None:
    linears = linear_weights(workloads.settings(["model=tiny", "adapter.r=4"]), None)
    attention, mlp = (64, 32, 32, 64), ((64, 128), (64, 128), (128, 64))
    assert linears["frozen"] == 2 * (
        sum(64 * width for width in attention) + sum(a * b for a, b in mlp)
    )
    assert linears["adapter"] == 2 * 4 * (
        sum(64 + width for width in attention) + sum(a + b for a, b in mlp)
    )
    assert linears["attention"] == 2 * 64


def test_padding_is_never_a_target(rows: workloads.Rows) -> None:
    ids, mask, labels = workloads.padded(rows, [0, 1, 2])
    assert ids.shape == mask.shape == labels.shape and (labels[mask == 0] == -100).all()
    assert (labels != -100).sum() == sum(sum(rows.loss_mask[i]) for i in (0, 1, 2))


def entry(adapters: tuple[str, str]) -> dict[str, object]:
    run = {
        "cpu_seconds": 4.0,
        "wall_seconds": 2.0,
        "peak_memory": 2**30,
        "losses": [1.0, 2.0],
        "others": 0.0,
    }
    floor = {
        "apart": {"flops": 2e9, "tokens": 9},
        "shared": {"flops": 1e9, "tokens": 5},
        "flops_per_cpu_second": 1e9,
    }
    runs = {
        "ours": [{**run, "adapter": adapters[0]}],
        "trl": [{**run, "cpu_seconds": 8.0, "adapter": adapters[1]}, None],
    }
    return {
        "title": "rows",
        "rows": 2,
        "tokens": 10,
        "supervised": 3,
        "floors": [floor],
        "runs": runs,
    }


def test_tables_compare_with_the_faster_other_system() -> None:
    text = tables({"workloads": {"s": entry(("x", "x"))}})
    assert (
        "| TRL | 8.0 | 2.00 | 2.0 | 5 | 1.00 | 0.0e+00 | 4.00 | 8.00 |" in text
        and "| 0.500 | 1.000 | 1.000 |" in text
    )


def test_systems_that_began_with_different_adapters_are_not_compared() -> None:
    with pytest.raises(AssertionError, match="different adapters"):
        summary(entry(("x", "y")))


def test_a_workload_without_its_data_says_why(tmp_path: Path) -> None:
    assert workloads.missing("s", None) is None
    assert workloads.DATA in str(workloads.missing("a", None))
    assert "snips does not exist" in str(workloads.missing("b", str(tmp_path)))


def test_the_wheels_that_are_collected_have_a_version() -> None:
    script = (ROOT / "benchmarks" / "gpu_wheels.sh").read_text()
    (names,) = [
        line.split(" in ")[1].split(";")[0].split()
        for line in script.splitlines()
        if line.startswith("for name in")
    ]
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert {*names, "antlr4-python3-runtime"} <= pinned and "peft" in names
