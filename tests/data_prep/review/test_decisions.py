"""Decisions, samples and agreement of reviewers."""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter
from pathlib import Path

import pytest
from sklearn.metrics import cohen_kappa_score

from data_prep.cli import main
from data_prep.review.agreement import report
from data_prep.review.decisions import REQUIRED, Review, ReviewError, apply_reviews, mended, shown_value
from data_prep.review.log import ReviewLog, read_reviews, reviewed_outcomes
from data_prep.review.session import ReviewSession
from data_prep.store.store import Store
from tests.data_prep.review.conftest import decide, human, make_store, records


def test_nobody_reviewed_changes_nothing(store: Store) -> None:
    assert [o for _, o in reviewed_outcomes(store.ledger)] == [o for _, o in store.ledger.outcomes()]


def test_human_queue_becomes_valid_or_discarded(store: Store, log: ReviewLog) -> None:
    session = ReviewSession(store, log, "ada", sample=None)
    assert [session.states[i] for i in session.queue] == ["human"] * 4 + ["valid"] * 8, "the human queue comes first"
    right = [(field, "right") for field in REQUIRED]
    assert decide(session, "toy-0001", *right[:-1])["done"] is False
    assert records(store)["toy-0001"][0] == "human", "not all is decided"
    assert decide(session, "toy-0001", right[-1])["done"] is True
    decide(session, "toy-0002", *right, ("record", "wrong"))
    decide(session, "toy-0003", *right, ("attribute", "wrong"))
    after = records(store)
    assert [after[f"toy-000{i}"][0] for i in range(4)] == ["human", "valid", "discarded", "discarded"]
    assert after["toy-0001"][1].provenance["outcome"] == "valid"
    assert human(after["toy-0001"][1])["reviewers"] == 1
    assert "ada" not in after["toy-0001"][1].to_json().decode(), "records count reviewers, they do not name them"


def test_mended_values_reach_the_record(store: Store, log: ReviewLog) -> None:
    session = ReviewSession(store, log, "ada", sample=None)
    before = records(store)["toy-0005"][1]
    emotion = "fear" if before.emotion != "fear" else "awe"
    drawn = {"phrase": "wolf", "bbox": [1, 1, 30.5, 20], "score": 1.0, "mask": None, "primary": True}
    decide(
        session,
        "toy-0005",
        ("emotion", "mended", emotion),
        ("description", "mended", "  a wolf \n"),
        ("intensity", "mended", 9),
        ("subject", "mended", "wolf"),
        ("objects", "mended", [drawn]),
        ("background", "right"),
    )
    state, record = records(store)["toy-0005"]
    assert state == "valid"
    assert (record.emotion, record.description, record.subject, record.background) == (
        emotion,
        "a wolf",
        "wolf",
        before.background,
    )
    assert (record.intensity, record.intensity_level) == (9, "high")
    assert record.emotion_scores is None, "it spoke of another emotion"
    assert record.confidence is None
    assert [o.model_dump(mode="json") for o in record.objects] == [drawn]
    fields = human(record)["fields"]
    assert fields["emotion"] == {"verdict": "mended", "votes": {"mended": 1}, "was": str(before.emotion)}
    assert apply_reviews(record, log.reviews()).to_json() == record.to_json(), "applying twice changes nothing more"


def test_a_mended_subject_drops_boxes_of_another_phrase_and_wrong_boxes_are_taken_out(store: Store, log: ReviewLog) -> None:
    session = ReviewSession(store, log, "ada", sample=None)
    decide(session, "toy-0005", ("subject", "mended", "wolf"))
    decide(session, "toy-0006", ("subject", "mended", "wolf"), ("objects", "right"))
    decide(session, "toy-0007", ("objects", "wrong"))
    after = records(store)
    assert after["toy-0005"][1].objects == []
    assert len(after["toy-0006"][1].objects) == 2, "the reviewer said that they are right"
    assert after["toy-0007"][0] == "valid"
    assert after["toy-0007"][1].objects == []


def test_several_reviewers_majority_then_who_was_first(store: Store, log: ReviewLog) -> None:
    ada, ben, eve = (ReviewSession(store, log, name, sample=None) for name in ("ada", "ben", "eve"))
    decide(ada, "toy-0005", ("background", "right"))
    decide(ben, "toy-0005", ("background", "mended", "moon"))
    before = records(store)["toy-0005"][1].background
    assert before != "moon", "a tie goes to who decided first"
    decide(eve, "toy-0005", ("background", "mended", "moon"))
    assert records(store)["toy-0005"][1].background == "moon"


