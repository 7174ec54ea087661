"""Swept settings that change no result are refused; what a small test set cannot show is said."""

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pytest

import test_config
from conftest import write_rows
from hydratune.data.sources.files import FilesData
from hydratune.errors import ConfigError
from hydratune.evaluation.power import least_difference, rows_needed
from hydratune.experiment.idle_settings import (
    RULES,
    ExpectedRows,
    effective,
    expected_rows,
    idle_reason,
    remedy,
    without_effect,
)
from hydratune.settings.commands import TrainConfig
from hydratune.sweeps import launch
from hydratune.sweeps.test_size import say_if_too_few_test_rows, too_few_test_rows

compose = cache(test_config.compose)  # several tests of a pair need the same settings
Command = Callable[..., tuple[int, str]]
SMOKE = ("debug=smoke",)  # 32 rows in batches of 2, and at most 4 steps


@pytest.fixture
def jobs_run(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The names of the jobs of each sweep that was not refused; none is trained."""
    sweeps: list[list[str]] = []

    def run(context: object, folder: object, jobs: Sequence[launch.PlannedJob], _: object) -> None:
        sweeps.append([job.name for job in jobs])
        raise ConfigError([], prefix="stopped by the test: ")

    monkeypatch.setattr(launch, "run_jobs", run)
    return sweeps


@pytest.mark.parametrize(
    ("axis", "reason"),
    [
        ("trainer.max_epochs=1,2", "trainer.max_steps=4 ends training before"),
        ("optimizer.decay_ratio=0.1,0.3", "only optimizer.schedule=wsd uses it"),
        ("name=a,b", "it is a name"),
    ],
)
def test_a_sweep_over_a_setting_without_effect_is_refused(
    hydratune: Command, jobs_run: list[list[str]], tmp_path: Path, axis: str, reason: str
) -> None:
    key, _, values = axis.partition("=")
    code, text = hydratune("train", "-m", *SMOKE, axis, "seed=0,1")
    assert code == 2 and f"{key} = {values}\n" in text and reason in text, text
    assert text.count("why:") == 1 and not jobs_run and not list(tmp_path.iterdir())
    code, text = hydratune("train", "-m", *SMOKE, axis.partition(",")[0], "seed=0,1")  # the advice
    assert jobs_run == [["0", "1"]], text


def test_an_axis_that_has_an_effect_beside_some_values_is_swept(
    hydratune: Command, jobs_run: list[list[str]]
) -> None:
    axes = ("optimizer.schedule=cosine,wsd", "optimizer.decay_ratio=0.1,0.3")
    _, text = hydratune("train", "-m", *SMOKE, *axes)
    assert jobs_run == [["0", "2", "3"]], text
    printed = " ".join(text.split())
    assert "job 1 (" in printed and "has, where it matters, the settings of job 0" in printed


def test_a_dimension_of_a_search_without_effect_is_refused(hydratune: Command) -> None:
    words = ("train", "-m", *SMOKE, "hydra/sweeper=random", "hydra.sweeper.n_trials=0")
    code, text = hydratune(*words[:-1], "optimizer.lr=1e-3,1e-4", "trainer.max_epochs=1,2")
    assert code == 2 and "trainer.max_epochs = 1,2" in text and "optimizer.lr" not in text
    mixed = ("optimizer.schedule=cosine,wsd", "optimizer.decay_ratio=interval(0.1,0.3)")
    code, text = hydratune(*words, *mixed)  # refused for its number of trials alone
    assert code == 2 and "n_trials" in text and "decay_ratio" not in text


# a setting, what makes it idle, and what gives it an effect
PAIRS = [
    ("trainer.max_epochs=3", ["debug=smoke"], ["debug=smoke", "trainer.max_steps=null"]),
    ("trainer.max_epochs=3", ["trainer.max_steps=50"], ["trainer.max_steps=600"]),
    ("trainer.max_steps=141", [], ["trainer.max_epochs=2"]),
    ("trainer.early_stopping_patience=2", [], ["trainer.validations_per_epoch=3"]),
    ("optimizer.decay_ratio=0.3", [], ["optimizer.schedule=wsd"]),
    ("optimizer.power=3.0", [], ["optimizer.schedule=polynomial"]),
    ("optimizer.min_lr_ratio=0.2", ["optimizer.schedule=constant"], []),
    ("optimizer.decay_norms_and_biases=true", [], ["optimizer.weight_decay=0.1"]),
    ("+optimizer.weight_decay_groups.lora_A=2.0", [], ["optimizer.weight_decay=0.1"]),
    ("adapter.eps=1e-4", ["adapter=oft"], ["adapter=oft", "adapter.coft=true"]),
    (
        "adapter.num_cayley_neumann_terms=3",
        ["adapter=oft", "adapter.use_cayley_neumann=false"],
        ["adapter=oft"],
    ),
    ("data.split_overlap=7", [], ["data.overlength=split"]),
    ("data.validation_fraction=0.3", [], ["data=files", "data.train=x.jsonl"]),
    (
        "data.test_fraction=0.3",
        ["data=files", "data.train=x.jsonl", "data.test=y.jsonl"],
        ["data=files", "data.train=x.jsonl"],
    ),
    ("evaluation.shots=2", ["evaluation.baselines=[]"], []),
    ("evaluation.validation_rows=4", [], ["evaluation.validate_every=2"]),
    ("evaluation.validation_rows=4", [], ["trainer.monitor=val/field_f1"]),
    ("evaluation.run_code=true", [], ["evaluation.metrics=[code]"]),
    ("evaluation.forgetting.items=4", [], ["evaluation.forgetting.measure=true"]),
    (
        "evaluation.forgetting.answer_tokens=4",
        ["evaluation.forgetting.measure=true", "evaluation.forgetting.answers=false"],
        ["evaluation.forgetting.measure=true"],
    ),
]
ALWAYS = {"name", "model.name", "model.licence", "resume", "tracking."}  # never with an effect


@pytest.mark.parametrize(("setting", "idle", "used"), PAIRS)
def test_settings_are_idle_beside_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, idle: list[str], used: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("x", "y"):
        write_rows(tmp_path / f"{name}.jsonl", [{"prompt": "a", "completion": "b"}] * 40)
    key = setting.partition("=")[0].lstrip("+")
    assert idle_reason(compose(*idle, setting), key)
    assert effective(compose(*idle, setting)) == effective(compose(*idle))
    assert not idle_reason(compose(*used, setting), key)
    assert effective(compose(*used, setting)) != effective(compose(*used))


@pytest.mark.parametrize(("setting", "idle", "used"), PAIRS)
def test_the_remedy_of_a_rule_gives_the_setting_an_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, idle: list[str], used: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("x", "y"):
        write_rows(tmp_path / f"{name}.jsonl", [{"prompt": "a", "completion": "b"}] * 40)
    settings = compose(*idle, setting)
    if advice := remedy(settings, setting.partition("=")[0].lstrip("+")):
        (sentence,) = without_effect(settings, [setting])
        what = "does not limit training" if "trainer.max" in setting else "has no effect"
        assert sentence.startswith(f"{setting} {what}: ") and advice in sentence
        assert not list(without_effect(compose(*idle, advice, setting), [setting]))


def test_a_run_names_its_settings_without_effect_once(
    hydratune: Command, jobs_run: list[list[str]]
) -> None:
    idle = ("trainer.max_epochs=3", "optimizer.power=2", "name=a", "optimizer.lr=1e-3")
    code, text = hydratune("train", *SMOKE, *idle, "preview=2")
    assert code == 0, text
    limit = "trainer.max_epochs=3 does not limit training: trainer.max_steps=4 ends training before"
    assert limit in text and text.count("does not limit") == 1
    assert "optimizer.power=2 has no effect" in text and text.count("has no effect") == 1
    _, text = hydratune("train", "-m", *SMOKE, *idle, "seed=0,1")
    assert jobs_run == [["0", "1"]]
    assert text.count("does not limit") == text.count("has no effect") == 1, text


@pytest.mark.parametrize("limit", ["trainer.max_steps", "trainer.early_stopping_patience"])
def test_to_remove_a_limit_of_an_experiment_is_an_effect(limit: str) -> None:
    """The settings of debug=smoke have max_steps=4, so null is no repetition of the default."""
    removed = f"{limit}=null"
    assert not list(without_effect(compose(*SMOKE, removed), [removed]))
    (sentence,) = without_effect(compose(*SMOKE, f"{limit}=1000"), [f"{limit}=1000"])
    assert "does not limit training: " in sentence


def test_a_setting_with_an_effect_in_one_job_is_not_called_idle(
    hydratune: Command, jobs_run: list[list[str]]
) -> None:
    words = ("optimizer.power=2", "optimizer.schedule=cosine,polynomial")
    _, text = hydratune("train", "-m", *SMOKE, *words)
    assert jobs_run == [["0", "1"]] and "has no effect" not in text


def test_every_rule_has_a_case() -> None:
    keys = {setting.partition("=")[0].lstrip("+") for setting, _, _ in PAIRS}
    without = [rule.keys for rule in RULES if not any(map(rule.covers, keys))]
    assert {key for keys in without for key in keys} == ALWAYS


def test_the_rows_of_the_splits_are_known_before_they_are_read(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a.jsonl", [{"prompt": "a", "completion": "b"}] * 40)
    files = ("data=files", f"data.train={file}")
    assert expected_rows(compose().data) == ExpectedRows(280, 50, 100)
    assert expected_rows(compose("debug=smoke").data) == ExpectedRows(32, 8, 4)
    assert expected_rows(compose("debug=overfit").data) == ExpectedRows(8, 8, 8)
    assert expected_rows(compose(*files).data) == ExpectedRows(32, 4, 4)
    assert expected_rows(compose(*files, f"data.test={file}").data) == ExpectedRows(36, 4, 40)
    assert expected_rows(compose(*files, "data.overlength=split").data) is None
    (tmp_path / "b.json").write_text(json.dumps([{"prompt": "a", "completion": "b"}]))
    assert expected_rows(compose("data=files", f"data.train={tmp_path}/b.json").data) is None


def test_a_test_set_that_can_show_nothing_is_said_before_the_sweep(
    hydratune: Command, jobs_run: list[list[str]], tmp_path: Path
) -> None:
    write_rows(
        tmp_path / "a.jsonl", [{"prompt": f"{i}?", "completion": f"{i}."} for i in range(40)]
    )
    _, text = hydratune("train", "-m", "data=files", "data.train=a.jsonl", "seed=0,1")
    assert jobs_run == [["0", "1"]]
    assert "about 1 to 8 test rows (a hash decides how many); with 8: no difference between" in text
    assert "234 test rows show 10 points" in " ".join(text.split())
    _, text = hydratune("train", "-m", "seed=0,1")
    assert "test rows" not in text  # 100 of them


def test_a_sweep_of_one_job_says_that_no_setting_has_several_values(
    hydratune: Command, jobs_run: list[list[str]]
) -> None:
    _, text = hydratune("train", "-m", *SMOKE)
    assert jobs_run == [["0"]]
    assert "no setting has several values, so the sweep is one run" in text
    _, text = hydratune("train", "-m", *SMOKE, "seed=0,1")
    assert "several values" not in text


def test_rows_that_a_hash_splits_off_are_a_range(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": "b"}] * 40)

    def said(**settings: object) -> str:
        data = FilesData(train=str(file), **settings)  # type: ignore[arg-type]
        say_if_too_few_test_rows([TrainConfig(data=data)])
        return " ".join(capsys.readouterr().out.split())

    # 40 rows, each with probability 0.1: 4 +- 2 * 1.9
    assert "about 1 to 8 test rows (a hash decides how many); with 8: " in said()
    assert "about 1 to 5 test rows (a hash decides how many); with 5: " in said(max_test_rows=5)
    assert "about 1 test row: " in said(max_test_rows=1)
    assert "about 40 test rows" not in said(test=str(file))
    assert "about 3 test rows: " in said(test=str(file), max_test_rows=3)


def test_the_number_of_rows_that_would_do_shows_the_difference() -> None:
    for difference in (0.05, 0.1, 0.25):
        rows = rows_needed(difference, 0.3, 0.95)
        assert (
            least_difference(rows, 0.3, 0.95) <= difference < least_difference(rows - 1, 0.3, 0.95)
        )
    assert "only differences of 27 points" in too_few_test_rows(30, 0.95)
    assert too_few_test_rows(40, 0.95) == ""
