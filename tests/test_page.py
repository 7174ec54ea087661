"""The page of a comparison: one self-contained file, in which texts of runs are escaped and
interactive parts work in a browser.
"""

import base64
import gzip
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compared_runs import hits, write_run
from hydratune.comparison import page
from hydratune.comparison.collect import collect_runs
from hydratune.comparison.comparison import compare
from hydratune.comparison.entries import is_logarithmic
from hydratune.comparison.runs import Run
from page_structure import check_page

EVIL = "<script>window.broken = 1</script>"


def packed(text: str, name: str) -> str:
    match = re.search(rf'id="{name}">([^<]*)<', text)
    assert match is not None
    return gzip.decompress(base64.b64decode(match[1])).decode()


def sweep(folder: Path, count: int = 12) -> Path:
    """Write runs with learning rates 1, 2, 3 ... and increasing losses; the third run failed."""
    for n in range(count):
        run = write_run(
            folder / str(n),
            loss=0.1 + n / 100,
            lr=n + 1.0,
            rank=4 + 4 * (n % 2),
            right=hits(39 - n % 9),
            state="failed" if n == 2 else "finished",
        )
        history = "".join(
            f"{s},{s / 8},{1 / s},{1 / s if s % 4 == 0 else ''},0.1,{s},1,1\n" for s in range(1, 17)
        )
        (run / "history.csv").write_text(
            f"step,epoch,train/loss,val/loss,lr,tokens,tokens_per_second,grad_norm\n{history}"
        )
        if n != 2:
            rows = [
                json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()
            ]
            rows[0] |= {"prediction": f"{EVIL}{n}", "reference": f"{EVIL} & more"}
            (run / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def written(folder: Path) -> tuple[Path, str]:
    file = folder / "comparison" / "report.html"
    page.write(compare(collect_runs([folder])), file, f"my {EVIL} sweep")
    return file, file.read_text("utf-8")


def test_the_page_needs_nothing_else_and_shows_texts_as_text(tmp_path: Path) -> None:
    (sweep(tmp_path / "s") / "2" / "status.json").write_text(
        json.dumps({"state": "failed", "error": EVIL})
    )
    _, text = written(tmp_path / "s")
    assert EVIL not in text and "&lt;script&gt;window.broken" in text
    assert (
        not re.findall(r'(?:src|href)\s*=\s*["\']?(?:https?:)?//', text)
        and "default-src 'none'" in text
    )
    data = json.loads(packed(text, "data"))
    assert data["rows"][0]["answers"][0] == f"{EVIL}0" and len(data["runs"]) == 12
    assert packed(text, "plotly").startswith("/**\n* plotly.js")


def test_the_page_is_well_formed_and_names_model_data_and_settings(tmp_path: Path) -> None:
    for n, lr in enumerate((1e-3, 3e-3)):
        run = write_run(tmp_path / "s" / str(n), loss=0.4 - n / 10, lr=lr)
        with (run / "config.yaml").open("a") as file:
            file.write("model: {name: Tiny}\ndata: {source: contracts}\ntrainer: {max_epochs: 2}\n")
    found = check_page(written(tmp_path / "s")[1])
    (title,) = [text for tags, text in found.texts if tags[-1:] == ("h1",)]
    assert title == "Tiny on contracts, r=8, 2 epochs: lr compared"
    sections = [own["id"] for own in found.attributes("section")]
    assert [own["href"] for own in found.attributes("a") if own["href"][0] == "#"] == [
        f"#{id_}" for id_ in sections
    ]


@pytest.mark.parametrize(
    ("key", "values", "expected"),
    [
        ("optimizer.lr", [1e-3, 2e-3], True),
        ("adapter.r", [4, 16], True),
        ("optimizer.lr", [0.0, 1e-3], False),
        ("optimizer.lr", [1e-3, 1e-3], False),
        ("optimizer.weight_decay", [0.1, 0.2], False),
        ("optimizer.weight_decay", [0.001, 0.2], True),
        ("adapter.use_dora", [True, False], False),
        ("optimizer.lr", ["auto", None], False),
    ],
)
def test_learning_rates_and_ranks_have_logarithmic_axes(
    key: str, values: list[object], expected: bool
) -> None:
    runs = [Run(Path("x"), "finished", None, {key: value}, {}) for value in values]
    assert is_logarithmic(runs, key) is expected


def test_the_table_has_the_values_of_the_comparison(tmp_path: Path) -> None:
    _, text = written(sweep(tmp_path / "s"))
    data = json.loads(packed(text, "data"))
    first, failed = data["runs"][0], next(run for run in data["runs"] if run["name"] == "2")
    assert (
        first["best"]
        and first["place"] == 1
        and first["against"] == "best"
        and first["settings"] == {"optimizer.lr": 1.0, "adapter.r": 4}
    )
    assert (
        first["curve"]["val"] == [[4, 0.25], [8, 0.125], [12, 0.083333], [16, 0.0625]]
        and len(first["curve"]["train"]) == 16
    )
    assert (
        failed["place"] is None
        and failed["objective"] is None
        and failed["state"] == "failed: it broke"
    )
    assert first["links"] == {"data": "../0/data.json", "answers": "../0/predictions.jsonl"}
    assert len(data["answering"]) == 11 and data["omitted_rows"] == 0


@pytest.mark.slow
def test_two_hundred_runs_stay_below_three_megabytes(tmp_path: Path) -> None:
    file, text = written(sweep(tmp_path / "s", 200))
    assert file.stat().st_size < 3_000_000 and text.count("<tr data-run=") == 200
    assert len(json.loads(packed(text, "data"))["answering"]) == 12


def test_runs_of_different_data_have_no_rank(tmp_path: Path) -> None:
    write_run(tmp_path / "s" / "a", rows="these", loss=0.4, lr=1.0)
    write_run(tmp_path / "s" / "b", rows="those", loss=0.3, lr=2.0)
    _, text = written(tmp_path / "s")
    assert "not ranked" in text and "no best run" in text
    assert all(
        run["place"] is None and not run["best"] for run in json.loads(packed(text, "data"))["runs"]
    )


def test_a_single_unfinished_run_makes_a_page(tmp_path: Path) -> None:
    write_run(tmp_path / "s" / "0", state="running")
    _, text = written(tmp_path / "s")
    assert json.loads(packed(text, "data"))["runs"][0]["state"].startswith("running")


# ------------------------------------------------------------------------------------- in a browser
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        options = [
            "--no-sandbox",
            "--use-gl=angle",
            "--use-angle=swiftshader",
            "--enable-unsafe-swiftshader",
        ]
        launched = driver.chromium.launch(executable_path=chromium, args=options)
        yield launched
        launched.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Any]:
    file, _ = written(sweep(tmp_path / "s"))
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    tab = context.new_page()
    wrong: list[str] = []
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on(
        "console", lambda message: wrong.append(message.text) if message.type == "error" else None
    )
    tab.goto(f"file://{file}")
    tab.wait_for_function("document.documentElement.dataset.ready", timeout=60_000)
    yield tab
    assert not wrong and tab.evaluate("window.broken") is None
    context.close()


