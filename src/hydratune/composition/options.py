"""What was probably meant by an option of a config group that does not exist: a file, a folder, a
model or data set on the hub, or an option that is spelled nearly so.
"""

from dataclasses import fields

from hydratune.composition.suggestions import nearest_option
from hydratune.data.answers import REPORT_FILE
from hydratune.data.sources.files import data_files
from hydratune.errors import Problem
from hydratune.settings.commands import COMMANDS
from hydratune.settings.overrides import as_typed
from hydratune.settings.paths import CONFIG_FILE, expanded


def unknown_option(group: str, value: str, options: list[str]) -> Problem:
    """Return the problem of an option that a group lacks; ``options``: those it has."""
    meant = option_meant(group, value)
    if meant is not None:
        return meant
    why = f"there is no such option in the group {group!r}"
    return Problem(group, value, why, nearest_option(value, options))


def option_meant(group: str, value: str) -> Problem | None:
    """Return the problem of a path or a name of the hub in the place of an option, else None."""
    if group not in ("model", "data"):
        return None
    is_file = group == "data" and "." in value.rpartition("/")[2].lstrip(".")
    is_folder = not is_file and (value[:1] in (".", "/", "~") or expanded(value).is_dir())
    if not (is_file or is_folder or value.count("/") == 1):
        return None
    what = "file" if is_file else "folder" if is_folder else "name on the hub"
    fix = f"{group}=hub {as_typed(f'{group}.id', value)}"
    if is_file:
        fix = f"data=files {as_typed('data.train', value)}"
    elif is_folder:
        fix = _advice_for_folder(group, value)
    return Problem(group, value, f"this is the place for a kind of {group}, not for a {what}", fix)


def path_meant(word: str, command: str) -> str:
    """Return the setting for a file or folder that was typed without one, or ""."""
    path = expanded(word)
    names = {field.name for field in fields(COMMANDS[command])}
    if not path.exists():
        return ""
    if path.is_dir() and "export" in names and not (path / CONFIG_FILE).is_file():
        return as_typed("export", word)
    if path.is_dir() and "run" in names:
        return as_typed("run", word)
    if path.is_file() and "input" in names:
        return as_typed("input", word)
    meant = option_meant("data", word) if "data" in names else None
    return meant.fix if meant is not None else ""


def _advice_for_folder(group: str, value: str) -> str:
    folder = expanded(value)
    if group == "model":
        return f"model=local {as_typed('model.path', value)}"
    if (folder / REPORT_FILE).is_file():
        return f"data=prepared {as_typed('data.path', value)}"
    if files := data_files(folder, "train.jsonl"):
        return f"data=files {as_typed('data.train', files[0])}"
    return f"data=hub {as_typed('data.id', value)}, if the package datasets wrote this folder"
