"""Which tokens end an assistant's turn: those that the tokenizer and the model declare, and the one
that the chat template writes.

Three places can disagree. Evaluation stops at all of them; what is saved says the same in
``generation_config.json``, which ``generate`` and vLLM read from a model's folder, and of an
adapter's folder where they are told to.
"""

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from hydratune.data.rendering import render

_SAID = "\u2740\u2740"  # an answer that no template changes and no token holds
CARD_TITLE = "## Where an answer ends"


def turn_ends(tokenizer: Any, generation: GenerationConfig | None) -> frozenset[int]:
    """Every token that ends generation."""
    found = declared(tokenizer, generation)
    written = _written_after_an_answer(tokenizer)
    if not written or found & set(written):
        return found
    return found | {written[0]}


def declared(tokenizer: Any, generation: GenerationConfig | None) -> frozenset[int]:
    """What the tokenizer and the model's generation config call the end."""
    own = tokenizer.eos_token_id
    return of_model(generation) | (frozenset() if own is None else frozenset([own]))


def of_model(generation: GenerationConfig | None) -> frozenset[int]:
    """At which plain ``generate`` stops."""
    ids = generation.eos_token_id if generation is not None else None
    return frozenset(i for i in (ids if isinstance(ids, list) else [ids]) if i is not None)


def _written_after_an_answer(tokenizer: Any) -> list[int]:
    """Added tokens that the chat template writes behind an assistant's text, with white space
    before them at most.

    Base models with a chat template of their own have such an end, and call another token the end
    of a text.
    """
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _SAID}]
    try:
        text = render(tokenizer, turns, (), generation_prompt=False)
    except (
        Exception
    ):  # a template raises whatever it likes; what it refuses is said with the row that it refuses
        return []
    _, said, rest = text.rpartition(_SAID)
    if not said or not rest:
        return []
    added = tokenizer.added_tokens_decoder
    ids = list(tokenizer(rest, add_special_tokens=False).input_ids)
    first = next((number for number, token in enumerate(ids) if token in added), len(ids))
    return (
        [token for token in ids if token in added]
        if not tokenizer.decode(ids[:first]).strip()
        else []
    )


def add_missing_eos(tokenizer: Any) -> None:
    """A tokenizer without an end-of-text token gets the token with which its template ends an
    answer.
    """
    if tokenizer.eos_token_id is None:
        written = _written_after_an_answer(tokenizer)
        if written:
            tokenizer.eos_token = tokenizer.convert_ids_to_tokens(written[0])


def in_order(ends: Iterable[int], trained: Sequence[int]) -> list[int]:
    """``ends``, those that rows were ``trained`` to end with first, the most frequent one at the
    head.
    """
    return sorted(set(ends), key=lambda token: (-trained.count(token), token))


def told(tokenizer: Any, ends: Iterable[int]) -> str:
    """Tokens as a person and as a program call them."""
    return ", ".join(f"{tokenizer.convert_ids_to_tokens(token)} ({token})" for token in ends)


def generation_config(model: Any, tokenizer: Any, ends: Sequence[int]) -> GenerationConfig:
    """The model's own, with every one of ``ends``, and with a padding token.

    What transformers would not store is left out.
    """
    own = getattr(model, "generation_config", None)
    config = copy.deepcopy(own) if own is not None else GenerationConfig()
    config.eos_token_id = list(ends)
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id
    try:
        config.validate(strict=True)
    except (
        ValueError
    ):  # settings that contradict each other, as published models have them, cannot be saved
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        config = GenerationConfig(**{name: getattr(config, name) for name in names})
    return config


def write_card(
    folder: Path, tokenizer: Any, base: str, ends: Sequence[int], *, is_lora: bool
) -> None:
    """Says in the model card that PEFT wrote where an answer ends, and what to type."""
    card = folder / "README.md"
    if not card.is_file():
        return
    vllm = (
        f"vLLM: `vllm serve {base} --enable-lora --lora-modules tuned=FOLDER --generation-config"
        " FOLDER`, or in every request "
        f'`"stop_token_ids": {list(ends)}`.\n'
    )
    text = f"""{CARD_TITLE}

An answer ends with one of {told(tokenizer, ends)}. `generation_config.json` in this folder holds them; the base model's own may not,
which is the one that `generate` reads unless the model is given another:

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

folder = "."  # this folder
tokenizer = AutoTokenizer.from_pretrained(folder)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({base!r}), folder)
model.generation_config = GenerationConfig.from_pretrained(folder)
turns = [{{"role": "user", "content": "..."}}]
prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
output = model.generate(**prompt, max_new_tokens=256)
print(tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))
```

{vllm if is_lora else ""}"""  # noqa: E501
    card.write_text(f"{card.read_text('utf-8').rstrip()}\n\n{text}", "utf-8")
