"""docs/howto/extending.md: its package and its command, as they are written there."""

import csv
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compared_runs import write_run
from conftest import SMALL
from hydratune import metric_format, metric_table
from hydratune.errors import ConfigError
from hydratune.evaluation.families import Answered, family
from hydratune.extensions import metric
from hydratune.metric_table import Unit
from hydratune.settings.monitor import Monitor
from packages_of_tests import found_in, install

pytestmark = pytest.mark.usefixtures("packs_here")

PAGE = Path(__file__).parents[1] / "docs" / "howto" / "extending.md"
Command = Callable[..., tuple[int, str]]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text("utf-8"), re.S)


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package of the page, installed, and the file that its command reads."""
    parts, callbacks, _ = blocks("python")
    (project,) = blocks("toml")
    install(tmp_path / "site", project, {"my_parts": parts, "my_callbacks": callbacks})
    pairs = [f"Which number follows {n}?\tThe number {n + 1} follows it." for n in range(0, 90, 3)]
    (tmp_path / "pairs.tsv").write_text("\n".join(pairs))
    with found_in(tmp_path / "site", monkeypatch):
        yield


def words_of_the_page() -> list[str]:
    command = shlex.split(blocks("sh")[0].replace("\\\n", " "))
    assert command[:2] == ["hydratune", "train"]
    return command[2:]


def test_the_command_of_the_page_uses_every_part(hydratune: Command) -> None:
    code, text = hydratune("train", *SMALL, *words_of_the_page(), "hydra.run.dir=run")
    assert code == 0, text
    assert "data source pairs: the package my-parts 1.0 (my_parts:PairsData)" in text
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert "eval/shared_words" in metrics and "eval/exact_match" in metrics
    assert json.loads(Path("run/adapter/adapter_config.json").read_text())["r"] == 2
    config = Path("run/config.yaml").read_text()
    assert "kind: plain_sgd" in config and "- stop_at" in config and "loss: 0.5" in config
    parts = json.loads(Path("run/environment.json").read_text())["parts"]
    assert {part["package"] for part in parts.values()} == {"my-parts 1.0"} and len(parts) == 5
    objective = metrics["settings"]["objective"]
    assert (objective["metric"], objective["mode"]) == ("val/shared_words", "max")
    assert metrics["eval/shared_words"] == 0.0  # as a number without a unit: 0.000
    assert re.search(r"shared words +│ +0\.0 \[0\.0, 0\.0\]", text), text
    assert re.search(r"validation shared words 0\.0 %\n", text), text
    assert "shared words (%)" in Path("run/report.html").read_text()
    code, text = hydratune("evaluate", "run=run")
    assert code == 0 and "eval/shared_words" in text, text
    further = ("data=pairs", "data.file=pairs.tsv", "adapter=small_lora", "model.adapter=run")
    code, text = hydratune("train", *SMALL, *further, "hydra.run.dir=further")
    assert code == 0 and "method: small_lora" in Path("further/config.yaml").read_text(), text


@pytest.mark.slow
def test_a_pack_calls_callbacks_and_compare_says_where_they_differ(hydratune: Command) -> None:
    """With one of the two thresholds training stops after the first step."""
    swept = "trainer.callback_settings.stop_at.loss=0,100"
    others = [word for word in words_of_the_page() if "callback_settings" not in word]
    code, text = hydratune("train", "-m", *SMALL, *others, swept, "hydra.sweep.dir=sweep")
    assert code == 0 and "2 jobs on one base model" in text, text
    steps = [Path(f"sweep/{job}/history.csv").read_text().splitlines()[1:] for job in "01"]
    assert list(map(len, steps)) == [2, 1]
    code, text = hydratune("compare", "sweep")
    assert code == 0 and "trainer.callback_settings.stop_at.loss=100" in text, text


def test_a_callback_may_stop_a_run_that_monitors_a_metric_of_answers(hydratune: Command) -> None:
    """The validation at its end was not planned, and is measured like the others."""
    others = [word for word in words_of_the_page() if "callback_settings" not in word]
    stop = "trainer.callback_settings.stop_at.loss=100"
    monitor = ("trainer.monitor=val/exact_match", "evaluation.validation_rows=3")
    code, text = hydratune("train", *SMALL, *others, stop, *monitor, "hydra.run.dir=run")
    assert code == 0, text
    (row,) = csv.DictReader(Path("run/history.csv").read_text().splitlines())
    assert row["step"] == "1" and row["val/loss"] and row["val/exact_match"]


def test_a_part_without_a_package(hydratune: Command) -> None:
    exec(blocks("python")[2], {})
    assert family("short").score(Answered("yes", ["yes"])) == {"short": True}
    assert metric_table.unit("eval/short") is Unit.rate
    assert Monitor.read("val/short") == Monitor("val/short", lower=False)
    code, text = hydratune("train", "-m", "evaluation.metrics=[short]", "seed=1,2")
    assert code == 2 and "evaluation.metrics = short" in text and "other processes" in text
    assert not list(Path().glob("outputs/**/status.json"))


def test_a_metric_declares_direction_and_unit_or_one_of_them_or_none(hydratune: Command) -> None:
    def distance(answer: str, references: list[str], row: object) -> float:
        return 0.5

    metric("cost_like", direction="lower")(distance)
    assert Monitor.read("val/cost_like") == Monitor("val/cost_like", lower=True)
    assert metric_format.with_unit("eval/cost_like", 0.5) == "0.5000"
    metric("share", unit="rate")(lambda *row: 0.5)
    assert metric_format.with_unit("val/share", 0.5) == "50.0 %"
    assert metric_table.lower_is_better("val/share") is None
    metric("plain")(lambda *row: 0.5)
    assert metric_table.find("eval/plain") is None and metric_table.title("eval/plain") == "plain"
    code, text = hydratune("train", "evaluation.metrics=[match,plain]", "trainer.monitor=val/plain")
    assert code == 2 and "val/plain:max or trainer.monitor=val/plain:min" in text, text
    with pytest.raises(ConfigError, match=r"(?s)direction is 'up'.*may declare higher or lower"):
        metric("wrong", direction="up")(lambda *row: 0.5)
    with pytest.raises(ConfigError, match=r"(?s)unit is '%'.*may declare rate or number"):
        metric("wrong", unit="%")(lambda *row: 0.5)


def test_a_package_that_declares_nonsense_is_refused(
    hydratune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = '[project]\nname = "odd"\nversion = "2"\n'
    project += '[project.entry-points."hydratune.metrics"]\nodd = "odd_metric:odd"\n'
    module = "def odd(answer, references, row):\n    return 1.0\n\nodd.direction = 1\n"
    install(tmp_path / "odd", project, {"odd_metric": module})
    with found_in(tmp_path / "odd", monkeypatch):
        code, text = hydratune("train", "evaluation.metrics=[odd]")
        assert code == 2 and "evaluation.metrics = odd" in text, text
        assert "its direction is 1" in text and "higher or lower" in text
        assert metric_table.lower_is_better("eval/odd") is None


def test_declared_metrics_rank_runs_without_a_mode(hydratune: Command, tmp_path: Path) -> None:
    for name, value in (("a", 0.25), ("b", 0.75)):
        write_run(tmp_path / "runs" / name, **{"eval/shared_words": value})
    code, text = hydratune("compare", "runs", "metric=eval/shared_words")
    assert code == 0 and "best: runs/b" in text and "shared words 75.0 %" in text, text
