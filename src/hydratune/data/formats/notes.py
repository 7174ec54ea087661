"""What the rows of one source held that was changed or left out: counted while they are read, said
at the end.
"""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Notes:
    """Counts; ``lines`` says them."""

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
        said = []
        if self.json_answers:
            said.append(
                "answers that are objects, lists, true or false became JSON"
                f" ({counted(self.json_answers, 'row')})"
            )
        if self.answer_nulls:
            said.append(
                f"{counted(self.answer_nulls, 'null')} in answers kept: a typed column gives every"
                " answer the keys of all others; store the answers as JSON text if they should be"
                " without"
            )
        if self.null_texts:
            listed = ", ".join(
                f"{text!r} ({count:,})" for text, count in self.null_texts.most_common()
            )
            said.append(
                f"answers that are a text written for nothing are trained: {listed}; where the"
                " answer is missing, take these rows out"
            )
        if self.cut:
            said.append(f"{counted(self.cut, 'row')}: turns after the last trained one left out")
        if self.keys:
            listed = ", ".join(f"{key} ({count:,})" for key, count in self.keys.most_common(20))
            more = f" and {len(self.keys) - 20} more" if len(self.keys) > 20 else ""
            said.append(f"keys of turns ignored, with the number of turns: {listed}{more}")
        for name, counts in self.truths.items():
            if len(counts) == 2:
                said.append(
                    f"{name} is true in {counted(counts[True], 'row')} and false in"
                    f" {counts[False]:,}, all of them trained; if it says which answers are good:"
                    f" +data.keep.{name}=true (or false)"
                )
        if self.argument_nulls:
            said.append(
                f"{counted(self.argument_nulls, 'null argument')} of tool calls left out: typed"
                " columns give every call the arguments of all others as null; store the calls as"
                " JSON text where null is meant"
            )
        if self.schema_nulls:
            said.append(
                f"{counted(self.schema_nulls, 'null')} in the schemas of tools left out: no keyword"
                " of a JSON schema is null"
            )
        if self.refusals:
            said.append(f"{counted(self.refusals, 'refusal')} read as the text of the answer")
        if self.tagged:
            said.append(
                f"{counted(self.tagged, 'text')} with <tool_call> read as calls, which the chat"
                " template writes in its own way"
            )
        if self.merged:
            said.append(
                f"{counted(self.merged, 'call')} put into the assistant turn before, as calls made"
                " together"
            )
        return said


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
