"""The last check before training: the loss mask of every row against what inference would send."""

from collections.abc import Sequence
from dataclasses import dataclass

from hydratune.data.encoding.encoded import Encoded
from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.data.encoding.errors import Defect, MaskError, merged_tokens_error
from hydratune.data.encoding.tokenizing import ROWS_PER_CALL
from hydratune.data.rows import Message, Row

_SHOWN = 80  # characters of a wrong span


def check_masks(encoder: ChatEncoder, rows: Sequence[Row], encoded: Sequence[Encoded]) -> None:
    """Raise ``MaskError`` for the first row whose loss mask is wrong.

    Every row trains some tokens. The tokens before a trained span are exactly those that inference
    sends; the span is one assistant turn and ends with the turn-end token; no other token is
    trained; a row does not begin with two begin-of-text tokens.
    """
    for start in range(0, len(rows), ROWS_PER_CALL):
        part = slice(start, start + ROWS_PER_CALL)
        turns: list[_TrainedTurn] = []
        for row, example in zip(rows[part], encoded[part], strict=True):
            turns += _check_row(encoder, row, example)
        _check_turns(encoder, turns)


@dataclass(frozen=True)
class _TrainedTurn:
    """A trained span that should be one assistant turn."""

    row: Row
    example: Encoded
    start: int
    end: int
    number: int  # of the turn among the row's messages


def trained_spans(loss_mask: Sequence[bool]) -> list[tuple[int, int]]:
    """Return (start, end) of every run of trained tokens."""
    spans, end = [], 0
    while True in loss_mask[end:]:
        start = loss_mask.index(True, end)
        end = loss_mask.index(False, start) if False in loss_mask[start:] else len(loss_mask)
        spans.append((start, end))
    return spans


def _check_row(encoder: ChatEncoder, row: Row, example: Encoded) -> list[_TrainedTurn]:
    """Check what can be checked without tokenising the row's prompts.

    Returns its trained turns, none for a document.
    """
    where = row.where or row.id
    if not example.supervised:
        raise MaskError(f"{where}: no token of this row is trained", Defect.nothing_trained)
    bos = getattr(encoder.tokenizer, "bos_token_id", None)
    if bos is not None and example.ids[:2] == (bos, bos):
        message = "the row begins with two begin-of-text tokens; use another model.chat_template"
        raise MaskError(f"{where}: {message}", Defect.double_bos)
    spans = trained_spans(example.loss_mask)
    if row.is_text:
        _check_document(encoder, row, example, where)
        return []
    turns = _assistant_turns(row)[-len(spans) :]
    if len(spans) != len(turns):
        raise _wrong_start(encoder, row, example)
    return [
        _TrainedTurn(row, example, start, end, turn)
        for (start, end), turn in zip(spans, turns, strict=True)
    ]


def _assistant_turns(row: Row) -> list[int]:
    """Return the positions of the assistant turns that are trained."""
    return [i for i, m in enumerate(row.messages) if m.role == "assistant" and m.train]


def _check_document(encoder: ChatEncoder, row: Row, example: Encoded, where: str) -> None:
    """Check that a document is trained from its second token, or from the end of its context, to
    its end-of-text token.
    """
    start, end = trained_spans(example.loss_mask)[0]
    has_context = len(row.answer) < len(row.text)
    text = encoder.decode(example.ids[start:end])
    is_whole = row.answer.strip() in text if has_context else start == 1
    if not is_whole or not all(example.loss_mask[start:-1]):
        raise MaskError(f"{where}: part of the text is not trained", Defect.answer_untrained)
    may_end_here = row.messages[-1].continues or example.ids[-1] in encoder.turn_end_ids
    if not example.loss_mask[-1] or not may_end_here:
        raise _end_untrained(where)


def _check_turns(encoder: ChatEncoder, turns: Sequence[_TrainedTurn]) -> None:
    """Check the tokens before and in the trained turns of several rows."""
    matches = encoder.prompts_match_inference(
        [(turn.row, turn.number, turn.example.ids[: turn.start]) for turn in turns]
    )
    for turn, prompt_matches in zip(turns, matches, strict=True):
        where = turn.row.where or turn.row.id
        if not prompt_matches:
            raise _wrong_start(encoder, turn.row, turn.example)
        trained = turn.example.ids[turn.start : turn.end]
        has_end = trained[-1] in encoder.turn_end_ids
        other_ends = sum(token in encoder.turn_end_ids for token in trained) - has_end
        if other_ends and other_ends > _quoted_ends(encoder, turn.row.messages[turn.number]):
            raise _others_trained(encoder, trained, where)
        if not has_end:
            raise _end_untrained(where)


def _quoted_ends(encoder: ChatEncoder, message: Message) -> int:
    """Return the number of turn-end tokens in the turn's own texts."""
    texts = [message.content, message.reasoning or "", str(message.tool_calls)]
    return sum(token in encoder.turn_end_ids for text in texts for token in encoder.tokenize(text))


def _wrong_start(encoder: ChatEncoder, row: Row, example: Encoded) -> MaskError:
    """Return why a trained span does not begin where inference begins to generate."""
    where = row.where or row.id
    prompts = {
        turn: tuple(encoder.prompt_tokens(row.messages[:turn], row.tools, where))
        for turn in _assistant_turns(row)
    }
    turn_of_text = {encoder.decode(prompt): turn for turn, prompt in prompts.items()}
    for start, end in trained_spans(example.loss_mask):
        context = example.ids[:start]
        turn = turn_of_text.get(encoder.decode(context))
        if turn is not None and prompts[turn] != context:
            return merged_tokens_error(where, turn)
        if turn is not None:
            if any(start < len(prompt) < end for prompt in prompts.values()):
                return _others_trained(encoder, example.ids[start:end], where)
            continue
        beginnings = [len(p) for p in prompts.values() if context[: len(p)] == p]
        matched = max(beginnings, default=0)
        if matched and not encoder.turn_end_ids.intersection(context[matched:]):
            message = "the beginning or middle of an answer is not trained"
            return MaskError(f"{where}: {message}", Defect.answer_untrained)
        if matched or any(prompt[:start] == context for prompt in prompts.values()):
            return _others_trained(encoder, example.ids[start:end], where)
    message = "the training prompt is not the inference prompt; use another model.chat_template"
    return MaskError(f"{where}: {message}", Defect.prompt_differs)


def _others_trained(encoder: ChatEncoder, ids: Sequence[int], where: str) -> MaskError:
    text = encoder.decode(ids)[:_SHOWN]
    return MaskError(
        f"{where}: a token of a user, system, tool or context turn is trained, in {text!r}; use"
        " another model.chat_template",
        Defect.others_trained,
    )


def _end_untrained(where: str) -> MaskError:
    return MaskError(
        f"{where}: the turn-end token is not trained; the model would never learn to stop",
        Defect.turn_end_untrained,
    )
