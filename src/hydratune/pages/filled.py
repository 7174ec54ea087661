"""Fill a template: ``templates/page.html.j2`` is what all pages share.

Every printed text is escaped, and characters that cannot be seen are named.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from hydratune.pages.spans import named, shortened, spans
from hydratune.wording import counted

TEMPLATES = Path(__file__).parent / "templates"
_SHOWN_ID = 160  # characters


def fill(template: str, values: Mapping[str, object], folder: Path = TEMPLATES) -> str:
    """Return ``template`` filled with ``values``.

    ``folder``: where else the template may lie; what it inherits from is in ``TEMPLATES``.
    """
    return _environment(folder).get_template(template).render(**values)


def share(part: float, whole: float) -> str:
    """Return ``part`` in per cent of ``whole``."""
    if not whole:
        return "–"
    percent = 100 * part / whole
    if percent >= 10 or percent == 0:
        return f"{percent:.0f} %"
    return f"{percent:.1f} %" if percent >= 0.1 else "< 0.1 %"


@cache
def raw(part: str) -> Markup:
    """Return a style sheet or a script of ``TEMPLATES`` as it is."""
    return Markup((TEMPLATES / part).read_text("utf-8"))


@cache
def _environment(folder: Path) -> Environment:
    environment = Environment(
        loader=FileSystemLoader([TEMPLATES, folder]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"counted": counted, "raw": raw}
    environment.filters |= {
        "n": "{:,}".format,
        "share": share,
        "spans": spans,
        "short": lambda text: shortened(str(text), _SHOWN_ID),
    }
    return environment


def _printable(value: object) -> object:
    """Name the hidden characters in a printed text.

    Markup comes from templates and pictures, and its texts went through here.
    """
    return named(value) if isinstance(value, str) and not isinstance(value, Markup) else value
