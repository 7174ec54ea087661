"""Marked spans of texts: differences, hidden characters, quoted words, and what is cut."""

from hydratune.pages.spans import (
    character_differences,
    named,
    occurrences,
    shortened,
    spans,
    word_differences,
)


def test_word_differences() -> None:
    first, second = "Close my old account, please", "Close our account, please"
    assert [
        [text[a:b] for a, b in changed]
        for text, changed in zip((first, second), word_differences([first, second]), strict=True)
    ] == [
        ["my old"],
        ["our"],
    ]
    assert word_differences(["same", "same", "same"]) == [[], [], []]
    assert word_differences([]) == []


def test_character_differences_ignore_what_truncation_caused() -> None:
    # both were truncated to one length before
    before, after = ("caf\u00c3\u00a9 no", "caf\u00e9 now")
    old, new = character_differences(before, after)
    assert [before[a:b] for a, b in old] == ["\u00c3\u00a9"]
    assert [after[a:b] for a, b in new] == ["\u00e9"]


def test_spans_join_to_the_text() -> None:
    text = "one two  three"
    assert [(s.text, s.changed) for s in spans(text, [(4, 7)])] == [
        ("one ", False),
        ("two", True),
        ("  three", False),
    ]
    assert [(s.text, s.hidden) for s in spans(text, [(7, 9)])] == [
        ("one two", False),
        ("··", True),
        ("three", False),
    ]
    assert [s.text for s in spans("\n", spaces=True)] == ["↵\n"]
    assert spans("") == []


def test_hidden_characters_have_names() -> None:
    assert named("a\u200bb\ud83d\r") == r"aU+200BbU+D83D\r"
    # joiners are part of the spelling
    assert named("अनुच्छेद \u200c می\u200cخواهم\n") == "अनुच्छेद \u200c می\u200cخواهم\n"


def test_occurrences_are_whole_words() -> None:
    text = "in 19 or 1931\n→ 19 and 1931"
    assert [text[a:b] for a, b in occurrences(text, ["19", "", "1931"], text.rfind("\n→ "))] == [
        "19",
        "1931",
    ]
    assert occurrences(text, []) == []


def test_shortened_says_how_much_is_missing() -> None:
    assert shortened("short", 100) == "short"
    assert shortened("a" * 500 + "b" * 500, 30) == f"{'a' * 20} [… 970 characters …] {'b' * 10}"
