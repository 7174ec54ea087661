"""Labels of axes: round numbers, of which no two are equal."""

import re
from pathlib import Path

import pytest

from hydratune.data.report_charts import histograms
from hydratune.pages.charts import curves
from hydratune.pages.filled import TEMPLATES


def labels(svg: str, anchor: str) -> list[str]:
    """Return the texts of an axis: "end" for the vertical one, "middle" for the horizontal one."""
    found = re.findall(rf'<text x="[^"]*" y="[^"]*" text-anchor="{anchor}">([^<]*)</text>', svg)
    return [text for text in found if text != "optimizer step"]


@pytest.mark.parametrize(
    "points",
    [
        [(1, 6.91), (4, 6.8957)],
        [(1, 0.5)],
        [(3, 0.5), (4, 0.5)],
        [(2, 6.90001), (5, 6.90002)],
        [(1, 2.3), (1234, 0.01)],
        [(1, -0.2), (7, 0.3)],
        [(1, 1e-8), (2, 3e-8)],
        [(10, 900.0), (20, 1000.0)],
        [(n, 1 / n) for n in range(1, 101)],
    ],
)
def test_labels_of_learning_curves_are_distinct_numbers_in_order(
    points: list[tuple[float, float]],
) -> None:
    svg = str(curves([("validation loss", "val", points)], None, "optimizer step"))
    for anchor in ("end", "middle"):
        texts = labels(svg, anchor)
        numbers = [float(text.replace(",", "")) for text in texts]
        assert texts and len(set(texts)) == len(texts) and sorted(set(numbers)) == sorted(numbers)
    assert all("." not in text for text in labels(svg, "middle"))  # steps are whole


def test_close_losses_fill_the_height_of_the_chart() -> None:
    svg = str(curves([("loss", "val", [(1, 6.91), (4, 6.8957)])], None, "optimizer step"))
    assert labels(svg, "end")[0] == "6.895"
    heights = [float(y) for y in re.findall(r'<circle class="val" cx="[^"]*" cy="([^"]*)"', svg)]
    assert max(heights) - min(heights) > 150


@pytest.mark.parametrize("longest", [1, 2, 7, 40, 300, 70_000])
def test_labels_of_histograms_are_distinct(longest: int) -> None:
    edges = [longest * n / 10 for n in range(11)]
    split = {"histogram": [1, 3, 9, 8, 4, 2, 1, 1, 1, 2]}
    tokens = {
        "edges": edges,
        "max_length": 1024,
        "context_window": 2048,
        "splits": {"train": split},
    }
    (histogram,) = histograms(tokens)
    values = [value for _, value in histogram.ticks]
    assert values == sorted(set(values)) and values[0] == 0


def test_the_script_of_a_comparison_has_distinct_labels(tmp_path: Path) -> None:
    """Runs the functions of comparison.js that choose the labels and the kind of axes."""
    import shutil
    import subprocess

    node = shutil.which("node")
    if node is None:
        pytest.skip("no node on this machine")
    script = (TEMPLATES / "comparison.js").read_text("utf-8")
    start = script.index("function distinctTexts")
    functions = script[start : script.index("\n\nfunction plotLayout")]
    test = """
    const data = { logarithmic: ["lr", "r"] }, metricOf = () => undefined;
    const lr = settingAxis("lr", [3e-4, 1e-3, 3e-3, 1e-3]);
    if (lr.type !== "log" || lr.ticktext.join() !== "0.0003,0.001,0.003") throw new Error("lr");
    const rank = settingAxis("r", [16, 4, 64]);
    if (rank.type !== "log" || rank.tickvals.join() !== "4,16,64") throw new Error("rank");
    const seeds = settingAxis("seed", [1, 2]);
    if (seeds.type !== "linear" || seeds.tickvals.join() !== "1,2") throw new Error(seeds.type);
    if (settingAxis("lr", [1e-3]).type !== "linear") throw new Error("one value has no factors");
    const many = settingAxis("lr", Array.from({ length: 20 }, (_, i) => 1e-5 * 1.5 ** i));
    if (many.tickvals.length < 4 || many.tickvals.length > 8) throw new Error(many.tickvals);
    for (const [low, high] of [[6.8957, 6.8972], [0, 1], [75, 92.5], [1e-9, 3e-9], [-3, 70000]]) {
      const ticks = roundTicks(low, high), texts = distinctTexts(ticks);
      if (ticks.length < 2 || ticks.length > 8) throw new Error(`${low} to ${high}: ${ticks}`);
      if (new Set(texts).size !== texts.length) throw new Error(texts.join());
      if (ticks.some(tick => tick < low - 1e-12 || tick > high + 1e-12)) throw new Error(ticks);
    }
    if (distinctTexts([0.001, 0.01]).join() !== "0.001,0.01") throw new Error("too many digits");
    if (distinctTexts([0.123456, 0.123457]).join() !== "0.123456,0.123457") throw new Error("few");
    """
    file = tmp_path / "labels.js"
    file.write_text(functions + test)
    done = subprocess.run([node, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
