"""Settings never run code, whoever wrote them: words, files, stored runs, sweeps, journals."""

import ast
import pickle
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from hydratune.composition import command
from hydratune.composition.resolvers import product
from hydratune.errors import ConfigError, HydratuneError
from hydratune.experiment import lifecycle
from hydratune.settings.commands import load
from hydratune.sweeps.search.study import open_storage
from hydratune.sweeps.wandb_sweep.definition import read_file
from test_config import compose

SOURCE = Path(command.__file__).parents[1]
CALLBACK = "hydra: {callbacks: {x: {_target_: attack.run}}}"
FACTORY = "hydra: {job_logging: {formatters: {x: {'()': attack.run}}}}"
PLUGIN = "hydra: {sweeper: {_target_: attack.Run}}"
VARIABLE = "hydra: {job: {env_set: {PYTHONPATH: attack}}}"
LINKED = "name: ext://attack.run\nhydra: {job_logging: {root: {x: '${name}'}}}"


@pytest.fixture
def attack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Any]:
    """Run a command with a module ``attack`` at hand; it must be refused without importing it."""
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\nrun = Run = print\n"
    for file in ("attack.py", "attacks/__init__.py"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lifecycle, "execute", lambda *args: pytest.fail("the settings were used"))

    def refused(*words: str, reason: str = "never imported or called") -> str:
        status = command.run_command("train", ["model=tiny", *words])
        text = capsys.readouterr().err
        assert status == 2 and reason in text and "Traceback" not in text, text
        assert not (tmp_path / "ran").exists() and "attack" not in sys.modules
        return text

    yield refused


@pytest.mark.parametrize(
    "words",
    [
        ("+hydra.callbacks.x._target_=attack.run",),
        ("+hydra.job_logging.handlers.x={class:attack.Run}",),
        ('+hydra.job_logging.handlers.x={class:logging.StreamHandler,stream:"ext://attack.run"}',),
        ("hydra.searchpath=[pkg://attacks]",),
        ("-m", "hydra.launcher._target_=attack.Run", "seed=1,2"),
        ("-m", "hydra/sweeper=random", "+hydra.sweeper.options.x={_target_:attack.run}", "seed=1"),
    ],
)
def test_typed_settings_that_name_code_are_refused(attack: Any, words: tuple[str, ...]) -> None:
    attack(*words)


@pytest.mark.parametrize("content", [CALLBACK, FACTORY, PLUGIN, VARIABLE, LINKED])
def test_files_with_settings_that_name_code_are_refused(
    attack: Any, tmp_path: Path, content: str
) -> None:
    file = tmp_path / "conf" / "experiment" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(f"# @package _global_\n{content}\n")
    words = ["--config-dir", "conf", "experiment=mine"]
    words += ["-m", "seed=1,2"] if content == PLUGIN else []
    reasons = {VARIABLE: "which code the processes", LINKED: "name code where it leads"}
    attack(*words, reason=reasons.get(content, "never imported or called"))


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system ['touch ran']", "!!python/name:os.system"]
)
def test_tags_of_python_in_yaml_are_refused(tmp_path: Path, tag: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"name: {tag}\n")
    with pytest.raises(Exception, match="could not determine a constructor"):
        load(file)
    with pytest.raises(HydratuneError, match="no YAML"):
        read_file(file)


def test_a_pickle_of_hydra_is_not_run_again(attack: Any, tmp_path: Path) -> None:
    (tmp_path / "job.pickle").write_bytes(pickle.dumps({}))
    attack("--experimental-rerun", "job.pickle", reason="what a pickle holds")


def test_targets_in_stored_settings_are_data(tmp_path: Path) -> None:
    settings = OmegaConf.structured(compose("model=tiny"))
    stored = OmegaConf.to_container(settings, enum_to_str=True)
    assert isinstance(stored, dict)
    stored["model"]["_target_"] = "attack.run"
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(stored)))
    with pytest.raises(Exception, match="_target_"):
        load(tmp_path / "config.yaml")
    stored["model"].pop("_target_")
    stored["optimizer"]["kind"] = "attack.Run"  # the variant is looked up by its name
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(stored)))
    with pytest.raises(ConfigError, match=r"no optimizer attack\.Run"):
        load(tmp_path / "config.yaml")


def test_a_journal_of_a_search_is_json_and_no_pickle(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    journal = tmp_path / "study.log"
    journal.write_bytes(pickle.dumps(Payload()) + b"\n")
    with pytest.raises(Exception, match=r"JSON|Expecting|decode"):
        open_storage(str(journal)).get_all_studies()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("factors", [("a", 10**11), ([0], 10**11), (10**200, 2), (None, 2)])
def test_products_in_settings_take_numbers_only(factors: tuple[Any, ...]) -> None:
    with pytest.raises(ConfigError, match="multiplies numbers"):
        product(*factors)
    assert product(2, 0.5, 8) == 8


def test_a_secret_that_settings_of_others_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACME_TOKEN", "canary-123456789")
    settings = compose("model=tiny")
    settings.name = "${oc.env:ACME_TOKEN}"
    file = tmp_path / "config.yaml"
    file.write_text(OmegaConf.to_yaml(OmegaConf.structured(settings)))
    found = [p for p in load(file).problems() if p.key == "name"]
    assert found and "ACME_TOKEN" in found[0].why and "canary" not in str(found[0])


# what may only be called with arguments that run nothing
_CONCERNS = r"eval\(|exec\(|__import__|pickle|joblib|torch\.load|yaml\.|shell=|from_pretrained"
_NEVER = {"eval", "exec", "__import__"}
_PICKLES = {("pickle", "load"), ("pickle", "loads"), ("joblib", "load"), ("pandas", "read_pickle")}


@cache
def calls() -> list[tuple[Path, str, ast.Call]]:
    """Return the calls in the package that matter here: the file, and what is called as text."""
    return [
        (file.relative_to(SOURCE), ast.unparse(node.func), node)
        for file in sorted(SOURCE.rglob("*.py"))
        if re.search(_CONCERNS, text := file.read_text("utf-8"))
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
    ]


def test_nothing_in_the_package_reads_pickles_or_evaluates_text() -> None:
    found = []
    for file, name, call in calls():
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        head, _, last = name.rpartition(".")
        sandbox = file == Path("evaluation/sandbox/worker.py")
        if (name in _NEVER and not sandbox) or (head, last) in _PICKLES:
            found.append(f"{file}: {name}")
        if name == "torch.load" and options.get("weights_only") != "True":
            found.append(f"{file}: {name}")
        if name in (
            "yaml.load",
            "yaml.full_load",
            "yaml.unsafe_load",
        ) and "_SettingsLoader" not in (options.get("Loader", "")):
            found.append(f"{file}: {name}")
        if "allow_pickle" in options or options.get("shell") == "True":
            found.append(f"{file}: {name}")
    assert not found


def test_code_of_a_model_runs_only_by_the_setting_for_it() -> None:
    loaders = ("AutoTokenizer", "AutoConfig", "AutoModelForCausalLM")
    found = [
        f"{file}: {ast.unparse(call)[:80]}"
        for file, name, call in calls()
        if name.endswith(".from_pretrained") and name.startswith(loaders)
        for options in [{k.arg: ast.unparse(k.value) for k in call.keywords}]
        if not options.get("trust_remote_code", "True").endswith(("False", ".trust_remote_code"))
    ]
    assert not found
