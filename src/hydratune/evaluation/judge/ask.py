"""Ask every question once, repeat those whose reply is no answer, and keep the replies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydratune.cache import cache_folder
from hydratune.data.rows import stable_hash
from hydratune.errors import RunError
from hydratune.evaluation.judge.client import Client, OnReply, Reply
from hydratune.evaluation.judge.questions import Opinion, Question, parse_answer
from hydratune.records.files import read_json, write_json

UNPARSED = "unparsed"
CUT = "unparsed: the judge's answer was cut at max_tokens"


@dataclass
class Judgement:
    """The opinion on one question; None if there is none, and ``why`` then says the reason.

    A row without an opinion is counted, and never gets a score.
    """

    opinion: Opinion | None = None
    why: str = ""
    from_cache: bool = False


class ReplyCache:
    """Replies on disk, by judge and question.

    A reply that is no answer is kept as well: at temperature 0 it would come again.
    """

    def __init__(self, identity: str, max_tokens: int) -> None:
        self.identity, self.max_tokens = identity, max_tokens

    def key(self, question: Question) -> str:
        """Return what identifies the reply to a question."""
        return stable_hash([self.identity, self.max_tokens, list(question.turns), question.schema])

    def _file(self, question: Question) -> Path:
        key = self.key(question)
        return cache_folder() / "judge" / key[:2] / f"{key}.json"

    def find(self, question: Question) -> Reply | None:
        """Return the reply of an earlier request; None if there is none, or its file is broken."""
        file = self._file(question)
        try:
            stored = read_json(file) if file.is_file() else None
            return None if stored is None else Reply(stored["text"], cut=bool(stored.get("cut")))
        except (RunError, KeyError, TypeError, AttributeError):
            return None

    def store(self, question: Question, reply: Reply) -> None:
        """Keep a reply."""
        write_json(self._file(question), {"text": reply.text, "cut": reply.cut})


def ask_all(
    client: Client, questions: Sequence[Question], cache: ReplyCache, attempts: int
) -> list[Judgement]:
    """Return a judgement on every question, with at most ``attempts`` requests each.

    Equal questions are asked once.
    """
    positions: dict[str, list[int]] = {}
    for position, question in enumerate(questions):
        positions.setdefault(cache.key(question), []).append(position)
    different = [questions[equal[0]] for equal in positions.values()]
    judgements = _ask_different(client, different, cache, attempts)
    of_position = {
        position: judgement
        for equal, judgement in zip(positions.values(), judgements, strict=True)
        for position in equal
    }
    return [of_position[position] for position in range(len(questions))]


def _ask_different(
    client: Client, questions: Sequence[Question], cache: ReplyCache, attempts: int
) -> list[Judgement]:
    judgements = [Judgement(from_cache=True) for _ in questions]
    unanswered = dict(enumerate(questions))
    for _ in range(attempts):
        replies = {
            number: reply
            for number, question in unanswered.items()
            if (reply := cache.find(question)) is not None
        }
        new = [number for number in unanswered if number not in replies]
        if new:
            on_reply = _keeping(new, unanswered, replies, cache)
            client.ask([unanswered[number] for number in new], on_reply)
        for number, reply in replies.items():
            question, judgement = unanswered.pop(number), judgements[number]
            judgement.from_cache &= number not in new
            judgement.opinion = None if reply.failed else parse_answer(reply.text, question)
            judgement.why = "" if judgement.opinion else _why_no_opinion(reply)
            if not judgement.opinion and not reply.failed:
                unanswered[number] = question.repeated_after(reply.text)
    return judgements


def _why_no_opinion(reply: Reply) -> str:
    return reply.failed or (CUT if reply.cut else UNPARSED)


def _keeping(
    numbers: Sequence[int],
    questions: Mapping[int, Question],
    replies: dict[int, Reply],
    cache: ReplyCache,
) -> OnReply:
    """Return a function that adds each reply to ``replies`` and to the cache.

    The client asks only the questions ``numbers``, and counts them from 0.
    """

    def on_reply(position: int, reply: Reply) -> None:
        number = numbers[position]
        replies[number] = reply
        if not reply.failed:
            cache.store(questions[number], reply)

    return on_reply
