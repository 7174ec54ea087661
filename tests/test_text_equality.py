"""Which texts are equal under the strict and under the loose comparison."""

import pytest

from hydratune.data.quality.equality import normalised, words
from hydratune.data.quality.spelling import find_spelling_variants
from hydratune.data.quality.variants import key_words


def test_normalising_keeps_what_carries_meaning() -> None:
    assert normalised("  What's   UP, “Doc”?! ") == "what s up doc"
    assert len({normalised(f"3 {sign} 4") for sign in "+-*/<>=^%"}) == 9
    assert normalised("what is $#?") != normalised("what is $@?")
    assert words(normalised("(a) b/c")) == words(normalised('"A" b c'))
    assert normalised("3.5") != normalised("35")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("sort in C++", "sort in C#"),
        ("5 < 7", "5 > 7"),
        ("-5", "5"),
        ("−5", "5"),
        ("5 - 7", "5 7"),
        ("1.5", "15"),
        ("1,5", "1 5"),
        ("10:30", "1030"),
        ("$5", "5 €"),
        ("50%", "50"),
        ("use .NET?", "use net"),
        ("what is 5!", "what is 5"),
        ("n!", "n"),
        ("5²", "52"),
        ("ls -la", "ls la"),
        ("rm --force x", "rm force x"),
        ("f(x)", "f x"),
        ("[1, 2]", "(1, 2)"),
        ("what is '?'", "what is '!'"),
        ("what does ? mean", "what does . mean"),
        ("/tmp/a", "tmp/a"),
        ("?", "!"),
        ("🍕", "🍣"),
        ("I love 🍕", "I love 🍣"),
        ("की", "का"),
        ("Maß", "Mas"),
        ("x == y", "x = y"),
    ],
)
def test_meaningful_symbols_make_texts_different(first: str, second: str) -> None:
    assert normalised(first) != normalised(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Top-up failed!", "top up failed"),
        ("top–up", "Top Up"),
        ("state-of-the-art", "State of the art."),
        ("hello - world", "hello world"),
        ("What’s up?", "what's up"),
        ("What´s up?", "what's up"),
        ('say "hi"', "say hi"),
        ("how are you ?", "How are you?"),
        ("Really?!", "really"),
        ("...and then", "and then…"),
        ("it costs 5.", "it costs 5"),
        ("5–7", "5-7"),
        ("你好，世界！", "你好 世界"),
        ("ＦＵＬＬ  width", "full\nwidth"),
    ],
)
def test_case_spacing_and_final_punctuation_are_ignored(first: str, second: str) -> None:
    assert normalised(first) == normalised(second) != ""


def test_loose_form_keeps_letters_with_their_marks_and_is_never_empty() -> None:
    def loose(text: str) -> str:
        return words(normalised(text))

    same = [
        ("e-mail", "e mail"),
        ("(urgent)", "urgent"),
        ("and/or", "and or"),
        ("sort in C++", "sort in C#"),
        ("你好 世界", "你好,世界"),
    ]
    assert [pair for pair in same if loose(pair[0]) != loose(pair[1])] == []
    different = [
        "?",
        "!",
        "🍕",
        "🍣",
        "👍",
        "👎",
        "की",
        "का",
        "***",
        "$",
        "你好",
        "世界",
        "résumé",
        "resume",
    ]
    assert len({loose(text) for text in different}) == len(different)
    assert "" not in map(loose, different)


@pytest.mark.parametrize(
    ("first", "second", "are_variants"),
    [
        ("What is my balance?", "what's my balance", True),
        ("Whats my balance", "What is the my balance, please?", True),
        ("how do I top-up my card", "how do i topup my cards", True),
        ("show my current balance", "show my curent balance", True),
        ("I can't pay by card", "i cannot pay by card", True),
        ("what is the wether in rome", "what is the weather in rome", True),
        ("book a flight to Rome", "book a flight to Paris", False),
        ("set an alarm at 5", "set an alarm at 6", False),
        ("wake me at 5 am", "wake me at 5", False),
        ("turn on the light", "turn off the light", False),
        ("I can pay by card", "I can't pay by card", False),
        ("fly from Rome to Paris", "fly from Paris to Rome", False),
        ("sort a list in C++", "sort a list in C#", False),
        ("take vitamin A", "take vitamin", False),
        ("the balance", "a balance", False),  # too few key words
    ],
)
def test_short_requests_are_spelling_variants_by_their_key_words(
    first: str, second: str, are_variants: bool
) -> None:
    cores = {
        i: core for i, text in enumerate((first, second)) if (core := key_words(normalised(text)))
    }
    assert list(find_spelling_variants(cores)) == ([(0, 1)] if are_variants else [])
