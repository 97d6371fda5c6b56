"""Parses the pages that the package writes."""

import html.parser
import re


class Page(html.parser.HTMLParser):
    """The tags and words of a page; fails on a tag that is closed out of order.

    Attributes:
        void: tags that the page may use without closing them.
        open: tags that are open at the moment.
        tags: (name, attributes) in the order of the page.
        words: texts outside of styles and scripts.
    """

    void = frozenset({"meta", "link", "img", "source", "wbr", "br", "hr", "input"})

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> out of order at {self.getpos()}"

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """Returns the attributes of each tag of a name."""
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def text(self) -> str:
        """All words, with single blanks between them."""
        return re.sub(r"\s+", " ", " ".join(self.words))
