"""``data=mixed``: several sources in one data set."""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from hydratune.data.rows import Row, with_system
from hydratune.data.sources.base import OpenedSource, SourceConfig
from hydratune.errors import ConfigError, DataError, Problem
from hydratune.settings import packages
from hydratune.settings.data import DataConfig
from hydratune.settings.not_given import not_given
from hydratune.settings.paths import expand_paths
from hydratune.settings.registry import is_own, variant, variant_class, variant_names

_NOT_MIXED = ("mixed", "prepared")
_OWN_OF_A_PART = {"system_prompt", "max_train_rows"}  # shared settings that each part may have


@dataclass(frozen=True)
class MixturePart:
    """One part of the mixture: its settings, and its weight among the training rows."""

    settings: SourceConfig
    weight: float


@variant("data", "mixed")
@dataclass
class MixedData(SourceConfig):
    """Several sources in one set. ``parts.NAME`` has the settings of one: its ``source``, that
    source's own settings, and ``weight``.

    Of the shared settings a part has its own ``system_prompt`` and ``max_train_rows``; the others
    are those of the whole.
    """

    source: str = "mixed"
    # name -> source, the settings of that source, and weight
    parts: dict[str, Any] = field(default_factory=dict)

    def source_problems(self) -> Iterator[Problem]:
        """Yield the problems of the parts."""
        if not self.parts:
            fix = "data.parts.NAME.source=files data.parts.NAME.train=FILE"
            yield Problem("data.parts", "{}", "there is nothing to mix", fix)
        for name, values in self.parts.items():
            yield from _part_problems(f"data.parts.{name}", values)

    def read_first_rows(self) -> None:
        for name, values in self.parts.items():
            settings = read_part(values).settings
            with _named_settings(name, settings):
                settings.read_first_rows()

    def open(self) -> OpenedSource:
        """Open all parts together.

        The training rows of a part are as many as its weight allows without repeating a row of any
        part. Which of them are used is decided by a hash, so that rows added to one part change few
        rows of the others. Raises ``DataError`` if the parts have different splits.
        """
        parts = {name: read_part(values) for name, values in self.parts.items()}
        sources: dict[str, OpenedSource] = {}
        for name, part in parts.items():
            with _named_settings(name, part.settings):
                sources[name] = part.settings.open()
        splits = _common_splits(sources)
        used = _choose_rows(parts)
        total = sum(map(len, used.values()))
        statements = [
            f"{name}: {len(rows):,} of its training rows, {100 * len(rows) / total:.0f} % of all"
            for name, rows in used.items()
        ]
        rows = {split: _rows(parts, sources, split, used, statements) for split in splits}
        identity = {
            name: _identity(parts[name].settings, source) for name, source in sources.items()
        }
        about = sum(source.about for source in sources.values())
        return OpenedSource(rows, identity, about, statements)


@contextmanager
def _named_settings(name: str, settings: SourceConfig) -> Iterator[None]:
    """Raise a ``DataError`` of a part with its settings as they are typed here."""
    try:
        yield
    except DataError as error:
        raise DataError(_as_typed_here(name, settings, str(error))) from None


def _as_typed_here(name: str, settings: SourceConfig, text: str) -> str:
    """Return a message or statement of a part's reader with ``data.parts.NAME.`` for ``data.``."""
    own = {f.name for f in fields(settings)} - {f.name for f in fields(DataConfig)}
    names = "|".join(sorted(own | _OWN_OF_A_PART))
    return re.sub(rf"\bdata\.(?=(?:{names})\b)", f"data.parts.{name}.", text)


def _identity(settings: SourceConfig, source: OpenedSource) -> object:
    """Return the identity of a part, with that of its code if it is of a package."""
    kind = type(settings)
    return source.identity if is_own(kind) else [source.identity, packages.source_hash(kind)]


