"""A page that has not seen what was decided since overwrites nothing: two tabs, two servers, two people without a name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from data_prep.review.decisions import ReviewError
from data_prep.review.log import ReviewLog
from data_prep.review.messages import ShownItem
from data_prep.review.names import free_name
from data_prep.review.session import ReviewSession
from data_prep.review.study import StudyConfig
from data_prep.review.study_session import StudySession
from data_prep.store.store import Store
from tests.data_prep.review.test_study import config  # noqa: F401 - a fixture

ITEM = "toy-0005"


def send(session: ReviewSession, shown: Mapping[str, object], *decisions: tuple[str, str, object]) -> ShownItem:
    rows = [{"field": field, "verdict": verdict, "value": value} for field, verdict, value in decisions]
    return session.decide({"id": ITEM, "digest": shown["digest"], "decisions": rows})


def said(log: ReviewLog) -> list[tuple[str, str, object]]:
    return [(row.field, row.verdict, row.value) for row in log.reviews()]


def test_a_stale_tab_takes_nothing_back(store: Store, log: ReviewLog) -> None:
    ada = ReviewSession(store, log, "ada", sample=None)
    one, two = ada.item({"id": ITEM}), ada.item({"id": ITEM})
    mended = send(ada, one, ("emotion", "mended", "fear"))
    assert "conflict" not in mended
    stale = send(ada, two, ("emotion", "right", None), ("subject", "right", None))
    assert stale["conflict"] == ["emotion"]
    assert stale["decisions"] == {"emotion": {"verdict": "mended", "value": "fear"}}, "what stands is shown"
    assert said(log) == [("emotion", "mended", "fear")], "all or none"
    again = send(ada, stale, ("emotion", "right", None))
    assert "conflict" not in again
    assert said(log)[1:] == [("emotion", "right", None)], "who has seen it may change it"
    # The tab that decided first is stale now, also after an undo elsewhere.
    assert send(ada, mended, ("subject", "wrong", None))["conflict"] == ["emotion"]
    ada.undo({"version": again["version"]})
    assert send(ada, again, ("subject", "wrong", None))["conflict"] == ["emotion"]


def test_another_server_of_the_same_reviewer_is_another_tab(store: Store, log: ReviewLog) -> None:
    here = ReviewSession(store, log, "ada", sample=None)
    with ReviewLog(store.ledger.path, write=True) as other_log:
        there = ReviewSession(store, other_log, "ada", sample=None)
        ben = ReviewSession(store, other_log, "ben", sample=None)
        mine, theirs = here.item({"id": ITEM}), there.item({"id": ITEM})
        send(ben, ben.item({"id": ITEM}), ("subject", "wrong", None))
        assert "conflict" not in send(here, mine, ("subject", "wrong", None)), "another reviewer is no conflict"
        assert send(there, theirs, ("subject", "right", None))["conflict"] == ["subject"]
        assert send(there, theirs, ("record", "wrong", None))["conflict"] == ["subject"], "nor is the whole record discarded"


def test_undo_takes_back_only_what_the_page_has_seen(store: Store, log: ReviewLog) -> None:
    ada = ReviewSession(store, log, "ada", sample=None)
    one = send(ada, ada.item({"id": ITEM}), ("emotion", "mended", "fear"))
    two = send(ada, one, ("subject", "wrong", None))
    assert ada.undo({"version": one["version"]}) == {"undone": None, "conflict": True}
    assert len(log.reviews()) == 2
    assert ada.undo({"version": two["version"]}) == {"undone": ITEM, "fields": ["subject"]}
    for junk in (True, -1, "3", 1.0, [1]):
        with pytest.raises(ReviewError, match="version: found"):
            ada.undo({"version": junk})


@pytest.mark.parametrize("digest", [None, "", 3, "x-1", "{0}", "{0}-", "{0}-x", "{0}--1", "{0}-1-1", "{0}-" + "9" * 5000])
def test_what_is_no_digest_is_refused(store: Store, log: ReviewLog, digest: object) -> None:
    ada = ReviewSession(store, log, "ada", sample=None)
    record = ada.item({"id": ITEM})["digest"].partition("-")[0]
    given = digest.format(record) if isinstance(digest, str) else digest
    with pytest.raises(ReviewError, match=ITEM):
        send(ada, {"digest": given}, ("subject", "wrong", None))
    assert log.reviews() == []


def test_who_gives_no_name_has_one_of_their_own_while_another_is_at_work(tmp_path: Path) -> None:
    with free_name(tmp_path, "first") as one, free_name(tmp_path, "first") as two, free_name(tmp_path, "second") as other:
        assert (one, two, other) == ("first", "first-2", "second")
    with free_name(tmp_path, "first") as again:
        assert again == "first"
    with free_name(tmp_path / "none", "first") as nowhere:
        assert nowhere == "first"


def test_an_answer_of_a_study_is_not_replaced_by_a_page_that_has_not_seen_it(
    store: Store,
    log: ReviewLog,
    config: Path,  # noqa: F811
) -> None:
    session = StudySession(store, log, StudyConfig.load(config), "p1")
    ask = {"position": 0, "question": session.order({})["items"][0]["questions"][0]}
    name = str(ask["question"])
    assert session.answer({**ask, "answer": 1, "shown": {}}) == {"saved": True, "answers": {name: 1}, "version": 1}
    assert session.answer({**ask, "answer": 2, "shown": {}}) == {"saved": False, "answers": {name: 1}, "version": 1}
    assert session.answer({**ask, "answer": 2, "shown": {name: 1}}) == {"saved": True, "answers": {name: 2}, "version": 2}


def test_an_undo_in_a_study_takes_back_only_what_the_page_has_seen(
    store: Store,
    log: ReviewLog,
    config: Path,  # noqa: F811
) -> None:
    session = StudySession(store, log, StudyConfig.load(config), "p1")
    order = session.order({})
    ask: list[dict[str, object]] = [{"position": n, "question": order["items"][n]["questions"][0], "shown": {}} for n in (0, 1)]
    here = session.answer({**ask[0], "answer": 1})
    there = session.answer({**ask[1], "answer": 2})
    assert session.undo({"version": order["version"]}) == {"undone": None, "conflict": True}
    assert session.undo({"version": here["version"]}) == {"undone": None, "conflict": True}
    assert [len(image["answers"]) for image in session.order({})["items"][:2]] == [1, 1]
    assert session.undo({"version": there["version"]}) == {"undone": 1}
    assert session.undo({"version": session.order({})["version"]}) == {"undone": 0}
    with pytest.raises(ReviewError, match="version: found"):
        session.undo({"version": True})
