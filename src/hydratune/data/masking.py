"""Rows -> tokens with a mask that says which of them are trained. ``gate.py`` checks the mask before training.

The tokenizer's own chat template is the only source of truth. A conversation is rendered up to each trained assistant
turn, once without it (with the generation prompt, exactly what inference sends) and once with it; what the second adds
to the first is the answer. Both are tokenised by themselves, and every prompt must begin with the prompt and the answer
before it, so each turn is trained after the tokens that inference sends. Of an answer, everything up to and including
the turn-end token is trained, and nothing after it.

A document (role ``text``) is rendered by no template: begin-of-text, if the tokenizer adds it, then the text and the
end-of-text token. All of it is trained but the first token, which nothing predicts.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from jinja2.exceptions import TemplateError

from hydratune.config import DataConfig, Overlength, TrainOn
from hydratune.data.rows import Message, Row
from hydratune.errors import DataError

TOGETHER = 256  # rows tokenised in one call, which uses every core
_STAND_IN = "\u241f"  # for an answer: a character that no template strips or escapes
_MARK = " \u241f7f3a"  # put at the end of what others say, to see whether it turns up in an answer


class Defect(StrEnum):
    """Everything that can be wrong with a mask. Reports group by it."""

    template_refuses = "template_refuses"
    tools_ignored = "tools_ignored"  # the prompt is the same with and without tools
    calls_ignored = "calls_ignored"  # a trained turn without its tool calls
    thinking_ignored = "thinking_ignored"  # a trained turn without its thinking
    thinking_dropped = "thinking_dropped"  # thinking that is there when trained and gone when a later turn is
    history_rewritten = "history_rewritten"  # earlier turns change when a later one is added
    prompt_differs = "prompt_differs"  # the answer does not begin where inference begins it
    answer_changed = "answer_changed"  # the template writes another text than the row's
    tokens_differ = "tokens_differ"  # the tokenizer cannot write the answer's text
    turn_end_missing = "turn_end_missing"  # the rendered answer does not end with a token that stops generation
    turn_end_untrained = "turn_end_untrained"
    nothing_trained = "nothing_trained"
    others_trained = "others_trained"  # a token of a user, system, tool or context turn
    answer_untrained = "answer_untrained"  # a token inside a trained turn is not
    turns_melt = "turns_melt"  # the same text as at inference, cut into other tokens
    double_bos = "double_bos"


class MaskError(DataError):
    """A row that cannot be trained honestly; ``defect`` says in one word why."""

    def __init__(self, message: str, defect: Defect = Defect.template_refuses) -> None:
        super().__init__(message)
        self.defect = defect


@dataclass(frozen=True)
class Encoded:
    """One row as tokens. ``trained[i]`` says whether ``ids[i]`` is a target; the last token is always one, the first never."""

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
        self._prompts: dict[int, int] = {}  # hash of a prompt's text -> hash of its tokens, for the gate
        self._frames: set[int] = set()  # hashes of what the template put around an answer, and nobody else had said
        self._shown: set[int] = set()  # hashes of tools that the template was seen to show

    # ------------------------------------------------------------------------------------------------------- rendering
    def render(
        self, messages: Sequence[Message], *, tools: Sequence[Mapping[str, Any]] = (), generation_prompt: bool, where: str = ""
    ) -> str:
        """The template's text. Raises ``MaskError`` if the template refuses the conversation."""
        turns = [message.turn() for message in messages]
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    turns, tools=list(map(dict, tools)) or None, tokenize=False, add_generation_prompt=generation_prompt
                )
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise MaskError(f"{where}: the chat template refuses this conversation ({error})", Defect.template_refuses) from error

    def tokens(self, text: str) -> list[int]:
        return self._tokens([text])[0]

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        options = {"add_special_tokens": False, "return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
        return list(self.tokenizer(list(texts), **options).input_ids) if texts else []

    def prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), where: str = "") -> list[int]:
        """What inference sends: the conversation, its tools and the generation prompt."""
        return self.tokens(self.render(messages, tools=tools, generation_prompt=True, where=where))

    def preamble(self, row: Row) -> str:
        """What the template itself puts between the generation prompt and the last answer, such as a block of thoughts.

        The model learns to write it, and it is no part of the answer.
        """
        where = row.where or row.id
        before = self.render(row.prompt, tools=row.tools, generation_prompt=True, where=where)
        turn = replace(row.messages[-1], content=_STAND_IN, tool_calls=())
        text = self.render([*row.prompt, turn], tools=row.tools, generation_prompt=False, where=where)[len(before) :]
        return text[: max(0, text.find(_STAND_IN))]

    def said(self, row: Row, generated: str) -> str:
        """The answer in a text generated after the row's prompt: without the preamble, whatever was thought in it."""
        preamble = self.preamble(row)
        if generated.startswith(preamble) or not preamble.split():
            return generated.removeprefix(preamble)
        _, found, answer = generated.partition(preamble.split()[-1])  # such as </think>
        return answer.lstrip() if found else generated

    def reference(self, row: Row) -> str:
        """What a generated answer is compared with: the last turn's content, or as the template writes it where it calls tools."""
        if not row.messages[-1].tool_calls:
            return row.answer
        example = self.encode(row, TrainOn.last)
        kept = [t for t, is_target in zip(example.ids, example.trained, strict=True) if is_target and t not in self.turn_end_ids]
        return self.said(row, self.decode(kept))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, special ones as they are written."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    # -------------------------------------------------------------------------------------------------------- encoding
    def encode(self, row: Row, train_on: TrainOn = TrainOn.all) -> Encoded:
        """Raises ``MaskError`` where the template makes an honest mask impossible."""
        return next(self.encode_batch([row], train_on))

    def encode_batch(self, rows: Sequence[Row], train_on: TrainOn) -> Iterator[Encoded]:
        """Renders all rows, tokenises them in one call, and yields them in order."""
        pieces = [[row.messages[0].content] if row.is_text else self._pieces(row, train_on) for row in rows]
        tokens = iter(self._tokens([text for texts in pieces for text in texts]))
        for row, texts in zip(rows, pieces, strict=True):
            own = [next(tokens) for _ in texts]
            yield self._document(row, own[0]) if row.is_text else self._conversation(row, train_on, texts, own)

    def _pieces(self, row: Row, train_on: TrainOn) -> list[str]:
        """Of every trained turn: the prompt from the beginning of the row, and the answer."""
        where = row.where or row.id
        pieces: list[str] = []
        for turn in trained_turns(row, train_on):
            history = row.messages[:turn]
            before = self.render(history, tools=row.tools, generation_prompt=True, where=where)
            after = self.render(row.messages[: turn + 1], tools=row.tools, generation_prompt=False, where=where)
            _check_prompt(before, after, where)
            answer = after[len(before) :]
            _check_answer(answer, row.messages[turn], where)
            self._check_tools(before, row, history, where)
            self._check_frame(answer, row, turn, where)
            pieces += [before, answer]
        if not pieces:
            raise MaskError(f"{where}: no token of this row is trained: all its turns are context", Defect.nothing_trained)
        return pieces

    def _conversation(self, row: Row, train_on: TrainOn, texts: Sequence[str], tokens: Sequence[list[int]]) -> Encoded:
        where = row.where or row.id
        ids: list[int] = []
        trained: list[bool] = []
        done = ""  # the text of ids, up to the end of what the last answer says
        for number, turn in enumerate(trained_turns(row, train_on)):
            prompt, answer = tokens[2 * number : 2 * number + 2]
            before, text = texts[2 * number : 2 * number + 2]
            if prompt[: len(ids)] != ids:
                raise _history_error(done, before, row.messages[:turn], turn, where)
            self._prompts[hash(before)] = hash(tuple(prompt))
            said = [part for part in _texts(row.messages[turn]) if part in text]
            length = self._turn_end(answer, said, where)
            trained += [False] * (len(prompt) - len(ids)) + [True] * length
            ids = prompt + answer[:length]
            done = before + text[: max(text.find(part) + len(part) for part in said)]
        return Encoded(tuple(ids), tuple(trained))

    def _turn_end(self, answer: Sequence[int], said: Sequence[str], where: str) -> int:
        """How many tokens of ``answer`` are trained: those up to the first turn-end token after ``said``, which may quote it."""
        ends = [i for i, token in enumerate(answer, 1) if token in self.turn_end_ids]
        if not ends:
            raise MaskError(
                f"{where}: the chat template does not end the assistant's turn with a turn-end token "
                f"({self._names(self.turn_end_ids)}), so the model would never learn to stop; use another model.chat_template",
                Defect.turn_end_missing,
            )
        for end in ends:
            written = self.decode(answer[:end])
            if all(part in written for part in said):
                return end
        raise MaskError(
            f"{where}: the tokenizer loses part of the assistant's text, so the model would learn another one; "
            "normalise the text, or use another model",
            Defect.tokens_differ,
        )

    def _document(self, row: Row, tokens: Sequence[int]) -> Encoded:
        end = self.tokenizer.eos_token_id
        if end is None:
            raise MaskError(f"{row.where or row.id}: the tokenizer has no end-of-text token to end a text with", Defect.turn_end_missing)
        ids = (*self._opening, *tokens, end)
        return Encoded(ids, (False, *[True] * (len(ids) - 1)))

    @functools.cached_property
    def _opening(self) -> tuple[int, ...]:
        """The begin-of-text token, if the tokenizer has one and adds it."""
        bos = self.tokenizer.bos_token_id
        return (bos,) if bos is not None and list(self.tokenizer("a").input_ids)[:1] == [bos] else ()

    def _names(self, ids: frozenset[int]) -> str:
        return ", ".join(repr(self.tokenizer.decode([i])) for i in sorted(ids))

    # ---------------------------------------------------------------------------- checks that need more than two texts
    def _check_tools(self, before: str, row: Row, history: Sequence[Message], where: str) -> None:
        """A template that ignores tools trains calls to functions that the model was never shown."""
        key = hash(repr(row.tools))
        if not row.tools or key in self._shown:
            return
        if self.render(history, generation_prompt=True, where=where) == before:
            raise MaskError(
                f"{where}: the chat template ignores the tools of this row: the prompt is the same without them; "
                "use a model.chat_template that shows tools, or take the tools column out",
                Defect.tools_ignored,
            )
        self._shown.add(key)

    def _check_frame(self, answer: str, row: Row, turn: int, where: str) -> None:
        """Nothing that others say may turn up in what a template puts around an answer.

        Most rows have the same frame, so the two renderings with marked texts are seldom needed.
        """
        message = row.messages[turn]
        frame = answer
        for text in filter(None, (message.content.strip(), (message.reasoning or "").strip())):
            frame = frame.replace(text, _STAND_IN, 1)
        if hash(frame) in self._frames:
            return
        history = [m if m.role == "assistant" else replace(m, content=m.content + _MARK) for m in row.messages[:turn]]
        try:
            before = self.render(history, tools=row.tools, generation_prompt=True)
            after = self.render([*history, message], tools=row.tools, generation_prompt=False)
        except MaskError:  # a template that reads what tools return, and cannot read the mark
            return
        if _MARK in after[len(before) :]:
            raise MaskError(
                f"{where}: text of a user, system or tool turn is trained, because the chat template repeats it in the assistant's turn; "
                "use another model.chat_template",
                Defect.others_trained,
            )
        self._frames.add(hash(frame))

    def sends(self, turns: Sequence[tuple[Row, int, Sequence[int]]]) -> list[bool]:
        """For each (row, number of an assistant turn, tokens before it): whether inference sends exactly those tokens.

        ``encode`` tokenised these prompts, each by itself; what came out is remembered by its hash.
        """
        texts = [self.render(row.messages[:n], tools=row.tools, generation_prompt=True, where=row.where or row.id) for row, n, _ in turns]
        unknown = [text for text in texts if hash(text) not in self._prompts]
        own = {text: hash(tuple(tokens)) for text, tokens in zip(unknown, self._tokens(unknown), strict=True)}
        sent = [own[text] if text in own else self._prompts[hash(text)] for text in texts]
        return [hash(tuple(ids)) == expected for (_, _, ids), expected in zip(turns, sent, strict=True)]

    # ----------------------------------------------------------------------------------------------------- whole splits
    def encode_all(self, rows: Sequence[Row], data: DataConfig, split: str) -> tuple[list[Row], list[Encoded], EncodingReport]:
        """Encodes a split under the over-length policy. Raises ``DataError`` if the policy refuses or nothing is left."""
        report = EncodingReport(rows=len(rows))
        kept: list[Row] = []
        encoded: list[Encoded] = []
        too_long: list[tuple[Row, int]] = []
        parts = (rows[start : start + TOGETHER] for start in range(0, len(rows), TOGETHER))
        for row, example in ((r, e) for part in parts for r, e in zip(part, self.encode_batch(part, data.train_on), strict=True)):
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
        """Cuts characters off the start of the last user turn until the row fits. None: no cut is enough, or there is no prompt."""
        if row.is_text:
            return None
        index = max(i for i, m in enumerate(row.messages) if m.role == "user")
        text = row.messages[index].content
        low, high = 1, len(text)  # the smallest cut that fits, by bisection
        best: tuple[Row, Encoded] | None = None
        while low <= high:
            cut = (low + high) // 2
            messages = list(row.messages)
            messages[index] = replace(messages[index], content=text[cut:])
            candidate = replace(row, messages=tuple(messages))
            example = self.encode(candidate, data.train_on)
            if len(example.ids) <= data.max_length:
                best, high = (candidate, example), cut - 1
            else:
                low = cut + 1
        return best


