"""Pictures of a run's report as a reader sees it first, by headless Chromium: what README and docs show.

    python benchmarks/shoot_report.py runs/demo                         # docs/images/report.png
    python benchmarks/shoot_report.py runs/demo --out shots --all       # 1280 and 390 px, light and dark, whole pages

The page is built anew from the run before (`emo report`), so that it is the page of this version. Needs `playwright` (extra `dev`) and a Chromium on
the path.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.browser import CHROMIUM, chromium

DOCS = Path(__file__).parents[1] / "docs" / "images" / "report.png"

_PICKED = 12
"""Place of the image that is picked on the map, from the left."""

_SETTLED = 800
"""Milliseconds until the map in its frame has been drawn."""


def shoot(browser: Browser, page_file: Path, out: Path, width: int, *, dark: bool = False, height: int | None = None) -> None:
    """One picture.

    Args:
        browser: running.
        page_file: the report.
        out: the .png.
        width: of the window, CSS pixels.
        dark: the page's dark colours.
        height: of the picture; None takes the whole page.
    """
    page = browser.new_page(viewport={"width": width, "height": height or 900}, color_scheme="dark" if dark else "light")
    page.goto(page_file.resolve().as_uri())
    for frame in page.locator("iframe").all():
        frame.scroll_into_view_if_needed()
        page.wait_for_timeout(_SETTLED)
        # One image picked on the map, by keyboard, so that its card is seen.
        plot = frame.content_frame.locator("svg.plot")
        for _ in range(_PICKED if plot.count() else 0):
            plot.press("ArrowRight")
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(_SETTLED)
    out.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=out, full_page=height is None)
    page.close()


def main(argv: list[str]) -> int:
    """Build the page, and take its pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("run", type=Path, help="a finished run, runs/NAME")
    parser.add_argument(
        "--out", type=Path, default=DOCS, help="the .png; with --all a folder (default: docs/images/report.png)"
    )
    parser.add_argument("--all", action="store_true", help="whole pages at 1280 and 390 px, light and dark")
    args = parser.parse_args(argv)
    if CHROMIUM is None:
        print("no Chromium on the path", file=sys.stderr)
        return 2
    from emo_lightning.report.build import build_report

    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        page = build_report(args.run, Path(folder) / "report.html").html
        if args.all:
            for width in (1280, 390):
                for dark in (False, True):
                    name = args.out / f"{width}-{'dark' if dark else 'light'}.png"
                    shoot(browser, page, name, width, dark=dark)
                    print(name)
            shoot(browser, page, args.out / "390-first-screen.png", 390, height=844)
        else:
            shoot(browser, page, args.out, 1280, height=1900)
            print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
