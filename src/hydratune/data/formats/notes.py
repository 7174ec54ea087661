"""Count what was changed or dropped in the rows of one source, to state it once they are read."""

from collections import Counter
from dataclasses import dataclass, field

from hydratune.data.formats.preferences import keep_setting
from hydratune.wording import counted

_MOST_KEYS = 20  # named in one statement


@dataclass
class Notes:
    """Counts of what was changed or dropped; ``lines`` states them."""

    # keys of turns that nothing reads -> turns that have them
    keys: Counter[str] = field(default_factory=Counter)
    argument_nulls: int = 0
    schema_nulls: int = 0
    json_answers: int = 0  # rows
    answer_nulls: int = 0  # in answers that are objects of a typed column
    # answers that are "null" and the like -> rows
    null_texts: Counter[str] = field(default_factory=Counter)
    cut: int = 0  # rows with turns after the last trained one
    # columns of true and false that are no marks -> rows of each
    truths: dict[str, Counter[bool]] = field(default_factory=dict)
    refusals: int = 0  # turns
    merged: int = 0  # turns
    tagged: int = 0  # turns with calls between tags

    def lines(self) -> list[str]:
        """Return one sentence for each thing that was changed or dropped."""
        return [*self._of_answers(), *self._of_unread_marks(), *self._of_tools()]

    def _of_answers(self) -> list[str]:
        null_texts = ", ".join(f"{text!r} ({n:,})" for text, n in self.null_texts.most_common())
        return _stated(
            (
                self.json_answers,
                "answers that are objects, lists, true or false became JSON"
                f" ({counted(self.json_answers, 'row')})",
            ),
            (
                self.answer_nulls,
                f"{counted(self.answer_nulls, 'null')} in answers kept: a typed column gives every"
                " answer the keys of all others; store the answers as JSON text if they should be"
                " without",
            ),
            (
                len(self.null_texts),
                f"answers that are a text written for nothing are trained: {null_texts}; where the"
                " answer is missing, take these rows out",
            ),
            (self.cut, f"{counted(self.cut, 'row')}: turns after the last trained one dropped"),
        )

    def _of_unread_marks(self) -> list[str]:
        lines = []
        if self.keys:
            keys = ", ".join(f"{key} ({n:,})" for key, n in self.keys.most_common(_MOST_KEYS))
            more = f" and {len(self.keys) - _MOST_KEYS} more" if len(self.keys) > _MOST_KEYS else ""
            lines.append(f"keys of turns ignored, with the number of turns: {keys}{more}")
        lines += [
            f"{name} is true in {counted(counts[True], 'row')} and false in {counts[False]:,}, all"
            f" of them trained; if it says which answers are good: {keep_setting(name, 'true')} (or"
            " false)"
            for name, counts in self.truths.items()
            if len(counts) == 2
        ]
        return lines

    def _of_tools(self) -> list[str]:
        return _stated(
            (
                self.argument_nulls,
                f"{counted(self.argument_nulls, 'null argument')} of tool calls dropped: typed"
                " columns give every call the arguments of all others as null; store the calls as"
                " JSON text where null is meant",
            ),
            (
                self.schema_nulls,
                f"{counted(self.schema_nulls, 'null')} in the schemas of tools dropped: no keyword"
                " of a JSON schema is null",
            ),
            (self.refusals, f"{counted(self.refusals, 'refusal')} read as the text of the answer"),
            (
                self.tagged,
                f"{counted(self.tagged, 'text')} with <tool_call> read as calls, which the chat"
                " template writes in its own way",
            ),
            (
                self.merged,
                f"{counted(self.merged, 'call')} put into the assistant turn before, as calls made"
                " together",
            ),
        )


def _stated(*notes: tuple[int, str]) -> list[str]:
    """Return the sentences whose count is not zero."""
    return [text for count, text in notes if count]
