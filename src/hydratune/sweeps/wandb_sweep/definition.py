"""The definition of a W&B sweep, as its YAML file has it: read, and refused if it is wrong."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from hydratune.bounds import check_yaml
from hydratune.errors import ConfigError, InputError, Problem
from hydratune.metric_table import lower_is_better
from hydratune.records.files import Json
from hydratune.settings.monitor import KEY as MONITOR
from hydratune.settings.monitor import test_rows_problem
from hydratune.sweeps.search.objectives import KEY, SearchObjective, read_objectives
from hydratune.sweeps.wandb_sweep.parameters import Parameter, overrides_of, read_parameters

METHODS = ("grid", "random", "bayes")
_DIRECTIONS = {"minimize": "min", "maximize": "max"}
_LOGGED_IN_TRAINING = ("train/loss", "val/")  # what the names of such metrics begin with
_EXAMPLE = "metric: {name: val/loss, goal: minimize}"
_VARIABLE = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")


@dataclass(frozen=True)
class SweepDefinition:
    """What a W&B sweep varies, how, and by which command a trial is run."""

    source: str  # the file, or the path on the server
    content: Mapping[str, Json]  # all of it
    parameters: list[Parameter]
    words: tuple[str, ...]  # settings of its command, which are the same for every trial
    objective: SearchObjective | None  # by which the server compares trials

    def overrides(self, handed_out: Mapping[str, Json]) -> dict[str, str]:
        """Return setting -> value of the trial with these parameters."""
        return dict(overrides_of(self.parameters, handed_out))

    def varying(self, handed_out: Mapping[str, Json]) -> dict[str, str]:
        """Return the settings in which trials can differ; all of them if there is none.

        A parameter with one value is the same in all trials.
        """
        overrides = self.overrides(handed_out)
        constants = {p.key for p in self.parameters if p.is_constant}
        differing = {key: value for key, value in overrides.items() if key not in constants}
        return differing or overrides

    def corners(self) -> Iterator[dict[str, str]]:
        """Yield the settings of one trial for every choice and both ends of every range."""
        first = {p.key: p.samples[0] for p in self.parameters}
        for changed in [{}, *({p.key: v} for p in self.parameters for v in p.samples[1:])]:
            flat = {**first, **changed}
            yield dict(overrides_of([replace(p, path=(p.key,)) for p in self.parameters], flat))


def read_file(file: Path) -> Mapping[str, Json]:
    """Return the content of a sweep's YAML file, as W&B reads it. Raises ``InputError``."""
    if not file.is_file():
        raise InputError(f"{file}: no such file; give the YAML file of a W&B sweep, or its id")
    check_yaml(file)
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{file}: this is not the definition of a sweep (method:, parameters:)")
    if "hydra" in content and "parameters" not in content:
        raise InputError(
            f"{file}: these are settings of hydratune, not the definition of a W&B sweep; run it"
            f" with hydratune train -m sweep={file.stem}, or give sweeps/wandb/{file.name}"
        )
    return content


def read_definition(content: Mapping[str, Json], source: str) -> SweepDefinition:
    """Return what ``content`` defines. Raises ``ConfigError`` with everything that is wrong.

    ``source``: the file or path that messages name.
    """
    problems: list[Problem] = []
    method = content.get("method")
    if method not in METHODS:
        fix = f"one of: {', '.join(METHODS)}"
        problems.append(Problem("method", method, "W&B has no such method", fix))
    parameters = read_parameters(content.get("parameters"), problems)
    for parameter in parameters if method == "grid" else ():
        if not parameter.is_countable:
            key = f"parameters.{parameter.key}"
            fix = "give values: [...], or method: random or bayes"
            problems.append(Problem(key, "a range", "a grid needs a list of values", fix))
    objective = _objective(content, problems)
    words = _words(content.get("command"), str(content.get("program", "")), problems)
    if problems:
        raise ConfigError(problems, prefix=f"W&B sweep {source}: ")
    return SweepDefinition(source, content, parameters, words, objective)


