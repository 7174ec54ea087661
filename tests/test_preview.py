"""The preview of the loss mask."""

from chat_templates import CHAT, chat_row, masked
from hydratune.data.encoding.encoded import Encoded
from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.data.preview import Piece, coloured, legend, pieces


def test_preview_colours_exactly_the_trained_tokens(encoder: ChatEncoder) -> None:
    text = coloured(encoder, encoder.encode(CHAT))
    trained = [
        text.plain[span.start : span.end] for span in text.spans if "green" in str(span.style)
    ]
    assert trained == ["Paris", "<|im_end|>", "Madrid", "<|im_end|>"]
    assert coloured(encoder, encoder.encode(chat_row("a", "b")), brackets=True).plain.endswith(
        "assistant\n\u27e6b<|im_end|>\u27e7"
    )


def test_pieces_distinguish_trained_and_special_tokens(encoder: ChatEncoder) -> None:
    assert pieces(encoder, encoder.encode(chat_row("Hi", "Paris"))) == [
        Piece("<|im_start|>", trained=False, special=True),
        Piece("user\nHi", trained=False, special=False),
        Piece("<|im_end|>", trained=False, special=True),
        Piece("\n", trained=False, special=False),
        Piece("<|im_start|>", trained=False, special=True),
        Piece("assistant\n", trained=False, special=False),
        Piece("Paris", trained=True, special=False),
        Piece("<|im_end|>", trained=True, special=True),
    ]
    assert len({str(part.style) for part in legend().spans}) == 4  # each kind looks different


def test_pieces_keep_characters_whole_and_join_to_the_text(encoder: ChatEncoder) -> None:
    """The pieces join to the text under any mask, even one that divides a character's bytes."""
    example = encoder.encode(chat_row("日本語のテキスト 🙂", "Ça va: naïve 🙂🙃"))
    whole = encoder.decode(example.ids)
    assert (
        "\ufffd" not in whole and len(encoder.tokenize("🙂")) > 1
    )  # otherwise this test would show nothing
    for cut in range(1, len(example.ids)):
        parts = pieces(
            encoder, Encoded(example.ids, tuple(i >= cut for i in range(len(example.ids))))
        )
        assert "".join(part.text for part in parts) == whole
        assert all(part.text and "\ufffd" not in part.text for part in parts)
        # a character belongs to the token that completes it
        before = encoder.decode(example.ids[:cut]).rstrip("\ufffd")
        assert "".join(part.text for part in parts if not part.trained) == before
        alone = pieces(
            encoder, masked(Encoded(example.ids, (False,) * len(example.ids)), cut, value=True)
        )
        assert "".join(part.text for part in alone) == whole and all(part.text for part in alone)
