"""Convert a rendered answer to tokens as the tokenizer writes them after the prompt.

SentencePiece tokenizers write a word at the beginning of a text differently from the same word
after a line break, so the end of the prompt is tokenised together with the answer.
"""

from collections.abc import Mapping, Sequence

from hydratune.data.encoding.errors import Defect, MaskError
from hydratune.data.encoding.rendered import RenderedAnswer
from hydratune.data.encoding.tokenizing import TextTokenizer

_TAIL_CHARACTERS = 200  # of a prompt, in which an added token is looked for


class AnswerTokenizer:
    """Tokenises answers, and finds where the trained tokens of each end."""

    def __init__(self, tokenizer: TextTokenizer, turn_end_ids: frozenset[int]) -> None:
        self.tokenizer = tokenizer
        self.turn_end_ids = turn_end_ids

    def texts_of(self, answer: RenderedAnswer) -> tuple[str, str, str]:
        """Return the texts whose tokens ``tokens_after_prompt`` needs."""
        tail = self._tail(answer.prompt)
        return answer.prompt, tail, tail + answer.text

    def _tail(self, prompt: str) -> str:
        """Return the end of a prompt that decides how the text after it is cut into tokens.

        Added tokens are cut out of a text before anything else is, so only what follows the last
        one matters.
        """
        end = prompt[-_TAIL_CHARACTERS:]
        starts = [match.start() for match in self.tokenizer.added_tokens.finditer(end)]
        return end[starts[-1] :] if starts else prompt

    def tokens_after_prompt(
        self, answer: RenderedAnswer, tokens: Mapping[str, list[int]]
    ) -> list[int]:
        """Return the tokens of an answer as the tokenizer writes it after the prompt.

        ``tokens`` has those of ``texts_of(answer)``. Where the last token of the prompt and the
        first of the answer would be one, the text is cut as inference cuts it, after the prompt.
        What is trained then still decodes to the template's text. Raises ``MaskError``.
        """
        prompt_text, tail_text, tail_and_answer = self.texts_of(answer)
        prompt, tail, whole = tokens[prompt_text], tokens[tail_text], tokens[tail_and_answer]
        # the tail is cut otherwise when it stands alone
        if prompt[len(prompt) - len(tail) :] != tail:
            tail, whole = prompt, self.tokenizer.tokenize(answer.prompt + answer.text)
        if whole[: len(tail)] == tail:
            return whole[len(tail) :]
        text = self.tokenizer.decode(whole)
        for candidate in (self.tokenizer.tokenize(answer.text), self._after_line_break(answer)):
            if candidate and self.tokenizer.decode([*tail, *candidate]) == text:
                return candidate
        raise MaskError(
            f"{answer.turn.where}: the tokenizer joins the end of the generation prompt"
            f" ({answer.prompt[-12:]!r}) and the beginning of the answer ({answer.text[:12]!r})"
            " into one token, which inference cannot do; use a model.chat_template whose"
            " generation prompt ends with a line break or a special token",
            Defect.merged_tokens,
        )

    def _after_line_break(self, answer: RenderedAnswer) -> list[int]:
        """Return the tokens of an answer after a line break; none if the two are not separate."""
        line_break = self.tokenizer.tokenize("\n")
        whole = self.tokenizer.tokenize("\n" + answer.text)
        return whole[len(line_break) :] if whole[: len(line_break)] == line_break else []

    def count_trained_tokens(self, answer: RenderedAnswer, ids: Sequence[int]) -> int:
        """Return how many tokens of an answer are trained.

        These are the tokens up to the first turn-end token after all that the turn says, which may
        quote that token. Raises ``MaskError`` if there is none.
        """
        ends = [number for number, token in enumerate(ids, 1) if token in self.turn_end_ids]
        if not ends:
            names = ", ".join(repr(self._name(token)) for token in sorted(self.turn_end_ids))
            raise MaskError(
                f"{answer.turn.where}: the chat template does not end the assistant's turn with a"
                f" turn-end token ({names}), so the model would never learn to stop; use another"
                " model.chat_template",
                Defect.turn_end_missing,
            )
        pieces = answer.written_pieces
        for end in ends:
            text = self.tokenizer.decode(ids[:end])
            if all(piece in text for piece in pieces):
                return end
        raise MaskError(
            f"{answer.turn.where}: the tokenizer loses part of the assistant's text, so the model"
            " would learn another one; normalise the text, or use another model",
            Defect.tokens_differ,
        )

    def _name(self, token: int) -> str:
        return str(self.tokenizer.tokenizer.decode([token]))

    def trained_text(self, answer: RenderedAnswer, turn_end: int) -> str:
        """Return the trained part of an answer's text, up to the token ``turn_end``."""
        ends = (answer.text.find(piece) + len(piece) for piece in answer.written_pieces)
        end_of_pieces = max(ends, default=0)
        token = self.tokenizer.decode([turn_end])
        at = answer.text.find(token, end_of_pieces)
        return answer.text[: end_of_pieces if at < 0 else at + len(token)]
