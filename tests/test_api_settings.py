"""Settings from Python: mappings of settings, what is said of them, and their registration."""

from typing import Any

import pytest

import hydratune
from hydratune.api.composing import words_of
from hydratune.api.training import _as_typed
from hydratune.errors import ConfigError, InputError

ROWS = [{"prompt": f"thing {i}?", "completion": "red"} for i in range(40)]


def test_a_mapping_holds_the_settings_of_its_group() -> None:
    config = hydratune.compose(
        {
            "model": "tiny",
            "optimizer": {"lr": 2e-3, "betas": [0.8, 0.9]},
            "adapter": {"r": 4, "target_modules": ["q_proj"]},
            "data": {"quality": {"encoding": "off"}},
            "trainer": {},
        }
    )
    assert config.optimizer.lr == 2e-3 and config.optimizer.betas == [0.8, 0.9]  # type: ignore[attr-defined]
    assert config.adapter.r == 4 and config.adapter.target_modules == ["q_proj"]  # type: ignore[attr-defined]
    assert config.data.quality.encoding.value == "off"
    with pytest.raises(ConfigError, match=r"did you mean optimizer\.lr\?"):
        hydratune.compose({"optimizer": {"lrr": 1}})


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"adapter": {"rank_pattern": {"q_proj": 8}}}, {"q_proj": 8}),
        ({"adapter.rank_pattern": {"q_proj": 8, "v_proj": 4}}, {"q_proj": 8, "v_proj": 4}),
        ({"+adapter.rank_pattern": {"q_proj": 8}}, {"q_proj": 8}),
        ({"adapter.rank_pattern.q_proj": 8}, {"q_proj": 8}),
        ({"adapter.rank_pattern": {}}, {}),
        ({"adapter.rank_pattern": {r"^h\.(0|1)\.q$": 8}}, {r"\Ah\.(0|1)\.q$": 8}),
    ],
)
def test_a_setting_that_is_a_mapping_takes_one(settings: Any, expected: dict[str, int]) -> None:
    assert hydratune.compose(settings).adapter.rank_pattern == expected  # type: ignore[attr-defined]


def test_mappings_of_numbers_texts_and_budgets_are_set() -> None:
    config = hydratune.compose(
        {
            "optimizer": {"lr_groups": {"lora_B": 16}},
            "evaluation.forgetting": {"measure": True, "warn": {"nll": 0.1}},
            "data.columns": {"prompt": "the question", "completion": "answer: all"},
        },
        data=ROWS,
    )
    assert config.optimizer.lr_groups == {"lora_B": 16.0}
    assert config.evaluation.forgetting.warn == {"nll": 0.1}
    columns = config.data.columns  # type: ignore[attr-defined]
    assert columns == {"prompt": "the question", "completion": "answer: all"}


def test_names_that_hydra_cannot_read_are_set_in_the_result() -> None:
    with pytest.raises(InputError, match=r"config = hydratune\.compose\(\.\.\.\)"):
        hydratune.compose({"adapter.rank_pattern": {"a^b<": 8}})


@pytest.mark.parametrize("schema", [{"type": "object"}, {"properties": {"a": {"type": "string"}}}])
def test_a_schema_for_rows_is_given_in_a_file(schema: Any) -> None:
    with pytest.raises(ConfigError, match=r"data\.schema_file=FILE"):
        hydratune.compose({"data": {"schema": schema}}, data=ROWS)


def test_a_sweep_may_stand_in_a_mapping_of_its_group() -> None:
    settings = {"optimizer": {"lr": [1e-3, 1e-2]}, "adapter": {"rank_pattern": {"q_proj": 8}}}
    assert words_of(settings, is_sweep=True) == [
        "optimizer.lr=0.001,0.01",
        "++adapter.rank_pattern={q_proj:8}",
    ]


@pytest.mark.parametrize("make", [hydratune.compose, hydratune.train])
def test_a_setting_that_is_given_twice_is_reported(
    make: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make("debug=smoke evaluation.baselines=[] tracking=disabled seed=1 seed=2", data=ROWS)
    printed = capsys.readouterr().out
    assert "seed is given twice, and only the last value is used: seed=2" in printed


def test_a_setting_without_effect_is_reported(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    hydratune.train(
        "debug=smoke evaluation.baselines=[] tracking=disabled optimizer.power=2", data=ROWS
    )
    printed = capsys.readouterr().out
    assert "optimizer.power" in printed and "has no effect" in printed
    assert "run.load_model()" in printed.partition("next ")[2]  # what comes next, from Python


@pytest.mark.parametrize(
    ("settings", "meant"),
    [
        ("model=tiny, optimizer.lr=1e-3", "type: model=tiny optimizer.lr=1e-3"),
        ("optimizer.lr = 1e-3", "type: optimizer.lr=1e-3"),
        (["model=tiny,", "seed = 1"], "type: model=tiny seed=1"),
    ],
)
def test_spaces_and_commas_in_a_text_are_refused(settings: Any, meant: str) -> None:
    with pytest.raises(InputError, match=meant):
        hydratune.compose(settings)


def test_changed_settings_have_the_types_of_their_fields() -> None:
    settings = hydratune.compose("model=tiny")
    settings.optimizer.lr = 1
    assert _as_typed(settings).optimizer.lr == 1.0
    assert isinstance(_as_typed(settings).optimizer.lr, float)
    settings.optimizer.lr = "fast"
    with pytest.raises(ConfigError, match=r"optimizer.lr = fast\n.*must be a number"):
        hydratune.train(settings)
    settings = hydratune.compose("model=tiny")
    settings.trainer.max_epoch = 2
    with pytest.raises(ConfigError, match=r"did you mean trainer\.max_epochs\?"):
        hydratune.train(settings)
