"""The shared page and its pictures, for the pages of runs, decisions and judges.

``page`` finds templates of this folder as well; see ``hydratune.pages`` for what they inherit.
"""

from pathlib import Path

from hydratune.pages.charts import Line, Point, bar, curves
from hydratune.pages.filled import fill

__all__ = ["Line", "Point", "bar", "curves", "page"]

_HERE = Path(__file__).parent


def page(template: str, **values: object) -> str:
    """Return ``template``, which inherits from page.html.j2, filled with ``values``."""
    return fill(template, values, folder=_HERE)
