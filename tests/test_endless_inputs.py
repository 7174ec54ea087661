"""Schemas and templates that take too long or never end are refused with one message."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from conftest import write_rows
from hydratune import bounds
from hydratune.bounds import TooSlowError, time_limit
from hydratune.data import answers
from hydratune.data.answers import (
    is_schema_valid,
    schema_errors,
)
from hydratune.data.encoding import rendering
from hydratune.evaluation import json_scores
from prepare_inputs import ROWS, Run, run_prepare


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
def test_circular_references_are_refused(
    schema: dict[str, Any], hydratune: Run, tmp_path: Path
) -> None:
    write_rows(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "circle.json").write_text(json.dumps(schema))
    code, output = run_prepare(hydratune, "data.train=rows.jsonl", "data.schema_file=circle.json")
    assert (
        code == 2
        and "circle.json" in output
        and "leads back to itself" in output
        and len(output) < 1000
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
        code, output = run_prepare(hydratune, "data.train=rows.jsonl", "data.schema_file=far.json")
        assert code == 2 and "far.json" in output and "must point into the schema itself" in output
        with pytest.raises(TimeoutError):
            server.accept()


SLOW_PATTERN = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(x+x+)+y$"}}}


@pytest.mark.slow
def test_a_pattern_that_takes_too_long_is_refused(
    hydratune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "MAX_SECONDS", 0.5)
    answer = json.dumps({"a": "x" * 60})
    start = time.monotonic()
    assert not is_schema_valid(json.loads(answer), SLOW_PATTERN)
    assert schema_errors(json.loads(answer), SLOW_PATTERN) == [
        "$: could not be checked within 0.5 s"
    ]
    assert not json_scores.score(answer, answer, SLOW_PATTERN)["schema_valid"]
    write_rows(tmp_path / "rows.jsonl", [*ROWS, {"prompt": "x", "completion": answer}])
    (tmp_path / "slow.json").write_text(json.dumps(SLOW_PATTERN))
    code, output = run_prepare(hydratune, "data.train=rows.jsonl", "data.schema_file=slow.json")
    assert code == 2 and "takes longer than 0.5 s" in output and len(output) < 1000, output
    assert (
        f"rows.jsonl:{len(ROWS) + 1}" in output
        and "data.schema_file = slow.json" in output
        and "rewrite the pattern '^(x+x+)+y$'" in output
    )
    assert time.monotonic() - start < 30


def test_time_is_bounded_and_the_alarm_is_restored() -> None:
    import signal

    before = signal.getsignal(signal.SIGALRM)
    start = time.monotonic()
    with pytest.raises(TooSlowError), time_limit(0.1), time_limit(100):
        while time.monotonic() < start + 20:
            pass
    assert signal.getsignal(signal.SIGALRM) is before and signal.getitimer(signal.ITIMER_REAL) == (
        0.0,
        0.0,
    )


@pytest.mark.parametrize("is_main", [True, False])
def test_time_in_which_the_process_is_stopped_does_not_count(is_main: bool) -> None:
    """As by a suspended machine, or a cluster that suspends a job."""
    outcomes: list[str] = []

    def wait() -> None:
        try:
            with time_limit(0.1):
                time.sleep(0.6)
            outcomes.append("done")
        except TooSlowError:
            outcomes.append("too slow")

    if is_main:
        wait()
    else:
        thread = threading.Thread(target=wait)
        thread.start()
        thread.join()
    assert outcomes == ["done"]


# ---------------------------------------------------------------------------------------- templates
CHATML = (
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


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n == "power" else ()) for n in ENDLESS]
)
def test_a_template_that_never_ends_is_refused(
    name: str, hydratune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendering, "MAX_SECONDS", 0.5)
    write_rows(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "endless.jinja").write_text(ENDLESS[name] + CHATML)
    start = time.monotonic()
    code, output = run_prepare(
        hydratune, "data.train=rows.jsonl", "model.chat_template=endless.jinja"
    )
    assert (
        code == 2
        and "template" in output
        and "rows.jsonl" in output
        and output.count("hydratune prepare:") == 1
    ), output
    assert time.monotonic() - start < 20


def test_a_template_that_never_ends_for_one_row_names_that_row(
    hydratune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendering, "MAX_SECONDS", 0.5)
    write_rows(tmp_path / "rows.jsonl", [*ROWS, {"prompt": "now", "completion": "yes"}])
    (tmp_path / "trap.jinja").write_text(
        "{% if messages[0].content == 'now' %}" + ENDLESS["loops"] + "{% endif %}" + CHATML
    )
    code, output = run_prepare(hydratune, "data.train=rows.jsonl", "model.chat_template=trap.jinja")
    assert (
        code == 2
        and "rows.jsonl:41: the chat template" in output
        and "it is not done after 0.5 s" in output
    ), output
    assert "rows.jsonl:1:" not in output  # the other rows are not refused


def test_time_is_limited_in_other_threads_too() -> None:
    """The jobs of a pack render templates in threads, where no alarm can be set."""
    outcomes: list[str] = []

    def work() -> None:
        for expected in ("endless", "short"):
            try:
                with bounds.time_limit(0.5):
                    while expected == "endless":
                        pass
                outcomes.append(expected)
            except bounds.TooSlowError:
                outcomes.append("too slow")
        time.sleep(1)  # no exception arrives later

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(20)
    assert outcomes == ["too slow", "short"] and not thread.is_alive()


def test_signals_to_all_processes_of_a_run_do_not_make_a_template_slow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As when a cluster takes the machine away, or by Ctrl-C in a terminal."""
    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def signalled(*words: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(start(*words, **options))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
            started[0].send_signal(number)
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", signalled)
    assert rendering.try_template(CHATML, {"messages": [{"role": "user", "content": "x"}]}) == ""
    assert [process.returncode for process in started] == [0]


def test_a_template_that_crashes_its_process_is_not_rendered_in_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = tmp_path / "crash.py"
    crash.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setattr(rendering, "_TRIAL", crash)
    assert rendering.try_template(CHATML, {}) == (
        "it makes the process crash that renders it (SIGSEGV)"
    )


def test_the_fix_for_a_template_works(hydratune: Run, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "FILE").write_text(CHATML)
    code, output = run_prepare(hydratune, "data.train=rows.jsonl", "model.chat_template=FILE")
    assert code == 0, output


@pytest.mark.parametrize(
    "name", [path.name for path in (Path(__file__).parent / "templates").iterdir()]
)
def test_templates_of_real_families_pass_the_trial(name: str) -> None:
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


def test_a_schema_without_patterns_that_takes_too_long_is_refused(
    hydratune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "MAX_SECONDS", 0.5)
    levels = {f"n{n}": {"allOf": [{"$ref": f"#/$defs/n{n + 1}"}] * 2} for n in range(40)}
    write_rows(tmp_path / "rows.jsonl", [*ROWS, {"prompt": "x", "completion": '{"a": {}}'}])
    (tmp_path / "wide.json").write_text(
        json.dumps({"properties": {"a": {"$ref": "#/$defs/n0"}}, "$defs": {**levels, "n40": {}}})
    )
    code, output = run_prepare(hydratune, "data.train=rows.jsonl", "data.schema_file=wide.json")
    assert (
        code == 2
        and f"rows.jsonl:{len(ROWS) + 1}" in output
        and "data.schema_file = wide.json" in output
    )
    assert "simplify the schema" in output and "(a+)+" not in output


def test_a_time_limit_whose_first_error_is_ignored_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    class Finaliser:
        def __del__(self) -> None:  # Python ignores what is raised in here
            until = time.monotonic() + 5
            while time.monotonic() < until:
                pass

    monkeypatch.setattr(sys, "unraisablehook", lambda ignored: None)
    monkeypatch.setattr(bounds, "_REPEATED", 0.1)
    start = time.monotonic()
    with pytest.raises(TooSlowError), time_limit(0.1):
        Finaliser()
        while time.monotonic() < start + 20:
            pass
    assert time.monotonic() < start + 10
