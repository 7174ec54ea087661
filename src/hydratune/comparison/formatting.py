"""How settings and p values of a comparison are written: short, and the same everywhere."""

from collections.abc import Sequence

_LEAST_P = 1e-4  # smaller p values are written as "< 0.0001"
_LONGEST = 24  # letters of a setting


def canonical(value: object) -> str:
    """Return the same text for the same value, whether it was written as 8 or as 8.0."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Return each setting's name cut to as few of its last parts as keep the names unique."""
    names = {}
    for key in keys:
        parts = key.split(".")
        endings = (".".join(parts[-n:]) for n in range(1, len(parts) + 1))
        names[key] = next((ending for ending in endings if _is_unique(ending, keys)), key)
    return names


def _is_unique(ending: str, keys: Sequence[str]) -> bool:
    return sum(f".{key}".endswith(f".{ending}") for key in keys) == 1


def format_value(value: object) -> str:
    """Return a setting or number in few letters; a long text is shortened to its beginning."""
    if value is None:
        return "-"
    text = f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST].rstrip()} ..."


def format_distinct(values: Sequence[object]) -> dict[str, str]:
    """Return ``canonical`` value -> ``format_value``, with equal texts numbered."""
    texts: dict[str, str] = {}
    for value in values:
        text, key = format_value(value), canonical(value)
        if key not in texts:
            same = sum(other.partition(" (")[0] == text for other in texts.values())
            texts[key] = f"{text} ({same + 1})" if same else text
    return texts


def format_p(p: float) -> str:
    """Return a p value with its sign, to follow the letter p: "= 0.03", "< 0.0001"."""
    return f"< {_LEAST_P:g}" if p < _LEAST_P else f"= {p:.2g}"


def format_list(names: Sequence[str], most: int, separator: str = ", ") -> str:
    """Return the first ``most`` names, followed by how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{separator.join(names[:most])}{more}"
