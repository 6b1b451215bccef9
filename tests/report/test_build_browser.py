"""The page in a real browser. Needs `playwright` (Python) and a Chromium on the path; skipped without."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from emo_lightning.report.build import build_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


def opens_with_sentences_and_images(page: Page, width: int) -> None:
    """Words and boxes point at each other, and a phone's first screen holds the sentences and an image."""
    first = page.locator(".seen").first
    image = first.locator("svg.overlay").bounding_box()
    assert image
    assert page.locator(".sentences > p:not(.soft)").count() == 3
    if width == 390:
        assert image["y"] + image["height"] < 800
    stroke = "box => getComputedStyle(box).strokeWidth"
    thin = first.locator("rect.said").evaluate(stroke)
    first.locator(".thing.said").last.focus()
    assert first.locator("rect.said").evaluate(stroke) == "5px" != thin
    assert page.locator("td.quiet").first.is_hidden(), "columns for comparison wait until they are asked for"
    page.locator("input.all").first.check()
    assert page.locator("td.quiet").first.is_visible()


@pytest.mark.slow
def test_page_fits_the_screen_asks_nothing_and_opens(browser: Browser, finished_run: Path, tmp_path: Path) -> None:
    other = shutil.copytree(finished_run, tmp_path / "a run with quite a long name, longer than a phone is wide")
    pages = [build_report(runs, tmp_path / f"{n}.html").html for n, runs in enumerate(([finished_run], [finished_run, other]))]
    problems: list[str] = []
    for width in (1360, 1000, 800, 390):
        for path in pages:
            page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme="dark")
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("request", lambda r: problems.extend([] if r.url.startswith(("file:", "data:", "about:")) else [r.url]))
            page.goto(path.as_uri())
            if path == pages[0]:
                opens_with_sentences_and_images(page, width)
            page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
            assert page.evaluate("document.documentElement.scrollWidth") == width
            assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 23, 26)"
            assert page.evaluate("[...document.querySelectorAll('.rows dd')].every(text => text.clientWidth > 300)"), (
                "what the rows mean, in lines of several words"
            )
            for anchor in page.eval_on_selector_all(".bar a", "links => links.map(a => a.getAttribute('href'))"):
                assert page.locator(f"[id='{anchor[1:]}']").count() == 1
                page.click(f".bar a[href='{anchor}']")
                bar = page.evaluate("document.querySelector('.bar').getBoundingClientRect().bottom")
                heading = page.locator(f"[id='{anchor[1:]}']").evaluate("heading => heading.getBoundingClientRect().top")
                assert heading >= bar, f"{anchor} stands below the bar"
            assert problems == []
            page.close()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_how_far_to_believe_the_map_is_seen_when_it_opens(
    browser: Browser, finished_run: Path, tmp_path: Path, width: int, height: int
) -> None:
    page = browser.new_page(viewport={"width": width, "height": height})
    page.goto(build_report(finished_run, tmp_path / "report.html").html.as_uri())
    frame = page.locator("iframe").first
    frame.scroll_into_view_if_needed()
    shown = frame.content_frame.locator("details")
    below = "details => details.getBoundingClientRect().bottom - innerHeight"
    shown.wait_for()
    assert shown.evaluate(below) <= 0, "its title stands within the frame"
    shown.locator("summary").click()
    page.wait_for_timeout(200)
    assert shown.evaluate(below) <= 1
    page.close()
