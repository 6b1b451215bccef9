"""Reads a report as a reader does, after the checks that hold for every page."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from emo_lightning.report.build import build_report

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Balance(HTMLParser):
    """Every element that opens closes, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(page: Path) -> str:
    """The page's text, after the checks that hold for every page."""
    html = re.sub(r"base64,[A-Za-z0-9+/=]+", "base64,", page.read_text(encoding="utf-8"))
    parser = Balance()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    assert not re.search(r"(https?:)?//[a-z]", html), "an address outside the page"
    assert not re.search(r"<(script|link)|@import|url\((?!#)", html)
    assert set(re.findall(r"<iframe[^>]*?(sandbox=\S+)", html)) <= {'sandbox="allow-scripts"'}
    assert all(target.startswith(("#", "data:")) for target in re.findall(r'(?:href|src)="([^"]*)"', html))
    return re.sub(r"\s+", " ", " ".join(parser.text))


def page(runs: Path | list[Path], out: Path) -> str:
    """Text of the report over these runs."""
    return read(build_report(runs, out).html)
