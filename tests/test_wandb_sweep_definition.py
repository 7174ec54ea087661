"""What a W&B sweep's definition can hold, and what is said of a wrong one before any trial."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hydratune.commands.sweep import train_arguments
from hydratune.errors import ConfigError, InputError
from hydratune.settings.overrides import value_text
from hydratune.sweeps.wandb_sweep.definition import read_definition
from hydratune.tracking.wandb_options import _with_parameters
from hydratune.tracking.wandb_sweep import parse_sweep
from wandb_sweep_cases import sweep_file

Command = Callable[..., tuple[int, str]]
RATES: dict[str, Any] = {"optimizer.lr": {"values": [1e-3, 3e-3]}}


def definition(**values: Any) -> dict[str, Any]:
    return {"method": "grid", "parameters": RATES, "program": "hydratune", **values}


def problems(**values: Any) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        read_definition(definition(**values), "toy.yaml")
    assert "W&B sweep toy.yaml: " in str(caught.value)
    return {problem.key: f"{problem.why}; {problem.fix}" for problem in caught.value.problems}


def test_dotted_nested_and_group_parameters_are_settings() -> None:
    read = read_definition(
        definition(
            method="random",
            parameters={
                "optimizer": {"parameters": {"lr": {"min": 1e-4, "max": 1e-2}}},
                "adapter.r": {"distribution": "q_uniform", "min": 4, "max": 16, "q": 4},
                "adapter": {"values": ["lora", "dora"]},
                "seed": {"value": 7},
            },
        ),
        "toy.yaml",
    )
    drawn = {"optimizer": {"lr": 0.003}, "adapter.r": 8, "adapter": "dora", "seed": 7}
    assert read.overrides(drawn) == {
        "optimizer.lr": "0.003",
        "adapter.r": "8",
        "adapter": "dora",
        "seed": "7",
    }
    corners = list(read.corners())
    assert {corner["optimizer.lr"] for corner in corners} == {"0.0001", "0.01"}
    assert {corner["adapter.r"] for corner in corners} == {"4", "16"}
    assert {corner["adapter"] for corner in corners} == {"lora", "dora"} and len(corners) == 4


def test_what_varies_is_without_parameters_of_one_value() -> None:
    parameters = {"adapter.r": {"values": [4, 8]}, "seed": {"value": 7}, "name": {"values": ["a"]}}
    read = read_definition(definition(parameters=parameters), "toy.yaml")
    assert read.varying({"adapter.r": 8, "seed": 7, "name": "a"}) == {"adapter.r": "8"}
    constant = read_definition(definition(parameters={"seed": {"value": 7}}), "toy.yaml")
    assert constant.varying({"seed": 7}) == {"seed": "7"}


def test_a_parameter_of_a_queued_trial_need_not_be_in_the_definition() -> None:
    read = read_definition(definition(), "toy.yaml")
    assert read.overrides({"seed": 3}) == {"seed": "3"}


@pytest.mark.parametrize(
    ("spec", "ends"),
    [
        ({"distribution": "log_uniform", "min": 0, "max": 0}, {1.0}),
        ({"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2}, {1e-4, 1e-2}),
        ({"distribution": "uniform", "min": 1, "max": 2}, {1.0, 2.0}),
        ({"distribution": "normal", "mu": 2, "sigma": 1}, {2.0}),
        ({"min": 2, "max": 9}, {2, 9}),
    ],
)
def test_ends_of_a_distribution(spec: dict[str, Any], ends: set[float]) -> None:
    read = read_definition(definition(method="random", parameters={"seed": spec}), "toy.yaml")
    assert set(read.parameters[0].samples) == ends


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-05, "1e-05"),
        (True, "true"),
        (None, "null"),
        ("lora", "lora"),
        ("1e-4", "1e-4"),  # what YAML takes for a text, W&B's agent types as a number
        ("a,b", '"a,b"'),  # no sweep of its own
        ("Answer: yes", "Answer: yes"),
        (["q_proj", "a,b"], '["q_proj","a,b"]'),
        ({"mlp": 0.5}, "{mlp:0.5}"),
    ],
)
def test_values_as_overrides(value: object, text: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    assert value_text("key", value) == text
    override = OverridesParser.create().parse_override(f"key={text}")
    assert not override.is_sweep_override()
    read = override.value()
    assert read == (1e-4 if value == "1e-4" else value)


def test_everything_wrong_is_said_at_once() -> None:
    found = problems(
        method="genetic",
        parameters={
            "optimizer.lr": {"min": "1e-4", "max": 1e-2},
            "seed": {"values": []},
            "adapter.r": {"min": 8, "max": 4},
            "trainer.max_steps": 7,
        },
        metric={"name": "val/los", "goal": "minimize"},
    )
    assert "grid, random, bayes" in found["method"]
    assert "'1e-4' as a text" in found["parameters.optimizer.lr"]
    assert (
        "is empty" in found["parameters.seed"] and "min is above" in found["parameters.adapter.r"]
    )
    assert "which values" in found["parameters.trainer.max_steps"]
    assert "no run has such a metric" in found["metric.name"]
    assert "did you mean name: val/loss?" in found["metric.name"]


def test_parameters_are_needed() -> None:
    assert "nothing varies" in problems(parameters={})["parameters"]
    assert "nothing varies" in problems(parameters=None)["parameters"]


def test_a_grid_has_no_ranges() -> None:
    found = problems(parameters={"optimizer.lr": {"min": 1e-4, "max": 1e-2}})
    assert "a grid needs" in found["parameters.optimizer.lr"]


@pytest.mark.parametrize(
    ("values", "key", "text"),
    [
        ({"method": "bayes"}, "metric", "bayes needs the name"),
        (
            {"early_terminate": {"type": "hyperband"}, "metric": {"name": "objective"}},
            "metric.name",
            "known at their end only",
        ),
        ({"metric": {"name": "val/loss", "goal": "maximize"}}, "metric.goal", "less of val/loss"),
        ({"metric": {"name": "val/loss", "goal": "down"}}, "metric.goal", "no such goal"),
        (
            {"metric": {"name": "eval/field_f1", "goal": "maximize"}},
            "metric.name",
            "it would choose on the test rows, whose score then says nothing about new rows; choose"
            " on the validation rows instead: trainer.monitor=val/field_f1 among the settings, and"
            " metric: {name: val/field_f1",
        ),
    ],
)
def test_the_metric_is_one_that_runs_log(values: dict[str, Any], key: str, text: str) -> None:
    assert text in problems(**values)[key]


def test_settings_of_the_command_count() -> None:
    read = read_definition(
        definition(
            command=[
                "${env}",
                "python",
                "-m",
                "hydratune",
                "train",
                "tracking=online",
                "--seed=3",
                "hydra.run.dir=x",
                "${args}",
            ]
        ),
        "toy.yaml",
    )
    assert read.words == ("tracking=online", "seed=3")


def test_another_program_is_refused() -> None:
    command = ["${env}", "python", "train.py", "${args}"]
    assert "another program" in problems(command=command)["command"]
    command = ["hydratune", "train", "-m", "${args_no_hyphens}"]
    assert "one run" in problems(command=command)["command"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("abc", (None, None, "abc")),
        ("p/abc", (None, "p", "abc")),
        ("e/p/abc", ("e", "p", "abc")),
        ("https://wandb.ai/e/p/sweeps/abc?workspace=me", ("e", "p", "abc")),
        ("http://127.0.0.1:8/e/p/sweeps/abc", ("e", "p", "abc")),
    ],
)
def test_names_of_a_sweep(text: str, parts: tuple[str | None, ...]) -> None:
    assert parse_sweep(text) == parts


@pytest.mark.parametrize("text", ["", "a/b/c/d", "a b", "/x"])
def test_what_names_no_sweep(text: str) -> None:
    with pytest.raises(ValueError):
        parse_sweep(text)


def test_arguments_of_the_command(tmp_path: Path) -> None:
    file = sweep_file(tmp_path, RATES)
    assert train_arguments(
        ["e/p/id", "count=3", "--together=2", "seed=1", "--config-dir", "x"]
    ) == [
        "-m",
        "hydra/sweeper=wandb",
        'hydra.sweeper.sweep="e/p/id"',
        "hydra.sweeper.count=3",
        "hydra.sweeper.together=2",
        "seed=1",
        "--config-dir",
        "x",
    ]
    assert f'hydra.sweeper.file="{file}"' in train_arguments([str(file)])
    for words in (["count=2"], ["a", "b"], ["missing.yaml"]):
        with pytest.raises(InputError):
            train_arguments(words)


def test_parameters_keep_the_settings_that_they_hide() -> None:
    settings = {"adapter": {"r": 8, "method": "lora"}, "optimizer": {"lr": 1, "beta": 2}, "seed": 0}
    drawn = {"adapter": "lora", "optimizer": {"lr": 3}, "data.batch_size": 4}
    assert _with_parameters(settings, drawn) == {
        "adapter": "lora",
        "adapter.r": 8,
        "adapter.method": "lora",
        "optimizer": {"lr": 3, "beta": 2},
        "seed": 0,
        "data.batch_size": 4,
    }


@pytest.fixture
def typed(hydratune: Command, tmp_path: Path) -> Callable[..., str]:
    """Run a sweep of these parameters, which is refused; return what is printed."""

    def call(parameters: dict[str, Any], *words: str, **more: Any) -> str:
        file = sweep_file(tmp_path, parameters, **more)
        code, text = hydratune("sweep", str(file), *words)
        assert code == 2 and "hydratune sweep:" in text and "Traceback" not in text, text
        assert not list(tmp_path.glob("outputs/*/*"))
        return " ".join(text.split())

    return call


def test_wrong_settings_are_said_with_the_name_of_the_file(typed: Callable[..., str]) -> None:
    text = typed({"optimizer.lrr": {"values": [1, 2]}})
    assert "toy.yaml" in text and "did you mean optimizer.lr?" in text
    text = typed({"adapter": {"values": ["lora", "lorra"]}})
    assert "toy.yaml" in text and "did you mean lora?" in text
    text = typed({"optimizer.lr": {"values": [1e-3, -1.0]}, "adapter.r": {"values": [0]}})
    assert "optimizer.lr = -1.0" in text and "adapter.r = 0" in text


def test_metric_of_answers_is_measured_if_trials_monitor_it(typed: Callable[..., str]) -> None:
    metric = {"name": "val/field_f1", "goal": "maximize"}
    text = typed(RATES, metric=metric)
    assert "toy.yaml" in text and "set trainer.monitor=val/field_f1" in text
    text = typed(RATES, "trainer.monitor=val/field_f1", metric=metric)
    assert "WANDB_MODE" in text and "metric" not in text  # it is right


def test_what_varies_stands_in_the_sweep(typed: Callable[..., str]) -> None:
    assert "stands in the W&B sweep" in typed(RATES, "seed=1,2")
    assert "hydra.sweeper.params.adapter.r" in typed(RATES, "sweep=rank")


def test_texts_of_a_definition_are_not_sent_if_log_text_is_off(typed: Callable[..., str]) -> None:
    texts = {"data.system_prompt": {"values": ["secret one", "secret two"]}}
    text = typed(texts, "tracking.log_text=false")
    assert "parameters.data.system_prompt = a text" in text and "secret" not in text
    command = ["hydratune", "train", "tracking.log_text=false", "data.system_prompt=secret"]
    text = typed(RATES, command=command)
    assert "type data.system_prompt=... after hydratune sweep FILE" in text
    text = typed(RATES, "tracking.log_text=false", "data.system_prompt=secret")
    assert "WANDB_MODE" in text and "definition" not in text  # what is typed stays here


def test_secrets_anywhere_in_a_file_are_refused(typed: Callable[..., str]) -> None:
    secret = "hf_" + "a1" * 15
    text = typed(RATES, description=f"made with {secret}")
    assert "description = ***" in text and secret not in text
    text = typed(RATES, command=["env", f"HF_TOKEN={secret}", "hydratune", "train"])
    assert "command = ***" in text and secret not in text


def test_a_parameter_that_changes_nothing_is_said_before(typed: Callable[..., str]) -> None:
    epochs = {"trainer.max_epochs": {"values": [1, 2]}}
    words = ("data.max_train_rows=64", "trainer.max_steps=2")
    text = typed(epochs, *words)
    assert "trainer.max_epochs = 1,2" in text and "trainer.max_steps=2 ends training" in text
    # it may have an effect beside other values of another parameter
    text = typed({**epochs, **RATES}, *words)
    assert "WANDB_MODE" in text and "trainer.max_steps=2 ends training" in text


def test_data_are_checked_before_a_sweep_is_created(
    typed: Callable[..., str], tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"q": "a", "b": "c"}\n')
    command = ["hydratune", "train", "model=tiny", "data=files", f"data.train={rows}"]
    text = typed(RATES, command=command)
    assert "no known layout in the columns q, b" in text


def test_a_sweep_needs_its_server(typed: Callable[..., str]) -> None:
    assert "unset WANDB_MODE" in typed(RATES)  # tests run with WANDB_MODE=disabled
    assert "tracking.mode = offline" in typed(RATES, "tracking=offline")


def test_options_are_checked(typed: Callable[..., str]) -> None:
    assert "count = 0" in typed(RATES, "count=0") and "together = 0" in typed(RATES, "together=0")
    assert "early_terminate" in typed(RATES, "hydra.launcher.halving.min_steps=2")


def test_the_sweeper_needs_a_sweep_or_a_file(hydratune: Command, tmp_path: Path) -> None:
    code, text = hydratune("train", "-m", "hydra/sweeper=wandb")
    assert code == 2 and "hydra.sweeper.file=FILE.yaml" in text
    file = sweep_file(tmp_path, {"sed": {"values": [1, 2]}})
    code, text = hydratune("train", "-m", "hydra/sweeper=wandb", f"hydra.sweeper.file={file}")
    assert code == 2 and "did you mean seed?" in text and "hydratune train:" in text


def test_settings_of_hydratune_are_no_definition(hydratune: Command) -> None:
    from hydratune.composition import CONF

    file = CONF.parent / "sweeps" / "rank.yaml"
    code, text = hydratune("sweep", str(file))
    assert code == 2 and "-m sweep=rank" in text and "sweeps/wandb/rank.yaml" in text


def test_help_of_the_command(hydratune: Command) -> None:
    code, text = hydratune("sweep", "--help")
    assert code == 0 and "count=N" in text and "together=4" in text
    assert hydratune("sweep")[0] == 2


def test_nothing_heavy_is_imported_to_refuse_a_sweep(tmp_path: Path) -> None:
    import subprocess
    import sys

    file = tmp_path / "x.yaml"
    file.write_text(yaml.safe_dump(definition(parameters={"seeed": {"values": [1]}})))
    code = (
        f"import sys, json; from hydratune.cli import main; code = main(['sweep', {str(file)!r}]);"
        " print(json.dumps([code, [m for m in ('torch', 'wandb', 'transformers')"
        " if m in sys.modules]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [2, []], done.stderr
