"""The findings of the data checks, and what each check means to people."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

from hydratune.settings.data import Level, QualityConfig

MOST_ROWS = 10_000  # ids kept of one finding
MOST_EXAMPLES = 20  # shown of one finding


@dataclass(frozen=True)
class Check:
    """The words for one check: what it finds, why that matters, and how to mend it."""

    title: str
    why: str
    fix: str


def _personal_data(kind: str) -> Check:
    return Check(
        f"rows with {kind}", "a model can repeat personal data", "replace them by placeholders"
    )


CHECKS: dict[str, Check] = {
    "exact_leaks": Check(
        "requests that an earlier split contains too",
        "the score would measure memorisation",
        "data.clean.drop_leaks=true removes them from the earlier split",
    ),
    "near_leaks": Check(
        "requests that an earlier split contains too, exactly or nearly",
        "the score would partly measure memorisation",
        "data.clean.drop_leaks=true removes them from the earlier split",
    ),
    "turn_leaks": Check(
        "rows whose last user turn and answer an earlier split contains too, under another system"
        " prompt or after other turns",
        "the answer can be memorised",
        "data.clean.drop_leaks=true removes them from the earlier split",
    ),
    "group_leaks": Check(
        "rows whose group has rows in another split too",
        "rows of one document or customer resemble each other, so the score would be too high",
        "split by group: give one file and let hydratune split it",
    ),
    "exact_duplicates": Check(
        "rows that repeat the request and the answer of an earlier row",
        "they count double in training",
        "data.clean.drop_duplicates=true removes them from training",
    ),
    "near_duplicates": Check(
        "requests that nearly repeat an earlier one",
        "they add little, and a random split would leak them",
        "write more varied rows",
    ),
    "label_conflicts": Check(
        "requests with different labels or JSON answers",
        "the model would be trained on contradictory answers",
        "decide which answer is right",
    ),
    "multi_answer": Check(
        "requests with several answers",
        "often right (there is more than one good answer), so all are kept",
        "nothing, if all are right",
    ),
    "duplicate_ids": Check(
        "rows whose id another row has too",
        "predictions could not be traced back to their rows",
        "give every row an id of its own",
    ),
    "encoding": Check(
        "rows with text that was decoded wrongly, or from a file in another encoding",
        "the model would learn the wrong characters",
        "save the source as UTF-8; data.clean.encoding=true repairs what can be repaired",
    ),
    "template_tokens": Check(
        "texts that contain the model's own special tokens",
        "they would open or close turns in the middle of a text",
        "remove them from the texts; they belong to the chat template",
    ),
    "rendered": Check(
        "texts that look like the output of a chat template, or contain special tokens of some"
        " model",
        "role names and turn ends would be learnt as text",
        "give the conversation as turns (messages), not as one rendered text, and remove such"
        " tokens from the texts",
    ),
    "empty_requests": Check(
        "rows with an empty user turn",
        "the model would learn to answer without a request",
        "remove these rows, or correct them",
    ),
    "splits": Check(
        "splits that cannot be used",
        "training needs rows in all three splits",
        "give data.validation=FILE and data.test=FILE or larger fractions;"
        " data.quality.near_leaks=off splits without regard to similarity",
    ),
    "straddling": Check(
        "rows dropped because their group or a near-duplicate is in two splits",
        "they would leak from either split",
        "nothing, if they are few; data.quality.near_leaks=off splits without regard to similarity",
    ),
    "mask": Check(
        "rows whose loss mask is wrong",
        "other tokens would be trained than intended",
        "do what each message says",
    ),
    "overlength": Check(
        "rows longer than data.max_length",
        "they are dropped or cut as data.overlength says",
        "raise data.max_length",
    ),
    "truncated_answers": Check(
        "answers that seem to be cut off",
        "the model would learn to stop in the middle",
        "complete or remove them",
    ),
    "refusals": Check(
        "answers that refuse the request",
        "the model would learn to refuse",
        "remove them, unless they are intended",
    ),
    "language_mix": Check(
        "requests in another language than most",
        "the model is trained on several languages",
        "nothing, if it is intended",
    ),
    "length_outliers": Check(
        "answers far longer or shorter than the rest", "often a mistake in the source", "read them"
    ),
    "pii_email": _personal_data("e-mail addresses"),
    "pii_phone": _personal_data("phone numbers"),
    "pii_card": _personal_data("payment card numbers"),
    "pii_iban": _personal_data("bank account numbers (IBAN)"),
    "pii_ip": _personal_data("IP addresses"),
    "pii_ssn": _personal_data("US social security numbers"),
    "pii_names": _personal_data("names of persons or places"),
    "ungrounded": Check(
        "answers with numbers, dates or names that the request does not contain",
        "a model trained to extract or summarise would learn to invent",
        "correct them; data.quality.ungrounded=off for tasks whose answers are not drawn from the"
        " request",
    ),
    "unsupported": Check(
        "answers that a judge finds unsupported by their request",
        "a model trained to extract or summarise would learn to invent",
        "read them, and correct those where the judge is right",
    ),
    "schema": Check(
        "answers that are not valid under the JSON schema",
        "the model would learn to violate it",
        "correct them, or the schema",
    ),
    "mixed_answers": Check(
        "answers that are not a JSON object while most are",
        "the model would learn two formats",
        "correct or remove them",
    ),
    "size": Check(
        "training rows",
        "500 to 5,000 good rows are usual for LoRA; how many are enough depends on the task",
        "measure what more rows bring: hydratune train -m sweep=data_size, with these settings",
    ),
    "label_balance": Check(
        "labels that are very frequent or very rare",
        "the model would learn to guess the frequent one",
        "balance them, or evaluate each class by itself",
    ),
}
# verbs of titles, with the noun in the singular
_OF_ONE = {
    "are": "is",
    "contain": "contains",
    "look": "looks",
    "refuse": "refuses",
    "repeat": "repeats",
    "seem": "seems",
}
_VERB = re.compile(rf"\b(that (?:nearly )?|or )({'|'.join(_OF_ONE)})\b")
ALWAYS_ERRORS = ("mask", "splits")  # training on such data is never useful


class Example(TypedDict):
    """Rows to look at: their ids, their texts (fewer than ids, or none) and what is wrong."""

    rows: list[str]
    texts: list[str]
    note: str


class CheckReport(TypedDict, total=False):
    """One check in report.json. Reports of older versions lack some of the keys."""

    level: str
    count: int
    title: str
    why: str
    fix: str
    note: str
    rows: list[str]
    where: list[str]
    splits: dict[str, int]
    found_in: list[str]
    examples: list[Example]


@dataclass
class Finding:
    """The result of one check: how many rows it concerns, which, and some examples."""

    name: str
    level: Level
    count: int = 0
    rows: list[str] = field(default_factory=list)  # ids
    examples: list[Example] = field(default_factory=list)
    note: str = ""
    where: list[str] = field(default_factory=list)  # file:line of the rows, as far as it is known
    splits: dict[str, int] = field(default_factory=dict)  # split -> its part of the count
    found_in: list[str] = field(default_factory=list)  # of leaks: the earlier splits with each row
    fix: str = ""  # replaces the check's own where the remedy depends on the rows

    def counted(self) -> dict[str, Any]:
        """Return which rows the check found, as plain values."""
        return {
            "count": self.count,
            "rows": self.rows,
            "where": self.where,
            "splits": self.splits,
            "examples": self.examples,
        }

    def plain(self) -> CheckReport:
        """Return the finding as plain values for report.json."""
        check = CHECKS[self.name]
        return {
            "level": self.level.value,
            "count": self.count,
            "title": check.title,
            "why": check.why,
            "fix": self.fix or check.fix,
            "note": self.note,
            "rows": self.rows[:MOST_ROWS],
            "where": self.where[:MOST_ROWS],
            "splits": self.splits,
            "found_in": self.found_in[:MOST_ROWS],
            "examples": self.examples[:MOST_EXAMPLES],
        }


def level_of(config: QualityConfig, name: str) -> Level:
    """Return the configured level of a check.

    Checks without a setting are always an error (``ALWAYS_ERRORS``) or always a warning.
    """
    if name in ALWAYS_ERRORS:
        return Level.error
    level = getattr(config, name, Level.warn)
    assert isinstance(level, Level)
    return level


def format_splits(splits: Mapping[str, int]) -> str:
    """Return counts by split as text: "train 3, test 2"."""
    return ", ".join(f"{split} {count:,}" for split, count in splits.items())


def describe_splits(check: CheckReport) -> str:
    """Return in which splits the check found something.

    Empty for leaks, whose note says it, and for what belongs to no split.
    """
    return "" if check.get("found_in") else format_splits(check.get("splits", {}))


def describe_places(check: CheckReport) -> str:
    """Return what ``describe_splits`` does, but for leaks the note that says where they are."""
    return check["note"] if check.get("found_in") else describe_splits(check)


def describe_check(check: CheckReport) -> str:
    """Return the splits and the note of a check, joined; empty if it has neither."""
    return "; ".join(filter(None, (describe_splits(check), check["note"])))


def counted_title(count: int, title: str) -> str:
    """Return a count with the title of a check: 1 row that repeats, 2 rows that repeat ..."""
    if count != 1:
        return f"{count:,} {title}"
    noun, rest = re.split(r"s\b", title, maxsplit=1)
    rest = _VERB.sub(lambda match: f"{match[1]}{_OF_ONE[match[2]]}", rest)
    return f"1 {noun}{rest}".replace(" their ", " its ")


def refusals(checks: Mapping[str, CheckReport]) -> dict[str, str]:
    """Return check -> finding, reason and advice, for every check that forbids training."""
    return {
        name: _refusal(name, check)
        for name, check in checks.items()
        if check["level"] == Level.error.value and check["count"]
    }


def _refusal(name: str, check: CheckReport) -> str:
    first_rows = [
        f"{row} ({where})" if where else row
        for row, where in zip(check["rows"][:3], check["where"], strict=False)
    ]
    rows = f"; the first: {', '.join(first_rows)}" if first_rows else ""
    description = describe_check(check)
    note = f" ({description})" if description else ""
    reason = f"\n    {check['examples'][0]['note']}" if name == "mask" and check["examples"] else ""
    fix = check["fix"] if name in ALWAYS_ERRORS else f"{check['fix']}, or data.quality.{name}=warn"
    return (
        f"{name}: {counted_title(check['count'], check['title'])}{note}{rows}{reason}\n"
        f"    why: {check['why']}\n    fix: {fix}"
    )


def finding_in_words(name: str, count: int) -> str:
    """Return what the check ``name`` found, such as ``2 rows that repeat ...``.

    A check that this version does not have is called by its name.
    """
    check = CHECKS.get(name)
    return f"{name}: {count:,}" if check is None else counted_title(count, check.title)
