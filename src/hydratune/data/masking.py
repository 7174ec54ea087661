"""Rows -> tokens with a mask that says which of them are trained, and the gate that checks the mask before training.

The tokenizer's own chat template is the only source of truth. A conversation is rendered up to each assistant turn,
once without it (with the generation prompt, exactly what inference sends) and once with it; what the second adds to the
first is the answer. The pieces are tokenised separately, so the prompt's tokens are those of inference by construction.
Of an answer, everything up to and including the turn-end token is trained, and nothing after it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2.exceptions import TemplateError

from hydratune.config import DataConfig, Overlength, TrainOn
from hydratune.data.rows import Message, Row
from hydratune.errors import DataError


@dataclass(frozen=True)
class Encoded:
    """One row as tokens. ``trained[i]`` says whether ``ids[i]`` is a target; the last token is always one."""

    ids: tuple[int, ...]
    trained: tuple[bool, ...]

    @property
    def supervised(self) -> int:
        """Number of trained tokens."""
        return sum(self.trained)


@dataclass
class EncodingReport:
    """What happened to the rows of one split on their way to tokens."""

    rows: int = 0
    kept: int = 0
    dropped: dict[str, list[str]] = field(default_factory=dict)  # reason -> row ids
    truncated: list[str] = field(default_factory=list)  # row ids
    lengths: list[int] = field(default_factory=list)  # tokens of kept rows
    supervised: list[int] = field(default_factory=list)  # trained tokens of kept rows

    def summary(self) -> dict[str, Any]:
        """Plain values for data.json."""
        ordered = sorted(self.lengths)
        quantiles = {str(q): ordered[min(len(ordered) - 1, int(q / 100 * len(ordered)))] for q in (0, 50, 90, 99, 100)} if ordered else {}
        return {
            "rows": self.rows,
            "kept": self.kept,
            "dropped": {reason: {"count": len(ids), "ids": ids[:100]} for reason, ids in self.dropped.items()},
            "truncated": {"count": len(self.truncated), "ids": self.truncated[:100]},
            "tokens": sum(self.lengths),
            "trained_tokens": sum(self.supervised),
            "length_quantiles": quantiles,
        }


class ChatEncoder:
    """Turns conversations into tokens for one tokenizer and one set of turn-end tokens."""

    def __init__(self, tokenizer: Any, turn_end_ids: frozenset[int]) -> None:
        self.tokenizer = tokenizer
        self.turn_end_ids = turn_end_ids

    def render(self, messages: Sequence[Message], *, generation_prompt: bool, where: str = "") -> str:
        """The template's text. Raises ``DataError`` if the template refuses the conversation."""
        turns = [{"role": m.role, "content": m.content} for m in messages]
        try:
            return str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=generation_prompt))
        except TemplateError as error:
            raise DataError(f"{where}: the chat template refuses this conversation ({error})") from error

    def tokens(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def prompt(self, messages: Sequence[Message], where: str = "") -> list[int]:
        """What inference sends: the conversation and the generation prompt."""
        return self.tokens(self.render(messages, generation_prompt=True, where=where))

    def preamble(self, row: Row) -> str:
        """What the template itself puts between the generation prompt and the answer, such as an empty block of thoughts.

        The model learns to write it, and it is no part of the answer.
        """
        where = row.where or row.id
        before = self.render(row.prompt, generation_prompt=True, where=where)
        text = self.render(row.messages, generation_prompt=False, where=where)[len(before) :]
        return text[: max(0, text.find(row.answer.strip()))]

    def encode(self, row: Row, train_on: TrainOn = TrainOn.all) -> Encoded:
        """Raises ``DataError`` where the template makes an honest mask impossible."""
        turns = [i for i, m in enumerate(row.messages) if m.role == "assistant"]
        if train_on is TrainOn.last:
            turns = turns[-1:]
        where = row.where or row.id
        ids: list[int] = []
        trained: list[bool] = []
        done = ""
        for turn in turns:
            before = self.render(row.messages[:turn], generation_prompt=True, where=where)
            after = self.render(row.messages[: turn + 1], generation_prompt=False, where=where)
            if not before.startswith(done):
                raise DataError(
                    f"{where}: the chat template rewrites earlier turns when a later one is added, so they are never seen at "
                    "inference as they would be trained; set data.train_on=last"
                )
            if not after.startswith(before):
                raise DataError(
                    f"{where}: the chat template renders an answer differently from the prompt that asks for it "
                    f"(training: {after[len(before) - 20 : len(before) + 20]!r}, inference: {before[-20:]!r}); "
                    "use another model.chat_template"
                )
            context = self.tokens(before[len(done) :])
            answer = self._answer(after[len(before) :], row.messages[turn].content, where)
            rest = self.tokens(after[len(before) :])[len(answer) :]  # what the template puts after the turn-end token
            ids += [*context, *answer, *rest]
            trained += [False] * len(context) + [True] * len(answer) + [False] * len(rest)
            done = after
        last = max(i for i, is_target in enumerate(trained) if is_target)
        return Encoded(tuple(ids[: last + 1]), tuple(trained[: last + 1]))

    def _answer(self, text: str, content: str, where: str) -> list[int]:
        """The trained tokens of one assistant turn: its content and the turn-end token."""
        ids = self.tokens(text)
        ends = [i for i, token in enumerate(ids) if token in self.turn_end_ids]
        if not ends:
            raise DataError(
                f"{where}: the chat template does not end the assistant's turn with a turn-end token "
                f"({self._names(self.turn_end_ids)}), so the model would never learn to stop; use another model.chat_template"
            )
        # The content itself may hold the token's text; the turn ends with the last one.
        answer = ids[: ends[-1] + 1]
        if content.strip() and content.strip() not in self.tokenizer.decode(answer, clean_up_tokenization_spaces=False):
            raise DataError(f"{where}: the chat template changes the assistant's text; use another model.chat_template")
        return answer

    def _names(self, ids: frozenset[int]) -> str:
        return ", ".join(repr(self.tokenizer.decode([i])) for i in sorted(ids))

    def encode_all(self, rows: Sequence[Row], data: DataConfig, split: str) -> tuple[list[Row], list[Encoded], EncodingReport]:
        """Encodes a split under the over-length policy. Raises ``DataError`` if the policy refuses or nothing is left."""
        report = EncodingReport(rows=len(rows))
        kept: list[Row] = []
        encoded: list[Encoded] = []
        too_long: list[tuple[Row, int]] = []
        for row in rows:
            example = self.encode(row, data.train_on)
            if len(example.ids) > data.max_length:
                too_long.append((row, len(example.ids)))
                shortened = self._truncate_prompt(row, data) if data.overlength is Overlength.truncate_prompt else None
                if shortened is None:
                    report.dropped.setdefault("longer than data.max_length", []).append(row.id)
                    continue
                row, example = shortened
                report.truncated.append(row.id)
            kept.append(row)
            encoded.append(example)
            report.lengths.append(len(example.ids))
            report.supervised.append(example.supervised)
        report.kept = len(kept)
        if too_long and data.overlength is Overlength.error:
            longest, tokens = max(too_long, key=lambda pair: pair[1])
            raise DataError(
                f"{len(too_long)} of {len(rows)} {split} rows are longer than data.max_length = {data.max_length} tokens "
                f"(longest: {longest.where or longest.id}, {tokens}); raise it, or set data.overlength=drop or truncate_prompt"
            )
        if not kept:
            shortest = min(tokens for _, tokens in too_long)
            raise DataError(
                f"every {split} row was dropped: all {len(rows)} are longer than data.max_length = {data.max_length} tokens "
                f"(shortest: {shortest}); raise data.max_length, or set data.overlength=truncate_prompt"
            )
        return kept, encoded, report

    def _truncate_prompt(self, row: Row, data: DataConfig) -> tuple[Row, Encoded] | None:
        """Cuts characters off the start of the last user turn until the row fits; None if even an empty one does not."""
        index = max(i for i, m in enumerate(row.messages) if m.role == "user")
        text = row.messages[index].content
        low, high = 1, len(text)  # the smallest cut that fits, by bisection
        best: tuple[Row, Encoded] | None = None
        while low <= high:
            cut = (low + high) // 2
            messages = list(row.messages)
            messages[index] = Message("user", text[cut:])
            candidate = Row(row.id, tuple(messages), row.group, row.meta, row.where)
            example = self.encode(candidate, data.train_on)
            if len(example.ids) <= data.max_length:
                best, high = (candidate, example), cut - 1
            else:
                low = cut + 1
        return best


def gate(encoder: ChatEncoder, rows: Sequence[Row], encoded: Sequence[Encoded]) -> None:
    """The last look before training: raises ``DataError`` for the first row whose mask is wrong.

    Every row trains something and ends with a trained turn-end token; what is not trained is exactly what inference
    sends (for the last turn); no text of a user or system turn is trained; no doubled begin-of-text token.
    """
    bos = getattr(encoder.tokenizer, "bos_token_id", None)
    for row, example in zip(rows, encoded, strict=True):
        where = row.where or row.id
        if not example.supervised:
            raise DataError(f"{where}: no token of this row is trained")
        if not example.trained[-1] or example.ids[-1] not in encoder.turn_end_ids:
            raise DataError(f"{where}: the turn-end token is not trained; the model would never learn to stop")
        if bos is not None and list(example.ids[:2]) == [bos, bos]:
            raise DataError(f"{where}: the row begins with two begin-of-text tokens; use another model.chat_template")
        trained_text = encoder.tokenizer.decode([t for t, is_target in zip(example.ids, example.trained, strict=True) if is_target])
        answers = "".join(m.content for m in row.messages if m.role == "assistant")
        for message in row.messages:
            asked = message.content.strip()
            if message.role in ("system", "user") and len(asked) > 20 and asked in trained_text and asked not in answers:
                raise DataError(f"{where}: text of a {message.role} turn is trained; use another model.chat_template")
        starts = [i for i, is_target in enumerate(example.trained) if is_target and not (i and example.trained[i - 1])]
        turns = [i for i, m in enumerate(row.messages) if m.role == "assistant"][-len(starts) :]
        for start, turn in zip(starts, turns, strict=True):
            if list(example.ids[:start]) != encoder.prompt(row.messages[:turn], where):
                raise DataError(
                    f"{where}: turn {turn + 1} would be trained after other tokens than inference sends, because the chat template "
                    "lets neighbouring turns melt into one token; use another model.chat_template, or data.train_on=last"
                )