def test_history_is_only_added_to_and_undo_goes_back_step_by_step(store: Store, log: ReviewLog) -> None:
    session = ReviewSession(store, log, "ada", sample=None)
    decide(session, "toy-0005", ("background", "right"))
    decide(session, "toy-0005", ("background", "wrong"))
    decide(session, "toy-0006", ("emotion", "right"), ("subject", "right"))
    other = ReviewSession(store, log, "ben", sample=None)
    decide(other, "toy-0006", ("emotion", "wrong"))
    assert session.undo({}) == {"undone": "toy-0006", "fields": ["emotion", "subject"]}
    assert session.item({"id": "toy-0006"})["decisions"] == {}
    assert session.undo({})["undone"] == "toy-0005"
    assert session.item({"id": "toy-0005"})["decisions"]["background"]["verdict"] == "right"
    assert session.undo({})["undone"] == "toy-0005"
    assert session.undo({}) == {"undone": None}
    assert other.item({"id": "toy-0006"})["decisions"]["emotion"]["verdict"] == "wrong", "only one's own is taken back"
    rows = read_reviews(store.ledger.path)
    assert Counter(r.verdict for r in rows) == {"right": 3, "wrong": 2, "undone": 4}
    assert {r.reviewer for r in rows} == {"ada", "ben"}
    assert all(r.time > 1.6e9 for r in rows)


def test_right_of_another_value_does_not_count_but_a_mended_one_does(store: Store, log: ReviewLog) -> None:
    session = ReviewSession(store, log, "ada", sample=None)
    decide(session, "toy-0005", ("background", "right"), ("attribute", "mended", "brave"))
    record = records(store)["toy-0005"][1].model_copy(update={"background": "elsewhere", "attribute": "new"})
    after = apply_reviews(record, log.reviews())
    assert (after.background, after.attribute) == ("elsewhere", "brave")
    assert "background" not in human(after)["fields"]


def test_second_reviewer_is_blind_and_sees_what_another_finished(store: Store, log: ReviewLog) -> None:
    with pytest.raises(ReviewError, match="finished by another reviewer"):
        ReviewSession(store, log, "ben", second=True)
    ada = ReviewSession(store, log, "ada", sample=None)
    decide(ada, "toy-0001", *((field, "right") for field in REQUIRED))
    decide(ada, "toy-0005", *((field, "mended", "awe") if field == "emotion" else (field, "right") for field in REQUIRED))
    decide(ada, "toy-0006", ("emotion", "right"))
    ben = ReviewSession(store, log, "ben", second=True)
    assert sorted(ben.queue) == ["toy-0001", "toy-0005"]
    shown = ben.item({"id": "toy-0005"})
    assert shown["decisions"] == {}
    assert shown["done"] is False
    assert ben.overview({})["done"] == []
    original = {i.id: o for i, o in store.ledger.outcomes()}["toy-0005"]
    assert shown["record"]["emotion"] == json.loads(original.record)["emotion"], "the record as the pass left it"
    assert "ada" not in json.dumps(shown)


BAD = [
    (("emotion", "mended", "joy"), "unknown emotion 'joy'"),
    (("intensity", "mended", 11), "whole number 1–10, found 11"),
    (("intensity", "mended", True), "whole number 1–10"),
    (("description", "mended", "  "), "text of 1–4000 characters"),
    (("objects", "mended", [{"phrase": "x", "bbox": [5, 5, 400, 9], "score": 1}]), "leaves the image"),
    (("objects", "mended", [{"phrase": "x", "bbox": [5, 5, 5, 9], "score": 1}]), "empty or turned"),
    (("objects", "mended", "all"), "valid list"),
    (("colour", "right"), "allowed fields: emotion"),
    (("emotion", "undone"), "verdicts: right, wrong, mended"),
    (("record", "mended", "x"), "right or wrong"),
]


def test_bad_decisions_are_refused_whole(store: Store, log: ReviewLog) -> None:
    session = ReviewSession(store, log, "ada", sample=None)
    for decision, message in BAD:
        with pytest.raises(ReviewError, match=message):
            decide(session, "toy-0005", ("subject", "right"), decision)
    assert log.reviews() == []


def test_what_was_never_said_cannot_be_right_and_a_changed_record_is_not_judged(store: Store, log: ReviewLog) -> None:
    session = ReviewSession(store, log, "ada", sample=None)
    with pytest.raises(ReviewError, match="no value that could be right"):
        decide(session, "toy-0000", ("emotion", "right"))
    values = {"emotion": "awe", "intensity": 4, "description": "d", "background": "b", "attribute": "a", "subject": "s"}
    assert decide(session, "toy-0000", *((field, "mended", value) for field, value in values.items()))["done"]
    assert records(store)["toy-0000"][0] == "valid"
    with pytest.raises(ReviewError, match="has changed since it was shown"):
        session.decide({"id": "toy-0005", "digest": "0", "decisions": [{"field": "emotion", "verdict": "right"}]})
    with pytest.raises(ReviewError, match="not in this sample"):
        session.item({"id": "../lock"})


