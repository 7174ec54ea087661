"""The model catalogue: its facts, options, structures and filters."""

import csv
from collections.abc import Callable
from pathlib import Path

import hydra
import pytest
from omegaconf import OmegaConf

from hydratune.composition import model_table
from hydratune.composition.resolvers import CONF, register, shipped_options
from hydratune.errors import InputError
from hydratune.models.catalogue import filters
from hydratune.models.catalogue.entries import (
    FOLDER,
    SHORT_NAMES,
    CommercialUse,
    devices,
    model_of,
    models,
)
from hydratune.models.catalogue.structures import structures

Command = Callable[..., tuple[int, str]]
SHARED = Path(__file__).parents[2] / "shared"


def names(*typed: str) -> list[str]:
    return [facts.name for facts in filters.apply(typed, models().values()).models]


# ----------------------------------------------------------------------------------------- facts
def test_every_row_names_its_source_and_date_and_unknown_stays_unknown() -> None:
    assert len(models()) == 48
    for facts in models().values():
        assert facts.source and facts.checked == "2026-11-28", facts.name
    unsourced = models()["olmo2_1b"]
    assert unsourced.licence is None and unsourced.commercial_use is CommercialUse.unknown
    assert models()["qwen3_5_4b"].context_window is None
    assert models()["smollm2_135m"].gated is None
    assert devices()["A10G"].flops is None


@pytest.mark.parametrize(("table", "key"), [("models.csv", "hub_id"), ("devices.csv", "device")])
def test_the_facts_are_those_that_were_handed_over(table: str, key: str) -> None:
    if not (SHARED / table).is_file():
        pytest.skip("the tables that were handed over are not here")
    with (SHARED / table).open(newline="") as given, (FOLDER / table).open(newline="") as own:
        ours = {row[key]: row for row in csv.DictReader(own)}
        rows = list(csv.DictReader(given))
    assert set(ours) == {row[key] for row in rows}
    for row in rows:
        assert row.items() <= ours[row[key]].items()


def test_structures_agree_with_the_number_of_parameters() -> None:
    from hydratune.planning.structure import without_memory

    assert len(structures()) > 30
    for name, structure in structures().items():
        facts = models()[name]
        model = without_memory(structure.config(facts.context_window))
        counted = sum(parameter.numel() for parameter in model.parameters())
        if structure.is_whole:
            assert counted == pytest.approx(facts.parameters, rel=0.025), name
        else:  # the rest is for images; Ministral's 8 is a rounded number
            assert 0.89 < counted / facts.parameters < 1.07, name
        assert type(model).__name__.startswith(facts.architecture[:4]) or not structure.is_whole


# --------------------------------------------------------------------------------------- options
def test_every_model_is_an_option_with_its_facts() -> None:
    register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        for name in ("qwen3_8b", "llama3_1_70b", "qwen3_5_4b"):
            composed = hydra.compose("train", [f"model={name}"]).model
            facts = models()[name]
            assert (composed.source, composed.id) == ("hub", facts.hub_id)
            assert composed.context_window == facts.context_window
            assert composed.licence == (facts.licence or "unknown")


def test_a_file_comes_before_the_row_of_the_same_name() -> None:
    register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        assert hydra.compose("train", ["model=smollm2_135m"]).model.source == "wheel"
        of_file = OmegaConf.load(CONF / "model" / "qwen3_0_6b.yaml")
        composed = hydra.compose("train", ["model=qwen3_0_6b"]).model
    assert (
        composed.context_window == of_file.context_window != models()["qwen3_0_6b"].context_window
    )


def test_no_model_is_listed_under_two_names_and_short_ones_still_work() -> None:
    register()
    ids = {facts.hub_id: name for name, facts in models().items()}
    assert len(ids) == len(models())
    for file in (CONF / "model").glob("*.yaml"):
        own = OmegaConf.load(file).get("id")
        assert ids.get(own, file.stem) == file.stem
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        for short, full in SHORT_NAMES.items():
            composed = hydra.compose("train", [f"model={short}"]).model
            assert composed == hydra.compose("train", [f"model={full}"]).model
            assert short not in shipped_options("model")


