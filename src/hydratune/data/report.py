"""report.html."""

from pathlib import Path
from typing import Any


def write_html(path: Path, report: dict[str, Any]) -> None:
    path.write_text("")
