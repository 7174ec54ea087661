"""A prepared data set under one model's tokenizer: lengths, what is too long, and whether every
mask is right.
"""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hydratune.data import thoughts
from hydratune.data.examples import encoded_examples
from hydratune.data.gate import gate
from hydratune.data.masking import TOGETHER, ChatEncoder
from hydratune.data.quality.findings import MOST_EXAMPLES, MOST_ROWS, Finding, level_of
from hydratune.data.rows import Message, Row
from hydratune.errors import DataError
from hydratune.settings.data import DataConfig, Level, Overlength

_BARS = 40  # of a histogram


def special_tokens(tokenizer: Any) -> re.Pattern[str]:
    """Finds the texts of the tokenizer's special tokens; one that is an ordinary word is no danger."""  # noqa: E501
    added = {
        str(token) for token in tokenizer.added_tokens_decoder.values() if token.special
    }  # <|eot_id|> has no role of its own
    names = [token for token in added | set(tokenizer.all_special_tokens) if not token.isalnum()]
    return re.compile(
        "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True)) or r"(?!)"
    )


def with_special_tokens(tokenizer: Any, rows: Iterable[Row]) -> list[tuple[Row, str]]:
    """Rows with a turn whose text holds a special token, and that token.

    Tags around the thoughts of an answer are none of its text.
    """
    pattern = special_tokens(tokenizer)
    found = []
    for row in rows:
        spoken = (
            text
            for m in row.messages
            for text in (
                *_contents(m),
                m.reasoning or "",
                str(m.tool_calls) if m.tool_calls else "",
            )
        )
        hit = next((h for text in spoken if (h := pattern.search(text))), None)
        if hit:
            found.append((row, hit[0]))
    return found


def _contents(message: Message) -> tuple[str, ...]:
    parted = thoughts.parted(message.content, opened=True) if message.role == "assistant" else None
    return parted or (message.content,)


@dataclass
class TokenCheck:
    """Feed it the rows of a split one by one; it keeps numbers, findings and nothing else."""

    encoder: ChatEncoder
    data: DataConfig
    context_window: int
    embeddings: int  # rows of the model's input embeddings
    lengths: dict[str, list[int]] = field(default_factory=dict)
    trained: Counter[str] = field(default_factory=Counter)
    findings: dict[str, Finding] = field(default_factory=dict)
    defects: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        for name in ("template_tokens", "mask", "overlength"):
            level = level_of(self.data.quality, name)
            if level is not Level.off:
                self.findings[name] = Finding(name, level)
        self.too_long: Counter[str] = Counter()
        self.at = ""  # the split that is looked at
        self._highest: dict[str, tuple[int, str]] = {}

    def split(
        self, name: str, rows: Iterable[Row], advance: Callable[[int], None] = lambda steps: None
    ) -> None:
        """All rows of one split."""
        self.lengths.setdefault(name, [])
        self.at = name
        remaining = iter(rows)
        while batch := list(itertools.islice(remaining, TOGETHER)):
            self._look_for_special_tokens(batch)
            try:
                self._count(name, batch)
            except DataError:
                for row in batch:  # whose mask is wrong?
                    try:
                        self._count(name, [row])
                    except DataError as error:
                        self.defects[getattr(error, "defect", "other")] += 1
                        self._add("mask", row, str(error))
            advance(len(batch))

    def _look_for_special_tokens(self, rows: Sequence[Row]) -> None:
        if "template_tokens" in self.findings:
            for row, token in with_special_tokens(self.encoder.tokenizer, rows):
                self._add("template_tokens", row, token)

    def _count(self, name: str, rows: Sequence[Row]) -> None:
        """Raises ``DataError``, having counted nothing, if a mask is wrong."""
        examples = list(encoded_examples(self.encoder, rows, self.data, name))
        gate(self.encoder, [row for row, _ in examples], [example for _, example in examples])
        for row, example in examples:
            self.lengths[name].append(len(example.ids))
            self.trained[name] += example.supervised
            if (
                len(self.encoder.tokenizer) > self.embeddings
                and max(example.ids) > self.highest(name)[0]
            ):
                self._highest[name] = (max(example.ids), row.where or row.id)
            if len(example.ids) > self.data.max_length:
                self.too_long[name] += 1
                self._add("overlength", row, f"{name}: {len(example.ids):,} tokens")

    def highest(self, name: str) -> tuple[int, str]:
        """(largest token id of a split, the row it is in), where the tokenizer has more tokens than
        the model.
        """
        return self._highest.get(name, (0, ""))

    def _add(self, name: str, row: Row, note: str) -> None:
        finding = self.findings[name]
        finding.count += 1
        finding.splits[self.at] = finding.splits.get(self.at, 0) + 1
        if len(finding.rows) < MOST_ROWS:
            finding.rows.append(row.id)
            finding.where.append(row.where)
        if len(finding.examples) < MOST_EXAMPLES:
            finding.examples.append({"rows": [row.id], "texts": [], "note": note})

    def summary(self) -> dict[str, Any]:
        """Plain values for report.json: by split, in tokens."""
        policy = self.data.overlength
        finding = self.findings["overlength"]
        if finding.count:
            cut = "prompts cut (rows whose answer alone is too long: dropped)"
            done = {Overlength.truncate_prompt: cut, Overlength.error: "refused"}.get(
                policy, "dropped"
            )
            finding.note = f"{done} in training"
            finding.level = Level.error if policy is Overlength.error else Level.warn
        if self.defects:
            self.findings["mask"].note = ", ".join(
                f"{defect} {n:,}" for defect, n in self.defects.most_common()
            )
        every = np.concatenate([np.asarray(lengths, np.int64) for lengths in self.lengths.values()])
        # a few far longer rows share the last bar
        top = np.quantile(every, 0.995) * 1.02 if len(every) else 1
        edges = np.append(np.linspace(0, top, _BARS), max(top + 1, every.max(initial=0)))
        splits = {}
        for name, lengths in self.lengths.items():
            values = np.asarray(lengths or [0])
            splits[name] = {
                "rows": len(lengths),
                "too_long": self.too_long[name],
                "tokens": int(values.sum()),
                "trained_tokens": self.trained[name],
                "quantiles": {
                    str(q): int(np.quantile(values, q / 100, method="lower"))
                    for q in (0, 50, 90, 99, 100)
                },
                "histogram": np.histogram(values, edges)[0].tolist() if lengths else [0] * _BARS,
            }
        return {
            "max_length": self.data.max_length,
            "context_window": self.context_window,
            "overlength": policy.value,
            "edges": edges.round(1).tolist(),
            "splits": splits,
        }
