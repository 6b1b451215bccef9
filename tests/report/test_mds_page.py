"""Figure 6 as one page: self-contained, and in a real browser (skipped where there is none)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from emo_lightning.core.records import EMOTIONS, Record, SchemaError, write_jsonl
from emo_lightning.data.embeddings import EmbeddingTable
from emo_lightning.report.page import read_page
from emo_lightning.stages import figures as stages
from tests.made import make_prediction, make_record

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator

MakeTar = Callable[[list[Record]], tuple[Path, list[Record]]]
COUNT = 40
ODD = "</script><b>stormy & wild"


@pytest.fixture
def inputs(tmp_path: Path, make_tar: MakeTar) -> tuple[dict[str, Path], str]:
    """Two arms over the same images, and their tar."""
    records = [
        make_record(
            f"img{n:02}", emotion=EMOTIONS[n % 8], background=ODD, attribute=f"state{n}", subject="dog", intensity=1 + n % 10
        )
        for n in range(COUNT)
    ]
    tar, _ = make_tar(records)
    arms = {}
    for seed, arm in enumerate(("base", "<ours>")):
        des = np.random.default_rng(seed).normal(size=(COUNT, 6)) + 2 * np.eye(6)[np.arange(COUNT) % 6]
        path = tmp_path / f"{seed}.parquet"
        EmbeddingTable(
            [r.id for r in records], [str(r.emotion) for r in records], ["test"] * COUNT, des.astype("float32")
        ).write(path)
        arms[arm] = path
    return arms, str(tar)


def test_files_of_the_stage(inputs: tuple[dict[str, Path], str], tmp_path: Path) -> None:
    arms, tar = inputs
    stages.mds_stage(tmp_path / "out", arms, references=[tar], max_points=24)
    page = (tmp_path / "out/mds.html").read_text()
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
    assert len(data["points"]) == 24
    assert [arm["name"] for arm in data["arms"]] == list(arms)
    assert data["points"][0]["triplet"][0] == ODD
    assert all(point["image"].startswith("data:image/jpeg;base64,") for point in data["points"])
    assert all(len(near) == 5 and n not in near for arm in data["arms"] for n, near in enumerate(arm["near"]))
    assert {0 <= v <= 1 for arm in data["arms"] for xy in arm["xy"] for v in xy} == {True}
    bare = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    assert not re.search(r"(https?:)?//[a-z]", bare), "an address outside the page"
    found = json.loads((tmp_path / "out/mds.json").read_text())
    assert found["page"]["with_image"] == 24
    assert (tmp_path / "out/mds.pdf").read_bytes()[:5] == b"%PDF-"
    assert Image.open(tmp_path / "out/mds.png").width > 1000
    assert [f.file for f in read_page(tmp_path / "out/page.json").figures] == ["mds.html"]
    first = (tmp_path / "out/mds.pdf").read_bytes()
    stages.mds_stage(tmp_path / "again", arms, references=[tar], max_points=24)
    assert (tmp_path / "again/mds.pdf").read_bytes() == first


def test_pictures_stay_below_their_limit(inputs: tuple[dict[str, Path], str], tmp_path: Path) -> None:
    arms, tar = inputs
    sides = []
    for megabytes in (6.0, 0.08, 0.001):
        stages.mds_stage(tmp_path / "out", arms, references=[tar], megabytes=megabytes)
        shown = json.loads((tmp_path / "out/mds.json").read_text())["page"]
        sides.append(shown["thumbnail_side"])
        assert shown["bytes"] < megabytes * 1e6 + 40_000
    assert sides[0] > sides[1] > sides[2] == 0
    assert "no images, as they take more than megabytes=0.001" in read_page(tmp_path / "out/page.json").notes[0]


def test_answers_of_an_arm_without_embeddings_are_refused(inputs: tuple[dict[str, Path], str], tmp_path: Path) -> None:
    arms, _ = inputs
    with pytest.raises(SchemaError, match="predictions: 'other' has no embeddings; allowed: base, <ours>"):
        stages.mds_stage(tmp_path / "out", arms, predictions={"other": tmp_path / "p.jsonl"})


def test_arms_show_the_same_images(inputs: tuple[dict[str, Path], str], tmp_path: Path) -> None:
    arms, _ = inputs
    table = EmbeddingTable.read(arms["base"])
    EmbeddingTable(table.id[:-5], table.emotion[:-5], table.split[:-5], table.des[:-5]).write(arms["base"])
    stages.mds_stage(tmp_path / "out", arms)
    found = json.loads((tmp_path / "out/mds.json").read_text())["arms"]
    assert [arm["points"] for arm in found.values()] == [COUNT - 5, COUNT - 5]
    assert found["<ours>"]["not_in_all_arms"] == 5
    with np.load(tmp_path / "out/mds.npz") as points:
        assert points["ids_0"].tolist() == points["ids_1"].tolist()
    EmbeddingTable([f"x{i}" for i in table.id], table.emotion, table.split, table.des).write(arms["base"])
    with pytest.raises(SchemaError, match="share no image"):
        stages.mds_stage(tmp_path / "out", arms)
    EmbeddingTable(table.id, ["fear"] * COUNT, table.split, table.des).write(arms["base"])
    with pytest.raises(SchemaError, match="'img00' is 'fear' in arm 'base' and 'amusement' in '<ours>'"):
        stages.mds_stage(tmp_path / "out", arms)


def middle(mark: Locator) -> tuple[float, float]:
    mark.scroll_into_view_if_needed()
    box = mark.bounding_box()
    assert box
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


@pytest.mark.parametrize("width", [1360, 390])
def test_in_a_browser(browser: Browser, width: int, inputs: tuple[dict[str, Path], str], tmp_path: Path) -> None:
    arms, tar = inputs
    said = [
        make_prediction(f"img{n:02}", emotion=EMOTIONS[n % 8] if n % 2 else "joy", intensity=3, subject=ODD) for n in range(30)
    ]
    write_jsonl(tmp_path / "said.jsonl", said)
    stages.mds_stage(tmp_path / "out", arms, references=[tar], predictions={"<ours>": tmp_path / "said.jsonl"})
    context = browser.new_context(viewport={"width": width, "height": 844}, has_touch=width < 640, offline=True)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.extend([message.text] if message.type == "error" else []))
    page.on("request", lambda request: problems.extend([] if request.url.startswith(("file:", "data:")) else [request.url]))
    page.goto((tmp_path / "out/mds.html").as_uri())
    assert page.locator("svg.plot .p").count() == COUNT
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
    card, mark = page.locator("#card"), page.locator("svg.plot .p").nth(7)
    at = middle(mark)
    if width < 640:
        page.touchscreen.tap(*at)
    else:
        page.mouse.move(*at)
    shown = card.inner_text()
    assert "true" in shown
    assert re.search(r"\d+ of 10", shown)
    assert ODD in shown
    # The last arm is shown first, with its answer: image 7 is said rightly.
    assert card.locator("b.right").count() == 1
    assert card.locator(".thumbs button").count() == 5
    assert card.locator(".one img").evaluate("image => image.naturalWidth") > 50
    assert page.locator(".tie").count() == 5
    assert page.locator("main b b").count() == 0, "a triplet is text, never markup"
    point, beside = mark.bounding_box(), card.bounding_box()
    assert point
    assert beside
    assert beside["y"] >= point["y"] + point["height"] or beside["x"] >= point["x"] + point["width"], (
        "the card covers the point"
    )
    page.get_by_role("button", name="base").click()
    assert card.locator("b.right, b.wrong").count() == 0, "this arm has no answers"
    page.keyboard.press("Escape")
    assert page.locator(".tie").count() == 0
    page.get_by_role("button", name="awe").click()
    assert page.locator(".p.off").count() == COUNT // 8
    page.get_by_role("button", name="awe").click()
    page.locator("svg.plot").first.focus()
    page.keyboard.press("ArrowRight")
    assert "true" in card.inner_text()
    page.keyboard.press("Escape")
    context.close()
    assert problems == []


def test_zoom_pan_and_lasso(browser: Browser, inputs: tuple[dict[str, Path], str], tmp_path: Path) -> None:
    arms, tar = inputs
    stages.mds_stage(tmp_path / "out", arms, references=[tar])
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto((tmp_path / "out/mds.html").as_uri())
    box = page.locator("svg.plot").bounding_box()
    assert box
    left, top, side = (
        box["x"] + (box["width"] - min(box["width"], box["height"])) / 2,
        box["y"],
        min(box["width"], box["height"]),
    )

    def drag(*stops: tuple[float, float]) -> None:
        """Along points of the unit square."""
        page.mouse.move(left + side * stops[0][0], top + side * stops[0][1])
        page.mouse.down()
        for x, y in stops[1:]:
            page.mouse.move(left + side * x, top + side * y, steps=4)
        page.mouse.up()

    places = "[...document.querySelectorAll('.p')].map(p => p.getAttribute('transform'))"
    before = page.evaluate(places)
    page.get_by_role("button", name="closer").click()
    closer = page.evaluate(places)
    drag((0.5, 0.5), (0.6, 0.55))
    moved = page.evaluate(places)
    assert len({tuple(before), tuple(closer), tuple(moved)}) == 3
    page.get_by_role("button", name="all", exact=True).click()
    assert page.evaluate(places) == before
    page.get_by_role("button", name="lasso").click()
    drag((0.01, 0.01), (0.99, 0.01), (0.99, 0.99), (0.01, 0.99))
    assert page.locator("#card h2").inner_text() == f"{COUNT} images caught"
    assert page.locator("#card .thumbs img").count() == COUNT
    drag((0.01, 0.01), (0.5, 0.01), (0.5, 0.99), (0.01, 0.99))
    some = page.locator("#card .thumbs img").count()
    assert 0 < some < COUNT
    page.locator("#card .thumbs button").first.click()
    assert "Nearest in the embedding" in page.locator("#card").inner_text()
    page.close()
