"""Inputs that ask for more than anybody has, or write to the terminal: one message with the file's
name, soon, exit code 2.
"""

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import SMALL, write_rows
from hydratune import bounds, console
from hydratune.bounds import TooSlowError, check_yaml, depth, time_limit
from hydratune.data import answers
from hydratune.data.answers import (
    is_schema_valid,
    is_valid_answer,
    json_schema,
    parse_strict,
    schema_errors,
)
from hydratune.data.encoding import rendering
from hydratune.data.formats import limits
from hydratune.errors import InputError
from hydratune.evaluation import json_scores

Run = Callable[..., tuple[int, str]]
ROWS = [
    {"prompt": f"What is {n * 7919 % 10007}?", "completion": json.dumps({"n": n})}
    for n in range(40)
]
CONTROL = "\x1b[31mred\x1b]0;title\x07\x9b2J\u202eabc\u2066\x7f\r\x08"


def prepared(hydratune: Run, *settings: str) -> tuple[int, str]:
    return hydratune("prepare", "model=tiny", "data=files", *settings, "output=out")


# ------------------------------------------------------------------------------------- the terminal
def test_control_characters_are_written_out() -> None:
    shown = console.escape_controls(CONTROL + "\udc80 tab\tline\nÄ日本\u200d")
    assert shown == (
        r"\x1b[31mred\x1b]0;title\x07\x9b2J\u202eabc\u2066\x7f\x0d\x08\udc80"
        " tab\tline\nÄ日本\u200d"
    )


def raw(said: str) -> list[str]:
    """Characters that a terminal obeys."""
    return [c for c in said if ord(c) in console._ESCAPES]


def test_row_ids_and_cells_reach_the_terminal_written_out(hydratune: Run, tmp_path: Path) -> None:
    rows = [{**row, "id": f"{CONTROL}{n}"} for n, row in enumerate(ROWS)]
    write_rows(
        tmp_path / "rows.jsonl",
        [*rows, rows[0], {"id": CONTROL, "prompt": CONTROL, "completion": CONTROL}],
    )
    code, said = prepared(
        hydratune,
        "data.train=rows.jsonl",
        "data.quality.duplicate_ids=error",
        "data.quality.ungrounded=error",
    )
    assert code == 2 and not raw(said) and r"\x1b[31mred" in said, said
    _, said = prepared(hydratune, "data.train=rows.jsonl", "preview=2")
    assert not raw(said) and r"\x1b" in said, said