def names(tab: Any) -> list[str]:
    return [
        row.split("\t")[1]
        for row in tab.eval_on_selector_all(
            "#runs tbody tr:not([hidden])", "rows => rows.map(r => r.innerText)"
        )
    ]


def test_sorting_and_filtering(opened: Any) -> None:
    assert names(opened)[0] == "0" and names(opened)[-1] == "2"  # the failed one
    heading = opened.locator("#runs th", has_text="validation loss")
    heading.click()
    assert names(opened)[:2] == ["0", "1"]
    heading.click()
    # runs without a value stay last
    assert names(opened)[:2] == ["11", "10"] and names(opened)[-1] == "2"
    opened.fill("#filter", "r=8 finished")
    assert (
        sorted(names(opened), key=int) == ["1", "3", "5", "7", "9", "11"]
        and opened.inner_text("#count") == "6 of 12 runs"
    )


def test_brushing_an_axis_shows_its_runs_only(opened: Any) -> None:
    opened.locator("#parallel").scroll_into_view_if_needed()
    opened.wait_for_selector("#parallel-plot .parcoords .y-axis")
    axis = opened.locator("#parallel-plot .y-axis").first.locator(".axis-brush").bounding_box()
    x, top, height = axis["x"] + axis["width"] / 2, axis["y"], axis["height"]
    opened.mouse.move(x, top + height * 0.99)
    opened.mouse.down()
    opened.mouse.move(x, top + height * 0.75, steps=8)
    opened.mouse.up()
    opened.wait_for_function(
        "document.getElementById('count').textContent !== '12 of 12 runs'", timeout=10_000
    )
    shown = names(opened)
    assert shown and set(shown) < {str(n) for n in range(12)} and "2" not in shown
    opened.click("#unbrush")
    opened.wait_for_function(
        "document.getElementById('count').textContent === '12 of 12 runs'", timeout=10_000
    )


