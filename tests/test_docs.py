"""What the pages tell a reader to type is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
_PLACE = re.compile(r"runs/demo/[\w./*-]*[\w*]")


def test_every_place_of_the_demo_that_is_named_is_made_by_it(demo_folder: Path) -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    pages += sorted((ROOT / "docs").rglob("*.ipynb")) + sorted((ROOT / "emo_lightning").rglob("*.py"))
    named = {place: page for page in pages for place in _PLACE.findall(page.read_text(encoding="utf-8"))}
    assert len(named) >= 10
    missing = {place: str(page.relative_to(ROOT)) for place, page in named.items() if not any(demo_folder.glob(f"{place}*"))}
    assert missing == {}, "a reader who types this finds nothing"
