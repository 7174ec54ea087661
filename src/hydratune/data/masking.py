"""Rows -> tokens with a mask that says which of them are trained. ``gate.py`` checks the mask
before training.

The tokenizer's own chat template is the only source of truth. A conversation is rendered up to each
trained assistant turn, once without it (with the generation prompt, exactly what inference sends)
and once with it; what the second adds to the first is the answer. The prompt is tokenised as
inference does, and the answer as the tokenizer writes it after the prompt: SentencePiece tokenizers
write a word at the beginning of a text differently from the same word after a line break. Every
prompt must begin with the tokens of the prompt and the answer before it, so each turn is trained
after the tokens that inference sends. Of an answer, everything up to and including the turn-end
token is trained, and nothing after it.

A document (role ``text``) is rendered by no template: begin-of-text, if the tokenizer adds it, then
the text and the end-of-text token. All of it is trained but the first token, which nothing
predicts. A part of a long document may begin with context: text of the part before it, which is
read and not trained.
"""

import functools
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from jinja2.exceptions import TemplateError

from hydratune.data import rendering, thoughts
from hydratune.data.calls import takes_text_arguments, with_text_arguments
from hydratune.data.rows import Message, Row
from hydratune.errors import DataError, InputError
from hydratune.settings.data import TrainOn

TOGETHER = 256  # rows tokenised in one call, which uses every core
_NEAR = (
    200  # characters before an answer in which a token that no neighbour melts into is looked for
)
_STAND_IN = "\u241f"  # for an answer: a character that no template strips or escapes
_MARK = " \u241f7f3a"  # put at the end of what others say, to see whether it turns up in an answer


class Defect(StrEnum):
    """Everything that can be wrong with a mask. Reports group by it."""

    template_refuses = "template_refuses"
    tools_ignored = "tools_ignored"  # the prompt is the same with and without tools
    calls_ignored = "calls_ignored"  # a trained turn without its tool calls
    thinking_ignored = "thinking_ignored"  # a trained turn without its thinking
    thinking_dropped = (  # thinking that is there when trained and gone when a later turn is
        "thinking_dropped"
    )
    thinking_unopened = (  # the row closes a thought that neither it nor the template opens
        "thinking_unopened"
    )
    thinking_doubled = (  # the template closes a thought that the row's text closes as well
        "thinking_doubled"
    )
    history_rewritten = "history_rewritten"  # earlier turns change when a later one is added
    prompt_differs = "prompt_differs"  # the answer does not begin where inference begins it
    answer_changed = "answer_changed"  # the template writes another text than the row's
    answer_empty = "answer_empty"  # a trained turn says nothing and calls nothing
    tokens_differ = "tokens_differ"  # the tokenizer cannot write the answer's text
    turn_end_missing = (  # the rendered answer does not end with a token that stops generation
        "turn_end_missing"
    )
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
    """One row as tokens.

    ``trained[i]`` says whether ``ids[i]`` is a target; the last token is always one, the first
    never.
    """

    ids: tuple[int, ...]
    trained: tuple[bool, ...]

    @property
    def supervised(self) -> int:
        """Number of trained tokens."""
        return self.trained.count(True)


@dataclass(frozen=True)
class _Answer:
    """One trained turn as the template writes it."""

    turn: int  # position in the row
    before: str  # the prompt
    text: str  # what the template adds to the prompt for the answer
    near: str  # the end of ``before``: as much of it as decides how ``text`` is cut into tokens
    said: tuple[str, ...]  # what the row's turn says, piece by piece, the content first

    @property
    def texts(self) -> tuple[str, str, str]:
        """What must be tokenised."""
        return self.before, self.near, self.near + self.text


def adds_begin(tokenizer: Any) -> bool:
    """Whether the tokenizer begins every text with a begin-of-text token, as the model saw it in
    pre-training.
    """
    begin = tokenizer.bos_token_id
    return begin is not None and list(tokenizer("a").input_ids)[:1] == [begin]


