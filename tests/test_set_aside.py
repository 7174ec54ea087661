"""Runs that cannot be compared with most others are set aside with the reason, and the rest ranked;
runs of several folders are named by one rule.
"""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from compared_runs import hits, write_run
from hydratune.comparison.collect import collect_runs
from hydratune.comparison.comparison import Comparison, compare
from hydratune.comparison.criterion import Criterion
from hydratune.comparison.verdict import verdict
from hydratune.records.sweep import SweepJob, write_sweep

Command = Callable[..., tuple[int, str]]


def names(compared: Comparison) -> list[str]:
    """Return the names of the ranked runs, the best first."""
    return [run.name for entry in compared.finished for run in entry.finished]


def reasons(compared: Comparison) -> dict[str, str]:
    return {run.name: run.set_aside for run in compared.runs if run.set_aside}


def write_data(run: Path, **hashes: str) -> None:
    (run / "data.json").write_text(json.dumps({"splits": {"validation": hashes}}))


def test_one_run_of_other_rows_does_not_remove_the_ranking(
    hydratune: Command, tmp_path: Path
) -> None:
    """The run that is set aside has the lowest loss, is in every output, and is never the best."""
    for n in range(3):
        write_run(tmp_path / "s" / str(n), lr=n + 1.0, loss=0.5 + n / 10)
    write_run(tmp_path / "s" / "3", lr=9.0, loss=0.1, rows="others")
    with (tmp_path / "s" / "3" / "config.yaml").open("a") as stream:
        stream.write("data: {max_validation_rows: 6}\n")
    code, text = hydratune("compare", "s", "export=csv,markdown,latex")
    flat = " ".join(text.split())
    assert code == 0 and text.startswith("best: s/0  (lr=1, r=8: validation loss 0.5000, the"), text
    assert "the best of 3 that can be compared" in flat
    assert (
        "set aside, not ranked: run 3: validated on other rows (data.max_validation_rows=6, not -)."
        " The 3 ranked runs have the validation rows that most runs have" in flat
    )
    assert "(0.1000)" in text and "set aside: validated on other rows" in flat
    folder = tmp_path / "s" / "comparison"
    with (folder / "runs.csv").open(newline="") as stream:
        rows = {row["name"]: row for row in csv.DictReader(stream)}
    assert [rows[name]["place"] for name in "0123"] == ["1", "2", "3", ""]
    assert rows["3"]["state"] == "set aside: validated on other rows"
    assert rows["3"]["val/loss"] == "0.1"
    for file in ("ranking.md", "ranking.tex", "report.html"):
        assert "set aside: validated on other rows" in (folder / file).read_text(), file
    # without the rest there is nothing that it could be compared with
    code, text = hydratune("compare", "s/0", "s/3", "html=false")
    assert code == 0 and "no best run" in text and "set aside" not in text


def test_effects_fronts_and_settings_are_those_of_the_ranked_runs(tmp_path: Path) -> None:
    for n in range(3):
        write_run(tmp_path / str(n), lr=n + 1.0, loss=0.5 + n / 10, **{"cost/cpu_seconds": 9.0 - n})
    write_run(tmp_path / "3", rank=99, loss=0.1, rows="others", **{"cost/cpu_seconds": 0.1})
    compared = compare(collect_runs([tmp_path]))
    assert compared.keys == ("optimizer.lr",) and names(compared) == ["0", "1", "2"]
    assert [effect.key for effect in compared.effects] == ["optimizer.lr"]
    assert {run.name for run in compared.fronts[0].runs} == {"0", "1", "2"}
    assert compared.paired_tests.keys() == {1, 2}


def test_of_equally_many_runs_the_first_decides(tmp_path: Path) -> None:
    for n, rows in enumerate(("these", "those", "those", "these", "third")):
        write_run(tmp_path / str(n), lr=n + 1.0, loss=0.5 - n / 10, rows=rows)
    compared = compare(collect_runs([tmp_path]))
    assert names(compared) == ["3", "0"] and set(reasons(compared)) == {"1", "2", "4"}
    assert "the validation rows of run 0, the first of equally many" in (compared.set_aside or "")
    assert compare(compared.runs).set_aside == compared.set_aside  # whatever was set aside before


