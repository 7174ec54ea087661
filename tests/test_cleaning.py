import pytest

from hydratune.config import CleaningConfig
from hydratune.data import cleaning
from hydratune.data.rows import Message, Row


def row(question: str, answer: str, number: int = 0) -> Row:
    return Row(f"row-{number}", (Message("user", question), Message("assistant", answer)))


@pytest.mark.parametrize(
    ("repair", "before", "after"),
    [
        (cleaning.encoding, "cafÃ© and naÃ¯ve", "café and naïve"),
        (cleaning.encoding, "café “quoted” ﬁne", "café “quoted” ﬁne"),
        (cleaning.control, "a\u200bb\x07c\ufeff", "abc"),
        (cleaning.encoding, "\x93quoted\x94 caf\xe9", "“quoted” café"),
        (cleaning.whitespace, "one\u2028two\x0cthree\x85four", "one\ntwo\nthree\nfour"),
        (cleaning.control, "👩\u200d💻 می\u200cخواهم\tx\n", "👩\u200d💻 می\u200cخواهم\tx\n"),
        (cleaning.whitespace, " a \t\r\nb\u00a0c\n\n\n\n\n\nd ", "a\nb c\n\n\nd"),
        (cleaning.whitespace, "def f():\n    return  1", "def f():\n    return  1"),
        (cleaning.without_html, "<p>Hi &amp; <b>bye</b><br/>x</p><script>alert(1)</script>", "Hi & bye\nx\n"),
        (cleaning.without_html, "if a < b and c > d: List[<T>]", "if a < b and c > d: List[<T>]"),
        (cleaning.code_fence, '```json\n{"a": 1}\n```', '{"a": 1}'),
        (cleaning.code_fence, "```python\nprint(1)\n```", "```python\nprint(1)\n```"),
        (cleaning.code_fence, 'Here: ```json\n{"a": 1}\n```', 'Here: ```json\n{"a": 1}\n```'),
        (cleaning.chatter, "It is Paris. I hope this helps!", "It is Paris."),
        (cleaning.chatter, "It is Paris.\n\nLet me know if you need more.", "It is Paris."),
        (cleaning.chatter, "Let me know if you need more.", "Let me know if you need more."),
        (cleaning.chatter, "I told them I hope this helps the team. Then I left.", "I told them I hope this helps the team. Then I left."),
    ],
)
def test_repair_changes_what_it_should_and_nothing_else(repair, before: str, after: str) -> None:
    assert repair(before) == after
    assert repair(after) == after


def test_default_repairs_are_applied_and_shown_before_and_after() -> None:
    cleaner = cleaning.Cleaner(CleaningConfig())
    cleaned = cleaner(row("cafÃ© ", '```json\n{"a": 1}\n```'))
    assert [m.content for m in cleaned.messages] == ["café", '{"a": 1}']
    told = cleaning.summary(cleaner.changes)
    assert told["encoding"]["rows"] == told["whitespace"]["rows"] == told["code_fence"]["rows"] == 1
    assert told["encoding"]["examples"] == [{"id": "row-0", "before": "cafÃ© ", "after": "café "}]


def test_what_is_switched_off_is_counted_and_not_done() -> None:
    cleaner = cleaning.Cleaner(CleaningConfig(encoding=False))
    dirty = row("<b>cafÃ©</b>", "Paris. Hope this helps!")
    assert cleaner(dirty) is dirty
    assert {name: c.rows for name, c in cleaner.changes.items() if c.rows} == {"encoding": 1, "html": 1, "chatter": 1}


def test_only_answers_lose_closing_phrases() -> None:
    cleaner = cleaning.Cleaner(CleaningConfig(chatter=True))
    cleaned = cleaner(row("Shorten: It is done. I hope this helps!", "Done. I hope this helps!"))
    assert [m.content for m in cleaned.messages] == ["Shorten: It is done. I hope this helps!", "Done."]


def test_lines_that_many_rows_share_are_found_and_removed_at_the_edges_only() -> None:
    rows = [row(f"CONFIDENTIAL - internal only\nQuestion number {i}?", "Yes.", i) for i in range(30)]
    found = cleaning.Boilerplate()
    for each in rows:
        found.see(each)
    assert found.lines() == {"CONFIDENTIAL - internal only": 30}
    assert cleaning.without_lines(rows[3], found.lines()).messages[0].content == "Question number 3?"
    lonely = row("CONFIDENTIAL - internal only", "Yes.")
    assert cleaning.without_lines(lonely, found.lines()) is lonely


def test_rare_lines_are_no_boilerplate() -> None:
    found = cleaning.Boilerplate()
    for i in range(30):
        found.see(row(f"the very same header\nq{i}" if i < 19 else f"q{i}\nnothing", "a"))
    assert found.lines() == {}
