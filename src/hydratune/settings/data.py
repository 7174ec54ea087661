"""Settings of the data that all sources share, and their rules.

The settings of each source are in its own module, in ``hydratune.data.sources`` and
``hydratune.data.cases``.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from hydratune import extras
from hydratune.errors import Problem
from hydratune.settings.paths import path_setting
from hydratune.settings.ranges import at_least, between


class Overlength(StrEnum):
    """What happens to a row longer than ``data.max_length``. An answer is never cut."""

    drop = "drop"  # the row is dropped, counted and reported
    # documents (text rows) become several parts; conversations are dropped
    split = "split"  # type: ignore[assignment]
    # cuts the start of the last user turn; its end and the system turn stay
    truncate_prompt = "truncate_prompt"
    error = "error"  # training is refused


class TrainOn(StrEnum):
    """Which assistant turns of a conversation are trained."""

    all = "all"  # every one
    last = "last"  # only the last one
    # every one as an example of its own, which ends with it: for templates that rewrite earlier
    # turns
    each = "each"


class Control(StrEnum):
    """A deliberately broken data set, to see what a score is worth."""

    none = "none"  # the data set as it is
    shuffled_targets = "shuffled_targets"  # every training prompt gets the answer of another row


class Level(StrEnum):
    """What a finding of a data check does."""

    error = "error"  # training is refused
    warn = "warn"  # said and reported
    off = "off"  # not looked for


_SPACY_MODEL = "en_core_web_lg"  # with which presidio finds names
# check -> the module of the optional package that it needs
PACKAGES_OF_CHECKS = {
    "pii_phone": "phonenumbers",
    "pii_card": "stdnum",
    "pii_iban": "stdnum",
    "language_mix": "py3langid",
    "ungrounded": "text_to_num",
}


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
    # rows dropped because they belong to two splits at once
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
    pii_email: Level = Level.warn  # e-mail addresses
    pii_phone: Level = Level.warn  # telephone numbers
    pii_card: Level = Level.warn  # payment cards, by their check digit
    pii_iban: Level = Level.warn  # bank accounts
    pii_ip: Level = Level.warn  # IP addresses
    pii_ssn: Level = Level.warn  # US social security numbers
    pii_names: Level = Level.off  # persons and places, by presidio: pip install 'hydratune[pii]'
    # the answer of an earlier row, and its request apart from case, marks and symbols
    exact_duplicates: Level = Level.warn
    near_duplicates: Level = Level.warn  # a request nearly that of an earlier row
    # one request, different texts as answers: often right, never dropped
    multi_answer: Level = Level.warn
    duplicate_ids: Level = Level.warn  # rows with the same id
    language_mix: Level = Level.warn  # rows in another language than most
    length_outliers: Level = Level.warn  # answers far longer or shorter than the rest
    label_balance: Level = Level.warn  # one label is most of the rows, or a label is very rare
    size: Level = Level.warn  # fewer than 500 training rows, or more than 5,000
    # least Jaccard similarity of the character 5-grams of nearly equal requests
    similarity: float = 0.8

    def problems(self) -> Iterator[Problem]:
        """Yield every problem of these settings."""
        if not 0.5 <= self.similarity <= 1:
            why = "must be in [0.5, 1]: below, most texts count as similar"
            yield Problem("data.quality.similarity", self.similarity, why, "usual: 0.8")
        if self.pii_names is not Level.off:
            key = "data.quality.pii_names"
            download = f"python -m spacy download {_SPACY_MODEL}, or set it to off"
            for problem in extras.missing("presidio_analyzer", key, self.pii_names.value):
                yield replace(problem, fix=f"{problem.fix} and {download}")
            if extras.is_installed("presidio_analyzer") and not extras.is_installed(_SPACY_MODEL):
                why = f"presidio needs the spaCy model {_SPACY_MODEL}, which is not installed"
                yield Problem(key, self.pii_names.value, why, download)
        for name, module in PACKAGES_OF_CHECKS.items():
            if getattr(self, name) is Level.error:  # a warning is skipped, and that is said
                yield from extras.missing(module, f"data.quality.{name}", Level.error.value)

    def skipped(self) -> dict[str, str]:
        """Return check -> module, for the checks that are on and whose package is missing."""
        return {
            name: module
            for name, module in PACKAGES_OF_CHECKS.items()
            if getattr(self, name) is not Level.off and not extras.is_installed(module)
        }


@dataclass
class DataConfig:
    """What every data source shares."""

    # rows per step and device; times trainer.accumulate_grad_batches per optimizer step
    batch_size: int = 8
    max_length: int = 2048  # tokens of a rendered row
    overlength: Overlength = Overlength.drop  # what becomes of rows longer than max_length
    # tokens that each part of a document repeats as context, with overlength=split; null:
    # max_length / 8
    split_overlap: int | None = None
    system_prompt: str | None = None  # put in front of rows that have none
    train_on: TrainOn = TrainOn.all  # which answers of a conversation are trained
    # JSON schema of the answers; used for scoring and for the few-shot prompt
    schema: dict[str, Any] | None = None
    schema_file: str | None = path_setting(None)  # the same from a file
    max_train_rows: int | None = None  # take a fixed sample of the training rows, whatever the seed
    # share of these rows that is trained on: a random part, drawn by the run's seed; larger shares
    # contain the rows of smaller ones. To measure what more data brings: sweep=data_size
    train_share: float = 1.0
    max_validation_rows: int | None = None  # take a fixed sample of the validation rows
    max_test_rows: int | None = None  # take a fixed sample of the test rows
    validation_fraction: float = 0.1  # split off the training rows when there is no validation file
    test_fraction: float = 0.1  # likewise for the test rows
    # keep the shares of a field (of the meta data or of the JSON answer), or of "answer", equal
    # in all splits
    stratify: str | None = None
    clean: CleaningConfig = field(default_factory=CleaningConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)
    # a test of the evaluation: with shuffled targets nothing can be learnt
    control: Control = Control.none
    # train, validate and test on these many rows: loss must go to 0
    overfit_rows: int | None = None

    def problems(self) -> Iterator[Problem]:
        """Yield every problem of these settings."""
        yield from at_least("data.batch_size", self.batch_size, 1, " row")
        yield from at_least("data.max_length", self.max_length, 8, " tokens")
        yield from self._overlap_problems()
        for name in ("max_train_rows", "max_validation_rows", "max_test_rows", "overfit_rows"):
            yield from at_least(f"data.{name}", getattr(self, name), 1, " row")
        yield from self._share_problems()
        yield from self._fraction_problems()
        if self.overfit_rows is not None and self.control is not Control.none:
            why = "data.overfit_rows is set as well"
            fix = "leave out data.control, or data.overfit_rows"
            yield Problem("data.control", self.control.value, why, fix)
        yield from self.quality.problems()
        try:
            yield from self._schema_problems()
            yield from self.source_problems()
        except OSError as error:  # of looking whether a file is there
            fix = "give a path that can be opened"
            yield Problem("data", error.filename, f"no access ({error.strerror})", fix)

    def source_problems(self) -> Iterator[Problem]:
        """Yield the problems of the settings that only this source has."""
        yield from ()

    def own_schema_file(self) -> str | None:
        """Return the file of a JSON schema that belongs to the data, if the source has one."""
        return None

    def default_name(self) -> str | None:
        """Return the name of the folder of the prepared data, if the source suggests one."""
        return None

    def _overlap_problems(self) -> Iterator[Problem]:
        if self.split_overlap is not None:
            yield from at_least("data.split_overlap", self.split_overlap, 0, " tokens")
        most = max(0, (self.max_length - 3) // 2)
        if self.overlength is Overlength.split and (self.split_overlap or 0) > most:
            why = (
                f"each part of a document has at most data.max_length = {self.max_length} tokens,"
                " and less than half of them may be repeated"
            )
            fix = f"set data.split_overlap={most} or less"
            yield Problem("data.split_overlap", self.split_overlap, why, fix)

    def _share_problems(self) -> Iterator[Problem]:
        if not 0 < self.train_share <= 1:
            why = "must be above 0 and at most 1: it is a share of the training rows"
            fix = "for example data.train_share=0.5; a number of rows is data.max_train_rows"
            yield Problem("data.train_share", self.train_share, why, fix)
        elif self.train_share < 1 and self.overfit_rows is not None:
            why = "data.overfit_rows says which rows are trained on"
            yield Problem(
                "data.train_share", self.train_share, why, "leave it out, or data.overfit_rows"
            )

    def _fraction_problems(self) -> Iterator[Problem]:
        validation, test = self.validation_fraction, self.test_fraction
        yield from between("data.validation_fraction", validation, 0, 1, open_high=True)
        yield from between("data.test_fraction", test, 0, 1, open_high=True)
        if validation < 1 and test < 1 and validation + test >= 1:
            why = "validation_fraction and test_fraction together leave nothing to train on"
            fix = "keep their sum below 1"
            yield Problem("data.validation_fraction", validation, why, fix)

    def _schema_problems(self) -> Iterator[Problem]:
        if self.schema is not None and self.schema_file is not None:
            why, fix = "data.schema is set as well", "give one of the two"
            yield Problem("data.schema_file", self.schema_file, why, fix)
        if self.schema_file is not None and not Path(self.schema_file).is_file():
            fix = "give a JSON schema file"
            yield Problem("data.schema_file", self.schema_file, "no such file", fix)
