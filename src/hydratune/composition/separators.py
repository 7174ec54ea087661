"""Settings that are typed with spaces around ``=``, or with commas between them.

A shell splits ``optimizer.lr = 1e-3`` into three words, and Hydra would complain about each.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import fields
from functools import cache

from hydratune.composition.value_types import setting_type
from hydratune.errors import InputError
from hydratune.settings.commands import COMMANDS
from hydratune.settings.registry import all_variants

_KEY = r"[+~]*[A-Za-z_][\w./@]*"
_SPACED = re.compile(rf"\A\s*({_KEY})\s+=\s*")
_NEXT_SETTING = re.compile(rf"(?:\s*,\s*|\s+)(?={_KEY}\s*=)")
_GROUPED = re.compile(r"""["'\[\](){}]""")


def refuse_separators(settings: Sequence[str], flags: Sequence[str] = ()) -> None:
    """Raise ``InputError`` if settings have spaces or commas where none belong.

    ``flags``: what was typed beside the settings, which the advice repeats.
    """
    meant = [part for word in _values_joined(_equals_joined(settings)) for part in _split(word)]
    if meant != list(settings):
        raise InputError(
            "settings are written KEY=VALUE, without spaces in one and without commas between them;"
            f" type: {shlex.join([*flags, *meant])}"
        )


def _equals_joined(words: Sequence[str]) -> list[str]:
    """Return the words with each ``=`` that stands alone joined to its setting and its value."""
    result: list[str] = []
    for word, following in zip(words, [*words[1:], ""], strict=False):
        before = result[-1] if result else ""
        begins_setting = "=" in word or following.startswith("=") or word[:1] in ("~", "")
        continues_key = word.startswith("=") and before and "=" not in before
        if continues_key or (before.endswith("=") and not begins_setting):
            result[-1] += word
        else:
            result.append(_SPACED.sub(r"\1=", word))
    return result


def _values_joined(words: Sequence[str]) -> list[str]:
    """Return the words with the parts of a value, such as ``[a,`` and ``b]``, joined."""
    result: list[str] = []
    for word in words:
        before = result[-1] if result else ""
        is_open = before.endswith(",") or word.startswith(",") or _is_open(before)
        if "=" in before and "=" not in word and word[:1] != "~" and is_open:
            result[-1] += word
        else:
            result.append(word)
    return result


def _is_open(word: str) -> bool:
    """Return whether a bracket is not closed; brackets in quotes do not matter."""
    plain = re.sub(r"""(["']).*?\1""", "", word)
    return sum(map(plain.count, "[({")) > sum(map(plain.count, "])}"))


def _split(word: str) -> Iterator[str]:
    """Yield the settings in a word; commas around them are left out."""
    if "=" not in word or _GROUPED.search(word):
        yield word
        return
    word = word.strip(",")
    is_text = setting_type(word.partition("=")[0]).startswith("str")
    begin = 0
    for border in _NEXT_SETTING.finditer(word):
        if not is_text and _is_known(word[border.end() :]):
            yield word[begin : border.start()]
            begin = border.end()
    yield word[begin:]


def _is_known(setting: str) -> bool:
    """Return whether a text begins with the name of a group or setting."""
    return re.split(r"[.=\s@/]", setting.lstrip("+~"), maxsplit=1)[0] in _first_names()


@cache
def _first_names() -> frozenset[str]:
    """Return what a key begins with."""
    own = {field.name for kind in COMMANDS.values() for field in fields(kind)}
    return frozenset({*own, *all_variants(), "hydra", "experiment", "sweep", "debug"})
