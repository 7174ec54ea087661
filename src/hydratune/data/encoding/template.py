"""A tokenizer's chat template: renders conversations, and gives each template thoughts as it wants.

Templates differ in what they do with the thoughts of an answer. Some write ``reasoning_content``;
some open the thought in the generation prompt, and drop it from the turns they write; some know
nothing of thoughts, which then stay in the text.
"""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from jinja2.exceptions import TemplateError, TemplateSyntaxError

from hydratune.data import thoughts
from hydratune.data.encoding import rendering
from hydratune.data.encoding.call_arguments import takes_text_arguments, with_text_arguments
from hydratune.data.encoding.errors import Defect, MaskError
from hydratune.data.encoding.tokenizing import ROWS_PER_CALL
from hydratune.data.rows import Message, Row, Tool
from hydratune.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# stands for a text of a turn: a character that no template strips or escapes
PLACEHOLDER = "\u241f"
MARK = " \u241f7f3a"  # a text that no row holds
_MOST_PROMPTS = 4 * ROWS_PER_CALL  # rendered prompts in memory
_TEMPLATE_ERRORS = (
    TemplateError,
    TypeError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
    RecursionError,
)


class ChatTemplate:
    """Renders conversations with a tokenizer's own chat template.

    ``text_arguments`` says whether the template takes the arguments of tool calls as text; None: no
    call was rendered so far.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.tokenizer = tokenizer
        self.text_arguments: bool | None = None
        self._prompts: dict[tuple[Message, ...], str] = {}  # history -> prompt

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] = (),
        generation_prompt: bool,
        where: str = "",
    ) -> str:
        """Return the template's text of a conversation.

        Raises ``MaskError`` if the template refuses the conversation, and ``InputError`` if it
        cannot be read, or takes too much time or memory.
        """
        turns = [self.move_thoughts(message).turn() for message in messages]
        template = functools.partial(
            rendering.render, self.tokenizer, tools=tools, generation_prompt=generation_prompt
        )
        try:
            if self.text_arguments is None and any(message.tool_calls for message in messages):
                self.text_arguments = takes_text_arguments(template, turns)
            return template(with_text_arguments(turns) if self.text_arguments else turns)
        except (rendering.EndlessTemplateError, TemplateSyntaxError) as error:
            place = f"{where}: " if where else ""
            raise InputError(
                f"{place}the chat template of {self.tokenizer.name_or_path} cannot be used:"
                f" {error}; correct it, or use another: model.chat_template=FILE"
            ) from None
        except _TEMPLATE_ERRORS as error:
            place = f"{where}: " if where else ""
            why = f"{place}the chat template refuses this conversation ({error})"
            if messages and messages[0].role == "system" and "system" in str(error).lower():
                why += (
                    "; it takes no system turn: put that text at the beginning of the first user"
                    " turn, or use another model.chat_template"
                )
            raise MaskError(why, Defect.template_refuses) from error

    def render_prompt(self, history: tuple[Message, ...], row: Row) -> str:
        """Return the prompt after ``history``, which begins ``row``.

        Encoding a row and checking its mask both need it, so it is kept; not where tools or calls
        are rendered, because these have no hash.
        """
        where = row.position
        if row.tools or any(message.tool_calls for message in history):
            return self.render(history, tools=row.tools, generation_prompt=True, where=where)
        if history not in self._prompts:
            if len(self._prompts) >= _MOST_PROMPTS:
                self._prompts.clear()
            self._prompts[history] = self.render(history, generation_prompt=True, where=where)
        return self._prompts[history]

    # ------------------------------------------------------------------------------------- thoughts
    @functools.cached_property
    def generation_prompt(self) -> str:
        """What the template adds to a conversation to ask for an answer.

        Empty if it refuses a conversation of one turn; the whole prompt if it rewrites that turn.
        """
        conversation = [Message("user", PLACEHOLDER)]
        try:
            prompt = self.render(conversation, generation_prompt=True)
            without = self.render(conversation, generation_prompt=False)
        except MaskError:
            return ""
        return prompt[len(without) :] if prompt.startswith(without) else prompt

    @functools.cached_property
    def thought_tags(self) -> thoughts.Tags:
        """The usual tags of thoughts, and the template's own."""
        return thoughts.tags_of(self.generation_prompt)

    @functools.cached_property
    def thought_opening(self) -> str:
        """The opening tag of a thought with which generation prompts end; empty if they do not."""
        return thoughts.opening_at_end(self.generation_prompt, self.thought_tags)

    @functools.cached_property
    def shows_reasoning(self) -> bool:
        """Whether the template writes the ``reasoning_content`` of a last turn."""
        answer = Message("assistant", PLACEHOLDER, reasoning=MARK)
        conversation = [Message("user", PLACEHOLDER), answer]
        try:
            return MARK in self.render(conversation, generation_prompt=False)
        except MaskError:
            return False

    def count_closing_tags(self, text: str) -> int:
        """Count the closing tags of thoughts in ``text``."""
        return thoughts.count_closing_tags(text, self.thought_tags)

    def split_thoughts(self, content: str, *, opened: bool | None = None) -> tuple[str, str] | None:
        """Return (thoughts, answer) of a content, or None if it does not begin with thoughts.

        ``opened``: whether the prompt opens the thought; by default as the generation prompt does.
        """
        opened = bool(self.thought_opening) if opened is None else opened
        return thoughts.split_thoughts(content, opened=opened, tags=self.thought_tags)

    def move_thoughts(self, message: Message) -> Message:
        """Return an assistant turn with the thoughts in its text where the template wants them.

        That is ``reasoning_content`` where the template shows it. Otherwise they stay in the text,
        opened as the generation prompt opens them.
        """
        if message.role != "assistant" or message.reasoning:
            return message
        if not self.count_closing_tags(message.content):
            return message
        split = self.split_thoughts(message.content)
        if split is None:
            return message
        reasoning, answer = split
        # the generation prompt has the empty thought already
        if not reasoning.strip() and self.count_closing_tags(self.generation_prompt):
            return replace(message, content=answer)
        if self.shows_reasoning:
            return replace(message, reasoning=reasoning or None, content=answer)
        opening = self.thought_opening.rstrip()
        if opening and not message.content.lstrip().startswith(opening):
            content = self.thought_opening + message.content.lstrip("\n")
            return replace(message, content=content)
        return message

    def move_thoughts_of_row(self, row: Row) -> Row:
        """Return a row with the thoughts of all its answers where the template wants them."""
        return replace(row, messages=tuple(map(self.move_thoughts, row.messages)))

    def write_dropped_reasoning(self, message: Message) -> Message:
        """Return a turn with its reasoning in its text, if the template would drop it.

        This is for templates whose generation prompt opens a thought.
        """
        opening = self.thought_opening.rstrip()
        close = next((close for open_, close in self.thought_tags if open_ == opening), "")
        if not message.reasoning or not close or self.shows_reasoning:
            return message
        if self.count_closing_tags(message.content):
            return message
        reasoning = message.reasoning.strip()
        content = f"{self.thought_opening}{reasoning}\n{close}\n\n{message.content}"
        return replace(message, reasoning=None, content=content)

    def drop_opening(self, content: str) -> str:
        """Return an answer without the opening of its thoughts, if the prompt has opened them."""
        tag, body = self.thought_opening.rstrip(), content.lstrip()
        return body.removeprefix(tag).lstrip("\n") if tag and body.startswith(tag) else content

    def drop_thoughts(self, text: str) -> str:
        """Return an answer without the thoughts with which it begins."""
        split = self.split_thoughts(text) if self.count_closing_tags(text) else None
        return text if split is None else split[1]

    # ------------------------------------------------------------------------------------- answers
    def preamble(self, row: Row) -> str:
        """Return what the template puts between the generation prompt and the last answer.

        It may be an empty block of thoughts. The model learns to write it, and it is no part of the
        answer.
        """
        where, row = row.position, self.move_thoughts_of_row(row)
        prompt = self.render(row.prompt, tools=row.tools, generation_prompt=True, where=where)
        turn = replace(row.messages[-1], content=PLACEHOLDER, tool_calls=())
        conversation = [*row.prompt, turn]
        whole = self.render(conversation, tools=row.tools, generation_prompt=False, where=where)
        text = whole[len(prompt) :]
        return text[: max(0, text.find(PLACEHOLDER))]

    def extract_answer(self, row: Row, generated: str) -> str:
        """Return the answer in a text that was generated after the row's prompt.

        The preamble and all thoughts are dropped.
        """
        preamble = self.preamble(row)
        if not generated or (preamble and generated.startswith(preamble)):
            return generated.removeprefix(preamble)
        if preamble.split():
            end_of_preamble = preamble.split()[-1]  # such as </think>
            _, separator, answer = generated.partition(end_of_preamble)
            return answer.lstrip() if separator else generated
        return self.drop_thoughts(generated.removeprefix(preamble))
