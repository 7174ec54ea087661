import time

import pytest

from hydratune.data import boilerplate, cleaning
from hydratune.data.rows import Message, Row
from hydratune.settings.data import CleaningConfig


def row(question: str, answer: str, number: int = 0) -> Row:
    return Row(f"row-{number}", (Message("user", question), Message("assistant", answer)))


@pytest.mark.parametrize(
    ("repair", "before", "after"),
    [
        (cleaning.repair_encoding, "cafÃ© and naÃ¯ve", "café and naïve"),
        (cleaning.repair_encoding, "café “quoted” ﬁne", "café “quoted” ﬁne"),
        (cleaning.remove_control_characters, "a\u200bb\x07c\ufeff", "abc"),
        (cleaning.repair_encoding, "\x93quoted\x94 caf\xe9", "“quoted” café"),
        (cleaning.tidy_whitespace, "one\u2028two\x0cthree\x85four", "one\ntwo\nthree\nfour"),
        (
            cleaning.remove_control_characters,
            "👩\u200d💻 می\u200cخواهم\tx\n",
            "👩\u200d💻 می\u200cخواهم\tx\n",
        ),
        (cleaning.tidy_whitespace, " \n a \t\r\nb\u00a0c\n\n\n\n\n\nd \n ", " a \t\nb c\n\n\nd"),
        (cleaning.tidy_whitespace, "    y = x\n    return y", "    y = x\n    return y"),
        (cleaning.tidy_whitespace, " context\n \n-old\n+new", " context\n \n-old\n+new"),
        (cleaning.tidy_whitespace, "one  \ntwo", "one  \ntwo"),
        (cleaning.tidy_whitespace, "\n\n", ""),
        (cleaning.tidy_whitespace, " Paris ", "Paris"),
        (cleaning.tidy_whitespace, "全角\u3000空白", "全角\u3000空白"),
        (cleaning.repair_encoding, "The bytes Ã© mean é", "The bytes Ã© mean é"),
        (cleaning.repair_encoding, "Il écrit cafÃ©", "Il écrit cafÃ©"),
        (cleaning.repair_encoding, "“cafÃ©” for 5 €", "“café” for 5 €"),
        (
            cleaning.repair_encoding,
            "Ã© is a UTF-8 letter read as Latin-1",
            "Ã© is a UTF-8 letter read as Latin-1",
        ),
        (
            cleaning.remove_control_characters,
            "a\x1b[0m b\x1b[1;31mred\x1b[K\x1b]0;title\x07",
            "a bred",
        ),
        (cleaning.tidy_whitespace, "def f():\n    return  1", "def f():\n    return  1"),
        (
            cleaning.remove_html,
            "<p>Hi &amp; <b>bye</b><br/>x</p><script>alert(1)</script>",
            "Hi & bye\nx\n",
        ),
        (cleaning.remove_html, "if a < b and c > d: List[<T>]", "if a < b and c > d: List[<T>]"),
        (cleaning.remove_html, "if (a<b && c>d) return <a b=c", "if (a<b && c>d) return <a b=c"),
        (
            cleaning.remove_html,
            "std::vector<a> v; List<table> t; x<i>y",
            "std::vector<a> v; List<table> t; x<i>y",
        ),
        (cleaning.remove_html, "cp <source> <title>", "cp <source> <title>"),
        (
            cleaning.remove_html,
            "<p>First<p>Second, see `<b>x</b>` or vector<a>.<br>",
            "\nFirst\nSecond, see `<b>x</b>` or vector<a>.\n",
        ),
        (cleaning.remove_html, '<a href="x.html" hidden>here</a>', "here"),
        (cleaning.remove_html, "&copy the file, AT&amp;T", "&copy the file, AT&T"),
        (cleaning.remove_code_fence, '```json\n{"a": 1}\n```', '{"a": 1}'),
        (cleaning.remove_code_fence, "```python\nprint(1)\n```", "```python\nprint(1)\n```"),
        (
            cleaning.remove_code_fence,
            'Here: ```json\n{"a": 1}\n```',
            'Here: ```json\n{"a": 1}\n```',
        ),
        (cleaning.remove_chatter, "It is Paris. I hope this helps!", "It is Paris."),
        (cleaning.remove_chatter, "It is Paris.\n\nLet me know if you need more.", "It is Paris."),
        (
            cleaning.remove_chatter,
            "It is 5. I hope this helps! Please let me know if you have any further questions. 😊",
            "It is 5.",
        ),
        (
            cleaning.remove_chatter,
            "Yes.\nIf you have any other questions, feel free to ask!",
            "Yes.",
        ),
        (
            cleaning.remove_chatter,
            "Ok.\nHope this helps the patient recover and take 5mg daily",
            "Ok.\nHope this helps the patient recover and take 5mg daily",
        ),
        (
            cleaning.remove_chatter,
            "Done. Feel free to ask for a refund within 30 days.",
            "Done. Feel free to ask for a refund within 30 days.",
        ),
        (
            cleaning.remove_chatter,
            "Done. Let me know if you have the form.",
            "Done. Let me know if you have the form.",
        ),
        (cleaning.remove_chatter, "Let me know if you need more.", "Let me know if you need more."),
        (
            cleaning.remove_chatter,
            "I told them I hope this helps the team. Then I left.",
            "I told them I hope this helps the team. Then I left.",
        ),
    ],
)
def test_repair_changes_what_it_should_and_nothing_else(repair, before: str, after: str) -> None:
    assert repair(before) == after
    assert repair(after) == after


