"""Asks every question once, tries again where the answer is none, and keeps what was answered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydratune.cache import cache_folder
from hydratune.data.rows import stable_hash
from hydratune.errors import RunError
from hydratune.evaluation.judge.clients import Client, Reply, Tell
from hydratune.evaluation.judge.questions import Opinion, Question, read
from hydratune.records.files import read_json, write_json

UNPARSED = "unparsed"
CUT = "unparsed: the judge's answer was cut at max_tokens"


@dataclass
class Judged:
    """``opinion`` is None where there is none, and ``why`` says so: such a row is counted, and
    never gets a score.
    """

    opinion: Opinion | None = None
    why: str = ""
    from_cache: bool = False


class Kept:
    """Replies on disk, by judge and question.

    A reply that is no answer is kept as well: at temperature 0 it would come again.
    """

    def __init__(self, identity: str, max_tokens: int) -> None:
        self.identity, self.max_tokens = identity, max_tokens

    def key(self, question: Question) -> str:
        return stable_hash([self.identity, self.max_tokens, list(question.turns), question.schema])

    def _file(self, question: Question) -> Path:
        key = self.key(question)
        return cache_folder() / "judge" / key[:2] / f"{key}.json"

    def find(self, question: Question) -> Reply | None:
        file = self._file(question)
        try:
            found = read_json(file) if file.is_file() else None
            return Reply(found["text"], cut=bool(found.get("cut"))) if found is not None else None
        except (RunError, KeyError, TypeError, AttributeError):  # a broken cache is an empty one
            return None

    def keep(self, question: Question, reply: Reply) -> None:
        write_json(self._file(question), {"text": reply.text, "cut": reply.cut})


def ask(client: Client, questions: Sequence[Question], kept: Kept, attempts: int) -> list[Judged]:
    """An opinion for every question, or why there is none; at most ``attempts`` requests each.

    Equal questions are asked once.
    """
    places: dict[str, list[int]] = {}
    for number, question in enumerate(questions):
        places.setdefault(kept.key(question), []).append(number)
    different = _ask(client, [questions[numbers[0]] for numbers in places.values()], kept, attempts)
    results = {
        number: judged
        for numbers, judged in zip(places.values(), different, strict=True)
        for number in numbers
    }
    return [results[number] for number in range(len(questions))]


def _ask(client: Client, questions: Sequence[Question], kept: Kept, attempts: int) -> list[Judged]:
    results = [Judged(from_cache=True) for _ in questions]
    unanswered = dict(enumerate(questions))
    for _ in range(attempts):
        replies = {
            number: reply
            for number, question in unanswered.items()
            if (reply := kept.find(question)) is not None
        }
        new = [number for number in unanswered if number not in replies]
        if new:
            client.ask(
                [unanswered[number] for number in new], _teller(new, unanswered, replies, kept)
            )
        for number, reply in replies.items():
            question, result = unanswered.pop(number), results[number]
            result.from_cache &= number not in new
            result.opinion = None if reply.failed else read(reply.text, question)
            result.why = "" if result.opinion else reply.failed or (CUT if reply.cut else UNPARSED)
            if not result.opinion and not reply.failed:
                unanswered[number] = question.again(reply.text)
    return results


def _teller(
    new: Sequence[int], questions: Mapping[int, Question], replies: dict[int, Reply], kept: Kept
) -> Tell:
    def tell(place: int, reply: Reply) -> None:
        replies[new[place]] = reply
        if not reply.failed:
            kept.keep(questions[new[place]], reply)

    return tell
