"""Parts of packages: what is refused, in what words, and callbacks in checkpoints and packs."""

from collections.abc import Callable, Iterator
from dataclasses import make_dataclass
from pathlib import Path

import pytest

from conftest import SMALL
from hydratune import extensions
from hydratune.errors import ConfigError
from hydratune.settings.optimizer import OptimizerConfig
from hydratune.sweeps.planning import why_alone
from packages_of_tests import found_in, install
from test_config import compose

Command = Callable[..., tuple[int, str]]

_CALLBACKS = """
import os
from pathlib import Path
import lightning

class Counter(lightning.Callback):
    def __init__(self, file: str = "seen.txt", state: str = "plain") -> None:
        self.file, self.state, self.seen = file, state, 0

    def setup(self, trainer, module, stage):
        self.seen = 0

    def on_train_batch_end(self, trainer, module, *args):
        self.seen += 1
        if self.seen == int(os.environ.get("FAILS_AT", 0)):
            raise ZeroDivisionError("too many")

    def on_train_end(self, trainer, module):
        with Path(self.file).open("a") as stream:
            stream.write(f"{self.seen} of {trainer.global_step}\\n")

    def state_dict(self):
        return {"seen": self.seen if self.state == "plain" else Path("seen")}

    def load_state_dict(self, state):
        self.seen = state["seen"]

class Alone(Counter):
    pack_obstacle = "it changes the base model"
"""
_OPTIMIZER = """
from dataclasses import dataclass
from hydratune.settings.optimizer import OptimizerConfig

@dataclass
class Sgd(OptimizerConfig):
    kind: str = "{name}"

    def build(self, model):
        return 1 / 0
"""


