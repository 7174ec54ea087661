"""What the pages of the documentation show: commands, settings, links, headings."""

import importlib.util
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import hydra
from omegaconf import DictConfig

from hydra_plugins.hydratune_sweeper import OptunaSweeperConfig, WandbSweeperConfig
from hydratune.commands.sweep import train_arguments
from hydratune.comparison.options import parse_options
from hydratune.composition import CONF, listing, register
from hydratune.composition.mappings import as_entry
from hydratune.doctor.command import parse_options as parse_doctor_options
from hydratune.overview.command import parse_options as parse_status_options
from hydratune.settings.commands import COMMANDS, CommandConfig
from hydratune.settings.reference import settings_of
from hydratune.settings.registry import all_variants, typed
from hydratune.sweeps.executor_options import EXECUTORS
from hydratune.sweeps.options import PackOptions

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
_GENERATED = DOCS / "reference" / "generated"
_BUILT = DOCS / "_build"
_OF_THE_ROOT = (README, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", ROOT / "CHANGELOG.md")
_FENCE = re.compile(r"^```([\w{}]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def written_pages() -> list[Path]:
    """Return all pages that people write: those of docs/, without the generated ones, and the
    Markdown files beside the README.
    """
    pages = [
        page
        for page in DOCS.rglob("*.md")
        if not page.is_relative_to(_GENERATED) and not page.is_relative_to(_BUILT)
    ]
    return [*_OF_THE_ROOT, *sorted(pages)]


def page_name(page: Path) -> str:
    """Return the path of a page as the id of a test."""
    return str(page.relative_to(ROOT))


def generator() -> ModuleType:
    """Return the module docs/generate.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("generate_docs", DOCS / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def commands_of(page: Path) -> list[list[str]]:
    """Return every command ``hydratune ...`` that a page shows, as words."""
    lines = [line.removeprefix("$ ") for line in lines_of_code(page.read_text("utf-8"))]
    shown = [line for line in lines if line.startswith("hydratune ")]
    return [shlex.split(line.partition("  #")[0]) for line in shown]


def lines_of_code(text: str) -> Iterator[str]:
    """Yield what a page shows as code: fenced and indented lines, and text in backticks.

    Lines that end in a backslash are joined with the next one; Python and TOML are left out.
    """
    for language, block in _FENCE.findall(text):
        lines = block.replace("\\\n", " ").splitlines()
        if language in ("", "bash", "sh"):
            yield from lines
        if language == "text":  # what a terminal shows
            yield from (line for line in lines if line.startswith("$ "))
    prose = _FENCE.sub("", text)
    yield from re.findall(r"^ {4}(\S.*)$", prose, re.MULTILINE)
    for code in re.findall(r"`([^`\n]+)`", prose):
        yield code.replace("\\|", "|")


def compose_command(words: list[str]) -> None:
    """Compose what a command line says. Raises for a setting, option or flag that is not there.

    Of several values of a setting the first is composed, of a range its lower end.
    """
    assert words[0] == "hydratune"
    command, arguments = words[1], words[2:]
    if not arguments or "--help" in arguments:  # a command that is named, or asked for help
        return
    if command == "configs":
        listing.list_configs(arguments[0])
        return
    if command == "help":
        listing.explain_setting(arguments[0])
        return
    if command == "compare":
        parse_options(arguments)
        return
    if command == "doctor":
        parse_doctor_options(arguments)
        return
    if command == "status":
        parse_status_options(arguments)
        return
    if command in ("stop", "add"):
        overrides = [word for word in arguments[1:] if word[:5] not in ("like=", "from=")]
        assert arguments and all(("=" in word) is (command == "add") for word in overrides)
        return
    if command == "sweep":
        command, arguments = "train", train_arguments(arguments)
    overrides = [_first_value(word) for word in arguments if "=" in word]
    settings(command, tuple(overrides))


_register = cache(register)  # takes as long as composing


@cache
def settings(command: str, overrides: tuple[str, ...]) -> CommandConfig:
    """Return the settings of a command with overrides."""
    _register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        words = [as_entry(override, command) for override in overrides]
        composed = hydra.compose(command, words)
    assert isinstance(composed, DictConfig)
    return typed(composed, COMMANDS[command])


def _first_value(override: str) -> str:
    name, _, value = override.partition("=")
    if "interval(" in value:
        value = value.partition("interval(")[2].partition(",")[0]
    elif not value.startswith(("[", "{")):
        value = value.partition(",")[0]
    return f"{name}={value}"


def settings_with_values(page: Path) -> list[str]:
    """Return the single settings that a page shows with a value, such as ``adapter.r=64``."""
    groups = "|".join([*all_variants(), r"hydra\.launcher", r"hydra\.sweeper"])
    pattern = rf"\+?(({groups})(\.\w+)*|resume|seed|preview)=\S+"
    code = lines_of_code(page.read_text("utf-8"))
    shown = {line for line in code if re.fullmatch(pattern, line)}
    return sorted(line for line in shown if not re.search(r"\b(NAME|OPTION)\b", line))


def compose_settings(shown: list[str]) -> None:
    """Compose single settings. Raises for one that does not exist or has a wrong type.

    A setting that only another option of its group has is looked up by its name.
    """
    usual = _names_of_defaults()
    together: dict[str, str] = {}
    for setting in shown:
        name = setting.lstrip("+").partition("=")[0]
        if "." in name and name not in usual:
            known = _names_of_settings()  # an entry of a mapping has the name of the mapping
            assert name in known or name.rpartition(".")[0] in known, setting
        elif name in together or "." not in name:
            settings("train", (_first_value(setting),))
        else:
            together[name] = _first_value(setting)
    settings("train", tuple(together.values()))


@cache
def _names_of_defaults() -> frozenset[str]:
    """Return the settings that ``hydratune train`` has without any other option of a group."""
    train = settings("train", ())
    kinds = {group: type(getattr(train, group)) for group in all_variants()}
    names = {f"{group}.{s.name}" for group, kind in kinds.items() for s in settings_of(kind)}
    return frozenset(names | {f"hydra.launcher.{s.name}" for s in settings_of(PackOptions)})


def names_of_settings(page: Path) -> set[str]:
    """Return what a page calls a setting of a group without giving it a value."""
    groups = "|".join(all_variants())
    text = _FENCE.sub("", page.read_text("utf-8"))
    names = set(re.findall(rf"`\+?((?:{groups}|hydra\.launcher)(?:\.[a-z_]\w*)+)`", text))
    return {n for n in names if not n.endswith((".json", ".html", ".md"))} - {
        "model.generate",
        "model.norm",
    }


def known_names() -> set[str]:
    """Return the name of every setting of a group, of packs and of searches, and all above them."""
    names = _names_of_settings()
    return {*names, *(name.rpartition(".")[0] for name in names)}


@cache
def _names_of_settings() -> frozenset[str]:
    """Return the name of every setting of a group, of packs and of searches."""
    kinds = [(group, kind) for group, own in all_variants().items() for kind in own.values()]
    kinds += [("hydra.launcher", PackOptions), ("hydra.sweeper", OptunaSweeperConfig)]
    kinds += [("hydra.sweeper", WandbSweeperConfig)]
    kinds += [("hydra.launcher.executor", kind) for kind in EXECUTORS.values()]
    return frozenset(f"{prefix}.{s.name}" for prefix, kind in kinds for s in settings_of(kind))


def links_of(text: str) -> list[str]:
    """Return the targets of all links and pictures in Markdown that are no address."""
    prose = re.sub(r"`[^`\n]*`", "", _FENCE.sub("", text))
    targets = re.findall(r"\]\(([^()\s]+)\)", prose)
    return [target for target in targets if "://" not in target]


def anchors_of(text: str) -> set[str]:
    """Return what links may name after ``#``: the headings, as GitHub and MyST write them."""
    headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def listed_pages(page: Path) -> set[Path]:
    """Return the pages in the tables of contents of a page."""
    entries = []
    for language, block in _FENCE.findall(page.read_text("utf-8")):
        if language == "{toctree}":
            lines = [line for line in block.splitlines() if line and not line.startswith(":")]
            entries += [re.sub(r".*<(.*)>", r"\1", line) for line in lines]
    return {(page.parent / f"{entry}.md").resolve() for entry in entries}
