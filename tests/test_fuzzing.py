"""Random inputs to the readers of rows, answers, settings and run directories: a value, or one of
our errors, and nothing else.

The short tests draw the same few examples in every run; ``make test-all`` draws many new ones.
"""

import contextlib
import json
import shlex
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from hydratune.adapters import folder
from hydratune.bounds import check_yaml
from hydratune.comparison.runs import read_run
from hydratune.composition.arguments import check_settings, read_arguments
from hydratune.data.formats.reader import read_file
from hydratune.doctor import runs as doctor_runs
from hydratune.errors import HydratuneError
from hydratune.evaluation import json_scores
from hydratune.evaluation.judge.questions import ask_support, parse_answer
from hydratune.records.predictions import read_predictions
from hydratune.settings.overrides import as_typed

COMMON: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "phases": [Phase.generate],  # a failure is shown as it was drawn, at once
}
FEW = settings(**COMMON, max_examples=25, derandomize=True, database=None)
MANY = settings(**COMMON, max_examples=4_000)

TEXT = st.text(max_size=40) | st.sampled_from(
    [
        "",
        "null",
        "NaN",
        "\x00",
        "\ud800",
        "\u202e",
        "${oc.env:X}",
        "=1",
        "<b>",
        "9" * 5000,
        "[" * 300,
    ]
)
NAMES = st.sampled_from(
    [
        *("messages", "prompt", "completion", "text", "role", "content", "tools", "conversations"),
        *("from", "value", "id", "meta", "instruction", "output", "chosen", "rejected", "history"),
        *("tool_calls", "function", "name", "arguments", "train", "system", "label", "group"),
    ]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
ROLES = st.sampled_from(["user", "assistant", "system", "tool", "human", "gpt", "", "x"])
TURNS = st.lists(
    st.fixed_dictionaries({"role": ROLES, "content": SCALARS}, optional={"tool_calls": SCALARS}),
    max_size=4,
)
VALUES = st.recursive(
    SCALARS | TURNS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | TEXT, inner, max_size=5),
    max_leaves=12,
)
ROWS = st.dictionaries(NAMES, VALUES, max_size=6)


@contextlib.contextmanager
def folder_of_one() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def as_json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=True).encode()


# ------------------------------------------------------------------------------------------- rows
CONTENT = (
    st.lists(ROWS, max_size=4).map(lambda rows: b"\n".join(map(as_json, rows)))
    | st.lists(VALUES, max_size=3).map(as_json)
    | st.binary(max_size=200)
    | st.lists(st.lists(TEXT, max_size=3), max_size=4).map(
        lambda table: "\n".join(map(",".join, table)).encode("utf-8", "replace")
    )
)
ENDINGS = st.sampled_from(["jsonl", "json", "csv", "tsv", "txt", "md"])


def rows_are_read_or_refused(content: bytes, ending: str) -> None:
    with folder_of_one() as place:
        file = place / f"rows.{ending}"
        file.write_bytes(content)
        with contextlib.suppress(HydratuneError):
            for row in read_file(file, {}):
                assert row.messages and row.id


# ---------------------------------------------------------------------------------------- answers
def answers_have_scores(prediction: object, reference: object, text: str) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string", "pattern": "^a+$"}}}
    try:
        truth = json.dumps({"a": reference}, allow_nan=False)
    except ValueError:  # rows with such a reference are not scored as JSON
        return
    for answer in (json.dumps(prediction), text, truth):
        scores = json_scores.score(answer, truth, schema, "source")
        assert isinstance(scores["json_valid"], bool)
        assert isinstance(scores["exact_match"], bool)
    question = ask_support("request", text)
    for reply in (json.dumps(prediction), text, json.dumps({"feedback": text, "verdict": text})):
        opinion = parse_answer(reply, question)
        assert opinion is None or opinion.choice in question.choices


# --------------------------------------------------------------------------------------- settings
WORDS = st.lists(
    st.tuples(st.sampled_from(["", "+", "++", "~", "-", "--"]), NAMES | TEXT, TEXT).map(
        lambda parts: f"{parts[0]}{parts[1]}={parts[2]}"
    )
    | TEXT
    | st.sampled_from(["optimizer.lr=", "model=tiny", "-m", "--cfg", "adapter.r=1,2", "data=null"]),
    max_size=4,
)


