"""A store with outcomes to review, and how tests decide about its records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data_prep.review.decisions import REQUIRED_FIELDS
from data_prep.review.log import ReviewLog, reviewed_outcomes
from data_prep.review.messages import ShownItem
from data_prep.review.session import ReviewSession
from data_prep.store.store import Store
from emo_lightning.core.records import EMOTIONS, GroundedObject, Record
from tests.data_prep.conftest import item_of, truth


def make_store(root: Path, count: int = 12, human: int = 4) -> Path:
    """A store of toys with outcomes: the first `human` are in the human queue (the very first without any annotation)."""
    with Store(root, write=True) as store:
        toys = [truth(seed) for seed in range(count)]
        store.import_items([item_of(record, data) for record, data in toys])
        rows = []
        for i, (record, _) in enumerate(toys):
            state = "human" if i < human else "valid"
            annotated = record.model_copy(
                update={
                    "objects": []
                    if state == "human"
                    else [*record.objects, GroundedObject(phrase="x", bbox=(1, 2, 9.5, 8), score=0.4)],
                    "emotion_scores": {
                        record.emotion: 0.9,
                        **{e: 0.1 / 7 for e in EMOTIONS if e is not record.emotion},
                    },
                    "confidence": 0.9,
                    "provenance": {"outcome": state, "said": [], "critic": []},
                }
            )
            if i == 0:
                nothing = dict.fromkeys((*REQUIRED_FIELDS, "emotion_scores", "confidence", "intensity_level"))
                annotated = annotated.model_copy(update=nothing)
            rows.append(("INSERT INTO outcomes VALUES (?, ?, 'c', 0, ?)", (record.id, state, annotated.to_json().decode())))
        store.ledger.write_now(*rows)
    return root


def decide(session: ReviewSession, item: str, *decisions: tuple[object, ...]) -> ShownItem:
    """Send decisions as the page does: (field, verdict[, value])."""
    shown = session.item({"id": item})
    rows = [dict(zip(("field", "verdict", "value"), one, strict=False)) for one in decisions]
    return session.decide({"id": item, "digest": shown["digest"], "decisions": rows})


def records(store: Store) -> dict[str, tuple[str, Record]]:
    return {item.id: (o.state, Record.from_json(o.record, item.id)) for item, o in reviewed_outcomes(store.ledger)}


def human(record: Record) -> dict[str, Any]:
    """What a record's provenance says of its review."""
    found = record.provenance["human"]
    assert isinstance(found, dict)
    return found


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(make_store(tmp_path / "s"), write=False) as opened:
        yield opened


@pytest.fixture
def log(store: Store) -> Iterator[ReviewLog]:
    with ReviewLog(store.ledger.path, write=True) as opened:
        yield opened
