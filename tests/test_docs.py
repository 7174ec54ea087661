"""The pages of docs/: their commands and settings exist, their links lead somewhere, Sphinx builds
them without a warning, and the generated ones have everything that there is.
"""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import doc_pages
from hydratune import cli, metric_table
from hydratune.composition import CONF
from hydratune.settings.commands import COMMANDS
from hydratune.settings.reference import settings_of
from hydratune.settings.registry import all_variants
from hydratune.sweeps.options import PackOptions

Command = Callable[..., tuple[int, str]]
PAGES = doc_pages.written_pages()
# its command needs the package that the page shows: tests/test_extending.py runs both
EXTENDING = doc_pages.DOCS / "howto" / "extending.md"
# placeholders, and the refusal that a page shows
SKIPPED = r"COMMAND|-sc |--config-dir|OPTION|SETTING|optimzer"
every_page = pytest.mark.parametrize("page", PAGES, ids=doc_pages.page_name)


@every_page
def test_every_command_of_a_page_exists_and_composes(
    page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(doc_pages.ROOT)  # where sweeps/wandb/rank.yaml is
    for words in doc_pages.commands_of(page):
        if re.search(SKIPPED, " ".join(words)) or page == EXTENDING:
            continue
        assert words[1] in (*cli.COMMANDS, "configs", "help", "--help"), words
        if words[1] != "--help":
            doc_pages.compose_command(words)


@every_page
def test_every_setting_of_a_page_exists(page: Path) -> None:
    if page != EXTENDING:
        doc_pages.compose_settings(doc_pages.settings_with_values(page))
    assert doc_pages.names_of_settings(page) - doc_pages.known_names() == set()


def test_pages_show_commands_and_settings() -> None:
    commands = {" ".join(words) for page in PAGES for words in doc_pages.commands_of(page)}
    assert len(commands) > 90
    assert {command.split()[1] for command in commands} >= set(cli.COMMANDS)
    gpu = doc_pages.DOCS / "howto" / "gpu.md"
    assert doc_pages.commands_of(gpu) and len(doc_pages.settings_with_values(gpu)) > 5


@pytest.mark.parametrize(
    "command",
    [
        "hydratune train optimizer.lrr=1e-3",
        "hydratune train -m hydra.launcher.halving.steps=8",
        "hydratune train hydra/sweeper=optuna hydra.sweeper.trials=3",
        "hydratune evaluate run=DIR data.batch_size=4",
        "hydratune judge run=DIR model=NAME",
        "hydratune compare DIR exports=csv",
        "hydratune sweep together=8",
        "hydratune configs adapters",
        "hydratune help adapter.rank",
    ],
)
def test_a_command_with_a_wrong_name_would_be_found(command: str) -> None:
    with pytest.raises(Exception):  # noqa: B017  # Hydra's errors have no common class
        doc_pages.compose_command(command.split())


@pytest.mark.parametrize("setting", ["adapter.rank=8", "trainer.epochs=2", "adapter.r=many"])
def test_a_wrong_setting_would_be_found(setting: str) -> None:
    with pytest.raises(Exception):  # noqa: B017  # Hydra's errors have no common class
        doc_pages.compose_settings([setting])


def test_what_code_a_page_shows(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "Type `hydratune train seed=1`, `adapter.r=8` (`trainer.micro_tokens`).\n\n"
        "    hydratune train seed=2     # a comment\n\n"
        "```text\n$ hydratune train \\\n  seed=3\noutput\n```\n\n"
        "```python\nhydratune = 1\n```\n"
    )
    assert [words[2] for words in doc_pages.commands_of(page)] == ["seed=3", "seed=2", "seed=1"]
    assert doc_pages.settings_with_values(page) == ["adapter.r=8"]
    assert doc_pages.names_of_settings(page) == {"trainer.micro_tokens"}


@every_page
def test_scripts_files_and_targets_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    paths = re.findall(r"\b(?:benchmarks|tests|sweeps)/[\w/]+\.(?:py|sh|yaml)", text)
    roots = (doc_pages.ROOT, doc_pages.ROOT / "src" / "hydratune")
    assert [path for path in paths if not any((root / path).is_file() for root in roots)] == []
    targets = {t for t in re.findall(r"`make ([a-z-]+)", text) if t != "PYTHON"}
    makefile = (doc_pages.ROOT / "Makefile").read_text("utf-8")
    assert targets <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))


@pytest.fixture(scope="module")
def docs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository's pages with the generated ones."""
    root = tmp_path_factory.mktemp("pages")
    for page in doc_pages.written_pages()[:4]:
        shutil.copy(page, root)
    for file in ("LICENSE", "Makefile", "pyproject.toml"):
        shutil.copy(doc_pages.ROOT / file, root)
    shutil.copytree(
        doc_pages.DOCS, root / "docs", ignore=shutil.ignore_patterns("_build", "generated")
    )
    doc_pages.generator().write(root / "docs" / "reference" / "generated")
    return root


