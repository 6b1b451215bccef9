"""Label Studio: what is exported comes back as the same rows."""

from __future__ import annotations

import base64
import contextlib
import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from data_prep.cli import main
from data_prep.review.decisions import REQUIRED_FIELDS, REVIEWED_FIELDS, Review, ReviewError, standing
from data_prep.review.label_studio import labelling_config, write_tasks
from data_prep.review.label_studio_import import read_annotations
from data_prep.review.log import ReviewLog
from data_prep.review.session import ReviewSession
from data_prep.store.store import Store
from tests.data_prep.review.conftest import decide, records
from tests.fuzz.mutations import places


def essence(rows: list[Review]) -> list[tuple]:
    return sorted((r.item_id, r.field, r.verdict, json.dumps(r.shown), json.dumps(r.value)) for r in standing(rows))


def test_reviews_go_out_and_come_back_exactly(store: Store, log: ReviewLog, tmp_path: Path) -> None:
    ada = ReviewSession(store, log, "ada", sample=None)
    box = {"phrase": "wolf", "bbox": [1.23456789, 1 / 3, 30.5, 20.0], "score": 1.0, "mask": None, "primary": True}
    shown = ada.item({"id": "toy-0006"})["record"]["objects"]
    masked = {**shown[1], "mask": {"size": [32, 40], "counts": "d050"}, "score": 0.31}
    decide(ada, "toy-0005", *((f, "right") for f in REVIEWED_FIELDS))
    decide(
        ada,
        "toy-0006",
        ("emotion", "mended", "fear"),
        ("description", "mended", "two\nlines"),
        ("intensity", "mended", 10),
        ("objects", "mended", [shown[0], masked, box]),
        ("subject", "wrong"),
    )
    decide(ada, "toy-0007", ("record", "wrong"), ("objects", "mended", []))
    decide(ada, "toy-0000", *((f, "mended", {"emotion": "awe", "intensity": 3}.get(f, f"new {f}")) for f in REQUIRED_FIELDS))
    decide(ada, "toy-0008", ("background", "right"), ("background", "wrong"))
    ada.undo({})
    path = tmp_path / "tasks.json"
    write_tasks(ada, path, with_reviews=True)
    before = log.reviews()
    assert read_annotations(log, path) == {
        "tasks": 12,
        "annotations": 4,
        "cancelled": 0,
        "added": 0,
        "known": len(standing(before)),
    }
    assert log.reviews() == before, "what stands already is not added again"
    added = read_annotations(log, path, "ben")["added"]
    assert added == len(standing(before)) == 20
    assert essence(log.reviews(reviewer="ben")) == essence(log.reviews(reviewer="ada"))
    assert {json.dumps(r.value) for r in log.reviews(reviewer="ben") if r.field == "objects"} >= {
        json.dumps([shown[0], masked, box])
    }


def submitted(task: dict[str, Any], **verdicts: str) -> dict[str, Any]:
    """A task as Label Studio returns it when somebody submits the predictions with these verdicts."""
    result = copy.deepcopy(task["predictions"][0]["result"])
    for field, verdict in verdicts.items():
        part = {
            "id": "x" + field,
            "from_name": f"{field}_verdict",
            "to_name": "image",
            "type": "choices",
            "value": {"choices": [verdict]},
        }
        result.append(part)
    annotation = {"id": 7, "completed_by": 3, "was_cancelled": False, "created_at": "2026-01-02T03:04:05.6Z", "result": result}
    return {**copy.deepcopy(task), "id": 11, "annotations": [annotation]}


def exported(store: Store, log: ReviewLog, path: Path, *, with_reviews: bool = False) -> dict[str, dict[str, Any]]:
    write_tasks(ReviewSession(store, log, "ada", sample=None), path, with_reviews=with_reviews)
    return {task["data"]["item"]: task for task in json.loads(path.read_text(encoding="utf-8"))}


