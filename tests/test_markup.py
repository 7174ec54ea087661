"""Texts, files and numbers of others: as text in Markdown and spreadsheets, in bounded time, and
without secrets.
"""

import csv
import io
import re
from pathlib import Path

import pytest

from compared_runs import write_run
from hydratune.comparison import exports
from hydratune.comparison.comparison import compare
from hydratune.comparison.criterion import Criterion
from hydratune.comparison.runs import UNREADABLE, read_run
from hydratune.composition.arguments import check_settings
from hydratune.errors import ConfigError, RunError
from hydratune.records.files import read_json, read_jsonl
from hydratune.settings.overrides import as_typed
from hydratune.settings.secrets import mask
from hydratune.wording import in_markdown

ROOT = Path(__file__).parents[1]
LONG = "9" * 5000
UNREADABLE_JSON = {
    "nested": ("[" * 100_000, "nested too deeply"),
    "digits": (f'{{"objective": {LONG}}}', "a number of too many digits"),
}


def test_markup_of_others_is_text_in_markdown() -> None:
    text = in_markdown("<img src=x>\n# [a](http://h/) ![b](http://h/p.png) `c`")
    assert "<" not in text and "](" not in text and "\n" not in text
    assert in_markdown("rank 8, 0.5 [0.4, 0.6] of q_proj") == "rank 8, 0.5 [0.4, 0.6] of q_proj"


def test_a_ranking_in_markdown_has_no_markup_of_a_run(tmp_path: Path) -> None:
    name = "<script>x</script>"
    (tmp_path / "a").mkdir()
    runs = [
        write_run(tmp_path / "a" / f"{name.replace('/', '')}{n}", loss=0.5 + n, lr=1e-3 * (n + 1))
        for n in range(2)
    ]
    ranked = exports.markdown(compare([read_run(run) for run in runs], Criterion()))
    assert "<script>" not in ranked and "&lt;script>" in ranked


def test_a_spreadsheet_computes_no_cell() -> None:
    cells = ["=HYPERLINK(1)", "+1", "-1+2", "@SUM(A1)", "\t=1", "plain", -1.5, None]
    table = exports._csv([{"cell": cell} for cell in cells])
    read = [row["cell"] for row in csv.DictReader(io.StringIO(table))]
    assert read[:5] == [f"'{cell}" for cell in cells[:5]]
    assert read[5:] == ["plain", "-1.5", ""]


@pytest.mark.parametrize("kind", UNREADABLE_JSON)
def test_files_of_a_run_that_python_cannot_read_are_one_message(tmp_path: Path, kind: str) -> None:
    content, reason = UNREADABLE_JSON[kind]
    for name, read in (("a.json", read_json), ("b.jsonl", read_jsonl)):
        (tmp_path / name).write_text(content)
        with pytest.raises(RunError, match=reason) as caught:
            read(tmp_path / name)
        assert len(str(caught.value)) < 300 + len(str(tmp_path))
    for name in ("status.json", "metrics.json"):
        run = write_run(tmp_path / f"run {name}")
        (run / name).write_text(content)
        assert read_run(run).state == UNREADABLE


def test_a_long_number_among_the_settings_is_one_message() -> None:
    with pytest.raises(ConfigError, match="thousands of digits") as caught:
        check_settings([f"seed={LONG}"], "train")
    assert len(str(caught.value)) < 400
    assert as_typed("name", LONG) == f"'name=\"{LONG}\"'"  # the text is typed in quotes


@pytest.mark.parametrize(
    "secret",
    [
        "github_pat_" + "a1B2" * 10,
        "glpat-" + "a1B2" * 6,
        "xoxb-" + "1234567890-" * 3 + "ab",
        "AIza" + "a1B2c" * 7,
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTYifQ.c2lnbmF0dXJlLXZhbHVl",
        "hf_" + "a1B2c" * 6,
        "sk-" + "a1B2c" * 6,
    ],
)
def test_secrets_are_known_by_their_form(secret: str) -> None:
    assert mask(f"key {secret}, end") == "key ***, end"


def test_a_password_with_an_at_sign_is_hidden_whole() -> None:
    assert mask("see https://me:p@ss@host/x?a=b@c now") == "see https://me:***@host/x?a=b@c now"


def test_every_pinned_package_has_hashes() -> None:
    def names(text: str) -> set[str]:
        pins = re.findall(r"^([A-Za-z0-9._-]+==[^\s;]+)", text, re.MULTILINE)
        return {
            re.sub(r"[-_.]+", "-", pin.partition("==")[0]).lower()
            + pin.partition("==")[1]
            + pin.partition("==")[2]
            for pin in pins
        }

    hashed = (ROOT / "hashes.txt").read_text()
    pinned = names((ROOT / "constraints.txt").read_text())
    assert {pin for pin in pinned if not pin.startswith("torch==")} == names(hashed)
    entries = re.split(r"^(?=[A-Za-z0-9])", hashed, flags=re.MULTILINE)[1:]
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in entries)
