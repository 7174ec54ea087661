"""Render each trained turn of a conversation after the prompt that inference sends for it."""

from hydratune.data.encoding.answer_checks import AnswerChecks
from hydratune.data.encoding.errors import Defect, MaskError, prompt_error
from hydratune.data.encoding.rendered import RenderedAnswer, TrainedTurn, iterate_texts
from hydratune.data.encoding.template import ChatTemplate
from hydratune.data.rows import Message, Row
from hydratune.settings.data import TrainOn


class AnswerRenderer:
    """Renders the trained turns of rows, and checks that the template writes what the rows say."""

    def __init__(self, template: ChatTemplate) -> None:
        self.template = template
        self.checks = AnswerChecks(template)

    def render_answers(self, row: Row, train_on: TrainOn) -> list[RenderedAnswer]:
        """Return every trained turn of a conversation as the template writes it.

        Raises ``MaskError`` if nothing is trained or the template does not write what the row says.
        """
        numbers = row.trained_turns if train_on is TrainOn.all else row.trained_turns[-1:]
        moved = self.template.move_thoughts_of_row(row)
        answers = [self._render_answer(row, moved, number) for number in numbers]
        if not answers:
            raise MaskError(
                f"{row.position}: no token of this row is trained: all its turns are context",
                Defect.nothing_trained,
            )
        return answers

    def _render_answer(self, row: Row, moved: Row, number: int) -> RenderedAnswer:
        """Render one turn of ``row``; ``moved`` has its thoughts where the template wants them."""
        message = self.template.write_dropped_reasoning(moved.messages[number])
        turn = TrainedTurn(row, number, moved.messages[:number], message)
        self._refuse_empty(turn)
        prompt = self.template.render_prompt(turn.history, row)
        whole = self.template.render(
            [*turn.history, message], tools=row.tools, generation_prompt=False, where=turn.where
        )
        text = self._answer_text(prompt, whole, turn)
        answer = RenderedAnswer(turn, prompt, text, self._pieces(message))
        self.checks.check(answer)
        return answer

    def _pieces(self, message: Message) -> tuple[str, ...]:
        """Return everything a turn says, the content first, without a tag that the prompt has."""
        return (
            self.template.drop_opening(message.content).strip(),
            (message.reasoning or "").strip(),
            *iterate_texts([call["function"] for call in message.tool_calls]),
        )

    def _refuse_empty(self, turn: TrainedTurn) -> None:
        """Raise ``MaskError`` for a turn that neither says nor calls anything."""
        content = turn.original.content
        split = self.template.split_thoughts(content) if content else None
        answer = content if split is None else split[1]
        if answer.strip() or turn.original.tool_calls:
            return
        what = (
            "is empty, so only its end would be trained"
            if split is None
            else "says nothing after its thoughts"
        )
        raise MaskError(
            f"{turn.where}: turn {turn.number + 1}, the assistant's, {what}; take it out of the"
            ' data, or mark it as context with "train": false',
            Defect.answer_empty,
        )

    def _answer_text(self, prompt: str, whole: str, turn: TrainedTurn) -> str:
        """Return what an assistant turn adds to the prompt that asks for it.

        A template may open the thoughts in its generation prompt and leave them out of the turns it
        writes, as those of DeepSeek's distilled models do. The row's own text, from where the
        prompt ends, is then what the model should write. Raises ``MaskError``.
        """
        if whole.startswith(prompt):
            return whole[len(prompt) :]
        message, opening = turn.message, self.template.thought_opening
        split = self.template.split_thoughts(message.content, opened=True) if opening else None
        start = prompt.removesuffix(opening)
        if split is not None and whole.startswith(start):
            answer, rest = split[1].strip(), whole[len(start) :]
            if (answer or message.tool_calls) and rest.lstrip().startswith(answer):
                after_answer = rest[rest.index(answer) + len(answer) :]
                return self.template.drop_opening(message.content) + after_answer
        raise prompt_error(prompt, whole, turn.where)