def read_part(values: Mapping[str, Any]) -> MixturePart:
    """Return one of ``data.parts``.

    Raises OmegaConf's own errors and ``KeyError``.
    """
    own = {name: value for name, value in values.items() if name != "weight"}
    schema = OmegaConf.structured(variant_class("data", own["source"]))
    settings = OmegaConf.to_object(OmegaConf.merge(schema, OmegaConf.create(own)))
    assert isinstance(settings, SourceConfig)
    expand_paths(settings)
    return MixturePart(settings, float(values.get("weight", 1)))


def _part_problems(key: str, values: object) -> Iterator[Problem]:
    """Yield the problems of the part with the settings ``values``, whose key is ``key``."""
    settings: dict[str, Any] = values if isinstance(values, dict) else {}
    source, weight = settings.get("source"), settings.get("weight", 1)
    sources = [name for name in variant_names("data") if name not in _NOT_MIXED]
    if source not in sources:
        yield Problem(f"{key}.source", source, "no such source", f"one of: {', '.join(sources)}")
        return
    try:
        variant_class("data", str(source), f"{key}.source")
    except ConfigError as error:
        yield from error.problems
        return
    is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not is_number or not 0 < weight < math.inf:
        yield Problem(f"{key}.weight", weight, "must be a number above 0", "for example 1")
        return
    shared = {shared.name for shared in fields(DataConfig)} - _OWN_OF_A_PART
    for name in sorted(shared & settings.keys()):
        why = "this is decided for all parts together"
        yield Problem(f"{key}.{name}", settings[name], why, f"set data.{name}")
    try:
        own = read_part(settings).settings
    except MissingMandatoryValue as error:
        yield not_given(f"{key}.{error.key}")
        return
    except OmegaConfBaseException as error:
        name = getattr(error, "full_key", None) or ""
        why, fix = str(error).splitlines()[0], f"see conf/data/{source}.yaml"
        yield Problem(f"{key}.{name}", settings.get(name, ""), why, fix)
        return
    for problem in own.source_problems():
        fix = problem.fix.replace(f"{problem.key}=", "it to ").replace("data.", f"{key}.")
        yield replace(problem, key=problem.key.replace("data.", f"{key}.", 1), fix=fix)


def _common_splits(sources: Mapping[str, OpenedSource]) -> list[str]:
    """Return the splits that all parts have. Raises ``DataError`` if they are different."""
    splits = {name: sorted(source.rows) for name, source in sources.items()}
    if len(set(map(tuple, splits.values()))) > 1:
        listed = "; ".join(f"{name}: {', '.join(own)}" for name, own in splits.items())
        raise DataError(
            f"data.parts: some parts have a split that other parts lack ({listed}); give every part"
            " the same splits"
        )
    return next(iter(splits.values()))


def _choose_rows(parts: Mapping[str, MixturePart]) -> dict[str, frozenset[int]]:
    """Return part -> the numbers of the training rows that are used."""
    from hydratune.data.splits import unit_hash

    ranked: dict[str, list[int]] = {}
    for name, part in parts.items():
        rows = part.settings.open().rows["train"]
        hashes = [unit_hash(f"mix/{name}/{row.id}") for row in rows]
        order = sorted(range(len(hashes)), key=hashes.__getitem__)
        ranked[name] = order[: part.settings.max_train_rows]
    unit = min(len(ranked[name]) / part.weight for name, part in parts.items())
    return {
        name: frozenset(ranked[name][: round(unit * part.weight)]) for name, part in parts.items()
    }


def _rows(
    parts: Mapping[str, MixturePart],
    sources: Mapping[str, OpenedSource],
    split: str,
    used: Mapping[str, frozenset[int]],
    statements: list[str],
) -> Iterator[Row]:
    """Yield the rows of one split, part by part, and add the statements of each part."""
    for name, part in parts.items():
        source = sources[name]
        for number, row in enumerate(source.rows[split]):
            if split == "train" and number not in used[name]:
                continue
            named = replace(row, id=f"{name}/{row.id}", meta={**row.meta, "part": name})
            yield with_system(named, part.settings.system_prompt)
        own = (_as_typed_here(name, part.settings, statement) for statement in source.statements)
        named_statements = [f"{name}: {statement}" for statement in own]
        statements += [text for text in named_statements if text not in statements]
