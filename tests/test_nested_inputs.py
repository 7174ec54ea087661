"""Inputs that are nested too deeply, expand without end or are too large are refused with one
message.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import write_rows
from hydratune import bounds
from hydratune.bounds import check_yaml, depth
from hydratune.data import answers
from hydratune.data.answers import (
    is_valid_answer,
    json_schema,
    parse_strict,
)
from hydratune.data.formats import limits
from hydratune.errors import InputError
from hydratune.evaluation import json_scores
from prepare_inputs import ROWS, Run, run_prepare


# ------------------------------------------------------------------------------------- nested input
def nested(levels: int, key: str = "properties") -> str:
    return f'{{"{key}":' * levels + "{}" + "}" * levels


@pytest.mark.parametrize("levels", [200, 900, 50_000])
def test_a_schema_that_is_nested_too_deeply_is_refused(
    levels: int, hydratune: Run, tmp_path: Path
) -> None:
    write_rows(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "deep.json").write_text(nested(levels, "not"))
    code, output = run_prepare(hydratune, "data.train=rows.jsonl", "data.schema_file=deep.json")
    assert (
        code == 2
        and "deep.json: nested deeper than" in output
        and output.count("hydratune prepare:") == 1
        and len(output) < 1000
    )


def test_a_schema_of_usual_depth_is_used(tmp_path: Path) -> None:
    (tmp_path / "ok.json").write_text(nested(20, "not"))
    from hydratune.data.sources.files import FilesData

    assert json_schema(FilesData(train="x", schema_file=str(tmp_path / "ok.json"))) is not None


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
@pytest.mark.parametrize("levels", [900, 50_000])
def test_a_row_that_is_nested_too_deeply_is_refused(
    levels: int, name: str, hydratune: Run, tmp_path: Path
) -> None:
    deep = (
        f'{{"messages": [{{"role": "user", "content": {"[" * levels}{"]" * levels}}}, {{"role":'
        ' "assistant", "content": "x"}]}'
    )
    (tmp_path / name).write_text(deep if name.endswith("l") else f"[{deep}]")
    code, output = run_prepare(hydratune, f"data.train={name}")
    assert code == 2 and name in output and len(output) < 1500, output


@pytest.mark.parametrize("levels", [100, 400, 50_000])
def test_an_answer_that_is_nested_too_deeply_is_scored_as_invalid(levels: int) -> None:
    answer = nested(levels, "a")
    schema = {"type": "object", "properties": {"a": {"$ref": "#"}}}
    scores = json_scores.score(answer, '{"a": {}}', schema)
    assert not scores["json_valid"] and "nested" in scores["json_error"]
    assert not is_valid_answer(answer, schema)


def test_the_deepest_allowed_answer_is_scored() -> None:
    schema = {
        "$ref": "#/$defs/node",
        "$defs": {"node": {"type": "object", "properties": {"a": {"$ref": "#/$defs/node"}}}},
    }
    scores = json_scores.score(
        nested(answers.MAX_DEPTH - 1, "a"), nested(answers.MAX_DEPTH - 1, "a"), schema, "source"
    )
    assert scores["schema_valid"] and scores["exact_match"]
    assert depth(parse_strict(nested(answers.MAX_DEPTH - 1, "a")), 100) == answers.MAX_DEPTH - 1


def test_a_setting_that_is_nested_too_deeply_is_refused(hydratune: Run, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", ROWS)
    code, output = run_prepare(
        hydratune, "data.train=rows.jsonl", f"data.schema={'{a:' * 3000}1{'}' * 3000}"
    )
    assert code == 2 and len(output) < 20_000 and "Traceback" not in output


# --------------------------------------------------------------------------------------------- YAML
EXPANDING = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (EXPANDING, "expand to more than"),
        ("a: &a [*a]\n", "stands inside the value that it names"),
        ("[" * 50_000, "nested deeper than"),
        ("{a: " * 5_000 + "1" + "}" * 5_000, "nested deeper than"),
        ("".join(" " * n + "a:\n" for n in range(300)), "nested deeper than"),
    ],
)
def test_yaml_that_expands_without_end_is_refused(
    text: str, reason: str, hydratune: Run, tmp_path: Path
) -> None:
    mine = tmp_path / "conf" / "experiment" / "mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text(f"# @package _global_\n{text}")
    start = time.monotonic()
    for config_option in (
        ["--config-dir", "conf"],
        ["--config-dir=conf"],
        [f"hydra.searchpath=[file://{tmp_path}/conf]"],
    ):
        code, output = hydratune("train", *config_option, "experiment=mine", "model=tiny")
        assert (
            code == 2
            and "experiment/mine.yaml" in output
            and reason in output
            and len(output) < 1000
        ), output
    assert time.monotonic() - start < 20


def test_settings_of_a_run_that_expand_without_end_are_refused(
    hydratune: Run, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "status.json").write_text('{"state": "finished"}')
    (run / "config.yaml").write_text(EXPANDING)
    for command in (["compare", "run"], ["evaluate", "run=run"]):
        code, output = hydratune(*command)
        assert code in (1, 2) and "Traceback" not in output and len(output) < 3000, output


def test_yaml_with_usual_anchors_is_read(tmp_path: Path) -> None:
    file = tmp_path / "ok.yaml"
    file.write_text(
        "base: &b {x: 1, y: [1, 2]}\none: *b\ntwo:\n  <<: *b\n  z: &s text\nthree: [*s, *s]\n"
    )
    check_yaml(file)
    assert bounds.load_yaml(file).two.y == [1, 2]


def test_a_yaml_file_of_a_hundred_megabytes_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "large.yaml"
    with file.open("wb") as stream:
        stream.truncate(100 * 2**20)
    with pytest.raises(InputError, match=r"large\.yaml: larger than 16 MiB"):
        check_yaml(file)


# --------------------------------------------------------------------------------------- large rows
@pytest.mark.parametrize(
    "kind",
    [
        "jsonl",
        "json",
        "csv",
        "cell.csv",
        "tsv",
        "txt",
        "lines.txt",
        "parquet",
        "many.parquet",
        "noline.jsonl",
        "noline.csv",
    ],
)
def test_a_row_that_is_too_large_is_refused(
    kind: str, hydratune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_ROW_CHARACTERS", 100_000)
    text, file = "word " * 40_000, tmp_path / f"rows.{kind}"
    row = {"prompt": text, "completion": "yes"}
    content = {
        "jsonl": "".join(json.dumps(r) + "\n" for r in [*ROWS, row]),
        "json": json.dumps([*ROWS, row]),
        "csv": f"prompt,completion\nhi,yes\n{text},a\n",
        "cell.csv": "prompt,completion\nhi,yes\n" + '"' + text.replace(" ", "\n") + '",a\n',
        "tsv": f"prompt\tcompletion\nhi\tyes\n{text}\ta\n",
        "txt": f"hello\n\n{text}\n",
        "lines.txt": "hello\n\n" + text.replace(" ", "\n"),
        "noline.jsonl": text,
        "noline.csv": text,
    }
    if kind.endswith("parquet"):
        write_rows(file, [*ROWS, row] if kind == "parquet" else [*ROWS * 100, row])
    else:
        file.write_text(content[kind])
    code, output = run_prepare(hydratune, f"data.train={file}")
    assert (
        code == 2
        and str(file) in output
        and "more than 100,000 characters" in output
        and len(output) < 1000
    ), output


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jsonl", "csv", "txt", "parquet"])
def test_a_row_of_200_megabytes_needs_little_memory(kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        write_rows(file, [*ROWS, {"prompt": "word " * 40_000_000, "completion": "x"}])
    else:
        first = {"jsonl": json.dumps(ROWS[0]), "csv": "prompt,completion", "txt": ""}[kind]
        file.write_text(first + "\n" + "word " * 40_000_000)
    program = (
        "import re\nfrom pathlib import Path\n"
        "from hydratune.data.formats.files import read_records\n"
        "from hydratune.errors import DataError\n"
        f"try:\n    print(len(list(read_records(Path({str(file)!r}), 'utf-8'))))\nexcept"
        " DataError as error:\n    print(error)\n"
        # of this program alone, unlike ru_maxrss
        "print(re.search(r'VmHWM:\\s*(\\d+)', Path('/proc/self/status').read_text())[1])"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert "more than 33,554,432 characters" in output
    assert int(output.splitlines()[-1]) < (900_000 if kind == "parquet" else 300_000)  # KiB
