"""The hashes by which leaks are found: of each row's request and last turn, and of the turns inside
its conversation.
"""

from hydratune.data.quality.equality import words
from hydratune.data.quality.fingerprints import (
    RequestForms,
    answer_form_hash,
    hash_text,
    join_turns,
    turn_text,
)
from hydratune.data.quality.leaks import RowKeys
from hydratune.data.quality.variants import folded, key_words, leak_form
from hydratune.data.rows import Row
from hydratune.settings.data import DataConfig, TrainOn

_FEWEST_WORDS = 4  # of a user turn after others


class LeakKeys:
    """Collects the keys of rows: ``own`` and ``turns`` of the last answer, ``inner`` and
    ``inner_turns`` of the answers before it that are trained (see ``leaks.RowContents``).
    """

    def __init__(self, data: DataConfig) -> None:
        self.with_variants = data.quality.similarity < 1  # variants of a request count as near
        self.with_inner = data.train_on is not TrainOn.last
        self.own, self.inner, self.turns, self.inner_turns = (RowKeys() for _ in range(4))

    def see(self, row: Row, number: int, forms: RequestForms, answer: int) -> None:
        """Add the keys of the row at position ``number``; ``answer`` is the hash of its answer."""
        self.own.add(number, hash_text(forms.strict))
        self._add_variants(self.own, number, forms.strict, forms.loose, answer)
        if row.prompt:
            self._see_last_turn(row, number, forms, answer)
        if self.with_inner:
            self._see_inner_turns(row, number, forms)

    def _see_last_turn(self, row: Row, number: int, forms: RequestForms, answer: int) -> None:
        talk = [i for i, message in enumerate(row.prompt) if message.role != "system"]
        start = next((i for i in reversed(talk) if row.prompt[i].role == "user"), 0)
        is_first = start in talk[:1]
        asked = join_turns(forms.turns[start:]) if start else forms.strict
        loose = words(asked) if start else forms.loose
        if is_first or _is_specific(loose):
            self._add_turn(self.turns, number, asked, loose, answer)
        if talk and talk[0] < start:  # everything that was said, under any system turn
            said = join_turns([forms.turns[i] for i in talk])
            self._add_turn(self.turns, number, said, words(said), answer)

    def _see_inner_turns(self, row: Row, number: int, forms: RequestForms) -> None:
        """Add the requests of the trained answers inside the conversation."""
        start = 0
        for position, message in enumerate(row.messages[:-1]):
            if message.role == "user":
                start = position
            if message.role == "assistant" and message.train:
                before = join_turns(forms.turns[:position])
                answer = answer_form_hash(turn_text(message))
                self.inner.add(number, hash_text(before))
                self._add_variants(self.inner, number, before, words(before), answer)
                asked = join_turns(forms.turns[start:position])
                loose = words(asked)
                if _is_specific(loose):
                    self._add_turn(self.inner_turns, number, asked, loose, answer)

    def _add_variants(
        self, keys: RowKeys, number: int, request: str, loose: str, answer: int
    ) -> None:
        """Add the forms that make a request nearly equal to another: one with the answer, and the
        key words of a short request whatever its answer.
        """
        if not self.with_variants:
            return
        keys.add(number, hash_text(f"{leak_form(request, loose)}\0{answer}"))
        if kept := key_words(folded(request)):
            keys.add(number, hash_text(f"{kept.replace(' ', '')}\0"))

    def _add_turn(self, keys: RowKeys, number: int, asked: str, loose: str, answer: int) -> None:
        """Add one turn with its answer."""
        keys.add(number, hash_text(f"{loose}\0{answer}"))
        if self.with_variants:
            keys.add(number, hash_text(f"{leak_form(asked, loose)}\0\0{answer}"))


def _is_specific(asked: str) -> bool:
    """Return whether a turn says more than "yes" or "go on".

    Many conversations have the same answer to those.
    """
    is_long = not asked.isascii() and len(asked) >= 3 * _FEWEST_WORDS
    return is_long or len(asked.split()) >= _FEWEST_WORDS