def trained_turns(row: Row, train_on: TrainOn) -> list[int]:
    """Positions of the assistant turns that are trained."""
    turns = [i for i, m in enumerate(row.messages) if m.role == "assistant" and m.train]
    return turns[-1:] if train_on is TrainOn.last else turns


def _texts(message: Message) -> list[str]:
    """Everything a turn says, piece by piece."""

    def leaves(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict | list | tuple):
            for item in value.values() if isinstance(value, dict) else value:
                yield from leaves(item)

    return [message.content.strip(), (message.reasoning or "").strip(), *leaves([call["function"] for call in message.tool_calls])]


def _history_error(done: str, before: str, history: Sequence[Message], turn: int, where: str) -> MaskError:
    """Why the prompt of a turn does not begin with the turns trained before it; ``done`` and ``before`` are the texts of both."""
    if before.startswith(done):
        return MaskError(
            f"{where}: turn {turn + 1} would be trained after other tokens than inference sends, because the chat template "
            "lets neighbouring turns melt into one token; use another model.chat_template, or data.train_on=last",
            Defect.turns_melt,
        )
    thoughts = [m.reasoning.strip() for m in history if m.reasoning]
    if any(text in done and text not in before for text in thoughts) or done.count("</think>") > before.count("</think>"):
        return MaskError(
            f"{where}: the chat template drops the thinking of earlier turns when a later one is added, so only the last turn can be "
            "trained with the prompt it has at inference; set data.train_on=last",
            Defect.thinking_dropped,
        )
    return MaskError(
        f"{where}: the chat template rewrites earlier turns when a later one is added, so they are never seen at "
        "inference as they would be trained; set data.train_on=last",
        Defect.history_rewritten,
    )


