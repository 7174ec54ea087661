"""Check that a rendered answer holds everything that the row's turn holds, and nothing else."""

import itertools
from collections.abc import Iterator
from dataclasses import replace

from hydratune.data import thoughts
from hydratune.data.encoding.errors import TEMPLATES_WITH_TOOLS, Defect, MaskError
from hydratune.data.encoding.rendered import RenderedAnswer, TrainedTurn
from hydratune.data.encoding.template import MARK, PLACEHOLDER, ChatTemplate
from hydratune.data.rows import Message, ToolCall
from hydratune.wording import counted


class AnswerChecks:
    """Checks of answers under one chat template; frames and tools found right are remembered."""

    def __init__(self, template: ChatTemplate) -> None:
        self.template = template
        # hashes of what the template put around an answer, and no other speaker had said
        self._good_frames: set[int] = set()
        self._shown_tools: set[int] = set()  # hashes of tools that the template was seen to show

    def check(self, answer: RenderedAnswer) -> None:
        """Raise ``MaskError`` for an answer that is not what the row says."""
        _check_content(answer)
        self._check_thoughts(answer)
        self._check_calls(answer.turn)
        self._check_tools(answer)
        self._check_frame(answer)

    def _check_thoughts(self, answer: RenderedAnswer) -> None:
        """Raise ``MaskError`` if the template closes the thoughts in a turn's text otherwise.

        A turn with its thoughts in ``reasoning_content`` is not looked at.
        """
        message, where = answer.turn.original, answer.turn.where
        if message.reasoning:
            return
        prompt, tags = self.template.generation_prompt, self.template.thought_tags
        closed = self.template.count_closing_tags(message.content)
        written = self.template.count_closing_tags(prompt + answer.text)
        close = thoughts.find_unopened_tag(message.content, tags) if closed else ""
        opening = close.replace("/", "")
        if close and opening not in prompt + answer.text:
            raise MaskError(
                f"{where}: the answer closes a thought ({close}) that nothing opens, so the model"
                f" would learn to close what is not there; begin the answer with {opening}, or put"
                " its thoughts into reasoning_content",
                Defect.thinking_unopened,
            )
        if closed and written > closed:
            is_in_prompt = self.template.count_closing_tags(prompt) > 0
            raise _doubled_thought_error(closed, is_in_prompt, where)
        if closed and written < closed:
            raise MaskError(
                f"{where}: the chat template leaves out the (empty) thoughts that the answer holds;"
                " take them out of the data",
                Defect.thinking_ignored,
            )

    def _check_calls(self, turn: TrainedTurn) -> None:
        """Raise ``MaskError`` if a text in the arguments of a call is not written to its end.

        The turn is rendered once more with a mark at the end of each text.
        """
        if not turn.message.tool_calls:
            return
        calls, functions = _mark_calls(turn.message.tool_calls)
        marked = replace(turn.message, tool_calls=calls)
        try:
            text = self.template.render(
                [*turn.history, marked], tools=turn.row.tools, generation_prompt=False
            )
        except MaskError:  # a template that computes with a value that is no text
            return
        missing = next((name for mark, name in functions.items() if mark not in text), None)
        if missing is not None:
            raise MaskError(
                f"{turn.where}: the chat template leaves out a call to {missing}, or part of its"
                " arguments, of a turn that is trained; use a template that shows all calls of a"
                f" turn: {TEMPLATES_WITH_TOOLS}; or mark the turn train: false",
                Defect.calls_ignored,
            )

    def _check_tools(self, answer: RenderedAnswer) -> None:
        """Raise ``MaskError`` if the template ignores the tools of a row.

        The model would then be trained on calls to functions that it was never shown.
        """
        turn = answer.turn
        key = hash(repr(turn.row.tools))
        if not turn.row.tools or key in self._shown_tools:
            return
        without = self.template.render(turn.history, generation_prompt=True, where=turn.where)
        if without == answer.prompt:
            raise MaskError(
                f"{turn.where}: the chat template ignores the tools of this row: the prompt is the"
                " same without them; use a template that shows tools:"
                f" {TEMPLATES_WITH_TOOLS}; or take the tools column out",
                Defect.tools_ignored,
            )
        self._shown_tools.add(key)

    def _check_frame(self, answer: RenderedAnswer) -> None:
        """Raise ``MaskError`` if the template writes what others say around an answer.

        Most rows have the same frame around their answers, so the two renderings with marked texts
        are seldom needed.
        """
        frame = answer.text
        for text in filter(None, answer.pieces[:2]):
            frame = frame.replace(text, PLACEHOLDER, 1)
        if hash(frame) in self._good_frames:
            return
        turn, tools = answer.turn, answer.turn.row.tools
        history = list(map(_mark_others, turn.history))
        try:
            prompt = self.template.render(history, tools=tools, generation_prompt=True)
            whole = self.template.render(
                [*history, turn.message], tools=tools, generation_prompt=False
            )
        except MaskError:  # a template that parses what tools return, and cannot parse the mark
            return
        if MARK in whole[len(prompt) :]:
            raise MaskError(
                f"{turn.where}: text of a user, system or tool turn is trained, because the chat"
                " template repeats it in the assistant's turn; use another model.chat_template",
                Defect.others_trained,
            )
        self._good_frames.add(hash(frame))


