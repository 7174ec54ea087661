import re
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml
from omegaconf import OmegaConf

from compared_runs import hits, write_run
from hydratune.composition import CONF, composition_problems, register, sweep_name
from hydratune.data.cases.base import CaseData
from hydratune.data.sources.files import FilesData
from hydratune.data.sources.mixed import read_part
from hydratune.errors import ConfigError
from hydratune.settings.commands import COMMANDS, TrainConfig, load
from hydratune.settings.reference import settings_of
from hydratune.settings.registry import all_variants, plain, typed, variants
from hydratune.settings.secrets import mask, refuse_secrets

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


def test_default_is_the_contracts_experiment() -> None:
    assert compose() == compose("experiment=contracts", "name=test")


@pytest.mark.parametrize(
    "file", sorted((CONF.parent / "sweeps" / "wandb").glob("*.yaml")), ids=lambda f: f.stem
)
def test_wandb_twin_has_the_same_parameters_and_they_exist(file: Path) -> None:
    twin = OmegaConf.load(file)
    hydra_params = OmegaConf.load(CONF.parent / "sweeps" / file.name).hydra.sweeper.params
    assert {k: [float(v) for v in p["values"]] for k, p in twin.parameters.items()} == {
        k: [float(v) for v in str(values).split(",")] for k, values in hydra_params.items()
    }
    read_by_wandb = yaml.safe_load(file.read_text())["parameters"]
    # YAML 1.1 reads 1e-4 as a string
    assert all(isinstance(v, int | float) for p in read_by_wandb.values() for v in p["values"])
    for key, parameter in twin.parameters.items():
        settings = compose(f"{key}={parameter['values'][0]}")
        assert float(attrgetter(key)(settings)) == float(parameter["values"][0])
    program, command, *fixed, swept = yaml.safe_load(file.read_text())["command"]
    assert (program, command, swept) == ("hydratune", "train", "${args_no_hyphens}")
    assert not any("${" in word for word in fixed)  # the agent would expand it
    chosen = [f"{key}={parameter['values'][-1]}" for key, parameter in twin.parameters.items()]
    assert compose(*fixed, "tracking=offline", *chosen) == compose(f"sweep={file.stem}", *chosen)


@pytest.mark.parametrize(
    "file", sorted((CONF.parent / "sweeps").glob("*.yaml")), ids=lambda f: f.stem
)
def test_sweep_begins_with_its_command(file: Path) -> None:
    assert file.read_text().splitlines()[:2] == [
        "# @package _global_",
        f"# hydratune train -m sweep={file.stem}",
    ]


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


def test_mistyped_overrides_say_how_to_write_them() -> None:
    assert "KEY=VALUE" in problems("optimizer.lr")["optimizer.lr"]
    assert "quote" in problems("data.schema_file={~")["data.schema_file"]
    assert "add -m" in problems("optimizer.lr=1e-3,1e-4")["optimizer.lr"]
    assert "in brackets" in problems("adapter.target_modules=q_proj")["adapter.target_modules"]


def test_home_folder_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    data: Any = compose("data=files", "data.train='~/rows.jsonl'").data
    assert data.train == f"{tmp_path}/rows.jsonl"
    model: Any = compose("model=local", "model.path='~/model'", "model.adapter='~/run'").model
    assert (model.path, model.adapter) == (f"{tmp_path}/model", f"{tmp_path}/run")
    part = read_part({"source": "files", "train": "~/rows.jsonl"}).settings
    assert part == FilesData(train=f"{tmp_path}/rows.jsonl")


def marked_paths(kind: type, prefix: str = "") -> Iterator[str]:
    """Yield the path settings of a dataclass and of the dataclasses in it, by dotted name."""
    for setting in fields(kind):
        if isinstance(setting.type, type) and is_dataclass(setting.type):
            yield from marked_paths(setting.type, f"{prefix}{setting.name}.")
        elif setting.metadata.get("path"):
            yield f"{prefix}{setting.name}"


