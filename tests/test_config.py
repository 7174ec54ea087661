import os
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml
from omegaconf import OmegaConf

from hydratune.composition import CONF, composition_problems, register, sweep_name
from hydratune.data.cases.base import CaseData
from hydratune.data.sources.files import FilesData
from hydratune.errors import ConfigError
from hydratune.settings.commands import COMMANDS, EvaluateConfig, TrainConfig, load
from hydratune.settings.not_given import not_given
from hydratune.settings.registry import plain, typed, variants
from hydratune.settings.secrets import mask, refuse_secrets
from hydratune.sweeps.wandb_sweep.definition import read_definition

Command = Callable[..., tuple[int, str]]
PATH_WORDS = r"(?i)\b(path|folder|file|directory|jsonl)\b|\w_(file|path|dir)\b"


def compose(*overrides: str, command: str = "train") -> TrainConfig:
    register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return typed(hydra.compose(command, ["name=test", *overrides]), COMMANDS[command])


def problems(*overrides: str) -> dict[str, str]:
    """Return key -> message of every problem."""
    register()
    return {p.key: str(p) for p in composition_problems("train", ["name=test", *overrides])}


CASES = [name for name, kind in variants("data").items() if issubclass(kind, CaseData)]
REQUIRED = {
    "model=local": ["model.path=."],
    "model=hub": ["model.id=a/b"],
    "data=files": ["data.train=x.jsonl"],
    "data=hub": ["data.id=a/b"],
    "data=prepared": ["data.path=."],
    **{f"{group}={case}": ["data.path=."] for group in ("data", "experiment") for case in CASES},
    "data=earnings_call": ["data.train=calls.csv"],
    "experiment=earnings_call": ["data.train=calls.csv"],
}


def options() -> list[str]:
    groups_and_names = []
    for group in (
        "model",
        "data",
        "adapter",
        "optimizer",
        "trainer",
        "evaluation",
        "tracking",
        "experiment",
        "debug",
        "sweep",
    ):
        groups_and_names += [
            f"{group}={file.stem}" for file in sorted((CONF / group).glob("*.yaml"))
        ]
    return groups_and_names


@pytest.mark.parametrize("option", options())
def test_every_shipped_option_composes_into_its_types(option: str) -> None:
    settings = compose(option, *REQUIRED.get(option, []))
    assert isinstance(settings, TrainConfig)
    assert typed(OmegaConf.create(plain(settings)), TrainConfig) == settings


def test_shipped_options_are_found() -> None:
    assert {
        "model=smollm2_135m",
        "debug=smoke",
        "sweep=learning_rate",
        "adapter=none",
        "trainer=ddp",
    } <= set(options())


def test_default_is_the_full_contracts_experiment() -> None:
    assert compose() == compose("experiment=contracts_full", "name=test")


def test_the_main_job_is_a_part_of_the_full_one_with_a_curve() -> None:
    light, full = compose("experiment=contracts"), compose("experiment=contracts_full")
    assert light.trainer.max_epochs * light.trainer.validations_per_epoch >= 5
    assert light.data.max_train_rows == 96 and light.data.max_test_rows == 40
    for name in ("max_train_rows", "max_validation_rows", "max_test_rows"):
        setattr(light.data, name, None)
    light.optimizer.lr, light.trainer.max_epochs = full.optimizer.lr, full.trainer.max_epochs
    light.trainer.validations_per_epoch = full.trainer.validations_per_epoch
    assert light == full


def values_of_wandb(parameter: dict[str, Any]) -> list[float]:
    """Return the values of a parameter of a W&B sweep, or both ends of its range."""
    values = parameter.get("values") or [parameter["min"], parameter["max"]]
    # YAML 1.1 reads 1e-4 as a string
    assert all(isinstance(value, int | float) for value in values)
    return [float(value) for value in values]


def values_of_hydra(text: object) -> list[float]:
    """Return the values of a swept setting, or both ends of its range."""
    return [
        float(value)
        for value in str(text).removeprefix("tag(log, interval(").rstrip(")").split(",")
    ]


