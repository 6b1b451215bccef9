"""What a page opens with follows the numbers of its run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from emo_lightning.report.sections import RunSections
from tests.made import book
from tests.report.pages import page


def change(run: Path, **values: dict[str, Any] | None) -> None:
    """Give rows of the arm `ours` another value and another gain over blind answers."""
    path = run / "table5" / "table5.json"
    found = json.loads(path.read_text())
    for row, value in values.items():
        found["over_blind"]["ours"]["strict"][row] = value
    path.write_text(json.dumps(found))


def gap(difference: float, low: float, high: float) -> dict[str, object]:
    return {"difference": difference, "interval": [low, high], "p": 0.01, "baseline": "shuffled labels"}


def test_three_sentences_say_what_is_gained_and_what_is_not(run: Path) -> None:
    change(run, emotion_acc=gap(30, 20, 40), bbox_iou=gap(5.4, 2, 8), subject=gap(-3, -9, 4), triplet=gap(-12, -20, -5))
    change(run, intensity_kappa=None)
    opening = RunSections(run).opening
    assert opening
    assert opening.arm == "ours"
    first, second, third = opening.sentences
    assert first == "The model <b>ours</b> is tested on <b>24</b> other images."
    assert "names the right emotion in <b>50 %</b>" in second
    assert "looking is worth <b>30 points</b> (95 % interval 20 to 40)" in second
    assert third.startswith(
        "Looking also helps with the box around the subject (+5 points, 2 to 8); it makes no sure difference for "
    )
    assert "the subject (−3 points, −9 to 4)" in third
    assert "does worse than not looking for background, attribute and subject together (−12 points, −20 to −5)" in third
    text = page(run, run / "report.html")
    assert "What looking at the image is worth" in text
    assert "3 of 24 images, drawn by chance" in text


@pytest.mark.parametrize(
    ("found", "said"),
    [((-5, -9, -2), "looking costs <b>5 points</b> (95 % interval 2 to 9)"), ((2, -1, 5), "may be chance")],
)
def test_a_model_that_gains_nothing_is_not_praised(run: Path, found: tuple[float, float, float], said: str) -> None:
    change(run, emotion_acc=gap(*found))
    opening = RunSections(run).opening
    assert opening
    assert said in opening.sentences[1]


def test_what_taught_the_model_is_said_in_its_order(run: Path) -> None:
    """predictions <- predict <- round2 <- round1, each with the images that it saw."""
    for name, objectives, before in (
        ("round1", {"attributes": 1.0}, "hub/base"),
        ("round2", {"emotion": 0.8, "attributes": 0.2}, str(run / "round1" / "model")),
    ):
        book(run / name, "sft", {"data": {"objectives": objectives}, "model": {"backbone": {"path": before}}})
        training = {"images": {"train": 1600 if name == "round1" else 800}, "steps": 200, "devices": 1, "trained_parameters": 1}
        (run / name / "training.json").write_text(json.dumps({**training, "seed": 0}))
    book(run / "predict", "predict", {"model": {"backbone": {"path": str(run / "round2" / "model")}}})
    (run / "ours.jsonl").rename(run / "predict" / "ours.jsonl")
    settings = {"predictions": {"ours": str(run / "predict" / "ours.jsonl")}, "references": ["gone.jsonl"]}
    book(run / "table5", "table5", settings)
    opening = RunSections(run).opening
    assert opening
    assert opening.sentences[0] == (
        "The model <b>ours</b> was taught to name background, attribute and subject, and to box the subject (<b>1,600</b> images) and to name "
        "the emotion and its strength (<b>800</b> images); it is tested on <b>24</b> other images."
    )


def test_words_of_a_picture_are_text_and_linked_to_its_boxes(run: Path) -> None:
    opening = RunSections(run).opening
    assert opening
    assert len(opening.strip) == 3
    assert all('class="box true"' in seen.svg and 'class="box said dashed"' in seen.svg for seen in opening.strip)
    page(run, run / "report.html")
    html = (run / "report.html").read_text()
    assert "&lt;b&gt;cat&lt;/b&gt;</span>" in html


def test_a_run_of_an_older_version_opens_without_intervals_of_gains(run: Path) -> None:
    path = run / "table5" / "table5.json"
    found = json.loads(path.read_text())
    del found["over_blind"], found["ahead"]
    rows = [
        row
        for row in found["arms"]["ours"]["strict"]
        if row.endswith("_similar") or row in ("subject", "triplet", "clip_triplet")
    ]
    for column in (*found["arms"].values(), *found["baselines"].values()):
        for row in rows:
            for values in (column["strict"], column["intervals"]["strict"]):
                values.pop(row, None)
    path.write_text(json.dumps(found))
    opening = RunSections(run).opening
    assert opening
    assert "of which this run has no interval" in opening.sentences[1]
    strict = next(table for table in RunSections(run).tables if table.key == "table5-strict")
    assert not set(rows) & set(strict.row_keys)
    assert "bbox_iou" in strict.row_keys
    assert "BBox IoU" in page(run, run / "report.html")


def test_without_a_panel_the_strip_shows_right_and_wrong_answers(run: Path) -> None:
    shutil.rmtree(run / "panel")
    opening = RunSections(run).opening
    assert opening
    assert [seen.right for seen in opening.strip] == [True] * 3 + [False] * 3
    assert opening.strip_note == "3 of the 12 images that are named rightly and 3 of the others, drawn by chance."
