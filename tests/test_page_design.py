"""What all pages have in common: one style sheet, readable colours, a structure for everyone."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import SMALL, edited
from hydratune.evaluation import run_report
from hydratune.evaluation.answer_differences import compare_answers, differing
from hydratune.evaluation.run_links import links
from hydratune.pages.charts import curves
from hydratune.pages.filled import TEMPLATES, fill
from hydratune.records.run_directory import RunDirectory
from page_structure import Structure, check_page

STYLE = (TEMPLATES / "style.css").read_text("utf-8")
COMPARISON_STYLE = (TEMPLATES / "comparison.css").read_text("utf-8")


@pytest.fixture
def run(trained_once: Callable[..., Path], tmp_path: Path) -> Path:
    """A finished run with the answers of the base model."""
    words = [word for word in SMALL if "baselines" not in word]
    run = trained_once(*words, "evaluation.baselines=[base]")
    return Path(shutil.copytree(run, tmp_path / "sweep" / "0"))


def page_of(run: Path) -> str:
    return run_report.render(RunDirectory(run))


# ------------------------------------------------------------------------------------------ colours
def luminance(colour: str) -> float:
    """Return the relative luminance of WCAG 2."""
    digits = colour.removeprefix("#")
    if len(digits) == 3:
        digits = "".join(2 * digit for digit in digits)
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [
        part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def themes(css: str) -> list[dict[str, str]]:
    """Return the colours of the light theme and of the dark one, which comes second."""
    blocks = re.findall(r":root(?::not\(\[data-print\]\))? \{(.*?)\}", css, re.S)
    return [dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]+)", block)) for block in blocks[:2]]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_texts_are_readable_in_both_themes(theme: int) -> None:
    colours = themes(STYLE)[theme]
    pairs = [(text, "page") for text in ("ink", "soft", "accent", "bad", "warn", "good")]
    pairs += [(text, "wash") for text in ("ink", "soft", "accent")]
    pairs += [(kind, f"{kind}-wash") for kind in ("bad", "warn", "good")]
    pairs += [("soft", "good-wash"), ("ink", "tint"), ("ink", "mark"), ("page", "bad")]
    for text, ground in pairs:
        assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_lines_of_a_plot_stand_out_and_differ(theme: int) -> None:
    page, series = themes(STYLE)[theme]["page"], themes(COMPARISON_STYLE)[theme]
    assert len(series) == 8 == len(set(series.values()))
    assert all(contrast(colour, page) >= 3 for colour in series.values())


def test_every_page_inherits_the_shared_one() -> None:
    shared, parts = {"page.html.j2", "components.html.j2"}, {"data_size.html.j2"}
    for file in TEMPLATES.glob("*.html.j2"):
        if file.name not in shared:
            text = file.read_text("utf-8")
            inherits = text.startswith('{% extends "page.html.j2" %}')
            assert inherits != (file.name in parts), file.name
            assert "<style>" not in text and 'style="' not in text, file.name


def test_a_template_of_another_folder_inherits_the_shared_page(tmp_path: Path) -> None:
    (tmp_path / "own.html.j2").write_text(
        '{% extends "page.html.j2" %}{% block title %}{{ name }}{% endblock %}'
        "{% block body %}<h1>{{ name }}</h1>{% endblock %}"
    )
    page = fill("own.html.j2", {"name": "<b>\u202e"}, tmp_path)
    assert "<h1>&lt;b&gt;U+202E</h1>" in page and "--accent" in page


# ------------------------------------------------------------------------------- the page of a run
def test_the_page_of_a_run_is_well_formed_and_leads_to_every_section(run: Path) -> None:
    found = check_page(page_of(run))
    contents = [own["href"] for own in found.attributes("a") if own["href"].startswith("#")]
    sections = [own["id"] for own in found.attributes("section")]
    assert contents == [f"#{id_}" for id_ in sections] and "answers" in sections
    (title,) = [text for tags, text in found.texts if tags[-1:] == ("h1",)]
    assert title.startswith("tiny-random-llama on contracts, lr=") and str(run) not in title


def test_a_section_that_is_missing_is_not_in_the_contents(run: Path) -> None:
    (run / "history.csv").unlink()
    for file in run.glob("predictions*.jsonl"):
        file.unlink()
    found = check_page(page_of(run))
    assert not {"training", "answers"} & set(found.ids) and "data" in found.ids


def test_a_run_leads_to_its_data_the_comparison_and_wandb(run: Path) -> None:
    record = RunDirectory(run)
    assert [link.title for link in links(record)] == ["Data page"]
    jobs = {"0": {"overrides": [], "varying": {}}}
    (run.parent / "sweep.json").write_text(json.dumps({"jobs": jobs}))
    assert links(record)[1] == (
        "Comparison of its sweep",
        "../comparison/report.html",
        "once the sweep has ended",
    )
    (run.parent / "comparison").mkdir()
    (run.parent / "comparison" / "report.html").write_text("")
    record.update(wandb_id="abc", wandb_url="https://wandb.ai/us/project/runs/abc")
    targets = {own["href"] for own in Structure(page_of(run)).attributes("a")}
    assert targets >= {
        "data.html",
        "../comparison/report.html",
        "https://wandb.ai/us/project/runs/abc",
    }
    check_page(page_of(run))


@pytest.mark.parametrize("address", ["javascript:alert(1)", "data:text/html,x", "//evil.example"])
def test_only_a_web_address_becomes_a_link(run: Path, address: str) -> None:
    RunDirectory(run).update(wandb_url=address)
    assert address not in page_of(run)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"jobs": 3}', '{"jobs": {"0": 1}}'])
def test_a_broken_file_of_the_sweep_costs_the_link_only(run: Path, content: str) -> None:
    (run.parent / "sweep.json").write_text(content)
    assert "Comparison of its sweep" not in page_of(run)


def test_the_page_of_a_run_on_wandb_is_kept_in_its_status() -> None:
    from types import SimpleNamespace

    from hydratune.experiment.tracker import address

    online = SimpleNamespace(pages={"W&B": "https://wandb.ai/r", "W&B group": "https://wandb.ai/g"})
    assert address(online) == {"wandb_url": "https://wandb.ai/r"}  # type: ignore[arg-type]
    assert address(SimpleNamespace(pages={})) == {}  # type: ignore[arg-type]


def test_an_offline_run_says_how_it_is_sent(run: Path) -> None:
    RunDirectory(run).update(wandb_id="abc")
    (run / "wandb" / "offline-run-20260101_000000-abc").mkdir(parents=True)
    assert "wandb sync wandb/offline-run-20260101_000000-abc sends it" in page_of(run)


# ------------------------------------------------------------------------------------------ answers
def test_answers_in_json_are_compared_by_field() -> None:
    reference = '{"law": "Spain", "days": 3, "parties": ["A", "B"], "cap": null, "signed": "May"}'
    answer = '{"law": "SPAIN", "days": 4, "parties": ["B", "C"], "cap": 5}'
    compared = compare_answers(reference, {"fine-tuned": answer, "base": "no JSON"}, 3000)
    assert compared.fields is not None and compared.fields.systems == ["fine-tuned"]
    rows = {row.name: row.cells[0] for row in compared.fields.rows}
    assert {name: (cell.kind, cell.words) for name, cell in rows.items()} == {
        "law": ("right", "right"),
        "days": ("wrong", "wrong"),
        "parties": ("partly", "partly right"),
        "cap": ("wrong", "not in the reference"),
        "signed": ("wrong", "missing"),
    }
    assert [title for title, _ in compared.texts] == ["base"]


def test_the_colours_of_fields_agree_with_the_scores_of_the_run(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    lines[0]["prediction"] = lines[0]["reference"]
    edited(run / "predictions.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    page = page_of(run)
    cells = re.findall(r'<td class="(right|partly|wrong)', page)
    assert cells and set(cells) == {"right"}
    assert page.count('<table class="fields">') == 1  # the other answer is no JSON


def test_other_answers_are_compared_by_word() -> None:
    pieces = differing("the cat sat on the mat", "the dog sat on the mat", 3000)
    assert [(piece.kind, piece.text.strip()) for piece in pieces] == [
        ("", "the"),
        ("missing", "cat"),
        ("added", "dog"),
        ("", "sat on the mat"),
    ]
    for text in ("nothing alike whatsoever", "", " "):
        assert [piece.kind for piece in differing("the cat sat", text, 3000)] == [""]
    assert [piece.text for piece in differing("a b " * 2000, "a c " * 2000, 9000)] == [
        "a c " * 2000
    ]


# ------------------------------------------------------------------------------------------- curves
@pytest.mark.parametrize(
    "losses",
    [
        [9.0, *(1 / n for n in range(1, 60))],  # the first is far above the others
        [1e6, *[0.5] * 40],
        [0.5],
        [0.0, 0.0],
        [-1.0, 5.0, *[0.1] * 30],
        [1e-9, 2e-9],
    ],
)
def test_every_point_lies_between_the_axes(losses: list[float]) -> None:
    points = [(float(n), loss) for n, loss in enumerate(losses, 1)]
    svg = str(curves([("training loss", "train", points)], None, "optimizer step"))
    grid = [
        (float(x1), float(x2), float(y))
        for x1, x2, y in re.findall(r'class="grid" x1="([^"]*)" x2="([^"]*)" y1="([^"]*)"', svg)
    ]
    left, right = grid[0][:2]
    top, bottom = min(y for *_, y in grid), max(y for *_, y in grid)
    (path,) = re.findall(r'<polyline class="train" points="([^"]*)"', svg)
    drawn = [tuple(map(float, place.split(","))) for place in path.split()]
    assert len(drawn) == len(losses)
    assert all(left <= x <= right and top <= y <= bottom for x, y in drawn)
    highest = losses.index(max(losses))
    assert drawn[highest][1] == min(y for _, y in drawn)
    if max(losses) > 2 * sorted(losses)[len(losses) // 2]:  # not cut off at the top
        assert sum(y == drawn[highest][1] for _, y in drawn) == 1


def test_the_legend_has_every_line_and_the_mark() -> None:
    lines = [
        ("training loss", "train", [(1.0, 2.0), (2.0, 1.0)]),
        ("nothing", "other", []),
        ("validation <loss>", "val", [(2.0, 1.5)]),
    ]
    svg = str(curves(lines, (2.0, 1.5), "optimizer step", note="kept: step 2"))
    (legend,) = re.findall(r'<figcaption class="legend">(.*?)</figcaption>', svg)
    assert re.findall(r"<b>(.*?)</b>", legend) == ["training loss", "validation &lt;loss&gt;"]
    assert legend.endswith('<i class="mark"></i>kept: step 2</span>')
    assert re.findall(r'<polyline class="(\w+)"', svg) == re.findall(r'span class="(\w+)"', legend)


def test_a_logarithmic_axis_says_so() -> None:
    points = [(float(n), loss) for n, loss in enumerate([1e6, *[0.5] * 40])]
    svg = str(curves([("loss", "train", points)], None, "optimizer step"))
    assert svg.count("logarithmic scale") == 2  # in the legend, and for those who do not see it
