"""The review page in a real browser, by keyboard. Needs `playwright` (Python) and a Chromium on the path; skipped without."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from playwright.sync_api import Browser, ConsoleMessage, FloatRect, Page, Request, expect
from pycocotools import mask as coco

from data_prep.review import server as server_module
from data_prep.review.log import ReviewLog
from data_prep.review.server import serving
from data_prep.review.session import ReviewSession
from data_prep.review.study import StudyConfig, open_study, table4
from data_prep.review.study_session import StudySession
from data_prep.store.store import Store
from tests.data_prep.review.conftest import records
from tests.data_prep.review.test_study import GROUPS, cell
from tests.patience import PATIENCE


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that fails its test on any error, refused resource, or request to elsewhere."""
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    opened = context.new_page()
    opened.set_default_timeout(60_000)
    problems: list[str] = []

    def on_message(message: ConsoleMessage) -> None:
        if message.type == "error" and "ERR_FAILED" not in message.text:
            problems.append(message.text)

    def on_request(request: Request) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "data:")):
            problems.append(request.url)

    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", on_message)
    opened.on("request", on_request)
    yield opened
    context.close()
    assert problems == []


def press(page: Page, *keys: str) -> None:
    """Keys one after the other, faster than any reviewer: those that come while a decision is being saved must wait."""
    for key in keys:
        page.keyboard.press(key)


def until(page: Page, condition: Callable[[], bool]) -> None:
    """Wait for something that shows outside of the page's own elements (its policy forbids evaluating strings)."""
    for _ in range(2400):
        if condition():
            return
        page.wait_for_timeout(25)
    raise AssertionError("it never came about")


def left(page: Page, item: str) -> None:
    """Wait until the page shows another record."""
    until(page, lambda: not page.url.endswith(f"#{item}"))


def progress(page: Page, count: int) -> None:
    """Wait until so many records are finished."""
    expect(page.locator("#progress")).to_have_text(re.compile(f"^{count} of"), timeout=1000 * PATIENCE)


def current(page: Page) -> str:
    field = page.locator('[aria-current="true"]').get_attribute("data-field")
    assert field is not None
    return field


def frame_of(page: Page, selector: str) -> FloatRect:
    """Where an element that is shown stands."""
    frame = page.locator(selector).bounding_box()
    assert frame is not None
    return frame


def open_at(page: Page, url: str, item: str) -> None:
    page.goto(f"{url}#{item}")
    page.wait_for_selector(".field")


def test_a_whole_record_by_keyboard_reload_and_the_next(page: Page, store: Store, log: ReviewLog) -> None:
    session = ReviewSession(store, log, "ada", sample=None)
    before = records(store)["toy-0005"][1]
    with serving(session) as server:
        open_at(page, server.url, "toy-0005")
        assert current(page) == "emotion"
        press(page, "m", "7", "Enter")
        page.wait_for_selector('[data-field="emotion"].mended')
        assert page.locator('[data-field="emotion"] .now').inner_text() == "fear"
        assert current(page) == "description"
        press(page, "m")
        page.wait_for_selector("textarea:focus")
        page.keyboard.insert_text("a wolf r w x in the <b>rain</b>")
        press(page, "Enter")
        page.wait_for_selector('[data-field="description"].mended')
        press(page, "r", "w")
        page.wait_for_selector('[data-field="attribute"].wrong')
        press(page, "u")
        page.wait_for_selector('[data-field="attribute"]:not(.wrong)')
        assert current(page) == "attribute"
        press(page, "r", "r", "m", "0", "Enter")
        page.wait_for_selector('[data-field="intensity"].mended')
        assert current(page) == "objects"
        # Keep the first box, take the second out, draw one of our own, move and widen it, and make it the subject.
        press(page, "m", "Tab", " ", "n", "ArrowRight", "Shift+ArrowDown", "p", "Enter")
        page.wait_for_selector('[data-field="objects"].mended')
        page.wait_for_selector("#done")
        page.reload()
        page.wait_for_selector("#done")
        assert page.locator("#progress").inner_text() == "1 of 12 done"
        assert page.locator(".field.mended").count() == 4
        assert page.locator(".field.right").count() == 3
        press(page, "ArrowRight")
        left(page, "toy-0005")
    state, record = records(store)["toy-0005"]
    assert (state, record.emotion, record.intensity) == ("valid", "fear", 10)
    assert record.description == "a wolf r w x in the <b>rain</b>", "text is text, and keys in a text are letters"
    assert (record.background, record.attribute, record.subject) == (before.background, before.attribute, before.subject)
    first, drawn = record.objects
    assert first == before.objects[0].model_copy(update={"primary": False})
    assert drawn.bbox == (12.8, 9.6, 28.8, 23.2)
    assert drawn.primary
    assert drawn.phrase == before.subject


