"""Chat templates and conversations for the tests of the loss mask, and what is trained of them."""

from typing import Any

from hydratune.data.encoding.encoded import Encoded
from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.data.rows import Message, Row

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def chat_row(*turns: str, roles: tuple[str, ...] = ("user", "assistant")) -> Row:
    return Row(
        "row-1",
        tuple(Message(roles[i % len(roles)], text) for i, text in enumerate(turns)),
        where="f.jsonl:7",
    )


CHAT = Row(
    "chat",
    (
        Message("system", "You are terse."),
        Message("user", "What is the capital of France?"),
        Message("assistant", "Paris"),
        Message("user", "And of the Kingdom of Spain?"),
        Message("assistant", "Madrid"),
    ),
)


def with_template(encoder: ChatEncoder, template: str) -> ChatEncoder:
    import copy

    tokenizer: Any = copy.deepcopy(encoder.tokenizer)
    tokenizer.chat_template = template
    return ChatEncoder(tokenizer, encoder.turn_end_ids)


def trained_text(encoder: ChatEncoder, example: Encoded) -> str:
    return str(
        encoder.tokenizer.decode(
            [t for t, m in zip(example.ids, example.loss_mask, strict=True) if m]
        )
    )


def masked(example: Encoded, *changed: int | slice, value: bool) -> Encoded:
    """Return ``example`` with the ``changed`` positions trained or not."""
    loss_mask = list(example.loss_mask)
    for where in changed:
        for position in range(len(loss_mask))[where] if isinstance(where, slice) else [where]:
            loss_mask[position] = value
    return Encoded(example.ids, tuple(loss_mask))


DOCUMENT = Row(
    "document", (Message("text", "Once upon a time there was a café."),), where="f.jsonl:7"
)


def with_begin(encoder: ChatEncoder) -> ChatEncoder:
    """Return an encoder whose tokenizer adds a begin-of-text token, as Llama's does."""
    from tokenizers.processors import TemplateProcessing

    begins_itself = with_template(encoder, CHATML)
    begin = begins_itself.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    begins_itself.tokenizer.bos_token = "<|endoftext|>"
    begins_itself.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", begin)]
    )
    return begins_itself


# writes a block of thoughts, empty or not, in the last turn only
LAST_THINKS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' and"
    " loop.last %}<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}{{ m['content']"
    " }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TALK = Row(
    "talk",
    (
        Message("user", "What is the capital of France?"),
        Message("assistant", "Paris"),
        Message("user", "And of Spain?"),
        Message("assistant", "Madrid"),
    ),
    where="f.jsonl:7",
)


def prompt_and_trained(encoder: ChatEncoder, example: Encoded) -> tuple[str, str]:
    """Return the text that is not trained and the trained text, which follows it."""
    start = example.loss_mask.index(True)
    assert all(example.loss_mask[start:])
    return encoder.decode(example.ids[:start]), encoder.decode(example.ids[start:])
