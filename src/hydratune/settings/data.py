"""Settings of the data: what all sources share, and the fields of each source."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from omegaconf import MISSING, OmegaConf

from hydratune.errors import Problem
from hydratune.settings.registry import variant, variants


class Difficulty(StrEnum):
    """How hard the built-in contracts are to read."""

    easy = "easy"
    standard = "standard"
    hard = "hard"


class Overlength(StrEnum):
    """What happens to a row longer than ``data.max_length``. An answer is never cut."""

    drop = "drop"
    # documents (text rows) become several parts; conversations are dropped
    split = "split"  # type: ignore[assignment]
    # cuts the start of the last user turn; the system turn and its end stay
    truncate_prompt = "truncate_prompt"
    error = "error"


class TrainOn(StrEnum):
    """Which assistant turns of a conversation are trained."""

    all = "all"
    last = "last"
    # every one as an example of its own, which ends with it: for templates that rewrite earlier
    # turns
    each = "each"


class Control(StrEnum):
    """A deliberately broken data set, to see what a score is worth."""

    none = "none"
    shuffled_targets = "shuffled_targets"  # every training prompt gets the answer of another row


class Level(StrEnum):
    """What a finding of a data check does."""

    error = "error"  # training is refused
    warn = "warn"  # said and reported
    off = "off"  # not looked for


@dataclass
class CleaningConfig:
    """Repairs of the texts. What is off is still looked for: the report says how many rows it would
    change.

    On are those that leave code, diffs and Markdown as they are; each change is counted and shown
    before and after.
    """

    # text decoded wrongly somewhere on its way ("cafÃ©"), by ftfy; not where a text may be
    # quoting it
    encoding: bool = True
    # control and zero-width characters, byte-order marks, terminal escape sequences
    control: bool = True
    # line ends, no-break spaces, more than two empty lines, white space around the text; not
    # indentation
    whitespace: bool = True
    code_fence: bool = True  # ```json ... ``` around an answer that is JSON
    html: bool = False  # tags and entities left from web pages
    chatter: bool = False  # "I hope this helps!" at the end of an answer
    # headers and footers that at least 5 % of the requests have in the same place
    boilerplate: bool = False
    # training rows with the request and the answer of an earlier one; symbols, tools, thoughts
    # count
    drop_duplicates: bool = False
    # training rows that leak into validation or test, and validation rows that leak into test,
    # near or exactly
    drop_leaks: bool = False


@dataclass
class QualityConfig:
    """What is looked for in the data, and what a finding does."""

    # a request of one split is in an earlier one; symbols count where the answers differ
    exact_leaks: Level = Level.error
    # likewise, or nearly; off: rows are split without looking at likeness
    near_leaks: Level = Level.warn
    # last user turn and answer are in an earlier split, under another system prompt or history
    turn_leaks: Level = Level.warn
    group_leaks: Level = Level.error  # a group with rows on both sides of a split
    # rows left out because they belong to two sides of the split at once
    straddling: Level = Level.warn
    # texts with the model's own special tokens: they would steer the template
    template_tokens: Level = Level.error
    schema: Level = Level.error  # answers that are not valid under the JSON schema
    label_conflicts: Level = Level.warn  # one request, different labels or JSON answers
    mixed_answers: Level = Level.warn  # most answers are JSON objects, these are not
    # text that was decoded wrongly, or a file in another encoding than the rest
    encoding: Level = Level.warn
    # a user turn in which nothing is said; a warning, where most rows are so
    empty_requests: Level = Level.error
    # texts that look like the output of some chat template, or hold some model's special tokens
    rendered: Level = Level.warn
    # cut in the middle: open brackets or code, half a sentence, no full stop where others have
    # one
    truncated_answers: Level = Level.warn
    refusals: Level = Level.warn  # "I'm sorry, but I can't ..."
    # numbers, dates and names in the answer that the request does not contain
    ungrounded: Level = Level.warn
    pii_email: Level = Level.warn
    pii_phone: Level = Level.warn
    pii_card: Level = Level.warn  # payment cards, by their check digit
    pii_iban: Level = Level.warn
    pii_ip: Level = Level.warn
    pii_ssn: Level = Level.warn  # US social security numbers
    pii_names: Level = Level.off  # persons and places, by presidio: pip install "hydratune[pii]"
    # the answer of an earlier row, and its request apart from case, marks and symbols
    exact_duplicates: Level = Level.warn
    near_duplicates: Level = Level.warn  # a request nearly that of an earlier row
    # one request, different texts as answers: often right, never dropped
    multi_answer: Level = Level.warn
    duplicate_ids: Level = Level.warn
    language_mix: Level = Level.warn  # rows in another language than most
    length_outliers: Level = Level.warn  # answers far longer or shorter than the rest
    label_balance: Level = Level.warn  # one label is most of the rows, or a label is very rare
    size: Level = Level.warn  # fewer than 500 training rows, or more than 5,000
    similarity: float = 0.8  # Jaccard similarity of character 5-grams from which requests are near


@dataclass
class DataConfig:
    """What every data source shares."""

    # rows per step and device; times trainer.accumulate_grad_batches per optimizer step
    batch_size: int = 8
    max_length: int = 2048  # tokens of a rendered row
    overlength: Overlength = Overlength.drop
    # tokens that each part of a document repeats as context, with overlength=split; null:
    # max_length / 8
    split_overlap: int | None = None
    system_prompt: str | None = None  # put in front of rows that have none
    train_on: TrainOn = TrainOn.all
    # JSON schema of the answers; used for scoring and for the few-shot prompt
    schema: dict[str, Any] | None = None
    schema_file: str | None = None  # the same from a file
    max_train_rows: int | None = None  # take a fixed sample of the training rows, whatever the seed
    max_validation_rows: int | None = None
    max_test_rows: int | None = None
    validation_fraction: float = 0.1  # split off the training rows when there is no validation file
    test_fraction: float = 0.1  # likewise for the test rows
    # keep the shares of a field (of the meta data or of the JSON answer), or of "answer", equal
    # in all splits
    stratify: str | None = None
    clean: CleaningConfig = field(default_factory=CleaningConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)
    control: Control = Control.none
    # train, validate and test on these many rows: loss must go to 0
    overfit_rows: int | None = None

    def problems(self) -> Iterator[Problem]:
        """Yield every problem of these settings."""
        from hydratune.settings.checks import data_problems

        yield from data_problems(self)


@variant("data", "contracts")
@dataclass
class ContractsData(DataConfig):
    """Synthetic contracts and the JSON object of their terms; see ``hydratune.data.contracts``."""

    source: str = "contracts"
    train_rows: int = 280
    validation_rows: int = 50
    test_rows: int = 100
    difficulty: Difficulty = Difficulty.standard
    seed: int = 0  # of the generator; another seed is another set of contracts


@variant("data", "files")
@dataclass
class FilesData(DataConfig):
    """JSONL, JSON, CSV, TSV, Parquet or text files; format and columns are detected and stated."""

    source: str = "files"
    train: str = MISSING
    validation: str | None = None
    test: str | None = None
    # e.g. {prompt: question, completion: answer, group: customer}
    columns: dict[str, str] = field(default_factory=dict)
    roles: dict[str, Any] = field(
        default_factory=dict
    )  # speaker -> role, e.g. {narrator: system}; or role -> speakers, {user: [Mr. X, Ann]}
    # rows whose column has this value, e.g. {label: true}; any: the column is no mark
    keep: dict[str, Any] = field(default_factory=dict)
    encoding: str = "utf-8"


@variant("data", "hub")
@dataclass
class HubData(DataConfig):
    """A data set on the Hugging Face hub (or a local folder that ``datasets.load_dataset`` reads)."""

    source: str = "hub"
    id: str = MISSING
    subset: str | None = None
    revision: str | None = None
    train: str = "train"  # names of the splits
    validation: str | None = None
    test: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    roles: dict[str, Any] = field(default_factory=dict)  # as with data=files; so is keep
    keep: dict[str, Any] = field(default_factory=dict)


class CodeTask(StrEnum):
    """What a row of ``data=repository`` asks for, given one function of the code base."""

    body = "body"  # signature and docstring -> body
    docstring = "docstring"  # source without its docstring -> docstring
    test = "test"  # source -> a test of the code base that calls it


@dataclass
class CaseData(DataConfig):
    """A case study read from a folder of published files; ``hydratune.data.cases`` holds a reader
    for each ``source``.
    """

    holds: ClassVar[str] = "the published files"  # what the folder must hold, for messages

    source: str = MISSING
    path: str = MISSING  # the folder


@variant("data", "snips")
@dataclass
class SnipsData(CaseData):
    """SNIPS voice requests -> {"intent", "slots"}."""

    holds: ClassVar[str] = "train_*_full.json and validate_*.json"

    source: str = "snips"


@variant("data", "cuad")
@dataclass
class CuadData(CaseData):
    """CUAD's marked contract clauses -> JSON object of what they settle."""

    holds: ClassVar[str] = "master_clauses.csv"

    source: str = "cuad"


