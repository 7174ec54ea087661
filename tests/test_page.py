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