class ChatEncoder:
    """Turns conversations into tokens for one tokenizer and one set of turn-end tokens."""

    def __init__(self, tokenizer: Any, turn_end_ids: frozenset[int]) -> None:
        self.tokenizer = tokenizer
        self.turn_end_ids = turn_end_ids
        self._rendered: dict[tuple[Message, ...], str] = {}  # the last prompts
        self._prompts: dict[
            int, int
        ] = {}  # hash of a prompt's text -> hash of its tokens, for the gate
        # hashes of what the template put around an answer, and nobody else had said
        self._frames: set[int] = set()
        self._shown: set[int] = set()  # hashes of tools that the template was seen to show
        self.text_arguments: bool | None = (
            None  # whether the template takes arguments of calls as text; None: not seen yet
        )

    # ------------------------------------------------------------------------------------ rendering
    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        generation_prompt: bool,
        where: str = "",
    ) -> str:
        """The template's text. Raises ``MaskError`` if the template refuses the conversation."""
        turns = [self._apart(message).turn() for message in messages]
        template = functools.partial(
            rendering.render, self.tokenizer, tools=tools, generation_prompt=generation_prompt
        )
        try:
            if self.text_arguments is None and any(message.tool_calls for message in messages):
                self.text_arguments = takes_text_arguments(template, turns)
            return template(with_text_arguments(turns) if self.text_arguments else turns)
        except rendering.EndlessTemplateError as error:
            of = f"the chat template of {self.tokenizer.name_or_path}"
            raise InputError(
                f"{where}: {of} cannot be used: {error}; mend it, or use another:"
                " model.chat_template=FILE"
            ) from None
        except (
            TemplateError,
            TypeError,
            ValueError,
            ArithmeticError,
            LookupError,
            AttributeError,
            RecursionError,
        ) as error:
            why = f"{where}: the chat template refuses this conversation ({error})"
            if messages and messages[0].role == "system" and "system" in str(error).lower():
                why += (
                    "; it takes no system turn: put that text at the beginning of the first user"
                    " turn, or use another model.chat_template"
                )
            raise MaskError(why, Defect.template_refuses) from error

    def _asked(self, history: tuple[Message, ...], row: Row, where: str) -> str:
        """The prompt after ``history``, which the encoder and the gate both need: rendered once,
        where it can be told apart by its hash.
        """
        if row.tools or any(message.tool_calls for message in history):
            return self.render(history, tools=row.tools, generation_prompt=True, where=where)
        if history not in self._rendered:
            if len(self._rendered) >= 4 * TOGETHER:
                self._rendered.clear()
            self._rendered[history] = self.render(history, generation_prompt=True, where=where)
        return self._rendered[history]

    def tokens(self, text: str) -> list[int]:
        return self._tokens([text])[0]

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        options = {
            "add_special_tokens": False,
            "return_attention_mask": False,
            "return_token_type_ids": False,
            "verbose": False,
        }
        return list(self.tokenizer(list(texts), **options).input_ids) if texts else []

    def prompt(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), where: str = ""
    ) -> list[int]:
        """What inference sends: the conversation, its tools and the generation prompt."""
        return self.tokens(self.render(messages, tools=tools, generation_prompt=True, where=where))

    def preamble(self, row: Row) -> str:
        """What the template itself puts between the generation prompt and the last answer, such as
        a block of thoughts.

        The model learns to write it, and it is no part of the answer.
        """
        where, row = row.where or row.id, self.with_thoughts_apart(row)
        before = self.render(row.prompt, tools=row.tools, generation_prompt=True, where=where)
        turn = replace(row.messages[-1], content=_STAND_IN, tool_calls=())
        text = self.render(
            [*row.prompt, turn], tools=row.tools, generation_prompt=False, where=where
        )[len(before) :]
        return text[: max(0, text.find(_STAND_IN))]

    def said(self, row: Row, generated: str) -> str:
        """The answer in a text generated after the row's prompt: without the preamble, whatever was
        thought in it.
        """
        preamble = self.preamble(row)
        if (generated.startswith(preamble) and preamble) or not generated:
            return generated.removeprefix(preamble)
        if preamble.split():
            _, found, answer = generated.partition(preamble.split()[-1])  # such as </think>
            return answer.lstrip() if found else generated
        return self._without_thoughts(generated.removeprefix(preamble))

    def reference(self, row: Row) -> str:
        """What a generated answer is compared with: the last turn's content, or as the template
        writes it where it calls tools.
        """
        if not row.messages[-1].tool_calls:
            return row.answer if row.is_text else self._without_thoughts(row.answer)
        example = self.encode(row, TrainOn.last)
        kept = [
            t
            for t, is_target in zip(example.ids, example.trained, strict=True)
            if is_target and t not in self.turn_end_ids
        ]
        return self.said(row, self.decode(kept))

    def answer(self, row: Row, text: str) -> list[int]:
        """The tokens of ``text`` as the answer to the row's request, without the turn end."""
        turns = (*row.prompt, replace(row.messages[-1], content=text))
        example = self.encode(replace(row, messages=turns), TrainOn.last)
        return list(example.ids[example.trained.index(True) : -1])

    def _without_thoughts(self, text: str) -> str:
        found = (
            thoughts.parted(text, opened=bool(self._opened), tags=self._tags)
            if thoughts.closings(text, self._tags)
            else None
        )
        return text if found is None else found[1]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, special ones as they are written."""
        return str(
            self.tokenizer.decode(
                list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )

    # ------------------------------------------------------------------------------------- encoding
    def encode(self, row: Row, train_on: TrainOn = TrainOn.all) -> Encoded:
        """Raises ``MaskError`` where the template makes an honest mask impossible."""
        return next(self.encode_batch([row], train_on))

    def encode_batch(self, rows: Sequence[Row], train_on: TrainOn) -> Iterator[Encoded]:
        """Renders all rows, tokenises them in one call, and yields them in order."""
        answers = [[] if row.is_text else self._answers(row, train_on) for row in rows]
        texts = [row.text for row in rows if row.is_text] + [
            text for turns in answers for turn in turns for text in turn.texts
        ]
        distinct = list(dict.fromkeys(texts))
        tokens = dict(zip(distinct, self._tokens(distinct), strict=True))
        for row, turns in zip(rows, answers, strict=True):
            yield (
                self._document(row, tokens[row.text])
                if row.is_text
                else self._conversation(row, turns, tokens)
            )

    def _answers(self, row: Row, train_on: TrainOn) -> list["_Answer"]:
        """Every trained turn as the template writes it.

        Raises ``MaskError`` where it is not what the row says.
        """
        where = row.where or row.id
        told = self.with_thoughts_apart(row)
        answers: list[_Answer] = []
        for turn in trained_turns(row, train_on):
            message = self._with_open_thoughts(told.messages[turn])
            self._refuse_empty(row.messages[turn], turn, where)
            history = told.messages[:turn]
            before = self._asked(history, row, where)
            after = self.render(
                [*history, message], tools=row.tools, generation_prompt=False, where=where
            )
            text = self._added_by(before, after, message, where)
            answer = _Answer(turn, before, text, self._near(before), tuple(self._said(message)))
            _check_answer(answer.text, answer.said[0], message, where)
            _check_thoughts(self._asks, answer.text, row.messages[turn], where, self._tags)
            self._check_calls(history, message, row, where)
            self._check_tools(before, row, history, where)
            self._check_frame(answer, history, message, row, where)
            answers.append(answer)
        if not answers:
            raise MaskError(
                f"{where}: no token of this row is trained: all its turns are context",
                Defect.nothing_trained,
            )
        return answers

    def _refuse_empty(self, message: Message, turn: int, where: str) -> None:
        said = (
            thoughts.parted(message.content, opened=bool(self._opened), tags=self._tags)
            if message.content
            else None
        )
        if (message.content.strip() if said is None else said[1].strip()) or message.tool_calls:
            return
        what = (
            "is empty, so only its end would be trained"
            if said is None
            else "says nothing after its thoughts"
        )
        raise MaskError(
            f"{where}: turn {turn + 1}, the assistant's, {what}; take it out of the data, or mark"
            ' it as context with "train": false',
            Defect.answer_empty,
        )

    def _with_open_thoughts(self, message: Message) -> Message:
        """A turn whose thoughts the template leaves out, though its generation prompt opens them:
        with the thoughts in its text.
        """
        opening = self._opened.rstrip()
        close = next((close for open_, close in self._tags if open_ == opening), "")
        if (
            not message.reasoning
            or not close
            or self._shows_thoughts
            or thoughts.closings(message.content, self._tags)
        ):
            return message
        told = f"{self._opened}{message.reasoning.strip()}\n{close}\n\n{message.content}"
        return replace(message, reasoning=None, content=told)

    def _added_by(self, before: str, after: str, message: Message, where: str) -> str:
        """What an assistant turn adds to the prompt that asks for it. Raises ``MaskError``.

        A template may open the thoughts in its generation prompt and leave them out of the turns it
        writes, as those of DeepSeek's distilled models do. The row's own text, from where the
        prompt ends, is then what the model should write.
        """
        if after.startswith(before):
            return after[len(before) :]
        found = (
            thoughts.parted(message.content, opened=True, tags=self._tags) if self._opened else None
        )
        start = before.removesuffix(self._opened)
        if (
            found is not None
            and after.startswith(start)
            and (found[1].strip() or message.tool_calls)
        ):
            rest, written = after[len(start) :], found[1].strip()
            if rest.lstrip().startswith(written):
                return self._unopened(message.content) + rest[rest.index(written) + len(written) :]
        raise _prompt_error(before, after, where)

    def _conversation(
        self, row: Row, answers: Sequence["_Answer"], tokens: Mapping[str, list[int]]
    ) -> Encoded:
        where = row.where or row.id
        ids: list[int] = []
        trained: list[bool] = []
        done = ""  # the text of ids
        for answer in answers:
            prompt = tokens[answer.before]
            if prompt[: len(ids)] != ids:
                raise _history_error(
                    done, answer.before, row.messages[: answer.turn], answer.turn, where
                )
            self._prompts[hash(answer.before)] = hash(tuple(prompt))
            written = self._after(prompt, answer, tokens, where)
            said = [part for part in answer.said if part in answer.text]
            length = self._turn_end(written, said, where)
            trained += [False] * (len(prompt) - len(ids)) + [True] * length
            ids = prompt + written[:length]
            if answer is not answers[-1]:
                done = answer.before + self._written(answer.text, said, written[length - 1])
        return Encoded(tuple(ids), tuple(trained))

    def _written(self, text: str, said: Sequence[str], end: int) -> str:
        """What is trained of an answer's ``text``: up to the token ``end`` behind all that is
        ``said``.
        """
        past = max((text.find(part) + len(part) for part in said), default=0)
        token = self.decode([end])
        at = text.find(token, past)
        return text[: past if at < 0 else at + len(token)]

    def _after(
        self, prompt: Sequence[int], answer: "_Answer", tokens: Mapping[str, list[int]], where: str
    ) -> list[int]:
        """The tokens of an answer as the tokenizer writes it after the prompt. Raises
        ``MaskError``.

        Where the last token of the prompt and the first of the answer would be one, it is cut as
        inference cuts it: after the prompt. What is trained then still decodes to the template's
        text.
        """
        near, whole = tokens[answer.near], tokens[answer.near + answer.text]
        # the text near the answer is cut otherwise when it stands alone
        if list(prompt[len(prompt) - len(near) :]) != near:
            near, whole = list(prompt), self.tokens(answer.before + answer.text)
        if whole[: len(near)] == near:
            return whole[len(near) :]
        line = self.tokens("\n")
        after_line = self.tokens("\n" + answer.text)
        candidates = [
            self.tokens(answer.text),
            after_line[len(line) :] if after_line[: len(line)] == line else [],
        ]
        written = self.decode(whole)
        for candidate in filter(None, candidates):
            if self.decode([*near, *candidate]) == written:
                return candidate
        raise MaskError(
            f"{where}: the tokenizer joins the end of the generation prompt"
            f" ({answer.before[-12:]!r}) and the beginning of the answer ({answer.text[:12]!r})"
            " into one token, which inference cannot do; use a model.chat_template whose"
            " generation prompt ends with a line break or a special token",
            Defect.turns_melt,
        )

    def _near(self, before: str) -> str:
        """The end of a prompt from its last added token on: what decides how the text after it is
        cut into tokens.

        Added tokens are cut out of a text before anything else is, so nothing before one has a say
        in what follows it.
        """
        end = before[-_NEAR:]
        starts = [found.start() for found in self._added.finditer(end)]
        return end[starts[-1] :] if starts else before

    @functools.cached_property
    def _added(self) -> re.Pattern[str]:
        """Finds the tokens that are cut out of every text."""
        added = self.tokenizer.added_tokens_decoder.values()
        names = sorted(
            (token.content for token in added if not token.normalized and not token.single_word),
            key=len,
            reverse=True,
        )
        return re.compile("|".join(map(re.escape, filter(None, names))) or r"(?!)")

    def _turn_end(self, answer: Sequence[int], said: Sequence[str], where: str) -> int:
        """How many tokens of ``answer`` are trained: those up to the first turn-end token after
        ``said``, which may quote it.
        """
        ends = [i for i, token in enumerate(answer, 1) if token in self.turn_end_ids]
        if not ends:
            raise MaskError(
                f"{where}: the chat template does not end the assistant's turn with a turn-end"
                f" token ({self._names(self.turn_end_ids)}), so the model would never learn to"
                " stop; use another model.chat_template",
                Defect.turn_end_missing,
            )
        for end in ends:
            written = self.decode(answer[:end])
            if all(part in written for part in said):
                return end
        raise MaskError(
            f"{where}: the tokenizer loses part of the assistant's text, so the model would learn"
            " another one; normalise the text, or use another model",
            Defect.tokens_differ,
        )

    def _document(self, row: Row, tokens: Sequence[int]) -> Encoded:
        """A document, or a part of one: what stands before ``row.answer`` is context, and an end
        follows only the last part.
        """
        end = self.tokenizer.eos_token_id
        if end is None:
            raise MaskError(
                f"{row.where or row.id}: the tokenizer has no end-of-text token to end a text with",
                Defect.turn_end_missing,
            )
        self._refuse_lost_text(row, tokens)
        ids = (*self._opening, *tokens, *(() if row.messages[-1].continues else (end,)))
        first = max(1, len(self._opening) + self._context(row))
        return Encoded(ids, (False,) * first + (True,) * (len(ids) - first))

    def _refuse_lost_text(self, row: Row, tokens: Sequence[int]) -> None:
        """Raises ``MaskError`` for a document that its tokens do not say; white space apart, which
        decoders treat freely.
        """
        text, written = "".join(row.text.split()), "".join(self.decode(tokens).split())
        if text == written:
            return
        at = next(
            (i for i, (a, b) in enumerate(zip(text, written, strict=False)) if a != b),
            min(len(text), len(written)),
        )
        raise MaskError(
            f"{row.where or row.id}: the tokenizer does not write the text as it is"
            f" ({text[at : at + 12]!r} becomes {written[at : at + 12]!r}), so the model would learn"
            " another one; replace such characters in the text, or use another model",
            Defect.tokens_differ,
        )

    def _context(self, row: Row) -> int:
        """How many tokens of a document lie before the text that is trained."""
        context = len(row.text) - len(row.answer)
        return sum(start < context for start, _ in self.offsets(row.text)) if context else 0

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """(start, end) in characters of every token of ``text``; of fast tokenizers."""
        encoded = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        return list(encoded["offset_mapping"])

    # ------------------------------------------------------------------------------------- thoughts
    def with_thoughts_apart(self, row: Row) -> Row:
        """The row with thoughts that its answers hold in their text where the template wants them.

        That is ``reasoning_content`` where the template shows it; otherwise they stay in the text,
        opened as the generation prompt opens them.
        """
        return replace(row, messages=tuple(map(self._apart, row.messages)))

    def _apart(self, message: Message) -> Message:
        if (
            message.role != "assistant"
            or message.reasoning
            or not thoughts.closings(message.content, self._tags)
        ):
            return message
        found = thoughts.parted(message.content, opened=bool(self._opened), tags=self._tags)
        if found is None:
            return message
        # the generation prompt has the empty thought
        if not found[0].strip() and thoughts.closings(self._asks, self._tags):
            return replace(message, content=found[1])
        if self._shows_thoughts:
            return replace(message, reasoning=found[0] or None, content=found[1])
        opening = self._opened.rstrip()
        if opening and not message.content.lstrip().startswith(opening):
            return replace(message, content=self._opened + message.content.lstrip("\n"))
        return message

    @functools.cached_property
    def _asks(self) -> str:
        """What the template adds to a conversation to ask for an answer: the generation prompt
        alone, where it can be told.
        """
        asked = [Message("user", _STAND_IN)]
        try:
            prompt = self.render(asked, generation_prompt=True)
            without = self.render(asked, generation_prompt=False)
        except MaskError:
            return ""
        return prompt[len(without) :] if prompt.startswith(without) else prompt

    @functools.cached_property
    def _tags(self) -> thoughts.Tags:
        return thoughts.tags_of(self._asks)

    @functools.cached_property
    def _opened(self) -> str:
        """The opening of a thought with which generation prompts end, if they do."""
        return thoughts.opened_at_end(self._asks, self._tags)

    @functools.cached_property
    def _shows_thoughts(self) -> bool:
        """Whether the template writes the ``reasoning_content`` of a last turn."""
        talk = [Message("user", _STAND_IN), Message("assistant", _STAND_IN, reasoning=_MARK)]
        try:
            return _MARK in self.render(talk, generation_prompt=False)
        except MaskError:
            return False

    def _unopened(self, content: str) -> str:
        """An answer without the opening of its thoughts, if the prompt has opened them."""
        tag, body = self._opened.rstrip(), content.lstrip()
        return body.removeprefix(tag).lstrip("\n") if tag and body.startswith(tag) else content

    def _said(self, message: Message) -> list[str]:
        """Everything a turn says, piece by piece, the content first; an opening that the prompt has
        is no part of it.
        """
        return [
            self._unopened(message.content).strip(),
            (message.reasoning or "").strip(),
            *_leaves([call["function"] for call in message.tool_calls]),
        ]

    @functools.cached_property
    def _opening(self) -> tuple[int, ...]:
        """What a document begins with before its text."""
        return (self.tokenizer.bos_token_id,) if adds_begin(self.tokenizer) else ()

    def _names(self, ids: frozenset[int]) -> str:
        return ", ".join(repr(self.tokenizer.decode([i])) for i in sorted(ids))

    # --------------------------------------------------------- checks that need more than two texts
    def _check_tools(self, before: str, row: Row, history: Sequence[Message], where: str) -> None:
        """A template that ignores tools trains calls to functions that the model was never shown."""  # noqa: E501
        key = hash(repr(row.tools))
        if not row.tools or key in self._shown:
            return
        if self.render(history, generation_prompt=True, where=where) == before:
            raise MaskError(
                f"{where}: the chat template ignores the tools of this row: the prompt is the same"
                " without them; use a model.chat_template that shows tools, or take the tools"
                " column out",
                Defect.tools_ignored,
            )
        self._shown.add(key)

    def _check_calls(
        self, history: Sequence[Message], message: Message, row: Row, where: str
    ) -> None:
        """Every argument of every call is written, as far as it goes: rendered once more with a
        mark at the end of each.
        """
        if not message.tool_calls:
            return
        marks = (f"hydratune{number}end" for number in itertools.count())
        used: dict[str, str] = {}  # mark -> function
        calls = []
        for call in message.tool_calls:
            function, own = call["function"], dict[str, str]()
            name = (
                _marked(function["name"], marks, own)
                if len(message.tool_calls) > 1
                else function["name"]
            )
            marked = {
                **function,
                "name": name,
                "arguments": _marked(function["arguments"], marks, own),
            }
            used |= dict.fromkeys(own, function["name"])
            calls.append({**call, "function": marked})
        try:
            text = self.render(
                [*history, replace(message, tool_calls=tuple(calls))],
                tools=row.tools,
                generation_prompt=False,
            )
        except MaskError:  # a template that computes with what is no text
            return
        missing = next((function for mark, function in used.items() if mark not in text), None)
        if missing is not None:
            raise MaskError(
                f"{where}: the chat template leaves out a call to {missing}, or part of its"
                " arguments, of a turn that is trained; use a model.chat_template that shows all"
                " tool calls of a turn, or mark the turn train: false",
                Defect.calls_ignored,
            )

    def _check_frame(
        self,
        answer: "_Answer",
        before_it: Sequence[Message],
        message: Message,
        row: Row,
        where: str,
    ) -> None:
        """Nothing that others say may turn up in what a template puts around an answer.

        Most rows have the same frame, so the two renderings with marked texts are seldom needed.
        """
        frame = answer.text
        for text in filter(None, answer.said[:2]):
            frame = frame.replace(text, _STAND_IN, 1)
        if hash(frame) in self._frames:
            return
        history = [
            m if m.role == "assistant" else replace(m, content=m.content + _MARK) for m in before_it
        ]
        try:
            before = self.render(history, tools=row.tools, generation_prompt=True)
            after = self.render([*history, message], tools=row.tools, generation_prompt=False)
        except MaskError:  # a template that reads what tools return, and cannot read the mark
            return
        if _MARK in after[len(before) :]:
            raise MaskError(
                f"{where}: text of a user, system or tool turn is trained, because the chat"
                " template repeats it in the assistant's turn; use another model.chat_template",
                Defect.others_trained,
            )
        self._frames.add(hash(frame))

    def sends(self, turns: Sequence[tuple[Row, int, Sequence[int]]]) -> list[bool]:
        """For each (row, number of an assistant turn, tokens before it): whether inference sends
        exactly those tokens.

        ``encode`` tokenised these prompts, each by itself; what came out is remembered by its hash.
        """
        texts = [self._asked(row.messages[:n], row, row.where or row.id) for row, n, _ in turns]
        unknown = [text for text in texts if hash(text) not in self._prompts]
        own = {
            text: hash(tuple(tokens))
            for text, tokens in zip(unknown, self._tokens(unknown), strict=True)
        }
        sent = [own[text] if text in own else self._prompts[hash(text)] for text in texts]
        return [
            hash(tuple(ids)) == expected for (_, _, ids), expected in zip(turns, sent, strict=True)
        ]


def trained_turns(row: Row, train_on: TrainOn) -> list[int]:
    """Positions of the assistant turns that are trained."""
    turns = [i for i, m in enumerate(row.messages) if m.role == "assistant" and m.train]
    return turns if train_on is TrainOn.all else turns[-1:]


def _marked(value: Any, marks: Iterator[str], used: dict[str, str]) -> Any:
    """``value`` with a mark at the end of every text in it; ``used`` gets the marks."""
    if isinstance(value, dict):
        return {key: _marked(item, marks, used) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_marked(item, marks, used) for item in value]
    if not isinstance(value, str):
        return value
    mark = next(marks)
    used[mark] = value
    return value + mark


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item)


_EACH = (
    "set data.train_on=each (every assistant turn becomes an example of its own, with the history"
    " as inference sends it), or data.train_on=last"
)


def turns_melt_error(where: str, turn: int) -> MaskError:
    """The same text as at inference, cut into other tokens."""
    return MaskError(
        f"{where}: turn {turn + 1} would be trained after other tokens than inference sends,"
        " because the end of a generation prompt and the beginning of an answer before it are one"
        f" token in the history; {_EACH}, or use another model.chat_template",
        Defect.turns_melt,
    )


def _history_error(
    done: str, before: str, history: Sequence[Message], turn: int, where: str
) -> MaskError:
    """Why the prompt of a turn does not begin with the turns trained before it; ``done`` and
    ``before`` are the texts of both.
    """
    if before.startswith(done):
        return turns_melt_error(where, turn)
    said = [m.reasoning.strip() for m in history if m.reasoning]
    if any(text in done and text not in before for text in said) or thoughts.closings(
        done
    ) > thoughts.closings(before):
        return MaskError(
            f"{where}: the chat template drops the thinking of earlier turns when a later one is"
            f" added, so not all turns of one conversation can be trained together; {_EACH}",
            Defect.thinking_dropped,
        )
    return MaskError(
        f"{where}: the chat template rewrites earlier turns when a later one is added, so they are"
        f" never seen at inference as they would be trained; {_EACH}",
        Defect.history_rewritten,
    )


def _prompt_error(before: str, after: str, where: str) -> MaskError:
    """Why a rendered turn does not begin with the prompt that asks for it."""
    at = next(
        (i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b),
        min(len(before), len(after)),
    )
    shown = (
        f"training: {after[max(0, at - 20) : at + 20]!r}, inference:"
        f" {before[max(0, at - 20) : at + 20]!r}"
    )
    what = (
        f"{where}: the chat template renders an answer differently from the prompt that asks for it"
        f" ({shown})"
    )
    if opened := thoughts.opened_at_end(before):
        return MaskError(
            f"{what}: its generation prompt opens a thought ({opened.strip()}), and this answer has"
            " none; begin the answers of the data with their thoughts (thoughts</think>answer), or"
            " give as model.chat_template a Jinja file whose generation prompt opens none",
            Defect.prompt_differs,
        )
    return MaskError(f"{what}; use another model.chat_template", Defect.prompt_differs)


def _check_thoughts(
    asks: str, answer: str, message: Message, where: str, tags: thoughts.Tags
) -> None:
    """An answer that holds its thoughts in its text is closed as often as the row closes it;
    ``asks`` is the generation prompt.
    """
    closed, written = (
        thoughts.closings(message.content, tags),
        thoughts.closings(asks + answer, tags),
    )
    unopened = thoughts.unopened(message.content, tags) if closed and not message.reasoning else ""
    if unopened and unopened.replace("/", "") not in asks + answer:
        raise MaskError(
            f"{where}: the answer closes a thought ({unopened}) that nothing opens, so the model"
            " would learn to close what is not there; begin the answer with"
            f" {unopened.replace('/', '')}, or put its thoughts into reasoning_content",
            Defect.thinking_unopened,
        )
    if not closed or message.reasoning or written == closed:
        return
    if written > closed and thoughts.closings(asks, tags):
        raise MaskError(
            f"{where}: the generation prompt of the chat template has a thought that is closed"
            " already, so the thoughts of this answer would be a second one; use a"
            " model.chat_template whose generation prompt leaves thinking to the model, or take"
            " the thoughts out of the data",
            Defect.thinking_doubled,
        )
    if written > closed:
        raise MaskError(
            f"{where}: the answer closes a thought ({closed} time{'s' if closed > 1 else ''}), and"
            " the chat template closes one as well, so the model would learn to close it twice;"
            " put the thoughts of the row into reasoning_content, apart from content",
            Defect.thinking_doubled,
        )
    raise MaskError(
        f"{where}: the chat template leaves out the (empty) thoughts that the answer holds; take"
        " them out of the data",
        Defect.thinking_ignored,
    )


def _check_answer(answer: str, content: str, message: Message, where: str) -> None:
    """The rendered turn holds everything the row's turn holds; ``content`` without an opening that
    the prompt has.
    """
    if content not in answer:
        raise MaskError(
            f"{where}: the chat template changes the assistant's text; use another"
            " model.chat_template",
            Defect.answer_changed,
        )
    if message.reasoning and message.reasoning.strip() not in answer:
        raise MaskError(
            f"{where}: the chat template leaves out the thinking of a turn that is trained; use a"
            " model.chat_template that shows reasoning_content, or take it out of the data",
            Defect.thinking_ignored,
        )
    for call in message.tool_calls:
        function = call["function"]
        if any(name not in answer for name in (function["name"], *function["arguments"])):
            raise MaskError(
                f"{where}: the chat template leaves out the call to {function['name']} of a turn"
                " that is trained; use a model.chat_template that shows tool calls, or mark the"
                " turn train: false",
                Defect.calls_ignored,
            )
