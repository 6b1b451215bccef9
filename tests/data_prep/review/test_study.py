"""The user study of Table 4."""

from __future__ import annotations

import csv
import json
import math
import random
from pathlib import Path

import pytest
import yaml
from scipy import stats

from data_prep.cli import main
from data_prep.review.decisions import ReviewError
from data_prep.review.log import ReviewLog
from data_prep.review.messages import StudyRow
from data_prep.review.study import StudyConfig, StudyError, open_study, table4
from data_prep.review.study_session import StudySession
from data_prep.settings import CONFIGS
from data_prep.store.store import Store
from tests.data_prep.review.conftest import make_store

GROUPS = [
    {"name": "Original", "source": "toy", "images": 5, "annotations": "source"},
    {"name": "Ours", "source": "toy", "images": 6, "annotations": "record", "context": "background"},
]


def cell(table: dict[str, dict[str, StudyRow | None]], group: str, question: str) -> StudyRow:
    """A cell of Table 4 that must be there."""
    row = table[group][question]
    assert row is not None
    return row


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({"name": "table4", "seed": 1, "groups": GROUPS}))
    return path


def test_order_is_each_participants_own_and_names_no_dataset(store: Store, log: ReviewLog, config: Path) -> None:
    session = StudySession(store, log, StudyConfig.load(config))
    ada, ben = (session.order({"participant": name})["items"] for name in ("ada", "ben"))
    assert ada == session.order({"participant": "ada"})["items"] != ben
    assert sorted(map(str, ada)) == sorted(map(str, ben)), "everybody sees the same"
    assert len(ada) == 11
    assert sorted(len(i["questions"]) for i in ada) == [2] * 5 + [3] * 6
    assert all(i["size"] == [40, 32] for i in ada)
    assert not any(word in json.dumps([ada, session.overview({})]) for word in ("Original", "Ours", "toy"))
    again = StudySession(store, log, StudyConfig.load(config), "ada")
    assert again.order({"participant": "someone else"})["participant"] == "ada", "named on the command line"
    assert all(session.image(i["image"])[0].startswith(b"\x89PNG") for i in ada)


def test_groups_draw_each_for_themselves(tmp_path: Path) -> None:
    """Else a group of all sources would take the very images of the others, and everybody would see them twice."""
    groups = [{**GROUPS[0], "images": 8}, {**GROUPS[1], "images": 8}]
    study = StudyConfig.model_validate({"name": "t", "groups": groups})
    with Store(make_store(tmp_path / "large", 200, 0), write=False) as store, ReviewLog(store.ledger.path, write=True) as log:
        items = open_study(log, study)
    drawn = [{item.item_id for item in items if item.group == group["name"]} for group in groups]
    assert [len(ids) for ids in drawn] == [8, 8]
    assert len(drawn[0] & drawn[1]) <= 2


def test_a_study_stays_as_it_was_started(store: Store, log: ReviewLog, config: Path) -> None:
    first = open_study(log, StudyConfig.load(config))
    log.write([("UPDATE outcomes SET state = 'discarded'", ())])
    assert open_study(log, StudyConfig.load(config)) == first
    other = StudyConfig.load(config).model_copy(update={"seed": 2})
    with pytest.raises(StudyError, match="started with another configuration"):
        open_study(log, other)


