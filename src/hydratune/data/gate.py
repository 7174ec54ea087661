"""The last look before training: every row's mask against what inference would send."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from hydratune.data.encoding.encoded import Encoded
from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.data.encoding.errors import Defect, MaskError, turns_melt_error
from hydratune.data.encoding.tokenizing import ROWS_PER_CALL
from hydratune.data.rows import Message, Row


def gate(encoder: ChatEncoder, rows: Sequence[Row], encoded: Sequence[Encoded]) -> None:
    """Raises ``MaskError`` for the first row whose mask is wrong.

    Every row trains something. What stands before a trained stretch is token for token what
    inference sends; the stretch is one assistant turn and ends with the turn-end token; no other
    token is trained; no doubled begin-of-text token.
    """
    for start in range(0, len(rows), ROWS_PER_CALL):
        part = slice(start, start + ROWS_PER_CALL)
        _check_prompts(
            encoder,
            [
                _check_row(encoder, row, example)
                for row, example in zip(rows[part], encoded[part], strict=True)
            ],
        )


@dataclass(frozen=True)
class _Checked:
    """A row whose trained stretches are whole turns, if their beginnings are right."""

    row: Row
    example: Encoded
    spans: list[tuple[int, int]]
    turns: list[int]  # the assistant turns that they should be


def stretches(trained: Sequence[bool]) -> list[tuple[int, int]]:
    """(start, end) of every run of trained tokens."""
    found, end = [], 0
    with contextlib.suppress(ValueError):  # there are no more
        while True:
            start = trained.index(True, end)
            end = trained.index(False, start) if False in trained[start:] else len(trained)
            found.append((start, end))
    return found


def _check_row(encoder: ChatEncoder, row: Row, example: Encoded) -> _Checked:
    """Everything that can be said without tokenising the row's prompts."""
    where = row.where or row.id
    if not example.supervised:
        raise MaskError(f"{where}: no token of this row is trained", Defect.nothing_trained)
    bos = getattr(encoder.tokenizer, "bos_token_id", None)
    if bos is not None and example.ids[:2] == (bos, bos):
        raise MaskError(
            f"{where}: the row begins with two begin-of-text tokens; use another"
            " model.chat_template",
            Defect.double_bos,
        )
    spans = stretches(example.loss_mask)
    if row.is_text:
        _check_document(encoder, row, example, where)
        return _Checked(row, example, [], [])
    turns = [i for i, m in enumerate(row.messages) if m.role == "assistant" and m.train][
        -len(spans) :
    ]
    if len(spans) != len(turns):
        raise _wrong_start(encoder, row, example)
    return _Checked(row, example, spans, turns)


def _check_document(encoder: ChatEncoder, row: Row, example: Encoded, where: str) -> None:
    """All of its text is trained but its first token, or but its context, and its end where it
    ends.
    """
    start, end = stretches(example.loss_mask)[0]
    has_context = len(row.answer) < len(row.text)
    text = encoder.decode(example.ids[start:end])
    whole = row.answer.strip() in text if has_context else start == 1
    if not whole or not all(example.loss_mask[start:-1]):
        raise MaskError(f"{where}: part of the text is not trained", Defect.answer_untrained)
    if not example.loss_mask[-1] or not (
        row.messages[-1].continues or example.ids[-1] in encoder.turn_end_ids
    ):
        raise _end_untrained(where)


def _check_prompts(encoder: ChatEncoder, part: Sequence[_Checked]) -> None:
    asked = [
        (c, start, end, turn)
        for c in part
        for (start, end), turn in zip(c.spans, c.turns, strict=True)
    ]
    right = encoder.prompts_match_inference(
        [(c.row, turn, c.example.ids[:start]) for c, start, _, turn in asked]
    )
    for (checked, start, end, turn), is_right in zip(asked, right, strict=True):
        where = checked.row.where or checked.row.id
        if not is_right:
            raise _wrong_start(encoder, checked.row, checked.example)
        trained = checked.example.ids[start:end]
        ends_itself = trained[-1] in encoder.turn_end_ids
        other_ends = sum(token in encoder.turn_end_ids for token in trained) - ends_itself
        if other_ends and other_ends > _quoted_ends(encoder, checked.row.messages[turn]):
            raise _others_trained(encoder, trained, where)
        if not ends_itself:
            raise _end_untrained(where)


def _quoted_ends(encoder: ChatEncoder, message: Message) -> int:
    """Turn-end tokens that the turn's own texts hold."""
    quoted = [message.content, message.reasoning or "", str(message.tool_calls)]
    return sum(token in encoder.turn_end_ids for text in quoted for token in encoder.tokenize(text))


def _wrong_start(encoder: ChatEncoder, row: Row, example: Encoded) -> MaskError:
    """Why a trained stretch does not begin where inference begins to generate."""
    where = row.where or row.id
    turns = [i for i, m in enumerate(row.messages) if m.role == "assistant" and m.train]
    prompts = {
        turn: tuple(encoder.prompt_tokens(row.messages[:turn], row.tools, where)) for turn in turns
    }
    texts = {encoder.decode(prompt): turn for turn, prompt in prompts.items()}
    for start, end in stretches(example.loss_mask):
        context = example.ids[:start]
        turn = texts.get(encoder.decode(context))
        if turn is not None and prompts[turn] != context:
            return turns_melt_error(where, turn)
        if turn is not None:
            if any(start < len(prompt) < end for prompt in prompts.values()):
                return _others_trained(encoder, example.ids[start:end], where)
            continue
        agreed = max(
            (len(prompt) for prompt in prompts.values() if context[: len(prompt)] == prompt),
            default=0,
        )
        if agreed and not encoder.turn_end_ids.intersection(context[agreed:]):
            return MaskError(
                f"{where}: the beginning or middle of an answer is not trained",
                Defect.answer_untrained,
            )
        if agreed or any(prompt[:start] == context for prompt in prompts.values()):
            return _others_trained(encoder, example.ids[start:end], where)
    return MaskError(
        f"{where}: the training prompt is not the inference prompt; use another"
        " model.chat_template",
        Defect.prompt_differs,
    )


def _others_trained(encoder: ChatEncoder, ids: Sequence[int], where: str) -> MaskError:
    what = encoder.decode(ids)[:80]
    return MaskError(
        f"{where}: a token of a user, system, tool or context turn is trained, in {what!r}; use"
        " another model.chat_template",
        Defect.others_trained,
    )


def _end_untrained(where: str) -> MaskError:
    return MaskError(
        f"{where}: the turn-end token is not trained; the model would never learn to stop",
        Defect.turn_end_untrained,
    )
