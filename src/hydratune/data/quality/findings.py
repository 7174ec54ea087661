"""What a check found, and what every check means to people."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hydratune.settings.data import Level, QualityConfig

MOST_ROWS = 10_000  # ids kept of one finding
MOST_EXAMPLES = 20  # shown of one finding


@dataclass(frozen=True)
class Check:
    """The words for one check."""

    title: str
    why: str  # it matters
    fix: str


CHECKS: dict[str, Check] = {
    "exact_leaks": Check(
        "requests of one split that an earlier one has too",
        "the score would measure memory",
        "data.clean.drop_leaks=true removes them from the earlier split",
    ),
    "near_leaks": Check(
        "requests of one split that an earlier one has too, or nearly",
        "the score would partly measure memory",
        "data.clean.drop_leaks=true removes them from the earlier split",
    ),
    "turn_leaks": Check(
        "rows of one split whose user turn and answer an earlier one has under another system"
        " prompt or after other turns",
        "the answer can be known by heart",
        "data.clean.drop_leaks=true removes them from the earlier split",
    ),
    "group_leaks": Check(
        "rows whose group is also on another side of the split",
        "rows of one document or customer resemble each other, so the score would be too good",
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
        "the model is told two things at once",
        "decide which answer is right",
    ),
    "multi_answer": Check(
        "requests with several answers",
        "often right (there is more than one good answer), so all are kept",
        "nothing, if all are right",
    ),
    "duplicate_ids": Check(
        "rows whose id another row has",
        "predictions could not be traced back",
        "give every row an id of its own",
    ),
    "encoding": Check(
        "rows with text that was decoded wrongly, or from a file in another encoding",
        "the model would learn the garbage",
        "save the source as UTF-8; what can be repaired is, with data.clean.encoding=true",
    ),
    "template_tokens": Check(
        "texts that hold the model's own special tokens",
        "they would open or close turns in the middle of a text",
        "remove them from the texts; they belong to the chat template",
    ),
    "rendered": Check(
        "texts that look like the output of a chat template, or hold special tokens of some model",
        "roles and ends of turns would be learnt as text",
        "give the conversation as turns (messages), not as one rendered text, and remove such"
        " tokens from the texts",
    ),
    "empty_requests": Check(
        "rows with a user turn in which nothing is said",
        "the model would learn to answer nothing",
        "remove these rows, or correct them",
    ),
    "splits": Check(
        "splits that cannot be used",
        "training needs rows in all three",
        "give data.validation=FILE and data.test=FILE or larger fractions;"
        " data.quality.near_leaks=off splits without looking at likeness",
    ),
    "straddling": Check(
        "rows left out: their group or a near-duplicate is on two sides of the split",
        "on either side they would leak",
        "nothing, if they are few; data.quality.near_leaks=off splits without looking at likeness",
    ),
    "mask": Check(
        "rows whose mask is wrong",
        "other tokens would be trained than you think",
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
        "answers that refuse",
        "the model would learn to refuse",
        "remove them, unless they are meant",
    ),
    "language_mix": Check(
        "requests in another language than most",
        "the model is taught several languages",
        "fine if it is meant",
    ),
    "length_outliers": Check(
        "answers far longer or shorter than the rest", "often a mistake in the source", "read them"
    ),
    "pii_email": Check(
        "rows with e-mail addresses",
        "a model can repeat personal data",
        "replace them by placeholders",
    ),
    "pii_phone": Check(
        "rows with phone numbers",
        "a model can repeat personal data",
        "replace them by placeholders",
    ),
    "pii_card": Check(
        "rows with payment card numbers",
        "a model can repeat personal data",
        "replace them by placeholders",
    ),
    "pii_iban": Check(
        "rows with bank account numbers (IBAN)",
        "a model can repeat personal data",
        "replace them by placeholders",
    ),
    "pii_ip": Check(
        "rows with IP addresses", "a model can repeat personal data", "replace them by placeholders"
    ),
    "pii_ssn": Check(
        "rows with US social security numbers",
        "a model can repeat personal data",
        "replace them by placeholders",
    ),
    "pii_names": Check(
        "rows with names of persons or places",
        "a model can repeat personal data",
        "replace them by placeholders",
    ),
    "ungrounded": Check(
        "answers with numbers, dates or names that the request does not contain",
        "a model trained to extract or summarise would learn to invent",
        "correct them; data.quality.ungrounded=off for tasks that are not drawn from a source",
    ),
    "unsupported": Check(
        "answers that a judge finds unsupported by their request",
        "a model trained to extract or summarise would learn to invent",
        "read them, and correct those where the judge is right",
    ),
    "schema": Check(
        "answers that are not valid under the JSON schema",
        "the model would learn to break it",
        "correct them, or the schema",
    ),
    "mixed_answers": Check(
        "answers that are no JSON object while most are",
        "the model would learn two formats",
        "correct or remove them",
    ),
    "size": Check(
        "training rows",
        "500 to 5,000 good rows are the usual range for LoRA",
        "fewer: add rows; more: more is not always better",
    ),
    "label_balance": Check(
        "labels that are very frequent or very rare",
        "the model would learn to guess the frequent one",
        "balance them, or judge by class",
    ),
}
ALWAYS_ERRORS = ("mask", "splits")  # nothing good can come of training on these


@dataclass
class Finding:
    """What one check found.

    ``examples`` hold ``rows`` (ids), ``texts`` and ``note``, for people to look at.
    """

    name: str
    level: Level
    count: int = 0
    rows: list[str] = field(default_factory=list)
    examples: list[dict[str, Any]] = field(default_factory=list)
    note: str = ""
    where: list[str] = field(default_factory=list)  # file:line of the rows, as far as they have one
    splits: dict[str, int] = field(default_factory=dict)  # split -> how much of the count is there
    # of leaks: the earlier splits that hold each row
    found_in: list[str] = field(default_factory=list)
    fix: str = ""  # where it depends on the rows

    def plain(self) -> dict[str, Any]:
        """For report.json."""
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
    """As configured; checks that have no setting always refuse, or only report."""
    if name in ALWAYS_ERRORS:
        return Level.error
    own = getattr(config, name, Level.warn)
    assert isinstance(own, Level)
    return own


def by_split(check: Mapping[str, Any]) -> str:
    """In which splits what was found is:

    "train 3, test 2"; empty where a note says it, or where it is of no split.
    """
    return (
        ""
        if check.get("found_in")
        else ", ".join(f"{split} {count:,}" for split, count in check.get("splits", {}).items())
    )


def places(check: Mapping[str, Any]) -> str:
    """As ``by_split``; of leaks, where they were found too."""
    return str(check["note"]) if check.get("found_in") else by_split(check)


def refusals(checks: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """check -> what it found, why it matters and what to do, for the ``plain`` findings that refuse
    training.
    """
    return {
        name: _refusal(name, check)
        for name, check in checks.items()
        if check["level"] == Level.error.value and check["count"]
    }


def _refusal(name: str, check: Mapping[str, Any]) -> str:
    first = [
        f"{row} ({where})" if where else row
        for row, where in zip(check["rows"][:3], check["where"], strict=False)
    ]
    told = f"; the first: {', '.join(first)}" if first else ""
    note = "; ".join(filter(None, (by_split(check), check["note"])))
    note = f" ({note})" if note else ""
    reason = f"\n    {check['examples'][0]['note']}" if name == "mask" and check["examples"] else ""
    fix = check["fix"] if name in ALWAYS_ERRORS else f"{check['fix']}, or data.quality.{name}=warn"
    return (
        f"{name}: {check['count']:,} {check['title']}{note}{told}{reason}\n    why:"
        f" {check['why']}\n    fix: {fix}"
    )