def test_default_repairs_are_applied_and_shown_before_and_after() -> None:
    cleaner = cleaning.Cleaner(CleaningConfig())
    cleaned = cleaner(row("cafÃ© ", '```json\n{"a": 1}\n```'))
    assert [m.content for m in cleaned.messages] == ["café", '{"a": 1}']
    summary = cleaning.summarise_changes(cleaner.changes)
    assert (
        summary["encoding"]["rows"]
        == summary["whitespace"]["rows"]
        == summary["code_fence"]["rows"]
        == 1
    )
    assert summary["encoding"]["examples"] == [
        {"id": "row-0", "before": "cafÃ© ", "after": "café "}
    ]


def test_disabled_repairs_are_counted_and_not_applied() -> None:
    cleaner = cleaning.Cleaner(CleaningConfig(encoding=False))
    dirty = row("<b>cafÃ©</b>", "Paris. Hope this helps!")
    assert cleaner(dirty) is dirty
    assert {name: c.rows for name, c in cleaner.changes.items() if c.rows} == {
        "encoding": 1,
        "html": 1,
        "chatter": 1,
    }


def test_only_answers_lose_closing_phrases() -> None:
    cleaner = cleaning.Cleaner(CleaningConfig(chatter=True))
    cleaned = cleaner(row("Shorten: It is done. I hope this helps!", "Done. I hope this helps!"))
    assert [m.content for m in cleaned.messages] == [
        "Shorten: It is done. I hope this helps!",
        "Done.",
    ]


def test_lines_that_many_rows_share_are_found_and_removed_at_the_edges_only() -> None:
    rows = [
        row(f"CONFIDENTIAL - internal only\nQuestion number {i}?", "Yes.", i) for i in range(30)
    ]
    counter = boilerplate.Boilerplate()
    for each in rows:
        counter.see(each)
    assert counter.lines() == {"CONFIDENTIAL - internal only": 30}
    assert (
        boilerplate.remove_lines(rows[3], counter.lines()).messages[0].content
        == "Question number 3?"
    )
    lonely = row("CONFIDENTIAL - internal only", "Yes.")
    assert boilerplate.remove_lines(lonely, counter.lines()) is lonely


def counted_lines(texts: list[str]) -> boilerplate.Boilerplate:
    counter = boilerplate.Boilerplate()
    for i, text in enumerate(texts):
        counter.see(row(text, "a", i))
    return counter


@pytest.mark.parametrize(
    "texts",
    [
        # rare
        [f"the very same header line\nq{i}" if i < 19 else f"q{i}\nnothing" for i in range(30)],
        [f"too short\nquestion {i}" for i in range(60)],
        [f"Section: allergies and history\nDialogue {i}" for i in range(60)],
        [f"Doctor asks number {i}\nPatient: No, not that I know." for i in range(60)],
        [f"What is meant by this text?\nText {i}" for i in range(60)],
        [
            "\n".join(
                [*(f"{i} {j}" for j in range(i % 50 + 6)), "a line that all of them have", *"xyzuv"]
            )
            for i in range(60)
        ],
        # a field
        [f"Write it down for {'children' if i % 2 else 'experts'}\nSubject {i}" for i in range(60)],
        [
            f"The tone {'has to be friendly' if i % 2 else f'is number {i}'}\nSubject {i // 2}"
            for i in range(60)
        ],
    ],
    ids=["rare", "short", "label", "dialogue", "question", "inside", "field", "telling"],
)
def test_lines_that_distinguish_rows_are_no_boilerplate(texts: list[str]) -> None:
    assert counted_lines(texts).lines() == {}


def test_boilerplate_has_one_place() -> None:
    """A frequent line at varying places among the first lines is content, not boilerplate."""
    texts = [
        "\n".join(
            [
                *[f"line {j} of {i}" for j in range(i % 5)],
                "this line moves about",
                *[f"{i} {j}" for j in range(9)],
            ]
        )
        for i in range(95)
    ]
    assert counted_lines(texts).lines() == {}


def test_preview_counts_the_rows_that_removal_changes() -> None:
    header, footer = "CONFIDENTIAL - internal only", "This message is for its recipient only."
    texts = [f"{header}\nBody {i}\n{footer}" for i in range(40)] + [
        f"Body {i}\n{footer}" for i in range(40, 60)
    ]
    texts += (
        [f"{header}\n{footer}"] * 3 + [f"{header}"] * 3 + [f"Body {i}\nmore" for i in range(60, 90)]
    )
    counter = counted_lines(texts)
    lines = counter.lines()
    assert list(lines) == [footer, header]
    removed = [boilerplate.remove_lines(row(text, "a"), lines) for text in texts]
    assert (
        len(counter.changed_rows())
        == sum(
            after.messages[0].content != text for after, text in zip(removed, texts, strict=True)
        )
        == 60
    )


def test_frequent_lines_survive_forgetting(monkeypatch: pytest.MonkeyPatch) -> None:
    """In any order, a line in 6 % of the rows is detected, with at most 0.5 % of the rows
    missing.
    """
    monkeypatch.setattr(boilerplate.Boilerplate, "MOST_LINES", 500)
    texts = [f"an only line with number {i}\nanother only one, number {i}" for i in range(4700)] + [
        f"This message is for its recipient only.\nBody {i}" for i in range(300)
    ]
    for order in (texts, texts[::-1], [texts[i * 1999 % 5000] for i in range(5000)]):
        counter = counted_lines(order)
        assert len(counter.seen) < 1000
        assert list(counter.lines()) == ["This message is for its recipient only."]
        assert 275 <= len(counter.changed_rows()) <= 300


@pytest.mark.parametrize(
    "text",
    [
        "\n " * 20_000 + "x",
        "Yes. " + "if you have any help " * 2_000 + "x",
        "Yes!" + " \n" * 20_000 + "x",
    ],
)
def test_long_answers_are_checked_quickly(text: str) -> None:
    started = time.perf_counter()
    assert cleaning.remove_chatter(text) == text
    assert time.perf_counter() - started < 1
