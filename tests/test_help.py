"""``hydratune COMMAND --help`` explains every setting, and is instant."""

import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from hydratune.cli import COMMANDS as SUMMARIES
from hydratune.settings.commands import COMMANDS
from hydratune.settings.data import Overlength
from hydratune.settings.reference import Setting, options_of, settings_of
from hydratune.settings.registry import all_variants
from hydratune.sweeps.executor_options import RayOptions, SlurmOptions
from hydratune.sweeps.options import PackOptions

Command = Callable[..., tuple[int, str]]


@dataclass
class Nested:
    inner: int = 0  # of the nested settings


@dataclass
class Example:
    # above,
    # on two lines
    plain: str = ""
    behind: list[int] | None = None  # behind
    option: Overlength = Overlength.drop  # an enum
    nested: Nested | None = None
    longer: dict[str, str] = field(default_factory=dict)  # after the bracket
    unexplained: bool = False


def test_meanings_are_read_from_the_comments() -> None:
    plain, behind, option, nested, longer, unexplained = settings_of(Example)
    assert plain == Setting("plain", "text", "above, on two lines")
    assert behind == Setting("behind", "list of whole numbers or null", "behind")
    assert option.type == "drop | split | truncate_prompt | error"
    assert dict(option.options)["truncate_prompt"].startswith("cuts the start")
    assert nested == Setting("nested.inner", "whole number", "of the nested settings")
    assert longer == Setting("longer", "mapping", "after the bracket")
    assert unexplained == Setting("unexplained", "true or false", "")


@pytest.mark.parametrize(
    "kind",
    [
        *COMMANDS.values(),
        *(kind for variants in all_variants().values() for kind in variants.values()),
        PackOptions,
        SlurmOptions,
        RayOptions,
    ],
)
def test_every_setting_is_explained(kind: type) -> None:
    groups = all_variants()
    unexplained = [
        setting.name
        for setting in settings_of(kind)
        if not setting.meaning
        and setting.name not in ("method", "source", "kind")
        and setting.name not in groups
    ]
    unexplained += [
        f"{setting.name}={value}"
        for setting in settings_of(kind)
        for value, meaning in setting.options
        if not meaning
    ]
    assert not unexplained


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_has_all_its_settings(hydratune: Command, command: str) -> None:
    code, text = hydratune(command, "--help")
    assert code == 0 and text.startswith(f"usage: hydratune {command} ")
    assert SUMMARIES[command] in text and "Powered by Hydra" not in text
    for setting in settings_of(COMMANDS[command]):
        name, group = setting.name, setting.name.partition(".")[0]
        names = [name]
        if name in all_variants():
            kinds = all_variants()[group].values()
            names = [f"{group}.{s.name}" for kind in kinds for s in settings_of(kind)]
        chosen_by = (f"{group}.method", f"{group}.source", f"{group}.kind")
        missing = [n for n in names if f"  {n}  " not in text and n not in chosen_by]
        assert not missing


def test_the_default_is_shown_where_the_default_option_has_the_setting(hydratune: Command) -> None:
    _, text = hydratune("train", "-h")
    flat = " ".join(text.split())
    assert "adapter.r whole number (lora) rank of the change of a layer [16]" in flat
    assert "adapter.r whole number (vera) far higher than in LoRA: a rank costs one number" in flat
    vera = flat.partition("adapter.r whole number (vera)")[2].partition(" adapter.")[0]
    assert "[" not in vera


def test_options_have_their_meanings() -> None:
    meaning = "documents (text rows) become several parts; conversations are dropped"
    assert ("split", meaning) in options_of(Overlength)  # above a comment for a type checker


def test_help_is_instant_and_needs_no_torch() -> None:
    code = (
        "import sys; from hydratune.cli import main; main(['train', '--help']);"
        " sys.exit('torch' in sys.modules)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    # less than 1 s on a quiet machine; Hydra's own help takes 5
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3
