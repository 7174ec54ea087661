"""Check a prepared data set under one model's tokenizer: lengths, overlong rows, loss masks."""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hydratune.data import thoughts
from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.data.encoding.examples import encode_examples
from hydratune.data.encoding.tokenizing import ROWS_PER_CALL
from hydratune.data.mask_check import check_masks
from hydratune.data.quality.findings import MOST_EXAMPLES, MOST_ROWS, Finding, level_of
from hydratune.data.rows import Message, Row
from hydratune.errors import DataError
from hydratune.settings.data import DataConfig, Level, Overlength

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BARS = 40  # of a histogram
_QUANTILES = (0, 50, 90, 99, 100)  # percent


def special_tokens(tokenizer: "PreTrainedTokenizerBase") -> re.Pattern[str]:
    """Return a pattern of the tokenizer's special tokens, without those that are ordinary words."""
    # a token such as <|eot_id|> has no role of its own
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    names = [token for token in added | set(tokenizer.all_special_tokens) if not token.isalnum()]
    longest_first = sorted(names, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def with_special_tokens(
    tokenizer: "PreTrainedTokenizerBase", rows: Iterable[Row]
) -> list[tuple[Row, str]]:
    """Return the rows with a turn whose text holds a special token, and that token.

    Tags around the thoughts of an answer are no part of its text.
    """
    pattern = special_tokens(tokenizer)
    result = []
    for row in rows:
        texts = (text for message in row.messages for text in _texts(message))
        match = next((m for text in texts if (m := pattern.search(text))), None)
        if match:
            result.append((row, match[0]))
    return result


def _texts(message: Message) -> tuple[str, ...]:
    """Return everything a turn says: content, thoughts, reasoning, calls."""
    is_answer = message.role == "assistant"
    split = thoughts.split_thoughts(message.content, opened=True) if is_answer else None
    calls = str(message.tool_calls) if message.tool_calls else ""
    return (*(split or (message.content,)), message.reasoning or "", calls)


@dataclass
class TokenCheck:
    """Checks the rows of each split; keeps numbers and findings, and no rows.

    ``embeddings`` is the number of rows of the model's input embeddings.
    """

    encoder: ChatEncoder
    data: DataConfig
    context_window: int
    embeddings: int
    lengths: dict[str, list[int]] = field(default_factory=dict)
    trained: Counter[str] = field(default_factory=Counter)  # split -> trained tokens
    findings: dict[str, Finding] = field(default_factory=dict)
    defects: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        for name in ("template_tokens", "mask", "overlength"):
            level = level_of(self.data.quality, name)
            if level is not Level.off:
                self.findings[name] = Finding(name, level)
        self.too_long: Counter[str] = Counter()
        self._split = ""  # the split that is checked
        self._highest: dict[str, tuple[int, str]] = {}

    def split(
        self, name: str, rows: Iterable[Row], advance: Callable[[int], None] = lambda steps: None
    ) -> None:
        """Check all rows of one split; ``advance`` is called with the number of rows done."""
        self.lengths.setdefault(name, [])
        self._split = name
        remaining = iter(rows)
        while batch := list(itertools.islice(remaining, ROWS_PER_CALL)):
            self._look_for_special_tokens(batch)
            try:
                self._count(name, batch)
            except DataError:
                self._count_one_by_one(name, batch)
            advance(len(batch))

    def _count_one_by_one(self, name: str, rows: Sequence[Row]) -> None:
        """Count the rows whose mask is right, and record the others as findings."""
        for row in rows:
            try:
                self._count(name, [row])
            except DataError as error:
                self.defects[getattr(error, "defect", "other")] += 1
                self._add("mask", row, str(error))

    def _look_for_special_tokens(self, rows: Sequence[Row]) -> None:
        if "template_tokens" in self.findings:
            for row, token in with_special_tokens(self.encoder.tokenizer, rows):
                self._add("template_tokens", row, token)

    def _count(self, name: str, rows: Sequence[Row]) -> None:
        """Count tokens. Raises ``DataError``, having counted nothing, if a mask is wrong."""
        examples = list(encode_examples(self.encoder, rows, self.data, name))
        check_masks(
            self.encoder, [row for row, _ in examples], [example for _, example in examples]
        )
        has_more_tokens = len(self.encoder.tokenizer) > self.embeddings
        for row, example in examples:
            self.lengths[name].append(len(example.ids))
            self.trained[name] += example.supervised
            if has_more_tokens and max(example.ids) > self.highest(name)[0]:
                self._highest[name] = (max(example.ids), row.position)
            if len(example.ids) > self.data.max_length:
                self.too_long[name] += 1
                self._add("overlength", row, f"{name}: {len(example.ids):,} tokens")

    def highest(self, name: str) -> tuple[int, str]:
        """Return (largest token id of a split, position of its row).

        It is known only where the tokenizer has more tokens than the model.
        """
        return self._highest.get(name, (0, ""))

    def _add(self, name: str, row: Row, note: str) -> None:
        finding = self.findings[name]
        finding.count += 1
        finding.splits[self._split] = finding.splits.get(self._split, 0) + 1
        if len(finding.rows) < MOST_ROWS:
            finding.rows.append(row.id)
            finding.where.append(row.where)
        if len(finding.examples) < MOST_EXAMPLES:
            finding.examples.append({"rows": [row.id], "texts": [], "note": note})

    def state(self) -> dict[str, Any]:
        """Return what was counted and found as plain values, for ``restore``."""
        return {
            "lengths": self.lengths,
            "trained": self.trained,
            "too_long": self.too_long,
            "defects": self.defects,
            "highest": self._highest,
            "findings": {name: found.counted() for name, found in self.findings.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what an equal check has counted and found."""
        self.lengths = state["lengths"]
        self.trained = Counter(state["trained"])
        self.too_long = Counter(state["too_long"])
        self.defects = Counter(state["defects"])
        self._highest = {name: (token, where) for name, (token, where) in state["highest"].items()}
        for name, finding in self.findings.items():
            self.findings[name] = replace(finding, **state["findings"][name])

    def summary(self) -> dict[str, Any]:
        """Return plain values for report.json: by split, in tokens."""
        self._note_consequences()
        edges = self._histogram_edges()
        return {
            "max_length": self.data.max_length,
            "context_window": self.context_window,
            "overlength": self.data.overlength.value,
            "edges": edges.round(1).tolist(),
            "splits": {name: self._split_summary(name, edges) for name in self.lengths},
        }

    def _note_consequences(self) -> None:
        """State in the findings what training does with long rows, and which defects masks have."""
        policy, finding = self.data.overlength, self.findings["overlength"]
        if finding.count:
            cut = "prompts cut (rows whose answer alone is too long: dropped)"
            consequences = {Overlength.truncate_prompt: cut, Overlength.error: "refused"}
            finding.note = f"{consequences.get(policy, 'dropped')} in training"
            finding.level = Level.error if policy is Overlength.error else Level.warn
        if self.defects:
            counts = (f"{defect} {count:,}" for defect, count in self.defects.most_common())
            self.findings["mask"].note = ", ".join(counts)

    def _histogram_edges(self) -> np.ndarray:
        """Return the edges of the bars; the few rows that are far longer share the last bar."""
        every = np.concatenate([np.asarray(lengths, np.int64) for lengths in self.lengths.values()])
        top = np.quantile(every, 0.995) * 1.02 if len(every) else 1
        return np.append(np.linspace(0, top, _BARS), max(top + 1, every.max(initial=0)))

    def _split_summary(self, name: str, edges: np.ndarray) -> dict[str, Any]:
        lengths = self.lengths[name]
        values = np.asarray(lengths or [0])
        return {
            "rows": len(lengths),
            "too_long": self.too_long[name],
            "tokens": int(values.sum()),
            "trained_tokens": self.trained[name],
            "quantiles": {
                str(q): int(np.quantile(values, q / 100, method="lower")) for q in _QUANTILES
            },
            "histogram": np.histogram(values, edges)[0].tolist() if lengths else [0] * _BARS,
        }
