"""The help of a command: what it does, the options of its groups, and every setting explained."""

import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence

import hydra
from omegaconf import DictConfig, OmegaConf

from hydratune.composition.package_options import option_names
from hydratune.composition.resolvers import CONF, register, shipped_options
from hydratune.settings.commands import COMMANDS
from hydratune.settings.reference import Setting, settings_of
from hydratune.settings.registry import all_variants, import_packages
from hydratune.sweeps.executor_options import EXECUTORS
from hydratune.sweeps.options import PackOptions

_VARIANT_FIELDS = ("method", "source", "kind")  # they name the option of a group, chosen by GROUP=
_FLAGS = (
    (
        "-m, --multirun",
        "run all combinations of settings with several values: optimizer.lr=1e-4,1e-3",
    ),
    ("--cfg job", "show the composed settings, run nothing; -p GROUP: those of one group"),
    ("--info defaults", "show from which files the settings come"),
    ("--config-dir DIR", "use your own option files as well: DIR/GROUP/NAME.yaml"),
)
_OPTIONAL = ("experiment", "debug", "sweep")  # groups of settings files that are chosen at will


def command_help(command: str, summary: str) -> str:
    """Return the help of a command; ``summary`` says in one line what it does."""
    register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        composed = hydra.compose(command)
    width = max(60, min(shutil.get_terminal_size().columns, 110))
    return "\n".join(_lines(command, summary, composed, width)) + "\n"


def _lines(command: str, summary: str, composed: DictConfig, width: int) -> Iterator[str]:
    yield f"usage: hydratune {command} [GROUP=OPTION ...] [SETTING=VALUE ...] [FLAG ...]"
    yield ""
    yield summary
    groups = [group for group in all_variants() if group in composed]
    chosen = [*groups, *(_OPTIONAL if groups else ())]
    problems = import_packages()
    yield from _section("groups, each with its options", map(_group_row, chosen), width)
    own = [s for s in settings_of(COMMANDS[command]) if s.name.split(".")[0] not in groups]
    yield from _section("settings, each with its default", _rows("", own, composed), width)
    for group in groups:
        yield from _section(f"settings of {group}", _group_rows(group, composed), width)
    if command == "train":
        rows = _rows("hydra.launcher.", settings_of(PackOptions), DictConfig({}))
        yield from _section("settings of a sweep (-m)", rows, width)
        for name, kind in EXECUTORS.items():
            rows = _rows("hydra.launcher.executor.", settings_of(kind), DictConfig({}))
            yield from _section(f"settings with hydra/launcher/executor={name}", rows, width)
    yield from _section("flags", _FLAGS, width)
    broken = [(f"{problem.key}={problem.value}", problem.why) for problem in problems]
    yield from _section("packages that cannot be used", broken, width)


def _group_row(group: str) -> tuple[str, str]:
    return f"{group}=", "  ".join(sorted({*shipped_options(group), *option_names(group)}))


def _group_rows(group: str, composed: DictConfig) -> Iterator[tuple[str, str]]:
    """Yield every setting of a group once, with the variants that have it if it is not all.

    Those of most variants come first. The default is that of the variant that is chosen by default.
    """
    owners: dict[Setting, list[str]] = {}
    variants = all_variants()[group]
    for variant, kind in variants.items():
        for setting in settings_of(kind):
            if setting.name not in _VARIANT_FIELDS or len(variants) == 1:
                owners.setdefault(setting, []).append(variant)
    default = next((str(composed[group][f]) for f in _VARIANT_FIELDS if f in composed[group]), "")
    ordered = sorted(owners, key=lambda setting: -len(owners[setting]))
    usual = [s for s in ordered if not default or default in owners[s]]
    texts = [
        *zip(usual, _rows(f"{group}.", usual, composed), strict=True),
        *((s, row) for s in ordered if s not in usual for row in _rows(f"{group}.", [s], None)),
    ]
    for setting, (name, text) in texts:
        of_all = len(owners[setting]) == len(variants)
        yield name if of_all else f"{name}  ({', '.join(owners[setting])})", text


def _rows(
    prefix: str, settings: Sequence[Setting], composed: DictConfig | None
) -> Iterator[tuple[str, str]]:
    """Yield (setting and type, meaning and default) for each setting.

    The options of an enum are explained where it comes first. ``composed`` has the defaults; None:
    they are not shown.
    """
    explained: set[object] = set()
    for setting in settings:
        key = f"{prefix}{setting.name}"
        parts = [setting.meaning]
        if setting.options not in explained:
            parts += [f"{value}: {meaning}" for value, meaning in setting.options if meaning]
        explained.add(setting.options)
        text = "; ".join(filter(None, parts))
        value = None if composed is None else OmegaConf.select(composed, key, default=None)
        if isinstance(value, bool | int | float | str):
            shown = str(value).lower() if isinstance(value, bool) else str(value)
            text = f"{text} [{shown}]".strip()
        yield f"{key}  {setting.type}", text


def _section(title: str, rows: Iterable[tuple[str, str]], width: int) -> Iterator[str]:
    """Yield a heading and its rows; nothing if there are none."""
    every = list(rows)
    if not every:
        return
    yield from ("", f"{title}:")
    for name, text in every:
        yield f"  {name}"
        yield from textwrap.wrap(text, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
