"""Read the keys of a turn that say whether it is trained.

Known are ``train``, OpenAI's and Mistral's ``weight``, ``loss`` (ms-swift, XTuner, AgentInstruct),
axolotl's ``training`` and ``train_on_turn``, ``trainable``, and torchtune's ``masked``. A key that
looks like one of these and is none is refused: what it says would be ignored, and turns that are
marked as wrong would be trained.
"""

import re

from hydratune.data.formats.verdicts import is_bad
from hydratune.data.rows import Record
from hydratune.errors import DataError

TRAIN_KEYS = (
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
MASK_KEYS = ("masked", "is_masked")  # true: not trained
_MARKS = {*TRAIN_KEYS, *MASK_KEYS}
_DECIDES = re.compile(r"(^|_)(train|loss|mask|weight|supervis|ignore|skip|exclu|unlearn)")
_TRUTH_WORDS = {"true", "false", "yes", "no", "0", "1"}
_ASSISTANT_ROLES = ("assistant", "function_call")


def is_trained(turn: Record, role: str, where: str) -> bool:
    """Return whether the marks of an assistant turn allow training on it; true for other roles.

    Raises ``DataError`` for marks that are unclear, contradict each other, or mark another role as
    trained.
    """
    if turn.keys().isdisjoint(_MARKS):
        return True
    values = {
        key: _mark_value(turn[key], key, role, where)
        for key in (*TRAIN_KEYS, *MASK_KEYS)
        if not is_missing(turn.get(key))
    }
    trains = {key: value != (key in MASK_KEYS) for key, value in values.items()}
    if len(set(trains.values())) == 2:
        raise DataError(
            f"{where}: {' and '.join(trains)} of the {role} turn say opposite things; keep one of"
            " them"
        )
    if role in _ASSISTANT_ROLES:
        return False not in trains.values()
    if True in trains.values():
        key = next(iter(trains))
        raise DataError(
            f"{where}: the {role} turn is marked as trained ({key}: {turn[key]}); only assistant"
            " turns can be"
        )
    return True


def is_missing(value: object) -> bool:
    """Return whether a value is null, or not a number, which pandas writes for null."""
    return value is None or value != value


def _mark_value(value: object, key: str, role: str, where: str) -> bool:
    if isinstance(value, bool) or (isinstance(value, int | float) and value in (0, 1)):
        return bool(value)
    allowed = "0 (context) or 1 (trained)" if "weight" in key or "scale" in key else "true or false"
    raise DataError(f"{where}: {key} of the {role} turn must be {allowed}, this is {value!r}")


def refuse_bad(turn: Record, key: str, role: str, where: str) -> None:
    """Raise ``DataError`` if ``key`` marks an answer as bad that would be trained.

    A turn that says itself whether it is trained may have such a mark.
    """
    has_own_mark = any(not is_missing(turn.get(mark)) for mark in _MARKS)
    if role in _ASSISTANT_ROLES and not has_own_mark and is_bad(key, turn[key]):
        raise DataError(
            f"{where}: {key} = {str(turn[key])[:40].lower()} of the {role} turn says that it is not"
            ' to be learned, and training would teach it; write "train": false into the turn,'
            f' which is then context, or "train": true if {key} means something else'
        )


def refuse_unclear(turn: Record, key: str, role: str, where: str) -> None:
    """Raise ``DataError`` if ``key``, which nothing reads, looks like a mark of what is trained."""
    if seems_to_decide(key, turn[key]):
        raise DataError(
            f"{where}: {key} of the {role} turn looks like a mark of what is trained, and it is not"
            f" known whether {turn[key]!r} means trained or not; write train: true or train: false"
            f" instead, and take {key} out"
        )


def seems_to_decide(key: str, value: object) -> bool:
    """Return whether a key and its value look like a mark of what is trained."""
    if isinstance(value, str) and value.strip().lower() not in _TRUTH_WORDS:
        return False
    snake_case = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).replace("-", "_").lower()
    return _DECIDES.search(snake_case) is not None