def test_what_an_annotator_changes_is_mended(store: Store, log: ReviewLog, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    tasks = exported(store, log, path)
    task = submitted(tasks["toy-0005"], emotion="right", background="wrong")
    parts = {part["from_name"]: part for part in task["annotations"][0]["result"]}
    parts["description"]["value"]["text"] = ["quite another"]
    parts["intensity"]["value"]["choices"] = ["1" if tasks["toy-0005"]["data"]["intensity"] != 1 else "2"]
    # A percent as a browser rounds it: nobody moved the box.
    for part in task["annotations"][0]["result"]:
        if part["type"] == "rectanglelabels":
            part["value"]["x"] += 0.01
    untouched = submitted(tasks["toy-0006"])
    cancelled = submitted(tasks["toy-0007"], emotion="wrong")
    cancelled["annotations"][0]["was_cancelled"] = True
    path.write_text(json.dumps([task, untouched, cancelled]))
    assert read_annotations(log, path) == {"tasks": 3, "annotations": 3, "cancelled": 1, "added": 4, "known": 0}
    rows = {r.field: r for r in log.reviews()}
    assert {f: r.verdict for f, r in rows.items()} == {
        "emotion": "right",
        "background": "wrong",
        "description": "mended",
        "intensity": "mended",
    }
    assert rows["description"].value == "quite another"
    assert rows["intensity"].shown in ("low", "medium", "high")
    assert {(r.reviewer, r.time) for r in rows.values()} == {("label-studio-3", 1767323045.6)}
    assert records(store)["toy-0005"][0] == "discarded", "the background is wrong and nobody mended it"


def test_a_moved_box_is_the_annotators_own(store: Store, log: ReviewLog, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    tasks = exported(store, log, path)
    task = submitted(tasks["toy-0005"])
    boxes = [part for part in task["annotations"][0]["result"] if part["type"] == "rectanglelabels"]
    assert boxes[0]["value"] == {
        "x": 10.0,
        "y": 12.5,
        "width": 40.0,
        "height": 62.5,
        "rotation": 0,
        "rectanglelabels": ["primary"],
    }
    boxes[0]["value"]["x"] = 25.0
    path.write_text(json.dumps([task]))
    read_annotations(log, path, "ben")
    first, second = records(store)["toy-0005"][1].objects
    assert first.bbox == (10.0, 4.0, 26.0, 24.0)
    assert first.primary
    assert first.mask is None
    assert second == records(store)["toy-0006"][1].objects[1].model_copy(update={"phrase": "x"})


def test_config_names_what_tasks_and_results_name(store: Store, log: ReviewLog, tmp_path: Path) -> None:
    config = ElementTree.fromstring(labelling_config())
    controls = {node.get("name"): node for node in config.iter() if node.get("toName") == "image"}
    used = {node.get("value", "")[1:] for node in config.iter("Image")} | {
        word.strip("$") for node in config.iter("Header") for word in node.get("value", "").split() if word.startswith("$")
    }
    kinds = {"choices": "Choices", "textarea": "TextArea", "rectanglelabels": "RectangleLabels"}
    for task in exported(store, log, tmp_path / "t.json").values():
        assert used <= set(task["data"])
        for part in task["predictions"][0]["result"]:
            node = controls[part["from_name"]]
            assert node.tag == kinds[part["type"]]
            if part["type"] == "choices":
                assert part["value"]["choices"][0] in [choice.get("value") for choice in node]
            elif part["type"] == "rectanglelabels":
                assert part["value"]["rectanglelabels"][0] in [label.get("value") for label in node]


def test_images_travel_as_paths_or_inside(
    store: Store, log: ReviewLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = exported(store, log, tmp_path / "t.json")["toy-0005"]
    prefix, _, where = task["data"]["image"].partition("?d=")
    assert prefix == "/data/local-files/"
    assert (store.root / where).exists()
    assert (
        main(
            ["review", str(store.root), "--label-studio-export", str(tmp_path / "d.json"), "--images", "data", "--sample", "3"]
        )
        == 0
    )
    assert "3 tasks" in capsys.readouterr().out
    assert (tmp_path / "d.json.xml").read_text() == labelling_config()
    for task in json.loads((tmp_path / "d.json").read_text()):
        head, _, data = task["data"]["image"].partition(",")
        item, _ = log.outcome(task["data"]["item"])
        assert head == "data:image/png;base64"
        assert hashlib.sha256(base64.b64decode(data)).hexdigest() == item.sha256


def test_a_bad_file_adds_nothing(store: Store, log: ReviewLog, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    tasks = exported(store, log, path)
    good = submitted(tasks["toy-0005"], emotion="right")

    def broken(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        task = submitted(tasks["toy-0006"], emotion="mended")
        change(task)
        return task

    def part(task: dict[str, Any], name: str) -> dict[str, Any]:
        return next(p for p in task["annotations"][0]["result"] if p["from_name"] == name)

    cases: list[tuple[Callable[[dict[str, Any]], object], str]] = [
        (lambda t: t["data"].pop("item"), "task 2: key 'item' is missing"),
        (lambda t: t["data"].update(item="nobody"), "task 2: 'nobody': no item of that name"),
        (
            lambda t: part(t, "emotion")["value"].update(choices=["joy"]),
            "task 2: toy-0006: key 'emotion': unknown emotion 'joy'",
        ),
        (lambda t: part(t, "emotion_verdict")["value"].update(choices=["perhaps"]), "verdict 'perhaps'; allowed: right, wrong"),
        (lambda t: part(t, "objects")["value"].update(rotation=10), "rotated by 10"),
        (lambda t: part(t, "intensity").pop("value"), "not by the labelling config"),
    ]
    for change, message in cases:
        path.write_text(json.dumps([good, broken(change)]))
        with pytest.raises(ReviewError, match=message):
            read_annotations(log, path, "ben")
    path.write_text("{}")
    with pytest.raises(ReviewError, match="expected a list of tasks"):
        read_annotations(log, path)
    assert log.reviews() == []


def one_answer(store: Store, log: ReviewLog, path: Path, item: str, edit: Callable[[list[Any]], object]) -> dict[str, Review]:
    """The rows of a single annotation whose parts were edited."""
    task = submitted(exported(store, log, path)[item])
    edit(task["annotations"][0]["result"])
    path.write_text(json.dumps([task]), encoding="utf-8")
    read_annotations(log, path, "ben")
    return {row.field: row for row in log.reviews(reviewer="ben")}


def set_value(name: str, **value: object) -> Callable[[list[Any]], object]:
    def edit(result: list[Any]) -> None:
        for part in result:
            if part["from_name"] == name:
                part["value"].update(value)

    return edit


def without(name: str) -> Callable[[list[Any]], object]:
    def edit(result: list[Any]) -> None:
        result[:] = [part for part in result if part["from_name"] != name]

    return edit


def say(field: str, verdict: str, edit: Callable[[list[Any]], object] = lambda _: None) -> Callable[[list[Any]], object]:
    def both(result: list[Any]) -> None:
        edit(result)
        result.append({"from_name": f"{field}_verdict", "to_name": "image", "type": "choices", "value": {"choices": [verdict]}})

    return both


@pytest.mark.parametrize(
    ("edit", "field", "verdict", "value"),
    [
        (without("objects"), "objects", "mended", []),
        (say("objects", "right", without("objects")), "objects", "mended", []),
        (set_value("description", text="Dawn."), "description", "mended", "Dawn."),
        (set_value("description", text=["Dawn.", "Rain."]), "description", "mended", "Dawn.\nRain."),
        (set_value("emotion", choices="fear"), "emotion", "mended", "fear"),
        (say("description", "right", set_value("description", text=["Dawn."])), "description", "mended", "Dawn."),
        (say("description", "wrong", set_value("description", text="Dawn.")), "description", "mended", "Dawn."),
        (say("subject", "wrong"), "subject", "wrong", None),
        (without("background"), "background", "wrong", None),
        (set_value("background", text=[" "]), "background", "wrong", None),
        (say("background", "right", without("background")), "background", "right", None),
    ],
)
def test_what_somebody_did_counts_beside_what_they_said(
    store: Store, log: ReviewLog, tmp_path: Path, edit: Callable[[list[Any]], object], field: str, verdict: str, value: object
) -> None:
    rows = one_answer(store, log, tmp_path / "t.json", "toy-0005", edit)
    assert {name: (row.verdict, row.value) for name, row in rows.items()} == {field: (verdict, value)}


def test_boxes_are_known_by_their_place_not_by_their_id(store: Store, log: ReviewLog, tmp_path: Path) -> None:
    def edit(result: list[Any]) -> None:
        boxes = [part for part in result if part["from_name"] == "objects"]
        for number, part in enumerate(boxes):
            part["id"] = f"k3Jd9sQ{number}"
        result.sort(key=lambda part: str(part.get("id")), reverse=True)

    assert one_answer(store, log, tmp_path / "t.json", "toy-0005", edit) == {}, "nobody changed anything"


def test_somebody_who_started_from_nothing_has_taken_nothing_out(store: Store, log: ReviewLog, tmp_path: Path) -> None:
    def edit(result: list[Any]) -> None:
        result.clear()
        say("emotion", "right")(result)

    rows = one_answer(store, log, tmp_path / "t.json", "toy-0005", edit)
    assert {name: row.verdict for name, row in rows.items()} == {"emotion": "right"}


def test_an_older_annotation_does_not_replace_what_was_decided_since(store: Store, log: ReviewLog, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    task = submitted(exported(store, log, path)["toy-0005"], emotion="wrong")
    decide(ReviewSession(store, log, "ada", sample=None), "toy-0005", ("emotion", "right"))
    path.write_text(json.dumps([task]))
    assert read_annotations(log, path, "ada")["older than what stands, left out"] == 1
    task["annotations"][0]["updated_at"] = "2999-01-01T00:00:00Z"
    path.write_text(json.dumps([task]))
    assert read_annotations(log, path, "ada")["added"] == 1


def test_of_two_annotations_in_one_file_the_later_one_stands(store: Store, log: ReviewLog, tmp_path: Path) -> None:
    """Also where the later one says what stood before: the earlier one must not be all that is added."""
    path = tmp_path / "t.json"
    first = submitted(exported(store, log, path)["toy-0005"], emotion="right")
    path.write_text(json.dumps([first]))
    assert read_annotations(log, path, "ben")["added"] == 1
    later = copy.deepcopy(first["annotations"][0]) | {"created_at": "2026-03-01T00:00:00Z"}
    between = copy.deepcopy(submitted(first, emotion="wrong")["annotations"][0]) | {"created_at": "2026-02-01T00:00:00Z"}
    for form in ([{**first, "annotations": [later, between]}], [{**first, "annotations": [a]} for a in (between, later)]):
        path.write_text(json.dumps(form))
        read_annotations(log, path, "ben")
        stands = {row.field: row.verdict for row in standing(log.reviews(reviewer="ben"))}
        assert stands == {"emotion": "right"}


def test_what_a_later_annotation_does_not_say_any_more_is_taken_back(store: Store, log: ReviewLog, tmp_path: Path) -> None:
    """Discard and verdicts are un-chosen, and a text is put back: in a later form of an annotation, or in a second one."""
    decide(ReviewSession(store, log, "ben", sample=None), "toy-0005", ("subject", "right"))
    path = tmp_path / "t.json"
    fresh = submitted(exported(store, log, path)["toy-0005"])
    fresh["annotations"][0]["created_at"] = "2998-01-02T00:00:00Z"
    first = copy.deepcopy(fresh)
    result = first["annotations"][0]["result"]
    for edit in (say("emotion", "wrong"), say("background", "right"), set_value("description", text="Dawn.")):
        edit(result)
    result.append({"from_name": "record", "to_name": "image", "type": "choices", "value": {"choices": ["discard"]}})
    later = copy.deepcopy(fresh)
    later["annotations"][0]["updated_at"] = "2999-01-01T00:00:00Z"
    say("background", "right")(later["annotations"][0]["result"])

    def stands() -> dict[str, str]:
        return {row.field: row.verdict for row in standing(log.reviews(reviewer="ben"))}

    def read(*tasks: dict[str, Any]) -> dict[str, int]:
        path.write_text(json.dumps(tasks))
        return read_annotations(log, path, "ben")

    assert read(first)["added"] == 4
    assert stands() == {
        "subject": "right",
        "emotion": "wrong",
        "background": "right",
        "description": "mended",
        "record": "wrong",
    }
    assert records(store)["toy-0005"][0] == "discarded"
    for again in (3, None):
        counts = read(later)
        assert (counts["added"], counts["known"], counts.get("taken back")) == (0, 1, again)
        assert stands() == {"subject": "right", "background": "right"}, "what was decided before on the page stays"
    assert records(store)["toy-0005"][0] != "discarded"
    # Both forms in one file, in any order, as two tasks or two annotations of one.
    for number, tasks in enumerate(([later, first], [{**first, "annotations": later["annotations"] + first["annotations"]}])):
        path.write_text(json.dumps(tasks))
        assert read_annotations(log, path, f"cy{number}")["added"] == 1
        assert {row.field for row in standing(log.reviews(reviewer=f"cy{number}"))} == {"background"}
        assert read_annotations(log, path, f"cy{number}")["added"] == 0


def test_what_was_taken_back_on_the_page_does_not_come_again(store: Store, log: ReviewLog, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    task = submitted(exported(store, log, path)["toy-0005"], emotion="wrong")
    path.write_text(json.dumps([task]))
    assert read_annotations(log, path, "ben")["added"] == 1
    ReviewSession(store, log, "ben", sample=None).undo({})
    assert read_annotations(log, path, "ben") == {
        "tasks": 1,
        "annotations": 1,
        "cancelled": 0,
        "added": 0,
        "known": 0,
        "older than what stands, left out": 1,
    }
    assert standing(log.reviews(reviewer="ben")) == []


def test_two_annotators_do_not_become_one(store: Store, log: ReviewLog, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    task = submitted(exported(store, log, path)["toy-0005"], emotion="right")
    other = copy.deepcopy(task["annotations"][0]) | {"completed_by": 4}
    task["annotations"].append(other)
    path.write_text(json.dumps([task]))
    with pytest.raises(ReviewError, match=r"annotations of 2 people \(3, 4\); leave out --reviewer"):
        read_annotations(log, path, "ben")
    assert read_annotations(log, path)["added"] == 2
    for nobody in (None, True, [1]):
        other["completed_by"] = nobody
        path.write_text(json.dumps([task]))
        with pytest.raises(ReviewError, match="give --reviewer"):
            read_annotations(log, path)


@pytest.mark.parametrize(
    "junk", [None, True, 3, "x", [], {}, [[]], [None], float("nan"), {"choices": [1]}, {"text": {}}, 10**25]
)
def test_junk_anywhere_in_an_export_is_one_error_of_ours(store: Store, log: ReviewLog, tmp_path: Path, junk: object) -> None:
    path = tmp_path / "t.json"
    task = submitted(exported(store, log, path)["toy-0005"], emotion="right")

    count = len(places(task))
    for number in range(count):
        changed = copy.deepcopy(task)
        container, key = places(changed)[number]
        container[key] = junk
        path.write_text(json.dumps([changed]))
        with contextlib.suppress(ReviewError):
            read_annotations(log, path, "ben")