@pytest.mark.parametrize(
    "broken",
    [
        '{"prompt": "a", "completion": 1, "\x1b[31m',
        '{"prompt": "a", "\\u001b[2Jx": {"y": 1}, "completion": []}',
    ],
)
def test_errors_about_files_with_control_characters_in_their_names(
    broken: str, hydratune: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "f\x1b]0;owned\x07\u202e"
    folder.mkdir()
    (folder / "r\x1b[2J.jsonl").write_text(broken + "\n")
    code, said = prepared(hydratune, f'data.train="{folder}/r\x1b[2J.jsonl"')
    assert code == 2 and not raw(said), said


def test_a_run_with_control_characters_everywhere(hydratune: Run, tmp_path: Path) -> None:
    (tmp_path / "f\x1b[31m").mkdir()
    rows = [
        {
            "id": f"{n}{CONTROL}",
            "prompt": f"Say {n}{CONTROL}",
            "completion": f"[/bold]{CONTROL} {n % 2}",
        }
        for n in range(20)
    ]
    file = write_rows(tmp_path / "f\x1b[31m" / "rows.jsonl", rows)
    chosen = [
        "data=files",
        f'data.train="{file}"',
        "evaluation.metrics=[label]",
        "data.clean.text=false",
    ]
    code, said = hydratune("train", *SMALL, *chosen, 'hydra.run.dir="run\x1b[31m[red]"')
    assert not raw(said), said
    if code == 0:
        for log in Path().glob("run*/run.log"):
            assert not raw(log.read_text())
        code, said = hydratune("compare", *map(str, Path().glob("run*")))
        assert not raw(said), said


def test_markup_in_a_folder_name_is_no_markup(hydratune: Run, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", ROWS)
    code, said = hydratune(
        "prepare", "model=tiny", "data=files", "data.train=rows.jsonl", 'output="out[red]x"'
    )
    assert code == 0 and "out[red]x/report.html" in said


def test_the_log_is_plain() -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, "row %s", (CONTROL,), None)
    assert not raw(console.LineFormatter("%(message)s").format(record))


def test_a_traceback_is_plain(
    hydratune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRATUNE_TRACEBACK", "1")
    code, said = prepared(hydratune, "data.train=no\x1b[31m.jsonl")
    assert code == 2 and not raw(said)
    assert not raw(hydratune("pre\x1b[31mpare")[1])


# ------------------------------------------------------------------------------------- nested input
def nested(levels: int, key: str = "properties") -> str:
    return f'{{"{key}":' * levels + "{}" + "}" * levels


@pytest.mark.parametrize("levels", [200, 900, 50_000])
def test_a_schema_nested_without_end(levels: int, hydratune: Run, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "deep.json").write_text(nested(levels, "not"))
    code, said = prepared(hydratune, "data.train=rows.jsonl", "data.schema_file=deep.json")
    assert (
        code == 2
        and "deep.json: nested deeper than" in said
        and said.count("hydratune prepare:") == 1
        and len(said) < 1000
    )


def test_a_schema_of_usual_depth_is_used(tmp_path: Path) -> None:
    (tmp_path / "ok.json").write_text(nested(20, "not"))
    from hydratune.data.sources.files import FilesData

    assert json_schema(FilesData(train="x", schema_file=str(tmp_path / "ok.json"))) is not None


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
@pytest.mark.parametrize("levels", [900, 50_000])
def test_a_row_nested_without_end(levels: int, name: str, hydratune: Run, tmp_path: Path) -> None:
    deep = (
        f'{{"messages": [{{"role": "user", "content": {"[" * levels}{"]" * levels}}}, {{"role":'
        ' "assistant", "content": "x"}]}'
    )
    (tmp_path / name).write_text(deep if name.endswith("l") else f"[{deep}]")
    code, said = prepared(hydratune, f"data.train={name}")
    assert code == 2 and name in said and len(said) < 1500, said


@pytest.mark.parametrize("levels", [100, 400, 50_000])
def test_an_answer_nested_without_end_is_scored(levels: int) -> None:
    answer = nested(levels, "a")
    schema = {"type": "object", "properties": {"a": {"$ref": "#"}}}
    found = json_scores.score(answer, '{"a": {}}', schema)
    assert not found["json_valid"] and "nested" in found["json_error"]
    assert not is_valid_answer(answer, schema)


def test_the_deepest_answer_is_scored() -> None:
    schema = {
        "$ref": "#/$defs/node",
        "$defs": {"node": {"type": "object", "properties": {"a": {"$ref": "#/$defs/node"}}}},
    }
    found = json_scores.score(
        nested(answers.MAX_DEPTH - 1, "a"), nested(answers.MAX_DEPTH - 1, "a"), schema, "source"
    )
    assert found["schema_valid"] and found["exact_match"]
    assert depth(parse_strict(nested(answers.MAX_DEPTH - 1, "a")), 100) == answers.MAX_DEPTH - 1


def test_a_setting_nested_without_end(hydratune: Run, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", ROWS)
    code, said = prepared(
        hydratune, "data.train=rows.jsonl", f"data.schema={'{a:' * 3000}1{'}' * 3000}"
    )
    assert code == 2 and len(said) < 20_000 and "Traceback" not in said


# --------------------------------------------------------------------------------------------- YAML
LAUGHS = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (LAUGHS, "expand to more than"),
        ("a: &a [*a]\n", "stands inside the value that it names"),
        ("[" * 50_000, "nested deeper than"),
        ("{a: " * 5_000 + "1" + "}" * 5_000, "nested deeper than"),
        ("".join(" " * n + "a:\n" for n in range(300)), "nested deeper than"),
    ],
)
def test_yaml_that_unfolds_without_end(
    text: str, what: str, hydratune: Run, tmp_path: Path
) -> None:
    mine = tmp_path / "conf" / "experiment" / "mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text(f"# @package _global_\n{text}")
    start = time.monotonic()
    for given in (
        ["--config-dir", "conf"],
        ["--config-dir=conf"],
        [f"hydra.searchpath=[file://{tmp_path}/conf]"],
    ):
        code, said = hydratune("train", *given, "experiment=mine", "model=tiny")
        assert code == 2 and "experiment/mine.yaml" in said and what in said and len(said) < 1000, (
            said
        )
    assert time.monotonic() - start < 20


def test_a_runs_settings_that_unfold_without_end(hydratune: Run, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "status.json").write_text('{"state": "finished"}')
    (run / "config.yaml").write_text(LAUGHS)
    for command in (["compare", "run"], ["evaluate", "run=run"]):
        code, said = hydratune(*command)
        assert code in (1, 2) and "Traceback" not in said and len(said) < 3000, said


def test_yaml_with_usual_anchors_is_read(tmp_path: Path) -> None:
    file = tmp_path / "ok.yaml"
    file.write_text(
        "base: &b {x: 1, y: [1, 2]}\none: *b\ntwo:\n  <<: *b\n  z: &s text\nthree: [*s, *s]\n"
    )
    check_yaml(file)
    assert bounds.load_yaml(file).two.y == [1, 2]


def test_a_yaml_file_of_a_hundred_megabytes(tmp_path: Path) -> None:
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
def test_a_row_that_is_too_large(
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
    code, said = prepared(hydratune, f"data.train={file}")
    assert (
        code == 2
        and str(file) in said
        and "more than 100,000 characters" in said
        and len(said) < 1000
    ), said


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
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert "more than 33,554,432 characters" in said
    assert int(said.splitlines()[-1]) < (900_000 if kind == "parquet" else 300_000)  # KiB


# ------------------------------------------------------------------------------------------ schemas
@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"properties": {"n": {"$ref": "#/properties/n"}}},
        {
            "properties": {"n": {"$ref": "#/$defs/a"}},
            "$defs": {
                "a": {"allOf": [{"$ref": "#/$defs/b"}]},
                "b": {"anyOf": [{"$ref": "#/$defs/a"}]},
            },
        },
        {"if": {"$ref": "#"}},
    ],
)
def test_references_in_a_circle(schema: dict[str, Any], hydratune: Run, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "circle.json").write_text(json.dumps(schema))
    code, said = prepared(hydratune, "data.train=rows.jsonl", "data.schema_file=circle.json")
    assert (
        code == 2 and "circle.json" in said and "leads back to itself" in said and len(said) < 1000
    )


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"next": {"$ref": "#"}}},
        {"$ref": "#/$defs/a", "$defs": {"a": {"properties": {"b": {"$ref": "#/$defs/a"}}}}},
        {
            "allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}],
            "$defs": {"a": {"type": "object"}},
        },
    ],
)
def test_references_that_end_are_used(schema: dict[str, Any]) -> None:
    answers.check_schema(schema, "data.schema")