def _check_content(answer: RenderedAnswer) -> None:
    """Raise ``MaskError`` unless the answer has the content, the reasoning and the calls."""
    message, where = answer.turn.message, answer.turn.where
    if answer.pieces[0] not in answer.text:
        raise MaskError(
            f"{where}: the chat template changes the assistant's text; use another"
            " model.chat_template",
            Defect.answer_changed,
        )
    if message.reasoning and message.reasoning.strip() not in answer.text:
        raise MaskError(
            f"{where}: the chat template leaves out the thinking of a turn that is trained; use a"
            " model.chat_template that shows reasoning_content, or take it out of the data",
            Defect.thinking_ignored,
        )
    for call in message.tool_calls:
        function = call["function"]
        if any(name not in answer.text for name in (function["name"], *function["arguments"])):
            raise MaskError(
                f"{where}: the chat template leaves out the call to {function['name']} of a turn"
                " that is trained; use a template that shows tool calls:"
                f" {TEMPLATES_WITH_TOOLS}; or mark the turn train: false",
                Defect.calls_ignored,
            )


def _doubled_thought_error(closed: int, is_in_prompt: bool, where: str) -> MaskError:
    """Return the error for a thought that the row's text closes and the template closes again."""
    if is_in_prompt:
        return MaskError(
            f"{where}: the generation prompt of the chat template has a thought that is closed"
            " already, so the thoughts of this answer would be a second one; use a"
            " model.chat_template whose generation prompt leaves thinking to the model, or take the"
            " thoughts out of the data",
            Defect.thinking_doubled,
        )
    return MaskError(
        f"{where}: the answer closes a thought ({counted(closed, 'time')}), and the"
        " chat template closes one as well, so the model would learn to close it twice; put the"
        " thoughts of the row into reasoning_content, apart from content",
        Defect.thinking_doubled,
    )


def _mark_others(message: Message) -> Message:
    """Return a turn of another speaker than the assistant with a mark at the end of its text."""
    if message.role == "assistant":
        return message
    return replace(message, content=message.content + MARK)


def _mark_calls(calls: tuple[ToolCall, ...]) -> tuple[tuple[ToolCall, ...], dict[str, str]]:
    """Return calls with a mark at the end of every text, and the function that each mark is in.

    Of several calls, the names are marked as well.
    """
    marks = (f"hydratune{number}end" for number in itertools.count())
    functions: dict[str, str] = {}
    marked_calls = []
    for call in calls:
        function, used = call["function"], list[str]()
        name = function["name"]
        marked_name = _mark_texts(name, marks, used) if len(calls) > 1 else name
        arguments = _mark_texts(function["arguments"], marks, used)
        functions |= dict.fromkeys(used, name)
        marked_function = {**function, "name": marked_name, "arguments": arguments}
        marked_calls.append({**call, "function": marked_function})
    return tuple(marked_calls), functions


def _mark_texts(value: object, marks: Iterator[str], used: list[str]) -> object:
    """Return ``value`` with a mark at the end of every text in it; append the marks to ``used``."""
    if isinstance(value, dict):
        return {key: _mark_texts(item, marks, used) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mark_texts(item, marks, used) for item in value]
    if not isinstance(value, str):
        return value
    used.append(next(marks))
    return value + used[-1]
