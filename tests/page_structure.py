"""The structure of an HTML page, for tests of all pages."""

import itertools
import re
from html.parser import HTMLParser

_VOID = {"meta", "input", "br", "img", "link", "hr"}
_SVG_LEAVES = {"rect", "line", "circle", "polyline"}


class Structure(HTMLParser):
    """Elements with their attributes, and texts by the element that contains them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []  # (open tags, text)
        self._open: list[str] = []
        self.feed(page)
        self.unclosed = list(self._open)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1] == tag, f"</{tag}> closes {self._open[-3:]}"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append((tuple(self._open), data))

    def attributes(self, tag: str) -> list[dict[str, str]]:
        return [own for name, own in self.elements if name == tag]

    @property
    def ids(self) -> list[str]:
        return [own["id"] for _, own in self.elements if "id" in own]

    @property
    def headings(self) -> list[int]:
        return [int(tag[1]) for tag, _ in self.elements if re.fullmatch(r"h[1-6]", tag)]


def check_page(page: str) -> Structure:
    """Assert what holds for every page, and return its structure."""
    found = Structure(page)
    assert page.startswith("<!doctype html>") and not found.unclosed
    assert len(found.ids) == len(set(found.ids)), "an id stands twice"
    _check_outline(found)
    _check_links(found)
    _check_tables(found)
    for svg in found.attributes("svg"):
        assert svg.keys() & {"aria-label", "aria-labelledby", "aria-hidden"}, (
            "a picture says nothing"
        )
    for tag in ("img", "link", "iframe", "object", "embed", "form", "base"):
        assert not found.attributes(tag), f"<{tag}>"
    assert not any("src" in own or "srcset" in own for _, own in found.elements)
    policy = next(own for own in found.attributes("meta") if "http-equiv" in own)["content"]
    assert policy.startswith("default-src 'none'") and "http" not in policy
    css = "".join(text for tags, text in found.texts if tags[-1:] == ("style",))
    assert not re.search(r"url\(|@import|https?:", css)
    return found


def _check_outline(found: Structure) -> None:
    levels = found.headings
    assert levels[0] == 1 and levels.count(1) == 1, levels
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))
    assert len(found.attributes("main")) == 1 and found.attributes("html") == [{"lang": "en"}]


def _check_links(found: Structure) -> None:
    """Links of the page lead somewhere in it; the others are relative, or anchors to https."""
    targets = [own["href"] for own in found.attributes("a")]
    inside = {target[1:] for target in targets if target.startswith("#")}
    assert inside and inside <= set(found.ids), inside - set(found.ids)
    for target in targets:
        assert re.match(r"#|https://|(?![a-z]+:)(?!/)", target), target


def _check_tables(found: Structure) -> None:
    for own in found.attributes("th"):
        assert own.get("scope") in ("col", "row"), own
    assert len(found.attributes("table")) <= len(found.attributes("th")) + sum(
        own.get("class") == "keys" for own in found.attributes("table")
    )