def test_a_reference_into_the_network_is_not_followed(hydratune: Run, tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        write_rows(tmp_path / "rows.jsonl", ROWS)
        (tmp_path / "far.json").write_text(
            json.dumps({"$ref": f"http://127.0.0.1:{server.getsockname()[1]}/schema.json"})
        )
        code, said = prepared(hydratune, "data.train=rows.jsonl", "data.schema_file=far.json")
        assert code == 2 and "far.json" in said and "must point into the schema itself" in said
        with pytest.raises(TimeoutError):
            server.accept()


SLOW = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(x+x+)+y$"}}}


def test_a_pattern_that_takes_for_ever(
    hydratune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "MAX_SECONDS", 0.5)
    answer = json.dumps({"a": "x" * 60})
    start = time.monotonic()
    assert not is_schema_valid(json.loads(answer), SLOW)
    assert schema_errors(json.loads(answer), SLOW) == ["$: could not be checked within 0.5 s"]
    assert not json_scores.score(answer, answer, SLOW)["schema_valid"]
    write_rows(tmp_path / "rows.jsonl", [*ROWS, {"prompt": "x", "completion": answer}])
    (tmp_path / "slow.json").write_text(json.dumps(SLOW))
    code, said = prepared(hydratune, "data.train=rows.jsonl", "data.schema_file=slow.json")
    assert code == 2 and "takes longer than 0.5 s" in said and len(said) < 1000, said
    assert (
        f"rows.jsonl:{len(ROWS) + 1}" in said
        and "data.schema_file = slow.json" in said
        and "rewrite the pattern '^(x+x+)+y$'" in said
    )
    assert time.monotonic() - start < 30


def test_time_is_bounded_and_the_alarm_is_put_back() -> None:
    import signal

    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(TooSlowError), time_limit(0.1), time_limit(100):
        time.sleep(5)
    assert signal.getsignal(signal.SIGALRM) is before and signal.getitimer(signal.ITIMER_REAL) == (
        0.0,
        0.0,
    )


# ---------------------------------------------------------------------------------------- templates
FINE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if"
    " add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ENDLESS = {
    "loops": (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor"
        " %}{% endfor %}{% endfor %}"
    ),
    "range": "{% for a in range(10**12) %}x{% endfor %}",
    "text": (
        "{% for a in range(99999) %}{% for b in range(99999) %}xxxxxxxxxxxxxxxxxxxxx{% endfor %}{%"
        " endfor %}"
    ),
    "product": "{{ 'x' * 10**11 }}",
    "doubling": (
        "{% set n = namespace(t='x') %}{% for i in range(60) %}{% set n.t = n.t ~ n.t %}{%"
        " endfor %}"
    ),
    "recursive macro": "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "bushy macro": (
        "{% macro f(n) %}{% if n < 60 %}{{ f(n + 1) }}{{ f(n + 1) }}{% endif %}{% endmacro %}{{"
        " f(0) }}"
    ),
    "power": "{{ 9**(9**9) }}",
    "width": "{{ '%1000000000000d' % 1 }}",
    "center": "{{ 'x' | center(100000000000) }}",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_that_never_ends(
    name: str, hydratune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendering, "MAX_SECONDS", 2)
    write_rows(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "endless.jinja").write_text(ENDLESS[name] + FINE)
    start = time.monotonic()
    code, said = prepared(hydratune, "data.train=rows.jsonl", "model.chat_template=endless.jinja")
    assert (
        code == 2
        and "template" in said
        and "rows.jsonl" in said
        and said.count("hydratune prepare:") == 1
    ), said
    assert time.monotonic() - start < 20


