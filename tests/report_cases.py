"""Entries of a data report, hostile texts for all of them, and a parser of the page."""

from html.parser import HTMLParser
from typing import Any

from hydratune.data.quality.findings import CHECKS

HOSTILE = (
    '<script>alert(1)</script></style></title><img src=x onerror=alert(2)>" onmouseover="alert(3)"'
    " ' https://evil.example/ {{ 7 * 7 }}"
)


ALLOWED_TAGS = {
    *(
        "html",
        "main",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "header",
        "nav",
        "section",
        "footer",
        "h1",
        "h2",
        "h3",
        "p",
        "a",
        "b",
        "small",
    ),
    *(
        "dl",
        "div",
        "dt",
        "dd",
        "span",
        "code",
        "mark",
        "details",
        "summary",
        "figure",
        "figcaption",
        "table",
        "caption",
        "thead",
        "tbody",
    ),
    *("tr", "th", "td", "svg", "desc", "rect", "line", "text"),
}


def check_entry(name: str, level: str = "warn", count: int = 0, **more: Any) -> dict[str, Any]:
    words = CHECKS[name]
    plain = {
        "level": level,
        "count": count,
        "title": words.title,
        "why": words.why,
        "fix": words.fix,
        "note": "",
        "rows": [],
        "examples": [],
    }
    return {**plain, **more}


def split_entry(
    rows: int, longest: int = 40, histogram: tuple[int, ...] = (0, 0, 0, 0)
) -> dict[str, Any]:
    quantiles = {"0": 5, "50": longest // 2, "90": longest, "99": longest, "100": longest}
    return {
        "rows": rows,
        "too_long": 0,
        "tokens": 20 * rows,
        "trained_tokens": 7 * rows,
        "quantiles": quantiles,
        "histogram": list(histogram),
    }


def cleaning_entry(
    on: bool, rows: int, title: str, examples: list[dict[str, str]]
) -> dict[str, Any]:
    return {"on": on, "rows": rows, "title": title, "examples": examples}


class Page(HTMLParser):
    """The page as a browser sees it: elements, attributes and visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = self.css = ""
        self.marked: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["style"]:
            self.css += data
        else:
            self.text += data
        if self.open[-1:] == ["mark"]:
            self.marked.append(data)

    def with_class(self, name: str) -> list[str]:
        return [
            tag
            for tag, attributes in self.elements
            if name in (attributes.get("class") or "").split()
        ]


def with_hostile_texts(value: Any) -> Any:
    """Return ``value`` with all texts replaced except those that our own code writes."""
    ours = {"level", "overlength", "quantiles", "splits", "tokens", "checks", "cleaning"}
    if isinstance(value, dict):
        return {
            key: item if key in ours else with_hostile_texts(item) for key, item in value.items()
        }
    if isinstance(value, list):
        return [with_hostile_texts(item) for item in value]
    return f"{HOSTILE}{value}" if isinstance(value, str) else value


def hostile_report(report: dict[str, Any]) -> dict[str, Any]:
    """Return ``report`` with hostile texts wherever data, files or names could have put texts."""
    hostile = with_hostile_texts(report)
    hostile["checks"] = {
        name: {**with_hostile_texts(check), "level": check["level"]}
        for name, check in report["checks"].items()
    }
    hostile["cleaning"] = {
        name: with_hostile_texts(entry) for name, entry in report["cleaning"].items()
    }
    hostile["labels"] = {HOSTILE: {f"{HOSTILE}{i}": i + 1 for i in range(30)}}
    hostile["tokens"] = {**report["tokens"], "model": HOSTILE}
    return hostile
