"""Rules of the data: ranges, and what does not go together."""

import difflib
import importlib.util
import math
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

from omegaconf.errors import OmegaConfBaseException

from hydratune.data.files import SUFFIXES
from hydratune.data.layouts import COLUMNS
from hydratune.data.roles import ROLES_OF_TURNS
from hydratune.errors import Problem
from hydratune.settings.data import (
    BrandStyleData,
    CaseData,
    CodeTask,
    ContractsData,
    Control,
    DataConfig,
    FilesData,
    HubData,
    Level,
    MixedData,
    Overlength,
    PreparedData,
    RepositoryData,
    TechSupportData,
    part,
)
from hydratune.settings.ranges import at_least, between
from hydratune.settings.registry import plain, variants


def data_problems(data: DataConfig) -> Iterator[Problem]:
    yield from at_least("data.batch_size", data.batch_size, 1, " row")
    yield from at_least("data.max_length", data.max_length, 8, " tokens")
    if data.split_overlap is not None:
        yield from at_least("data.split_overlap", data.split_overlap, 0, " tokens")
    most = max(0, (data.max_length - 3) // 2)
    if data.overlength is Overlength.split and (data.split_overlap or 0) > most:
        why = (
            f"each part of a document has at most data.max_length = {data.max_length} tokens, and"
            " less than half of them may be repeated"
        )
        yield Problem(
            "data.split_overlap", data.split_overlap, why, f"set data.split_overlap={most} or less"
        )
    for name in ("max_train_rows", "max_validation_rows", "max_test_rows", "overfit_rows"):
        yield from at_least(f"data.{name}", getattr(data, name), 1, " row")
    yield from between("data.validation_fraction", data.validation_fraction, 0, 1, open_high=True)
    yield from between("data.test_fraction", data.test_fraction, 0, 1, open_high=True)
    if (
        data.validation_fraction < 1
        and data.test_fraction < 1
        and data.validation_fraction + data.test_fraction >= 1
    ):
        why = "validation_fraction and test_fraction together leave nothing to train on"
        yield Problem(
            "data.validation_fraction", data.validation_fraction, why, "keep their sum below 1"
        )
    if data.schema is not None and data.schema_file is not None:
        yield Problem(
            "data.schema_file",
            data.schema_file,
            "data.schema is set as well",
            "give one of the two",
        )
    if data.schema_file is not None and not Path(data.schema_file).is_file():
        yield Problem(
            "data.schema_file", data.schema_file, "no such file", "give a JSON schema file"
        )
    if data.overfit_rows is not None and data.control is not Control.none:
        yield Problem(
            "data.control",
            data.control.value,
            "data.overfit_rows is set as well",
            "use one of the two",
        )
    if not 0.5 <= data.quality.similarity <= 1:
        why = "must be in [0.5, 1]: below, most texts are alike"
        yield Problem("data.quality.similarity", data.quality.similarity, why, "usual: 0.8")
    if (
        data.quality.pii_names is not Level.off
        and importlib.util.find_spec("presidio_analyzer") is None
    ):
        fix = (
            'pip install "hydratune[pii]" and python -m spacy download en_core_web_lg, or set it'
            " to off"
        )
        yield Problem(
            "data.quality.pii_names", data.quality.pii_names.value, "presidio is not installed", fix
        )
    yield from _source(data)


def _source(data: DataConfig) -> Iterator[Problem]:
    """What only one kind of data has."""
    if isinstance(data, MixedData):
        yield from _mixed(data)
    if isinstance(data, PreparedData) and not (Path(data.path) / "report.json").is_file():
        fix = "give the folder that hydratune prepare wrote"
        yield Problem("data.path", data.path, "no prepared data set (no report.json in it)", fix)
    if isinstance(data, PreparedData):
        fixed = [
            name
            for name in ("clean", "stratify", "validation_fraction", "test_fraction")
            if getattr(data, name) != getattr(DataConfig(), name)
        ]
        quality = replace(data.quality, template_tokens=DataConfig().quality.template_tokens)
        for name in [*fixed, *(["quality"] if quality != DataConfig().quality else [])]:
            fix = f"give data.{name} to hydratune prepare, which decides it"
            yield Problem(f"data.{name}", "…", "a prepared data set is taken as it is", fix)
    if isinstance(data, ContractsData):
        for name in ("train_rows", "validation_rows", "test_rows"):
            yield from at_least(f"data.{name}", getattr(data, name), 1, " row")
    if isinstance(data, FilesData):
        for name in ("train", "validation", "test"):
            path = getattr(data, name)
            if path is not None and not Path(path).is_file():
                why = "this is a folder, not a file" if Path(path).is_dir() else "no such file"
                yield Problem(
                    f"data.{name}", path, why, f"give a file that ends with {', '.join(SUFFIXES)}"
                )
    if isinstance(data, FilesData | HubData):
        for name in data.columns:
            if name not in COLUMNS:
                near = difflib.get_close_matches(name, COLUMNS, n=1)
                fix = (
                    f"did you mean data.columns.{near[0]}?"
                    if near
                    else f"one of: {', '.join(COLUMNS)}"
                )
                yield Problem(
                    f"data.columns.{name}",
                    data.columns[name],
                    "there is no such column to be mapped",
                    fix,
                )
        for name, role in data.roles.items():
            names = [role] if isinstance(role, str) else role
            listed = (
                isinstance(names, list)
                and name in ROLES_OF_TURNS
                and all(isinstance(said, str | int) for said in names)
            )
            if role not in ROLES_OF_TURNS and not listed:
                yield Problem(
                    f"data.roles.{name}",
                    role,
                    "there is no such role",
                    f"one of: {', '.join(ROLES_OF_TURNS)}",
                )
    if isinstance(data, CaseData):
        yield from _case(data)


def _mixed(data: MixedData) -> Iterator[Problem]:
    if not data.parts:
        yield Problem(
            "data.parts",
            "{}",
            "there is nothing to mix",
            "+data.parts.NAME.source=files +data.parts.NAME.train=FILE",
        )
    kinds = [kind for kind in variants("data") if kind not in ("mixed", "prepared")]
    shared = {f.name for f in fields(DataConfig)} - {"system_prompt", "max_train_rows"}
    for name, values in data.parts.items():
        key = f"data.parts.{name}"
        settings = values if isinstance(values, dict) else {}
        weight = settings.get("weight", 1)
        if settings.get("source") not in kinds:
            yield Problem(
                f"{key}.source",
                settings.get("source"),
                "no such source",
                f"one of: {', '.join(kinds)}",
            )
            continue
        if (
            isinstance(weight, bool)
            or not isinstance(weight, (int, float))
            or not 0 < weight < math.inf
        ):
            yield Problem(f"{key}.weight", weight, "must be a number above 0", "for example 1")
            continue
        for setting in sorted(shared & settings.keys()):
            yield Problem(
                f"{key}.{setting}",
                settings[setting],
                "this is decided for all parts together",
                f"set data.{setting}",
            )
        try:
            typed_part, _ = part(settings)
        except OmegaConfBaseException as error:
            setting = getattr(error, "full_key", None) or ""
            yield Problem(
                f"{key}.{setting}",
                settings.get(setting, ""),
                str(error).splitlines()[0],
                f"see conf/data/{settings['source']}.yaml",
            )
            continue
        if "???" in plain(typed_part).values():
            missing = next(k for k, v in plain(typed_part).items() if v == "???")
            yield Problem(
                f"{key}.{missing}", "???", "this setting has no default", f"+{key}.{missing}=VALUE"
            )
            continue
        yield from (
            replace(problem, key=problem.key.replace("data.", f"{key}.", 1))
            for problem in _source(typed_part)
        )


def _case(data: CaseData) -> Iterator[Problem]:
    folders = [("path", data.path, data.holds)]
    if isinstance(data, TechSupportData) and data.tldr is not None:
        folders.append(("tldr", data.tldr, BrandStyleData.holds))
    for name, path, holds in folders:
        if not Path(path).is_dir():
            why = "this is a file, not a folder" if Path(path).is_file() else "no such folder"
            yield Problem(f"data.{name}", path, why, f"give the folder with {holds}")
    if isinstance(data, RepositoryData):
        if not data.tasks:
            yield Problem(
                "data.tasks",
                data.tasks,
                "nothing would be asked",
                f"some of: {', '.join(CodeTask)}",
            )
        yield from at_least("data.min_lines", data.min_lines, 1, " line")
        if data.max_lines < data.min_lines:
            yield Problem(
                "data.max_lines",
                data.max_lines,
                "below data.min_lines, so no function fits",
                f"set {data.min_lines} or more",
            )
