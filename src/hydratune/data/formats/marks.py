"""Keys of a turn that say whether it is trained.

Known are ``train``, OpenAI's and Mistral's ``weight``, ``loss`` (ms-swift, XTuner, AgentInstruct),
axolotl's ``training`` and ``train_on_turn``, ``trainable``, and torchtune's ``masked``. A key that
looks like one of these and is none is refused: what it says would be ignored, and turns that are
marked as wrong would be trained.
"""

import re
from collections.abc import Mapping
from typing import Any

from hydratune.data.formats.verdicts import is_bad
from hydratune.errors import DataError

TRAINED = (
    "train",
    "training",
    "trained",
    "trainable",
    "is_trainable",
    "train_on_turn",
    "loss",
    "weight",
    "loss_weight",
    "loss_scale",
)
CONTEXT = ("masked", "is_masked")  # true: not trained
_MARKS = {*TRAINED, *CONTEXT}
_DECIDES = re.compile(r"(^|_)(train|loss|mask|weight|supervis|ignore|skip|exclu|unlearn)")
_WORDS = {"true", "false", "yes", "no", "0", "1"}


def is_trained(turn: Mapping[str, Any], role: str, where: str) -> bool:
    """Whether an assistant turn is trained; true for others.

    Raises ``DataError`` for marks that are unclear or disagree.
    """
    if turn.keys().isdisjoint(_MARKS):
        return True
    said = {
        key: _value(turn[key], key, role, where)
        for key in (*TRAINED, *CONTEXT)
        if not is_missing(turn.get(key))
    }
    stated = {key: value != (key in CONTEXT) for key, value in said.items()}
    if len(set(stated.values())) == 2:
        raise DataError(
            f"{where}: {' and '.join(stated)} of the {role} turn say opposite things; keep one of"
            " them"
        )
    if role not in ("assistant", "function_call"):
        if True in stated.values():
            key = next(iter(stated))
            raise DataError(
                f"{where}: the {role} turn is marked as trained ({key}: {turn[key]}); only"
                " assistant turns can be"
            )
        return True
    return False not in stated.values()


def is_missing(value: Any) -> bool:
    """Null, or not a number, which pandas writes for null."""
    return value is None or value != value


def _value(value: Any, key: str, role: str, where: str) -> bool:
    if isinstance(value, bool) or (isinstance(value, int | float) and value in (0, 1)):
        return bool(value)
    meant = "0 (context) or 1 (trained)" if "weight" in key or "scale" in key else "true or false"
    raise DataError(f"{where}: {key} of the {role} turn must be {meant}, this is {value!r}")


def refuse_bad(turn: Mapping[str, Any], key: str, role: str, where: str) -> None:
    """A turn that is marked as bad would be taught, unless it says itself whether it is trained.

    Raises ``DataError``.
    """
    stated = any(not is_missing(turn.get(mark)) for mark in _MARKS)
    if role in ("assistant", "function_call") and not stated and is_bad(key, turn[key]):
        raise DataError(
            f"{where}: {key} = {str(turn[key])[:40].lower()} of the {role} turn says that it is not"
            " to be learned, and training would "
            'teach it; write "train": false into the turn, which is then context, or "train": true'
            f" if {key} means something else"
        )


def refuse_unclear(turn: Mapping[str, Any], key: str, role: str, where: str) -> None:
    """``key``, which nothing reads, must not look like one that decides what is trained."""
    if seems_to_decide(key, turn[key]):
        raise DataError(
            f"{where}: {key} of the {role} turn looks like a mark of what is trained, and it is not"
            f" known whether {turn[key]!r} means trained or not; write train: true or train: false"
            f" instead, and take {key} out"
        )


def seems_to_decide(key: str, value: Any) -> bool:
    if isinstance(value, str) and value.strip().lower() not in _WORDS:
        return False
    snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).replace("-", "_").lower()
    return _DECIDES.search(snake) is not None
