"""The page in a real browser: by mouse, keyboard and finger, at every width. Skipped where there is no Chromium."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect

from emo_lightning.data.tar_index import TarIndex
from emo_lightning.inference.fitting import fit
from emo_lightning.inference.model import EmotionModel
from emo_lightning.models.spread import TrainingSpread
from tests.made import write_world
from tests.serve.conftest import SEEN, Running, opened


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """Pages that fail their test on any error, refused resource, or request to elsewhere."""
    made = browser.new_context(viewport={"width": 1280, "height": 800}, has_touch=True, permissions=["camera"])
    made.set_default_timeout(60_000)
    problems: list[str] = []

    def on_message(message: ConsoleMessage) -> None:
        # A refused picture is a 400, which the console notes.
        if message.type == "error" and "status of 400" not in message.text:
            problems.append(message.text)

    def on_request(request: Request) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "data:", "blob:")):
            problems.append(request.url)

    made.on("weberror", lambda error: problems.append(str(error.error)))
    made.on("console", on_message)
    made.on("request", on_request)
    yield made
    made.close()
    assert problems == []


@pytest.fixture
def page(context: BrowserContext, running: Running) -> Page:
    opened = context.new_page()
    opened.goto(running.page)
    opened.wait_for_selector("body[data-ready]")
    return opened


@pytest.fixture
def file(pictures: list[bytes], tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    path.write_bytes(pictures[0])
    return path


def explain(page: Page, file: Path) -> None:
    page.set_input_files("#file", file)
    page.wait_for_selector("main.found .headline")


def test_a_picture_is_explained_and_words_and_boxes_light_each_other_up(page: Page, file: Path) -> None:
    explain(page, file)
    assert page.locator(".bars li").count() == 8
    shares = [float(text.split()[0]) for text in page.locator(".bars .number").all_inner_texts()]
    assert shares == sorted(shares, reverse=True)
    inside = page.locator(".bars .inside").count()
    assert 1 <= inside <= 8
    assert page.locator(".bars .inside span:first-child").first.inner_text() == page.locator(".headline h2").inner_text()
    assert page.locator(".sentence").inner_text() == SEEN["description"], "text is text"
    assert page.locator(".steps .on").count() == 7
    assert page.locator(".spot").count() == page.locator(".regions li").count() == 2
    word = page.locator(".word")
    assert word.inner_text() == "dogs"
    word.hover()
    assert page.locator(".spot.lit").count() == 2, "both boxes are dogs"
    line = "(node) => getComputedStyle(node).borderBottomColor"
    lined = word.evaluate(line)
    page.locator(".headline").hover()
    assert page.locator(".lit").count() == 0
    assert word.evaluate(line) == lined, "a word keeps its region's colour while it is pointed at"
    page.locator(".spot").last.hover()
    assert "lit" in (word.get_attribute("class") or "")
    assert page.locator(".regions li.lit").count() == 1
    page.locator(".regions button").first.focus()
    page.keyboard.press("Shift+Tab")
    assert word.evaluate("(node) => node === document.activeElement"), "by keyboard as well"
    assert page.locator(".spot.lit").count() == 2


def test_a_region_is_covered_and_what_becomes_of_the_emotion_is_told(page: Page, file: Path) -> None:
    explain(page, file)
    page.locator(".regions button").first.press("Enter")
    told = page.locator(".told").first
    expect(told).to_have_text(re.compile(r"\w+ \d+\s% → \d+\s% when it is covered"))
    assert page.locator(".spot.covered").count() == 1
    # The larger of the two; the smaller one stands above it.
    page.locator(".spot").first.tap()
    assert page.locator(".spot.covered").count() == 1
    expect(page.locator(".told:not(:empty)")).to_have_count(2)
    page.locator(".regions button[aria-pressed=true]").click()
    assert page.locator(".spot.covered").count() == 0
    assert "emo index build" in page.locator("#near").inner_text(), "how to make an index is said"


def test_a_picture_unlike_the_training_set_is_called_that(
    page: Page, file: Path, model: EmotionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    explain(page, file)
    assert page.locator(".warn").count() == 0, "this model does not know what it was trained on"
    tars = write_world(tmp_path / "drawn", train=80, val=20, test=1)
    monkeypatch.setattr(model, "spread", fit(model, *([str(tars / f"world-{name}-*.tar")] for name in ("train", "val"))).spread)
    photograph = tmp_path / "photograph.png"
    Image.fromarray(pytest.importorskip("skimage.data").grass()).save(photograph)
    page.reload()
    page.wait_for_selector("body[data-ready]")
    explain(page, photograph)
    assert page.locator(".warn").inner_text().startswith("Unlike what this model was trained on")
    assert "no set of them is sure" in page.locator(".said").inner_text()
    drawing = tmp_path / "drawing.png"
    TarIndex.open(str(tars / "world-train-*.tar")).image(0).save(drawing)
    explain(page, drawing)
    expect(page.locator(".warn")).to_have_count(0)


def test_the_nearest_images_and_the_way_to_one_of_them(
    context: BrowserContext,
    indexed: Running,
    file: Path,
    pictures: list[bytes],
    model: EmotionModel,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (other := tmp_path / "other.png").write_bytes(pictures[1])
    page = context.new_page()
    page.goto(indexed.page)
    page.wait_for_selector("body[data-ready]")
    explain(page, file)
    expect(page.locator("#near .grid .card")).to_have_count(8)
    page.locator("#near .grid .card img").first.scroll_into_view_if_needed()
    until(page, lambda: page.locator("#near .grid img").first.evaluate("(image) => image.naturalWidth > 0"))
    page.locator("#near .grid button").last.press("Enter")
    page.wait_for_selector("#near .path li")
    assert page.locator("#near .path .caption").first.inner_text() == "your picture"
    assert 3 <= page.locator("#near .path li").count() <= 7
    ends = "document.getElementById('near').getBoundingClientRect().top - document.getElementById('bring').getBoundingClientRect().bottom"
    assert page.evaluate(ends) >= 0, "the picture stays above them while the page is scrolled"
    if (folder := os.environ.get("EMO_SCREENSHOTS")) is not None:
        page.screenshot(path=f"{folder}/near.png")
    page.set_input_files("#second", file)
    expect(page.locator("#near .path .caption").last).to_have_text("the other one")
    assert page.locator("#near .path").evaluate("(way) => way.scrollWidth <= way.clientWidth"), "a way is seen whole"
    page.set_viewport_size({"width": 390, "height": 844})
    for row in page.locator(".feeling").all():
        box, dot = row.bounding_box(), row.locator(".dot").bounding_box()
        assert box is not None
        assert dot is not None
        assert box["height"] < 1.5 * 16, "an emotion stands on one line with its dot"
        assert dot["y"] < box["y"] + box["height"]
    tall = defaultdict[float, set[int]](set)
    for card in page.locator("#near .grid .card").all():
        box = card.bounding_box()
        assert box is not None
        tall[round(box["y"])].add(round(box["height"]))
    assert [len(heights) for heights in tall.values()] == [1] * len(tall), "the cards of a row are of one height"
    page.locator("#near .path").scroll_into_view_if_needed()
    explain(page, other)
    expect(page.locator("#near .path li")).to_have_count(0)
    assert page.locator("#near .row p").inner_text().startswith("Choose an image above"), "nothing is left of the way"
    expect(page.locator("#mat img")).to_be_in_viewport()
    # Of a model to which every picture is unlike.
    spread = TrainingSpread.fit([model.look([opened(one) for one in pictures])], [model.look([opened(pictures[0])])], 0.5)
    spread.threshold = 1e-9
    monkeypatch.setattr(model, "spread", spread)
    page.set_input_files("#second", file)
    expect(page.locator("#near .row p")).to_contain_text("picture.png is unlike what this model was trained on")


def until(page: Page, condition: Callable[[], bool]) -> None:
    """Wait for something that no selector names; the page's policy forbids evaluating strings in it."""
    for _ in range(2400):
        if condition():
            return
        page.wait_for_timeout(25)
    raise AssertionError("it never came about")