def test_every_link_leads_to_a_page_and_a_heading(docs: Path) -> None:
    broken, count = [], 0
    for page in docs.rglob("*.md"):
        text = page.read_text("utf-8")
        for link in doc_pages.links_of(text):
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            count += 1
            headings = _anchors(target) if anchor else set()
            if not target.exists() or (anchor and anchor not in headings):
                broken.append(f"{page.name}: {link}")
    assert broken == [] and count > 100


@every_page
def test_a_page_says_when_pages_that_it_links_to_have_to_be_made(page: Path) -> None:
    text = page.read_text("utf-8")
    is_linked = any("generated/" in link for link in doc_pages.links_of(text))
    assert not is_linked or "(after `make docs`" in text


def _anchors(page: Path) -> set[str]:
    return doc_pages.anchors_of(page.read_text("utf-8")) if page.is_file() else set()


def test_a_broken_link_would_be_found() -> None:
    text = "See [one](a.md#b-c) and `[no](x.md)`.\n```\n[no](y.md)\n```\n"
    assert doc_pages.links_of(text) == ["a.md#b-c"]
    assert doc_pages.anchors_of("# A `b` c\n## What's d?\n") == {"a-b-c", "whats-d"}


def test_every_page_is_in_a_table_of_contents_and_has_one_title(docs: Path) -> None:
    pages = {page.resolve() for page in (docs / "docs").rglob("*.md")}
    listed = {target for page in pages for target in doc_pages.listed_pages(page)}
    index = (docs / "docs" / "index.md").resolve()
    assert pages - listed == {index} and listed <= pages
    for page in pages:
        text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)
        assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1, page.name


@pytest.fixture(scope="module")
def generated() -> dict[str, str]:
    texts: dict[str, str] = doc_pages.generator().pages()
    return texts


def test_the_reference_has_every_setting(generated: dict[str, str]) -> None:
    chosen_by = ("method", "source", "kind")
    for group, variants in all_variants().items():
        page = generated[f"settings_{group}.md"]
        for kind in variants.values():
            names = [s.name for s in settings_of(kind) if s.name not in chosen_by]
            assert [n for n in names if f"| `{group}.{n}` |" not in page] == []
    commands = generated["settings_commands.md"]
    for kind in COMMANDS.values():
        names = [
            s.name for s in settings_of(kind) if s.name.partition(".")[0] not in all_variants()
        ]
        assert [n for n in names if f"| `{n}` |" not in commands] == []
    sweep = generated["settings_sweep.md"]
    assert all(f"| `hydra.launcher.{s.name}` |" in sweep for s in settings_of(PackOptions))


def test_the_reference_shows_type_default_and_meaning(generated: dict[str, str]) -> None:
    assert (
        "| `adapter.r` | whole number | `16` | rank of the change of a layer |"
        in (generated["settings_adapter.md"])
    )
    assert "| `trainer.share_prefix` | true or false | `true` |" in generated["settings_trainer.md"]
    assert "| `run` | text | required |" in generated["settings_commands.md"]


def test_the_reference_has_every_command_option_and_metric(generated: dict[str, str]) -> None:
    for command, summary in cli.COMMANDS.items():
        assert f"| `{command}` | {summary} |" in generated["commands.md"]
    assert "exit codes: 0 done, 1 failed" in generated["commands.md"]
    options = [f"{f.parent.name}={f.stem}" for f in CONF.glob("*/*.yaml")]
    assert len(options) > 50
    assert [option for option in options if f"| `{option}` |" not in generated["options.md"]] == []
    for row in (*metric_table.ANSWER_METRICS, *metric_table.RUN_METRICS):
        assert f"| `{row.name}` |" in generated["metrics.md"]


def test_every_option_says_what_it_is(generated: dict[str, str]) -> None:
    assert re.findall(r"^\| `[^`]+` \|  \|$", generated["options.md"], re.MULTILINE) == []


def test_generated_pages_are_not_written_again_if_they_are_equal(tmp_path: Path) -> None:
    generate = doc_pages.generator()
    generate.write(tmp_path)
    (tmp_path / "of_an_option_that_is_gone.md").write_text("old")
    before = {page.name: page.stat().st_mtime_ns for page in tmp_path.glob("settings_*.md")}
    generate.write(tmp_path)
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("settings_*.md")} == before
    assert {page.name for page in tmp_path.iterdir()} == set(generate.pages())


