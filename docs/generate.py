"""Write the reference pages of settings, commands, options and metrics from the code.

``docs/conf.py`` calls ``write`` at every build; the pages are ignored by git. By hand:

    python docs/generate.py [FOLDER]        the pages; the default is docs/reference/generated
"""

import contextlib
import inspect
import io
import json
import re
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path

from omegaconf import MISSING

import hydratune

sys.path.insert(0, str(Path(hydratune.__file__).parents[2] / "tests"))

from fault_table import faults
from hydra_plugins.hydratune_sweeper import OptunaSweeperConfig, WandbSweeperConfig
from hydratune import cli, metric_table
from hydratune.composition import listing
from hydratune.composition.help import command_help
from hydratune.composition.model_table import cells
from hydratune.models.catalogue.entries import devices, models
from hydratune.models.catalogue.structures import structures
from hydratune.settings.commands import COMMANDS
from hydratune.settings.reference import Setting, settings_of
from hydratune.settings.registry import all_variants
from hydratune.sweeps.executor_options import RayOptions, SlurmOptions
from hydratune.sweeps.options import PackOptions

FOLDER = Path(__file__).parent / "reference" / "generated"
_DO_NOT_EDIT = "<!-- written by docs/generate.py: do not edit -->"
_VARIANT_FIELDS = ("method", "source", "kind")  # they hold the name of the option itself
_TITLES = {
    "model": "the base model",
    "data": "the rows and how they are checked, cleaned and divided",
    "adapter": "what is trained",
    "optimizer": "how parameters are updated",
    "trainer": "the training loop and the hardware",
    "evaluation": "what is measured before, during and after training",
    "tracking": "W&B and TensorBoard",
}


def pages() -> dict[str, str]:
    """Return every generated page: file name -> Markdown."""
    groups = {f"settings_{group}.md": _group_page(group) for group in all_variants()}
    return {
        "commands.md": _commands_page(),
        "settings_commands.md": _command_settings_page(),
        **groups,
        "settings_sweep.md": _sweep_page(),
        "options.md": _options_page(),
        "models.md": _models_page(),
        "metrics.md": _metrics_page(),
        "faults.md": _faults_page(),
        "python.md": _python_page(),
        "notebook.md": _notebook_page(),
    }