def _check_prompt(before: str, after: str, where: str) -> None:
    if not after.startswith(before):
        raise MaskError(
            f"{where}: the chat template renders an answer differently from the prompt that asks for it "
            f"(training: {after[max(0, len(before) - 20) : len(before) + 20]!r}, inference: {before[-20:]!r}); "
            "use another model.chat_template",
            Defect.prompt_differs,
        )


def _check_answer(answer: str, message: Message, where: str) -> None:
    """The rendered turn holds everything the row's turn holds."""
    if message.content.strip() not in answer:
        raise MaskError(f"{where}: the chat template changes the assistant's text; use another model.chat_template", Defect.answer_changed)
    if message.reasoning and message.reasoning.strip() not in answer:
        raise MaskError(
            f"{where}: the chat template leaves out the thinking of a turn that is trained; use a model.chat_template that shows "
            "reasoning_content, or take it out of the data",
            Defect.thinking_ignored,
        )
    for call in message.tool_calls:
        function = call["function"]
        if any(name not in answer for name in (function["name"], *function["arguments"])):
            raise MaskError(
                f"{where}: the chat template leaves out the call to {function['name']} of a turn that is trained; "
                "use a model.chat_template that shows tool calls, or mark the turn train: false",
                Defect.calls_ignored,
            )