@pytest.mark.parametrize("name", [f.stem for f in sorted((CONF.parent / "sweeps").glob("*.yaml"))])
def test_wandb_twin_has_the_same_parameters_and_they_exist(name: str) -> None:
    file = CONF.parent / "sweeps" / "wandb" / f"{name}.yaml"
    twin = yaml.safe_load(file.read_text())  # as W&B reads it
    read_definition(twin, file.name)
    sweeper = OmegaConf.load(CONF.parent / "sweeps" / file.name).hydra.sweeper
    assert {key: values_of_wandb(parameter) for key, parameter in twin["parameters"].items()} == {
        key: values_of_hydra(values) for key, values in sweeper.params.items()
    }
    assert twin.get("run_cap") == sweeper.get("n_trials")
    program, command, *fixed, swept = twin["command"]
    assert (program, command, swept) == ("hydratune", "train", "${args_no_hyphens}")
    assert not any("${" in word for word in fixed)  # the agent would expand it
    chosen = {key: values_of_wandb(p)[-1] for key, p in twin["parameters"].items()}
    words = [f"{key}={value:g}" for key, value in chosen.items()]
    settings = compose(*fixed, "tracking=offline", *words)
    assert all(float(attrgetter(key)(settings)) == value for key, value in chosen.items())
    assert settings == compose(f"sweep={name}", *words)
    assert file.read_text().startswith(f"# hydratune sweep sweeps/wandb/{name}.yaml ")


@pytest.mark.parametrize(
    "file", sorted((CONF.parent / "sweeps").glob("*.yaml")), ids=lambda f: f.stem
)
def test_sweep_begins_with_its_purpose_and_its_command(file: Path) -> None:
    package, purpose, command = file.read_text().splitlines()[:3]
    assert package == "# @package _global_" and purpose[2].isupper()
    assert command == f"# hydratune train -m sweep={file.stem}"


def test_unknown_key_names_the_nearest() -> None:
    assert (
        "did you mean adapter.lora_alpha?" in problems("adapter.lora_alhpa=3")["adapter.lora_alhpa"]
    )
    assert "did you mean optimizer.lr?" in problems("optimizer.lrr=3")["optimizer.lrr"]
    assert "did you mean seed?" in problems("sed=3")["sed"]


def test_added_key_is_refused_like_a_typo() -> None:
    assert "did you mean adapter.r?" in problems("+adapter.rnak=8")["adapter.rnak"]


def test_wrong_type_and_bad_enum_are_refused() -> None:
    refused = problems("adapter.r=abc", "data.overlength=crop")
    assert "abc" in refused["adapter.r"]
    assert "drop" in refused["data.overlength"]


def test_unknown_group_and_option_are_refused() -> None:
    assert "lora" in problems("adapter=lroa")["adapter"]
    assert "did you mean lora?" in problems("adapter=lroa")["adapter"]