def project(name: str, groups: dict[str, dict[str, str]]) -> str:
    lines = ["[project]", f'name = "{name}"', 'version = "2.0"']
    for group, points in groups.items():
        lines.append(f'[project.entry-points."hydratune.{group}"]')
        lines += [f'{part} = "{value}"' for part, value in points.items()]
    return "\n".join(lines)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which packages are found that a test installs."""
    with found_in(tmp_path / "site", monkeypatch):
        yield tmp_path / "site"


@pytest.fixture
def counters(site: Path) -> None:
    points = {"callbacks": {"counter": "counters:Counter", "alone": "counters:Alone"}}
    install(site, project("counters", points), {"counters": _CALLBACKS})


def test_a_package_that_cannot_be_imported_stops_only_those_who_use_it(
    hydratune: Command, site: Path
) -> None:
    groups = ("adapters", "optimizers", "data_sources", "metrics", "callbacks")
    points = {group: {"lost": "lost_module:Part"} for group in groups}
    install(site, project("lost-parts", points), {"lost_module": "import missing_library"})
    settings = ("train", "debug=smoke", "--cfg", "job", "-p", "seed")
    assert hydratune(*settings)[0] == 0
    said = "the package lost-parts 2.0 (lost_module:Part), which cannot be imported"
    why = "ModuleNotFoundError: No module named 'missing_library'"
    for setting in ("adapter=lost", "optimizer=lost", "data=lost"):
        code, text = hydratune(*settings, setting)
        assert code == 2 and said in text and why in text, text
    for setting in ("evaluation.metrics=[lost]", "trainer.callbacks=[lost]"):
        code, text = hydratune("train", *SMALL, setting)
        assert code == 2 and said in text and why in text, text
    assert "the package lost-parts 2.0 (lost_module:Part)" in hydratune("train", "--help")[1]


@pytest.mark.parametrize("setting", ["optimizer=sgd", "optimizer=lion,sgd"])
def test_a_name_of_a_built_in_part_is_refused(hydratune: Command, site: Path, setting: str) -> None:
    points = {"optimizers": {"sgd": "own_sgd:Sgd"}}
    install(site, project("own-sgd", points), {"own_sgd": _OPTIMIZER.format(name="sgd")})
    sweep = ["-m"] if "," in setting else []
    code, text = hydratune("train", *sweep, *SMALL, setting)
    assert code == 2 and "the package own-sgd 2.0 (own_sgd:Sgd) brings another one" in text
    assert "an option of hydratune" in text
    assert hydratune("train", "debug=smoke", "--cfg", "job", "-p", "seed")[0] == 0


def test_the_name_of_a_built_in_metric_is_refused(hydratune: Command, site: Path) -> None:
    install(site, project("own-rouge", {"metrics": {"rouge": "own_rouge:rouge"}}), {})
    code, text = hydratune("train", *SMALL, "evaluation.metrics=[rouge]")
    assert code == 2 and "a built-in family of metrics, and the package own-rouge 2.0" in text


def test_two_packages_with_one_name_are_both_named(hydratune: Command, site: Path) -> None:
    for package in ("first", "second"):
        points = {"optimizers": {"mine": f"{package}:Sgd"}}
        install(site, project(package, points), {package: _OPTIMIZER.format(name="mine")})
    code, text = hydratune("train", *SMALL, "optimizer=mine")
    assert code == 2 and "the package first 2.0" in text and "the package second 2.0" in text


def test_a_class_without_its_name_is_refused(hydratune: Command, site: Path) -> None:
    points = {"optimizers": {"mine": "own_optimizer:Sgd"}}
    install(site, project("parts", points), {"own_optimizer": _OPTIMIZER.format(name="yours")})
    code, text = hydratune("train", *SMALL, "optimizer=mine")
    assert code == 2 and 'the line kind: str = "mine"' in text


def test_an_unexpected_error_names_the_part(hydratune: Command, site: Path) -> None:
    points = {"optimizers": {"mine": "own_optimizer:Sgd"}}
    install(site, project("parts", points), {"own_optimizer": _OPTIMIZER.format(name="mine")})
    code, text = hydratune("train", *SMALL, "optimizer=mine")
    assert code == 1 and "ZeroDivisionError: division by zero" in text
    assert "raised in the optimizer mine: the package parts 2.0 (own_optimizer:Sgd)" in text


def test_a_second_class_of_one_name_is_refused_from_python(site: Path) -> None:
    mine = make_dataclass("Mine", [("kind", str, "sgd")], bases=(OptimizerConfig,))
    with pytest.raises(ConfigError, match=r"has the name of .*SgdOptimizer"):
        extensions.optimizer("sgd")(mine)
    with pytest.raises(ConfigError, match="a built-in family of metrics"):
        extensions.metric("json")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["trainer.callbacks=[countre]"], "did you mean counter?"),
        (["trainer.callbacks=[counter,counter]"], "it is listed twice"),
        (["trainer.callback_settings.counter.file=x"], "add it to trainer.callbacks"),
        (
            ["trainer.callbacks=[counter]", "trainer.callback_settings.counter.flie=x"],
            "it has these settings: file, state",
        ),
    ],
)
def test_wrong_settings_of_callbacks_are_refused(
    hydratune: Command, counters: None, settings: list[str], message: str
) -> None:
    code, text = hydratune("train", *SMALL, *settings)
    assert code == 2 and message in text, text


def test_a_callback_that_fails_is_named_and_its_state_is_resumed(
    hydratune: Command, counters: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint is that of the validation after the first step."""
    monkeypatch.setenv("FAILS_AT", "2")
    command = ("train", *SMALL, "trainer.callbacks=[counter]", "hydra.run.dir=run")
    code, text = hydratune(*command)
    assert code == 1 and "unexpected" not in text
    assert (
        "the callback 'counter' of the package counters 2.0 (counters:Counter) failed in"
        " on_train_batch_end at step 2: ZeroDivisionError: too many"
    ) in text
    monkeypatch.delenv("FAILS_AT")
    code, text = hydratune(*command)
    assert code == 0 and "resumed after step 1 of 2" in text, text
    assert Path("seen.txt").read_text().splitlines()[-1] == "2 of 2"


def test_another_code_of_a_callback_is_not_resumed(
    hydratune: Command, counters: None, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAILS_AT", "2")
    command = ("train", *SMALL, "trainer.callbacks=[counter]", "hydra.run.dir=run")
    assert hydratune(*command)[0] == 1
    (site / "counters.py").write_text(_CALLBACKS + "\n# changed")
    code, text = hydratune(*command)
    assert code == 2 and "the parts of packages changed" in text


def test_a_state_that_no_checkpoint_can_keep_is_refused(hydratune: Command, counters: None) -> None:
    settings = ("trainer.callbacks=[counter]", "trainer.callback_settings.counter.state=path")
    code, text = hydratune("train", *SMALL, *settings)
    assert code == 1 and "its state_dict() must be a dict of numbers" in text


def test_a_callback_with_an_obstacle_runs_alone(counters: None) -> None:
    reason = "its callback alone has a pack_obstacle: it changes the base model"
    assert why_alone(compose("trainer.callbacks=[counter,alone]")) == reason
    assert why_alone(compose("trainer.callbacks=[counter]")) is None
