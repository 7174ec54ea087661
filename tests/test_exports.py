"""Tables and pictures that hydratune compare writes for other programs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from compared_runs import hits, write_run

Command = Callable[..., tuple[int, str]]


def some_runs(folder: Path) -> Path:
    for n, (lr, seed) in enumerate([(1.0, 1), (1.0, 2), (2.0, 1), (2.0, 2)]):
        run = write_run(
            folder / str(n),
            loss=0.4 + n / 10,
            lr=lr,
            seed=seed,
            right=hits(38 - n),
            **{"cost/cpu_seconds": 9.0 - n},
        )
        (run / "history.csv").write_text(
            "step,epoch,train/loss,val/loss\n1,1,1.0,\n2,2,0.9,0.8\n4,4,0.5,0.4\n"
        )
    write_run(folder / "4", state="failed", lr=3.0, seed=1)
    return folder


def test_tables_for_other_programs(hydratune: Command, tmp_path: Path) -> None:
    import csv

    import pyarrow.parquet

    some_runs(tmp_path / "a_sweep")
    code, text = hydratune("compare", "a_sweep", "export=csv,parquet,markdown,latex", "html=false")
    assert code == 0 and "export      a_sweep/comparison/runs.csv" in text, text
    folder = tmp_path / "a_sweep" / "comparison"
    assert sorted(file.name for file in folder.iterdir()) == [
        "ranking.md",
        "ranking.tex",
        "runs.csv",
        "runs.parquet",
    ]
    with (folder / "runs.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [
        (row["run"].rsplit("/", 1)[-1], row["place"], row["setting/optimizer.lr"])
        for row in rows[:2]
    ] == [
        ("0", "1", "1.0"),
        ("1", "1", "1.0"),
    ]
    assert (
        rows[-1]["place"] == ""
        and rows[-1]["state"] == "failed: it broke"
        and float(rows[0]["val/loss"]) == 0.4
    )
    parquet = pyarrow.parquet.read_table(folder / "runs.parquet").to_pylist()
    assert [row["eval/exact_match"] for row in parquet] == [0.95, 0.925, 0.9, 0.875, None]
    lines = (folder / "ranking.md").read_text().splitlines()
    assert (
        lines[2].startswith("| 1 | 0, 1 | 1 | 2 | 0.4500 ± 0.071 | 93.8 ± 1.8 |")
        and len(lines) == 5
    )
    tex = (folder / "ranking.tex").read_text()
    assert r"0.4500 $\pm$ 0.071" in tex and tex.count(r"\\") == 4 and r"\toprule" in tex


def test_pictures_for_papers(hydratune: Command, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    some_runs(tmp_path / "s")
    code, text = hydratune("compare", "s", "export=png,svg", "output=pictures", "html=false")
    assert code == 0, text
    pictures = {file.name: file.read_bytes() for file in (tmp_path / "pictures").iterdir()}
    assert set(pictures) == {
        f"{name}.{kind}" for name in ("curves", "settings", "tradeoff") for kind in ("png", "svg")
    }
    assert all(
        pictures[f"{name}.png"].startswith(b"\x89PNG")
        for name in ("curves", "settings", "tradeoff")
    )
    assert b"optimizer.lr" in pictures["settings.svg"] or b"<svg" in pictures["settings.svg"]


def test_an_unknown_export_is_refused_before_anything_is_written(
    hydratune: Command, tmp_path: Path
) -> None:
    some_runs(tmp_path / "s")
    code, text = hydratune("compare", "s", "export=xlsx")
    assert (
        code == 2
        and "csv, parquet, markdown, latex, png, svg, or all" in text
        and not (tmp_path / "s" / "comparison").exists()
    )