def test_all_problems_are_shown_at_once() -> None:
    refused = problems(
        "adapter.rnak=8",
        "optimizer.lr=0",
        "trainer.max_epochs=0",
        "adapter.r=0",
        "model=nope",
        "data.batch_size=x",
    )
    assert {
        "adapter.rnak",
        "optimizer.lr",
        "trainer.max_epochs",
        "adapter.r",
        "model",
        "data.batch_size",
    } <= set(refused)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("optimizer.lr=-1e-4", "optimizer.lr"),
        ("optimizer.lr=inf", "optimizer.lr"),
        ("optimizer.lr=nan", "optimizer.lr"),
        ("adapter.r=0", "adapter.r"),
        ("adapter.lora_dropout=1", "adapter.lora_dropout"),
        ("adapter.target_modules=[]", "adapter.target_modules"),
        ("trainer.max_epochs=0", "trainer.max_epochs"),
        ("trainer.precision=fp8", "trainer.precision"),
        ("trainer.accelerator=tpu", "trainer.accelerator"),
        ("trainer.devices=2", "trainer.devices"),
        ("trainer.gradient_clip_val=0", "trainer.gradient_clip_val"),
        ("data.max_length=9000", "data.max_length"),
        ("data.batch_size=0", "data.batch_size"),
        ("data.validation_fraction=1", "data.validation_fraction"),
        ("evaluation.shots=0", "evaluation.shots"),
        ("evaluation.confidence=95", "evaluation.confidence"),
        ("optimizer.warmup_ratio=1", "optimizer.warmup_ratio"),
        ("optimizer.betas=[0.9]", "optimizer.betas"),
        ("model.chat_template=nope.jinja", "model.chat_template"),
        ("seed=-1", "seed"),
    ],
)
def test_value_out_of_range_is_refused_with_a_fix(override: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(override).check()
    assert [p.key for p in caught.value.problems] == [key]
    assert all(p.why and p.fix for p in caught.value.problems)


def test_quantised_base_cannot_be_trained_in_full() -> None:
    with pytest.raises(ConfigError, match="QLoRA"):
        compose("adapter=none", "model.quantization=nf4").check()


@pytest.mark.parametrize(
    ("option", "fix"),
    [
        ("model=Owner/Name-360M", "model=hub model.id=Owner/Name-360M"),
        ("model=./folder", "model=local model.path=./folder"),
        ("model=weights", "model=local model.path=weights"),
        ("model=~/weights", "model=local 'model.path=\"~/weights\"'"),
        ("data=owner/name", "data=hub data.id=owner/name"),
        ("data=./rows.jsonl", "data=files data.train=./rows.jsonl"),
        ("data=weights", "data=files data.train=weights/rows.jsonl"),
        ("data=prepared_before", "data=prepared data.path=prepared_before"),
        ("data=empty", "data=hub data.id=empty, if the package datasets wrote this folder"),
    ],
)
def test_paths_and_names_as_options_say_what_to_type(
    option: str, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("weights/rows.jsonl", "prepared_before/report.json", "empty/notes"):
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).touch()
    (problem,) = composition_problems("train", [option])
    assert (problem.key, problem.value) == tuple(option.split("="))
    assert problem.fix == fix


@pytest.mark.parametrize(
    ("option", "key", "example"),
    [
        ("data=files", "data.train", "rows.jsonl"),
        ("data=prepared", "data.path", "FOLDER"),
        ("model=hub", "model.id", "OWNER/NAME"),
    ],
)
def test_a_setting_that_is_not_given_has_an_example(option: str, key: str, example: str) -> None:
    (problem,) = composition_problems("train", [option])
    assert (problem.key, problem.value) == (key, "(not given)")
    assert problem.fix == f"give it, for example: {key}={example}"


def test_a_missing_file_names_the_nearest_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.csv", "rows_old.jsonl", "rows.jsonl", "x.json", "rows.md"):
        (tmp_path / name).touch()

    def fix(path: str) -> str:
        (problem,) = FilesData(train=path).source_problems()
        return problem.fix

    assert fix("row.jsonl").startswith("files with rows in that folder: rows.jsonl, rows_old.jsonl")
    assert fix(str(tmp_path)).startswith(f"files with rows in that folder: {tmp_path}/")
    assert fix("nowhere/row.jsonl").endswith(f"(a relative path begins in {tmp_path})")


def test_a_run_that_is_not_there_is_told_from_other_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("new", "old")):
        (tmp_path / "outputs" / "a" / name).mkdir(parents=True)
        file = tmp_path / "outputs" / "a" / name / "config.yaml"
        file.touch()
        os.utime(file, (1e9 - number, 1e9 - number))
    missing, other = (next(EvaluateConfig(run=run).problems()) for run in ("nowhere", "outputs"))
    assert "there is no such folder" in missing.why and "no config.yaml" in other.why
    assert missing.fix == "give a run directory such as outputs/a/new"
    assert not_given("run").fix == "give it, for example: run=outputs/a/new"


def run_folder(folder: Path, *files: str) -> None:
    for file in ("config.yaml", ".hydra/config.yaml", *files):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()


def test_the_example_of_a_run_is_a_finished_one_and_no_hidden_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_folder(Path("outputs/mine"), "metrics.json")
    run_folder(Path("outputs/a/begun"))
    assert not_given("run").fix == "give it, for example: run=outputs/mine"
    assert next(EvaluateConfig(run="nowhere").problems()).fix.endswith("outputs/mine")


def test_a_folder_in_a_run_or_above_runs_names_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_folder(Path("sweep/0"), "metrics.json", "adapter/weights")
    run_folder(Path("sweep/1"))

    def fix(run: str) -> str:
        return next(EvaluateConfig(run=run).problems()).fix

    assert fix("sweep/0/adapter") == "sweep/0 is one: run=sweep/0"
    assert fix("sweep") == "give one of the runs in it, such as run=sweep/0"
    (Path("empty")).mkdir()
    assert fix("empty") == "give a run directory such as outputs/contracts/<timestamp>"