def test_the_reason_tells_rows_from_tokens(tmp_path: Path) -> None:
    for n in range(2):
        write_data(write_run(tmp_path / str(n), lr=n + 1.0), hash="rows", tokens_hash="tokens")
    model = write_run(tmp_path / "model", lr=3.0)
    template = write_run(tmp_path / "template", lr=4.0)
    for run, tokens in ((model, "b"), (template, "c")):
        write_data(run, hash="rows", tokens_hash=tokens)
    with (model / "config.yaml").open("a") as stream:
        stream.write("model: {name: another}\n")
    write_data(write_run(tmp_path / "unknown", lr=5.0))
    assert reasons(compare(collect_runs([tmp_path]))) == {
        "model": "the losses of another base model (another) are of other tokens",
        "template": (
            "the same validation rows are other tokens: the chat template or a setting of data"
        ),
        "unknown": "whether it was validated on the same rows is not recorded",
    }


def test_answers_to_validation_rows_are_compared_whatever_the_tokens(tmp_path: Path) -> None:
    for n, tokens in enumerate(("a", "a", "b", "b")):
        run = write_run(tmp_path / str(n), lr=n + 1.0, **{"val/exact_match": n / 10})
        write_data(run, hash="rows" if n < 3 else "others", tokens_hash=tokens)
    compared = compare(collect_runs([tmp_path]), Criterion("val/exact_match", lower=False))
    assert names(compared) == ["2", "1", "0"]
    assert reasons(compared) == {"3": "validated on other rows"}
    assert verdict(compared)[0].endswith("; the test metrics took no part in the choice)")


def test_names_of_several_folders_begin_with_the_folder(tmp_path: Path) -> None:
    """Also those that only one folder has, and those of a folder that is a run itself."""
    for place in ("x/a/0", "x/a/1", "x/b/0", "y/b/0", "x/single"):
        write_run(tmp_path / place)

    def named(*folders: str) -> list[str]:
        return [run.name for run in collect_runs([tmp_path / folder for folder in folders])]

    assert named("x/a") == ["0", "1"]
    assert named("x/a/0") == ["0"]
    assert named("x/a", "x/b") == ["a/0", "a/1", "b/0"]
    assert named("x/a", "x/single") == ["a/0", "a/1", "single"]
    assert named("x/b", "y/b") == ["x/b/0", "y/b/0"]
    assert named("x/a/0", "x/a/1") == ["0", "1"]
    assert named("x") == ["single", "a/0", "a/1", "b/0"]
    assert named("x/a", "x") == ["a/0", "a/1", "x/single", "x/b/0"]


def test_names_are_the_same_in_every_output(hydratune: Command, tmp_path: Path) -> None:
    """Entries of equal settings in two folders are distinguished by these names."""
    for folder in ("s1", "s2"):
        for n in range(2):
            write_run(
                tmp_path / folder / str(n),
                lr=n + 1.0,
                right=hits(38 - n),
                loss=0.5 + n / 10 + (folder == "s2") / 20,
            )
    code, text = hydratune("compare", "s1", "s2", "export=csv,markdown,latex", "output=both")
    expected = ["s1/0", "s2/0", "s1/1", "s2/1"]
    assert code == 0, text
    ranking = text[text.index("ranking by") : text.index("on the test rows")]
    assert re.findall(r"s\d/\d", ranking) == expected
    with (tmp_path / "both" / "runs.csv").open(newline="") as stream:
        assert [row["name"] for row in csv.DictReader(stream)] == expected
    for file in ("ranking.md", "ranking.tex"):
        assert re.findall(r"s\d/\d", (tmp_path / "both" / file).read_text()) == expected
    page = (tmp_path / "both" / "report.html").read_text()
    assert re.findall(r"<td>(s\d/\d)</td>", page) == expected
    assert "optimizer.lr=1 (run s2/0); optimizer.lr=2 (run s1/1)" in " ".join(text.split())


def test_a_run_without_settings_of_its_own_adds_no_columns(tmp_path: Path) -> None:
    """Only the settings that vary in the sweep are known of an unreadable job, as texts."""
    texts = ("1.0", "2e0", "3.0")
    jobs = [SweepJob(str(n), (), {"optimizer.lr": text}) for n, text in enumerate(texts)]
    write_sweep(tmp_path, jobs)
    for n in range(3):
        write_run(tmp_path / str(n), lr=n + 1.0)
    (tmp_path / "1" / "metrics.json").write_text("{")
    compared = compare(collect_runs([tmp_path]))
    assert compared.keys == ("optimizer.lr",)
    (broken,) = [run for run in compared.runs if run.state == "unreadable"]
    assert broken.settings == {"optimizer.lr": 2.0} and broken.partial


@pytest.mark.parametrize("folder", [".", "../s"])
def test_relative_folders_have_names(
    tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "s")
    monkeypatch.chdir(tmp_path / "s")
    assert [run.name for run in collect_runs([Path(folder)])] == ["s"]
