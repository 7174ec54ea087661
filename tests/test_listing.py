"""``hydratune configs`` and ``hydratune help SETTING`` explain groups, options and settings."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from hydratune.composition.listing import describe_option, groups, options
from hydratune.composition.resolvers import CONF
from hydratune.settings.reference import settings_of
from hydratune.settings.registry import all_variants

Command = Callable[..., tuple[int, str]]


def test_all_groups_are_listed_with_every_option_and_its_default(hydratune: Command) -> None:
    code, text = hydratune("configs")
    assert code == 0
    assert "adapter=OPTION; default: lora\n" in text and "\nsweep=OPTION\n" in text
    for group in groups():
        assert f"{group}=OPTION" in text
        for file in (CONF / group).glob("*.yaml"):
            assert f"  {file.stem} " in text
    assert text.count("(IA)^3") == 1 and "Takes a higher" not in text  # the first sentence only


def test_one_group_is_listed_in_full(hydratune: Command) -> None:
    code, text = hydratune("configs", "adapter")
    assert code == 0 and "Takes a higher learning rate than LoRA" in " ".join(text.split())
    assert "data=OPTION" not in text
    assert hydratune("help", "adapter") == (0, text)


@pytest.mark.parametrize("group", groups())
def test_every_option_is_described(group: str) -> None:
    assert options(group)
    for name, text in options(group):
        assert len(text) > 5, f"{group}={name} has no comment at the top of its file"


def test_the_list_says_what_an_option_is(hydratune: Command) -> None:
    """Of a model its id, size and licence; of a sweep its purpose; of no option lines of YAML."""
    text = " ".join(hydratune("configs")[1].split())
    models = [file for file in (CONF / "model").glob("*.yaml") if hub_id(file)]
    assert len(models) > 3
    for model in models:
        assert f"{model.stem} {hub_id(model)}, " in text
        assert " parameters; licence: " in describe_option(model), model
    for sweep in (CONF / "sweep").glob("*.yaml"):
        assert f"{sweep.stem} hydratune" not in text
    assert "{source:" not in text and "data.train=calls.csv 8192" not in text


def hub_id(file: Path) -> str:
    """Return the id of a model on the hub, "" for other models."""
    settings = OmegaConf.to_container(OmegaConf.load(file))
    assert isinstance(settings, dict)
    return str(settings.get("id", "")).replace("???", "")


def test_lines_of_a_description_become_sentences() -> None:
    text = describe_option(CONF / "adapter" / "adalora.yaml")
    assert "(AdaLoRA, arXiv:2303.10512). Its product" in text


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("optimizer.lr", ["learning rate after the warm-up", "number", "default 0.001", "above 0"]),
        ("lr", ["optimizer.lr", "default 0.001"]),
        ("+adapter.lora_alpha=8", ["only with adapter=", "usual: 2 * adapter.r"]),
        ("trainer.max_epochs", ["set trainer.max_epochs=1 or more", "whole number"]),
        (
            "data.overlength",
            [
                *(
                    "drop | split",
                    "- drop the row is dropped",
                    "- split documents",
                    "- truncate_prompt cuts the start",
                ),
                *("- error training is refused", "note An answer is never cut. default drop"),
            ],
        ),
        (
            "optimizer.schedule",
            ["- linear falls by", "- polynomial (1 - progress) ** optimizer.power"],
        ),
        ("evaluation.task", ["- auto json if all references are JSON objects"]),
        ("evaluation.baselines", ["- base zero-shot", "default ['base', 'fewshot']"]),
        ("source", ["what What hydratune evaluate starts from type"]),
        ("tracking.log_text", ["true or false", "default true"]),
        ("hydra.launcher.together", ["two more than there are cores"]),
        ("resume", ["default auto"]),
    ],
)
def test_a_setting_is_explained(hydratune: Command, word: str, parts: list[str]) -> None:
    code, text = hydratune("help", word)
    assert code == 0, text
    for part in parts:
        assert part in " ".join(text.split())


def test_every_option_of_every_enum_is_listed() -> None:
    from hydratune.composition.listing import explain_setting

    for group, kinds in all_variants().items():
        settings = {s.name: s for kind in kinds.values() for s in settings_of(kind) if s.options}
        for name, setting in settings.items():
            text = explain_setting(f"{group}.{name}")
            assert [value for value, _ in setting.options if f"  - {value}" not in text] == []


@pytest.mark.parametrize("group", sorted(all_variants()))
def test_a_setting_of_every_group_can_be_explained(group: str) -> None:
    from hydratune.composition.listing import explain_setting

    setting = settings_of(next(iter(all_variants()[group].values())))[0]
    assert f"{group}.{setting.name}\n" in explain_setting(f"{group}.{setting.name}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("configs", "adaptr"), "did you mean adapter?"),
        (("configs", "zzz"), "groups: adapter"),
        (("help", "optimzer.lr"), "did you mean optimizer.lr?"),
        (("help", "zzz"), "hydratune configs lists groups"),
        (("help", "a", "b"), "give one setting"),
        (("confgs",), "did you mean 'configs'?"),
    ],
)
def test_what_does_not_exist_is_refused(
    hydratune: Command, words: tuple[str, ...], message: str
) -> None:
    code, text = hydratune(*words)
    assert code == 2 and message in text


def test_help_of_a_command_is_that_of_its_flag(hydratune: Command) -> None:
    assert hydratune("help", "compare") == hydratune("compare", "--help")
    code, text = hydratune("help")
    assert code == 0 and "configs [GROUP]" in text and "help SETTING" in text


def test_listing_loads_nothing_heavy() -> None:
    code = (
        "import sys; from hydratune.cli import main; main(['configs']); main(['help', 'seed'])\n"
        "heavy = {'torch', 'transformers', 'lightning', 'pandas', 'datasets'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
