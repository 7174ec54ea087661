"""The tokens that end an assistant's turn.

They are those that the tokenizer and the model declare, and the one that the chat template writes,
which can all differ. Evaluation stops at each of them. What is saved names them in
``generation_config.json``, which ``generate`` and vLLM read from a model's folder; from an
adapter's folder they read it only if they are given it.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from transformers import GenerationConfig

from hydratune.data.encoding.rendering import render

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_ANSWER = "\u2740\u2740"  # an answer that no template changes and no token contains
CARD_TITLE = "## How to load it, and where an answer ends"


def turn_ends(
    tokenizer: "PreTrainedTokenizerBase", generation: GenerationConfig | None
) -> frozenset[int]:
    """Return every token that ends generation."""
    ends = declared(tokenizer, generation)
    written = _written_after_an_answer(tokenizer)
    if not written or ends & set(written):
        return ends
    return ends | {written[0]}


def declared(
    tokenizer: "PreTrainedTokenizerBase", generation: GenerationConfig | None
) -> frozenset[int]:
    """Return the end tokens of the tokenizer and of the model's generation config."""
    own = tokenizer.eos_token_id
    return of_model(generation) | (frozenset() if own is None else frozenset([own]))


def of_model(generation: GenerationConfig | None) -> frozenset[int]:
    """Return the tokens at which plain ``generate`` stops."""
    ids = generation.eos_token_id if generation is not None else None
    return frozenset(i for i in (ids if isinstance(ids, list) else [ids]) if i is not None)


def _written_after_an_answer(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Return the added tokens that the chat template writes after an assistant's text.

    At most white space may stand before them. Base models that have a chat template often end an
    answer with such a token, although another one is their end of a text.
    """
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _ANSWER}]
    try:
        text = render(tokenizer, turns, (), generation_prompt=False)
    # a template may raise anything; the error is reported with the first row that it refuses
    except Exception:
        return []
    _, answer, rest = text.rpartition(_ANSWER)
    if not answer or not rest:
        return []
    added = tokenizer.added_tokens_decoder
    ids = list(tokenizer(rest, add_special_tokens=False).input_ids)
    first = next((number for number, token in enumerate(ids) if token in added), len(ids))
    if tokenizer.decode(ids[:first]).strip():
        return []
    return [token for token in ids if token in added]


def add_missing_eos(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Give a tokenizer without an end-of-text token the one that ends an answer in its template."""
    if tokenizer.eos_token_id is None:
        written = _written_after_an_answer(tokenizer)
        if written:
            tokenizer.eos_token = tokenizer.convert_ids_to_tokens(written[0])


def in_order(ends: Iterable[int], trained: Sequence[int]) -> list[int]:
    """Return ``ends`` sorted by how often rows were ``trained`` to end with them.

    The most frequent one comes first.
    """
    return sorted(set(ends), key=lambda token: (-trained.count(token), token))


def describe(tokenizer: "PreTrainedTokenizerBase", ends: Iterable[int]) -> str:
    """Return the tokens with their texts and numbers."""
    return ", ".join(f"{tokenizer.convert_ids_to_tokens(token)} ({token})" for token in ends)


def generation_config(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", ends: Sequence[int]
) -> GenerationConfig:
    """Return the model's own config with all of ``ends`` and with a padding token.

    Settings that transformers would refuse to store are dropped.
    """
    own = getattr(model, "generation_config", None)
    config = copy.deepcopy(own) if own is not None else GenerationConfig()
    config.eos_token_id = list(ends)
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id
    try:
        config.validate(strict=True)
    except ValueError:  # published models have settings that contradict each other
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        config = GenerationConfig(**{name: getattr(config, name) for name in names})
    return config


def card_section(
    tokenizer: "PreTrainedTokenizerBase",
    base: str,
    ends: Sequence[int],
    *,
    in_vllm: bool,
    is_adapter: bool = True,
) -> str:
    """Return the section of a model card that says how to load it, and where an answer ends.

    ``base``: what the card calls the base model. ``in_vllm``: whether vLLM loads the adapter, so
    that its command is written as well. ``is_adapter`` False: the folder holds a whole model.
    """
    parts = (_LOAD_ADAPTER, _IMPORT_ADAPTER) if is_adapter else (_LOAD_MODEL, _IMPORT_MODEL)
    load, imports = (part.format(base=base) for part in parts)
    text = _CARD.format(
        title=CARD_TITLE, ends=describe(tokenizer, ends), load=load, imports=imports
    )
    return text + (_CARD_VLLM.format(base=base, ids=list(ends)) if in_vllm else "")


_CARD = """{title}

An answer ends with one of {ends}. `generation_config.json` in this folder holds them; the base \
model's own may not,
which is the one that `generate` reads unless the model is given another:

```python
{imports}

folder = "."  # this folder
tokenizer = AutoTokenizer.from_pretrained(folder)
{load}
model.generation_config = GenerationConfig.from_pretrained(folder)
turns = [{{"role": "user", "content": "..."}}]
prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", \
return_dict=True)
output = model.generate(**prompt, max_new_tokens=256)
print(tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))
```

"""
_IMPORT_MODEL = "from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig"
_IMPORT_ADAPTER = f"from peft import PeftModel\n{_IMPORT_MODEL}"
_LOAD_MODEL = "model = AutoModelForCausalLM.from_pretrained(folder)"
_LOAD_ADAPTER = """base = "{base}"  # an id on the hub, or the path of a folder
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)"""
_CARD_VLLM = (
    "vLLM: `vllm serve {base} --enable-lora --lora-modules tuned=FOLDER --generation-config"
    ' FOLDER`, or in every request `"stop_token_ids": {ids}`.\n'
)