def test_a_template_that_never_ends_for_some_rows(
    hydratune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendering, "MAX_SECONDS", 2)
    write_rows(tmp_path / "rows.jsonl", [*ROWS, {"prompt": "now", "completion": "yes"}])
    (tmp_path / "trap.jinja").write_text(
        "{% if messages[0].content == 'now' %}" + ENDLESS["loops"] + "{% endif %}" + FINE
    )
    code, said = prepared(hydratune, "data.train=rows.jsonl", "model.chat_template=trap.jinja")
    assert (
        code == 2
        and "rows.jsonl:41: the chat template" in said
        and "it is not done after 2 s" in said
    ), said
    assert "rows.jsonl:1:" not in said  # one bad row does not condemn the others


def test_time_is_limited_in_other_threads_too() -> None:
    """Jobs of a pack render in threads, where no alarm can be set."""
    ended: list[str] = []

    def work() -> None:
        for expected in ("endless", "short"):
            try:
                with bounds.time_limit(0.5):
                    while expected == "endless":
                        pass
                ended.append(expected)
            except bounds.TooSlowError:
                ended.append("too slow")
        time.sleep(1)  # nothing arrives late

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(20)
    assert ended == ["too slow", "short"] and not thread.is_alive()


def test_the_fix_for_a_template_works(hydratune: Run, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "FILE").write_text(FINE)
    code, said = prepared(hydratune, "data.train=rows.jsonl", "model.chat_template=FILE")
    assert code == 0, said


@pytest.mark.parametrize(
    "name", [path.name for path in (Path(__file__).parent / "templates").iterdir()]
)
def test_real_templates_are_tried_without_harm(name: str) -> None:
    template = (Path(__file__).parent / "templates" / name).read_text()
    assert (
        rendering.try_template(
            template,
            {
                "messages": [{"role": "user", "content": "x"}],
                "tools": None,
                "bos_token": "",
                "eos_token": "",
            },
        )
        == ""
    )


def test_a_schema_without_patterns_that_takes_for_ever(
    hydratune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "MAX_SECONDS", 0.5)
    levels = {f"n{n}": {"allOf": [{"$ref": f"#/$defs/n{n + 1}"}] * 2} for n in range(40)}
    write_rows(tmp_path / "rows.jsonl", [*ROWS, {"prompt": "x", "completion": '{"a": {}}'}])
    (tmp_path / "wide.json").write_text(
        json.dumps({"properties": {"a": {"$ref": "#/$defs/n0"}}, "$defs": {**levels, "n40": {}}})
    )
    code, said = prepared(hydratune, "data.train=rows.jsonl", "data.schema_file=wide.json")
    assert (
        code == 2
        and f"rows.jsonl:{len(ROWS) + 1}" in said
        and "data.schema_file = wide.json" in said
    )
    assert "simplify the schema" in said and "(a+)+" not in said
