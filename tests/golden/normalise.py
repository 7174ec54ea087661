"""What may differ between two equal outcomes: every rule by name, with its reason.

Whatever no rule names is compared to the last bit. A rule either drops a value that cannot be the
same twice (a time, a path), or reduces a text written for people to the numbers in it, since its
wording may change while what it states may not.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatch


class Treatment(StrEnum):
    """What a rule does to a value."""

    drop = "drop"  # not compared
    numbers = "numbers"  # only the numbers in the text are compared


@dataclass(frozen=True)
class Rule:
    """Values of some files that are not compared as they are."""

    name: str
    reason: str
    files: str  # pattern of the file's path inside a compared folder
    keys: str  # regular expression of the whole key: parts of nested keys are joined by " > "
    treatment: Treatment = Treatment.drop


@dataclass(frozen=True)
class IgnoredFile:
    """Files whose content is not compared; that they exist is."""

    pattern: str
    reason: str


IGNORED_FILES = (
    IgnoredFile("*.html", "made of the compared records, and its wording may change"),
    IgnoredFile("*run.log", "messages, with times"),
    IgnoredFile("*pack.log", "messages, with times"),
    IgnoredFile("*.lock", "an empty file, held during a run"),
    IgnoredFile("*digests.json", "SHA-256 of files that contain times"),
    IgnoredFile("*study.log.sha256", "SHA-256 of a file that contains times"),
    IgnoredFile("*.hydra/hydra.yaml", "Hydra's own state: paths, job ids, versions"),
    IgnoredFile("*multirun.yaml", "Hydra's own state: paths, job ids, versions"),
)
LEFT_OUT = (  # also not looked for
    IgnoredFile(
        "cache/data/*",
        "keyed by a hash of the source; its rows are those of prepare and of data.json",
    ),
    IgnoredFile(
        "cache/tokens/*", "keyed by a hash of the source; the losses of its tokens are compared"
    ),
)
_TIMES = r"(cpu_seconds|wall_seconds|tokens_per_second|peak_memory_bytes)"
RULES = (
    Rule("speed", "a time", "*history.csv", r"row \d+ > tokens_per_second"),
    Rule("costs", "times and memory", "*.json", rf"cost/{_TIMES}"),
    Rule("stages", "seconds of each stage", "*.json", "seconds( > .*)?"),
    Rule("costs of runs", "times and memory", "*runs.*", rf"row \d+ > (.*/)?cost/{_TIMES}(/.*)?"),
    Rule("start and end", "times of day", "*status.json", "started|ended"),
    Rule("process", "another one each time", "*status.json", "pid|host"),
    Rule("W&B id", "drawn at random for each run", "*status.json", "wandb_id"),
    Rule("error", "a message", "*status.json", "error", Treatment.numbers),
    Rule("code", "a hash of the source that is being changed", "*environment.json", "code"),
    Rule("prepared", "a key with a hash of the source in it", "*data.json", "prepared"),
    Rule("git", "the commit differs on purpose", "*environment.json", "git( > .*)?"),
    Rule("free memory", "of the moment", "*environment.json", "memory_plan > generation_tokens"),
    Rule("code", "a hash of the source that is being changed", "*.ckpt", "made_of > code"),
    Rule(
        "callbacks", "keyed by class names; rows are in history.csv", "*.ckpt", "callbacks( > .*)?"
    ),
    Rule("loops", "Lightning's own counters", "*.ckpt", "loops( > .*)?"),
    Rule("time", "a time", "*.ckpt", "cpu_seconds"),
    Rule("journal times", "times of day", "*study.log", r"row \d+ > datetime_\w+"),
    Rule("journal worker", "a random id", "*study.log", r"row \d+ > worker_id"),
    Rule("advice", "a sentence", "*.json", "course > advice", Treatment.numbers),
    Rule(
        "method",
        "sentences that describe how a metric is defined",
        "*.json",
        r"settings > \w+ > "
        r"(json|nll|field_f1|invented_keys|hallucinated|in_source|intervals|chosen)",
        Treatment.numbers,
    ),
    Rule(
        "findings",
        "sentences that explain a check",
        "*report.json",
        r"(checks|cleaning) > \w+ > (title|why|fix|note)",
        Treatment.numbers,
    ),
    Rule(
        "source", "sentences on how files were read", "*.json", r"source > \d+", Treatment.numbers
    ),
    Rule(
        "speed of systems", "times", "*decision.json", r"systems > \w+ > per_1000_calls > seconds"
    ),
    Rule(
        "decision",
        "sentences that state the decision",
        "*decision.json",
        r"headline|reasons > \d+|comparisons > \d+ > between",
        Treatment.numbers,
    ),
    Rule("model card", "a text for people", "*README.md", "line .*", Treatment.numbers),
    Rule("ranking", "headings and words for people", "*ranking.*", "line .*", Treatment.numbers),
)
_COMMIT = re.compile(r"\bcommit `?[0-9a-f]{7,40}\b")
_NUMBER = re.compile(r"(?<![A-Za-z_])[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|\bnan\b|\binf\b")


def ignored(file: str) -> IgnoredFile | None:
    """Return why the content of ``file`` (a path inside a compared folder) is not compared."""
    return next((entry for entry in IGNORED_FILES if fnmatch(file, entry.pattern)), None)


def left_out(file: str) -> bool:
    """Tell whether ``file`` (a path inside a compared folder) may be missing on one side."""
    return any(fnmatch(file, entry.pattern) for entry in LEFT_OUT)


def rule_for(file: str, key: str) -> Rule | None:
    """Return the first rule for a value, or None if it is compared as it is."""
    for rule in RULES:
        if fnmatch(file, rule.files) and re.fullmatch(rule.keys, key):
            return rule
    return None


def numbers(text: str) -> str:
    """Return the numbers in ``text``, as they are written, separated by spaces."""
    return " ".join(_NUMBER.findall(_COMMIT.sub("", text)))


def without_places(text: str, places: Iterable[tuple[str, str]]) -> str:
    """Return ``text`` with every (absolute path, name) of ``places`` replaced by its name."""
    for path, name in places:
        text = text.replace(path, name)
    return text