def test_dropped_pasted_and_taken_pictures(page: Page, file: Path, tmp_path: Path) -> None:
    given = "(bytes) => new File([new Uint8Array(bytes)], 'a.png', { type: 'image/png' })"
    for event, key in (("drop", "dataTransfer"), ("paste", "clipboardData")):
        page.evaluate(
            f"""(bytes) => {{
              const data = new DataTransfer();
              data.items.add(({given})(bytes));
              const event = new Event("{event}", {{ bubbles: true, cancelable: true }});
              Object.defineProperty(event, "{key}", {{ value: data }});
              document.body.dispatchEvent(event);
            }}""",
            list(file.read_bytes()),
        )
        page.wait_for_selector("main.found .headline")
        page.reload()
        page.wait_for_selector("body[data-ready]")
    page.click("#camera")
    page.get_by_role("button", name="Take it").click()
    page.wait_for_selector("main.found .headline")
    text = tmp_path / "text.png"
    text.write_text("I am no picture")
    page.set_input_files("#file", text)
    expect(page.locator("#note.bad")).to_contain_text("not an image in JPEG, PNG or WebP")
    assert page.locator(".headline").count() == 1, "what was there stays"


@pytest.mark.parametrize("width", [390, 1280, 3840])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_leaves_the_page_or_is_too_small_for_a_finger(page: Page, file: Path, width: int, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
    page.set_viewport_size({"width": width, "height": {390: 844, 1280: 800, 3840: 2160}[width]})
    explain(page, file)
    page.locator(".regions button").first.click()
    page.wait_for_selector(".told:not(:empty)")
    if (folder := os.environ.get("EMO_SCREENSHOTS")) is not None:
        page.mouse.move(0, 0)
        page.screenshot(path=f"{folder}/{width}-{scheme}.png", full_page=width == 390)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for button in page.locator("button:not(.word, .spot)").all():
        box = button.bounding_box()
        assert box is not None
        assert box["height"] >= 40
    assert page.evaluate("getComputedStyle(document.querySelector('.spot')).transitionDuration") == "0s"


def test_the_description_of_the_api_is_a_page_without_scripts(page: Page, running: Running) -> None:
    page.goto(f"{running.page}docs")
    assert page.locator("section").count() >= 8
    assert page.locator("script").count() == 0