def test_a_name_that_is_nearly_right_is_suggested(hydratune: Command) -> None:
    code, text = hydratune("train", "model=qwen3_8", "--cfg", "job")
    assert code == 2 and "did you mean qwen3_8b?" in text


def test_a_model_is_found_by_its_id() -> None:
    found = model_of("qwen/qwen3-8b")
    assert found is not None and found.name == "qwen3_8b"
    assert model_of("nobody/nothing") is None


# --------------------------------------------------------------------------------------- filters
def test_filters_by_size_context_and_licence() -> None:
    assert (
        names("size<=0.5b")
        == names("size=0.5b-")
        == [
            "smollm2_135m",
            "smollm2_360m",
            "qwen2_5_0_5b",
        ]
    )
    assert names("context>=256k") == names("context=256k+")
    assert "qwen3_4b_2507" in names("context=256k+") and "qwen3_8b" not in names("context=256k+")
    assert names("size=1b..2b", "licence=llama") == ["llama3_2_1b"]
    assert names("size>70b") == ["llama3_1_70b", "llama3_3_70b"]
    assert {models()[n].commercial_use for n in names("commercial=yes")} == {CommercialUse.yes}
    both = {models()[n].commercial_use for n in names("license=commercial")}
    assert both == {CommercialUse.yes, CommercialUse.conditional}
    assert all(models()[n].gated is False for n in names("gated=no"))
    assert names("name=mistral") == [
        "mistral_7b",
        "mistral_nemo_12b",
        "ministral3_8b",
        "ministral3_14b",
    ]


def test_unknown_values_never_match_and_are_counted() -> None:
    every = list(models().values())
    few, many = filters.apply(["context<1"], every), filters.apply(["context>=1"], every)
    unknown = sum(facts.context_window is None for facts in every)
    assert not few.models and few.unknown == many.unknown == unknown > 0
    assert len(many.models) + unknown == len(every)
    # what fails another filter is not counted as unknown
    assert filters.apply(["context>=1", "size>1000b"], every).unknown == 0


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("context", "context=32k+"),  # what is left of an unquoted context>=32k
        ("licens=mit", "did you mean licence?"),
        ("speed=3", "filters: licence, "),
        ("size=big", "size=8b-"),
        ("size=8kg", "size=8b-"),
        ("gated=maybe", "gated=no"),
        ("commercial=perhaps", "commercial=yes"),
        ("licence>=mit", "licence=mit"),
        ("licence=comercial", "licence=commercial"),
        ("=", "for example"),
    ],
)
def test_a_wrong_filter_is_one_message(typed: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        filters.apply([typed], models().values())
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("width", "has_hub"), [(80, False), (110, True), (200, True)])
def test_no_word_of_the_table_is_cut(
    width: int, has_hub: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(model_table.console, "_width", width)
    model_table.print_models(["size=0.1b+"])
    table = capsys.readouterr().out.partition("models match")[0].splitlines()[:-1]
    words = {word for line in table for word in line.split()}
    cells = [model_table.cells(facts) for facts in models().values()]
    allowed = {word for row in cells for cell in row for word in cell.split()}
    assert words <= allowed | set(" ".join(model_table._HEAD).split())
    assert ("Qwen/Qwen3-8B" in words) == has_hub
    assert max(map(len, table)) <= width


def test_configs_model_shows_a_table_that_can_be_filtered(hydratune: Command) -> None:
    code, text = hydratune("configs", "model")
    assert code == 0 and set(models()) <= set(text.split())
    assert "model=hub model.id=ORG/NAME" in text
    code, text = hydratune("configs", "model", "licence=commercial", "context>=32k", "size=8b-")
    assert code == 0 and "smollm3_3b" in text and "phi4" not in text
    assert "llama3_1_8b" in text  # of 8.03B parameters
    assert "of 48 models match; of 3 more a value that a filter asks for is unknown" in text
    assert hydratune("configs", "model", "size=0.001b-")[1].startswith("0 of 48 models match")
    assert hydratune("configs", "model", "context")[0] == 2
