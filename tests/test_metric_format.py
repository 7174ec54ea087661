"""How metrics are written: rates in per cent, the same on terminals and pages."""

import csv
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from compared_runs import hits, write_run
from hydratune import metric_format

Command = Callable[..., tuple[int, str]]


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("eval/field_f1", 0.83714, "83.7"),
        ("base_clean/field_f1/law", 0.5, "50.0"),
        ("eval/exact_match", 0.0, "0.0"),
        ("eval/perplexity", 1045.34, "1,045"),
        ("eval/perplexity", 1.0557, "1.056"),
        ("eval/nll", 0.05592, "0.0559"),
        ("eval/my_own", 12.3456, "12.35"),
        ("eval/cut", 12345.0, "12,345"),
        ("objective", 0.041234, "0.0412"),
        ("val/loss", 6.89721, "6.8972"),
        ("val/loss", 1.2e-5, "1.2e-05"),
        ("val/loss", 0.0, "0.0000"),
        ("val/loss", float("nan"), "nan"),
        ("cost/cpu_seconds", 1234.5, "1,234"),
        ("cost/cpu_seconds", 0.671, "0.67"),
        ("cost/peak_memory_bytes", 3 * 2**30, "3.00"),
        ("forgetting/instructions", 0.25, "25.0"),
        ("eval/field_f1", None, "-"),
    ],
)
def test_values(key: str, value: float | None, text: str) -> None:
    assert metric_format.written(key, value) == text


def test_intervals_have_the_decimals_of_their_value() -> None:
    assert metric_format.with_interval("eval/nll", 6.951, [6.9, 10.0]) == "6.951 [6.900, 10.000]"
    assert (
        metric_format.with_interval("eval/perplexity", 999.22, [993.066, 1004.989])
        == "999.2 [993.1, 1005.0]"
    )
    assert metric_format.with_interval("eval/bleu", 0.5, [0.25, 1.0]) == "50.0 [25.0, 100.0]"


def test_differences_of_rates_are_points() -> None:
    assert metric_format.difference_with_unit("eval/field_f1", 0.0204) == "+2.0 points"
    assert metric_format.difference_with_unit("val/loss", -0.0123456) == "-0.0123"
    assert metric_format.mean_and_spread("eval/field_f1", [0.5, 0.6]) == "55.0 ± 7.1"
    assert metric_format.mean_and_spread("val/loss", [0.45]) == "0.4500"


def test_a_rate_is_the_same_number_on_the_terminal_the_page_and_in_tables(
    hydratune: Command, tmp_path: Path
) -> None:
    """CSV and Parquet are for programs and hold the share that was measured."""
    for n, right in enumerate((30, 37)):
        write_run(
            tmp_path / "s" / str(n),
            right=hits(right),
            lr=n + 1.0,
            loss=0.1 + n,
            intervals={"eval/exact_match": [0.598, 0.858]},
        )
    code, text = hydratune("compare", "s", "export=csv,markdown,latex")
    folder = tmp_path / "s" / "comparison"
    assert code == 0, text
    page = re.findall(r'<table id="runs">.*?</table>', (folder / "report.html").read_text(), re.S)
    table = re.sub(r'</?small>| data-value="[^"]*"', "", page[0])
    for shown, heading in (
        (text, "exact match (%)"),
        (table, "exact match (%)"),
        ((folder / "ranking.md").read_text(), "exact match (%)"),
        ((folder / "ranking.tex").read_text(), r"exact match (\%)"),
    ):
        words = " ".join(shown.split())
        assert heading in words and "75.0 [59.8, 85.8]" in words and "92.5 [59.8, 85.8]" in words
        assert "0.75" not in words and "0.925" not in words
    with (folder / "runs.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["eval/exact_match"] for row in rows] == ["0.75", "0.925"]
    assert rows[0]["eval/exact_match/low"] == "0.598"