@variant("data", "mts_dialog")
@dataclass
class MtsDialogData(CaseData):
    """MTS-Dialog: doctor-patient dialogue -> one section of the clinical note."""

    holds: ClassVar[str] = (
        "MTS-Dialog-TrainingSet.csv, MTS-Dialog-ValidationSet.csv and"
        " MTS-Dialog-TestSet-1-MEDIQA-Chat-2023.csv"
    )

    source: str = "mts_dialog"


@variant("data", "tech_support")
@dataclass
class TechSupportData(CaseData):
    """NL2Bash: request -> shell command; with ``tldr`` also the examples of tldr pages."""

    holds: ClassVar[str] = "all.nl and all.cm"

    source: str = "tech_support"
    tldr: str | None = None  # a folder of tldr pages, as for data=brand_style; null: NL2Bash alone


@variant("data", "brand_style")
@dataclass
class BrandStyleData(CaseData):
    """Plain notes on a command -> its page in the style of the tldr project."""

    holds: ClassVar[str] = "pages_common_linux.jsonl, or a clone of tldr-pages"

    source: str = "brand_style"


@variant("data", "repository")
@dataclass
class RepositoryData(CaseData):
    """Your own Python code base -> body, docstring and test of its functions.

    Code is parsed, never imported or run.
    """

    holds: ClassVar[str] = "Python files"

    source: str = "repository"
    tasks: list[CodeTask] = field(default_factory=lambda: list(CodeTask))
    # globs on a path inside the folder or on any of its parts; virtual environments are left
    # out anyway
    exclude: list[str] = field(
        default_factory=lambda: [
            ".*",
            "__pycache__",
            "build",
            "dist",
            "node_modules",
            "site-packages",
            "*.egg-info",
            "_vendor",
        ]
    )
    min_lines: int = 3  # of a function, decorators and docstring counted
    max_lines: int = 60


@variant("data", "mixed")
@dataclass
class MixedData(DataConfig):
    """Several sources in one set. ``parts.NAME`` holds the settings of one: its ``source``, that
    source's own, and ``weight``.

    Of the shared settings a part has its own ``system_prompt`` and ``max_train_rows``; the others
    are those of the whole.
    """

    source: str = "mixed"
    parts: dict[str, Any] = field(default_factory=dict)


@variant("data", "prepared")
@dataclass
class PreparedData(DataConfig):
    """What ``hydratune prepare`` wrote: read as it is, and refused if a file was changed since."""

    source: str = "prepared"
    path: str = MISSING


def part(values: dict[str, Any]) -> tuple[DataConfig, float]:
    """Return one of ``data.parts`` as its own source's settings, and its weight.

    Raises OmegaConf's own errors and ``KeyError``.
    """
    own = {name: value for name, value in values.items() if name != "weight"}
    schema = OmegaConf.structured(variants("data")[own["source"]])
    typed_part = OmegaConf.to_object(OmegaConf.merge(schema, OmegaConf.create(own)))
    assert isinstance(typed_part, DataConfig)
    return typed_part, float(values.get("weight", 1))