def test_report_has_accuracy_by_state_weighted_by_strata(
    store: Store, log: ReviewLog, capsys: pytest.CaptureFixture[str]
) -> None:
    ada, ben = (ReviewSession(store, log, name, sample=None) for name in ("ada", "ben"))
    for i, verdict in ((4, "right"), (5, "right"), (6, "wrong"), (7, "right")):
        decide(ada, f"toy-000{i}", ("background", verdict))
        decide(ben, f"toy-000{i}", ("background", "right" if i != 4 else "wrong"))
    found = report(log)
    row = found["accuracy"]["valid"]["background"]
    assert (row["n"], row["right"], row["accuracy"]) == (4, 3, 0.75)
    sizes: Counter[str] = Counter()
    hits: dict[str, list[bool]] = {}
    for item, outcome in store.ledger.outcomes():
        emotion = json.loads(outcome.record)["emotion"]
        if outcome.state == "valid":
            sizes[emotion] += 1
        if item.id in ("toy-0004", "toy-0005", "toy-0006", "toy-0007"):
            hits.setdefault(emotion, []).append(item.id != "toy-0006")
    expected = sum(sizes[e] * sum(h) / len(h) for e, h in hits.items()) / sum(sizes[e] for e in hits)
    assert row["weighted"] == pytest.approx(expected)
    kappa = cohen_kappa_score([1, 1, 0, 1], [0, 1, 1, 1])
    assert found["agreement"]["background"] == {
        "reviewers": 2,
        "n": 4,
        "observed": 0.5,
        "kappa": pytest.approx(kappa),
        "kind": "cohen",
    }
    assert found["reviewers"] == {"ada": {"items": 4, "decisions": 4}, "ben": {"items": 4, "decisions": 4}}
    assert main(["review", str(store.root), "--report", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(report(log)))
    assert main(["review", str(store.root), "--report"]) == 0
    assert re.search(r"│ valid +│ background +│ +3 │ +4 │ +75\.00 ", capsys.readouterr().out)


def test_a_discarded_record_counts_against_the_accuracy(store: Store, log: ReviewLog) -> None:
    ada, ben = (ReviewSession(store, log, name, sample=None) for name in ("ada", "ben"))
    right = [(field, "right") for field in (*REQUIRED, "objects")]
    decide(ada, "toy-0004", *right)
    decide(ada, "toy-0005", ("record", "wrong"))
    decide(ada, "toy-0006", *right[:-1], ("objects", "wrong"))
    decide(ada, "toy-0007", ("emotion", "right"))
    decide(ben, "toy-0004", *right)
    decide(ben, "toy-0005", *right)
    found = report(log)
    row = found["accuracy"]["valid"]["record"]
    assert (row["n"], row["right"]) == (3, 1), (
        "one whole, one discarded, one without its box; the unfinished one does not count"
    )
    assert found["agreement"]["record"]["observed"] == 0.5
    assert found["agreement"]["record"]["n"] == 2


def test_a_pass_may_write_while_somebody_reviews(store: Store, log: ReviewLog) -> None:
    session = ReviewSession(store, log, "ada", sample=None)
    with Store(store.root, write=True) as writer:
        decide(session, "toy-0005", ("emotion", "right"))
        writer.ledger.write_now(("UPDATE outcomes SET config = 'other' WHERE item_id = 'toy-0005'", ()))
        decide(session, "toy-0005", ("subject", "right"))
    assert len(log.reviews()) == 2


def test_a_store_of_an_earlier_release_can_be_reviewed(store: Store) -> None:
    with sqlite3.connect(store.ledger.path) as ledger:
        for table in ("reviews", "studies", "study_answers"):
            ledger.execute(f"DROP TABLE {table}")
    assert read_reviews(store.ledger.path) == []
    with ReviewLog(store.ledger.path, write=True) as log:
        log.add([Review("toy-0001", "emotion", "ada", "right", "awe")])
        assert len(log.reviews()) == 1


def test_mending_needs_a_known_field(store: Store) -> None:
    record = records(store)["toy-0005"][1]
    with pytest.raises(ReviewError, match="cannot be mended"):
        mended(record, "id", "x")
    with pytest.raises(ReviewError, match="unknown field"):
        shown_value(record, "id")


BAD_ARGUMENTS = [
    (["{tmp}/none"], "no ledger there"),
    (["{tmp}/s", "--states", "valid,perfect"], "found perfect; allowed: human, valid, discarded"),
    (["{tmp}/s", "--states", "discarded"], "no record is in state discarded"),
    (["{tmp}/s", "--reviewer", "a\nb"], "allowed are 1–60 letters"),
    (["{tmp}/s", "--port", "70000"], "--port 70000"),
    (["{tmp}/s", "--study", "{tmp}/none.yaml"], "no such file"),
    (["{tmp}/s", "--label-studio-import", "{tmp}/none.json"], "no such file"),
]


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_store(tmp_path / "s", 6, 1)
    for arguments, message in BAD_ARGUMENTS:
        assert main(["review", *(a.format(tmp=tmp_path) for a in arguments)]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.strip().splitlines()) == 1