def test_the_refusal_on_the_page_is_what_the_program_prints(hydratune: Command) -> None:
    page = (doc_pages.DOCS / "reference" / "environment.md").read_text("utf-8")
    (block,) = re.findall(r"```text\n\$ hydratune (train .*?)\n(.*?)```", page, re.DOTALL)
    code, text = hydratune(*block[0].split())
    assert code == 2 and text.strip() == block[1].strip()


def python_blocks(page: str) -> list[tuple[str, str]]:
    """Return every Python block of a page, with the output that is shown right below it or ""."""
    text = (doc_pages.DOCS / page).read_text("utf-8")
    return re.findall(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", text, re.DOTALL)


@pytest.mark.parametrize("number", [2, 4])  # wrong settings, Hydra's composition
def test_the_page_of_python_shows_what_settings_print(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    code, shown = python_blocks("howto/python.md")[number]
    exec(code, {})
    assert capsys.readouterr().out == shown != ""


@pytest.mark.slow
def test_the_page_of_python_trains_and_reads_the_files_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"How much is {n} and {n}?", "completion": str(2 * n)} for n in range(60)]
    Path("tickets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (training, shown), *_ = python_blocks("howto/python.md")
    exec(training, {})
    printed = capsys.readouterr().out.splitlines()
    assert shown.splitlines()[0] in printed  # Run('outputs/tickets', finished)
    (reading,) = [code for code, _ in python_blocks("howto/python.md") if "read_csv" in code]
    reading = reading.partition("model = ")[0].replace("outputs/contracts/TIME", "outputs/tickets")
    names: dict[str, Any] = {}
    exec(reading, names)
    assert names["metrics"]["val/loss"] > 0
    assert len(names["history"]) == 4 and len(names["predictions"]) == 4


@pytest.mark.slow
def test_the_numbers_of_the_quickstart_are_what_the_program_prints(hydratune: Command) -> None:
    page = (doc_pages.DOCS / "quickstart.md").read_text("utf-8")
    block = re.findall(r"```text\n\$ hydratune (train debug=smoke .*?)\n(.*?)```", page, re.DOTALL)
    (command, shown) = block[0]
    code, text = hydratune(*command.split(), "evaluation.baselines=[]")
    assert code == 0, text
    stable = ("rows:", "training 32", "LoRA on", "smoke  ", "adapter ", "read ", "measure ")
    lines = [line for line in shown.splitlines() if line.startswith(stable)]
    assert len(lines) == len(stable) and [line for line in lines if line not in text] == []


@pytest.fixture(scope="module")
def built(docs: Path) -> Path:
    """The pages as Sphinx builds them, warnings being errors."""
    for package in ("sphinx", "myst_parser", "furo", "sphinx_copybutton"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: make docs installs it")
    shutil.copytree(doc_pages.ROOT / "src", docs / "src", dirs_exist_ok=True)
    shutil.copytree(CONF, docs / "conf", dirs_exist_ok=True)
    (docs / "tests").mkdir()
    for file in (doc_pages.ROOT / "tests").glob("*.py"):  # whose marks are the page of faults
        shutil.copy(file, docs / "tests")
    done = _sphinx(docs / "docs", docs / "html")
    assert done.returncode == 0, done.stderr
    return docs / "html"


def _sphinx(source: Path, target: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q"]
    return subprocess.run(
        [*command, str(source), str(target)], capture_output=True, text=True, check=False
    )


def test_the_pages_are_built_without_a_warning(built: Path) -> None:
    assert (built / "index.html").is_file()
    assert (built / "reference" / "generated" / "settings_trainer.html").is_file()


def test_the_built_pages_load_nothing_from_the_network(built: Path) -> None:
    loaded = re.compile(r"<(?:script|img|iframe|source)\b[^>]*src=\"(?:https?:)?//[^\"]*")
    styles = re.compile(r"<link\b[^>]*href=\"(?:https?:)?//[^\"]*")
    imported = re.compile(r"(?:@import|url\()\s*[\"']?(?:https?:)?//")
    pages, sheets = list(built.rglob("*.html")), list(built.rglob("*.css"))
    assert len(pages) > 50 and sheets
    for page in pages:
        text = page.read_text("utf-8")
        assert not loaded.search(text) and not styles.search(text), page
    assert not [sheet for sheet in sheets if imported.search(sheet.read_text("utf-8"))]


def test_the_reference_has_the_python_api(generated: dict[str, str]) -> None:
    page = generated["python.md"]
    for name in ("train", "sweep", "compose", "compare", "load_runs", "Run", "Sweep"):
        assert f"\n## {name}\n" in page
    assert "### Run.predictions" in page and ") -> Run\n" in page and "- **data:** rows in" in page