def _objective(content: Mapping[str, Json], problems: list[Problem]) -> SearchObjective | None:
    """Return the metric by which trials are compared; None if the sweep has none, or a wrong one.

    What is wrong is appended to ``problems``.
    """
    metric = content.get("metric")
    needs = [name for name in ("bayes", "early_terminate") if _uses(content, name)]
    if not isinstance(metric, Mapping) or not metric.get("name"):
        if needs or metric:
            why = f"{' and '.join(needs) or 'a metric'} needs the name of one"
            problems.append(Problem("metric", metric, why, f"add {_EXAMPLE}"))
        return None
    name, goal = str(metric["name"]), metric.get("goal", "minimize")
    if goal not in _DIRECTIONS:
        fix = "minimize or maximize"
        problems.append(Problem("metric.goal", goal, "W&B knows no such goal", fix))
        return None
    if on_test := test_rows_problem(MONITOR, name, name):
        problems.append(metric_problem(name, on_test))
        return None
    try:
        (objective,) = read_objectives(f"{name}:{_DIRECTIONS[goal]}")
    except ConfigError as error:
        problems += [metric_problem(name, problem) for problem in error.problems]
        return None
    lower = lower_is_better(name)
    if lower is not None and lower != (goal == "minimize"):
        fix = f"goal: {'minimize' if lower else 'maximize'}"
        why = f"{'less' if lower else 'more'} of {name} is better"
        problems.append(Problem("metric.goal", metric.get("goal"), why, fix))
    if _uses(content, "early_terminate") and not name.startswith(_LOGGED_IN_TRAINING):
        why = "early_terminate compares runs during training, and this is known at their end only"
        problems.append(Problem("metric.name", name, why, _EXAMPLE))
    return objective


def metric_problem(name: str, problem: Problem) -> Problem:
    """Return what is wrong with a metric as a problem of the sweep's definition."""
    fix = re.sub(rf"{KEY}=([^\s?]+):(?:min|max)", r"name: \1", problem.fix)
    if problem.fix.rpartition("=")[0].endswith("trainer.monitor"):
        fix += f" among the settings, and metric: {{name: {fix.rpartition('=')[2]}, ...}}"
    return Problem("metric.name", name, problem.why, fix)


def _uses(content: Mapping[str, Json], name: str) -> bool:
    return content.get("method") == name or bool(content.get(name))


def _words(command: object, program: str, problems: list[Problem]) -> tuple[str, ...]:
    """Return the settings in a sweep's command, which the agent gives to every trial."""
    if command is None:
        return ()
    chunks = [command] if isinstance(command, str) else command
    if not isinstance(chunks, Sequence) or isinstance(command, str):
        problems.append(
            Problem("command", command, "it is a list of words", 'command: ["hydratune", ...]')
        )
        return ()
    words = [_VARIABLE.sub(lambda m: os.environ.get(m[1], m[1]), str(chunk)) for chunk in chunks]
    start = words.index("train") if "train" in words else None
    programs = [program if word == "${program}" else word for word in words[:start]]
    if start is None or not any("hydratune" in word for word in programs):
        why = "the trials of this sweep are runs of another program, and not of hydratune train"
        fix = "command: [hydratune, train, ..., '${args_no_hyphens}']"
        problems.append(Problem("command", " ".join(words), why, fix))
        return ()
    settings = [word.removeprefix("--") for word in words[start + 1 :] if not _is_macro(word)]
    for word in settings:
        if "=" not in word:
            why = "a trial is one run, whose settings are KEY=VALUE"
            problems.append(Problem("command", word, why, "leave this word out"))
    # each trial has a folder in that of the sweep
    return tuple(word for word in settings if not word.startswith("hydra.run.dir="))


def _is_macro(word: str) -> bool:
    return word.startswith("${") and word.endswith("}")
