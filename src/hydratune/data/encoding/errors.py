"""Errors for rows whose loss mask would be wrong, each with the defect that reports group by."""

from collections.abc import Sequence
from enum import StrEnum

from hydratune.data import thoughts
from hydratune.data.rows import Message
from hydratune.errors import DataError

_SHOWN = 20  # characters before and after the place where two texts differ
_EACH_OR_LAST = (
    "set data.train_on=each (every assistant turn becomes an example of its own, with the history"
    " as inference sends it), or data.train_on=last"
)
# advice for rows with tools or calls that the chat template does not write
TEMPLATES_WITH_TOOLS = (
    "model.chat_template=tools (built in, for any model), or a model whose own template has them,"
    " such as model=qwen3_0_6b or model=qwen2_5_0_5b"
)


class Defect(StrEnum):
    """Everything that can be wrong with a loss mask."""

    # the template raises an error for the conversation
    template_refuses = "template_refuses"
    # the prompt is the same with and without tools
    tools_ignored = "tools_ignored"
    # a trained turn is written without its tool calls
    calls_ignored = "calls_ignored"
    # a trained turn is written without its thinking
    thinking_ignored = "thinking_ignored"
    # the thinking of a turn is there when it is trained, and missing when a later turn is
    thinking_dropped = "thinking_dropped"
    # the row closes a thought that neither it nor the template opens
    thinking_unopened = "thinking_unopened"
    # the template closes a thought that the row's text closes as well
    thinking_doubled = "thinking_doubled"
    # earlier turns change when a later one is added
    history_rewritten = "history_rewritten"
    # the answer does not begin where inference begins it
    prompt_differs = "prompt_differs"
    # the template writes another text than the row's
    answer_changed = "answer_changed"
    # a trained turn says nothing and calls nothing
    answer_empty = "answer_empty"
    # the tokenizer cannot write the answer's text
    tokens_differ = "tokens_differ"
    # the rendered answer does not end with a token that stops generation
    turn_end_missing = "turn_end_missing"
    turn_end_untrained = "turn_end_untrained"
    nothing_trained = "nothing_trained"
    # a token of a user, system, tool or context turn is trained
    others_trained = "others_trained"
    # a token inside a trained turn is not trained
    answer_untrained = "answer_untrained"
    # the same text as at inference is cut into other tokens
    merged_tokens = "merged_tokens"
    double_bos = "double_bos"


class MaskError(DataError):
    """A row that cannot be trained correctly; ``defect`` says in one word why."""

    def __init__(self, message: str, defect: Defect = Defect.template_refuses) -> None:
        super().__init__(message)
        self.defect = defect


def first_difference(first: str, second: str) -> int:
    """Return the position of the first character that differs; the shorter length if none does."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


def merged_tokens_error(where: str, turn: int) -> MaskError:
    """Return the error for a prompt that inference cuts into other tokens than the whole row."""
    return MaskError(
        f"{where}: turn {turn + 1} would be trained after other tokens than inference sends,"
        " because the end of a generation prompt and the beginning of an answer before it are one"
        f" token in the history; {_EACH_OR_LAST}, or use another model.chat_template",
        Defect.merged_tokens,
    )


def history_error(
    trained_text: str, prompt: str, history: Sequence[Message], turn: int, where: str
) -> MaskError:
    """Return why the prompt of a turn does not begin with the turns that are trained before it.

    ``trained_text`` is the text of these turns, and ``history`` their messages.
    """
    if prompt.startswith(trained_text):
        return merged_tokens_error(where, turn)
    reasoning = [message.reasoning.strip() for message in history if message.reasoning]
    lost_reasoning = any(text in trained_text and text not in prompt for text in reasoning)
    closed = thoughts.count_closing_tags(trained_text)
    if lost_reasoning or closed > thoughts.count_closing_tags(prompt):
        return MaskError(
            f"{where}: the chat template drops the thinking of earlier turns when a later one is"
            " added, so not all turns of one conversation can be trained together;"
            f" {_EACH_OR_LAST}",
            Defect.thinking_dropped,
        )
    return MaskError(
        f"{where}: the chat template rewrites earlier turns when a later one is added, so they are"
        f" never seen at inference as they would be trained; {_EACH_OR_LAST}",
        Defect.history_rewritten,
    )


def prompt_error(prompt: str, with_answer: str, where: str) -> MaskError:
    """Return why a rendered conversation does not begin with the prompt that asks for its end."""
    at = first_difference(prompt, with_answer)
    shown = slice(max(0, at - _SHOWN), at + _SHOWN)
    what = (
        f"{where}: the chat template renders an answer differently from the prompt that asks for it"
        f" (training: {with_answer[shown]!r}, inference: {prompt[shown]!r})"
    )
    if opening := thoughts.opening_at_end(prompt):
        return MaskError(
            f"{what}: its generation prompt opens a thought ({opening.strip()}), and this answer"
            " has none; begin the answers of the data with their thoughts (thoughts</think>answer),"
            " or give as model.chat_template a Jinja file whose generation prompt opens none",
            Defect.prompt_differs,
        )
    return MaskError(f"{what}; use another model.chat_template", Defect.prompt_differs)