@pytest.mark.parametrize(
    ("command", "word", "fix"),
    [
        ("chat", "mine", "run=mine"),
        ("export", "mine", "run=mine"),
        ("serve", "mine", "run=mine"),
        ("serve", "out", "export=out"),
        ("generate", "rows.jsonl", "input=rows.jsonl"),
        ("train", "rows.jsonl", "data=files data.train=rows.jsonl"),
        ("plan", "./rows.jsonl", "data=files data.train=./rows.jsonl"),
        ("train", "seed", "seed=VALUE"),
    ],
)
def test_a_path_without_its_setting_is_understood(
    command: str, word: str, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_folder(Path("mine"))
    Path("out").mkdir()
    Path("rows.jsonl").touch()
    assert [p.fix for p in composition_problems(command, [word]) if p.key == word] == [fix]


def test_missing_file_and_mandatory_value(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        compose("data=files", f"data.train={tmp_path}/none.jsonl").check()
    with pytest.raises(ConfigError, match="folder, not a file"):
        compose("data=files", f"data.train={tmp_path}").check()


def test_secret_among_the_settings_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "canary-0123456789")
    with pytest.raises(ConfigError) as caught:
        compose("tracking.tags=[canary-0123456789]").check()
    assert "secret" in str(caught.value)
    assert "canary" not in str(caught.value)
    with pytest.raises(ConfigError, match="secret"):
        compose("tracking.entity=hf_" + "a" * 30).check()


def test_stored_configuration_is_only_data(tmp_path: Path) -> None:
    settings = compose("adapter.r=8", "model=tiny")
    stored = tmp_path / "config.yaml"
    stored.write_text(OmegaConf.to_yaml(OmegaConf.structured(settings)))
    assert load(stored) == settings


def test_sweep_has_a_name_of_its_own() -> None:
    name = sweep_name("contracts", ["optimizer.lr=1,2", "seed=1"], None)
    assert name.startswith("contracts-lr-")
    assert name == sweep_name("contracts", ["seed=1", "optimizer.lr=1,2"], None)
    assert name != sweep_name("contracts", ["optimizer.lr=1,3", "seed=1"], None)
    assert sweep_name("contracts", [], {"optimizer.lr": "1,2"}).startswith("contracts-lr-")


def test_setting_of_another_kind_names_the_kind() -> None:
    assert "add data=files data.train=my.jsonl" in problems("data.train=my.jsonl")["data.train"]
    assert "data=files data.train=my.jsonl" in problems("data=my.jsonl")["data"]


def test_settings_of_a_wrong_option_are_not_reported_beside_it() -> None:
    assert list(problems("data=pears", "data.file=x", "optimizer.lr=a")) == ["data", "optimizer.lr"]


def test_mistyped_overrides_say_how_to_write_them() -> None:
    assert "KEY=VALUE" in problems("optimizer.lr")["optimizer.lr"]
    assert "quote" in problems("data.schema_file={~")["data.schema_file"]
    assert "add -m" in problems("optimizer.lr=1e-3,1e-4")["optimizer.lr"]
    advice = problems("adapter.target_modules=q_proj")["adapter.target_modules"]
    assert "with brackets: 'adapter.target_modules=[q_proj]'" in advice


def test_column_that_cannot_be_mapped_names_the_nearest() -> None:
    refused = problems("data=files", "data.train=x.jsonl", "+data.columns.grup=customer")
    assert "did you mean data.columns.group?" in refused["data.columns.grup"]


def test_the_password_in_an_address_is_a_secret() -> None:
    assert (
        mask("postgresql://me:s3cr3t@host/db and http://host:80/a@b")
        == "postgresql://me:***@host/db and http://host:80/a@b"
    )
    with pytest.raises(ConfigError) as caught:
        refuse_secrets(["hydra.sweeper.storage=postgresql://me:s3cr3t@host/db"])
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "is_secret"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCY", True),
        ("AWS_SECRET_ACCESS_KEY", "/JalrXUtnFEMIK7MDENGbPxRfiCY", True),
        ("PGPASSWORD", "correct-horse", True),
        ("GITHUBTOKEN", "correct-horse", True),
        ("MYSQL_PWD", "correct-horse", True),
        ("SMTP_PASS", "correct-horse", True),
        ("GOOGLE_CREDENTIALS", __file__, False),
        ("TOKENIZER_NAME", "contracts", False),
        ("COMPASS", "contracts", False),
    ],
)
def test_secrets_are_known_by_the_names_of_their_variables(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, is_secret: bool
) -> None:
    monkeypatch.setenv(name, value)
    assert mask(f"a {value} b") == ("a *** b" if is_secret else f"a {value} b")
    refused = problems(f"tracking.entity='{value}'")
    assert ("tracking.entity" in refused) == is_secret
    if is_secret:
        assert name in refused["tracking.entity"] and value not in refused["tracking.entity"]