def words_are_read_or_refused(words: list[str]) -> None:
    with contextlib.suppress(HydratuneError):
        read = read_arguments(words)
        check_settings(read.settings, "train")


def advice_means_the_value(value: str) -> None:
    """What a message says to type is read by shell and Hydra as the value itself."""
    if "\x00" in value or any(ord(c) in range(0xD800, 0xE000) for c in value):
        return  # cannot be typed
    (word,) = shlex.split(as_typed("run", value))
    assert OverridesParser.create().parse_override(word).value() == value, word


# --------------------------------------------------------------------------------- run directories
FILES = st.sampled_from(
    [
        *("status.json", "config.yaml", "metrics.json", "environment.json", "data.json"),
        *("predictions.jsonl", "history.csv", "digests.json", "adapter/adapter_config.json"),
        ".hydra/overrides.yaml",
    ]
)
STATUS = {"state": "finished"}
METRICS: dict[str, Any] = {"objective": 1.0, "settings": {"eval": {"rows": 1}}, "intervals": {}}


def run_directories_are_read_or_refused(name: str, content: bytes) -> None:
    with folder_of_one() as place:
        for inner in (".hydra", "adapter"):
            (place / inner).mkdir()
        (place / "status.json").write_bytes(as_json(STATUS))
        (place / "metrics.json").write_bytes(as_json(METRICS))
        (place / "adapter" / "adapter_model.safetensors").touch()
        (place / name).write_bytes(LARGE.get(content, content))
        run = read_run(place)
        assert isinstance(run.name, str) and isinstance(run.state, str)
        for use in (
            lambda: (run.objective, run.over_budget, run.test_hash, run.truncated_answers),
            lambda: (run.value("objective"), run.interval("objective"), run.validation_rows_hash),
            run.history,
            run.predictions,
            lambda: read_predictions(place / "predictions.jsonl"),
            lambda: folder.find(str(place)),
            lambda: doctor_runs._look_at(place),
            lambda: doctor_runs._command(place),
        ):
            with contextlib.suppress(HydratuneError):
                use()


def settings_are_read_or_refused(content: bytes) -> None:
    with folder_of_one() as place:
        file = place / "config.yaml"
        file.write_bytes(LARGE.get(content, content))
        with contextlib.suppress(HydratuneError):
            check_yaml(file)


# names stand for these in what is drawn, so that a failure can be printed
LARGE = {
    b"deep list": b"[" * 100_000,
    b"deep object": b'{"a":' * 100_000,
    b"closed": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    b"long number": b'{"objective": ' + b"9" * 5000 + b"}",
    b"constants": b'{"objective": NaN, "state": Infinity}',
}
BYTES = (
    VALUES.map(as_json)
    | st.binary(max_size=120)
    | st.sampled_from([*LARGE, b"\xff\xfe", b"a: *a", b""])
    | st.dictionaries(st.sampled_from([*STATUS, *METRICS, "error", "halved", "rungs"]), VALUES).map(
        as_json
    )
)

PROPERTIES: dict[str, tuple[Callable[..., None], dict[str, st.SearchStrategy[Any]]]] = {
    "rows": (rows_are_read_or_refused, {"content": CONTENT, "ending": ENDINGS}),
    "answers": (answers_have_scores, {"prediction": VALUES, "reference": VALUES, "text": TEXT}),
    "words": (words_are_read_or_refused, {"words": WORDS}),
    "advice": (advice_means_the_value, {"value": TEXT}),
    "runs": (run_directories_are_read_or_refused, {"name": FILES, "content": BYTES}),
    "yaml": (settings_are_read_or_refused, {"content": BYTES}),
}


@pytest.mark.parametrize("name", PROPERTIES)
def test_random_input_gives_a_value_or_one_of_our_errors(name: str) -> None:
    check, inputs = PROPERTIES[name]
    FEW(given(**inputs)(check))()


@pytest.mark.slow
@pytest.mark.parametrize("name", PROPERTIES)
def test_much_random_input_gives_a_value_or_one_of_our_errors(name: str) -> None:
    check, inputs = PROPERTIES[name]
    MANY(given(**inputs)(check))()
