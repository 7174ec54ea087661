"""The sizes of models of the catalogue, for planning without a network.

A row is there only if a named source has the sizes; ``tests/test_catalogue.py`` compares the
parameters that follow from them with those of ``models.csv``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from hydratune.models.catalogue.entries import read_table

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "vocab_size",
)


@dataclass(frozen=True)
class Structure:
    """The sizes of one model under the names of transformers."""

    model_type: str  # of transformers
    values: Mapping[str, int | bool]
    is_whole: bool  # False: the layers for images or sound are not part of it
    source: str
    checked: str  # date

    def config(self, context_window: int | None) -> "PretrainedConfig":
        """Return the config of transformers with these sizes."""
        from transformers import CONFIG_MAPPING

        window = {} if context_window is None else {"max_position_embeddings": context_window}
        kind = CONFIG_MAPPING[self.model_type]
        # the padding token of some defaults lies outside of the vocabulary
        return kind(**self.values, **window, pad_token_id=None)


@cache
def structures() -> Mapping[str, Structure]:
    """Return the known structures by the name of the model's option."""
    return {row["name"]: _structure(row) for row in read_table("structures.csv")}


def _structure(row: Mapping[str, str]) -> Structure:
    values: dict[str, int | bool] = {name: int(row[name]) for name in _SIZES}
    values["tie_word_embeddings"] = row["tie_word_embeddings"] == "true"
    for pair in row["extra"].split():
        name, _, value = pair.partition("=")
        values[name] = int(value)
    is_whole = row["covers"] == "all"
    return Structure(row["model_type"], values, is_whole, row["source"], row["checked"])