def test_every_picture_is_drawn_when_it_comes_into_view(opened: Any) -> None:
    for section, plot in (
        ("effects", "setting-plot"),
        ("curves", "curve-plot"),
        ("scatter", "front-plot"),
    ):
        opened.locator(f"#{section}").scroll_into_view_if_needed()
        opened.wait_for_selector(f"#{plot} .scatterlayer .trace", state="attached")
    assert len(opened.query_selector_all("#curve-plot .scatterlayer .trace")) == 12


def test_the_legend_names_every_curve_in_its_colour(opened: Any) -> None:
    opened.locator("#curves").scroll_into_view_if_needed()
    opened.wait_for_selector("#curve-plot .scatterlayer .trace", state="attached")
    drawn = opened.evaluate(
        "document.getElementById('curve-plot').data.map(t => [t.name, t.line.color])"
    )
    legend = opened.evaluate(
        "[...document.querySelectorAll('#curve-legend > span')].map("
        "e => [e.textContent, getComputedStyle(e.firstChild).borderTopColor])"
    )
    assert len(legend) == 12 and legend == drawn[::-1]  # the best is drawn last, on top
    assert legend[0][0] == "#1 lr=1, r=4"
    opened.fill("#filter", "r=8 finished")
    opened.wait_for_function("document.querySelectorAll('#curve-legend > span').length === 6")


def test_a_learning_rate_has_a_logarithmic_axis_and_a_rank_its_own_ticks(opened: Any) -> None:
    opened.locator("#effects").scroll_into_view_if_needed()
    opened.wait_for_selector("#setting-plot .scatterlayer .trace", state="attached")
    axes = {}
    for key in ("optimizer.lr", "adapter.r"):
        opened.select_option("#setting-x", key)
        axis = "document.getElementById('setting-plot').layout.xaxis"
        axes[key] = opened.evaluate(f"[{axis}.type, [...{axis}.ticktext]]")
    assert axes["optimizer.lr"][0] == "log" and len(axes["optimizer.lr"][1]) > 2
    assert axes["adapter.r"] == ["log", ["4", "8"]]
    labels = opened.eval_on_selector_all(
        "#setting-plot .xtick text", "texts => texts.map(t => t.textContent)"
    )
    assert labels == ["4", "8"]


def test_the_table_is_sorted_by_keyboard(opened: Any) -> None:
    opened.focus("#runs th:nth-child(3) button")
    opened.keyboard.press("Enter")
    opened.keyboard.press("Enter")
    assert names(opened)[0] == "11"
    assert opened.get_attribute("#runs th:nth-child(3)", "aria-sort") == "descending"


@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_is_wider_than_the_window(opened: Any, width: int) -> None:
    opened.set_viewport_size({"width": width, "height": 800})
    for section in ("effects", "parallel", "curves", "scatter", "answers"):
        opened.locator(f"#{section}").scroll_into_view_if_needed()
    assert opened.evaluate("document.documentElement.scrollWidth") <= width


def test_two_runs_and_their_answers(opened: Any) -> None:
    assert opened.inner_text("#diff-table tbody tr:first-child").split("\t") == [
        "optimizer.lr",
        "1",
        "2",
    ]
    assert (
        EVIL in opened.inner_text("#answer-view")
        and opened.query_selector("#answer-view script") is None
    )
    opened.check("#answer-differ")
    # the first, and 36 to 38: runs 0, 1 and 3 are shown
    assert opened.inner_text("#answer-note").startswith("4 of 40 rows")
    opened.click("#answer-next")
    assert "37: 36" in opened.eval_on_selector(
        "#answer-row", "s => s.selectedOptions[0].textContent"
    )