def test_every_setting_that_is_a_path_is_marked() -> None:
    variants_of_groups = [kind for group in all_variants().values() for kind in group.values()]
    described, all_marked = set(), set()
    for kind in (*COMMANDS.values(), *variants_of_groups):
        marked = set(marked_paths(kind))
        all_marked |= marked
        described |= {
            setting.name
            for setting in settings_of(kind)
            if setting.type in ("text", "text or null")
            and re.search(PATH_WORDS, f"{setting.name}: {setting.meaning}")
            and setting.name not in marked
        }
    assert described == {"name", "member"}  # one folder under outputs/, a path inside a wheel
    assert all_marked >= {"path", "train", "adapter", "run", "output", "forgetting.questions"}


@pytest.mark.parametrize(
    ("command", "key", "given"),
    [
        ("prepare", "output", []),
        ("prepare", "facts.local", []),
        ("train", "evaluation.forgetting.texts", []),
        ("train", "evaluation.forgetting.questions", []),
        ("train", "evaluation.forgetting.instructions", []),
        ("evaluate", "run", []),
        ("evaluate", "texts", ["run=r"]),
        ("evaluate", "lm_eval_path", ["run=r"]),
        ("decide", "run", []),
        ("decide", "knowledge", []),
        ("decide", "output", []),
        ("judge", "run", []),
        ("judge", "against", ["run=r"]),
        ("judge", "labels", ["run=r"]),
        ("judge", "local", ["run=r"]),
        ("judge", "output", ["run=r"]),
    ],
)
def test_home_folder_is_understood_by_every_command(
    command: str, key: str, given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        settings = typed(hydra.compose(command, [f"{key}='~/x y'", *given]), COMMANDS[command])
    assert attrgetter(key)(settings) == f"{tmp_path}/x y"


@pytest.mark.parametrize("folder", ['"~/runs/1"', "'~/runs/1'", "~/runs/1"])
def test_a_run_directory_below_the_home_folder(
    folder: str, hydratune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "home" / "runs" / "1"
    place.mkdir(parents=True)
    (place / "metrics.json").write_text("x")
    code, printed = hydratune("train", "debug=smoke", f"hydra.run.dir={folder}")
    assert code == 2 and str(place) in printed and "metrics.json" in printed
    assert not (tmp_path / "~").exists()


def test_a_sweep_directory_below_the_home_folder(
    hydratune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home" / "sweep").mkdir(parents=True)
    (tmp_path / "home" / "sweep" / "sweep.json").write_text("{")
    code, printed = hydratune(
        "train", "-m", "debug=smoke", "adapter.r=1,2", 'hydra.sweep.dir="~/sweep"'
    )
    assert code != 0 and str(tmp_path / "home" / "sweep" / "sweep.json") in printed
    code, printed = hydratune(
        "train", "-m", "debug=smoke", "adapter.r=1,2", 'hydra.sweep.subdir="~/${hydra.job.num}"'
    )
    assert code == 2 and "a job is one folder in the sweep's folder" in printed
    assert not (tmp_path / "~").exists()


def test_a_config_folder_below_the_home_folder(
    hydratune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 77\n")
    for option in (["--config-dir", "~/own"], ["--config-dir=~/own"]):
        code, printed = hydratune("train", *option, "experiment=mine", "--cfg", "job")
        assert code == 0 and "seed: 77" in printed
    code, printed = hydratune("train", "--config-dir", "~/none", "experiment=mine")
    assert code == 2 and f"--config-dir {tmp_path}/none: no such folder; give" in printed


def test_compare_finds_runs_below_the_home_folder(
    hydratune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, loss in (("a", 0.4), ("b", 0.5)):
        write_run(tmp_path / "sweep" / name, right=hits(38), lr=loss, loss=loss)
    code, printed = hydratune("compare", "~/sweep", "output=~/pages")
    assert code == 0 and any((tmp_path / "pages").iterdir()), printed
    code, printed = hydratune("compare", "baseline=~/sweep/a", "candidate=~/sweep/b")
    assert code == 0 and "the candidate is not worse" in printed


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