def write(folder: Path = FOLDER) -> None:
    """Write the pages into ``folder``; those that are equal already are not touched."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = pages()
    for old in folder.glob("*.md"):
        if old.name not in texts:
            old.unlink()
    for name, text in texts.items():
        file = folder / name
        if not file.exists() or file.read_text("utf-8") != text:
            file.write_text(text, "utf-8")


def _page(title: str, *parts: Iterable[str] | str) -> str:
    lines = [f"# {title}", "", _DO_NOT_EDIT, ""]
    for part in parts:
        lines += [part, ""] if isinstance(part, str) else [*part, ""]
    return "\n".join(lines).rstrip() + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def _settings_table(prefix: str, kind: type, settings: Iterable[Setting]) -> Iterator[str]:
    """Yield a table of settings of ``kind``: name, type, default, meaning."""
    defaults = kind()
    rows = []
    for setting in settings:
        parts = [setting.meaning]
        parts += [f"`{value}`: {meaning}" for value, meaning in setting.options if meaning]
        default = _default(defaults, setting.name)
        name = f"`{prefix}{setting.name}`"
        rows.append((name, setting.type, default, _escaped("; ".join(filter(None, parts)))))
    yield from _table(("setting", "type", "default", "meaning"), rows)


def _default(defaults: object, name: str) -> str:
    """Return the default of a setting with a dotted name as it is typed; "" without one."""
    value: object = defaults
    for part in name.split("."):
        if value is None:
            return "`null`"
        value = getattr(value, part)
    if value == MISSING:
        return "required"
    if value is None or isinstance(value, bool):
        return f"`{str(value).lower().replace('none', 'null')}`"
    if isinstance(value, Enum):
        return f"`{value.value}`"
    if is_dataclass(value) or value == "":
        return ""
    if isinstance(value, list):
        return f"`[{','.join(str(getattr(item, 'value', item)) for item in value)}]`"
    return f"`{value}`"


def _escaped(text: str) -> str:
    """Return plain text with what Markdown would read as markup escaped, outside of code."""
    parts = text.split("`")
    for number in range(0, len(parts), 2):
        for mark in "\\*_<[":
            parts[number] = parts[number].replace(mark, f"\\{mark}")
    return "`".join(parts)


def _group_page(group: str) -> str:
    """Return the page of a config group: settings of all its variants, then those of each."""
    variants = all_variants()[group]
    every = {name: settings_of(kind) for name, kind in variants.items()}
    shared = [
        setting
        for setting in next(iter(every.values()))
        if all(setting in settings for settings in every.values())
    ]
    first = next(iter(variants.values()))
    parts: list[Iterable[str] | str] = [
        f"`{group}.NAME=VALUE` on the command line. A default may be another where an option of"
        f" the group sets one: `hydratune train {group}=OPTION --cfg job -p {group}` shows the"
        " values of an option, [options](options.md) lists all options.",
    ]
    named = [setting for setting in shared if setting.name not in _VARIANT_FIELDS]
    if named:
        title = "For every option" if len(variants) > 1 else "Settings"
        parts += [f"## {title}", _settings_table(f"{group}.", first, named)]
    for name, kind in variants.items():
        own = [s for s in every[name] if s not in shared and s.name not in _VARIANT_FIELDS]
        if own:
            parts += [f"## {name}", _settings_table(f"{group}.", kind, own)]
    return _page(f"Settings of {group}: {_TITLES[group]}", *parts)


def _command_settings_page() -> str:
    """Return the page of the settings that belong to a command and to no group."""
    groups = all_variants()
    parts: list[Iterable[str] | str] = [
        "Settings of a command itself. `train`, `prepare`, `plan` and `decide` also have the groups"
        f" {', '.join(f'[{group}](settings_{group}.md)' for group in groups)}.",
    ]
    for command, kind in COMMANDS.items():
        own = [s for s in settings_of(kind) if s.name.partition(".")[0] not in groups]
        parts += [f"## {command}", _settings_table("", kind, own)]
    return _page("Settings of the commands", *parts)


def _sweep_page() -> str:
    """Return the page of the settings of sweeps and searches."""
    sweepers = {
        "A search": (
            "With `hydra/sweeper=optuna` or `hydra/sweeper=random`.",
            OptunaSweeperConfig,
        ),
        "A W&B sweep": (
            "With `hydra/sweeper=wandb`, which `hydratune sweep` sets.",
            WandbSweeperConfig,
        ),
    }
    parts: list[Iterable[str] | str] = [
        "They hold for `hydratune train -m` and `hydratune sweep`.",
        "## Packs and halving",
        "With `hydra/launcher=pack`, the default.",
        _settings_table("hydra.launcher.", PackOptions, settings_of(PackOptions)),
    ]
    parts += [
        "## Slurm",
        "With `hydra/launcher/executor=slurm`: [laptop to cluster](../../howto/cluster.md).",
        _settings_table("hydra.launcher.executor.", SlurmOptions, settings_of(SlurmOptions)),
        "## Ray",
        "With `hydra/launcher/executor=ray`: [laptop to cluster](../../howto/cluster.md).",
        _settings_table("hydra.launcher.executor.", RayOptions, settings_of(RayOptions)),
    ]
    for title, (chosen, kind) in sweepers.items():
        own = [s for s in settings_of(kind) if s.name != "params"]
        parts += [f"## {title}", chosen, _settings_table("hydra.sweeper.", kind, own)]
    return _page("Settings of sweeps and searches", *parts)


def _commands_page() -> str:
    """Return the page of the commands, with the help that the program prints."""
    parts: list[Iterable[str] | str] = [
        _table(("command", "what it does"), [(f"`{n}`", text) for n, text in cli.COMMANDS.items()]),
        "What can be set: [settings of the commands](settings_commands.md), of"
        " [sweeps and searches](settings_sweep.md), and of each group.",
        "## hydratune --help",
        _block(_printed("--help")),
        "## Flags",
        "The same for every command that has settings:",
        _block("flags:\n" + command_help("train", "").partition("\nflags:\n")[2]),
    ]
    for command in cli.COMMANDS:
        if command not in COMMANDS:  # they have options of their own, without types
            title = f"## hydratune {command} --help"
            parts += [title, _block(_printed(command, "--help"))]
    return _page("Commands", *parts)


def _printed(*arguments: str) -> str:
    """Return what the program prints with these arguments."""
    stream = io.StringIO()
    with contextlib.redirect_stdout(stream):
        cli.main(list(arguments))
    return stream.getvalue()


def _block(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```"


def _options_page() -> str:
    """Return the page of the config groups: every option with the first comment of its file."""
    parts: list[Iterable[str] | str] = [
        "An option is a file `conf/GROUP/NAME.yaml` with values; choose it by `GROUP=NAME`. Your"
        " own files: `--config-dir DIR` with `DIR/GROUP/NAME.yaml`. On the terminal:"
        " `hydratune configs`.",
    ]
    for group in listing.groups():
        rows = [(f"`{group}={name}`", _escaped(text)) for name, text in listing.options(group)]
        parts += [f"## {group}", _table(("option", "what it is"), rows)]
    return _page("Options of the config groups", *parts)


def _models_page() -> str:
    """Return the page of the model catalogue and of the accelerators."""
    known = structures()
    rows = [
        (
            *(f"`{cell}`" if number == 0 else cell for number, cell in enumerate(cells(facts))),
            "known" if name in known else "unknown",
            facts.conditions or "unknown",
            f"{facts.source} ({facts.checked})",
        )
        for name, facts in models().items()
    ]
    head = ("model=", "on the hub", "size", "context", "licence", "commercial use", "gated")
    accelerators = [
        (
            name,
            f"{device.memory / 1e9:.0f}",
            "unknown" if device.flops is None else f"{device.flops / 1e12:g}",
            "unknown" if device.bandwidth is None else f"{device.bandwidth / 1e9:g}",
            f"{device.source} ({device.checked})",
        )
        for name, device in devices().items()
    ]
    parts: list[Iterable[str] | str] = [
        "Facts with their sources. `unknown` means that no source was found, and nothing is filled"
        " in. On the terminal, with filters: `hydratune configs model licence=commercial"
        " context=32k+ size=8b-`. Read a licence before you use a model.",
        "## Models",
        "*Sizes*: whether widths and layers are known, so that `hydratune plan` needs no network.",
        _table((*head, "sizes", "conditions", "source"), _plain(rows)),
        "## Accelerators",
        _table(
            ("device", "GB", "bf16 TFLOP/s", "GB/s", "source"),
            _plain(accelerators),
        ),
    ]
    return _page("Models and devices", *parts)


def _plain(rows: Iterable[Sequence[str]]) -> Iterator[tuple[str, ...]]:
    """Yield the cells of rows with what Markdown would read as markup escaped."""
    for row in rows:
        yield tuple(_escaped(cell) for cell in row)


def _metrics_page() -> str:
    """Return the page of the metrics."""
    head = ("metric", "title", "unit", "better", "families")
    parts: list[Iterable[str] | str] = [
        "Names of `metrics.json`, the terminal, the pages, W&B and the searches. A `*` stands for"
        " each field, class or package.",
        "## Of answers",
        "Under `eval/` for the fine-tuned model, `base/` and `fewshot/` for the base model without"
        " and with examples, all on the test rows; under `val/` on validation rows during training."
        " A family is a value of `evaluation.metrics`; `likelihood` and `generation` are always"
        " measured.",
        _table(head, map(_metric_row, metric_table.ANSWER_METRICS)),
        "## Of the run",
        _table(head[:-1], (_metric_row(row)[:-1] for row in metric_table.RUN_METRICS)),
    ]
    return _page("Metrics", *parts)


def _faults_page() -> str:
    head = ("fault", "what is seen", "what is kept", "test")
    rows = [
        (fault.what, fault.seen, fault.kept, f"`{fault.test}`{' (slow)' if fault.is_slow else ''}")
        for fault in faults()
    ]
    what = (
        "Each row is a test that causes the fault and checks what stands here. Slow tests are run"
        " by `make test-all`, all others by `make test`."
    )
    return _page("What happens when something breaks?", what, _table(head, rows))


def _metric_row(row: metric_table.Metric) -> tuple[str, str, str, str, str]:
    title = row.title.replace("{}", "\\*")
    families = ", ".join(row.families)
    return f"`{row.name}`", title, row.unit.value, row.direction.value, families


def _python_page() -> str:
    """Return the page of the Python API, from the docstrings."""
    parts: list[Iterable[str] | str] = [
        "What `import hydratune` gives; [how to use it](../../howto/python.md)."
    ]
    names = [name for name in hydratune.__all__ if not inspect.ismodule(getattr(hydratune, name))]
    for name in sorted(names, key=lambda name: (name[0].isupper(), name)):
        member = getattr(hydratune, name)
        parts += [f"## {name}", *_member(f"hydratune.{name}", member)]
        if inspect.isclass(member):
            own = [(n, m) for n, m in vars(member).items() if not n.startswith("_")]
            for attribute, value in own:
                parts += [f"### {name}.{attribute}", *_member(f"{name}.{attribute}", value)]
    return _page("Python API", *parts)


def _member(name: str, member: object) -> Iterator[str]:
    """Yield the signature of a function, class or property, and its docstring."""
    if isinstance(member, property):
        returned = inspect.signature(member.fget).return_annotation if member.fget else ""
        yield _block(f"{name}: {_type(returned)}")
    elif callable(member):
        yield _block(f"{name}{_signature(member)}")
    yield from _docstring(inspect.getdoc(member) or "")


def _signature(member: Callable[..., object]) -> str:
    """Return a signature with types as they are written, one argument a line if it is long."""
    signature = inspect.signature(member)
    parameters = [p for p in signature.parameters.values() if p.name != "self"]
    words = []
    for number, parameter in enumerate(parameters):
        is_keyword = parameter.kind is inspect.Parameter.KEYWORD_ONLY
        if is_keyword and (number == 0 or parameters[number - 1].kind is not parameter.kind):
            words.append("*")
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        words.append(f"{parameter.name}: {_type(parameter.annotation)}{default}")
    returned = signature.return_annotation
    arrow = "" if inspect.isclass(member) or returned is None else f" -> {_type(returned)}"
    line = f"({', '.join(words)}){arrow}"
    return line if len(line) < 80 else "(\n    " + ",\n    ".join(words) + f",\n){arrow}"


def _type(annotation: object) -> str:
    if isinstance(annotation, str):
        return annotation
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    text = str(annotation).replace("typing.", "").replace("collections.abc.", "")
    return re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", text)


def _docstring(text: str) -> Iterator[str]:
    """Yield the paragraphs of a docstring; its arguments as a list."""
    head, _, arguments = text.partition("\nArgs:\n")
    yield _prose(head)
    if arguments:
        described, _, rest = arguments.partition("\n\n")
        items = re.split(r"^ {4}(?=\w+:)", described, flags=re.MULTILINE)
        lines = [" ".join(item.split()) for item in items if item.strip()]
        yield "\n".join(f"- **{_prose(line).replace(':', ':**', 1)}" for line in lines)
        yield _prose(rest)


def _prose(text: str) -> str:
    """Return text of a docstring in Markdown."""
    return _escaped(text.replace("``", "`").strip())


def _notebook_page() -> str:
    """Return the notebook as a page: its texts, its code, and the text that its cells show."""
    notebook = json.loads((Path(__file__).parent / "notebook.ipynb").read_text("utf-8"))
    parts = ["The notebook is `docs/notebook.ipynb`; a test executes it."]
    title = ""
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            parts += [f"```python\n{source}\n```", *_outputs(cell["outputs"])]
        elif source.startswith("# "):
            title, _, source = source[2:].partition("\n")
            parts.append(source.strip())
        else:
            parts.append(source)
    return _page(title, *parts)


def _outputs(outputs: Iterable[Mapping[str, object]]) -> Iterator[str]:
    """Yield what a cell showed when it was executed, as text."""
    for output in outputs:
        data = output.get("data")
        text = data.get("text/plain") if isinstance(data, Mapping) else output.get("text")
        if isinstance(text, list):
            yield _block("".join(text))


if __name__ == "__main__":
    write(*(Path(argument) for argument in sys.argv[1:2]))