def test_rest_is_right_discard_and_undo(page: Page, store: Store, log: ReviewLog) -> None:
    session = ReviewSession(store, log, "ada", sample=None)
    with serving(session) as server:
        page.goto(server.url)
        page.wait_for_selector(".field")
        assert session.states[page.url.partition("#")[2]] == "human", "the human queue comes first"
        open_at(page, server.url, "toy-0000")
        page.wait_for_selector(".none")
        press(page, "a", "r")
        page.wait_for_selector("#note.shown")
        assert log.reviews() == [], "what was never said cannot be right"
        press(page, "x")
        left(page, "toy-0000")
        press(page, "a")
        progress(page, 2)
        open_at(page, server.url, "toy-0000")
        page.wait_for_selector(".why.gone")
        press(page, "x")
        expect(page.locator(".why")).to_have_count(0, timeout=1000 * PATIENCE)
        press(page, "u", "u")
        progress(page, 1)
        page.keyboard.press("?")
        page.wait_for_selector("dialog[open]")
        assert page.locator("dialog[open] dt").count() > 8
        page.keyboard.press("Escape")
        page.keyboard.press("i")
        page.wait_for_selector("#provenance[open]")
    states = [state for state, _ in records(store).values()]
    assert states.count("human") + states.count("valid") + states.count("discarded") == 12


def test_a_second_reviewer_sees_the_record_and_not_the_first_ones_mind(page: Page, store: Store, log: ReviewLog) -> None:
    with serving(ReviewSession(store, log, "ada", sample=None)) as server:
        open_at(page, server.url, "toy-0005")
        press(page, "m", "7", "Enter", "a")
        left(page, "toy-0005")
    with serving(ReviewSession(store, log, "ben", second=True)) as server:
        page.goto(server.url)
        page.wait_for_selector(".field")
        assert page.locator(".field.right, .field.wrong, .field.mended").count() == 0
        assert "ada" not in page.content()
        press(page, "a")
        page.wait_for_selector("#done")
    assert {r.reviewer for r in log.reviews()} == {"ada", "ben"}


def test_boxes_by_mouse(page: Page, store: Store, log: ReviewLog) -> None:
    with serving(ReviewSession(store, log, "ada", sample=None)) as server:
        open_at(page, server.url, "toy-0005")
        press(page, "ArrowUp", "m")
        frame = frame_of(page, ".frame")
        page.mouse.move(frame["x"] + frame["width"] * 0.25, frame["y"] + frame["height"] * 0.25)
        page.mouse.down()
        page.mouse.move(frame["x"] + frame["width"] * 0.75, frame["y"] + frame["height"] * 0.5, steps=3)
        page.mouse.up()
        press(page, "Enter")
        page.wait_for_selector('[data-field="objects"].mended')
    drawn = records(store)["toy-0005"][1].objects[-1]
    assert drawn.bbox == pytest.approx((10, 8, 30, 16), abs=0.1)


def test_masks_are_decoded_as_pycocotools_does(page: Page, store: Store, log: ReviewLog) -> None:
    rng = np.random.default_rng(0)
    masks = [
        (rng.random((h, w)) < p).astype(np.uint8)
        for h, w, p in ((7, 5, 0.5), (120, 90, 0.02), (64, 64, 0.98), (3, 4, 0), (4, 3, 1))
    ]
    masks.append(np.kron(rng.random((6, 9)) < 0.4, np.ones((11, 17), dtype=np.uint8)).astype(np.uint8))
    with serving(ReviewSession(store, log, "ada", sample=None)) as server:
        page.goto(server.url)
        for mask in masks:
            code = coco.encode(np.asfortranarray(mask))
            given = {"size": code["size"], "counts": code["counts"].decode()}
            found = page.evaluate("async (mask) => Array.from((await import('./rle.js')).decode(mask))", given)
            assert found == mask.ravel().tolist()


def test_a_mask_has_an_edge_and_goes_with_its_record(page: Page, store: Store, log: ReviewLog) -> None:
    mask = np.zeros((32, 40), dtype=np.uint8)
    mask[8:24, 10:30] = 1
    code = coco.encode(np.asfortranarray(mask))
    given = {"size": code["size"], "counts": code["counts"].decode()}
    objects = [{"phrase": "dog", "bbox": [10, 8, 30, 24], "score": 1.0, "primary": True, "mask": given}]
    log.write(
        [
            (
                "UPDATE outcomes SET record = json_set(record, '$.objects', json(?)) WHERE item_id = 'toy-0005'",
                (json.dumps(objects),),
            )
        ]
    )
    # Opacity at shares of the width, half-way down.
    script = """(shares) => {
        const canvas = document.querySelector("canvas");
        const row = canvas.getContext("2d").getImageData(0, canvas.height / 2, canvas.width, 1).data;
        return shares.map((share) => row[4 * Math.floor(share * canvas.width) + 3]);
    }"""
    with serving(ReviewSession(store, log, "ada", sample=None)) as server:
        open_at(page, server.url, "toy-0005")
        outside, before, edge, within = page.evaluate(script, [0.1, 0.2492, 0.2508, 0.5])
        assert (outside, within, edge) == (0, 84, 255)
        assert 100 < before < 200, "a dark line around it, for light pictures"
        press(page, "ArrowUp", "m", "ArrowRight")
        assert page.evaluate(script, [0.5]) == [0], "a box that was moved has lost its mask"
        press(page, "Escape")
        assert page.evaluate(script, [0.5]) == [84]
        press(page, "ArrowRight")
        left(page, "toy-0005")
        assert page.evaluate(script, [0.5]) == [0]


