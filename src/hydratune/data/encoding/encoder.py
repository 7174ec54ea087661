"""Encode rows: tokens with a loss mask. ``data/mask_check.py`` checks the masks before training.

The tokenizer's own chat template is the only source of truth. A conversation is rendered up to each
trained assistant turn, once without it (with the generation prompt, exactly what inference sends)
and once with it; what the second text adds to the first is the answer. The prompt is tokenised as
at inference, and the answer as the tokenizer writes it after the prompt. Every prompt must begin
with the tokens of the prompt and the answer before it, so each turn is trained after the tokens
that inference sends. Of an answer, everything up to and including the turn-end token is trained,
and nothing after it.

Where to read on: ``answer_rendering.py`` (prompt and answer as texts), ``answer_checks.py`` (is it
what the row says), ``answer_tokens.py`` (the boundary in tokens), ``documents.py`` (role ``text``).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from hydratune.data.encoding.answer_rendering import AnswerRenderer
from hydratune.data.encoding.answer_tokens import AnswerTokenizer
from hydratune.data.encoding.documents import encode_document
from hydratune.data.encoding.encoded import Encoded
from hydratune.data.encoding.errors import history_error
from hydratune.data.encoding.rendered import RenderedAnswer
from hydratune.data.encoding.template import ChatTemplate
from hydratune.data.encoding.tokenizing import TextTokenizer
from hydratune.data.rows import Message, Row, Tool
from hydratune.settings.data import TrainOn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ChatEncoder:
    """Encodes rows for one tokenizer and one set of turn-end tokens."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", turn_end_ids: frozenset[int]) -> None:
        self.tokenizer = tokenizer
        self.turn_end_ids = turn_end_ids
        self.template = ChatTemplate(tokenizer)
        self._text_tokenizer = TextTokenizer(tokenizer)
        self._answer_renderer = AnswerRenderer(self.template)
        self._answer_tokenizer = AnswerTokenizer(self._text_tokenizer, turn_end_ids)
        # hash of a prompt's text -> hash of its tokens, for ``prompts_match_inference``
        self._prompt_hashes: dict[int, int] = {}
        self.tokenize = self._text_tokenizer.tokenize
        self.decode = self._text_tokenizer.decode
        self.token_offsets = self._text_tokenizer.token_offsets
        self.render = self.template.render
        self.extract_answer = self.template.extract_answer

    @property
    def text_arguments(self) -> bool | None:
        """Whether the template takes arguments of calls as text; None: no call was seen so far."""
        return self.template.text_arguments

    # ------------------------------------------------------------------------------------- encoding
    def encode(self, row: Row, train_on: TrainOn = TrainOn.all) -> Encoded:
        """Return one row as tokens. Raises ``MaskError`` if its loss mask would be wrong."""
        return next(self.encode_batch([row], train_on))

    def encode_batch(self, rows: Sequence[Row], train_on: TrainOn) -> Iterator[Encoded]:
        """Render all rows, tokenise them in one call, and yield them in order.

        Raises ``MaskError``.
        """
        renderer, tokenizer = self._answer_renderer, self._answer_tokenizer
        answers = [[] if row.is_text else renderer.render_answers(row, train_on) for row in rows]
        texts = [row.text for row in rows if row.is_text]
        texts += [text for own in answers for answer in own for text in tokenizer.texts_of(answer)]
        distinct = list(dict.fromkeys(texts))
        tokens = dict(zip(distinct, self._text_tokenizer.tokenize_batch(distinct), strict=True))
        for row, own_answers in zip(rows, answers, strict=True):
            if row.is_text:
                yield encode_document(self._text_tokenizer, row, tokens[row.text])
            else:
                yield self._encode_conversation(own_answers, tokens)

    def _encode_conversation(
        self, answers: Sequence[RenderedAnswer], tokens: Mapping[str, list[int]]
    ) -> Encoded:
        """Return the trained turns of one row, each after its prompt, as one sequence of tokens."""
        ids: list[int] = []
        loss_mask: list[bool] = []
        text = ""  # of ids
        for answer in answers:
            turn, prompt_ids = answer.turn, tokens[answer.prompt]
            if prompt_ids[: len(ids)] != ids:
                history = turn.row.messages[: turn.number]
                raise history_error(text, answer.prompt, history, turn.number, turn.where)
            self._prompt_hashes[hash(answer.prompt)] = hash(tuple(prompt_ids))
            answer_ids = self._answer_tokenizer.tokens_after_prompt(answer, tokens)
            length = self._answer_tokenizer.count_trained_tokens(answer, answer_ids)
            loss_mask += [False] * (len(prompt_ids) - len(ids)) + [True] * length
            ids = prompt_ids + answer_ids[:length]
            if answer is not answers[-1]:
                turn_end = answer_ids[length - 1]
                text = answer.prompt + self._answer_tokenizer.trained_text(answer, turn_end)
        return Encoded(tuple(ids), tuple(loss_mask))

    # ------------------------------------------------------------------------------------ inference
    def prompt_tokens(
        self, messages: Sequence[Message], tools: Sequence[Tool] = (), where: str = ""
    ) -> list[int]:
        """Return what inference sends: the conversation, its tools and the generation prompt."""
        return self.tokenize(
            self.render(messages, tools=tools, generation_prompt=True, where=where)
        )

    def reference_answer(self, row: Row) -> str:
        """Return what a generated answer is compared with: the last turn's content.

        Of a turn that calls tools, it is the text that the template writes.
        """
        if not row.messages[-1].tool_calls:
            return row.answer if row.is_text else self.template.drop_thoughts(row.answer)
        targets = self.encode(row, TrainOn.last).target_ids
        written = self.decode([token for token in targets if token not in self.turn_end_ids])
        return self.extract_answer(row, written)

    def answer_tokens(self, row: Row, text: str) -> list[int]:
        """Return the tokens of ``text`` as an answer to the row's request, without the turn end."""
        turns = (*row.prompt, replace(row.messages[-1], content=text))
        return self.encode(replace(row, messages=turns), TrainOn.last).target_ids[:-1]

    def prompts_match_inference(
        self, prompts: Sequence[tuple[Row, int, Sequence[int]]]
    ) -> list[bool]:
        """Return for each (row, number of a turn, tokens before it) if inference sends the tokens.

        Prompts that were encoded are remembered by their hash.
        """
        texts = [self.template.render_prompt(row.messages[:turn], row) for row, turn, _ in prompts]
        unknown = [text for text in texts if hash(text) not in self._prompt_hashes]
        tokens = self._text_tokenizer.tokenize_batch(unknown)
        new_hashes = {text: hash(tuple(ids)) for text, ids in zip(unknown, tokens, strict=True)}
        expected = [
            new_hashes[text] if text in new_hashes else self._prompt_hashes[hash(text)]
            for text in texts
        ]
        return [
            hash(tuple(ids)) == own_hash
            for (_, _, ids), own_hash in zip(prompts, expected, strict=True)
        ]
