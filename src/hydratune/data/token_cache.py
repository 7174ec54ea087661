"""The token check of a prepared data set, kept in the cache: later runs and sweeps read it."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hydratune.cache import build_once, cache_folder
from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.data.prepared import Prepared
from hydratune.data.rows import stable_hash
from hydratune.data.tokens import TokenCheck
from hydratune.records.files import read_json
from hydratune.settings.registry import plain

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FILE = "tokens.json"
# the settings of the data that decide what is counted and found
_CHECKING = ("max_length", "overlength", "split_overlap", "system_prompt", "train_on", "quality")


def check_once(
    check: TokenCheck, prepared: Prepared, count: Callable[[TokenCheck], None]
) -> TokenCheck:
    """Return ``check`` after ``count`` has shown it all rows, or with the stored result of that.

    It is stored for data sets that are in the cache themselves: the name of their folder stands for
    their rows and for the code and the libraries that read and check them.
    """
    tokenizer = _tokenizer_hash(check.encoder)
    if prepared.path.parent != cache_folder() / "data" or tokenizer is None:
        count(check)
        return check
    settings = {name: plain(check.data)[name] for name in _CHECKING}
    sizes = [check.context_window, check.embeddings]
    key = stable_hash([prepared.path.name, tokenizer, settings, sizes])

    def build(folder: Path) -> None:
        count(check)
        folder.mkdir()
        (folder / _FILE).write_text(json.dumps(check.state()), "utf-8")

    folder = build_once(f"tokens/{key}", build)
    if not check.lengths:
        check.restore(read_json(folder / _FILE))
    return check


def _tokenizer_hash(encoder: ChatEncoder) -> str | None:
    """Return a hash of everything that makes tokens of rows; None if that is not known."""
    tokenizer: PreTrainedTokenizerBase = encoder.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # written in Python
        return None
    vocabulary = hashlib.sha256(backend.to_str().encode()).hexdigest()
    template = tokenizer.chat_template
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return stable_hash(
        [type(tokenizer).__name__, vocabulary, template, special, sorted(encoder.turn_end_ids)]
    )
