"""What people made valid, and subjects that they mended, get boxes and masks like every other record."""

from __future__ import annotations

from pathlib import Path

from data_prep.config import GroundingConfig
from data_prep.export import export_store
from data_prep.export.read import read_records
from data_prep.grounding import ground
from data_prep.review.decisions import REQUIRED_FIELDS
from data_prep.review.log import ReviewLog
from data_prep.review.session import ReviewSession
from data_prep.store.store import Store
from tests.data_prep.review.conftest import decide, human, make_store, records


def test_a_record_that_people_made_valid_is_grounded_and_exported(tmp_path: Path) -> None:
    root = make_store(tmp_path / "s")
    right = [(field, "right") for field in REQUIRED_FIELDS]
    with Store(root, write=True) as store, ReviewLog(store.ledger.path, write=True) as log:
        session = ReviewSession(store, log, "ada", sample=None)
        subject = records(store)["toy-0002"][1].subject
        other = next(s for s in ("dog", "cat", "bird") if s != subject)
        decide(session, "toy-0001", *right)
        decide(session, "toy-0002", *(d for d in right if d[0] != "subject"), ("subject", "mended", other))
        decide(session, "toy-0003", ("record", "wrong"))
        counts = ground(store, GroundingConfig(backend="regions", cut=0.25))
        after = records(store)
        assert [after[f"toy-000{i}"][0] for i in range(4)] == ["human", "valid", "valid", "discarded"]
        (found,) = after["toy-0001"][1].objects
        assert (found.primary, found.bbox) == (True, (4, 4, 20, 24)), "the region that the source ships"
        assert after["toy-0002"][1].subject == other
        assert after["toy-0002"][1].objects == [], "nothing in the image is called so"
        assert after["toy-0003"][1].objects == [], "discarded: not looked at"
        assert counts == {"computed": 10, "grounded": 9, "not_found": 1}
        assert ground(store, GroundingConfig(backend="regions", cut=0.25))["computed"] == 0
    with Store(root, write=False) as store:
        export_store(store, tmp_path / "tars", "toys")
    exported = {record.id: record for record in read_records([str(tmp_path / "tars")])}
    assert len(exported["toy-0001"].objects) == 1
    assert human(exported["toy-0001"])["reviewers"] == 1
    assert "toy-0003" not in exported