def test_what_is_worked_on_stays_in_sight(browser: Browser, store: Store, log: ReviewLog) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    page = context.new_page()

    def visible(selector: str) -> bool:
        box, stage, bar = (frame_of(page, s) for s in (selector, ".stage", ".panel .move"))
        return box["y"] >= stage["y"] + stage["height"] - 1 and box["y"] + box["height"] <= bar["y"] + 1

    with serving(ReviewSession(store, log, "ada", sample=None)) as server:
        open_at(page, server.url, "toy-0005")
        assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")
        press(page, "ArrowUp")
        assert current(page) == "objects"
        press(page, "m", "n", "n", "n")
        assert visible(".editor .main"), "boxes came on top of it"
        press(page, "Escape", "ArrowRight")
        left(page, "toy-0005")
        assert current(page) == "emotion"
        assert visible('[data-field="emotion"]'), "the field before was the last of its record"
    context.close()


def test_what_cannot_be_saved_is_said(page: Page, store: Store, log: ReviewLog) -> None:
    session = ReviewSession(store, log, "ada", sample=None)
    with serving(session) as server:
        open_at(page, server.url, "toy-0005")
        page.route("**/api/decide", lambda route: route.abort())
        page.keyboard.press("r")
        page.wait_for_selector("#note.bad")
        assert "nothing was saved" in page.locator("#note").inner_text()
        assert page.locator(".field.right").count() == 0
        assert log.reviews() == []


def test_the_study_by_keyboard(page: Page, store: Store, log: ReviewLog, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({"name": "t", "groups": GROUPS}))
    study = StudyConfig.load(path)
    with serving(StudySession(store, log, study)) as server:
        page.goto(server.url)
        page.wait_for_selector("input:focus")
        page.keyboard.type("p1")
        page.keyboard.press("Enter")
        page.wait_for_selector(".question")
        assert not any(word in page.content() for word in ("Original", "Ours", "toy"))
        press(page, "y", "u", "n")
        page.wait_for_selector('[aria-pressed="true"] >> text=No')
        page.reload()
        page.wait_for_selector("input:focus")
        page.keyboard.type("p1")
        page.keyboard.press("Enter")
        page.wait_for_selector('[aria-pressed="true"]')
        assert current(page) == "emotion"
        press(page, *"y" * 27)
        page.wait_for_selector("#done")
        assert {len(item.questions) for item in open_study(log, study)} == {2, 3}
        for _ in range(11):
            frame = frame_of(page, ".frame")
            # Images are 40 × 32, also where one that was just shown comes again.
            assert frame["width"] / frame["height"] == pytest.approx(1.25, abs=0.01)
            press(page, "ArrowLeft")
    table = table4(log, study)
    assert cell(table, "Ours", "emotion")["mean"] == cell(table, "Original", "emotion")["mean"] == 100.0
    arousal = [cell(table, group, "arousal") for group in ("Original", "Ours")]
    means = sorted((row["mean"] or 0.0, row["answers"]) for row in arousal)
    assert means in ([(80.0, 5), (100.0, 6)], [(100 * 5 / 6, 6), (100.0, 5)]), "one no, the first answer"


def test_two_tabs_show_what_the_other_has_decided_and_lose_no_text(page: Page, store: Store, log: ReviewLog) -> None:
    session = ReviewSession(store, log, "ada", sample=None)
    with serving(session) as server:
        open_at(page, server.url, "toy-0005")
        page.keyboard.press("m")
        shown = session.item({"id": "toy-0005"})
        decision = {"field": "description", "verdict": "wrong"}
        session.decide({"id": "toy-0005", "digest": shown["digest"], "decisions": [decision]})
        press(page, "7", "Enter")
        page.wait_for_selector("#note.bad")
        assert "Decided elsewhere since this page was shown: Description" in page.locator("#note").inner_text()
        page.wait_for_selector('[data-field="description"].wrong')
        assert "Not saved: fear" in page.locator('[data-field="emotion"]').inner_text()
        assert len(log.reviews()) == 1
        press(page, "m", "Enter")
        page.wait_for_selector('[data-field="emotion"].mended')
        assert log.reviews()[-1].value == "fear"


def test_no_request_of_the_page_carries_the_secret_in_a_referer(
    page: Page, store: Store, log: ReviewLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str | None] = []
    path = server_module._Handler._path

    def noting(handler: server_module._Handler) -> str:
        seen.append(handler.headers.get("Referer"))
        return path(handler)

    monkeypatch.setattr(server_module._Handler, "_path", noting)
    with serving(ReviewSession(store, log, "ada", sample=None)) as server:
        open_at(page, server.url, "toy-0005")
        press(page, "r")
        page.wait_for_selector('[data-field="emotion"].right')
    assert set(seen) == {None}