def test_table_has_means_and_intervals_over_participants(
    store: Store, log: ReviewLog, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = StudyConfig.load(config)
    session = StudySession(store, log, study)
    rng = random.Random(5)
    group_of = {session._key(item.item_id) + str(item.context): item.group for item in session.items}
    given: dict[tuple[str, str], dict[str, list[int]]] = {}
    for who in ("p1", "p2", "p3", "p4"):
        for position, item in enumerate(session.order({"participant": who})["items"]):
            for question in item["questions"]:
                answer = rng.choice([1, 2, 2])
                session.answer({"participant": who, "position": position, "question": question, "answer": answer})
                key = (group_of[item["image"] + str(item["context"])], question)
                given.setdefault(key, {}).setdefault(who, []).append(100 * (answer - 1))
    table = table4(log, study)
    assert table["Original"]["context"] is None
    for (group, question), by_participant in given.items():
        row = cell(table, group, question)
        means = [sum(v) / len(v) for v in by_participant.values()]
        low, high = stats.t.interval(0.95, 3, loc=sum(means) / 4, scale=stats.sem(means))
        assert row["mean"] == pytest.approx(sum(means) / 4)
        assert (row["low"], row["high"]) == pytest.approx((max(0, low), min(100, high)))
        assert (row["answers"], row["participants"], row["images"]) == (
            4 * len(by_participant["p1"]),
            4,
            len(by_participant["p1"]),
        )
    assert len(given) == 5
    assert main(["review", str(store.root), "--study", str(config), "--report", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == table
    out = tmp_path / "out"
    assert main(["review", str(store.root), "--study", str(config), "--report", "--out", str(out)]) == 0
    assert f"{cell(table, 'Ours', 'context')['mean']:.2f}" in capsys.readouterr().out
    assert {p.name for p in out.iterdir()} == {f"table4{suffix}" for suffix in (".json", ".md", ".tex", ".csv")}
    assert json.loads((out / "table4.json").read_text()) == table
    ours, original = (
        {row["Dataset"]: row for row in csv.DictReader((out / "table4.csv").read_text().splitlines())}[name]
        for name in ("Ours", "Original")
    )
    found = cell(table, "Ours", "context")
    assert [float(ours[key]) for key in ("Anno. acc.", "Anno. acc. low", "Anno. acc. high", "Participants")] == [
        found["mean"],
        found["low"],
        found["high"],
        4,
    ]
    assert original["Anno. acc."] == ""


def test_answers_are_changed_and_taken_back_without_loss(store: Store, log: ReviewLog, config: Path) -> None:
    session = StudySession(store, log, StudyConfig.load(config), "ada")

    def answers(position: int) -> dict[str, int]:
        return session.order({})["items"][position]["answers"]

    session.answer({"position": 3, "question": "arousal", "answer": 1})
    session.answer({"position": 3, "question": "arousal", "answer": 2})
    session.answer({"position": 4, "question": "emotion", "answer": 2})
    assert (answers(3), answers(4)) == ({"arousal": 2}, {"emotion": 2})
    assert session.undo({}) == {"undone": 4}
    assert session.undo({}) == {"undone": 3}
    assert answers(3) == {"arousal": 1}
    assert session.undo({}) == {"undone": 3}
    assert session.undo({}) == {"undone": None}
    assert log.query("SELECT count(*), sum(undoes IS NOT NULL) FROM study_answers") == [(6, 3)]


def test_a_longer_scale(store: Store, log: ReviewLog, config: Path) -> None:
    study = StudyConfig.load(config).model_copy(update={"name": "five", "points": 5})
    session = StudySession(store, log, study, "ada")
    for position, item in enumerate(session.order({})["items"]):
        for question in item["questions"]:
            session.answer({"position": position, "question": question, "answer": 4})
    row = cell(table4(log, study), "Ours", "arousal")
    assert row["mean"] == 75.0
    assert row["low"] is None
    assert math.isclose(row["answers"], 6)


def test_bad_answers_and_studies_say_what_is_wrong(store: Store, log: ReviewLog, config: Path) -> None:
    session = StudySession(store, log, StudyConfig.load(config))
    position = next(i for i, item in enumerate(session.order({"participant": "a"})["items"]) if item["context"] is None)
    good = {"participant": "a", "position": position, "question": "emotion", "answer": 2}
    for change, message in (
        ({"answer": 3}, "allowed: 1–2"),
        ({"answer": True}, "allowed: 1–2"),
        ({"question": "context"}, "allowed: arousal, emotion"),
        ({"position": 99}, "allowed: 0–10"),
        ({"participant": ""}, "participant ''"),
        ({"question": ["x"]}, "question"),
    ):
        with pytest.raises((StudyError, ReviewError), match=message):
            session.answer({**good, **change})
    group: dict[str, object] = {"name": "g", "source": "toy", "images": 9, "annotations": "record"}
    with pytest.raises(StudyError, match="9 images wanted, the store has 8 of source 'toy' with record annotations"):
        open_study(log, StudyConfig.model_validate({"name": "x", "groups": [group]}))
    everything = StudyConfig.model_validate({"name": "all", "groups": [{"name": "g", "images": 12}]})
    assert len(open_study(log, everything)) == 12
    assert [g.images for g in StudyConfig.load(CONFIGS / "study/table4.yaml").groups] == [50] * 5
    config.write_text("name: a b\ngroups: []\n", encoding="utf-8")
    with pytest.raises(StudyError, match="key 'name'"):
        StudyConfig.load(config)
    config.write_text("name: [\n", encoding="utf-8")
    with pytest.raises(StudyError, match="not YAML"):
        StudyConfig.load(config)
